"""`krylearn study coarsenings`: iterations to 1e-6 and 1e-8 with grid levels and with pieces, families and field cases.

The rules and the network on levels that are grids, pieces without a learned number, the default that chooses between
network and pieces, and PyAMG's Ruge-Stuben and smoothed aggregation as shipped. Both tolerances are read off one solve.
Right-hand sides are white noise; of images A times white noise, since there rounding of b would decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case
from krylearn.solvers import NeuralMultigrid, cg

from ...measure.console import console, count, progress, table
from ...measure.record import Record, append, new_run
from ...measure.timing import iterations_to, true_relative_residual
from ...rivals.loops import ScipyLoop
from ...solvers.families import mean_iterations

WEIGHTS: dict[str, str | None] = {
    "geometric": "geometric", "resistor": "resistor", "tuned": "tuned", "network": "network", "pieces": "pieces",
    "default": None,
}  # fmt: skip
AMG = ("pyamg-rs", "pyamg-sa")
METHODS = (*WEIGHTS, *AMG)
TOLERANCES = (1e-6, 1e-8)
HEADER = ("system", *METHODS)
LIMIT = 300


def build(name: str, shape: tuple[int, ...], seed: int) -> tuple[Poisson, Any]:
    """Return a system of the test stream and its right-hand side.

    Examples
    --------
    >>> build("image_30", (6, 6), 0)[0].grid_shape
    (6, 6)
    """
    A = scene(name, shape, seed) if name in FAMILIES else field_case(name, shape, seed)
    b = right_hand_side(A, "white", seed)
    return A, A @ b if "image" in name else b


def measure(name: str, shape: tuple[int, ...], seed: int, method: str) -> list[Record]:
    """Solve one system by one method; one record per tolerance.

    Examples
    --------
    >>> [r.status for r in measure("open_box", (8, 8, 8), 0, "pieces")]
    ['CONVERGED', 'CONVERGED']
    """
    A, b = build(name, shape, seed)
    facts: dict[str, Any] = {"experiment": "coarsenings", "seed": seed, "shape": shape}
    if method in AMG:
        import pyamg

        matrix = A.matrix(unknowns=True)
        b = np.asarray(b).reshape(-1)[np.asarray(A.unknown).reshape(-1)]
        make = pyamg.ruge_stuben_solver if method == "pyamg-rs" else pyamg.smoothed_aggregation_solver
        watched = ScipyLoop(matrix, make(matrix).aspreconditioner(), LIMIT).watch(b, TOLERANCES[-1], math.inf)
        residuals, relres = tuple(watched.residuals), true_relative_residual(matrix, watched.x, b)
        config = "as shipped, rhs white"
    else:
        M = NeuralMultigrid(A, WEIGHTS[method])
        x, info = cg(A, b, rtol=TOLERANCES[-1], maxiter=LIMIT, M=M)
        residuals, relres = info.residuals, true_relative_residual(A, x, b)
        config = f"{'pieces' if M.uses_pieces else 'grids'}, rhs white"
    records = []
    for rtol in TOLERANCES:
        taken = iterations_to(residuals, rtol)
        met = taken is not None and math.isfinite(taken) and relres <= rtol
        label = method if method in AMG else f"krylearn {method}"
        status = "CONVERGED" if met else "MAXITER"
        records.append(
            Record(label, name, A.unknowns, rtol, status, config=config, iterations=taken if met else None,
                   true_relres=relres, **facts)
        )  # fmt: skip
    return records


def run_coarsenings(
    size: int = 32, seeds: int = 5, *, dim: int = 3, systems: Sequence[str] | None = None, output: Path
) -> list[Record]:
    """Measure, append the records, print the table.

    Examples
    --------
    >>> run_coarsenings(32, output=Path("coarsenings.jsonl"))           # doctest: +SKIP
    """
    names, run, records = list(systems or (*FAMILIES, *FIELD_CASES)), new_run(), []
    with progress() as bar:
        task = bar.add_task("coarsenings", total=len(names) * seeds, note="")
        for name in names:
            for seed in range(seeds):
                bar.update(task, note=f"{name}, seed {seed}")
                found = [r for method in METHODS for r in measure(name, (size,) * dim, seed, method)]
                for record in found:
                    record.more = {"run": run}
                append(output, found)
                records += found
                bar.advance(task)
    rows = summary([record.line() for record in records])
    console.print(table(f"iterations to 1e-6 / 1e-8, {size}^{dim}, {seeds} seeds", HEADER, rows))
    return records


def summary(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Mean iterations to both tolerances per system and method, as rows of text; a failure on any seed shows as "-".

    Examples
    --------
    >>> line = {"problem": "mazes", "method": "krylearn pieces", "iterations": 9.0, "status": "CONVERGED"}
    >>> summary([line | {"tolerance": 1e-6}, line | {"tolerance": 1e-8}])[0][5]
    '9.0 / 9.0'
    """
    rows = []
    for name in dict.fromkeys(line["problem"] for line in lines):
        cells = []
        for method in METHODS:
            label = method if method in AMG else f"krylearn {method}"
            own = [x for x in lines if (x["problem"], x["method"]) == (name, label)]
            pair = [mean_iterations([x for x in own if x["tolerance"] == rtol]) for rtol in TOLERANCES]
            cells.append(" / ".join(map(count, pair)))
        rows.append([name, *cells])
    return rows
