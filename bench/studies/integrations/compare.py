"""`krylearn study integrations`: other packages with their default, with their fastest own mode, and with our solver.

Every method gets the loosest of its tolerances with which the quantity that the user wants is right to the system's
accuracy; recognition of the matrix and set-up are part of ours. One thread each, processor time rather than time on the
wall, so that other work on the machine does not count. Each package runs in a process of its own, in the environment
that `make test-integrations` builds (`python tests/solvers/integrations/with_packages.py study`).
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.solvers.integrations.scipy_functions import forget_matrices

from ...measure.console import UsageError, console, progress, table
from ...measure.machine import version_of
from ...measure.record import Record, append, new_run
from .cases import CASES, LIMIT, Entrant, System
from .table import HEADER, rows

MARK = "record: "  # begins a child's lines that are records
SHORT = 0.5  # seconds below which a run is repeated
REPEATS = 3
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "NUMBA", "OPENBLAS", "MKL")}


def time_once(entrant: Entrant, tolerance: Any) -> tuple[Any, float]:
    """Return answer and processor seconds, of the part that counts.

    Examples
    --------
    >>> time_once(Entrant("ours", "constant", lambda tol: (3.0, 0.25)), 1e-2)
    (3.0, 0.25)
    """
    forget_matrices()  # recognition and set-up count each time
    start = time.process_time()
    found = entrant.run(tolerance)
    seconds = time.process_time() - start
    return found if isinstance(found, tuple) else (found, seconds)


def run_limited(entrant: Entrant, tolerance: Any, limit: float = LIMIT) -> tuple[Any, float] | None:
    """Return what `time_once` does, from a child process; None if that was stopped after `limit` processor seconds.

    Examples
    --------
    >>> run_limited(Entrant("default", "constant", lambda tol: (3.0, 0.25)), None)
    (3.0, 0.25)
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:  # nothing of this process's own may run at its end: neither exit handlers nor tests
        os.close(read)
        try:
            used = int(time.process_time() + limit)
            resource.setrlimit(resource.RLIMIT_CPU, (used, used))
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(time_once(entrant, tolerance), pipe)
        except BaseException:
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        found = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if status:
        raise RuntimeError(f"{entrant.name} failed in a process of its own")
    answer: tuple[Any, float] = pickle.loads(found)
    return answer


def measure(system: System, entrant: Entrant, package: str, limit: float = LIMIT) -> Record:
    """Find the loosest tolerance that is accurate enough, and time it.

    Examples
    --------
    >>> exact = System("none", "one half", (2,), 1, "whole call", "x", lambda x: abs(x - 0.5), 1e-4)
    >>> found = measure(exact, Entrant("ours", "guess", lambda tol: 0.5 + tol / 20), "numpy")
    >>> found.status, found.more["asked"], found.repeats
    ('CONVERGED', 0.001, 4)
    """
    asked, error, seconds, fault = None, float("inf"), [], ""
    stopped = False
    for asked in entrant.ladder:
        try:
            result = run_limited(entrant, asked, limit) if entrant.limited else time_once(entrant, asked)
            if result is None:
                stopped = True
                break
            answer, took = result
        except Exception as raised:  # a package's own failure is a result
            fault = f"{type(raised).__name__}: {raised}".splitlines()[0][:200]
            print(traceback.format_exc(), file=sys.stderr)
            continue
        error, seconds = float(system.error(answer)), [took]
        if error <= system.accuracy:
            break
    again = seconds and (seconds[0] < SHORT or entrant.role == "ours") and not entrant.limited  # ours may have compiled
    if error <= system.accuracy and again:
        seconds += [time_once(entrant, asked)[1] for _ in range(REPEATS)]
    facts = {"package": system.package, "role": entrant.role, "lines": system.lines, "part": system.part}
    facts |= {"quantity": system.quantity, "error": error, "asked": asked, "fault": fault, "clock": "processor"}
    if stopped:
        facts["stopped_after"] = limit
    return Record(
        entrant.name, system.name, int(np.prod(system.shape)), system.accuracy,
        "CONVERGED" if error <= system.accuracy else "TIMEOUT" if stopped else "FAILED", experiment="integrations",
        version=version_of(package) or "", shape=system.shape, solve_s=min(seconds, default=None),
        repeats=len(seconds), more=facts,
    )  # fmt: skip


def measure_package(package: str, limit: float = LIMIT) -> None:
    """Measure all systems of a package in this process, and print the records."""
    warnings.simplefilter("ignore")
    for system in CASES[package][1]():
        for entrant in system.entrants:
            print(MARK + json.dumps(vars(measure(system, entrant, package, limit)), default=float), flush=True)


def measure_apart(package: str, limit: float = LIMIT) -> tuple[list[Record], str]:
    """Measure a package in a process of its own; return records and what went wrong.

    Examples
    --------
    >>> measure_apart("scipy")                                          # doctest: +SKIP
    """
    call = f"measure_package({package!r}, {limit})"
    code = f"from krylearn.bench.studies.integrations.compare import measure_package; {call}"
    with tempfile.TemporaryDirectory() as folder:  # this repository's folder `pde` would hide the package py-pde
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=os.environ | ONE_THREAD, capture_output=True, text=True
        )
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    records = [Record(**(json.loads(line) | {"shape": tuple(json.loads(line)["shape"])})) for line in lines]
    return records, done.stderr.strip().splitlines()[-1] if done.returncode else ""


def run_integrations(
    packages: Sequence[str] | None = None, *, jobs: int = 1, limit: float = LIMIT, output: Path
) -> list[Record]:
    """Measure every package that is installed, append the records, print the table.

    jobs : packages at the same time;  limit : processor seconds of a direct method on a large grid

    Raises
    ------
    UsageError
        for an unknown name

    Examples
    --------
    >>> run_integrations(["fipy"], output=Path("integrations.jsonl"))   # doctest: +SKIP
    """
    unknown = set(packages or ()) - set(CASES)
    if unknown:
        raise UsageError(f"got packages {', '.join(sorted(unknown))}; expected some of {', '.join(CASES)}")
    import numba

    numba.set_num_threads(1)  # what the records say of this process is true of those that measure
    run, records = new_run(), []
    chosen = [package for package in packages or CASES if find_spec(CASES[package][0]) is not None]
    absent = sorted(set(packages or CASES) - set(chosen))
    if absent:
        console.print(f"not run, not installed: {', '.join(absent)}")
    with progress() as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task("integrations", total=len(chosen), note=", ".join(chosen))
        for package, (found, fault) in zip(
            chosen, pool.map(lambda package: measure_apart(package, limit), chosen), strict=True
        ):
            for record in found:
                record.more["run"] = run
            append(output, found)
            records += found
            if fault:
                console.print(f"{package}: {fault}", markup=False)
            bar.advance(task)
    console.print(table("packages", HEADER, rows([record.line() for record in records])))
    return records
