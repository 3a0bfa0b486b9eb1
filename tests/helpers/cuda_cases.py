"""What the tests of the CUDA kernels share: the device (Triton's interpreter where there is none), systems, levels."""

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.solvers.kernels.cuda.formats import LEVEL, Couplings, cell_codes
from krylearn.solvers.kernels.cuda.launch import make_stop
from krylearn.solvers.kernels.cuda.level import CudaLevel
from krylearn.solvers.kernels.reference import Stencil
from krylearn.solvers.multigrid.hierarchy import Hierarchy, Level, build
from krylearn.solvers.multigrid.preconditioner import power_of_two, quantise, stencil_of
from multigrid_cases import GRIDS, grid_system, random_network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GO = make_stop(torch.device(DEVICE))


def vector(size, seed=90_001, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size)).to(DEVICE, dtype)


def cell_system(name, seed=90_007):
    """Fluid, obstacles and a free surface on a grid of `GRIDS`, with its boundaries and unequal spacing."""
    shape, boundary = GRIDS[name]
    cells = np.random.default_rng(seed).choice([0, 1, 2], shape, p=[0.15, 0.75, 0.1])
    spacing = (1.0, 0.7, 1.3)[: len(shape)]
    return Poisson.from_cells(cells, spacing=spacing, boundary=dict.fromkeys("xyz"[: len(shape)], "neumann") | boundary)


SYSTEMS = {"stored": grid_system, "cells": cell_system}


def levels(A, rule=None, dtype=torch.float32):
    """A quantised hierarchy of a random network, and A's exponent; levels are rounded as the kernels store them."""
    exponent = power_of_two(float(A.diag.max()))
    network = rule or random_network(90_011).to(DEVICE)
    with torch.no_grad():
        return quantise(build(stencil_of(A.to(DEVICE), exponent), network), dtype), exponent


def finest(A, dtype=torch.float32):
    """The reference's finest level, and the same as the kernels see it."""
    h, exponent = levels(A, dtype=dtype)
    return h.levels[0], kernel_level(h.levels[0], dtype, cell_codes(A.to(DEVICE)), exponent).allocate()


def kernel_level(level, storage, codes=None, exponent=0):
    return CudaLevel.from_tensors(level.op, level.s, level.transfer, storage, codes, exponent)


def as_stored(level, v):
    """The reference's level with the numbers that a level of the kernels stores, in the dtype of its vectors."""
    if v.op.form != LEVEL:
        return level
    x, y, z, extra, sd = (t.to(v.b.dtype) for t in v.op.arrays)
    zero = torch.zeros_like(extra)
    op = Stencil([x, y, z], [zero, zero, zero], extra, level.op.periodic)
    return Level(op, sd * op.diag, level.transfer)


def hierarchy_as_stored(h, cycle):
    pairs = zip(h.levels, cycle.levels, strict=True)
    return Hierarchy([as_stored(level, v) for level, v in pairs], h.bottom, h.inverse)


def stored(A, dtype):
    return Couplings.stored(A.links, A.diag, dtype)


def close(actual, expected, tolerance=1e-5):
    """Equal to a relative error in the norm, and finite."""
    assert actual.shape == expected.shape
    error = torch.linalg.vector_norm((actual - expected).double())
    assert error <= tolerance * torch.linalg.vector_norm(expected.double()), float(error)
