"""One system, several solvers, timed alike: set-up and solve apart, as records and as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg

from ..measure.console import count, seconds
from ..measure.machine import version_of
from ..measure.record import Record
from ..measure.timers import peak_bytes, timer_for
from ..measure.timing import iterations_to, paired, timed, true_relative_residual
from ..rivals.table import Peer, System, UnsuitedError, run

HEADER = ("method", "on", "set-up", "solve", "iterations", "true residual", "solve / ours", "both / ours")
OURS = "krylearn"


def compressed(A: Poisson, b: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Give a system as rivals like it: (CSR over the unknowns alone, its right-hand side, the mask of unknowns).

    Examples
    --------
    >>> A = Poisson.from_cells(np.array([[1, 1, 2], [1, 0, 1]]))
    >>> matrix, b, mask = compressed(A, np.arange(6.0))
    >>> matrix.shape, b.tolist()
    ((4, 4), [0.0, 1.0, 3.0, 5.0])
    """
    mask = A.unknown.reshape(-1).numpy()
    matrix = A.matrix(unknowns=True)
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return matrix, np.asarray(b, dtype=np.float64).reshape(-1)[mask], mask


def set_up(A: Poisson, weights: Any = None) -> NeuralMultigrid:
    """Prepare for an operator as if it had never been seen: null space and bytes of the operator are found again.

    Examples
    --------
    >>> set_up(Poisson.from_coefficients(np.ones((8, 8))), "geometric").A.grid_shape
    (8, 8)
    """
    A.cache.clear()
    A.facts.clear()
    A.nullspace  # noqa: B018 (found when asked for, and kept)
    return NeuralMultigrid(A, weights=weights)


def ours(
    A: Poisson,
    b: Any,
    *,
    rtol: float,
    repeats: int,
    weights: str | None = None,
    device: str = "cpu",
    memory: bool = False,
    **facts: Any,
) -> tuple[Record, Any]:
    """Time our set-up and our solve on one system: (record, the solve as a callable).

    Parameters
    ----------
    A, b, rtol, weights : the system, and what `cg` and `NeuralMultigrid` get
    repeats : timed runs, of which the median counts
    device : where everything happens; the system is brought there before the clock starts
    memory : also measure the peak, in a run of its own
    facts : go into the record

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((8, 8)))
    >>> record, solve = ours(A, np.ones(64), rtol=1e-8, repeats=1, weights="geometric", problem="box")
    >>> record.status
    'CONVERGED'
    """
    home, timer = (A, b), timer_for(device)
    if device != "cpu":
        A, b = A.to(device=device), torch.as_tensor(b, dtype=torch.float64, device=device)
    setup, M = timed(lambda: set_up(A, weights), repeats=repeats, timer=timer)
    solve = partial(cg, A, b, rtol=rtol, M=M)
    timing, (x, info) = timed(solve, repeats=repeats, timer=timer)
    del M
    peak = peak_bytes(lambda: cg(A, b, rtol=rtol, M=set_up(A, weights)), device)[0] if memory else None
    record = Record(
        method="krylearn", unknowns=A.unknowns, tolerance=rtol, status=info.reason.name, shape=A.grid_shape,
        version=version_of("krylearn") or "", config=f"cg, NeuralMultigrid weights={weights or 'learned'}",
        setup_s=setup.median, solve_s=timing.median, spread_s=(timing.low, timing.high), repeats=repeats,
        iterations=iterations_to(info.residuals, rtol), products=info.matvecs,
        true_relres=true_relative_residual(home[0], getattr(x, "cpu", lambda: x)(), home[1]), peak_bytes=peak,
        device=device, more={"residuals": relative(info.residuals), "seconds": rounded(timing.seconds)}, **facts,
    )  # fmt: skip
    return record, solve


def theirs(peer: Peer, A: Poisson, b: Any, solve: Any, *, rtol: float, pairs: int, **facts: Any) -> Record:
    """Time one rival on the same system, and the ratio of its solve to ours in pairs.

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((8, 8)))
    >>> from krylearn.bench.rivals.table import PEERS
    >>> solve = partial(cg, A, np.ones(64), M="none")
    >>> theirs(PEERS["scipy-cg"], A, np.ones(64), solve, rtol=1e-8, pairs=1, problem="box").status
    'CONVERGED'
    """
    matrix, rhs, _ = compressed(A, b)
    return rival(peer, System(matrix, A), rhs, solve, rtol=rtol, pairs=pairs, shape=A.grid_shape, **facts)


