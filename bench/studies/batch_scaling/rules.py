"""Rules against measured optima: what a rule is told, what it predicts, how far that is from the fitted minimum.

A rule is told what was measured at the base batch size and predicts the ratio of lrs from there; the distance is the
factor between its lr and the optimum, whichever way. The noise scale and the sharpness of batches are those halfway
through the training.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from krylearn.optim import Change, Facts, fit_sharpness
from krylearn.optim.batch_noise.sharpness_laws import SharpnessLaw
from krylearn.optim.batch_size.rule_choice import RULES

from .fit import Optimum, fit_optimum, means
from .grid import BASE, METHODS, all_points, points

Lines = Sequence[dict[str, Any]]
SHOWN = {  # rules that say something about lr, by optimizer
    "sgd": ("linear", "square_root", "random_matrix", "noise_scale", "auto"),
    "adamw": ("linear", "square_root", "random_matrix", "adam_scale", "malladi", "surge", "half_life", "auto"),
}
CLOSE = 1.5  # the factor within which a rule is called right
WHEN = 0.5  # share of the training at which a user measures


def optima(lines: Lines, value: str = "held", *, draws: int = 0) -> dict[tuple[str, str], dict[int, Optimum]]:
    """Fit every minimum: (task, method) -> batch size -> optimum; with errors if seeds are drawn again.

    Examples
    --------
    >>> optima([])
    {}
    """
    cells = {(line["problem"], line["method"], line["more"]["batch"]) for line in lines if _kind(line) == "grid"}
    found: dict[tuple[str, str], dict[int, Optimum]] = {}
    for task, method, size in sorted(cells, key=lambda c: (*_place(lines, c[:2]), c[2])):
        found.setdefault((task, method), {})[size] = fit_optimum(points(lines, task, method, size, value), draws=draws)
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
        known["sharpness"] = _law(tuple(tops.items()))
        known["eps_rules"] = statistics.median(look["eps_share"] for look in seen) > 0.5 if adaptive else None
    return Facts(
        BASE, new_batch, adaptive=adaptive, decoupled=adaptive, betas=(m.beta1, m.beta2) if adaptive else None, **known
    )


@cache
def _law(measured: tuple[tuple[int, float], ...]) -> SharpnessLaw:
    return fit_sharpness(dict(measured))


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


def valid_sizes(lines: Lines, task: str, method: str, sizes: Sequence[int]) -> list[int]:
    """Return the batch sizes for which `auto` vouches; the base is one of them.

    Examples
    --------
    >>> valid_sizes([], "digits", "sgd", [64, 128])                       # without a noise scale it does not
    [128]
    """
    changes = predicted(lines, task, method, "auto", sizes)
    return [b for b in sizes if b == BASE or changes[b].valid]


def excess(lines: Lines, task: str, method: str, size: int, lr: float) -> float | None:
    """Return the held-out loss at an lr over the lowest fitted one, minus 1: interpolated in log lr; None off the grid.

    Only seeds that were measured at every lr count.

    Examples
    --------
    >>> excess([], "digits", "sgd", 64, 0.1) is None
    True
    """
    every = all_points(lines, task, method, size)
    common = set.intersection(*map(set, every.values())) if every else set()
    shared = {k: {seed: per[seed] for seed in common} for k, per in every.items()}
    found = {k: log for k, log in means(shared).items() if math.isfinite(log)}
    at = 2 * math.log2(lr)
    below, above = [k for k in found if k <= at], [k for k in found if k >= at]
    if not below or not above:
        return None
    a, b = max(below), min(above)
    share = 0.0 if a == b else (at - a) / (b - a)
    log = (1 - share) * found[a] + share * found[b]
    return math.exp(log) / fit_optimum(shared, draws=0).loss - 1
