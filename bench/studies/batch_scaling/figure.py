"""The picture of the batch-scaling study: measured optima, every rule, and where `auto` vouches for itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...show.figures import COLOURS, STYLES
from ...show.pictures import _pyplot, _quiet, save_figure
from .grid import BASE, METHODS
from .rules import CLOSE, SHOWN, optima, predicted, valid_sizes

NAMES = {"sgd": "SGD, momentum 0.9", "adamw": "AdamW"}
RULES = list(dict.fromkeys(rule for rules in SHOWN.values() for rule in rules if rule != "auto"))
MARKS = ("", "", "", "", "x", "+", "|", "1")  # lines that share a style differ in colour and mark


def scaling_figure(lines: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw optima with their 2 % valleys and the rules from the base: one panel per method and task.

    Examples
    --------
    >>> scaling_figure([], Path("scaling.png"))                                         # doctest: +SKIP
    """
    plt, found = _pyplot(), optima(lines, draws=200)
    tasks = list(dict.fromkeys(task for task, _ in found))
    figure, axes = plt.subplots(
        len(METHODS), len(tasks), figsize=(3.4 * len(tasks), 7.6), sharex=True, squeeze=False, layout="constrained"
    )
    for row, method in zip(axes, METHODS, strict=True):
        for axis, task in zip(row, tasks, strict=True):
            _quiet(axis)
            if (task, method) in found:
                _panel(axis, lines, task, method, found[task, method])
        row[0].set_ylabel("learning rate")
    for axis in axes[-1]:
        axis.set_xlabel("batch size")
    shown = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), fontsize=8, loc="outside lower center", ncol=4)
    save_figure(figure, file, dpi=95)
    plt.close(figure)


def _panel(axis: Any, lines: Sequence[dict[str, Any]], task: str, method: str, best: dict) -> None:
    sizes = list(best)
    base = best[BASE].lr
    for rule in (rule for rule in RULES if rule in SHOWN[method]):
        k = RULES.index(rule)
        changes = predicted(lines, task, method, rule, sizes)
        style = {"color": COLOURS[1 + k], "linestyle": STYLES[1 + k % 3], "marker": MARKS[k], "linewidth": 1.1}
        axis.plot(sizes, [base * changes[b].lr for b in sizes], label=rule, markersize=5, **style)
    lrs = {b: base * change.lr for b, change in predicted(lines, task, method, "auto", sizes).items()}
    axis.plot(sizes, list(lrs.values()), color=COLOURS[0], linewidth=2.4, label="auto")
    valid = valid_sizes(lines, task, method, sizes)
    low, high = [lrs[b] / CLOSE for b in valid], [lrs[b] * CLOSE for b in valid]
    axis.fill_between(valid, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label=f"auto within {CLOSE}, valid")
    for b, each in best.items():
        axis.plot([b, b], [each.lows, each.highs], color="0.35", linewidth=1, zorder=4)
    errors = [[each.lr * each.error for each in best.values()]] * 2
    points = {"fmt": "o", "color": "black", "markersize": 5, "capsize": 3, "zorder": 5}
    label = "measured optimum (thin: loss within 2 %)"
    axis.errorbar(sizes, [each.lr for each in best.values()], yerr=errors, label=label, **points)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sizes, [str(b) for b in sizes])
    axis.minorticks_off()
    lowest, *_, highest = sorted(each.lr for each in best.values())
    axis.set_ylim(lowest / 3, highest * 3)
    axis.set_title(f"{NAMES[method]}: {task}", fontsize=9)
