"""Voxels and the conductances they stand for are one operator: same bytes, same cycle, same solution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson, scene
from krylearn.pde.poisson import conductances as builders
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels.cpu.cell_bytes import find_cell_bytes
from krylearn.solvers.multigrid.hierarchy import COARSEST

KINDS = ("neumann", "dirichlet", "periodic")
FEW = settings(deadline=None, max_examples=60)


def problem(seed, dimension, small=False):
    """Random cells, kinds of sides and spacing."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 4 if small else 22, dimension))
    cells = rng.choice(3, shape, p=rng.dirichlet([1, 4, 1]))
    cells.flat[0] = 1
    axes = "xyz"[:dimension]
    boundary = {}
    for axis in axes:
        low, high = rng.choice(KINDS, 2)
        both = "periodic" in (low, high)
        boundary |= {axis: "periodic"} if both else {f"{axis}-": str(low), f"{axis}+": str(high)}
    return cells, float(rng.choice([1.0, 0.1, 3.7])), boundary


def both(cells, spacing, boundary, dtype=torch.float64):
    """The operator as voxels, and as the arrays they stand for."""
    arrays = Poisson(**builders.from_cells(cells, spacing, boundary, None, dtype))
    assert arrays.voxels is None
    return Poisson.from_cells(cells, spacing, boundary, dtype=dtype), arrays


def is_postponed(A):
    return A.voxels is not None and "conductances" not in vars(A)


@FEW
@given(st.integers(0, 2**32), st.integers(2, 3), st.booleans())
def test_bytes_null_space_and_product_are_those_of_the_arrays(seed, dimension, small):
    A, arrays = both(*problem(seed, dimension, small))
    expected = find_cell_bytes(arrays)
    if expected is not None:  # the arrays show no conductance if no two unknowns touch
        codes = find_cell_bytes(A)
        assert codes.unit == expected.unit
        for x, y in zip((*codes.links, codes.diag), (*expected.links, expected.diag), strict=True):
            np.testing.assert_array_equal(x, y)
    assert A.nullspace.dimension == arrays.nullspace.dimension
    assert A.unknowns == arrays.unknowns
    v = np.random.default_rng(1).standard_normal(A.grid_shape)
    np.testing.assert_array_equal(A.nullspace.project(A.to_grid(v)), arrays.nullspace.project(arrays.to_grid(v)))
    x, info = cg(A, arrays @ v, rtol=1e-9)
    assert info == 0
    assert is_postponed(A) or A.unknown.numel() <= COARSEST  # else nobody asked for a conductance
    assert np.linalg.norm(arrays @ x - arrays @ v) <= 1e-8 * np.linalg.norm(arrays @ v) + 1e-14
    for name in ("links", "ground"):
        assert all(map(torch.equal, getattr(A, name), getattr(arrays, name)))
    assert torch.equal(A.shift, arrays.shift)
    assert torch.equal(A.diag, arrays.diag)


@FEW
@given(st.integers(0, 2**32), st.integers(2, 3))
def test_the_cycle_is_that_of_the_arrays_bit_for_bit(seed, dimension):
    A, arrays = both(*problem(seed, dimension))
    if find_cell_bytes(arrays) is None:
        return
    M, expected = (NeuralMultigrid(each, "network") for each in (A, arrays))
    for level, wanted in zip(M.fused.levels, expected.fused.levels, strict=True):
        for x, y in zip(level.arrays[:6], wanted.arrays[:6], strict=True):
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(M.fused.inverse, expected.fused.inverse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_true_residual_is_that_of_the_arrays(dtype):
    cells = (np.random.default_rng(3).random((12, 13, 14)) < 0.9).astype(int)
    A, arrays = both(cells, 0.3, "dirichlet", dtype)
    x = np.random.default_rng(4).standard_normal(A.grid_shape)
    product = NeuralMultigrid(A).A.apply(A.to_grid(x))
    np.testing.assert_allclose(product, arrays.apply(arrays.to_grid(x)), rtol=1e-12)
    solution, info = cg(A, x, rtol=1e-5)
    assert info == 0
    assert np.linalg.norm(arrays @ solution - arrays.from_grid(arrays.to_grid(x), x)) <= 1.01e-5 * np.linalg.norm(x)


def test_the_callers_array_may_be_used_again():
    cells = np.ones((8, 8, 8), np.uint8)
    A = Poisson.from_cells(cells, boundary="dirichlet")
    cells[4:] = 0
    assert A.unknowns == 512
    assert int((A.links[0] > 0).sum()) == 7 * 64


def test_what_is_no_voxel_problem_keeps_its_arrays():
    cells = np.ones((4, 5, 6))
    assert Poisson.from_cells(cells, spacing=(1, 1, 2)).voxels is None
    assert Poisson.from_cells(cells, shift=0.5).voxels is None
    with pytest.raises(ValueError, match="conductances that underflow"):
        Poisson.from_cells(cells, spacing=1e-50, dtype=np.float32)
    assert Poisson.from_cells(cells, shift=0.0).voxels is not None
    assert scene("obstacles", (8, 8, 8), seed=0).voxels is not None


def test_copies_and_other_precisions():
    import copy
    import pickle

    A = Poisson.from_cells(np.ones((6, 7, 8)), spacing=0.3, boundary="dirichlet")
    for other in (pickle.loads(pickle.dumps(A)), copy.copy(A), copy.deepcopy(A)):
        assert is_postponed(other)
        assert torch.equal(other.diag, A.to().diag)
    assert A.detach() is A
    half = A.to(dtype=torch.float32)
    assert half.dtype == np.float32
    torch.testing.assert_close(half.diag, A.diag.float())
    with pytest.raises(AttributeError, match="nothing"):
        A.nothing  # noqa: B018
