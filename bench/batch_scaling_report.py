"""The batch-scaling study as tables: measured optima, and how far each rule's lr is from them.

A rule is told what was measured at the base batch size and predicts the ratio of lrs from there; the distance is the
factor between its lr and the fitted optimum, whichever way. Gradient noise is what the facts say halfway through
training, the sharpness of batches likewise.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from krylearn.optim import Change, Facts, fit_sharpness
from krylearn.optim.scaling import RULES

from .batch_scaling import BASE, METHODS, points
from .batch_scaling_fit import Optimum, fit_optimum

Lines = Sequence[dict[str, Any]]
SHOWN = {  # rules that say something about lr, by optimizer
    "sgd": ("linear", "square_root", "random_matrix", "noise_scale", "auto"),
    "adamw": ("linear", "square_root", "random_matrix", "adam_scale", "malladi", "surge", "half_life", "auto"),
}
CLOSE = 1.5  # the factor within which a rule is called right
WHEN = 0.5  # share of the training at which a user measures


def optima(lines: Lines, value: str = "held") -> dict[tuple[str, str], dict[int, Optimum]]:
    """Fit every bracketed minimum: (task, method) -> batch size -> optimum.

    Examples
    --------
    >>> optima([])
    {}
    """
    cells = {(line["problem"], line["method"], line["more"]["batch"]) for line in lines if _kind(line) == "grid"}
    found: dict[tuple[str, str], dict[int, Optimum]] = {}
    for task, method, size in sorted(cells, key=lambda c: (*_place(lines, c[:2]), c[2])):
        found.setdefault((task, method), {})[size] = fit_optimum(points(lines, task, method, size, value))
    return found


def _kind(line: Mapping[str, Any]) -> str:
    return line["more"]["kind"]


def _place(lines: Lines, cell: tuple[str, str]) -> tuple[int, int]:
    tasks = list(dict.fromkeys(line["problem"] for line in lines))
    return list(METHODS).index(cell[1]), tasks.index(cell[0])


def facts_at_base(lines: Lines, task: str, method: str, new_batch: int, share: float = WHEN) -> Facts:
    """Return what a rule is told: the geometric mean over seeds of what was measured at this share of the training.

    Examples
    --------
    >>> facts_at_base([], "digits", "adamw", 64).betas
    (0.9, 0.999)
    """
    seen = [
        look
        for line in lines
        if _kind(line) == "facts" and (line["problem"], line["method"]) == (task, method)
        for look in line["more"]["facts"]
        if look["share"] == share
    ]
    m, adaptive = METHODS[method], method == "adamw"
    known: dict[str, Any] = {}
    if seen:
        noise = [look["noise_scale"] or math.inf for look in seen]
        known["noise_scale"] = math.inf if math.inf in noise else statistics.geometric_mean(noise)
        tops = {int(b): statistics.geometric_mean(look["sharpness"][b] for look in seen) for b in seen[0]["sharpness"]}
        known["sharpness"] = fit_sharpness(tops)
        known["eps_rules"] = statistics.median(look["eps_share"] for look in seen) > 0.5 if adaptive else None
    return Facts(
        BASE, new_batch, adaptive=adaptive, decoupled=adaptive, betas=(m.beta1, m.beta2) if adaptive else None, **known
    )


def predicted(lines: Lines, task: str, method: str, rule: str, sizes: Sequence[int], **told: Any) -> dict[int, Change]:
    """Ask a rule for its change from the base to each batch size.

    Examples
    --------
    >>> predicted([], "digits", "adamw", "square_root", [512])[512].lr
    2.0
    """
    return {b: RULES[rule](facts_at_base(lines, task, method, b, **told)) for b in sizes}


def distances(lines: Lines, task: str, method: str, rule: str, best: Mapping[int, Optimum], **told: Any) -> dict:
    """Return lr of the rule over measured optimum, by batch size; the base itself is 1.

    Examples
    --------
    >>> best = {b: Optimum(0.1 * b / 128, 0.1, 1.0, 0.0, 1.0, True) for b in (64, 128, 256)}
    >>> distances([], "digits", "adamw", "linear", best)
    {64: 1.0, 128: 1.0, 256: 1.0}
    """
    changes = predicted(lines, task, method, rule, list(best), **told)
    return {b: best[BASE].lr * changes[b].lr / best[b].lr for b in best}


def worst(ratios: Sequence[float]) -> float:
    """Return the largest factor between prediction and optimum, whichever way.

    Examples
    --------
    >>> worst([0.5, 1.5])
    2.0
    """
    return max(max(r, 1 / r) for r in ratios)


def optima_rows(lines: Lines) -> list[list[str]]:
    """Write the measured optima: one row per task and method, one column per batch size.

    Examples
    --------
    >>> optima_rows([])
    []
    """
    return [
        [f"{task}, {method}", *(f"{each.lr:.3g} ± {100 * each.error:.0f} %" for each in best.values())]
        for (task, method), best in optima(lines).items()
    ]


def rule_rows(lines: Lines) -> list[list[str]]:
    """Write how far rules are off: worst factor within a factor 4 of the base and over all sizes; sizes within 1.5.

    Examples
    --------
    >>> rule_rows([])
    []
    """
    rows = []
    for method, rules in SHOWN.items():
        cells = [(task, best) for (task, m), best in optima(lines).items() if m == method]
        for rule in rules if cells else ():
            row = [f"{method}, {rule}"]
            for task, best in cells:
                off = distances(lines, task, method, rule, best)
                near = [r for b, r in off.items() if 1 / 4 <= b / BASE <= 4]
                count = sum(worst([r]) <= CLOSE for r in off.values())
                row.append(f"{worst(near):.2f}; {worst(list(off.values())):.2f}; {count} of {len(off)}")
            rows.append(row)
    return rows
