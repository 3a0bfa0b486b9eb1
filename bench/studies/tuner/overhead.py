"""What the tuner costs: a step with nothing to do, by number of groups, and whole runs on models of half a millisecond.

    krylearn study overhead

An idle step is `observe` with nothing due and `step` around a base whose own step does nothing; the least of many, in
microseconds. A whole run is timed against the same number of steps of the plain base at the lr in force, both in
processor time of one process, fifty steps of each in turn; the median of the ratios of pairs counts. So whatever else
the machine does meets both, and what no count of gradients sees (copies, inner products, Python) is in it.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from krylearn.optim import CurvatureTuner
from torch import Tensor, nn

from ...measure.console import console, table
from ...measure.record import Record, append, new_run
from ...show.markdown import markdown
from .workload_models import perceptron

GROUPS = (1, 100, 10_000)
BUDGET = (20.0, 0.1)  # microseconds of an idle step, and per group
STEPS = 2000
PAIRS = 5
BASES: dict[str, Callable[[list[nn.Parameter], float], torch.optim.Optimizer]] = {
    "SGD": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    "AdamW": lambda parameters, lr: torch.optim.AdamW(parameters, lr=lr),
}
HEADER = ("what", "measured", "allowed")


def measure_idle_step(groups: int, rounds: int = 300) -> float:
    """Return the microseconds that a step with nothing to do costs beside the base's own, the least of many.

    Examples
    --------
    >>> 0 < measure_idle_step(1, 10) < 1e4
    True
    """
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    base: Any = torch.optim.SGD(parameters, lr=1.0)
    base.param_groups = [base.param_groups[0] | {"params": [p]} for p in parameters]  # torch's own way is quadratic
    tuner = CurvatureTuner(base)
    tuner.rebase(0.5)
    tuner.tuning.scale = 0.5
    tuner.tuning.curvature.next_measurement = tuner.tuning.curvature.spectrum_done = 2**62
    base.step = lambda: None
    step: Any = CurvatureTuner.step
    while hasattr(step, "__wrapped__"):  # torch's hooks and profiling are around every optimizer's step
        step = step.__wrapped__
    best = float("inf")
    with torch.no_grad():
        for _ in range(rounds):
            tuner.tuning.hold.last_look_step = tuner.tuning.steps
            start = time.perf_counter()
            tuner.observe(_refuse, None)
            step(tuner)
            best = min(best, time.perf_counter() - start)
    return 1e6 * best


def _refuse(batch: Any) -> Any:
    raise AssertionError("nothing is due")


class Run:
    """A perceptron on fixed random rows: some half a millisecond per step."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = perceptron(64, 192, 192, 192, 10)
        self.x = torch.randn(4096, 64, generator=generator)
        self.y = (self.x @ torch.randn(64, 10, generator=generator)).argmax(1)
        self.generator = generator

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return a batch of 64 rows."""
        rows = torch.randint(len(self.x), (64,), generator=self.generator)
        return self.x[rows], self.y[rows]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of a batch."""
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])


def time_pair(base: str, seed: int, steps: int, turn: int = 50, **options: Any) -> tuple[float, float, float]:
    """Return processor time in seconds of a tuner's run and of the plain base's, and the tuner's extra work.

    Both advance together, `turn` steps each in turn, the plain base with the lr that the tuner has in force: whatever
    else the machine does meets both.

    Parameters
    ----------
    options : of the tuner

    Examples
    --------
    >>> ours, plain, extra = time_pair("SGD", 0, 4, 2)
    >>> ours > 0, plain > 0, extra > 0
    (True, True, True)
    """
    runs = [Run(seed), Run(seed)]
    inner, plain = (BASES[base](list(run.model.parameters()), 1.0) for run in runs)
    tuner = CurvatureTuner(inner, total_steps=steps, **options)
    seconds = [0.0, 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for begin in range(0, steps, turn):
            seconds[0] += _time_steps(runs[0], tuner, min(turn, steps - begin), tuner.observe)
            plain.param_groups[0]["lr"] = tuner.lr
            seconds[1] += _time_steps(runs[1], plain, min(turn, steps - begin), None)
    return seconds[0], seconds[1], tuner.spent


def _time_steps(run: Run, optimizer: torch.optim.Optimizer, steps: int, observe: Any) -> float:
    start = time.process_time()
    for _ in range(steps):
        batch = run.draw()
        optimizer.zero_grad()
        if observe is not None:
            observe(run.loss, batch)
        run.loss(batch).backward()
        optimizer.step()
    return time.process_time() - start


def run_overhead(*, output: Path | None, steps: int = STEPS, pairs: int = PAIRS) -> list[Record]:
    """Measure, print, and append to the records.

    Examples
    --------
    >>> run_overhead(output=None)  # doctest: +SKIP
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run, records = new_run(), []
        for groups in GROUPS:
            found = measure_idle_step(groups, 300 if groups < 1000 else 30)
            more = {"run": run, "kind": "idle", "microseconds": found, "allowed": BUDGET[0] + BUDGET[1] * groups}
            records.append(_record(f"{groups:,} groups", more))
        for base in BASES:
            ratios, extra, plain = [], [], []
            for seed in range(pairs):
                ours, theirs, spent = time_pair(base, seed, steps)
                ratios.append(ours / theirs)
                extra.append(spent / steps)
                plain.append(1e3 * theirs / steps)
            more = {"run": run, "kind": "run", "overhead": statistics.median(ratios) - 1, "steps": steps,
                    "extra": statistics.fmean(extra), "milliseconds": statistics.median(plain)}  # fmt: skip
            records.append(_record(base, more))
    finally:
        torch.set_num_threads(threads)
    console.print(table("What the tuner costs", HEADER, overhead_rows([record.line() for record in records])))
    if output is not None:
        append(output, records)
    return records


def _record(problem: str, more: dict[str, Any]) -> Record:
    return Record(
        "tuner", problem, unknowns=0, tolerance=0.0, status="MEASURED", experiment="overhead", repeats=1, more=more
    )


def overhead_rows(lines: Sequence[dict]) -> list[list[str]]:
    """Lay the records out.

    Examples
    --------
    >>> overhead_rows([{"problem": "1 groups", "more": {"kind": "idle", "microseconds": 9.1, "allowed": 20.1}}])
    [['idle step, 1 groups', '9.1 µs', '20 µs']]
    """
    rows = []
    for line in lines:
        more = line["more"]
        if more["kind"] == "idle":
            what = f"idle step, {line['problem']}"
            rows.append([what, f"{more['microseconds']:.1f} µs", f"{more['allowed']:.0f} µs"])
        else:
            what = f"{more['steps']:,} steps of {more['milliseconds']:.2f} ms around {line['problem']}"
            found = f"{100 * more['overhead']:.1f} % of the time, {100 * more['extra']:.1f} % of the gradients"
            rows.append([what, found, "10 %"])
    return rows


def overhead_table(lines: Sequence[dict]) -> str:
    """Write the records as Markdown.

    Examples
    --------
    >>> overhead_table([]).splitlines()[0]
    '| what | measured | allowed |'
    """
    return markdown(HEADER, overhead_rows(lines))
