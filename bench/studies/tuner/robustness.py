"""Does the tuner need to be told anything? Its runs with other initial lrs, units of the loss, and batch sizes.

On the three quickest workloads: initial lrs from 1e-6 to 10, the loss times 1e-3 and 1e3, batches of 16 to 512, each
of those against a grid of its own (five lrs around the workload's middle, momentum 0.9, chosen on two seeds).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from ...measure.record import Record
from ...show.markdown import markdown
from .entrants import TUNER_VERSION, of_this_version, tuned
from .runs import CHOOSING, LADDER, SCORING, Database, Entrant, Outcome, fit, outcome
from .variant_records import variant_record
from .workloads import Workload

ON = ("mlp", "quadratic", "factors")
LRS, SCALES, BATCHES = (1e-6, 1e-2, 10.0), (1e-3, 1e3), (16, 128, 512)


def variants() -> list[Entrant]:
    """Return the tuner with other initial lrs, units of the loss and batch sizes.

    Examples
    --------
    >>> [entrant.config for entrant in variants()][:2]
    ['3 lr=1e-06', '3 lr=0.01']
    """
    made = [Entrant("variant", f"{TUNER_VERSION} lr={lr:g}", tuned("SGD", lr=lr)) for lr in LRS]
    made += [Entrant("variant", f"{TUNER_VERSION} loss*{scale:g}", tuned("SGD", scale=scale)) for scale in SCALES]
    return made + [Entrant("variant", f"{TUNER_VERSION} batch={batch}", tuned("SGD", batch=batch)) for batch in BATCHES]


def batch_grid(work: Workload, batch: int) -> list[Entrant]:
    """Return SGD with momentum 0.9 and five lrs at a batch size.

    Examples
    --------
    >>> from .workloads import WORKLOADS
    >>> batch_grid(WORKLOADS["mlp"], 16)[0].config
    'batch=16 lr=0.01'
    """

    def entrant(lr: float) -> Entrant:
        def run(work: Workload, seed: int) -> Outcome:
            task = work.task(seed)
            sgd = torch.optim.SGD(task.model.parameters(), lr=lr, momentum=0.9)
            return outcome(task, fit(work, task, sgd, seed, steps=work.steps, batch=batch))

        return Entrant("batch grid", f"batch={batch} lr={lr:g}", run)

    return [entrant(float(f"{0.1 * work.sgd * factor:.4g}")) for factor in LADDER]


def run_robustness(runs: Database, work: Workload) -> None:
    """Run what is missing, on the three quickest workloads.

    Examples
    --------
    >>> from pathlib import Path
    >>> from .workloads import WORKLOADS
    >>> run_robustness(Database(Path("no-such-file.jsonl")), WORKLOADS["vit"])
    """
    if work.name not in ON:
        return
    for entrant in variants():
        runs.fill(work, entrant, SCORING)
    for batch in BATCHES:
        for point in batch_grid(work, batch):
            runs.fill(work, point, CHOOSING)
        best = _best(runs, work, batch)
        if best is not None:
            runs.fill(work, best, SCORING)


def _best(runs: Database, work: Workload, batch: int) -> Entrant | None:
    points = batch_grid(work, batch)
    scores = [_mean(runs, work, "batch grid", point.config, CHOOSING) for point in points]
    if any(score is None for score in scores):
        return None
    return points[min(range(len(points)), key=lambda k: scores[k] or 0.0)]


def _mean(runs: Database, work: Workload, method: str, config: str, seeds: Sequence[int]) -> float | None:
    """Return the mean validation loss over seeds, infinite if one diverged; None if one is missing."""
    return _mean_of(runs.select(work.name, method, config), seeds)


def _mean_of(lines: list[dict[str, Any]], seeds: Sequence[int]) -> float | None:
    found = {line["seed"]: line["val"] for line in lines}
    if not set(seeds) <= set(found):
        return None
    return statistics.fmean(math.inf if found[seed] is None else found[seed] for seed in seeds)


def summary_of_robustness(runs: Database, work: Workload, run: str) -> list[Record]:
    """Compare each variant with the tuner as it is, batches with their own grids; ratios of mean validation losses.

    Examples
    --------
    >>> from pathlib import Path
    >>> from .workloads import WORKLOADS
    >>> summary_of_robustness(Database(Path("no-such-file.jsonl")), WORKLOADS["mlp"], "now")
    []
    """
    records = []
    plain = _mean_of(of_this_version(runs.select(work.name, "tuner SGD")), SCORING)
    for entrant in variants() if work.name in ON else []:
        suffix = entrant.config.removeprefix(TUNER_VERSION)
        val, reference = _mean_of(of_this_version(runs.select(work.name, "variant"), suffix), SCORING), plain
        if "batch=" in entrant.config:
            best = _best(runs, work, int(entrant.config.partition("batch=")[2]))
            reference = _mean(runs, work, "batch grid", best.config, SCORING) if best is not None else None
        if val is None or reference is None:
            continue
        name = suffix.strip()
        numbers = {"run": run, "val": val, "reference": reference, "ratio": val / reference}
        records.append(variant_record("tuner variant", work.name, name, len(SCORING), **numbers))
    return records


def robustness_table(lines: Sequence[dict]) -> str:
    """Write the ratios: a row per variant, a column per workload.

    Examples
    --------
    >>> line = {"method": "tuner variant", "problem": "mlp", "config": "lr=10", "more": {"ratio": 1.25}}
    >>> print(robustness_table([line]).splitlines()[-1])
    | lr=10 | 1.25 |
    """
    found = [line for line in lines if line["method"] == "tuner variant"]
    names = list(dict.fromkeys(line["problem"] for line in found))
    ratios = {(line["config"], line["problem"]): line["more"]["ratio"] for line in found}
    rows = [
        [config, *(f"{ratios[config, n]:.3g}" if ratios.get((config, n)) is not None else "-" for n in names)]
        for config in dict.fromkeys(line["config"] for line in found)
    ]
    return markdown(["validation loss relative to", *names], rows)
