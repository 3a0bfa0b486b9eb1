"""Run a subset of the tests under other Pythons, and with the lowest and the newest dependencies.

python tests/with_versions.py [3.12 3.13 lowest newest]

Each set gets an environment of its own, one after the other, deleted afterwards (KEEP=1 keeps them). What cannot be
tested for reasons outside the project (no such interpreter, no room, no way to a package) is reported as not run; a
set that pip cannot solve, and a test that fails, fail. The lowest set is every direct dependency at the floor that
pyproject.toml states, without the extra [cuda].
"""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "versions"
SETS = ("lowest", "newest", "3.12", "3.13")
GIGABYTES = 12  # an environment with a CUDA build of torch takes 7, pip unpacks beside it
INSTALL_MINUTES, TEST_MINUTES = 6, 8  # the tests take less than five on two idle cores
EXTRAS = ("train", "bench", "test")
NOT_PINNED = ("krylearn", "triton")
SUBSET = (
    "tests/pde/poisson", "tests/pde/test_transforms.py",
    "tests/solvers/test_lanczos.py", "tests/solvers/test_interop.py",
    "tests/solvers/krylov/test_scipy_signature.py", "tests/solvers/krylov/test_callers_system.py",
    "tests/solvers/krylov/test_reasons.py", "tests/solvers/multigrid/test_weight_files.py",
    "tests/solvers/multigrid/test_iteration_counts.py", "tests/solvers/front_door/test_calls.py",
    "tests/optim/curvature/test_factories.py", "tests/optim/spectra", "tests/optim/tuner/test_checkpoint.py",
    "tests/optim/callbacks/test_callbacks.py", "tests/bench/measure", "tests/bench/report/test_html.py",
)  # fmt: skip

# of the lowest set: pins hold with the versions of constraints.txt (here 21 iterations, not 19), and that safetensors
# cannot write the file that the other test wants refused
LEFT_OUT = (
    "tests/solvers/multigrid/test_iteration_counts.py::test_iterations_are_as_pinned[inclusions-2d]",
    "tests/solvers/multigrid/test_weight_files.py::test_other_files_are_refused_with_a_remedy[complex]",
)


class NotRunError(Exception):
    """A reason outside the project."""


def find_python(version: str) -> str:
    """Return an interpreter of this version, on the path or among pyenv's; one that starts, and has venv."""
    if version == ".".join(map(str, sys.version_info[:2])):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    test = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for python in filter(None, found):
        # a launcher of a version manager may be there without the version behind it
        done = subprocess.run([python, "-c", test], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() == version:
            return str(python)
    raise NotRunError(f"no interpreter python{version} with venv was found")


def lowest_set() -> list[str]:
    """Pin every direct dependency to the floor in pyproject.toml.

    >>> "numpy==1.26" in lowest_set() or lowest_set()[0].startswith("torch==")
    True
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])]
    pins = []
    for requirement in stated:
        name, _, rest = requirement.partition(">=")
        if re.split(r"[\[;]", name)[0] not in NOT_PINNED:
            pins.append(f"{name}=={re.split(r'[,; ]', rest)[0]}")
    return pins


def requirements_of(name: str) -> list[str]:
    """Return what pip is asked for: the floors, everything as new as it comes, or what the Makefile installs."""
    if name == "lowest":
        return ["--editable", ".", *lowest_set()]
    newest = ["--editable", ".[test]"]
    return ["--upgrade", *newest] if name == "newest" else ["--constraint", "constraints.txt", *newest]


def install(name: str, python: str, folder: Path) -> str:
    """Make the environment and return its interpreter."""
    if shutil.disk_usage(ROOT).free < GIGABYTES * 1e9:
        raise NotRunError(f"less than {GIGABYTES} GB of disk are free")
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
    inside = str(folder / "bin" / "python")
    command = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    try:
        done = subprocess.run(
            [*command, *requirements_of(name)], cwd=ROOT, capture_output=True, text=True, timeout=60 * INSTALL_MINUTES
        )
    except subprocess.TimeoutExpired as late:
        raise NotRunError(f"packages were not there after {INSTALL_MINUTES} minutes") from late
    if done.returncode:
        print(done.stderr[-3000:])
        if "ResolutionImpossible" in done.stderr or re.search(r"from versions: (?!none)", done.stderr):
            raise RuntimeError("pip cannot solve this set")
        raise NotRunError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    return inside


def run_set(name: str) -> str:
    """Install, test, delete; return a sentence for the report."""
    start, folder = time.monotonic(), FOLDER / name
    try:
        own = ".".join(map(str, sys.version_info[:2]))
        inside = install(name, find_python(name if name[0].isdigit() else own), folder)
        installed = time.monotonic()
        environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "numba"), "OMP_WAIT_POLICY": "passive"}
        environment.pop("PYTHONPATH", None)
        # old packages warn of what has been mended since; new ones of what is to come, and that we want to know
        lenient = ["-W", "default", *(f"--deselect={test}" for test in LEFT_OUT)] if name == "lowest" else []
        command = [inside, "-m", "pytest", "-q", "-m", "not slow and not browser and not gpu", *lenient, *SUBSET]
        try:
            code = subprocess.run(command, cwd=ROOT, env=environment, timeout=60 * TEST_MINUTES).returncode
        except subprocess.TimeoutExpired:
            return f"FAILED: not done after {TEST_MINUTES} minutes"
        took = f"installed in {installed - start:.0f} s, tested in {time.monotonic() - installed:.0f} s"
        return f"passed, {took}" if code == 0 else f"FAILED: pytest returned {code}, {took}"
    except NotRunError as reason:
        return f"not run: {reason}"
    except RuntimeError as fault:
        return f"FAILED: {fault}"
    finally:
        if not os.environ.get("KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


def main(names: list[str]) -> int:
    """Test the sets in turn; 0 if all that could be tested passed, 77 if none could be tested, else 1."""
    outcomes = {}
    for name in names or SETS:
        print(f"== {name}", flush=True)
        outcomes[name] = run_set(name)
    print()
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    if any(outcome.startswith("FAILED") for outcome in outcomes.values()):
        return 1
    if all(outcome.startswith("not run") for outcome in outcomes.values()):
        print(f"NOT RUN: {'; '.join(f'{name}: {outcome[9:]}' for name, outcome in outcomes.items())}")
        return 77
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
