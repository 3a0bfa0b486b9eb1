"""The last three rounds of the tuner, all judged; `training_methods.ROUNDS` says which ships around which base."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ...measure.record import Record
from ...show.markdown import markdown
from .entrants import ROUNDS
from .runs import SCORING, Database, best_of
from .variant_records import or_nan, variant_record
from .workloads import Workload

SHOWN = ("edge 8", "edge 9", "edge 10")
SEEDS = tuple(range(10, 20))


def summary_of_rounds(runs: Database, work: Workload, run: str, compare: Callable[..., dict[str, Any]]) -> list[Record]:
    """Compare the rounds with the grid's best on the scoring seeds, and give the mean loss over all ten.

    Examples
    --------
    >>> from pathlib import Path
    >>> from .workloads import WORKLOADS
    >>> summary_of_rounds(Database(Path("no-such-file.jsonl")), WORKLOADS["mlp"], "now", dict)
    []
    """
    records = []
    for base in ROUNDS:
        best = best_of(runs, work, base)
        theirs = {x["seed"]: x["val"] for x in runs.select(work.name, base, best)} if best is not None else {}
        for each in SHOWN:
            ours = {x["seed"]: x["val"] for x in runs.select(work.name, f"tuner {base}", each)}
            if not (set(SEEDS) <= set(ours) and set(SCORING) <= set(theirs)):
                continue
            vals, grid = ([or_nan(x[seed]) for seed in SCORING] for x in (ours, theirs))
            mean = statistics.fmean(or_nan(ours[seed]) for seed in SEEDS)
            numbers = {"run": run, "mean": mean} | compare(vals, grid)
            records.append(variant_record(f"tuner round {base}", work.name, each, len(SEEDS), **numbers))
    return records


def rounds_table(lines: Sequence[dict]) -> str:
    """Write the rounds: ratio to the grid's best on the scoring seeds, and the mean loss over ten seeds.

    Examples
    --------
    >>> more = {"ratio": 0.98, "mean": 0.5, "verdict": "within 2 %"}
    >>> line = {"method": "tuner round SGD", "problem": "mlp", "config": "edge 8", "more": more}
    >>> print(rounds_table([line]).splitlines()[-1])
    | mlp | 0.980 ✓, 0.5 | - | - | - | - | - |
    """
    marks = {"within 2 %": "✓", "not worse": "≈", "worse": "✗"}
    found = [line for line in lines if line["method"].startswith("tuner round ")]
    cells = {(x["problem"], x["method"].removeprefix("tuner round "), x["config"]): x["more"] for x in found}
    keys = [(base, each) for base in ROUNDS for each in SHOWN]
    rows = []
    for name in dict.fromkeys(line["problem"] for line in found):
        row = [cells.get((name, *key)) for key in keys]
        texts = [f"{m['ratio']:.3f} {marks[m['verdict']]}, {m['mean']:.3g}" if m and m["ratio"] else "-" for m in row]
        rows.append([name, *texts])
    header = [f"{base}, {each}{' (ships)' if ROUNDS[base] == each else ''}" for base, each in keys]
    return markdown(["ratio to the grid, mean of ten seeds", *header], rows)
