"""Identify a conductance field from pressures: gradient descent through the solver.

    python examples/identify_conductance.py [cells per side] [steps] [picture.png]

Fluid is pumped into one well at a time; pressures are read at a lattice of sensors, with one per cent of noise. The
unknown is the logarithm of the conductance of every cell. Each step solves for all wells at once, and the gradient with
respect to all cells costs as much again: one adjoint solve per well, with the same preconditioner.
"""

import sys

import torch
from krylearn.pde import Poisson
from krylearn.solvers import solve


def true_field(n):
    """Log10 of the conductance: 1 everywhere, a channel of 10, a lens of 1/10."""
    x, y = torch.meshgrid(*[(torch.arange(n, dtype=torch.float64) + 0.5) / n] * 2, indexing="ij")
    channel = (y - 0.3 - 0.25 * torch.sin(3 * x)).abs() < 0.09
    lens = ((x - 0.6) / 0.25) ** 2 + ((y - 0.85) / 0.09) ** 2 < 1
    return channel.double() - lens.double()


def wells(n):
    """Right-hand sides (9, n, n): unit injection at one well each, away from the walls."""
    places = [n // 6, n // 2, 5 * n // 6]
    b = torch.zeros(9, n, n, dtype=torch.float64)
    for k in range(9):
        b[k, places[k // 3], places[k % 3]] = 1.0
    return b


def roughness(theta):
    """Total variation, smoothed where it has a kink: fields of few, sharp edges are the likely ones."""
    return sum(((theta.diff(dim=d) ** 2 + 1e-4).sqrt()).mean() for d in (0, 1))


def identify(pressures, b, sensors, steps):
    """Descend from a uniform field; return log10 of the conductance, and the misfit at each step."""
    theta = torch.zeros(b.shape[1:], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    misfits = []
    for _ in range(steps):
        optimizer.zero_grad()
        A = Poisson.from_coefficients(10**theta)  # p = 0 on the walls
        p = solve(A, b, rtol=1e-8)
        misfit = ((p - pressures)[:, sensors] / pressures[:, sensors]).square().mean()
        (misfit + 6e-3 * roughness(theta)).backward()
        optimizer.step()
        misfits.append(float(misfit.detach()))
    return theta.detach(), misfits


def draw(path, truth, found, misfits, sensors):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", width_ratios=[1, 1, 1.1])
    for ax, field, title in zip(axes, (truth, found), ("true conductance", "identified"), strict=False):
        image = ax.imshow(field.T, origin="lower", cmap="gray", vmin=-1.1, vmax=1.1)
        ax.set(title=title, xticks=[], yticks=[])
    axes[1].plot(*sensors.nonzero().T, ".", ms=2, color="tab:orange", label="sensors")
    axes[1].legend(loc="lower right", fontsize=7)
    figure.colorbar(image, ax=axes[:2], label="log10 of the conductance", shrink=0.9)
    axes[2].semilogy(range(1, len(misfits) + 1), misfits, "k-")
    axes[2].axhline(1e-4, ls=":", color="k", label="noise")
    axes[2].set(xlabel="step", title="mean squared misfit, relative")
    axes[2].legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(n=32, steps=150, picture=None):
    generator = torch.Generator().manual_seed(31415)
    truth, b = true_field(n), wells(n)
    exact = solve(Poisson.from_coefficients(10**truth), b)
    pressures = exact * (1 + 0.01 * torch.randn(exact.shape, generator=generator, dtype=torch.float64))
    sensors = torch.zeros(n, n, dtype=torch.bool)
    sensors[2::3, 2::3] = True
    found, misfits = identify(pressures, b, sensors, steps)
    alike = float(torch.corrcoef(torch.stack([truth.reshape(-1), found.reshape(-1)]))[0, 1])
    print(f"{n * n} conductances from {int(sensors.sum())} sensors and {len(b)} wells: misfit {misfits[0]:.2e} -> "
          f"{misfits[-1]:.2e} in {steps} steps, correlation with the truth {alike:.2f}")  # fmt: skip
    if picture:
        draw(picture, truth, found, misfits, sensors)
    return misfits


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:4])
