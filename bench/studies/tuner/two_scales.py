"""Muon for matrices and AdamW for the rest, both lrs learned, against a grid over both lrs.

    krylearn study two-scales

Resumable: what is in the database is not run again. Two design workloads, everybody with the same gradients, batches
and cosine; the tuner's extra work is taken off its steps. Grid: five lrs of Muon times five of AdamW, half decades
apart, on two seeds; its best three points on five others, on which everybody is scored.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from krylearn.optim import CurvatureTuner
from krylearn.optim.tuner.wrapper import JoinedOptimizer
from torch import nn

from ...measure.console import console, table
from ...measure.record import Record, append, new_run
from ...show.markdown import markdown
from .compare import compare
from .entrants import charged_fit
from .plateau_workloads import PLATEAUS
from .runs import CHOOSING, Database, Entrant, Outcome, fit, outcome
from .variant_records import or_nan, variant_record
from .workloads import WORKLOADS, Workload

SEEDS = (20, 21, 22, 23, 24)
MUON, ADAMW = (10**-2.5, 1e-2, 10**-1.5, 1e-1, 10**-0.5), (1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1)
HEADER = ("workload", "grid's best (Muon, AdamW)", "loss", "both learned", "ratio", "one scale, lrs as given", "ratio")
TASKS = ("mlp", "deep")


def workloads_of_two() -> list[Workload]:
    """Return the workloads of this study: perceptrons, with matrices inside.

    Examples
    --------
    >>> [work.name for work in workloads_of_two()]
    ['mlp', 'deep']
    """
    every = {**WORKLOADS, **{work.name: work for work in PLATEAUS}}
    return [every[name] for name in TASKS]


def make_bases(model: nn.Module, muon: float, adamw: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices between hidden layers, and AdamW for the first, the last and everything else.

    Examples
    --------
    >>> made = make_bases(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), 0.02, 0.01)
    >>> [len(each.param_groups[0]["params"]) for each in made]
    [1, 5]
    """
    matrices = [p for p in model.parameters() if p.ndim == 2][1:-1]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [torch.optim.Muon(matrices, lr=muon, weight_decay=0.0), torch.optim.AdamW(rest, lr=adamw)]


def grid_of_two() -> list[Entrant]:
    """Return the 25 points of the grid.

    Examples
    --------
    >>> len(grid_of_two()), grid_of_two()[0].config
    (25, 'Muon 0.003162 AdamW 0.001')
    """

    def run_at(muon: float, adamw: float) -> Any:
        def run(work: Workload, seed: int) -> Outcome:
            task = work.task(seed)
            joined = JoinedOptimizer(make_bases(task.model, muon, adamw))
            return outcome(task, fit(work, task, joined, seed, steps=work.steps))

        return run

    return [
        Entrant("Muon + AdamW", f"Muon {muon:.4g} AdamW {adamw:.4g}", run_at(muon, adamw))
        for muon, adamw in itertools.product(MUON, ADAMW)
    ]


def tuners_of_two() -> list[Entrant]:
    """Return the tuner with both lrs learned, and with one scale for both and the lrs of torch's defaults (1e-3).

    Examples
    --------
    >>> [entrant.config for entrant in tuners_of_two()]
    ['both learned', 'one scale']
    """

    def run_with(learn: bool) -> Any:
        def run(work: Workload, seed: int) -> Outcome:
            task = work.task(seed)
            tuner = CurvatureTuner(make_bases(task.model, 1e-3, 1e-3), learn_ratios=learn, total_steps=work.steps)
            steps = charged_fit(work, task, tuner, seed)
            decided = [row for row in tuner.history if row["event"] not in ("hold", "drift")]
            trace = [f"{row['event']} {row['step']} {row['lr']:.3g}" for row in decided]
            return outcome(task, steps, tuner.spent, {"trace": trace, "ratios": list(tuner.tuning.ratios)})

        return run

    named = {"both learned": True, "one scale": False}
    return [Entrant("tuner Muon + AdamW", name, run_with(learn)) for name, learn in named.items()]


def run_two_scales(database: Path, output: Path | None) -> list[Record]:
    """Run what is missing, print the comparison, append it to the records.

    Examples
    --------
    >>> run_two_scales(Path("runs.jsonl"), None)  # doctest: +SKIP
    """
    torch.set_num_threads(1)
    runs, records, run = Database(database), [], new_run()
    for work in workloads_of_two():
        for entrant in tuners_of_two():
            runs.fill(work, entrant, SEEDS)
        for point in grid_of_two():
            runs.fill(work, point, CHOOSING)
        best = sorted(grid_of_two(), key=lambda point: _mean(runs, work, point, CHOOSING))[:3]
        for point in best:
            runs.fill(work, point, SEEDS)
        records += _compare(runs, work, min(best, key=lambda point: _mean(runs, work, point, SEEDS)), run)
    console.print(table("Muon + AdamW", HEADER, rows_of_two([record.line() for record in records])))
    if output is not None:
        append(output, records)
    return records


def _losses(runs: Database, work: Workload, entrant: Entrant, seeds: Sequence[int]) -> list[float]:
    found = {line["seed"]: or_nan(line["val"]) for line in runs.select(work.name, entrant.method, entrant.config)}
    return [found[seed] for seed in seeds]


def _mean(runs: Database, work: Workload, entrant: Entrant, seeds: Sequence[int]) -> float:
    mean = statistics.fmean(_losses(runs, work, entrant, seeds))
    return mean if mean == mean else float("inf")


def _compare(runs: Database, work: Workload, best: Entrant, run: str) -> list[Record]:
    theirs = _losses(runs, work, best, SEEDS)
    made = []
    for entrant in tuners_of_two():
        ours = _losses(runs, work, entrant, SEEDS)
        lines = [line for line in runs.select(work.name, entrant.method, entrant.config) if line["seed"] in SEEDS]
        more = compare(ours, theirs) | {"run": run, "best": best.config, "grid": statistics.fmean(theirs),
                                        "val": statistics.fmean(ours),
                                        "extra": statistics.fmean(x["extra"] / x["steps"] for x in lines)}  # fmt: skip
        made.append(variant_record(entrant.method, work.name, entrant.config, len(SEEDS), **more))
    return made


def rows_of_two(lines: Sequence[dict]) -> list[list[str]]:
    """Lay the records out, a row per workload.

    Examples
    --------
    >>> more = {"best": "Muon 0.01 AdamW 0.01", "grid": 0.5, "val": 0.55, "ratio": 1.1}
    >>> rows_of_two([{"problem": "mlp", "config": "both learned", "more": more}])
    [['mlp', 'Muon 0.01 AdamW 0.01', '0.5', '0.55', '1.10', '-', '-']]
    """
    made = []
    for name in dict.fromkeys(line["problem"] for line in lines):
        found = {line["config"]: line["more"] for line in lines if line["problem"] == name}
        first = next(iter(found.values()))
        cells = []
        for config in ("both learned", "one scale"):
            more = found.get(config)
            ratio = "-" if more is None or more["ratio"] is None else f"{more['ratio']:.2f}"
            cells += [f"{more['val']:.3g}" if more else "-", ratio]
        made.append([name, first["best"], f"{first['grid']:.3g}", *cells])
    return made


def table_of_two(lines: Sequence[dict]) -> str:
    """Write the records as Markdown.

    Examples
    --------
    >>> table_of_two([]).splitlines()[0][:12]
    '| workload |'
    """
    return markdown(HEADER, rows_of_two(lines))
