"""The judgement of the tuner, once: ten workloads that nobody has designed on, against grids and rivals, resumable.

    python -m krylearn.bench.studies.tuner.judgement [--database FILE] [--hours 4] [--workloads NAME ...] [--summary]

What is in the database is not run again, so the same command goes on where it was stopped. Everybody gets the same
number of gradients and the same batches per seed; the tuner's extra work is taken off its steps. Grids: lr/(1-β)
(AdamW: lr) on a ladder of half decades times three momenta, 15 points on two seeds; while the best is at an end of
the ladder, the ladder is moved; its best three on ten seeds, of which the best mean counts. Rivals have their defaults;
the calibrated AdamW is the one point of AdamW's grid that is best over the ten workloads designed on.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from krylearn.optim import CurvatureTuner

from ...measure.console import console
from .entrants import TUNER_VERSION
from .judgement_workloads import JUDGED, JudgedTask, JudgedWorkload
from .runs import CHOOSING, LADDER, Database, Outcome
from .workload_data import DataError

SEEDS = tuple(range(10, 20))
BETAS = (0.0, 0.9, 0.97)
BASES = ("SGD", "AdamW")
CLOSE, BOUND = 1.02, 1.05  # ratio to the grid, upper end of its interval (95 %)
CALIBRATED = (10**-1.5, 0.9)  # lr and β₁ of AdamW: lowest geometric mean of losses over the ten workloads of before
BUDGET = 0.1  # of extra work, the tuner's default
MOST_MOVES = 4  # of a ladder
Make = Callable[[JudgedTask, JudgedWorkload], torch.optim.Optimizer]


class Judged(NamedTuple):
    """A method with a configuration, and how it is run."""

    method: str
    config: str
    run: Callable[[JudgedWorkload, int], Outcome]


def train_judged(
    work: JudgedWorkload, task: JudgedTask, optimizer: torch.optim.Optimizer, seed: int, *, steps: int, annealed: bool
) -> int:
    """Train with the workload's schedule, looks charged; stop at a loss that is not finite; return the steps made.

    Examples
    --------
    >>> work = JUDGED["experts"]
    >>> task = work.task(0)
    >>> train_judged(work, task, torch.optim.SGD(task.model.parameters(), lr=0.01), 0, steps=3, annealed=False)
    3
    """
    tuner = optimizer if isinstance(optimizer, CurvatureTuner) else None
    spent = (lambda: tuner.spent) if tuner is not None else (lambda: 0.0)
    scheduler = None
    if annealed:
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step + spent(), steps) / steps))
        )
    generator, step = torch.Generator().manual_seed(1000 + seed), 0
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the tuner had to undo is in its history
        torch.manual_seed(seed)
        while step + spent() < steps:
            batch = task.draw(generator)
            optimizer.zero_grad()
            if tuner is not None:
                tuner.observe(task.loss, batch)
            loss = task.loss(batch)
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            step += 1
            if tuner is None and not math.isfinite(float(loss.detach())):
                break
    return step


def _with_defaults(kind: Any) -> Make:
    """Return a maker of an optimizer of this class with nothing set."""
    return lambda task, work: kind(task.model.parameters())


def plain(make: Make, annealed: bool | None = None) -> Callable[[JudgedWorkload, int], Outcome]:
    """Return a run of an optimizer under the workload's schedule, or under none.

    Examples
    --------
    >>> run = plain(lambda task, work: torch.optim.SGD(task.model.parameters(), lr=0.01))
    >>> run(JUDGED["communities"], 0).steps
    300
    """

    def run(work: JudgedWorkload, seed: int) -> Outcome:
        task = work.task(seed)
        optimizer = make(task, work)
        bends = work.annealed if annealed is None else annealed
        train = getattr(optimizer, "train", None)  # Schedule-Free's two modes
        if train is not None:
            train()
        steps = train_judged(work, task, optimizer, seed, steps=work.steps, annealed=bends)
        if train is not None:
            optimizer.eval()  # type: ignore[attr-defined]
        value = work.measure(task)
        extra, more = 0.0, None
        if isinstance(optimizer, CurvatureTuner):
            extra = optimizer.spent
            rows = [row for row in optimizer.history if row["event"] in ("settled", "rescue", "raised by trial")]
            more = {"trace": [f"{row['event']} {row['step']} {row['lr']:.3g}" for row in rows]}
        return Outcome(value, value, steps, extra, more)

    return run


def grid_point(base: str, rate: float, beta: float) -> Judged:
    """Return a point of a base's grid; `rate` is lr/(1-β) for SGD.

    Examples
    --------
    >>> grid_point("SGD", 1.0, 0.9).config
    'lr=0.1 beta=0.9'
    """
    lr = float(f"{rate * (1 - beta) if base == 'SGD' else rate:.4g}")

    def make(task: JudgedTask, work: JudgedWorkload) -> torch.optim.Optimizer:
        p = task.model.parameters()
        if base == "SGD":
            return torch.optim.SGD(p, lr=lr, momentum=beta, weight_decay=work.weight_decay)
        return torch.optim.AdamW(p, lr=lr, betas=(beta, 0.999), weight_decay=work.weight_decay)

    return Judged(base, f"lr={lr:g} beta={beta:g}", plain(make))


def tuner_around(base: str, policy: str = "edge") -> Judged:
    """Return the tuner around a base, told the horizon: the gradients that are there for all, less its own budget.

    Examples
    --------
    >>> tuner_around("SGD").method
    'tuner SGD'
    """

    def make(task: JudgedTask, work: JudgedWorkload) -> torch.optim.Optimizer:
        kind = torch.optim.SGD if base == "SGD" else torch.optim.AdamW
        inside = kind(task.model.parameters(), lr=1.0, weight_decay=work.weight_decay)
        if policy == "granziol":
            return CurvatureTuner(inside, "granziol", every=10**9)
        return CurvatureTuner(inside, total_steps=round(work.steps / (1 + BUDGET)))

    return Judged(f"tuner {base}" if policy == "edge" else "published learner", f"version {TUNER_VERSION}", plain(make))


def list_rivals() -> Iterator[Judged]:
    """Yield the rivals that are installed, the calibrated AdamW first.

    Examples
    --------
    >>> next(list_rivals()).method
    'AdamW calibrated'
    """
    point = grid_point("AdamW", *CALIBRATED)
    yield Judged("AdamW calibrated", point.config, point.run)
    yield tuner_around("SGD", "granziol")
    if importlib.util.find_spec("prodigyopt"):
        from prodigyopt import Prodigy

        yield Judged("Prodigy", "lr=1", plain(lambda task, work: Prodigy(task.model.parameters(), lr=1.0)))
    if importlib.util.find_spec("dadaptation"):
        from dadaptation import DAdaptAdam

        yield Judged("D-Adaptation", "lr=1", plain(lambda task, work: DAdaptAdam(task.model.parameters(), lr=1.0)))
    if importlib.util.find_spec("schedulefree"):
        import schedulefree

        for name in ("AdamWScheduleFree", "SGDScheduleFree"):
            yield Judged(name, "default", plain(_with_defaults(getattr(schedulefree, name)), False))


def run_judgement(runs: Database, names: list[str], deadline: float) -> bool:
    """Run what is missing until the deadline (time.monotonic()); return whether all is there.

    Examples
    --------
    >>> run_judgement(Database(Path("no-such-file")), [], 0.0)
    True
    """
    for name in names:
        work = JUDGED[name]
        try:
            work.task(0)
        except DataError as error:
            console.print(f"{name} left out: {error}")
            continue
        for base in BASES:
            if not _run_grid(runs, work, base, deadline):
                return False
        for each in [*(tuner_around(base) for base in BASES), *list_rivals()]:
            if not _fill(runs, work, each, SEEDS, deadline):
                return False
    return True


def _fill(runs: Database, work: JudgedWorkload, each: Judged, seeds: tuple[int, ...], deadline: float) -> bool:
    for seed in seeds:
        if (work.name, each.method, each.config, seed) in runs:
            continue
        if time.monotonic() > deadline:
            return False
        start = time.process_time()
        runs.add(work.name, each.method, each.config, seed, each.run(work, seed), time.process_time() - start)
    return True


def _run_grid(runs: Database, work: JudgedWorkload, base: str, deadline: float) -> bool:
    centre = 0.3 if base == "SGD" else 0.01
    for _ in range(MOST_MOVES):
        points = {(rate, beta): grid_point(base, rate, beta) for rate in _ladder(centre) for beta in BETAS}
        for point in points.values():
            if not _fill(runs, work, point, CHOOSING, deadline):
                return False
        best = min(points, key=lambda key: _mean(runs, work, points[key], CHOOSING))[0]
        ends = (_ladder(centre)[0], _ladder(centre)[-1])
        if best not in ends:
            break
        centre = best
    three = sorted(points.values(), key=lambda point: _mean(runs, work, point, CHOOSING))[:3]
    return all(_fill(runs, work, point, SEEDS, deadline) for point in three)


def _ladder(centre: float) -> list[float]:
    return [float(f"{centre * factor:.4g}") for factor in LADDER]


def _values(
    runs: Database, work: JudgedWorkload, method: str, config: str, seeds: tuple[int, ...]
) -> list[float] | None:
    found = {line["seed"]: line["val"] for line in runs.select(work.name, method, config)}
    if not set(seeds) <= set(found):
        return None
    return [math.inf if found[seed] is None else found[seed] for seed in seeds]


def _mean(runs: Database, work: JudgedWorkload, point: Judged, seeds: tuple[int, ...]) -> float:
    values = _values(runs, work, point.method, point.config, seeds)
    return statistics.fmean(values) if values else math.inf


def judge(ours: list[float], theirs: list[float], draws: int = 4000) -> dict[str, Any]:
    """Return the ratio of mean losses on paired seeds, the upper end of its bootstrap interval (95 %), the verdict.

    Examples
    --------
    >>> judge([1.0, 1.01], [1.0, 1.0])["good"], judge([2.0, 2.1], [1.0, 1.0])["good"]
    (True, False)
    """
    a, b = np.array(ours), np.array(theirs)
    if not np.isfinite(a).all():
        return {"ratio": math.inf, "upper": math.inf, "good": False}
    if not np.isfinite(b).all():
        return {"ratio": 0.0, "upper": 0.0, "good": True}
    picks = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    upper = float(np.quantile(a[picks].mean(1) / b[picks].mean(1), 0.95))
    ratio = float(a.mean() / b.mean())
    return {"ratio": ratio, "upper": upper, "good": ratio <= CLOSE or upper < BOUND}


RIVALS = ("AdamW calibrated", "published learner", "Prodigy", "D-Adaptation", "AdamWScheduleFree", "SGDScheduleFree")


def list_finished(runs: Database) -> list[str]:
    """Return the workloads on which nothing is missing: three points of each grid and every method, on all seeds.

    Examples
    --------
    >>> list_finished(Database(Path("no-such-file")))
    []
    """
    finished = []
    for name, work in JUDGED.items():
        methods = [f"tuner {base}" for base in BASES] + list(RIVALS)
        full = {m: _count_full(runs, work, m) for m in (*methods, *BASES)}
        if all(full[m] for m in methods) and all(full[base] >= 3 for base in BASES):
            finished.append(name)
    return finished


def _count_full(runs: Database, work: JudgedWorkload, method: str) -> int:
    configs = {line["c"] for line in runs.select(work.name, method)}
    return sum(_values(runs, work, method, config, SEEDS) is not None for config in configs)


def summarize(runs: Database) -> str:
    """Write the table: mean measure of every method, the tuner's ratio to its grid's best; profiles below it.

    Of finished workloads only; while any is missing the first line says so, and the table is no judgement.

    Examples
    --------
    >>> "workload" in summarize(Database(Path("no-such-file")))
    True
    """
    methods = [*BASES, *(f"tuner {base}" for base in BASES), *RIVALS]
    rows, means = [], {}
    finished = list_finished(runs)
    for work in (JUDGED[name] for name in finished):
        row: list[str] = [work.name]
        for method in methods:
            configs = {line["c"] for line in runs.select(work.name, method)}
            full = {c: v for c in configs if (v := _values(runs, work, method, c, SEEDS)) is not None}
            best = min(full, key=lambda c: statistics.fmean(full[c]), default=None)
            if best is None:
                row.append("-")
                continue
            means[work.name, method] = full[best]
            text = f"{statistics.fmean(full[best]):.3g}"
            grid = means.get((work.name, method.removeprefix("tuner "))) if method.startswith("tuner ") else None
            if grid is not None:
                verdict = judge(full[best], grid)
                text += f" ({verdict['ratio']:.2f} {'✓' if verdict['good'] else '✗'})"
            row.append(text)
        rows.append(row)
    lines = [_row(["workload", *methods]), _row(["---"] * (len(methods) + 1)), *(_row(row) for row in rows)]
    told = [] if len(finished) == len(JUDGED) else [f"UNFINISHED: {len(finished)} of {len(JUDGED)} workloads", ""]
    return "\n".join([*told, *lines, "", *_profiles(means, methods)])


def _profiles(means: dict[tuple[str, str], list[float]], methods: list[str]) -> list[str]:
    """Return, per method, the share of workloads on which it is within a factor of the best method there."""
    best: dict[str, float] = {}
    for (name, _), values in means.items():
        best[name] = min(best.get(name, math.inf), statistics.fmean(values))
    lines = [_row(["within a factor of the best", "1.05", "1.2", "1.5", "2", "5"]), _row(["---"] * 6)]
    for method in methods:
        ratios = [statistics.fmean(v) / best[name] for (name, each), v in means.items() if each == method]
        if ratios:
            shares = [sum(ratio <= limit for ratio in ratios) / len(ratios) for limit in (1.05, 1.2, 1.5, 2, 5)]
            lines.append(_row([method, *(f"{100 * share:.0f} %" for share in shares)]))
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Run the judgement, or go on with it; 0 when all of it is there, 3 when the hours were not enough.

    Examples
    --------
    >>> main(["--summary", "--database", "no-such-file.jsonl"])  # doctest: +SKIP
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[1] / "records" / "runs" / "judgement.jsonl"
    parser.add_argument("--database", type=Path, default=here)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--workloads", nargs="+", choices=list(JUDGED), default=list(JUDGED))
    parser.add_argument("--summary", action="store_true", help="only show what there is")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = Database(options.database)
    deadline = time.monotonic() + 3600 * options.hours
    done = True if options.summary else run_judgement(runs, options.workloads, deadline)
    console.print(summarize(runs), markup=False, soft_wrap=True)
    if not done:
        console.print("the hours are over; the same command goes on from here")
    return 0 if done else 3


__all__ = ["judge", "main", "run_judgement", "summarize", "train_judged"]

if __name__ == "__main__":
    raise SystemExit(main())
