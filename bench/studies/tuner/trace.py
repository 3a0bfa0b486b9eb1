"""One training run seen from inside: lr, momentum, loss, and the sharpness against the threshold of the lr in force."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from krylearn.optim.tuner.loss import LossSource
from krylearn.optim.tuner.optimizer import CurvatureTuner
from krylearn.optim.tuner.spectral import find_top_curvature

from ...show.pictures import save_figure
from .entrants import BASES
from .workloads import WORKLOADS, schedule


def trace(workload: str = "mlp", base: str = "SGD", *, seed: int = 0, every: int = 5) -> list[dict[str, Any]]:
    """Train once and measure the sharpness every few steps (not charged, not seen by the tuner).

    Returns a row per step: step, lr, momentum, loss of the batch, and every so often sharpness and threshold.

    Examples
    --------
    >>> rows = trace("quadratic", every=50)
    >>> len(rows) == WORKLOADS["quadratic"].steps, rows[0]["threshold"] > rows[0]["sharpness"]
    (True, True)
    """
    work = WORKLOADS[workload]
    task = work.task(seed)
    tuner = CurvatureTuner(BASES[base](list(task.model.parameters())))
    scheduler = torch.optim.lr_scheduler.LambdaLR(tuner, lambda step: schedule(step, work.steps))
    batches, rows, vector = work.batches(task, seed), [], None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(work.steps):
            pair = next(batches)
            tuner.zero_grad()
            tuner.observe(lambda pair: task.loss(task.model(pair[0]), pair[1]), pair)
            loss = task.loss(task.model(pair[0]), pair[1])
            loss.backward()
            row = {"step": step, "lr": tuner.lr, "momentum": tuner.momentum, "loss": loss.item()}
            tuner.step()
            if step % every == 0:
                wide = (task.train[0][:512], task.train[1][:512])
                source = LossSource(lambda pair: task.loss(task.model(pair[0]), pair[1]), wide)
                value, vector = find_top_curvature(source, tuner.base, vector, 0, products=6)
                row |= {"sharpness": value, "threshold": tuner.threshold()}
            rows.append(row)
            scheduler.step()
    return rows


def draw_trace(path: Path, workload: str = "mlp") -> None:
    """Draw both bases side by side.

    Examples
    --------
    >>> draw_trace(Path("tuner.png"))                                   # doctest: +SKIP
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 2, figsize=(9, 6.2), sharex=True, layout="constrained", height_ratios=[1, 0.8, 1])
    for column, base in enumerate(BASES):
        rows = trace(workload, base)
        steps = [row["step"] for row in rows]
        axes[0, column].set_title(f"tuner around {base}, {WORKLOADS[workload].about}", fontsize=9)
        axes[0, column].plot(steps, [row["lr"] for row in rows], color="#0072B2", label="learning rate")
        axes[0, column].set_ylim(bottom=1e-4 * max(row["lr"] for row in rows))
        name = "momentum" if base == "SGD" else "β₁"
        twin = axes[0, column].twinx()
        twin.plot(steps, [row["momentum"] for row in rows], color="#D55E00", linestyle="--", label=name)
        twin.set_ylim(0, 1.02)
        twin.set_ylabel(name, color="#D55E00")
        axes[1, column].plot(steps, [row["loss"] for row in rows], color="#555555", linewidth=0.8)
        measured = [row for row in rows if "sharpness" in row]
        at = [row["step"] for row in measured]
        axes[2, column].plot(at, [abs(row["sharpness"]) for row in measured], color="#0072B2", label="sharpness")
        axes[2, column].plot(at, [row["threshold"] for row in measured], color="black", linestyle=":",
                             label="threshold of the lr in force")  # fmt: skip
        axes[2, column].legend(fontsize=8, frameon=False)
        axes[2, column].set_xlabel("step")
        for k in range(3):
            axes[k, column].set_yscale("log")
    for k, label in enumerate(("learning rate", "loss of the batch", "sharpness")):
        axes[k, 0].set_ylabel(label)
    axes[2, 1].set_ylabel("preconditioned sharpness")
    save_figure(figure, path, dpi=100)
    plt.close(figure)
