"""`krylearn bench cuda`: every check and benchmark of the CUDA kernels in one go, within a time limit.

First each kernel against the reference, then sizes upwards: two families, two tolerances, the learned cycle, the
classical cycle and plain CG in the same kernels, CuPy's cg where it is installed. What does not fit into memory or time
is recorded as left out, what raises with its trace, and each line is written at once. With `interpret` the same code
runs to its end on a CPU, and no time is kept: Triton's interpreter says nothing about the speed of a device.
"""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg

from ..measure.console import UsageError, console, count, seconds, table
from ..measure.machine import version_of
from ..measure.record import Record, append, new_run
from ..measure.timers import Ceilings, ceilings, peak_bytes, timer_for
from ..measure.timing import iterations_to, timed
from ..rivals.table import PEERS
from ..show.markdown import markdown
from .contest import theirs
from .cuda_checks import SHAPES, check, check_solve, systems

INTERPRETED = ((7, 5, 6), (13, 11))  # shapes of the checks in the interpreter
SIZES = (128, 256, 384, 512)
FAMILIES = ("free_surface", "lognormal")
TOLERANCES = (1e-6, 1e-10)
METHODS: dict[str, Any] = {"krylearn": None, "krylearn-tuned": "tuned", "krylearn-geometric": "geometric", "cg": "none"}
LOOKS = {"cg": 25}  # iterations between two looks at the residual; 1 for the others, whose iterations are long
BRIEF = ("krylearn", "krylearn-geometric", "cg")  # what the interpreter runs, to the first tolerance
OPERATOR = 110  # bytes per cell of an fp64 operator, its right-hand side and the solution
CUPY_MOST = 256  # cells per axis up to which the assembled matrix is built for CuPy, and plain CG is run
HEADER = ("method", "rtol", "set-up", "solve", "steps", "ns", "copy", "syncs", "B")
CAPTION = "ns per unknown; fraction of the copy's bandwidth; waits of the host; bytes kept per cell"
TRACE = 4000  # characters of an exception's trace that a record keeps
CHECKS_HEADER = ("system", "kernel", "error", "tolerance", "")
UNMEASURED = "Nothing was measured on hardware: Triton's interpreter ran the kernels on the CPU, no time is kept."


def run_cuda(
    sizes: Sequence[int] | None = None,
    *,
    interpret: bool = False,
    tolerances: Sequence[float] | None = None,
    minutes: float = 7.0,
    output: Path | None = None,
) -> int:
    """Check, measure, append the records, print a table; return 1 if a check failed or a solve did not converge.

    Parameters
    ----------
    sizes : cells per axis, each a cube
    interpret : run on the CPU by Triton's interpreter, which has to be asked for before Triton is imported
    tolerances : on the true relative residual; default 1e-6 and 1e-10, interpreted the first alone
    minutes : on a device, nothing is begun that would, by what smaller cases took, end after so many
    output : file of records; None: none is written

    Examples
    --------
    >>> run_cuda([16], interpret=True)                                 # doctest: +SKIP
    """
    device = prepare(interpret)
    sizes = sizes or ((16,) if interpret else SIZES)
    tolerances = tolerances or (TOLERANCES[:1] if interpret else TOLERANCES)
    end = time.monotonic() + (math.inf if interpret else 60 * minutes)
    facts: dict[str, Any] = {"run": new_run(), "hardware": not interpret, "device": describe(device)}

    def left() -> float:
        return end - time.monotonic()

    def keep(record: Record) -> Record:  # at once: what was found is kept whatever happens next
        record.more |= facts
        if output:
            append(output, [record])
        return record

    checks = [keep(record) for record in run_checks(device, interpret, left)]
    console.print(table("kernels against the reference", CHECKS_HEADER, map(check_row, checks)))
    facts["checks_failed"] = sum(r.status in ("DIFFERS", "FAILED") for r in checks)
    records, pace = [], 0.0  # seconds per cell of the last case
    try:
        found = None if interpret else ceilings(device)
        facts |= {} if found is None else found.facts()
    except Exception as error:  # a device that cannot copy: its checks are all there is to say
        records.append(keep(failed("copy and launch", {"problem": "ceilings", "experiment": "cuda"}, 0.0, error)))
        sizes = ()
    for n in sizes:
        for family in FAMILIES:
            begin, expected = time.monotonic(), pace * n**3
            made = [keep(r) for r in measure(family, n, device, tolerances, found, left, expected)]
            pace = (time.monotonic() - begin) / n**3 if made[0].status != "LEFT_OUT" else pace
            records += made
            console.print(table(f"{family} {n}^3, {facts['device']}", HEADER, map(row, made), CAPTION))
    for record in (*checks, *records):
        if "trace" in record.more:
            console.print(f"{record.method}, {record.problem}: {record.config}", record.more["trace"], markup=False)
    if interpret:
        console.print(UNMEASURED)
    ours = [r.status for r in records if r.method != "cg" and r.method not in PEERS]  # rivals may fail
    return int(facts["checks_failed"] > 0 or not set(ours) <= {"CONVERGED", "LEFT_OUT"})


