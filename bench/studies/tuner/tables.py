"""Tables and pictures of the training comparison, from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ...show.markdown import markdown
from ...show.pictures import save_figure
from .ablation import ablation_table
from .compare import COLUMNS, COST_HEADER, HEADER, MARKS, cost_rows, rows
from .robustness import robustness_table

Lines = Sequence[dict]
STYLES = {
    "SGD": ("o", "#555555"), "tuner SGD": ("*", "#0072B2"), "AdamW": ("s", "#555555"), "tuner AdamW": ("P", "#0072B2"),
    "Prodigy": ("^", "#E69F00"), "D-Adaptation": ("v", "#E69F00"), "Schedule-Free AdamW": ("<", "#009E73"),
    "Schedule-Free SGD": (">", "#009E73"), "lr_find + OneCycle": ("D", "#CC79A7"),
    "published learner": ("x", "#D55E00"),
}  # fmt: skip


def loss_table(lines: Lines) -> str:
    """Write the table of validation losses, and how often the tuner reached the grid.

    Examples
    --------
    >>> more = {"val": 0.5, "purpose": "design"}
    >>> loss_table([{"problem": "mlp", "method": "SGD", "more": more}]).splitlines()[0][:12]
    '| workload |'
    """
    return f"{markdown(HEADER, rows(_main(lines)))}\n\n{verdict(lines)}"


def verdict(lines: Lines) -> str:
    """Count the workloads on which the tuner is within 2 % of the grid's best, or not worse.

    Examples
    --------
    >>> more = {"verdict": "worse", "purpose": "design"}
    >>> verdict([{"problem": "mlp", "method": "tuner SGD", "more": more}])
    'On SGD: 0 of 1 (design 0 of 1, judgement 0 of 0).'
    """
    parts = []
    for base in ("SGD", "AdamW"):
        found = [x["more"] for x in lines if x["method"] == f"tuner {base}" and "verdict" in x["more"]]
        if not found:
            continue
        good = [more for more in found if more["verdict"] != "worse"]
        split = (
            f"{purpose} {sum(m['purpose'] == purpose for m in good)} of {sum(m['purpose'] == purpose for m in found)}"
            for purpose in ("design", "judgement")
        )
        parts.append(f"On {base}: {len(good)} of {len(found)} ({', '.join(split)}).")
    return " ".join(parts)


def training_loss_table(lines: Lines) -> str:
    """Write the table of training losses.

    Examples
    --------
    >>> "0.4" in training_loss_table([{"problem": "mlp", "method": "SGD", "more": {"train": 0.4, "purpose": "design"}}])
    True
    """
    return markdown(HEADER, rows(_main(lines), "train"))


def cost_table(lines: Lines) -> str:
    """Write the table of what the tuner spent.

    Examples
    --------
    >>> cost_table([]).splitlines()[0]
    '| workload | steps | extra work, SGD | extra work, AdamW | diverged, of runs |'
    """
    return markdown(COST_HEADER, cost_rows(_main(lines)))


def _main(lines: Lines) -> Lines:
    return [line for line in lines if line["method"] in COLUMNS]


def draw(lines: Lines, images: Path) -> None:
    """Draw final validation losses relative to the better grid's best, a column per workload.

    Examples
    --------
    >>> import tempfile
    >>> more = {"val": 0.5, "purpose": "design"}
    >>> draw([{"problem": "mlp", "method": "SGD", "more": more}], Path(tempfile.mkdtemp()))
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = _main(lines)
    names = list(dict.fromkeys(line["problem"] for line in lines))
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for shift, column in enumerate(COLUMNS):
        marker, colour = STYLES[column]
        xs, ys = [], []
        for place, name in enumerate(names):
            found = {x["method"]: x["more"]["val"] for x in lines if x["problem"] == name}
            best = min((found[m] for m in ("SGD", "AdamW") if found.get(m)), default=None)
            if best and column in found:
                loss = found[column]
                xs.append(place + (shift - 4.5) * 0.08)
                ys.append(20.0 if loss is None or not math.isfinite(loss) else min(max(loss / best, 0.5), 20.0))
        big = 90 if column.startswith("tuner") else 36
        axes.scatter(xs, ys, s=big, marker=marker, color=colour, label=column, zorder=3 if big > 40 else 2)
    axes.set_yscale("log")
    axes.set_yticks([0.5, 1, 2, 5, 10, 20], ["≤ 0.5", "1", "2", "5", "10", "≥ 20 or\ndiverged"])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set_ylabel("final validation loss /\nbest of both 15-point grids")
    axes.legend(ncols=1, fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    save_figure(figure, images / "training.png", dpi=110)
    plt.close(figure)


__all__ = [
    "MARKS",
    "ablation_table",
    "cost_table",
    "draw",
    "loss_table",
    "robustness_table",
    "training_loss_table",
    "verdict",
]
