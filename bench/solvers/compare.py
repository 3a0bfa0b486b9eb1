"""`krylearn bench solvers`: which solver for which system on this machine; everybody, timed alike.

Five parts. "tolerance": a few systems, every method, solves in pairs with ours, memory. "rivals": every family and
field case, the rivals that are ever the fastest, on as many ranks or threads as ours. "accuracy": one system to more
and more digits. "sizes": one family on growing grids. "families": iterations of every family and field case. Or, with a
matrix out of a file, every method on that one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case
from rich.console import Group
from rich.live import Live
from rich.table import Table

from ..measure.console import UsageError, console, count, progress, seconds, table
from ..measure.machine import free_bytes
from ..measure.record import Record, append, latest, new_run, read
from ..measure.timers import Ceilings, ceilings
from ..rivals.plugins import installed_rivals, load_system
from ..rivals.table import PEERS, RANKS, Peer, System
from .contest import HEADER, compressed, ours, rival, summary, title

ONE_THREAD = "krylearn 1 thread"  # as wide as the rivals that run on one thread or rank
OWN = {
    "krylearn": None,
    ONE_THREAD: None,
    "krylearn tuned": "tuned",
    "krylearn resistor": "resistor",
    "krylearn geometric": "geometric",
}
BOX = "plain box"  # the transforms' own ground
FIELD = ("stretched_1.3", "layers_1000", "image_130")  # as real codes assemble them: scenes/field_cases.py
EVERYBODY = (*OWN, *PEERS)
FEWEST = ("krylearn", ONE_THREAD, "hypre-pfmg", "hypre-pfmg-ranks", "petsc-boomeramg-ranks")  # also beyond 128^3
FEW = (*FEWEST, "amgcl", "pyamg-rs", "scipy-cg-jacobi")
FASTEST = (
    "krylearn", "hypre-pfmg-ranks", "hypre-pfmg-jacobi-ranks", "petsc-boomeramg-ranks", "amgcl", "pyamg-rs",
    "transforms",
)  # fmt: skip
# of one iteration per cell: fused CG in fp64 (15 words, and 3 of the cycle) and the fp32 cycle (kernels/cpu/cycle.py)
BYTES_PER_ITERATION = 15 * 8 + 3 * 4 + 188


# bytes per unknown of set-up and solve beyond the matrix: estimates on the safe side; of everybody else 2,000
BYTES_OF_RIVALS = {
    "scipy-cg": 50, "scipy-cg-jacobi": 60, "hypre-pfmg": 700, "hypre-pfmg-jacobi": 700, "petsc-pcmg": 900,
    "transforms": 100,
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A system of a contest; `A` is None for a matrix outside our class, and `absence` says why."""

    name: str
    system: System
    b: np.ndarray  # over the rows of the matrix
    shape: tuple[int, ...] = ()
    seed: int | None = None
    ours: np.ndarray | None = None  # the right-hand side as A wants it
    absence: str = ""


@dataclass(frozen=True)
class Job:
    """Some methods on one scene, each with so many seconds for the first solve, and for all pairs."""

    part: str
    family: str
    size: int
    methods: tuple[str, ...]
    pairs: int
    time_limit: float = 15.0
    rtol: float | None = None  # None: that of the whole run


