"""How rivals do over all systems at once: performance profiles, and ratios averaged with intervals.

A profile (Dolan and Moré, Math. Program. 91, 2002) says for every factor on what share of the systems a method takes at
most that factor of the best method's time. Who fails on a system, or is not made for it, stays below there for good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .figures import _where, look, names, png
from .pictures import _plain_ticks, _pyplot, _quiet

Lines = Sequence[dict[str, Any]]
LEVEL, RESAMPLES, SEED = 0.95, 4000, 31415
FACTORS = (1.0, 2.0, 10.0)
WORST = 100.0  # where the pictures end


def solve_seconds(line: dict[str, Any], *, setup: bool = True) -> float:
    """Return seconds of a solve, with its set-up or without; infinity where there is none.

    Examples
    --------
    >>> solve_seconds({"status": "CONVERGED", "setup_s": 0.5, "solve_s": 0.25})
    0.75
    >>> solve_seconds({"status": "TIME", "setup_s": 0.5, "solve_s": None})
    inf
    """
    if line["status"] != "CONVERGED" or line.get("solve_s") is None:
        return math.inf
    return line["solve_s"] + ((line.get("setup_s") or 0.0) if setup else 0.0)


def by_system(lines: Lines) -> dict[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """Group lines by system and machine: system -> method -> its line.

    Examples
    --------
    >>> len(by_system([{"problem": "box", "method": m, "machine": {"cpu": "X"}} for m in "ab"]))
    1
    """
    found: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for x in lines:
        where = x.get("machine", {})
        key = (x["problem"], str(x.get("shape")), x.get("seed"), where.get("cpu"), where.get("cores"))
        found.setdefault(key, {})[x["method"]] = x
    return found


def best_ratios(lines: Lines, *, setup: bool = True) -> dict[str, list[float]]:
    """Return per method its time over that of the best method, system by system; infinity where it has none.

    Methods that took part nowhere are left out.

    Examples
    --------
    >>> lines = [{"problem": "box", "method": m, "status": "CONVERGED", "setup_s": 0.0, "solve_s": s}
    ...          for m, s in (("ours", 1.0), ("theirs", 3.0))]
    >>> best_ratios(lines)
    {'ours': [1.0], 'theirs': [3.0]}
    """
    ratios: dict[str, list[float]] = {}
    methods = [m for m in names(lines) if any(solve_seconds(x) < math.inf for x in lines if x["method"] == m)]
    for found in by_system(lines).values():
        seconds = {m: solve_seconds(found[m], setup=setup) if m in found else math.inf for m in methods}
        best = min(seconds.values(), default=math.inf)
        for method, taken in seconds.items():
            ratios.setdefault(method, []).append(taken / best if taken < math.inf else math.inf)
    return ratios


def ratios_to(lines: Lines, own: str, method: str, *, setup: bool = True) -> list[float]:
    """Return a method's time over ours, for each system on which both have one.

    Without set-up it is the median ratio of the timed pairs, if the record has one.
    """
    found = []
    for system in by_system(lines).values():
        if own in system and method in system:
            a, b = (solve_seconds(system[m], setup=setup) for m in (own, method))
            paired = system[method].get("more", {}).get("ratio")
            if a < math.inf and b < math.inf:
                found.append(paired[0] if paired and not setup else b / a)
    return found


def mean_ratio(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios and its bootstrap interval of 95 %, the systems drawn again.

    Examples
    --------
    >>> [round(v, 3) for v in mean_ratio([2.0, 8.0, 4.0])]
    [4.0, 2.0, 8.0]
    """
    logs = np.log(np.asarray(ratios, dtype=float))
    drawn = np.random.default_rng(SEED).integers(len(logs), size=(RESAMPLES, len(logs)))
    low, high = np.quantile(logs[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def draw_profiles(lines: Lines) -> bytes:
    """Draw performance profiles: on what share of the systems a method is within a factor of the fastest."""
    methods, plt = list(best_ratios(lines)), _pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained", sharey=True)
    for axes, setup, title in zip(panels, (True, False), ("set-up and one solve", "a solve alone"), strict=True):
        for method, ratios in best_ratios(lines, setup=setup).items():
            style = look(method, methods)
            style.pop("hatch")
            within = sorted(r for r in ratios if r <= WORST)
            # a step at every ratio; the line goes on to the edge of the picture
            x = [1.0, *np.repeat(within, 2), WORST]
            y = [0.0, *(share / len(ratios) for k in range(len(within)) for share in (k, k + 1))]
            axes.plot(x, [*y, len(within) / len(ratios)], lw=1.6, ms=4, markevery=0.25, label=method, **style)
        axes.set_xscale("log")
        axes.set(xlabel="factor of the fastest", xlim=(0.95, WORST), ylim=(-0.03, 1.05))
        axes.set_title(title, fontsize=10)
        _plain_ticks(axes.xaxis)
        _quiet(axes)
    panels[0].set_ylabel("share of the systems")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=4)
    return png(figure)


def draw_accuracy(lines: Lines) -> bytes:
    """Seconds of set-up and solve against the tolerance that the true residual met, one line per method."""
    methods, plt = names(lines), _pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for method in methods:
        found = sorted((x for x in lines if x["method"] == method), key=lambda x: -x["tolerance"])
        points = [(x["tolerance"], solve_seconds(x)) for x in found if solve_seconds(x) < math.inf]
        if points:
            style = look(method, methods)
            style.pop("hatch")
            axes.loglog(*zip(*points, strict=True), lw=1.6, ms=5, label=method, **style)
    axes.invert_xaxis()  # to the right: more digits
    axes.set(xlabel="true relative residual", ylabel="seconds, set-up and solve")
    axes.set_title(_where(lines[0]), fontsize=10)
    figure.legend(fontsize=8, ncols=3, loc="outside lower center")
    _quiet(axes)
    return png(figure)
