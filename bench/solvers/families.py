"""`krylearn bench families`: iterations on every scene family, and what of it is owed to learning.

Each family is solved with the same kernels under four sets of weights: the two classical rules, the best constants that
the same training budget finds ("tuned"), and the shipped network. Only the difference to the best of the first three is
owed to learning. Beside them the iterations that conjugate gradients take with PyAMG's Ruge-Stuben preconditioner.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg

from ..measure.console import console, count, progress, table
from ..measure.record import Record, append, new_run
from ..measure.timing import iterations_to, true_relative_residual
from ..rivals.cpu import ruge_stuben
from ..rivals.loops import ScipyLoop, System

WEIGHTS = ("geometric", "resistor", "tuned", "learned")
AMG = "pyamg-rs"
SEEDS = 5
PATIENCE = 200  # iterations: on some singular systems PyAMG's cycle stagnates


def measure(
    family: str,
    shape: tuple[int, ...],
    seed: int,
    weights: str,
    *,
    rtol: float = 1e-6,
    kind: str = "white",
    A: Poisson | None = None,
) -> Record:
    """Solve one scene of the test stream with one set of weights.

    Parameters
    ----------
    family, shape, seed : as in `krylearn.pde.scene`; weights : one of WEIGHTS
    kind : right-hand side, as in `krylearn.pde.right_hand_side`
    A : the scene, if it is already built

    Examples
    --------
    >>> measure("open_box", (8, 8, 8), 0, "geometric").status
    'CONVERGED'
    """
    A = scene(family, shape, seed) if A is None else A
    b = right_hand_side(A, kind, seed)
    M = NeuralMultigrid(A, weights="network" if weights == "learned" else weights)
    start = time.perf_counter()
    x, info = cg(A, b, rtol=rtol, maxiter=500, M=M)
    solve_s = time.perf_counter() - start
    return Record(
        method=f"krylearn {weights}", problem=family, unknowns=A.unknowns, tolerance=rtol, status=info.reason.name,
        experiment="families", config=f"NeuralMultigrid weights={weights}, rhs {kind}", seed=seed, shape=shape,
        setup_s=M.setup_seconds, solve_s=solve_s, repeats=1, iterations=iterations_to(info.residuals, rtol),
        products=info.matvecs, true_relres=true_relative_residual(A, x, b),
    )  # fmt: skip


def measure_amg(A: Poisson, family: str, seed: int, *, rtol: float = 1e-6, kind: str = "white") -> Record:
    """Solve the same scene by SciPy's `cg` with PyAMG's Ruge-Stuben preconditioner, as shipped, and count.

    Examples
    --------
    >>> measure_amg(scene("open_box", (8, 8, 8), 0), "open_box", 0).status
    'CONVERGED'
    """
    matrix = A.matrix(unknowns=True)
    b = np.asarray(right_hand_side(A, kind, seed)).reshape(-1)[np.asarray(A.unknown).reshape(-1)]
    start = time.perf_counter()
    M = ruge_stuben(System(matrix, A))
    setup_s, start = time.perf_counter() - start, time.perf_counter()
    watched = ScipyLoop(matrix, M, PATIENCE).watch(b, rtol, math.inf)
    relres = true_relative_residual(matrix, watched.x, b)
    return Record(
        method=AMG, problem=family, unknowns=A.unknowns, tolerance=rtol,
        status="CONVERGED" if relres <= rtol else "MAXITER", experiment="families", config=f"as shipped, rhs {kind}",
        seed=seed, shape=A.grid_shape, setup_s=setup_s, solve_s=time.perf_counter() - start, repeats=1,
        iterations=iterations_to(watched.residuals, rtol), products=watched.iterations, true_relres=relres,
    )  # fmt: skip


def run_families(
    size: int = 64,
    seeds: int = SEEDS,
    *,
    dim: int = 3,
    families: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    kind: str = "white",
    rtol: float = 1e-6,
    output: Path,
) -> list[Record]:
    """Measure all families, append the records, print the table.

    Parameters
    ----------
    size, dim : cells per axis and number of axes
    methods : names out of WEIGHTS and AMG; None: all
    seeds : scenes per family, of the test stream
    output : Path; file of records

    Examples
    --------
    >>> run_families(64, seeds=5, output=Path("families.jsonl"))        # doctest: +SKIP
    """
    names, wanted = list(families or FAMILIES), tuple(methods or (*WEIGHTS, AMG))
    shape, run, records = (size,) * dim, new_run(), []
    with progress() as bar:
        task = bar.add_task("families", total=len(names) * seeds, note="")
        for family in names:
            for seed in range(seeds):
                bar.update(task, note=f"{family}, seed {seed}")
                A = scene(family, shape, seed)
                records += [measure(family, shape, seed, w, rtol=rtol, kind=kind, A=A) for w in wanted if w in WEIGHTS]
                if AMG in wanted:
                    records.append(measure_amg(A, family, seed, rtol=rtol, kind=kind))
                bar.advance(task)
    for record in records:
        record.more = {"run": run}
    append(output, records)
    rows = summary([record.line() for record in records])
    console.print(table(f"iterations to {rtol:g}, {' x '.join(map(str, shape))}, {seeds} seeds", HEADER, rows))
    return records


HEADER = ("family", *WEIGHTS, "learned - best other", AMG)


def summary(lines: Sequence[dict]) -> list[list[str]]:
    """Mean iterations per family and set of weights, as rows of text; a failure anywhere shows as "-".

    Examples
    --------
    >>> line = {"problem": "mazes", "method": "krylearn learned", "iterations": 9.0, "status": "CONVERGED"}
    >>> summary([line])
    [['mazes', '-', '-', '-', '9.0', '-', '-']]
    """
    rows = []
    for family, found in means(lines).items():
        rivals = [m for w, m in found.items() if m is not None and w != "learned"]
        learned = found["learned"]
        gain = "-" if learned is None or not rivals else f"{learned - min(rivals):+.1f}"
        amg = mean_iterations([line for line in lines if (line["problem"], line["method"]) == (family, AMG)])
        rows.append([family, *map(count, found.values()), gain, count(amg)])
    return rows


def means(lines: Sequence[dict]) -> dict[str, dict[str, float | None]]:
    """Mean iterations: family -> weights -> mean, None where one failed or none was measured.

    Examples
    --------
    >>> line = {"problem": "mazes", "method": "krylearn tuned", "iterations": 9.0, "status": "CONVERGED"}
    >>> means([line])["mazes"]["tuned"]
    9.0
    """

    def mean(family: str, weights: str) -> float | None:
        return mean_iterations([x for x in lines if (x["problem"], x["method"]) == (family, f"krylearn {weights}")])

    names = dict.fromkeys(line["problem"] for line in lines)
    return {family: {weights: mean(family, weights) for weights in WEIGHTS} for family in names}


def mean_iterations(lines: Sequence[dict]) -> float | None:
    """Mean over seeds; None where there is no record or where one of them did not converge.

    Examples
    --------
    >>> mean_iterations([{"iterations": 7.0, "status": "CONVERGED"}, {"iterations": 8.0, "status": "CONVERGED"}])
    7.5
    """
    if not lines or any(line["status"] != "CONVERGED" for line in lines):
        return None
    values = [line["iterations"] for line in lines]
    return statistics.fmean(values) if all(v is not None and math.isfinite(v) for v in values) else None
