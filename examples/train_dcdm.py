"""Train a small deep conjugate direction network in a minute, solve with it, and draw what it does.

python examples/train_dcdm.py [cells per axis] [training steps] [folder for weights and pictures]
"""

import sys
import time
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from krylearn.pde import right_hand_side, scene
from krylearn.solvers import DCDM, cg, dcdm
from krylearn.solvers.published.dcdm_training import train_dcdm


def picture(path, titles, fields, solid):
    """Draw fields side by side, each on its own scale; solid cells stay white."""
    figure, axes = plt.subplots(1, len(fields), figsize=(2.1 * len(fields), 2.4), layout="constrained")
    for ax, title, field in zip(axes, titles, fields, strict=True):
        limit = float(field.abs().max()) or 1.0
        shown = torch.where(solid, torch.nan, field) if field.shape == solid.shape else field
        ax.imshow(shown.T.numpy(), origin="lower", cmap="PuOr", vmin=-limit, vmax=limit)
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def way_through(network, residual):
    """Return the residual, three stages of features (channel with the largest norm) and the direction."""
    with torch.no_grad():
        u = residual[None, None].float() / residual.norm()
        fine, pooled = network.before_pooling(u)
        after = network.after_pooling(fine, pooled)
        stages = [fine[0], pooled[0], after[0]]
        strongest = [stage[stage.flatten(1).norm(dim=1).argmax()] for stage in stages]
        return [residual, *strongest, network(u[0])[0]]


def convergence(path, curves):
    """Draw relative residuals over iterations."""
    figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
    for (label, info), style in zip(curves.items(), ("-o", "--"), strict=True):
        ax.semilogy([r / info.residuals[0] for r in info.residuals], style, markersize=3, label=label)
    ax.set(xlabel="iterations", ylabel="‖b - Ax‖ / ‖b‖")
    ax.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(size: int = 32, steps: int = 600, output: str = "dcdm-output") -> None:
    folder = Path(output)
    begin = time.perf_counter()
    weights = train_dcdm(2, grid=size, ritz_vectors=size * size // 3, steps=steps, output=folder, progress=False)
    print(f"trained in {time.perf_counter() - begin:.0f} s on the empty box of {size} x {size} cells")

    A = scene("neumann", (2 * size, 2 * size), seed=4)  # obstacles, and four times the cells: never seen in training
    b = right_hand_side(A, "divergence", seed=4)
    f, iterates = DCDM(A, weights), [torch.zeros_like(b)]
    _, info = dcdm(A, b, f, rtol=1e-4, maxiter=300, callback=lambda x: iterates.append(A.from_grid(x, b).clone()))
    plain = cg(A, b, M="none", rtol=1e-4)[1]
    print(f"dcdm: {info.iterations} iterations, true residual {info.true_residual / float(b.norm()):.1e}")
    print(f"cg:   {plain.iterations} iterations, each of them hundreds of times cheaper than a network")

    solid = ~A.unknown.reshape(A.grid_shape)
    titles = ("residual", "fine features", "pooled features", "features after", "direction")
    picture(folder / "dcdm-way.png", titles, way_through(f.network, b), solid)
    directions = [new - old for old, new in pairwise(iterates[:5])]
    picture(folder / "dcdm-directions.png", [f"step {k + 1}" for k in range(len(directions))], directions, solid)
    convergence(folder / "dcdm-convergence.png", {"dcdm": info, "CG, no preconditioner": plain})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