def jobs(quick: bool, added: tuple[str, ...] = ()) -> list[Job]:
    """List what is measured; `added` names rivals of the user's own, who take part wherever systems are compared.

    Examples
    --------
    >>> sorted({job.part for job in jobs(quick=True)})
    ['accuracy', 'families', 'sizes', 'tolerance']
    """
    families = (BOX, "free_surface", "lognormal", *(() if quick else ("mazes", *FIELD)))
    sizes = (12, 16, 24, 32, 40) if quick else (16, 32, 64, 96, 128, 192, 256)
    iterations = (*(own for own in OWN if own != ONE_THREAD), "pyamg-sa", "pyamg-rs", "scipy-cg")
    limit = 10.0 if quick else 15.0  # seconds: the full run takes a quarter of an hour
    everybody = (*EVERYBODY, *added)
    contests = [Job("tolerance", f, 32 if quick else 96, everybody, 2 if quick else 3, limit) for f in families]
    if not quick:  # where factorisations can take part
        contests.append(Job("tolerance", "obstacles", 48, everybody, 3, limit))
    growth = [Job("sizes", "free_surface", size, FEW if size <= 128 else FEWEST, 2, limit) for size in sizes]
    digits = (1e-3, 1e-6) if quick else (1e-3, 1e-6, 1e-9, 1e-12)
    accuracy = [Job("accuracy", "free_surface", 24 if quick else 64, FEW, 2, limit, rtol) for rtol in digits]
    known = (*FAMILIES,) if quick else (*FAMILIES, *FIELD_CASES)
    every = [Job("families", family, 16 if quick else 48, iterations, 1, 5.0) for family in known]
    races = [] if quick else [Job("rivals", family, 64, (*FASTEST, *added), 3, 8.0) for family in known]
    return races + contests + accuracy + growth + every  # what README shows comes first: --minutes may end it


def scene_problem(family: str, size: int, seed: int = 0) -> Problem:
    """Make the problem of a scene of the test stream, white right-hand side; BOX is a plain box with Dirichlet sides.

    A field case (`krylearn.pde.scenes.field_cases`) is a family too.

    Examples
    --------
    >>> scene_problem(BOX, 6).system.matrix.shape
    (216, 216)
    """
    shape = (size,) * 3
    if family == BOX:
        A = Poisson.from_coefficients(np.ones(shape))
    else:
        A = field_case(family, shape, seed) if family in FIELD_CASES else scene(family, shape, seed)
    b = right_hand_side(A, "white", seed).numpy()
    matrix, rhs, _ = compressed(A, b)
    return Problem(family, System(matrix, A), rhs, A.grid_shape, seed, b)


def system_problem(path: Path) -> Problem:
    """Make the problem of somebody's `system()`: a `Poisson` operator is for everybody, another matrix for rivals.

    Raises
    ------
    UsageError
        If the file cannot be run, or its matrix is not symmetric.
    """
    operator, b = load_system(path)
    if isinstance(operator, Poisson):
        b = np.asarray(b, dtype=np.float64)
        matrix, rhs, _ = compressed(operator, b)
        return Problem(path.stem, System(matrix, operator), rhs, operator.grid_shape, None, b)
    matrix = sp.csr_array(operator).astype(np.float64)
    if abs(matrix - matrix.T).max() > 1e-10 * abs(matrix).max():
        raise UsageError(f"the matrix of {path} is not symmetric; expected a symmetric positive (semi)definite one")
    rhs = np.asarray(b, dtype=np.float64).ravel()
    return Problem(
        path.stem, System(matrix), rhs, matrix.shape, None, None, "krylearn needs the grid: return a Poisson"
    )


