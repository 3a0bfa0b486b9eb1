"""Systems, rules and dense matrices that the tests of the multigrid's parts share."""

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.solvers.kernels.reference import Transfer
from krylearn.solvers.multigrid.hierarchy import Hierarchy, Level, build
from krylearn.solvers.multigrid.network import CoefficientNetwork
from krylearn.solvers.multigrid.preconditioner import power_of_two, stencil_of

# odd, prime, flat and long grids, each with its own mix of boundaries; all need at least one coarsening
GRIDS = {
    "even_3d": ((8, 8, 8), {"x": "dirichlet", "y": "neumann", "z": "neumann"}),
    "prime_3d": ((5, 7, 11), {"x": "periodic", "y-": "dirichlet", "z": "periodic"}),
    "odd_3d": ((9, 6, 5), {"x": "periodic", "y": "periodic", "z": "dirichlet"}),
    "flat_first": ((1, 13, 12), {"x": "periodic", "y": "periodic", "z+": "dirichlet"}),
    "flat_middle": ((13, 1, 11), {"x+": "dirichlet", "z": "periodic"}),
    "flat_last": ((12, 13, 1), {"x": "periodic", "y": "neumann", "z": "periodic"}),
    "two_wide": ((2, 9, 14), {"x": "periodic", "y": "periodic", "z": "neumann"}),
    "even_2d": ((16, 12), {"x": "periodic", "y": "periodic"}),
    "prime_2d": ((13, 17), {"x": "neumann", "y-": "dirichlet"}),
    "thread_2d": ((3, 61), {"x": "periodic", "y": "periodic"}),
}


def rough(shape, boundary, seed=30_011, solid=0.15, decades=2.0):
    """Coefficients over four decades, a few cells without an unknown; sides not named are Neumann."""
    rng = np.random.default_rng(seed)
    kappa = 10 ** rng.uniform(-decades, decades, shape)
    sides = dict.fromkeys("xyz"[: len(shape)], "neumann") | boundary
    return Poisson.from_coefficients(kappa, boundary=sides, cells=(rng.random(shape) >= solid).astype(int))


def grid_system(name, **options):
    shape, boundary = GRIDS[name]
    return rough(shape, boundary, **options)


def random_network(seed, scale=1.5, hidden=16):
    """A network whose every parameter is noise: nothing that training could find is stranger."""
    network = CoefficientNetwork(hidden)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    return network.eval()


def stencil(A, dtype=torch.float64):
    return stencil_of(A, power_of_two(float(A.diag.max()))).to(dtype)


def hierarchy(A, rule, dtype=torch.float64, coarsest=128):
    """Levels in fp64 without the rounding of weights: what the rule says, to rounding."""
    with torch.no_grad():
        return build(stencil(A, dtype), rule, coarsest)


def dyadic(h):
    """The hierarchy with weights rounded to multiples of 1/256, so that sums of products of them are exact."""

    def rounded(t):
        weights = [None if a is None else torch.round(a * 256) / 256 for a in t.weights]
        return Transfer(weights, t.factors, t.mask, t.periodic)

    return Hierarchy([Level(v.op, v.s, rounded(v.transfer)) for v in h.levels], h.bottom, h.inverse)


def units(size, dtype=torch.float64):
    """Every unit vector of a grid, as a batch."""
    n = int(np.prod(size))
    return torch.eye(n, dtype=dtype).view(n, *size)


def matrix_of(linear, size, dtype=torch.float64):
    """The dense matrix of a linear map between internal grids: its value on every unit vector, as columns."""
    return linear(units(size, dtype)).flatten(1).T


def dense(M, A):
    """The dense matrix of a preconditioner over the cells that a solve can reach (positive diagonal)."""
    reach = (A.diag > 0).flatten().numpy()
    columns = np.asarray(M @ np.eye(A.shape[0]))
    return columns[np.ix_(reach, reach)].T