def rival(
    peer: Peer,
    system: System,
    b: np.ndarray,
    solve: Any,
    *,
    rtol: float,
    pairs: int,
    time_limit: float = 120.0,
    **facts: Any,
) -> Record:
    """Time one rival on a matrix, in pairs with ours where `solve` is ours; absence and failure are records too.

    `time_limit`, in seconds, ends the first, watched solve; and no more pairs are timed than fit into it.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from krylearn.bench.rivals.table import PEERS
    >>> system = System(sp.csr_array(np.diag(np.arange(1.0, 9.0))))
    >>> rival(PEERS["transforms"], system, np.ones(8), None, rtol=1e-8, pairs=1, problem="diagonal").status
    'UNSUITED'
    """
    record = Record(
        method=peer.name, unknowns=system.matrix.shape[0], tolerance=rtol, status="ABSENT", version=peer.version or "",
        config=peer.absent or peer.config, device=peer.device, **facts,
    )  # fmt: skip
    record.more["width"], record.threads = peer.width, peer.threads
    if peer.absent:
        return record
    try:
        peak, outcome = peak_bytes(lambda: run(peer, system, b, rtol=rtol, repeats=1, time_limit=time_limit))
    except UnsuitedError as reason:
        record.status, record.more["reason"] = "UNSUITED", str(reason)
        return record
    except Exception as error:  # a rival may fail in any way of its own: the others still run
        record.status, record.more["reason"] = "FAILED", f"{type(error).__name__}: {error}"[:300]
        return record
    record.status, record.setup_s, record.true_relres = outcome.status, outcome.setup_s, outcome.true_relres
    record.iterations, record.products = outcome.iterations_to(rtol), outcome.iterations
    record.peak_bytes = outcome.peak_bytes or peak
    record.more["residuals"] = relative(outcome.residuals)
    if outcome.again:
        first = solve or outcome.again
        first()  # ours was idle while the rival was set up: caches and threads are warm again
        affordable = int(time_limit / outcome.solve.median) if outcome.solve else pairs
        pairs = max(1, min(pairs, affordable))
        pair = paired(first, outcome.again, pairs=pairs, warmup=0, their_timer=outcome.timer)
        record.solve_s, record.spread_s, record.repeats = pair.theirs.median, (pair.theirs.low, pair.theirs.high), pairs
        record.more["seconds"] = rounded(pair.theirs.seconds)
        if solve:
            record.more["ratio"], record.more["interval"] = pair.ratio, pair.interval()
    return record


def rounded(values: Sequence[float]) -> list[float]:
    """Keep four digits: records are for reading.

    Examples
    --------
    >>> rounded([0.123456])
    [0.1235]
    """
    return [float(f"{v:.4g}") for v in values]


def relative(residuals: Sequence[float]) -> list[float]:
    """Divide by the first and keep three digits: records are for reading.

    Examples
    --------
    >>> relative([3.0, 1.0])
    [1.0, 0.333]
    """
    return [float(f"{r / residuals[0]:.3g}") for r in residuals] if residuals and residuals[0] > 0 else []


def title(lines: Sequence[dict]) -> str:
    """Name the system of a run.

    Examples
    --------
    >>> title([{"problem": "mazes", "shape": [8, 8], "unknowns": 42, "tolerance": 1e-8}])
    'mazes, 8 x 8, 42 unknowns, true residual 1e-08'
    """
    first = lines[0]
    grid = " x ".join(map(str, first["shape"]))
    return f"{first['problem']}, {grid}, {first['unknowns']:,} unknowns, true residual {first['tolerance']:g}"


def summary(lines: Sequence[dict]) -> list[list[str]]:
    """Rows of text: times, iterations, residual, the paired ratio with its range, and that of set-up plus solve.

    Ours come first, then the rivals, the fastest with its set-up first; who has no time stands at the end.

    Examples
    --------
    >>> summary([{"method": "krylearn", "status": "CONVERGED", "setup_s": 0.5, "solve_s": 0.25, "iterations": 9.0,
    ...           "true_relres": 3e-9, "threads": 2, "more": {}}])
    [['krylearn', '2 threads', '0.5 s', '0.25 s', '9.0', '3.0e-09', '1', '1']]
    """
    rows, totals = [], {line["method"]: total(line) for line in lines}
    for line in sorted(lines, key=lambda line: _place(line, totals[line["method"]])):
        if line["status"] in ("ABSENT", "UNSUITED", "FAILED"):
            rows.append([line["method"], width(line), line["status"].lower(), *["-"] * (len(HEADER) - 3)])
            continue
        ratio = line["more"].get("ratio")
        versus = "{:.1f} ({:.1f}-{:.1f})".format(*ratio) if ratio else "1" if line["method"] == OURS else "-"
        solve = seconds(line["solve_s"]) if line["status"] == "CONVERGED" else line["status"].lower()
        own, both = totals.get(OURS), totals[line["method"]]
        together = "1" if line["method"] == OURS else f"{both / own:.1f}" if own and both else "-"
        relres = "-" if line["true_relres"] is None else f"{line['true_relres']:.1e}"
        found = [count(line["iterations"]), relres, versus, together]
        rows.append([line["method"], width(line), seconds(line["setup_s"]), solve, *found])
    return rows


def width(line: dict[str, Any]) -> str:
    """Say on how many threads or ranks a line was measured; rivals of older records ran on one thread but for AMGCL.

    Examples
    --------
    >>> width({"method": "krylearn", "threads": 2, "more": {}}), width({"method": "pyamg-rs", "threads": 2, "more": {}})
    ('2 threads', '1 thread')
    """
    if "width" in line["more"]:
        return str(line["more"]["width"])
    if line["method"] == "amgcl":  # on one or on all, as it was built
        return "threads not recorded"
    own = line["method"].startswith(OURS) or line["method"] == "transforms"
    n = line["threads"] if own else 1
    return f"{n} threads" if n > 1 else "1 thread"


def _place(line: dict[str, Any], seconds: float | None) -> tuple[bool, float]:
    """Key to sort by: ours as measured, rivals by set-up plus solve."""
    own = line["method"].startswith(OURS)
    return not own, 0.0 if own else math.inf if seconds is None else seconds


def total(line: dict[str, Any]) -> float | None:
    """Add set-up and solve, medians in seconds; None where one is missing.

    Examples
    --------
    >>> total({"status": "CONVERGED", "setup_s": 0.5, "solve_s": 0.25}), total({"status": "ABSENT"})
    (0.75, None)
    """
    setup, solve = line.get("setup_s"), line.get("solve_s")
    return None if line["status"] != "CONVERGED" or setup is None or solve is None else setup + solve
