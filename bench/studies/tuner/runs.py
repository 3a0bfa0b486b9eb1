"""The run database of the training comparison: one short JSON line per training run, appended, never edited, resumable.

A run is named by workload, method, configuration and seed; one that is in the file is not run again. Everybody gets
the same number of gradients and the same batches. `val` and `train` are mean losses at the end, null where the run
diverged; `extra` are gradient-equivalents spent beside the steps, which are taken off the steps of our own methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from krylearn.solvers.files import append_json_lines, read_json_lines

from .workloads import Task, Workload, schedule, training_loss, validation_loss

CHOOSING, SCORING = (0, 1), (10, 11, 12)
LADDER = tuple(10 ** (k / 2) for k in range(-2, 3))  # five learning rates over two decades
MOMENTA, BETAS = (0.0, 0.9, 0.97), (0.0, 0.9, 0.97)


class Outcome(NamedTuple):
    """What a run left: losses (NaN: diverged), steps made, gradient-equivalents beside them, anything else to keep."""

    val: float
    train: float
    steps: int
    extra: float = 0.0
    more: dict[str, Any] | None = None


class Entrant(NamedTuple):
    """A method with a configuration: what is written into the database, and how to run it."""

    method: str
    config: str
    run: Callable[[Workload, int], Outcome]


class Database:
    """Runs in a JSON-lines file.

    Examples
    --------
    >>> import tempfile
    >>> runs = Database(Path(tempfile.mkdtemp()) / "runs.jsonl")
    >>> runs.add("mlp", "SGD", "lr=1", 0, Outcome(0.5, 0.4, 100), 1.0)
    >>> [line["val"] for line in Database(runs.path).select("mlp", "SGD")]
    [0.5]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = read_json_lines(path)

    def __contains__(self, key: tuple[str, str, str, int]) -> bool:
        return any((line["w"], line["m"], line["c"], line["seed"]) == key for line in self.lines)

    def add(self, workload: str, method: str, config: str, seed: int, out: Outcome, seconds: float) -> None:
        """Append a run."""
        numbers = {name: _number(getattr(out, name)) for name in ("val", "train", "steps", "extra")}
        line: dict[str, Any] = {
            "w": workload,
            "m": method,
            "c": config,
            "seed": seed,
            **numbers,
            "cpu_s": round(seconds, 2),
        }
        if out.more:
            line["more"] = out.more
        self.lines.append(line)
        append_json_lines(self.path, [line])

    def select(self, workload: str, method: str, config: str | None = None) -> list[dict[str, Any]]:
        """Return the runs of a method on a workload."""
        found = (line for line in self.lines if line["w"] == workload and line["m"] == method)
        return [line for line in found if config is None or line["c"] == config]

    def fill(self, work: Workload, entrant: Entrant, seeds: tuple[int, ...]) -> None:
        """Run what is missing."""
        for seed in seeds:
            if (work.name, entrant.method, entrant.config, seed) not in self:
                start = time.process_time()
                out = entrant.run(work, seed)
                self.add(work.name, entrant.method, entrant.config, seed, out, time.process_time() - start)


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def fit(
    work: Workload,
    task: Task,
    optimizer: torch.optim.Optimizer,
    seed: int,
    *,
    steps: int,
    scheduler: Any = "shared",
    before: Callable[[int, Any], None] | None = None,
    batch: int | None = None,
) -> int:
    """Train for some steps; stop at a loss that is not finite. `before(step, batch)` is called ahead of each step.

    Returns the steps made. `scheduler`: "shared" (cosine to zero), None, or one that is stepped after each step.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> work = WORKLOADS["quadratic"]
    >>> task = work.task(0)
    >>> fit(work, task, torch.optim.SGD(task.model.parameters(), lr=0.05), 0, steps=3)
    3
    """
    if scheduler == "shared":
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout
        for step, (x, y) in zip(range(steps), work.batches(task, seed, batch), strict=False):
            if before is not None:
                before(step, (x, y))
            optimizer.zero_grad()
            loss = work.loss(task.model(x), y)
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            if not math.isfinite(loss.item()):
                return step + 1
    return steps


def outcome(task: Task, steps: int, extra: float = 0.0, more: dict[str, Any] | None = None) -> Outcome:
    """Measure the losses that a run has left.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> outcome(WORKLOADS["quadratic"].task(0), 0).steps
    0
    """
    return Outcome(validation_loss(task), training_loss(task), steps, extra, more)


def plain(make: Callable[[list], torch.optim.Optimizer], scheduler: Any = "shared") -> Callable:
    """Return a run of an optimizer as it is.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> run = plain(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    >>> run(WORKLOADS["quadratic"], 0).steps
    500
    """

    def run(work: Workload, seed: int) -> Outcome:
        task = work.task(seed)
        optimizer = make(list(task.model.parameters()))
        return outcome(task, fit(work, task, optimizer, seed, steps=work.steps, scheduler=scheduler))

    return run


def sgd_grid(work: Workload) -> Iterator[Entrant]:
    """Yield the 15 points of the grid: lr/(1-β) over two decades around the workload's middle, times momentum.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> len(list(sgd_grid(WORKLOADS["quadratic"])))
    15
    """
    for factor in LADDER:
        for beta in MOMENTA:
            lr = float(f"{factor * work.sgd * (1 - beta):.4g}")

            def make(parameters: list, lr: float = lr, beta: float = beta) -> torch.optim.Optimizer:
                return torch.optim.SGD(parameters, lr=lr, momentum=beta)

            yield Entrant("SGD", f"lr={lr:g} momentum={beta:g}", plain(make))


def adamw_grid(work: Workload) -> Iterator[Entrant]:
    """Yield the 15 points of the grid: lr from 1e-3 to 1e-1 times β₁.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> next(adamw_grid(WORKLOADS["quadratic"])).config
    'lr=0.001 beta1=0'
    """
    for factor in LADDER:
        for beta in BETAS:
            lr = float(f"{0.01 * factor:.4g}")

            def make(parameters: list, lr: float = lr, beta: float = beta) -> torch.optim.Optimizer:
                return torch.optim.AdamW(parameters, lr=lr, betas=(beta, 0.999))

            yield Entrant("AdamW", f"lr={lr:g} beta1={beta:g}", plain(make))


def best_of(runs: Database, work: Workload, method: str) -> str | None:
    """Return the grid point with the best mean validation loss over the choosing seeds; None if runs are missing.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> best_of(Database(Path("no-such-file")), WORKLOADS["mlp"], "SGD") is None
    True
    """
    grid = sgd_grid(work) if method == "SGD" else adamw_grid(work)
    scores = {}
    for point in grid:
        found = {line["seed"]: line["val"] for line in runs.select(work.name, method, point.config)}
        if not set(CHOOSING) <= set(found):
            return None
        values = [math.inf if found[seed] is None else found[seed] for seed in CHOOSING]
        scores[point.config] = sum(values) / len(values)
    return min(scores, key=scores.__getitem__)


def run_grid(runs: Database, work: Workload, method: str) -> None:
    """Run a grid on the choosing seeds, and its best point on the scoring seeds; what is in the database is kept.

    Examples
    --------
    >>> run_grid(Database(Path("runs.jsonl")), WORKLOADS["mlp"], "SGD")  # doctest: +SKIP
    """
    points = list(sgd_grid(work) if method == "SGD" else adamw_grid(work))
    for point in points:
        runs.fill(work, point, CHOOSING)
    best = best_of(runs, work, method)
    runs.fill(work, next(point for point in points if point.config == best), SCORING)
