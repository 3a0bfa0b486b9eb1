"""`krylearn study steps`: what learning adds to pieces, three ways and their control, in iterations and in seconds.

*Rule* is pieces without a learned number. *Constants*: nine numbers, two step sizes and a factor of the coarse
correction for the first three levels, whatever a level looks like, found by Nelder and Mead's method on the train
stream (170 trials, all families and field cases); the control of *network*, which chooses them level by level.
*Threshold*: the network over pieces merged from 0.13 on instead of 0.1, the best of 17 single changes of the
partition's constants on the train stream. Counts come from one implementation, in fp64; right-hand sides are white
noise, of images A times white noise. Seconds are those of the product, a set-up and so many solves, rule and network in
turns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.pde import FAMILIES
from krylearn.pde.scenes.field_cases import FIELD_CASES
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.multigrid.step_sizes import RULE, StepSizes, shipped_steps
from krylearn.solvers.training.steps import count_steps, prepare

from ...measure.console import console, progress, table
from ...measure.record import Record, append, latest, new_run, read
from .coarsenings import build, in_order

WAYS = ("rule", "constants", "network", "threshold")
THRESHOLD = 0.13
CONSTANTS = [StepSizes(0.580, 1.790, 1.094), StepSizes(0.583, 2.172, 0.941), StepSizes(0.489, 1.952, 0.923)]
SOLVES, ROUNDS = 5, 2  # per set-up; repetitions
HEADER = ("system", *WAYS, "rule / constants", "rule / network", "rule / threshold", "seconds, 1 solve", "5 solves")


def measure(name: str, shape: tuple[int, ...], seed: int) -> list[Record]:
    """Count the steps of all ways on one system, and time the product with and without the network.

    Examples
    --------
    >>> [r.method for r in measure("blocks", (10, 10, 10), 0)]
    ['rule', 'constants', 'network', 'threshold']
    """
    A, b = build(name, shape, seed)
    flat = np.asarray(b).reshape(-1)[np.asarray(A.unknown).reshape(-1)].astype(np.float64)
    system, other = prepare(name, A), prepare(name, A, THRESHOLD)
    if system is None or other is None:
        raise ValueError(f"got a grid of {shape}; expected one with levels, of more cells")
    network = shipped_steps(len(shape))
    if network is None:
        raise ValueError(f"got {len(shape)} axes; expected 3, for which there is a trained network")
    # cells without an equation are no unknowns of a graph
    flat = flat[np.asarray(A.matrix(unknowns=True).diagonal() > 0)]
    counts = {
        "rule": count_steps(system, [RULE], flat),
        "constants": count_steps(system, CONSTANTS, flat),
        "network": count_steps(system, network.steps_of(system.ratios), flat),
        "threshold": count_steps(other, network.steps_of(other.ratios), flat),
    }
    seconds = time_both(A, b)
    return [
        Record(way, name, A.unknowns, 1e-6, "CONVERGED", experiment="steps", seed=seed, shape=shape, iterations=count,
               config="V-cycle over pieces, fp64", setup_s=seconds.get(way, (None,))[0],
               solve_s=seconds[way][1] if way in seconds else None)
        for way, count in counts.items()
    ]  # fmt: skip


def time_both(A: Any, b: Any) -> dict[str, tuple[float, float]]:
    """Return seconds of a set-up and of a solve to 1e-6 with the rule and with the network, the best of some turns."""
    best = {way: (math.inf, math.inf) for way in ("rule", "network")}
    for turn in range(ROUNDS + 1):  # the first one touches memory
        for way, weights in (("rule", "untrained pieces"), ("network", "pieces"))[:: -1 if turn % 2 else 1]:
            M = NeuralMultigrid(A, weights)
            cg(A, b, rtol=1e-6, M=M)
            start = time.perf_counter()
            for _ in range(2):
                cg(A, b, rtol=1e-6, M=M)
            took = (time.perf_counter() - start) / 2
            if turn:
                best[way] = min(best[way][0], M.setup_seconds), min(best[way][1], took)
    return best


def run_steps(size: int = 32, seeds: int = 3, *, systems: Sequence[str] | None = None, output: Path) -> None:
    """Measure, append every record as it comes, print the table.

    Examples
    --------
    >>> run_steps(32, output=Path("steps.jsonl"))           # doctest: +SKIP
    """
    names, run = list(systems or (*FAMILIES, *FIELD_CASES)), new_run()
    with progress() as bar:
        task = bar.add_task("steps", total=len(names) * seeds, note="")
        for seed in range(seeds):
            for name in names:
                bar.update(task, note=f"{name}, seed {seed}")
                found = measure(name, (size,) * 3, seed)
                for record in found:
                    record.more["run"] = run
                append(output, found)
                bar.advance(task)
    lines = latest(read(output))
    console.print(table(title(lines), HEADER, rows(lines)))


def title(lines: Sequence[dict[str, Any]]) -> str:
    """Say what the records hold.

    Examples
    --------
    >>> title([{"shape": [8, 8], "seed": 0}])
    'Iterations to 1e-06, 8 x 8, means over 1 seeds of the test stream'
    """
    grid, seeds = " x ".join(map(str, lines[0]["shape"])), len({line["seed"] for line in lines})
    return f"Iterations to 1e-06, {grid}, means over {seeds} seeds of the test stream"


def rows(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Means per system and way, gains over the rule, geometric means and worst ones below.

    Examples
    --------
    >>> line = {"problem": "mazes", "iterations": 9.0, "setup_s": 1.0, "solve_s": 1.0}
    >>> rows([line | {"method": way} for way in WAYS])[0]
    ['mazes', '9.0', '9.0', '9.0', '9.0', '1.00', '1.00', '1.00', '1.00', '1.00']
    """
    out, gains = [], []
    for name in in_order(lines):
        own = [line for line in lines if line["problem"] == name]
        means = [float(np.mean([r["iterations"] for r in own if r["method"] == way])) for way in WAYS]
        seconds = []
        for solves in (1, SOLVES):
            total = [
                sum(r["setup_s"] + solves * r["solve_s"] for r in own if r["method"] == way)
                for way in ("rule", "network")
            ]
            seconds.append(total[0] / total[1])
        gains.append([*(means[0] / m for m in means[1:]), *seconds])
        out.append([name, *(f"{m:.1f}" for m in means), *(f"{g:.2f}" for g in gains[-1])])
    columns = np.array(gains)
    blank = [""] * len(WAYS)
    out.append(["geometric mean", *blank, *(f"{g:.3f}" for g in np.exp(np.log(columns).mean(0)))])
    out.append(["least", *blank, *(f"{g:.2f}" for g in columns.min(0))])
    return out
