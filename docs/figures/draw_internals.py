"""Draw the two figures of docs/internals.md from the set-up itself: ``python docs/figures/draw_internals.py``."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from krylearn.pde import Cell, Poisson
from krylearn.solvers import NeuralMultigrid
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

IMAGES = Path(__file__).parents[1] / "images"
WALL, WATER, AIR, INNER, OUTER = "#8a8a8a", "#dbe9f6", "#ffffff", "#c0392b", "#2c6fbb"


def draw_cells(ax, row, y, names=None) -> None:
    """Draw a row of cells: "f" fluid, "s" solid; a thick line between blocks of two."""
    for k, kind in enumerate(row):
        ax.add_patch(Rectangle((k, y), 1, 1, facecolor=WATER if kind == "f" else WALL, edgecolor="white", lw=1.5))
        if names:
            ax.text(k + 0.5, y + 0.78, names[k], ha="center", va="center", fontsize=8)
    for k in range(0, len(row) + 1, 2):
        ax.plot([k, k], [y - 0.08, y + 1.08], color="black", lw=2.2, solid_capstyle="butt")


def draw_link(ax, k, y, color, label="", closed=False) -> None:
    """Draw the link between the cells k and k + 1, as a resistor's wire; crossed out if it is 0."""
    style = {"color": color, "lw": 2.4, "alpha": 0.35 if closed else 1}
    ax.plot([k + 0.5, k + 1.5], [y + 0.4, y + 0.4], marker="o", ms=5, ls=":" if closed else "-", **style)
    if closed:
        ax.text(k + 1, y + 0.4, "×", color=color, fontsize=15, ha="center", va="center")
    ax.text(k + 1, y + 0.16, label, color=color, fontsize=9, ha="center", va="center")


def draw_links() -> Path:
    """Draw inner and outer links of a block along one coarsened axis, and the two special cases."""
    figure, ax = plt.subplots(figsize=(8.6, 4.6))
    names = ["", "outer neighbour", "cell", "partner", "", ""]
    draw_cells(ax, "ffffff", 2.5, names)
    for k, label in ((0, "inner $w_{in}'$"), (2, "inner $w_{in}$"), (4, "")):
        draw_link(ax, k, 2.5, INNER, label)
    for k, label in ((1, "outer $w_{out}$"), (3, "")):
        draw_link(ax, k, 2.5, OUTER, label)
    ax.annotate("", (1.0, 2.3), (3.0, 2.3), arrowprops={"arrowstyle": "<->", "color": "black"})
    formulas = (
        "path between the centres of two blocks = 1 / ( r + 1/$w_{out}$ + r′ ),    r = 1 / (2 $w_{in}$)",
        "prolongation weight towards the outer neighbour = r / ( r + 1/$w_{out}$ + r′ )",
    )
    for k, text in enumerate(formulas):
        ax.text(3, 2.05 - 0.27 * k, text, ha="center", fontsize=9)
    draw_cells(ax, "sf", 0.3, ["", "alone"])
    ax.text(1, 0.05, "the partner holds no unknown: r = 0", ha="center", fontsize=8.5)
    for offset in (4,):
        for k in range(2):
            ax.add_patch(Rectangle((offset + k, 0.3), 1, 1, facecolor=WATER, edgecolor="white", lw=1.5))
            ax.text(offset + k + 0.5, 1.08, "blocked", ha="center", va="center", fontsize=9)
        for k in (0, 2):
            ax.plot([offset + k] * 2, [0.22, 1.38], color="black", lw=2.2, solid_capstyle="butt")
        draw_link(ax, offset, 0.3, INNER, closed=True)
    ax.text(5, 0.05, "both hold unknowns, no link joins them: no path", ha="center", fontsize=8.5)
    ax.set(xlim=(-0.3, 6.5), ylim=(-0.1, 3.7), aspect="equal")
    ax.axis("off")
    return save(figure, "links.png")


