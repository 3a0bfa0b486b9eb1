"""`krylearn study batch-scaling`: the best lr at every batch size, measured, against what each rule says.

Decided before any result was seen. Every training sees the same samples in all (the same epochs), whatever its batch
size: what somebody who changes the batch size means. lr rises linearly over a tenth of them, then falls as a cosine to
zero. SGD with momentum 0.9 and AdamW with torch's defaults; everything but lr stays. The optimum is the lr with the
lowest final loss on held-out data, fitted (`fit`) on a grid with factor √2; it starts from what the
neighbouring batch size suggests and grows until the lowest point has two neighbours on each side.

Records: one line per (task, method, batch size, lr) with all seeds. An interrupted study goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...measure.console import console
from ...measure.record import Record, append, latest, new_run, read
from . import fit
from .stacked_runs import METHODS, train_all
from .tasks import TASKS, Task, small_task

SIZES = (16, 32, 64, 128, 256, 512, 1024)
BASE = 128  # the batch size that rules start from: as many doublings below as above
SEEDS = (30011, 30013, 30029)
START = {"sgd": -6, "adamw": -14}  # first guess at the base: lr = 2^(k/2)
HABIT = {"sgd": 1.0, "adamw": 0.5}  # first guess of d ln lr/d ln B, until two sizes are measured
REACH = fit.SIDE  # grid points on each side of the guess, then of the lowest


def run_study(
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    *,
    sizes: Sequence[int] = SIZES,
    seeds: Sequence[int] = SEEDS,
    output: Path,
    fresh: bool = False,
) -> str:
    """Measure what is not yet recorded, one task, method and batch size after another.

    Parameters
    ----------
    tasks, methods : names (default: all);  sizes : batch sizes, the base among them;  seeds : of start and order
    output : file to append to;  fresh : begin a new run instead of going on with the last one

    Returns
    -------
    str : the name of the run

    Examples
    --------
    >>> run_study(["digits"], ["sgd"], output=Path("batch_scaling.jsonl"))              # doctest: +SKIP
    '2026-01-01T00:00:00Z'
    """
    before = latest(read(output))
    run = new_run() if fresh or not before else before[0]["more"]["run"]
    for name in tasks or TASKS:
        for method in methods or METHODS:
            best: dict[int, int] = {}
            for size in outward(sizes):
                best[size] = _measure(small_task(name), method, size, _guess(method, size, best), seeds, run, output)
    return run


def outward(sizes: Sequence[int]) -> list[int]:
    """Order batch sizes from the base up, then from the base down.

    Examples
    --------
    >>> outward((32, 64, 128, 256))
    [128, 256, 64, 32]
    """
    return sorted(b for b in sizes if b >= BASE) + sorted((b for b in sizes if b < BASE), reverse=True)


def _guess(method: str, size: int, best: dict[int, int]) -> int:
    """Predict the best grid point: from the nearest size, with the exponent between it and the next one."""
    if not best:
        return START[method]
    first, *others = sorted(best, key=lambda b: abs(math.log(b / size)))
    exponent = HABIT[method]
    if others:
        exponent = (best[first] - best[others[0]]) / (2 * math.log2(first / others[0]))
    return best[first] + round(2 * min(max(exponent, 0.0), 1.0) * math.log2(size / first))


def points(lines: Sequence[dict[str, Any]], task: str, method: str, size: int, value: str = "held") -> dict:
    """Collect final losses out of records: grid point -> seed -> loss.

    Only lrs that were measured with every seed of the cell count: means over different seeds are not comparable.

    Examples
    --------
    >>> points([], "digits", "sgd", 16)
    {}
    """
    found = all_points(lines, task, method, size, value)
    seeds = {seed for per in found.values() for seed in per}
    return {k: per for k, per in found.items() if set(per) == seeds}


def all_points(lines: Sequence[dict[str, Any]], task: str, method: str, size: int, value: str = "held") -> dict:
    """Collect final losses of all seeds, also where an lr was measured with fewer than others.

    Examples
    --------
    >>> all_points([], "digits", "sgd", 16)
    {}
    """
    found: dict[int, dict[int, float | None]] = {}
    for line in lines:
        more = line["more"]
        if more["kind"] == "grid" and (line["problem"], line["method"], more["batch"]) == (task, method, size):
            found.setdefault(more["k"], {}).update(zip(more["seeds"], more[value], strict=True))
    return dict(sorted(found.items()))


def _measure(task: Task, method: str, size: int, guess: int, seeds: Sequence[int], run: str, output: Path) -> int:
    """Measure around a guess until the minimum is bracketed; return the lowest grid point."""
    while True:
        lines = [line for line in read(output) if line["more"]["run"] == run]
        found = all_points(lines, task.name, method, size)
        done = {k: per for k, per in found.items() if set(seeds) <= set(per)}
        losses = fit.means(done or found)
        lowest = min(losses, key=lambda k: (losses[k], k)) if losses else guess
        wanted = [k for k in range(lowest - REACH, lowest + REACH + 1) if k not in done]
        if not wanted:
            break
        pairs = [(k, seed) for k in wanted for seed in seeds if seed not in found.get(k, {})]
        append(output, _train(task, method, size, pairs, run))
    best = fit.fit_optimum(done)
    console.print(f"{task.name} {method} B={size}: lr {best.lr:.4g} ± {100 * best.error:.0f} %, loss {best.loss:.4g}")
    return lowest


def _train(task: Task, method: str, size: int, pairs: Sequence[tuple[int, int]], run: str) -> list[Record]:
    """Train at every (grid point, seed); one record per grid point."""
    begun = time.process_time()
    outcome = train_all(task, METHODS[method], size, [fit.rate(k) for k, _ in pairs], [seed for _, seed in pairs])
    seconds = (time.process_time() - begun) / len(pairs)
    records = []
    for k in dict.fromkeys(k for k, _ in pairs):
        here = [i for i, (other, _) in enumerate(pairs) if other == k]
        more = {"run": run, "kind": "grid", "batch": size, "k": k, "seeds": [pairs[i][1] for i in here]}
        for name in ("held", "train", "accuracy"):
            more[name] = [float(f"{float(getattr(outcome, name)[i]):.5g}") for i in here]
        records.append(record(task, method, seconds, more))
    return records


def record(task: Task, method: str, seconds: float | None, more: dict[str, Any]) -> Record:
    """Make a record; `seconds` of CPU time per training.

    Examples
    --------
    >>> record(small_task("waves"), "sgd", 0.5, {"run": "r", "kind": "grid"}).unknowns
    2314
    """
    count = sum(p.numel() for p in task.made(0).parameters())
    facts: dict[str, Any] = {
        "dtype": "float32",
        "repeats": 1,
        "solve_s": None if seconds is None else round(seconds, 3),
    }
    return Record(method, task.name, count, math.nan, "MEASURED", "batch_scaling", more=more, **facts)
