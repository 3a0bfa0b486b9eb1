"""Rows of a matrix without neighbours: Dirichlet values kept in place, insulated blocks, pockets of one cell."""

import numpy as np
import pytest
import scipy.sparse
import torch
from krylearn.pde import Poisson, stack

RNG = np.random.default_rng(60221)
DIAGONAL = {"dirichlet rows": 1.0, "penalty": 1e10, "tiny": 1e-10, "seven": 7.0}


def insulated(diagonal=1.0, dtype=np.float64):
    """A diffusion step around an insulating block, whose rows have a diagonal entry alone."""
    kappa = np.ones((8, 9))
    kappa[3:5, 3:6] = 0
    matrix = (0.1 * Poisson.from_coefficients(kappa, boundary="neumann").matrix()).tolil()
    matrix.setdiag(matrix.diagonal() + np.where(kappa.ravel() > 0, 1.0, diagonal))
    return scipy.sparse.csr_array(matrix.tocsr(), dtype=dtype)


@pytest.mark.parametrize("diagonal", DIAGONAL.values(), ids=DIAGONAL)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_products_and_matrix_hold_every_row(diagonal, order, dtype):
    S = insulated(diagonal, dtype)
    A = Poisson.from_matrix(S, (8, 9) if order == "C" else (9, 8), order=order)
    x = RNG.standard_normal((72, 5)).astype(dtype)
    assert A.unknowns == 72
    assert abs(A.matrix() - S).max() <= 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(A @ x, S @ x, rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(A.matrix(unknowns=True).toarray(), A.matrix().toarray())


def test_cells_may_say_that_such_a_row_holds_no_unknown():
    S = insulated()
    solid = S.diagonal() == 1.0
    cells = (~solid).reshape(8, 9)
    A = Poisson.from_matrix(S, (8, 9), cells=cells)
    assert A.uncoupled is None
    assert ((A @ np.ones(72)) == 0).tolist() == solid.tolist()


def test_an_empty_row_stays_empty():
    S = insulated(0.0)
    A = Poisson.from_matrix(S, (8, 9))
    assert A.unknowns == 66
    assert abs(A.matrix() - S).max() <= 1e-15
    np.testing.assert_allclose(A @ np.ones(72), S @ np.ones(72), atol=1e-14)


def test_a_diagonal_matrix_has_no_stencil_at_all():
    d = RNG.uniform(1, 9, 12)
    A = Poisson.from_matrix(scipy.sparse.diags_array(d), (3, 4))
    np.testing.assert_array_equal(A @ np.ones(12), d)
    assert A.unknowns == 12


def test_they_go_along_with_every_conversion():
    S = insulated(7.0)
    A = Poisson.from_matrix(S, (8, 9))
    single = A.to(dtype=torch.float32)
    np.testing.assert_allclose(single @ np.ones(72, np.float32), S @ np.ones(72), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(A.scaled(-3) @ np.ones(72), (A @ np.ones(72)) / 8)
    both = stack([A, Poisson.from_matrix(S / 2, (8, 9))])
    x = RNG.standard_normal(144)
    np.testing.assert_allclose(both @ x, np.concatenate([S @ x[:72], S @ x[72:] / 2]), atol=1e-13)
    assert abs(both.matrix() - scipy.sparse.block_diag([S, S / 2])).max() <= 1e-15


def test_nan_in_a_vector_stays_in_its_row():
    S = insulated()
    alone = int(np.flatnonzero(np.diff(S.indptr) == 1)[0])
    x = np.ones(72)
    x[alone] = np.nan
    assert np.flatnonzero(np.isnan(Poisson.from_matrix(S, (8, 9)) @ x)).tolist() == [alone]
