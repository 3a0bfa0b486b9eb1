"""Run these tests with the real packages: an environment of its own beside this one's packages, deleted afterwards.

python tests/solvers/integrations/with_packages.py [arguments of pytest]
python tests/solvers/integrations/with_packages.py study [arguments of krylearn study integrations]

A package that cannot be installed is reported as not run; its tests skip. KEEP=1 keeps the environment, MINUTES=30
gives it more time.
"""

import os
import shutil
import site
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TRAINING = ROOT / "tests" / "optim" / "integrations"  # the tuner in other people's loops
PAGES = ROOT / "tests" / "optim" / "tuner" / "test_pages.py"
FOLDER = ROOT / "build" / "integrations"
MINUTES = float(os.environ.get("MINUTES", "15"))  # more on a busy machine
# One environment serves all of them; torch and the rest of krylearn's own packages are those of the calling one. Their
# other needs are named here, without what is not imported in these tests: pip's own choice, with MKL, web servers and
# notebooks, is three times as large and takes ten times as long to resolve.
PACKAGES = (
    "scikit-image imageio lazy-loader tifffile",
    "simpeg>=0.25 discretize pymatsolver geoana libdlf",
    "fipy",
    "taufactor ipython jedi matplotlib-inline pexpect prompt_toolkit stack_data traitlets pure_eval asttokens executing"
    " parso ptyprocess wcwidth ipython_pygments_lexers decorator",
    "phiflow phiml",
    "findiff",
    "scikit-fem",
    "fidelior",
    "flopy pandas",
    "py-pde h5py",
    "xinvert xarray dask toolz partd locket click cloudpickle importlib-metadata zipp",
    "openpnm docrep chemicals fluids thermo transforms3d jsonschema jsonschema-specifications referencing rpds-py six"
    " pyevtk wrapt deprecated",
    "porespy edt psutil lazy_importer pyvista pyvista-validation vtk scooby connected-components-3d pooch platformdirs",
)
WITH_NEEDS = ("transformers accelerate",)  # installed with whatever they ask for


def make_environment() -> str:
    """Create it, with this interpreter's packages visible behind its own; return its interpreter."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER, with_pip=True)
    (packages,) = FOLDER.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({place!r})" for place in site.getsitepackages()]
    (packages / "_krylearn_shared.pth").write_text("\n".join(lines) + "\n")
    return str(FOLDER / "bin" / "python")


def install(python: str, names: str) -> str:
    """Return "" or the last line of pip's complaint."""
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    if names not in WITH_NEEDS:
        options.append("--no-deps")
    command = [python, "-m", "pip", "install", *options, *names.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def complain(names: str, complaint: str) -> list[str]:
    """Return nothing, or one line."""
    return [f"{names}: {complaint}"] if complaint else []


def main() -> int:
    """Install, test or measure, delete; the exit code is that of what ran."""
    start = time.monotonic()
    try:
        python, absent = make_environment(), []
        if install(python, " ".join(PACKAGES)):  # all at once is quicker; one by one tells which
            for names in PACKAGES:
                absent += complain(names, install(python, names))
        for names in WITH_NEEDS:
            absent += complain(names, install(python, names))
        size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) / 1e9
        print(f"environment after {time.monotonic() - start:.0f} s, {size:.1f} GB", flush=True)
        if len(absent) == len(PACKAGES) + len(WITH_NEEDS):
            print(f"NOT RUN: no package could be installed ({absent[0]})")
            return 77
        left = MINUTES * 60 - (time.monotonic() - start)
        command = [python, "-m", "pytest", "-q", str(HERE), str(TRAINING), str(PAGES), *sys.argv[1:]]
        if sys.argv[1:2] == ["study"]:
            command, left = [python, "-m", "krylearn.bench.cli", "study", "integrations", *sys.argv[2:]], 3600.0
        for line in absent:
            print(f"not run, could not be installed: {line}")
        try:
            return subprocess.run(
                command, cwd=ROOT, timeout=max(left, 60), env=os.environ | {"MPLBACKEND": "Agg"}
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"FAILED: not done after {MINUTES:g} minutes, installation included")
            return 1
    finally:
        if not os.environ.get("KEEP"):
            shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
