"""`krylearn demo`: a smoke plume past a moving obstacle; every pressure projection is ours, a few are the rivals' too.

The simulation runs with our solver alone, its preconditioner refreshed as the obstacle moves. Afterwards the systems of
a few frames are solved again: by us, by SciPy's plain CG (one frame), and by SciPy's CG with PyAMG; set-up and solve
apart, everybody from a zero guess to the same true residual. It leaves summary.png, smoke.gif and records.jsonl.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.pde import Cell, Poisson
from krylearn.pde.simulations.smoke import Frame, SmokePlume
from krylearn.solvers import NeuralMultigrid, cg

from ..measure.console import UsageError, console, progress, table
from ..measure.machine import machine, threads
from ..measure.record import Record, append, new_run
from ..measure.timing import true_relative_residual
from ..rivals.table import PEERS
from ..show.pictures import Curve, animate, demo_summary, render
from .contest import HEADER, ours, summary, theirs, title
from .warmup import warmup

SHAPE, STEPS = (80, 72, 104), 60
QUICK_SHAPE, QUICK_STEPS = (20, 18, 26), 8
RTOL = 1e-6


@dataclass
class Projector:
    """The solver that the simulation calls: refresh the preconditioner, solve, keep the facts."""

    weights: str | None = None
    preconditioner: Any = None
    setup_s: list[float] = field(default_factory=list)
    solve_s: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    residuals: list[float] = field(default_factory=list)

    def __call__(self, A: Poisson, b: Any) -> Any:
        """Solve one projection to RTOL; a solve that fails raises and ends the demo."""
        start = time.perf_counter()
        if self.preconditioner is None:
            self.preconditioner = NeuralMultigrid(A, weights=self.weights)
        else:
            self.preconditioner.update(A)
        ready = time.perf_counter()
        p, info = cg(A, b, rtol=RTOL, M=self.preconditioner, strict=True)
        self.setup_s.append(ready - start)
        self.solve_s.append(time.perf_counter() - ready)
        self.iterations.append(info.iterations)
        self.residuals.append(true_relative_residual(A, p, b))
        return p


def simulate(
    shape: tuple[int, ...], steps: int, projector: Projector, keep: Sequence[int]
) -> tuple[list[np.ndarray], dict[int, Frame]]:
    """Run the plume: (one picture per step, the frames whose numbers are in `keep`, counted from 1).

    Examples
    --------
    >>> images, frames = simulate((8, 8, 8), 2, Projector("geometric"), keep=[2])       # doctest: +ELLIPSIS
    simulation ...
    >>> len(images), list(frames)
    (2, [2])
    """
    images, kept = [], {}
    plume = SmokePlume(shape, dt=0.04 * 60 / max(steps, 60))
    with progress() as bar:
        task = bar.add_task("simulation", total=steps, note="")
        for number, frame in enumerate(plume.frames(steps, projector), start=1):
            images.append(render(frame.smoke.numpy(), (frame.cells == Cell.SOLID).numpy()))
            if number in keep:
                kept[number] = frame
            last = projector.setup_s[-1] + projector.solve_s[-1]
            bar.update(task, advance=1, note=f"pressure {last:.2f} s, {projector.iterations[-1]} iterations")
    return images, kept


def compare(frames: dict[int, Frame], *, weights: str | None, pairs: int) -> tuple[list[Record], list[Curve]]:
    """Give the kept frames to everybody, but plain CG the first only; the curves are of that one."""
    records, curves, first = [], [], min(frames)
    everybody, fast = ("krylearn", "pyamg-sa", "pyamg-rs", "scipy-cg"), ("krylearn", "pyamg-sa", "pyamg-rs")
    jobs = [(number, name) for number in frames for name in (everybody if number == first else fast)]
    with progress() as bar:
        task = bar.add_task("comparison", total=len(jobs), note="")
        for number, name in jobs:
            bar.update(task, note=f"step {number}: {name}")
            A, b = frames[number].A, frames[number].b.numpy()
            facts: dict[str, Any] = {"problem": "smoke plume", "experiment": "demo", "seed": SmokePlume.seed}
            if name == "krylearn":
                record, solve = ours(A, b, rtol=RTOL, repeats=3, weights=weights, **facts)
            else:
                record = theirs(PEERS[name], A, b, solve, rtol=RTOL, pairs=pairs, **facts)
            record.more["frame"] = number
            records.append(record)
            if number == first and record.solve_s:
                curves.append(curve(record))
            bar.advance(task)
    return records, curves


def curve(record: Record) -> Curve:
    """Spread the residuals of a record over its time: set-up first, then equal iterations.

    Examples
    --------
    >>> facts = {"setup_s": 1.0, "solve_s": 2.0, "more": {"residuals": [1.0, 0.1, 0.01]}}
    >>> curve(Record("krylearn", "box", 8, 1e-2, "CONVERGED", **facts)).times.tolist()
    [1.0, 2.0, 3.0]
    """
    residuals = np.asarray(record.more["residuals"])
    if record.setup_s is None or record.solve_s is None:
        raise ValueError(f"{record.method} has no time: {record.status}")
    times = record.setup_s + record.solve_s * np.linspace(0, 1, len(residuals))
    return Curve(record.method, times, residuals)


def run_demo(
    shape: tuple[int, ...] | None = None,
    steps: int | None = None,
    *,
    output: Path = Path("demo-output"),
    quick: bool = False,
    weights: str | None = None,
    also: Path | None = None,
) -> list[Record]:
    """Simulate, compare, draw, print.

    Parameters
    ----------
    shape, steps : grid (nx, ny, nz) with z up, and number of steps; default: more than 500,000 unknowns
    output : folder for summary.png, smoke.gif, records.jsonl
    quick : a small grid and few steps, to see that everything works
    weights : of NeuralMultigrid
    also : another file that the records are appended to

    Raises
    ------
    UsageError
        For a shape or number of steps that makes no simulation.

    Examples
    --------
    >>> run_demo(quick=True)                                            # doctest: +SKIP
    """
    shape = tuple(shape) if shape else QUICK_SHAPE if quick else SHAPE
    steps = steps or (QUICK_STEPS if quick else STEPS)
    if len(shape) != 3 or min(shape) < 8 or steps < 2:
        raise UsageError(f"shape {shape}, {steps} steps; expected three axes of at least 8 cells, and at least 2 steps")
    began = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    warmup(weights)
    projector = Projector(weights)
    images, frames = simulate(shape, steps, projector, keep=(max(1, steps // 2), steps))
    records, curves = compare(frames, weights=weights, pairs=1 if quick else 3)
    run = new_run()
    for record in records:
        record.more |= {"run": run}
    draw(output, images, records, curves, projector, frames)
    for record in records:
        record.more.pop("residuals", None)
    for file in (output / "records.jsonl", also):
        if file:
            append(file, records)
    report(records, projector)
    console.print(f"{output / 'summary.png'}  {output / 'smoke.gif'}  {output / 'records.jsonl'}")
    console.print(f"in {time.perf_counter() - began:.0f} s on {threads()} threads, {machine()['cpu']}")
    return records


def draw(
    output: Path,
    images: list[np.ndarray],
    records: list[Record],
    curves: list[Curve],
    projector: Projector,
    frames: dict[int, Frame],
) -> None:
    """Write summary.png and smoke.gif."""
    chosen = np.unique(np.linspace(0, len(images) - 1, 6).round().astype(int)[1:])
    first = records[0]
    demo_summary(
        output / "summary.png",
        [(f"step {k + 1}", images[k]) for k in chosen],
        curves,
        [record.line() for record in records],
        {"setup": np.array(projector.setup_s), "solve": np.array(projector.solve_s)},
        f"Smoke past a moving obstacle: {first.unknowns:,} unknowns, {len(images)} pressure projections to {RTOL:g}",
    )
    animate(output / "smoke.gif", images)


def report(records: list[Record], projector: Projector) -> None:
    """Print one table per compared frame, and one line about all projections."""
    for frame in dict.fromkeys(record.more["frame"] for record in records):
        lines = [record.line() for record in records if record.more["frame"] == frame]
        console.print(table(f"step {frame}: {title(lines)}", HEADER, summary(lines)))
    total = np.array(projector.setup_s) + np.array(projector.solve_s)
    console.print(
        f"{len(total)} projections: {np.median(total):.3g} s each (median; slowest {total.max():.3g} s), "
        f"{np.mean(projector.iterations):.1f} iterations, largest true residual {max(projector.residuals):.2g}"
    )
    for record in records:
        if record.status == "ABSENT":
            console.print(record.config)