def draw_block_to_cycle() -> Path:
    """Follow a real set-up: cells, blocks by their hash, the evaluated ones, the learned operator of the next level."""
    cells = np.full((24, 16), int(Cell.FLUID))
    cells[:, -1] = int(Cell.OPEN)
    cells[7:13, 4:9] = int(Cell.SOLID)
    A = Poisson.from_cells(cells)
    M = NeuralMultigrid(A)
    level = M._kept[1]
    coarse = level.next_grid
    nx, _, nz = coarse.size
    hashes = level.blocks.hashes.reshape(nx, nz)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12.5, 3.7), gridspec_kw={"bottom": 0.16, "top": 0.92, "wspace": 0.12}
    )
    colours = {int(Cell.SOLID): WALL, int(Cell.FLUID): WATER, int(Cell.OPEN): AIR}
    for i, k in itertools.product(range(24), range(16)):
        left.add_patch(Rectangle((i, k), 1, 1, facecolor=colours[cells[i, k]], edgecolor="#bbbbbb", lw=0.4))
    for i, k in itertools.product(range(nx), range(nz)):
        left.add_patch(Rectangle((2 * i, 2 * k), 2, 2, facecolor="none", edgecolor="black", lw=0.9))
    left.add_patch(Rectangle((12, 8), 2, 2, facecolor="none", edgecolor=INNER, lw=2.5))
    left.set_title("cells, blocks of 2 x 2, one followed", fontsize=9)
    unique = [h for h in dict.fromkeys(hashes.ravel().tolist()) if h]
    order = np.random.default_rng(7).permutation(len(unique))  # neighbours get colours far apart
    colour = plt.get_cmap("gist_ncar")
    shade = {
        h: 0.6 * np.array(colour((n + 1) / (len(unique) + 2))) + 0.4 for h, n in zip(unique, order, strict=True)
    }  # paler, so that the stars are seen

    seen = set()
    for i, k in itertools.product(range(nx), range(nz)):
        h = int(hashes[i, k])
        middle.add_patch(Rectangle((i, k), 1, 1, facecolor=shade.get(h, WALL), edgecolor="white", lw=0.6))
        if h and h not in seen:
            seen.add(h)
            middle.plot(i + 0.5, k + 0.5, marker="*", color="black", ms=7)
    middle.add_patch(Rectangle((6, 4), 1, 1, facecolor="none", edgecolor=INNER, lw=2.5))
    held = int((hashes != 0).sum())
    middle.set_title(f"equal colour = equal hash; {len(unique)} of {held} evaluated (★)", fontsize=9)
    w = coarse.w.reshape(3, nx, nz)
    most = w.max()
    for i, k in itertools.product(range(nx), range(nz)):
        if coarse.diag.reshape(nx, nz)[i, k] > 0:
            right.plot(i + 0.5, k + 0.5, marker="o", ms=3, color="black")
        for d, (u, v) in ((0, (1, 0)), (2, (0, 1))):
            if w[d, i, k] > 0 and i + u < nx and k + v < nz:
                width = 3.5 * w[d, i, k] / most
                right.plot([i + 0.5, i + u + 0.5], [k + 0.5, k + v + 0.5], color=OUTER, lw=width, zorder=0)
    right.add_patch(Rectangle((6, 4), 1, 1, facecolor="none", edgecolor=INNER, lw=2.5))
    right.set_title("learned links of the next level (line width)", fontsize=9)
    for ax, size in ((left, (24, 16)), (middle, (nx, nz)), (right, (nx, nz))):
        ax.set(xlim=(-0.2, size[0] + 0.2), ylim=(-0.2, size[1] + 0.2), aspect="equal")
        ax.axis("off")
    steps = (
        "cell_bytes\nhashes",
        "deduplicate",
        "fine_level\ndamping, weights",
        "classical_sums",
        "coarse_level\nlinks, ground",
    )
    for n, text in enumerate(steps):
        x = 0.04 + n * 0.195
        figure.patches.append(
            FancyBboxPatch(
                (x, 0.03),
                0.15,
                0.1,
                boxstyle="round,pad=0.006",
                transform=figure.transFigure,
                fc="#f4f4f4",
                ec="#666666",
            )
        )
        figure.text(x + 0.075, 0.08, text, ha="center", va="center", fontsize=8.5, family="monospace")
        if n + 1 < len(steps):
            figure.patches.append(
                FancyArrowPatch(
                    (x + 0.16, 0.08), (x + 0.19, 0.08), arrowstyle="->", mutation_scale=12, transform=figure.transFigure
                )
            )
    return save(figure, "block-to-cycle.png")


def save(figure, name: str) -> Path:
    """Write a picture and close the figure."""
    path = IMAGES / name
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


if __name__ == "__main__":
    for path in (draw_links(), draw_block_to_cycle()):
        print(path)