def prepare(interpret: bool) -> torch.device:
    """Return the device, with Triton's interpreter asked for if that is wanted."""
    if not interpret:
        if not torch.cuda.is_available():
            raise UsageError("there is no CUDA device; expected one, or --interpret to run the kernels on the CPU")
        return torch.device("cuda", torch.cuda.current_device())
    if os.environ.get("TRITON_INTERPRET") != "1" and "triton" in sys.modules:
        raise UsageError("Triton was imported before --interpret could tell it; expected TRITON_INTERPRET=1 set")
    os.environ["TRITON_INTERPRET"] = "1"
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """Name the device and its memory."""
    if device.type != "cuda":
        return "no device: Triton's interpreter on a CPU"
    facts = torch.cuda.get_device_properties(device)
    versions = f"CUDA {torch.version.cuda}, triton {version_of('triton')}"
    return f"{facts.name}, {facts.total_memory >> 30} GiB, {facts.multi_processor_count} multiprocessors, {versions}"


def run_checks(device: torch.device, interpret: bool, left: Callable[[], float]) -> Iterator[Record]:
    """Compare every kernel with the reference; what raises is a record with its trace, and the rest goes on."""
    shapes = INTERPRETED if interpret else SHAPES
    for name, A in systems(device, shapes):
        facts: dict[str, Any] = {"problem": name, "experiment": "cuda", "shape": A.grid_shape}
        if left() < 0:
            yield left_out("checks", facts, 0.0, "no time left")
            continue
        for part in (check, _solve_alone):
            try:
                for kernel, found, tolerance in part(A):
                    status = "EQUAL" if found <= tolerance else "DIFFERS"  # NaN differs
                    more = {"part": "checks", "error": found}
                    yield Record(kernel, unknowns=A.unknowns, tolerance=tolerance, status=status, more=more, **facts)
            except Exception as error:
                record = failed("solve, as on the CPU" if part is _solve_alone else "kernels", facts, 0.0, error)
                record.more["part"] = "checks"
                yield record


def _solve_alone(A: Poisson) -> Iterator[tuple[str, float, float]]:
    yield check_solve(A)


def check_row(record: Record) -> tuple[str, ...]:
    """Write a check as a row of its table."""
    difference = record.more.get("error")
    return (
        record.problem, record.method, "-" if difference is None else f"{difference:.1e}", f"{record.tolerance:.0e}",
        record.status.lower() if record.status == "EQUAL" else record.status,
    )  # fmt: skip


# --- one system -------------------------------------------------------------------------------------------------------


def measure(
    family: str,
    n: int,
    device: torch.device,
    tolerances: Sequence[float],
    found: Ceilings | None,
    left: Callable[[], float],
    expected: float = 0.0,
) -> Iterator[Record]:
    """Measure every method on one system; left : seconds that remain, expected : seconds that it will take.

    A method that raises is a record with its trace, and the others go on.
    """
    from krylearn.solvers.kernels.cuda.conjugate_gradients import WORKSPACE

    facts: dict[str, Any] = {"problem": family, "shape": (n, n, n), "seed": 0, "experiment": "cuda"}
    facts["device"] = device.type if found else "interpreter"
    note = reason_to_leave_out(n**3, device, left() - expected)
    if note:
        yield left_out("krylearn", facts, tolerances[0], note)
        return
    try:
        host = scene(family, (n, n, n), 0)
        c = right_hand_side(host, "divergence", 0)
        A, b = host.to(device), c.to(device)
    except Exception as error:
        yield failed("krylearn", facts, tolerances[0], error)
        return
    for method, weights in METHODS.items():
        if found is None and method not in BRIEF:
            continue
        if left() < 0 or (method == "cg" and n > CUPY_MOST):
            note = "no time left" if left() < 0 else f"plain CG is run up to {CUPY_MOST} cells per axis"
            yield left_out(method, facts, tolerances[0], note)
            continue
        rtol = tolerances[0]
        try:
            M, setup, peak = set_up(A, weights, device, found)
            for rtol in tolerances:
                record = solve(A, b, M, method, rtol, found, device)
                for name, value in facts.items():
                    setattr(record, name, value)
                record.setup_s = setup
                record.more["setup_peak_bytes"] = peak
                yield record
        except Exception as error:
            yield failed(method, facts, rtol, error)
        M = None
        WORKSPACE.clear(A)
    if n <= CUPY_MOST and found and left() > 0:
        named = {name: value for name, value in facts.items() if name not in ("shape", "device")}
        try:
            best = partial(cg, A, b, M=NeuralMultigrid(A))
            for rtol in tolerances:
                yield theirs(PEERS["cupy-cg-jacobi"], host, c.numpy(), best, rtol=rtol, pairs=1, **named)
        except Exception as error:
            yield failed("cupy-cg-jacobi", facts, tolerances[0], error)


