"""A porous medium on several processes: every rank makes and solves its own part; rank 0 draws a slice.

mpirun -n 4 python -m mpi4py examples/several_ranks.py [cells per axis] [picture.png]     (docs/distributed.md: PETSc)
"""

import sys

import numpy as np
from krylearn.solvers.distributed import DistributedPoisson, Partition, cg
from krylearn.solvers.distributed.petsc_library import ending_all_ranks, load_petsc, world


def conductivity(part: Partition) -> np.ndarray:
    """A contrast of up to a thousand from a formula, evaluated at own cells only."""
    n = part.grid_shape[0]
    x, y, z = np.meshgrid(*(np.arange(s.start, s.stop) / n for s in part.own), indexing="ij")
    waves = np.sin(23 * x + 9 * y) * np.sin(17 * y - 7 * z) * np.sin(19 * z + 5 * x)
    return 10.0 ** (1.5 * np.tanh(2 * waves))


def draw(picture: str, part: Partition, kappa: np.ndarray, x: np.ndarray) -> None:
    """Gather the middle slice on rank 0 and draw it; the cuts between ranks are white lines."""
    middle = part.grid_shape[2] // 2
    own = part.own
    mine = own[2].start <= middle < own[2].stop
    at = middle - own[2].start
    pieces = part.comm.gather((own[:2], kappa[:, :, at], x[:, :, at]) if mine else None)
    if part.comm.rank:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    whole = np.zeros((2, *part.grid_shape[:2]))
    for piece in pieces:
        if piece is not None:
            whole[(slice(None), *piece[0])] = piece[1:]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for ax, values, name in zip(axes, (np.log10(whole[0]), whole[1]), ("log10 conductivity", "pressure"), strict=True):
        image = ax.imshow(values.T, origin="lower", cmap="viridis")
        figure.colorbar(image, ax=ax, label=name)
        for cuts, line in ((part.planes[0], ax.axvline), (part.planes[1], ax.axhline)):
            for cut in cuts[1:-1]:
                line(cut - 0.5, color="white", linewidth=1)
    figure.suptitle(f"{' x '.join(map(str, part.grid_shape))} cells on {part.comm.size} ranks, middle slice")
    figure.savefig(picture, dpi=120)


def main(size: int = 64, picture: str = "several_ranks.png") -> None:
    try:
        load_petsc()
    except ImportError as error:
        print(f"not run: {error}")
        return
    with ending_all_ranks(world(), "several_ranks"):
        part = Partition((size, size, size))
        kappa = conductivity(part)
        A = DistributedPoisson.from_coefficients(kappa, part)
        x, info = cg(A, A.rhs(1.0), rtol=1e-8)
        if part.comm.rank == 0:
            print(f"{A}: {info}")
        draw(picture, part, kappa, x)


if __name__ == "__main__":
    main(*(int(v) if v.isdigit() else v for v in sys.argv[1:]))