def measure(
    problem: Problem,
    methods: Sequence[str],
    *,
    rtol: float,
    pairs: int,
    device: str = "cpu",
    memory: bool = False,
    time_limit: float = 30.0,
    peers: Mapping[str, Peer] = PEERS,
) -> Iterator[Record]:
    """Yield one record per method; ours comes first, and rivals, found in `peers`, are timed in pairs with it.

    Examples
    --------
    >>> found = measure(scene_problem(BOX, 6), ["krylearn geometric", "transforms"], rtol=1e-6, pairs=1)
    >>> [record.status for record in found]
    ['CONVERGED', 'CONVERGED']
    """
    solve, A = None, problem.system.A
    options: dict[str, Any]
    common: dict[str, Any] = {"problem": problem.name, "seed": problem.seed, "experiment": "solvers"}
    for name in methods:
        facts = dict(common)
        if name not in OWN and not peers[name].absent and (reason := lack_of_memory(name, problem.system)):
            facts |= {"unknowns": problem.system.matrix.shape[0], "tolerance": rtol, "shape": problem.shape}
            yield Record(name, status="UNSUITED", config=peers[name].config, more={"reason": reason}, **facts)
        elif name not in OWN:
            options = {"rtol": rtol, "pairs": pairs, "shape": problem.shape, "time_limit": time_limit}
            yield rival(peers[name], problem.system, problem.b, solve, **options, **facts)
        elif A is None:
            yield Record(
                name, unknowns=problem.system.matrix.shape[0], tolerance=rtol, status="UNSUITED", shape=problem.shape,
                more={"reason": problem.absence}, **facts,
            )  # fmt: skip
        else:
            options = {"weights": OWN[name], "device": device, "memory": memory}
            with limited_width(1 if name == ONE_THREAD else None):
                record, own = ours(A, problem.ours, rtol=rtol, repeats=max(pairs, 2), **options, **facts)
            record.method, record.threads = name, 1 if name == ONE_THREAD else 0
            if name == "krylearn" and device == "cpu":
                solve = own
            yield record


def lack_of_memory(method: str, system: System) -> str:
    """Say that a rival would not fit into the memory that is free, before the system ends this process; else "".

    Examples
    --------
    >>> lack_of_memory("scipy-cg", System(sp.csr_array(np.eye(3))))
    ''
    """
    needs = system.matrix.shape[0] * BYTES_OF_RIVALS.get(method.removesuffix(RANKS), 2000)
    free = free_bytes()
    if free is None or needs < 0.9 * free:
        return ""
    return f"needs about {needs / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free"


@contextmanager
def limited_width(threads: int | None) -> Iterator[None]:
    """Run our kernels with so many threads; None changes nothing.

    Examples
    --------
    >>> import numba
    >>> with limited_width(1):
    ...     numba.get_num_threads()
    1
    """
    if threads is None:
        yield
        return
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def finished(record: Record, part: str, run: str, limits: Ceilings, A: Poisson | None) -> Record:
    """Add what belongs to the run; for our solves also the bytes moved, and so the fraction of the roofline."""
    record.more |= {"part": part, "run": run, "ceilings": limits.facts()}
    if record.method in OWN and record.solve_s and record.iterations and A is not None:
        moved = BYTES_PER_ITERATION * (record.products or 0) * A.unknown.numel()
        record.more |= {"bytes": int(moved), "roofline": float(f"{limits.fraction(moved, record.solve_s):.3g}")}
    return record


def live_table(title: str) -> Table:
    """Start the table that grows while the benchmark runs."""
    return table(title, ("part", "system", "method", "set-up", "solve", "iterations", "status"), [])


def live_row(record: Record) -> list[str]:
    """Write one record as a row of the growing table.

    Examples
    --------
    >>> live_row(Record("cg", "box", 8, 1e-6, "ABSENT", shape=(2, 2, 2), more={"part": "sizes"}))
    ['sizes', 'box 2 x 2 x 2', 'cg', '-', '-', '-', 'absent']
    """
    where = f"{record.problem} {' x '.join(map(str, record.shape))}"
    times = [seconds(record.setup_s), seconds(record.solve_s), count(record.iterations)]
    return [record.more["part"], where, record.method, *times, record.status.lower()]


