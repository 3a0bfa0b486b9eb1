"""Several vectors in one product: columns as in SciPy, rows where the shape leaves no doubt, grids as they are."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid

A = Poisson.from_coefficients(np.random.default_rng(27182).uniform(0.1, 1, (4, 5)))
M = NeuralMultigrid(A)
S = A.matrix().toarray()
T = np.stack([M @ e for e in np.eye(20)], 1)
MAPS = {"A": (A, S), "M": (M, T)}


@pytest.fixture(params=MAPS)
def pair(request):
    return MAPS[request.param]


@pytest.mark.parametrize("k", [2, 3, 20, 21])
@pytest.mark.parametrize("library", ["numpy", "torch", "list"])
def test_columns(pair, k, library):
    operator, matrix = pair
    X = np.random.default_rng(16180).standard_normal((20, k))
    given = {"numpy": X, "torch": torch.from_numpy(X), "list": X.tolist()}[library]
    for product in (operator @ given, operator.matmat(given), operator.matvec(given), operator(given)):
        np.testing.assert_allclose(np.asarray(product), matrix @ X, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 19, 21])
def test_rows_where_k_is_not_n(pair, k):
    operator, matrix = pair
    X = np.random.default_rng(16181).standard_normal((k, 20))
    np.testing.assert_allclose(operator @ X, (matrix @ X.T).T, rtol=1e-5, atol=1e-6)


def test_grids_and_batches_of_three_dimensions_stay_as_they_are(pair):
    operator, matrix = pair
    X = np.random.default_rng(16182).standard_normal((20, 20))
    np.testing.assert_allclose(operator @ X[0].reshape(4, 5), (matrix @ X[0]).reshape(4, 5), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(operator @ X[None], (matrix @ X.T).T[None], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(operator @ X.reshape(20, 4, 5), (matrix @ X.T).T.reshape(20, 4, 5), rtol=1e-5, atol=1e-6)
    assert (operator @ X[:, :1]).shape == (20, 1)


def test_columns_keep_their_own_scale():
    X = np.random.default_rng(16183).standard_normal((20, 2)) * [1.0, 1e-60]
    np.testing.assert_allclose((M @ X)[:, 1], M @ X[:, 1], rtol=1e-14)


@pytest.mark.filterwarnings("ignore:Exited")
def test_lobpcg_finds_the_smallest_eigenvalues():
    X = np.random.default_rng(16184).standard_normal((20, 3))
    values, _ = scipy.sparse.linalg.lobpcg(A, X, M=M, largest=False, tol=1e-8, maxiter=60)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(S)[:3], rtol=1e-6)


def test_a_square_one_is_not_transposed_for_a_single_cell_either():
    one = Poisson.from_coefficients(np.full((1, 1), 3.0))
    np.testing.assert_array_equal(one @ np.ones((1, 4)), np.full((1, 4), float(one.diag)))
