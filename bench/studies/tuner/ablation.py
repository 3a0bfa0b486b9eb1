"""What else was tried: the tuner with one thing changed, on the design workloads and on seeds that nobody is scored on.

The design workloads are five of the ten and three more that begin on a plateau (`workloads_plateau`). Each variant is
compared with the best point of its base's grid on the same seeds, charged for its extra work as always.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from krylearn.optim.tuner import (
    drift as policies_drift,
    loop as tuner_loop,
    ramp as policies,
    trials as policies_trials,
)

from ...measure.record import Record
from ...show.markdown import markdown
from .entrants import ROUNDS, tuned
from .plateau_workloads import PLATEAUS
from .runs import CHOOSING, Database, Entrant, Outcome, adamw_grid, best_of, sgd_grid
from .variant_records import variant_record
from .workloads import Workload

SEEDS = (2, 3, 4, 5, 6, 7)
POLICY, TRIALS, LOOP, DRIFT = policies, policies_trials, tuner_loop, policies_drift
Changes = Sequence[tuple[Any, str, Any]]
BEFORE = {"SGD": "edge 8", "AdamW": "edge 9"}  # rounds without the drift, which the older variants were run with
STILL: Changes = [(DRIFT, "BLOCKS", 0)]


def _ramp(doubling: int, divisor: float, check: int = 2) -> Changes:
    rule = policies.PLAIN._replace(divisor=divisor)
    return [(POLICY, "DOUBLING", doubling), (POLICY, "PLAIN", rule), (LOOP, "CHECK", check)]


def _trials(length: int, parts: int, judges: int) -> Changes:
    return [(TRIALS, "LENGTH", length), (TRIALS, "PARTS", parts), (TRIALS, "JUDGES", judges)]


def _targets(*values: float) -> Changes:
    return [(DRIFT, "TARGETS", values), (DRIFT, "ADAPTIVE", values)]


EAGER = (0.08, 0.2, 0.33, 0.42, 0.5)
ALWAYS_TRIALS = [(LOOP.Loop, "adaptive", property(lambda loop: True)), (TRIALS, "CENTRE", 0.04)]
NOW: dict[str, dict[str, Changes]] = {
    "SGD": {
        "as it is": [],
        "never doubled, only raised by the drift": [(POLICY, "WINDOW", -1)],
        "higher targets of the drift, raised at most 3.2 times": [*_targets(*EAGER), (DRIFT, "RAISE", 1.7)],
        "higher targets, twice the gain": [*_targets(*EAGER), (DRIFT, "GAIN", 2.0), (DRIFT, "RAISE", 1.5)],
    },
    "AdamW": {"as it is": [], "the targets of SGD": _targets(*policies_drift.TARGETS)},
}  # fmt: skip
EARLIER: dict[str, dict[str, Changes]] = {
    "SGD": {
        "as it is": [],
        "momentum 0.9": [(POLICY, "MOMENTUM", 0.9)],
        "as before: momentum 0.9, lr doubled in 6 steps, divisor 12": [
            (POLICY, "MOMENTUM", 0.9), (DRIFT, "RAISE", 2.0), *_ramp(6, 12.0, 4),
        ],
        "lr doubled in 4 steps, divisor 8": _ramp(4, 8.0),
        "lr doubled in 2 steps": _ramp(2, 10.0),
        "divisor 14": _ramp(3, 14.0),
        "never doubled": [(DRIFT, "RAISE", 0.0)],
        "doubled twice at most": [(DRIFT, "RAISE", 2.0)],
        "divisor 14, doubled three times at most": [*_ramp(3, 14.0), (DRIFT, "RAISE", 3.0)],
        "trials of 16 quarter batches in place of the ramp": [*ALWAYS_TRIALS, *_trials(16, 4, 2)],
    },
    "AdamW": {
        "as it is": [],
        "never given up": [(TRIALS, "SHOWN", -math.inf)],
        "given up after 2 trials": [(TRIALS, "FEW", 2)],
        "given up after 5 trials": [(TRIALS, "FEW", 5)],
        "given up below a gain of 8 %": [(TRIALS, "SHOWN", 0.08)],
        "β₁ 0.9": [(TRIALS, "BETA", 0.9)],
        "β₁ 0": [(TRIALS, "BETA", 0.0)],
        "trials of 6 half batches, 2 judges": _trials(6, 2, 2),
        "trials of 5 batches, 2 judges": _trials(5, 1, 2),
        "trials of 8 quarter batches, 2 judges": _trials(8, 4, 2),
        "ramp in place of trials, divisor 20": [
            (LOOP.Loop, "adaptive", property(lambda loop: False)), (POLICY, "DOUBLING", 6), (LOOP, "CHECK", 4),
            (POLICY, "PLAIN", policies.Rule(share=0.75, confirm=1, divisor=20.0)),
        ],
    },
}  # fmt: skip
VARIANTS: dict[str, dict[str, Changes]] = {
    base: {
        **{f"{ROUNDS[base]} {name}": changes for name, changes in NOW[base].items()},
        **{f"{BEFORE[base]} {name}": [*STILL, *changes] for name, changes in EARLIER[base].items()},
    }
    for base in NOW
}


@contextlib.contextmanager
def altered(changes: Changes) -> Iterator[None]:
    """Change constants of the tuner for a while.

    Examples
    --------
    >>> with altered([(policies, "MOMENTUM", 0.5)]):
    ...     print(policies.MOMENTUM)
    0.5
    >>> policies.MOMENTUM
    0.8
    """
    kept = [(owner, name, vars(owner)[name]) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def ablations(base: str) -> list[Entrant]:
    """Return the variants around a base.

    Examples
    --------
    >>> [entrant.config for entrant in ablations("SGD")][:2]
    ['edge 10 as it is', 'edge 10 never doubled, only raised by the drift']
    """

    def variant(changes: Changes) -> Callable[[Workload, int], Outcome]:
        def run(work: Workload, seed: int) -> Outcome:
            with altered(changes):
                return tuned(base)(work, seed)

        return run

    return [Entrant(f"ablation {base}", name, variant(each)) for name, each in VARIANTS[base].items()]


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
            name = entrant.config.removeprefix(ROUNDS[base]).strip().replace(BEFORE[base], "without the drift,")
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