def failed(method: str, facts: dict[str, Any], rtol: float, error: Exception) -> Record:
    """Record an exception with the end of its trace."""
    trace = "".join(traceback.format_exception(error))[-TRACE:]
    said = f"{type(error).__name__}: {error}"[:300]
    return Record(method, unknowns=0, tolerance=rtol, status="FAILED", config=said, more={"trace": trace}, **facts)


def reason_to_leave_out(cells: int, device: torch.device, left: float) -> str:
    """Say why a size is left out: no time or no memory; "" if neither."""
    from krylearn.solvers.multigrid.setup_cuda.memory import memory_needed

    if left < 0:
        return "no time left"
    if device.type != "cuda":
        return ""
    torch.cuda.empty_cache()
    cube = (round(cells ** (1 / 3)),) * 3
    most = memory_needed(cube, cells=False, rule="torch")  # the classical rules are set up by torch
    need, free = cells * OPERATOR + max(most.solving, most.setting_up), torch.cuda.mem_get_info(device)[0]
    return f"needs {need:,} bytes, {free:,} are free" if need > free else ""


def left_out(method: str, facts: dict[str, Any], rtol: float, note: str) -> Record:
    """Record what was not run, and why."""
    return Record(method=method, unknowns=0, tolerance=rtol, status="LEFT_OUT", config=note, more={}, **facts)


def set_up(
    A: Poisson, weights: str | None, device: torch.device, found: Ceilings | None
) -> tuple[Any, float | None, int | None]:
    """Set up a method: (M, median seconds or None, bytes at the peak or None)."""
    if weights == "none":
        return "none", 0.0 if found else None, 0

    from krylearn.solvers.kernels.cuda.formats import CELL_CODES

    def build() -> NeuralMultigrid:
        CELL_CODES.clear(A)
        return NeuralMultigrid(A, weights=weights, kernels="triton")

    if found is None:
        return build(), None, None
    peak, _ = peak_bytes(build, device)
    timing, M = timed(build, repeats=3, warmup=1, timer=timer_for(device))
    return M, timing.median, peak


def solve(
    A: Poisson, b: Any, M: Any, method: str, rtol: float, found: Ceilings | None, device: torch.device
) -> Record:  # fmt: skip
    """Measure one method at one tolerance."""
    from krylearn.solvers.kernels.cuda.conjugate_gradients import WORKSPACE
    from krylearn.solvers.kernels.cuda.formats import cell_codes
    from krylearn.solvers.multigrid.setup_cuda.memory import step_bytes, traffic

    look = LOOKS.get(method, 1)
    run = partial(cg, A, b, M=M, rtol=rtol, check_every=look, maxiter=20_000)
    more: dict[str, Any] = {"check_every": look}
    # the interpreter serves a preconditioner that asks for it; plain CG on a CPU takes the numba kernels
    served = "numba" if found is None and M == "none" else "Triton"
    if found is None:
        (_, info), timing = run(), None
    else:
        # compiles, captures the graph
        more["peak_bytes"], _ = peak_bytes(run, device)
        more["host_synchronisations"], _ = synchronisations(run)
        timing, (_, info) = timed(run, repeats=1 if method == "cg" else 5, warmup=0, timer=timer_for(device))
        moved = A.diag.numel() * step_bytes(cell_codes(A) is not None, M != "none")
        moved = info.iterations * (moved + (0 if M == "none" else traffic(M.fused)))
        more["ns_per_unknown"] = 1e9 * timing.median / A.unknowns
        more["fraction_of_copy"] = found.fraction(moved, timing.median)
        graph = getattr(WORKSPACE.get(A), "graph", None)
        more["graph"] = graph is not None
    kept = 0 if M == "none" else M.fused.nbytes
    # and x, r, p, a copy of b; without a cycle that lends its work space, A p
    more["bytes_per_cell"] = kept / A.diag.numel() + (40 if M == "none" else 32)
    return Record(
        method=method, problem="", unknowns=A.unknowns, tolerance=rtol, status=info.reason.name,
        version=version_of("krylearn") or "", config=f"cg, {served} kernels, check_every={look}",
        solve_s=timing.median if timing else None, spread_s=(timing.low, timing.high) if timing else None,
        repeats=len(timing.seconds) if timing else 0, iterations=iterations_to(info.residuals, rtol),
        products=info.matvecs, true_relres=info.true_residual / float(torch.linalg.vector_norm(b)), more=more,
    )  # fmt: skip


