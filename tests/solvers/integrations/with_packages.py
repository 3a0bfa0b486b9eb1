"""Run these tests with the real packages: an environment of its own beside this one's packages, deleted afterwards.

python tests/solvers/integrations/with_packages.py [arguments of pytest]

A package that cannot be installed is reported as not run; its tests skip. KEEP=1 keeps the environment.
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
MINUTES = 15
# one environment serves all of them; torch and the rest of krylearn's own packages are those of the calling one
PACKAGES = (
    "scikit-image", "simpeg discretize pymatsolver", "fipy", "taufactor", "phiflow", "flopy", "py-pde", "xinvert",
    "openpnm", "porespy", "transformers accelerate",
)  # fmt: skip


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
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *names.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def main() -> int:
    """Install, test, delete; the exit code is pytest's."""
    start = time.monotonic()
    try:
        python, absent = make_environment(), []
        if install(python, " ".join(PACKAGES)):  # all at once is quicker; one by one tells which
            for names in PACKAGES:
                complaint = install(python, names)
                if complaint:
                    absent.append(f"{names}: {complaint}")
        print(f"environment after {time.monotonic() - start:.0f} s")
        if len(absent) == len(PACKAGES):
            print(f"NOT RUN: no package could be installed ({absent[0]})")
            return 77
        left = MINUTES * 60 - (time.monotonic() - start)
        command = [python, "-m", "pytest", "-q", str(HERE), str(TRAINING), str(PAGES), *sys.argv[1:]]
        for line in absent:
            print(f"not run, could not be installed: {line}")
        try:
            return subprocess.run(
                command, cwd=ROOT, timeout=max(left, 60), env=os.environ | {"MPLBACKEND": "Agg"}
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"FAILED: not done after {MINUTES} minutes, installation included")
            return 1
    finally:
        if not os.environ.get("KEEP"):
            shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
