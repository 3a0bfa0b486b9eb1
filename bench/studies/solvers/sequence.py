"""`krylearn study sequence`: a moving obstacle, one system per step: ours against PyAMG, which is set up every time.

Every system of the sequence is solved by ours as a simulation would: `NeuralMultigrid.update`, then `cg` from x = 0.
The null space counts as set-up. Every `stride`-th system is also solved by a new `NeuralMultigrid` of an operator that
nobody has seen, and by PyAMG, which takes minutes. Ratios are of the sums over the steps that both solved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.pde import Cell, Poisson, right_hand_side
from krylearn.solvers import NeuralMultigrid, cg

from ...measure.console import console, progress, seconds, table
from ...measure.machine import version_of
from ...measure.record import Record, append, new_run
from ...measure.timing import true_relative_residual
from ...rivals.table import PEERS, System, run
from ...solvers.contest import compressed, rounded

HEADER = ("method", "steps", "set-up per step", "solve per step", "iterations", "set-up + solve / ours")
RIVALS = ("pyamg-sa", "pyamg-rs")
OURS = {"krylearn": "NeuralMultigrid.update, cg", "krylearn, anew": "NeuralMultigrid, cg"}


def moving_sphere(size: int, step: int, steps: int) -> Poisson:
    """Return the pressure system of a box with an open top, in which a sphere and a plate move.

    Examples
    --------
    >>> moving_sphere(12, 0, 50).unknowns < 12**3
    True
    """
    t = step / max(steps - 1, 1)
    x, y, z = np.meshgrid(*(np.arange(size) + 0.5 for _ in range(3)), indexing="ij")
    cells = np.full((size,) * 3, Cell.FLUID)
    cells[:, :, -1] = Cell.OPEN
    centre = size * np.array([0.25 + 0.5 * t, 0.5 + 0.2 * np.sin(6.28 * t), 0.4])
    cells[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < (0.15 * size) ** 2] = Cell.SOLID
    plate = (abs(z - size * (0.75 - 0.4 * t)) < 1) & (x < 0.7 * size) & (y > 0.2 * size)
    cells[plate] = Cell.SOLID
    return Poisson.from_cells(cells)


def timed(A: Poisson, b: Any, prepare: Callable[[Poisson], Any], rtol: float) -> tuple[float, ...]:
    """Return seconds of set-up (null space included) and of the solve, iterations and true residual.

    Examples
    --------
    >>> A = moving_sphere(12, 0, 50)
    >>> timed(A, right_hand_side(A, "divergence", 0), NeuralMultigrid, 1e-6)[3] <= 1e-6
    True
    """
    start = time.perf_counter()
    M = prepare(A)
    A.nullspace  # noqa: B018
    ready = time.perf_counter()
    x, info = cg(A, b, rtol=rtol, M=M, strict=True)
    done = time.perf_counter()
    return ready - start, done - ready, info.iterations, true_relative_residual(A, x, b)


def run_sequence(
    size: int = 96, steps: int = 50, *, stride: int = 10, rtol: float = 1e-6, output: Path
) -> list[Record]:
    """Measure the sequence, append the records, print the table.

    Examples
    --------
    >>> run_sequence(96, output=Path("sequence.jsonl"))                 # doctest: +SKIP
    """
    names = (*OURS, *(n for n in RIVALS if not PEERS[n].absent))
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    M, unknowns = None, 0
    with progress() as bar:
        task = bar.add_task("sequence", total=steps, note="")
        for step in range(steps):
            bar.update(task, note=f"step {step}")
            A = moving_sphere(size, step, steps)
            b = right_hand_side(A, "divergence", step)
            if M is None:
                M = NeuralMultigrid(moving_sphere(size, 1, steps))
                cg(A, b, rtol=rtol, M=M)  # compiled and warm
            found["krylearn"].append((step, *timed(A, b, M.update, rtol)))
            unknowns = A.unknowns
            if step % stride == 0:
                found["krylearn, anew"].append(
                    (step, *timed(moving_sphere(size, step, steps), b, NeuralMultigrid, rtol))
                )
                matrix, rhs, _ = compressed(A, b)
                for name in names[len(OURS) :]:
                    outcome = run(PEERS[name], System(matrix, A), rhs, rtol=rtol, repeats=1)
                    if outcome.status == "CONVERGED" and outcome.solve:
                        counts = (float(outcome.iterations or 0), float(outcome.true_relres or 0))
                        found[name].append((step, outcome.setup_s, outcome.solve.median, *counts))
            bar.advance(task)
    facts: dict[str, Any] = {"problem": "moving sphere and plate", "unknowns": unknowns, "tolerance": rtol}
    facts |= {"experiment": "sequence", "shape": (size,) * 3}
    tag, records = new_run(), []
    for name, rows in found.items():
        values = np.array(rows).reshape(-1, 5)
        common = values[values[:, 0] % stride == 0]
        records.append(Record(
            method=name, status="CONVERGED" if len(rows) else "FAILED", setup_s=float(values[:, 1].mean()),
            solve_s=float(values[:, 2].mean()), iterations=float(values[:, 3].mean()), repeats=len(rows),
            version=version_of("krylearn") or "" if name in OURS else PEERS[name].version or "",
            config=OURS[name] if name in OURS else PEERS[name].config,
            true_relres=float(values[:, 4].max()),
            more={"run": tag, "steps": common[:, 0].astype(int).tolist(),
                  "totals": rounded((common[:, 1] + common[:, 2]).tolist())}, **facts,
        ))  # fmt: skip
    append(output, records)
    console.print(table(title([r.line() for r in records]), HEADER, summary([r.line() for r in records])))
    return records


def title(lines: Sequence[dict[str, Any]]) -> str:
    """Name the sequence.

    Examples
    --------
    >>> title([{"problem": "p", "shape": [8, 8, 8], "unknowns": 500, "tolerance": 1e-6, "repeats": 50}])
    'p, 50 systems, 8 x 8 x 8, about 500 unknowns, true residual 1e-06'
    """
    first = lines[0]
    grid = " x ".join(map(str, first["shape"]))
    size = f"{grid}, about {first['unknowns']:,} unknowns"
    return f"{first['problem']}, {first['repeats']} systems, {size}, true residual {first['tolerance']:g}"


def summary(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: means per step, and the ratio of sums over the common steps.

    Examples
    --------
    >>> line = {"method": "krylearn", "repeats": 2, "setup_s": 0.1, "solve_s": 0.2, "iterations": 6.0,
    ...         "more": {"steps": [0], "totals": [0.3]}}
    >>> summary([line])
    [['krylearn', '2', '0.1 s', '0.2 s', '6.0', '1']]
    """
    ours = dict(zip(lines[0]["more"]["steps"], lines[0]["more"]["totals"], strict=True))
    rows = []
    for line in lines:
        steps, totals = line["more"]["steps"], line["more"]["totals"]
        versus = sum(totals) / sum(ours[s] for s in steps) if steps else float("nan")
        ratio = "1" if line is lines[0] else f"{versus:.1f}"
        rows.append([
            line["method"], str(line["repeats"]), seconds(line["setup_s"]), seconds(line["solve_s"]),
            f"{line['iterations']:.1f}", ratio,
        ])  # fmt: skip
    return rows