def synchronisations(run: Callable[[], Any]) -> tuple[int, Any]:
    """Count how often a call makes the host wait for the device, as torch's own debug mode sees it."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = run()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("synchroniz" in str(w.message) for w in seen), result


def row(record: Record) -> tuple[str, ...]:
    """Write a record as a row of the table."""
    more = record.more
    method = record.method.removeprefix("krylearn-")
    if record.status != "CONVERGED":
        return (method, f"{record.tolerance:.0e}", record.status, *[""] * 6)

    def shown(name: str, form: str) -> str:
        return format(more[name], form) if more.get(name) is not None else "-"

    return (
        method, f"{record.tolerance:.0e}", seconds(record.setup_s), seconds(record.solve_s),
        count(record.iterations), shown("ns_per_unknown", ".2f"), shown("fraction_of_copy", ".0%"),
        shown("host_synchronisations", "d"), shown("bytes_per_cell", ".0f"),
    )  # fmt: skip


# --- what came back ---------------------------------------------------------------------------------------------------


def tables(lines: Sequence[dict[str, Any]]) -> list[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Make tables of a run's lines, complete or not: (title, header, rows) of speeds, checks, and what failed.

    Examples
    --------
    >>> line = {"method": "cg", "problem": "box", "unknowns": 0, "tolerance": 0.0, "status": "LEFT_OUT",
    ...         "config": "no time left", "more": {}}
    >>> tables([line])[3][2]
    [('box', 'cg', 'no time left', '')]
    """
    known = {each.name for each in fields(Record)}
    records = [Record(**{name: value for name, value in line.items() if name in known}) for line in lines]
    checks = [r for r in records if r.more.get("part") == "checks" and r.status != "FAILED"]
    solves = [r for r in records if r.more.get("part") != "checks" and r.status not in ("FAILED", "LEFT_OUT")]
    rest = [r for r in records if r.status in ("FAILED", "LEFT_OUT", "ABSENT")]
    grids = [(" ".join([r.problem, "x".join(map(str, r.shape))]), *row(r)) for r in solves if r.status != "ABSENT"]
    counts: list[tuple[str, ...]] = []
    for name in dict.fromkeys(r.problem for r in checks):
        of = [r for r in checks if r.problem == name]
        equal = sum(r.status == "EQUAL" for r in of)
        counts.append((name, f"{equal} of {len(of)}", ", ".join(r.method for r in of if r.status != "EQUAL") or "none"))
    return [
        ("Speeds", ("system", *HEADER), grids),
        ("Checks", ("system", "kernels equal to the reference", "different"), counts),
        ("Errors of the checks", CHECKS_HEADER, [check_row(r) for r in checks]),
        ("Not measured", ("system", "method", "why", "trace"),
         [(r.problem, r.method, r.config, r.more.get("trace", "")) for r in rest]),
    ]  # fmt: skip


def page_table(lines: Sequence[dict[str, Any]]) -> str:
    """Write for docs/cuda.md what a run found; of an exception the message alone."""
    parts = [UNMEASURED] if not lines[0]["more"].get("hardware") else [lines[0]["more"]["device"]]
    for title, header, rows in tables(lines):
        if rows and title != "Errors of the checks":
            cut = len(header) - (title == "Not measured")
            parts.append(f"**{title}**\n\n{markdown(header[:cut], [r[:cut] for r in rows])}")
    return "\n\n".join(parts)
