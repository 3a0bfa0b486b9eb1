"""Every CUDA kernel against the reference, on the device at hand: the first part of `krylearn bench cuda`.

The grid is odd and prime along its axes, wraps around one, and has obstacles; so does the one of two dimensions. The
errors are relative, in the norm; the tolerances are those of the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels import reference
from krylearn.solvers.kernels.reference import OMEGA
from krylearn.solvers.multigrid.hierarchy import v_cycle
from torch import Tensor

SHAPES = ((19, 18, 23), (61, 37))
Row = tuple[str, float, float]


def systems(device: Any, shapes: Any = SHAPES) -> Iterator[tuple[str, Poisson]]:
    """Yield a cell-type and a general operator per shape.

    Examples
    --------
    >>> [name for name, A in systems("cpu", ((3, 4),))]
    ['cells 3x4', 'coefficients 3x4']
    """
    rng = np.random.default_rng(70_001)
    for shape in shapes:
        cells = rng.choice([0, 1, 2], shape, p=[0.15, 0.75, 0.1])
        boundary = dict.fromkeys("xyz"[: len(shape)], "neumann") | {"x": "periodic", "y-": "dirichlet"}
        name = "x".join(map(str, shape))
        yield f"cells {name}", Poisson.from_cells(cells, boundary=boundary).to(device)
        kappa = 10 ** rng.uniform(-2, 2, shape)
        A = Poisson.from_coefficients(kappa, boundary=boundary, cells=np.minimum(cells, 1))
        yield f"coefficients {name}", A.to(device)


def check(A: Poisson) -> Iterator[Row]:
    """Yield (kernel, relative error, tolerance) for one operator."""
    from krylearn.solvers.kernels.cuda import launch, smoothing as cuda, transfer as cuda_transfer
    from krylearn.solvers.kernels.cuda.formats import cell_codes, couplings_of
    from krylearn.solvers.multigrid.setup_cuda.build import hierarchy_cycle

    M = NeuralMultigrid(A, weights="resistor", kernels="reference")
    h, r, go = M.hierarchy, noise(A, 1), launch.make_stop(A.device)
    cycle = hierarchy_cycle(h, cell_codes(A), M.exponent)
    v, level = cycle.levels[0], h.levels[0]
    op, S, t = level.op, level.s * level.op.inv, level.transfer
    x, sums = noise(A, 2).double(), launch.new_sums(v.size, A.device)
    y = torch.empty_like(x)
    cuda.apply_dot(couplings_of(A, torch.float64), x, y, sums, go)
    yield "product, fp64", error(y, A.to(dtype=torch.float64).apply(x)), 1e-13
    yield "dot in the product", error(sums.sum(), (x * y).sum()), 1e-12
    cuda.relax(v.op, r, v.r, OMEGA[0], go)
    yield "relax", error(v.r, r - OMEGA[0] * reference.apply(op, S * r)), 1e-5
    coarse = reference.restrict(t, r)
    found = torch.full_like(coarse, torch.nan)
    cuda_transfer.restrict(v.op, r, v.a, v.factors, v.periodic, found, go)
    yield "restrict", error(found, coarse), 1e-5
    e = reference.prolong(t, coarse)
    cuda_transfer.prolong(v.op, coarse.contiguous(), v.a, v.factors, v.periodic, v.e, go)
    yield "prolong", error(v.e * op.mask, e), 1e-5
    v.second.copy_(r)
    cuda.correct(v.op, v.e, v.second, go)
    yield "correct", error(v.second, r - reference.apply(op, e)), 1e-5
    yield "whole cycle, with finish", error(cycle.apply(r), v_cycle(h, r)), 1e-5


def check_solve(A: Poisson) -> Row:
    """Compare a solve, set up by the network on the device, with the CPU's: (what, difference of x, tolerance)."""
    b = A.apply(noise(A, 3).double()).reshape(A.grid_shape)  # in the range of A: obstacles may enclose fluid
    x, info = cg(A, b, M=NeuralMultigrid(A, kernels="triton"), rtol=1e-10, check_every=4)
    y, expected = cg(A.to("cpu"), b.cpu(), M=NeuralMultigrid(A.to("cpu")), rtol=1e-10)
    same = info == expected == 0 and abs(info.iterations - expected.iterations) <= 2
    return "solve, as on the CPU", error(x.cpu(), y) if same else float("inf"), 1e-5


def noise(A: Poisson, seed: int) -> Tensor:
    """Random numbers where A holds unknowns, on A's device, in fp32."""
    values = np.random.default_rng(seed).standard_normal(tuple(A.diag.shape), dtype=np.float32)
    return torch.from_numpy(values).to(A.device) * A.unknown


def error(found: Tensor, expected: Tensor) -> float:
    """Relative error in the norm; NaN if anything is.

    Examples
    --------
    >>> error(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
    0.5
    """
    norm = torch.linalg.vector_norm
    return float(norm((found - expected).double()) / norm(expected.double()))
