from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from krylearn.solvers import Reason, cg, dcdm


def spd(n, seed):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n))
    return G @ G.T + np.eye(n), rng.standard_normal(n)


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("M", [None, "jacobi"])
def test_with_a_linear_spd_map_it_repeats_cg(window, M):
    A, b = spd(40, 60013)
    M = None if M is None else np.diag(1 / np.diag(A))
    kwargs = {"rtol": 1e-10, "maxiter": 12}  # later, rounding separates even equal methods
    x, info = dcdm(A, b, M, window=window, **kwargs)
    y, reference = cg(A, b, M=M, **kwargs)
    np.testing.assert_allclose(info.residuals, reference.residuals, rtol=1e-7)
    np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 20), seed=st.integers(0, 10**6), window=st.integers(0, 4))
def test_a_norm_of_the_error_never_grows_under_any_map(n, seed, window):
    A, b = spd(n, seed)
    rng = np.random.default_rng(seed + 1)
    W = rng.standard_normal((n, n))
    exact = np.linalg.solve(A, b)
    errors = [exact @ A @ exact]

    def network(r):  # biased, nonlinear, unsymmetric; sometimes proposes ascent
        return np.tanh(W @ r / np.linalg.norm(r)) + 0.1

    dcdm(A, b, network, window=window, rtol=1e-9, maxiter=60,
         callback=lambda x: errors.append((x - exact) @ A @ (x - exact)))  # fmt: skip
    assert len(errors) > 1
    assert all(after <= before * (1 + 1e-9) + 1e-20 * errors[0] for before, after in pairwise(errors))


def test_directions_are_conjugate_to_the_window_as_published():
    A, b = spd(15, 60017)
    W = np.random.default_rng(60029).standard_normal((15, 15))
    iterates = [np.zeros(15)]
    dcdm(A, b, lambda r: np.tanh(W @ r), window=2, maxiter=8, rtol=1e-14, callback=lambda x: iterates.append(x.copy()))
    d = np.diff(iterates, axis=0)
    d /= np.sqrt(np.einsum("ki,ij,kj->k", d, A, d))[:, None]
    gram = d @ A @ d.T
    assert abs(np.diag(gram, 1)).max() < 1e-9  # the newest earlier direction: exact even with classical Gram-Schmidt
    # two back: g is made orthogonal to both, and those two are orthogonal to each other
    assert abs(np.diag(gram, 2)).max() < 1e-8


def test_published_iteration_step_by_step():
    """Section 2.1 of the method, written out with r recomputed, against the recurrence."""
    A, b = spd(12, 60037)
    W = np.random.default_rng(60041).standard_normal((12, 12))

    def f(r):
        return np.maximum(W @ (r / np.linalg.norm(r)), 0) - 0.2

    x, past, reference = np.zeros(12), [], []
    for _ in range(8):
        r = b - A @ x
        g = f(r)
        d = g - sum((g @ A @ e) / (e @ A @ e) * e for e in past[-2:])
        x = x + (d @ r) / (d @ A @ d) * d
        past.append(d)
        reference.append(x)
    seen = []
    dcdm(A, b, f, maxiter=8, rtol=1e-14, callback=lambda x: seen.append(x.copy()))
    np.testing.assert_allclose(seen, reference, rtol=1e-8, atol=1e-10)


def test_one_product_and_one_network_per_step():
    A, b = spd(15, 60077)
    calls = []

    def network(r):
        calls.append(1)
        return r

    _, info = dcdm(A, b, network, rtol=1e-8)
    assert info == 0
    assert len(calls) == info.iterations
    assert info.matvecs == info.iterations + 1


def test_indefinite_matrix_is_reported():
    x, info = dcdm(np.diag([1.0, -1.0]), np.ones(2), None)
    assert info.reason is Reason.INDEFINITE_A
    assert np.isfinite(x).all()


@pytest.mark.parametrize("network", [lambda r: 0 * r, lambda r: np.array([r[1], -r[0]])])
def test_a_map_without_descent_ends_as_stagnation(network):
    x, info = dcdm(np.eye(2), np.array([1.0, 2.0]), network)
    assert info > 0
    assert info.reason is Reason.STAGNATED
    assert "no descent" in info.reason.value
    np.testing.assert_array_equal(x, 0)


def test_a_map_with_nan_stops_at_once():
    x, info = dcdm(np.eye(2), np.ones(2), lambda r: r * np.nan)
    assert info.reason is Reason.NON_FINITE
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("window", [-1, 1.5])
def test_window_is_a_count(window):
    with pytest.raises(ValueError, match="window"):
        dcdm(np.eye(2), np.ones(2), None, window=window)


def test_a_torch_module_on_a_poisson_operator():
    """The map normalises its own input; it sees flat tensors whatever b is."""
    A = Poisson.from_coefficients(np.ones((6, 6)))
    torch.manual_seed(60083)
    linear = torch.nn.Linear(36, 36).double()

    class Network(torch.nn.Module):
        def forward(self, r):
            size = torch.linalg.vector_norm(r)
            return size * (r / size + 0.1 * torch.tanh(linear(r / size)))

    x, info = dcdm(A, np.ones((6, 6)), Network(), rtol=1e-6, maxiter=500)
    assert info == 0
    assert isinstance(x, np.ndarray)
    np.testing.assert_allclose(A @ x, 1, atol=1e-5)
