"""What else was tried: the tuner with one thing changed, on the design workloads and on seeds that nobody is scored on.

The design workloads are five of the ten and three more that begin on a plateau (`plateau_workloads`). Each variant is
compared with the best point of its base's grid on the same seeds, charged for its extra work as always.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from krylearn.optim import TunerConstants

from ...measure.record import Record
from ...show.markdown import markdown
from .entrants import TUNER_VERSION, tuned
from .plateau_workloads import PLATEAUS
from .runs import CHOOSING, Database, Entrant, adamw_grid, best_of, sgd_grid
from .variant_records import variant_record
from .workloads import Workload

SEEDS = (2, 3, 4, 5, 6, 7)
EAGER = (0.08, 0.2, 0.33, 0.42, 0.5)
VARIANTS: dict[str, dict[str, TunerConstants]] = {
    "SGD": {
        "as it is": TunerConstants(),
        "momentum 0.9": TunerConstants(ramp_momentum=0.9),
        "lr doubled in 4 steps, divisor 8": TunerConstants(ramp_doubling=4, ramp_divisor=8.0),
        "lr doubled in 2 steps": TunerConstants(ramp_doubling=2),
        "divisor 20": TunerConstants(ramp_divisor=20.0),
        "never doubled, only raised by the drift": TunerConstants(stretch_window=-1),
        "without the drift": TunerConstants(drift_raise=0.0),
        "higher targets of the drift, raised at most 3.2 times": TunerConstants(drift_targets=EAGER, drift_raise=1.7),
        "no later raises": TunerConstants(raise_fewest=2**31),
        "raised by 2 at a time": TunerConstants(raise_factors=(1.0, 2.0)),
        "no decay of its own": TunerConstants(own_decay=1e-9),
    },
    "AdamW": {
        "as it is": TunerConstants(),
        "β₁ 0.9": TunerConstants(trial_beta=0.9),
        "β₁ 0": TunerConstants(trial_beta=0.0),
        "no steps before the trials": TunerConstants(trial_warm=0),
        "trials of 6 half-batches": TunerConstants(trial_batches=3),
        "trials of 8 quarter batches": TunerConstants(trial_batches=2, trial_parts=4),
        "five trials up to 4 times the centre": TunerConstants(trial_factors=(0.25, 0.5, 1.0, 2.0, 4.0)),
        "without the drift": TunerConstants(drift_raise=0.0),
        "no later raises": TunerConstants(raise_fewest=2**31),
        "no decay of its own": TunerConstants(own_decay=1e-9),
    },
}


def ablations(base: str) -> list[Entrant]:
    """Return the variants around a base.

    Examples
    --------
    >>> [entrant.config for entrant in ablations("SGD")][1]
    '3 momentum 0.9'
    """
    return [
        Entrant(f"ablation {base}", f"{TUNER_VERSION} {name}", tuned(base, constants=constants))
        for name, constants in VARIANTS[base].items()
    ]


def run_ablations(runs: Database, work: Workload) -> None:
    """Run what is missing, on a design workload: the grids' best points, then the variants.

    Examples
    --------
    >>> from pathlib import Path
    >>> from .workloads import WORKLOADS
    >>> run_ablations(Database(Path("no-such-file.jsonl")), WORKLOADS["vit"])
    """
    if work.purpose != "design":
        return
    for base, grid in (("SGD", sgd_grid), ("AdamW", adamw_grid)):
        for point in grid(work) if work in PLATEAUS else ():  # the others have theirs
            runs.fill(work, point, CHOOSING)
        best = best_of(runs, work, base)
        for entrant in [*(point for point in grid(work) if point.config == best), *ablations(base)]:
            runs.fill(work, entrant, SEEDS)


def summary_of_ablations(runs: Database, work: Workload, run: str) -> list[Record]:
    """Compare each variant with the grid's best on the same seeds: ratios of mean validation losses, and extra work.

    Examples
    --------
    >>> from pathlib import Path
    >>> from .workloads import WORKLOADS
    >>> summary_of_ablations(Database(Path("no-such-file.jsonl")), WORKLOADS["mlp"], "now")
    []
    """
    records = []
    for base in VARIANTS:
        best = best_of(runs, work, base)
        theirs = _lines(runs, work, base, best) if best is not None else None
        for entrant in ablations(base) if theirs else []:
            ours = _lines(runs, work, entrant.method, entrant.config)
            if ours is None:
                continue
            reference = _mean(theirs or [])
            ratio = _mean(ours) / reference if math.isfinite(reference) else None  # the grid's best may diverge here
            extra = statistics.fmean(line["extra"] / max(line["steps"], 1) for line in ours)
            name = entrant.config.removeprefix(TUNER_VERSION).strip()
            method = f"tuner {entrant.method}"
            records.append(variant_record(method, work.name, name, len(SEEDS), run=run, ratio=ratio, extra=extra))
    return records


def _lines(runs: Database, work: Workload, method: str, config: str) -> list[dict[str, Any]] | None:
    found = {line["seed"]: line for line in runs.select(work.name, method, config)}
    return [found[seed] for seed in SEEDS] if set(SEEDS) <= set(found) else None


def _mean(lines: list[dict[str, Any]]) -> float:
    return statistics.fmean(math.inf if line["val"] is None else line["val"] for line in lines)


def ablation_table(lines: Sequence[dict]) -> str:
    """Write the ratios: a row per base and variant, a column per workload, and the extra work.

    Examples
    --------
    >>> more = {"ratio": 1.25, "extra": 0.05}
    >>> line = {"method": "tuner ablation SGD", "problem": "mlp", "config": "as it is", "more": more}
    >>> print(ablation_table([line]).splitlines()[-1])
    | SGD: as it is | 1.25 | 5.0 % |
    """
    found = [line for line in lines if line["method"].startswith("tuner ablation ")]
    names = list(dict.fromkeys(line["problem"] for line in found))
    rows = []
    for key in dict.fromkeys((line["method"], line["config"]) for line in found):
        mine = {line["problem"]: line["more"] for line in found if (line["method"], line["config"]) == key}
        ratios = [f"{mine[n]['ratio']:.3g}" if n in mine and mine[n]["ratio"] is not None else "-" for n in names]
        extra = statistics.fmean(more["extra"] for more in mine.values())
        rows.append([f"{key[0].removeprefix('tuner ablation ')}: {key[1]}", *ratios, f"{100 * extra:.1f} %"])
    return markdown(["loss relative to the grid's best", *names, "extra work"], rows)
