"""`krylearn study training`: ten workloads, our tuner against grids and rivals; a database of runs, then a summary.

The database (`bench/studies/records/runs/training.jsonl`) is resumable: what is in it is not run again. The
summary is what the tables of the docs are made of: per workload and method the mean validation and training loss over
the scoring seeds, and for our tuner the comparison with the best of its base's grid.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...measure.console import console, table
from ...measure.record import Record, append, new_run
from .ablation import run_ablations, summary_of_ablations
from .entrants import BASES, absent, of_this_version, ours, rivals
from .plateau_workloads import PLATEAUS
from .robustness import run_robustness, summary_of_robustness
from .runs import SCORING, Database, best_of, run_grid
from .variant_records import or_nan
from .workload_data import DataError
from .workloads import WORKLOADS, Workload

MORE_SEEDS = tuple(range(13, 20))  # with the scoring seeds: ten on which nothing may diverge
STAGES = ("tuner", "grid", "rivals", "seeds", "robustness", "ablation")


def run_training(
    *,
    workloads: Sequence[str] | None = None,
    stages: Sequence[str] = STAGES,
    database: Path,
    output: Path | None,
) -> list[Record]:
    """Run what is missing, print the comparison, append its summary to the records.

    Parameters
    ----------
    workloads : names, default all ten;  stages : "tuner", "grid", "rivals", "seeds" (ours on seven more), "robustness",
        "ablation" (ours with one thing changed)
    database : JSON lines of runs;  output : record file, None for none

    Examples
    --------
    >>> run_training(workloads=["quadratic"], database=Path("runs.jsonl"), output=None)    # doctest: +SKIP
    """
    torch.set_num_threads(1)
    runs = Database(database)
    chosen = [WORKLOADS[name] for name in workloads or WORKLOADS]
    for stage in stages:
        for work in [*chosen, *(PLATEAUS if stage == "ablation" and not workloads else [])]:
            try:
                _run_stage(runs, work, stage)
            except DataError as error:
                console.print(f"{work.name} left out: {error}")
    if "rivals" in stages and absent():
        console.print(f'rivals that are absent: {", ".join(absent())}; pip install "krylearn\\[rivals]"')
    records = summary(runs, new_run())
    console.print(
        table("Mean validation loss", HEADER, rows([record.line() for record in records if record.method in COLUMNS]))
    )
    if output is not None:
        append(output, records)
    return records


def _run_stage(runs: Database, work: Workload, stage: str) -> None:
    console.print(f"{work.name}: {stage}")
    if stage == "robustness":
        return run_robustness(runs, work)
    if stage == "ablation":
        return run_ablations(runs, work)
    if stage == "grid":
        for base in BASES:
            run_grid(runs, work, base)
    for entrant in {"tuner": ours, "seeds": ours, "rivals": rivals}.get(stage, list)():
        runs.fill(work, entrant, MORE_SEEDS if stage == "seeds" else SCORING)


def summary(runs: Database, run: str) -> list[Record]:
    """Condense a database: one record per workload and method, over the scoring seeds.

    Examples
    --------
    >>> summary(Database(Path("no-such-file.jsonl")), "now")
    []
    """
    records = []
    for work in WORKLOADS.values():
        methods = {line["m"] for line in runs.lines if line["w"] == work.name and line["m"] in COLUMNS}
        for method in sorted(methods):
            config = None
            if method in BASES:
                config = best_of(runs, work, method)
                if config is None:
                    continue
            found = runs.select(work.name, method, config)
            found = of_this_version(found) if method.startswith("tuner") else found
            scored = [line for line in found if line["seed"] in SCORING]
            if len(scored) == len(SCORING):
                records.append(_record(runs, work, method, found, scored, run))
        records += summary_of_robustness(runs, work, run) + summary_of_ablations(runs, work, run)
    for work in PLATEAUS:
        records += summary_of_ablations(runs, work, run)
    return records


def _record(runs: Database, work: Workload, method: str, found: list, scored: list, run: str) -> Record:
    vals, trains = ([or_nan(x[k]) for x in scored] for k in ("val", "train"))
    more: dict[str, Any] = {
        "run": run, "purpose": work.purpose, "val": _mean(vals), "train": _mean(trains), "vals": vals,
        "extra": _mean([x["extra"] / max(x["steps"], 1) for x in scored]), "steps": work.steps, "batch": work.batch,
        "runs": len(found), "diverged": sum(x["val"] is None or x["val"] > 1e3 for x in found),
        "worst_extra": max(x["extra"] / max(x["steps"], 1) for x in found),
    }  # fmt: skip
    base = method.removeprefix("tuner ")
    best = best_of(runs, work, base) if method.startswith("tuner") else None
    if best is not None:
        theirs = {x["seed"]: x["val"] for x in runs.select(work.name, base, best)}
        grid = [or_nan(theirs.get(seed)) for seed in SCORING]
        more |= compare(vals, grid)
    return Record(
        method, work.name, unknowns=_size(work), tolerance=0.0, status="MEASURED", experiment="training",
        config=scored[0]["c"], dtype="float32", repeats=len(scored), more=more,
    )  # fmt: skip


def compare(ours_: Sequence[float], grid: Sequence[float], draws: int = 2000) -> dict[str, Any]:
    """Compare paired seeds: ratio of means, bootstrap interval (95 %) of the mean difference, and the verdict.

    Examples
    --------
    >>> compare([1.01, 1.0, 1.02], [1.0, 1.0, 1.0])["verdict"], compare([2.0, 2.1, 2.2], [1.0, 1.0, 1.0])["verdict"]
    ('within 2 %', 'worse')
    """
    a, b = np.array(ours_), np.array(grid)
    if not np.isfinite(b).all():  # a grid's best that diverged on a scoring seed loses to what did not
        return {"ratio": None, "verdict": "within 2 %" if np.isfinite(a).all() else "worse", "low": None, "high": None}
    if not np.isfinite(a).all():
        return {"ratio": None, "verdict": "worse", "low": None, "high": None}
    picks = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    low, high = np.quantile((a - b)[picks].mean(1), [0.025, 0.975])
    ratio = float(a.mean() / b.mean())
    verdict = "within 2 %" if ratio <= 1.02 else "not worse" if low <= 0 else "worse"
    return {"ratio": ratio, "low": float(low), "high": float(high), "verdict": verdict}


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _size(work: Workload) -> int:
    return sum(p.numel() for p in work.model().parameters())


COLUMNS = (
    "SGD", "tuner SGD", "AdamW", "tuner AdamW", "Prodigy", "D-Adaptation", "Schedule-Free AdamW", "Schedule-Free SGD",
    "lr_find + OneCycle", "published learner",
)  # fmt: skip
HEADER = (
    "workload", "SGD, best of 15", "tuner on SGD", "AdamW, best of 15", "tuner on AdamW", "Prodigy", "D-Adapt.",
    "SF AdamW", "SF SGD", "lr_find, OneCycle", "published",
)  # fmt: skip
MARKS = {"within 2 %": "✓", "not worse": "≈", "worse": "✗"}


def rows(lines: Sequence[dict], value: str = "val") -> list[list[str]]:
    """Lay a summary out: a row per workload; ✓ within 2 % of the grid's best, ≈ not worse on paired seeds, ✗ worse.

    Examples
    --------
    >>> rows([{"problem": "mlp", "method": "SGD", "more": {"val": 0.5, "purpose": "design"}}])[0][:3]
    ['mlp (design)', '0.5', '-']
    """
    made = []
    for name in dict.fromkeys(line["problem"] for line in lines):
        found = {line["method"]: line["more"] for line in lines if line["problem"] == name}
        purpose = next(iter(found.values()))["purpose"]
        cells = [_cell(found.get(column), value) for column in COLUMNS]
        made.append([f"{name} ({purpose})", *cells])
    return made


def _cell(more: dict[str, Any] | None, value: str) -> str:
    if more is None:
        return "-"
    mark = MARKS.get(more.get("verdict", ""), "") if value == "val" else ""
    number = more[value]
    return f"{'diverged' if number is None or not math.isfinite(number) else f'{number:.3g}'} {mark}".strip()


COST_HEADER = ("workload", "steps", "extra work, SGD", "extra work, AdamW", "diverged, of runs")


def cost_rows(lines: Sequence[dict]) -> list[list[str]]:
    """Lay out what the tuner spent: gradient-equivalents beside its steps, mean (worst) of the steps made; divergences.

    Examples
    --------
    >>> more = {"purpose": "design", "steps": 500, "extra": 0.07, "worst_extra": 0.08, "diverged": 0, "runs": 10}
    >>> cost_rows([{"problem": "mlp", "method": "tuner SGD", "more": more}])
    [['mlp (design)', '500', '7.0 % (8.0 %)', '-', '0 of 10']]
    """
    made = []
    for name in dict.fromkeys(line["problem"] for line in lines):
        found = {x["method"]: x["more"] for x in lines if x["problem"] == name and x["method"].startswith("tuner")}
        if not found:
            continue
        first = next(iter(found.values()))
        shares = [
            f"{100 * found[m]['extra']:.1f} % ({100 * found[m]['worst_extra']:.1f} %)" if m in found else "-"
            for m in ("tuner SGD", "tuner AdamW")
        ]
        runs = (sum(more[key] for more in found.values()) for key in ("diverged", "runs"))
        made.append([f"{name} ({first['purpose']})", str(first["steps"]), *shares, "{} of {}".format(*runs)])
    return made