def run_solvers(
    *,
    quick: bool = False,
    device: str = "cpu",
    rtol: float = 1e-6,
    problem: Problem | None = None,
    more: Sequence[Peer] = (),
    minutes: float | None = None,
    resume: bool = False,
    output: Path,
) -> list[Record]:
    """Measure, show a live table, append the records, print the tables of the contests.

    Parameters
    ----------
    quick : small grids: a minute on two cores
    device : of our solves; rivals run where they can
    rtol : tolerance on the true relative residual
    problem : the one system to measure, instead of scenes
    minutes : no further system is begun after so many; one is in any case
    resume : go on with the last run of `output`: what is recorded there is not measured again
    more : rivals beside our table's: a user's own; those that installed packages offer come by themselves
    output : file of records

    Examples
    --------
    >>> run_solvers(quick=True, output=Path("solvers.jsonl"))           # doctest: +SKIP
    """
    added = installed_rivals() | {peer.name: peer for peer in more}
    peers, everybody = PEERS | added, (*EVERYBODY, *added)
    todo = [Job("file", problem.name, 0, everybody, 3, 120.0)] if problem else jobs(quick, tuple(added))
    records: list[Record] = []
    before = latest(read(output)) if resume else []
    run, limits, grown = new_run(), ceilings(device), live_table("everybody, as measured")
    if before:
        run, todo = before[0]["more"]["run"], [job for job in todo if not is_recorded(job, rtol, before)]
    start, begun = time.monotonic(), 0
    bar = progress()
    task = bar.add_task("solvers", total=sum(len(job.methods) for job in todo), note="")
    with Live(Group(grown, bar), console=console, refresh_per_second=2, vertical_overflow="visible"):
        for job in todo:
            if begun and minutes is not None and time.monotonic() - start > 60 * minutes:
                break
            begun += 1
            one = problem or scene_problem(job.family, job.size)
            memory = job.part in ("tolerance", "file")
            facts: dict[str, Any] = {"pairs": job.pairs, "device": device, "time_limit": job.time_limit, "peers": peers}
            done = len(records)
            for record in measure(one, job.methods, rtol=job.rtol or rtol, memory=memory, **facts):
                records.append(finished(record, job.part, run, limits, one.system.A))
                if job.part != "families":
                    grown.add_row(*live_row(record))
                bar.update(task, advance=1, note=f"{job.family} {job.size}: {record.method}")
            append(output, records[done:])  # what is measured is kept, whatever happens later
    show(records)
    if begun < len(todo):
        console.print(f"{len(todo) - begun} of {len(todo)} systems were not begun: --resume goes on with them")
    console.print(f"copy {limits.copy_gbs:.1f} GB/s, launch {limits.launch_us:.1f} us; records: {output}")
    return records


def is_recorded(job: Job, rtol: float, lines: Sequence[dict[str, Any]]) -> bool:
    """Tell whether every method of a job has its line in a run.

    Examples
    --------
    >>> is_recorded(Job("sizes", "mazes", 8, ("krylearn",), 1), 1e-6, [])
    False
    """
    tolerance = job.rtol or rtol
    found = {
        x["method"] for x in lines
        if (x["more"].get("part"), x["problem"], x["tolerance"]) == (job.part, job.family, tolerance)
        and x.get("shape", [0])[0] == job.size
    }  # fmt: skip
    return set(job.methods) <= found


def show(records: Sequence[Record]) -> None:
    """Print one table per contest, and why who is missing."""
    lines = [record.line() for record in records if record.more["part"] in ("tolerance", "file")]
    for problem in dict.fromkeys(line["problem"] for line in lines):
        found = [line for line in lines if line["problem"] == problem]
        console.print(table(title(found), HEADER, summary(found)))
    for reason, methods in missing(records).items():
        console.print(f"{', '.join(methods)}: {reason}")


def missing(records: Sequence[Record]) -> dict[str, list[str]]:
    """Group the methods that were not measured by the reason, so that each is said once.

    Examples
    --------
    >>> off = [Record(m, "box", 8, 1e-6, "UNSUITED", more={"reason": "no grid"}) for m in ("krylearn", "transforms")]
    >>> missing(off)
    {'no grid': ['krylearn', 'transforms']}
    """
    found: dict[str, list[str]] = {}
    for r in records:
        if r.status in ("ABSENT", "UNSUITED", "FAILED"):
            reason = r.config.removeprefix(f"{r.method} is ") if r.status == "ABSENT" else str(r.more.get("reason"))
            methods = found.setdefault(reason, [])
            methods += [r.method] * (r.method not in methods)
    return found
