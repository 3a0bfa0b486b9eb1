"""A MODEL of the time of one conjugate-gradient step on many ranks: what a plan to 10^12 unknowns rests on.

    T = t_cell N_local (1 + halo)^3-ish work + messages alpha + bytes beta + reductions log2(P) alpha + gathered levels

t_cell is measured on one rank; alpha and beta are assumptions about a network, stated with every figure. It is no
measurement, and says nothing about contention, noise or topology.

    python -m krylearn.bench.studies.solvers.many_ranks [picture.png]
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

PAD = 8  # cells around a rank's own, of the ghosted route
FP64 = 8  # bytes per cell of an exchange (PETSc's scatters are in double precision)


@dataclass(frozen=True)
class Machine:
    """Seconds per cell and smoothing-equivalent cycle, per message, per byte.

    t_cell : a step of conjugate gradients with one cycle, per own cell and rank (ours: measured on one rank)
    alpha, beta : latency of a message and seconds per byte
    """

    t_cell: float = 3.0e-8
    alpha: float = 2.0e-6
    beta: float = 1.0 / 10e9


def step_cost(local: int, ranks: int, machine: Machine, gather: int = 20_000) -> dict[str, float]:
    """Return the parts of the time of one step in seconds; `local` cells per axis and rank, `ranks` cubes.

    Examples
    --------
    >>> one = step_cost(100, 1, Machine())
    >>> one["messages"], round(one["cells"] / 100**3 / Machine().t_cell, 2)
    (0.0, 1.0)
    >>> step_cost(100, 8, Machine())["cells"] > one["cells"]
    True
    """
    neighbours = 0 if ranks == 1 else 26
    total, n = float(local**3 * ranks), float(local)
    cells = messages = volume = 0.0
    level = 0
    while total > gather:
        # boxes overlap: arithmetic on the cells around own ones is done twice or more
        width = n + 2 * PAD if ranks > 1 else n
        visits = 1 if level < 2 else 2
        share = 7 / 8 / 8**level  # t_cell is of all levels together: a geometric series
        cells += machine.t_cell * share * local**3 * (width / n) ** 3
        messages += visits * 2 * neighbours * machine.alpha
        halo = (width**3 - n**3) * FP64 if ranks > 1 else 0.0
        volume += visits * 2 * halo * machine.beta
        total, n, level = total / 8, max(n / 2, 1.0), level + 1
    cells += machine.t_cell * local**3 / 8**level
    reductions = 3 * math.log2(ranks) * machine.alpha if ranks > 1 else 0.0
    # an all-gather of the coarse right-hand side, and the rest of the cycle on every rank
    gathered = (math.log2(ranks) * machine.alpha + total * FP64 * machine.beta if ranks > 1 else 0.0) + (
        total * machine.t_cell
    )
    return {"cells": cells, "messages": messages, "bytes": volume, "reductions": reductions, "gathered": gathered}


def print_plan(machine: Machine, local: int = 256) -> None:
    """Print the weak scaling of the model up to 10^12 unknowns."""
    print(f"MODEL: {local}^3 cells per rank, t_cell {machine.t_cell:.2g} s, alpha {machine.alpha:.2g} s, "
          f"{1 / machine.beta / 1e9:.3g} GB/s")  # fmt: skip
    names = list(step_cost(local, 8, machine))
    print(f"{'unknowns':>10} {'ranks':>8} " + " ".join(f"{name:>11}" for name in names) + "   efficiency")
    alone = sum(step_cost(local, 1, machine).values())
    for power in range(0, 18, 3):
        ranks = 2**power
        parts = step_cost(local, ranks, machine)
        total = sum(parts.values())
        columns = " ".join(f"{1e3 * value:8.2f} ms" for value in parts.values())
        print(f"{local**3 * ranks:10.2g} {ranks:8d} {columns}   {alone / total:.0%}")


def draw_plan(picture: str, machine: Machine) -> None:
    """Draw efficiency against ranks for several sizes per rank."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ranks = [2**k for k in range(18)]
    for local in (48, 96, 192, 384):
        alone = sum(step_cost(local, 1, machine).values())
        ax.semilogx(
            ranks, [alone / sum(step_cost(local, p, machine).values()) for p in ranks], label=f"{local}^3 cells"
        )
    ax.set(xlabel="ranks", ylabel="time of one rank / time", ylim=(0, 1.05), title="A model, not a measurement")
    ax.legend(title="per rank")
    ax.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


def main(picture: str | None = None) -> None:
    """Print the plan; draw it if a picture is named."""
    print_plan(Machine())
    if picture:
        draw_plan(picture, Machine())


if __name__ == "__main__":
    main(*sys.argv[1:])
