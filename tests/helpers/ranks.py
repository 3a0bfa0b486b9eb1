"""Run a program on several MPI ranks, for tests that compare what comes out with one process."""

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "solvers" / "distributed"


def missing():
    """What is absent, in words, or an empty string."""
    absent = [name for name in ("petsc4py", "mpi4py") if importlib.util.find_spec(name) is None]
    absent += [] if shutil.which("mpirun") else ["mpirun"]
    return f"needs {', '.join(absent)}: make test-distributed" if absent else ""


needs_petsc = pytest.mark.skipif(bool(missing()), reason=missing() or "PETSc is there")


def command(ranks, program, *arguments):
    """mpirun's command line; `-m mpi4py` makes an exception on one rank end all of them."""
    path = program if str(program).startswith("-") else PROGRAMS / program
    launcher = ["mpirun", "-n", str(ranks), "--oversubscribe", "--allow-run-as-root"]
    return [*launcher, sys.executable, "-m", "mpi4py", str(path), *map(str, arguments)]


def run_ranks(ranks, program, *arguments, timeout=540, check=True, environment=None):
    """Run, and return the finished process; a run that hangs is ended with all its ranks.

    KRYLEARN_RANKS_TIMEOUT : seconds instead of `timeout`, for a machine that has other work
    """
    timeout = float(os.environ.get("KRYLEARN_RANKS_TIMEOUT", timeout))
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    threads["KRYLEARN_WAIT_FOR_KERNELS"] = "1"  # the solves to compare with are those of the kernels
    process = subprocess.Popen(
        command(ranks, program, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **threads, **(environment or {})},
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
        out, errors = process.communicate()
        raise AssertionError(f"{program} on {ranks} ranks: no end within {timeout} s\n{out}\n{errors}") from None
    if check:
        assert process.returncode == 0, f"{program} on {ranks} ranks: exit code {process.returncode}\n{out}\n{errors}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def end_session(session):
    """Kill mpirun and its ranks: each rank is a group of its own, but all are of one session (Linux)."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(folder.name)) == session:
                os.kill(int(folder.name), signal.SIGKILL)


def json_lines(done):
    """What a finished program has printed, one JSON object per line."""
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def lines_of(ranks, program, *arguments, **options):
    """What a program prints, one JSON object per line."""
    done = run_ranks(ranks, program, *arguments, **options)
    lines = json_lines(done)
    assert lines, f"{program} on {ranks} ranks ended without output\n{done.stderr}"
    return lines


@functools.cache
def run_cases():
    """What all modules of cases say on 1 to 8 ranks, by number of ranks and module: one launch serves all tests."""
    modules = ("iterations_cases", "builders_cases", "plugin_cases", "pieces_cases")
    few = {"PETSC_OPTIONS": "-krylearn_gather 500"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        done = run_ranks(8, "cases_program.py", folder, *modules, environment=few)
        for file in Path(folder).iterdir():
            by_module = found.setdefault(int(file.stem), {})
            for line in map(json.loads, file.read_text().splitlines()):
                by_module.setdefault(line.pop("module"), []).append(line)
    assert sorted(found) == [1, 2, 3, 4, 8], f"{sorted(found)} ranks have said something\n{done.stdout}\n{done.stderr}"
    return found


FAILED = []


def cases_of(ranks):
    """The lines of all modules of cases on so many ranks, by module."""
    assert not FAILED, f"the launch has failed before: {FAILED[0]}"
    try:
        return run_cases()[ranks]
    except AssertionError as error:
        FAILED.append(str(error).splitlines()[0])
        raise
