import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.solvers import ritz_pairs, tridiagonalize


def symmetric(n, seed, eigenvalues=None):
    g = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64)).Q
    values = torch.randn(n, generator=g, dtype=torch.float64) if eigenvalues is None else eigenvalues
    return q @ torch.diag(values) @ q.T, torch.randn(n, generator=g, dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 25), seed=st.integers(0, 10**6), fraction=st.floats(0.1, 1))
def test_basis_is_orthonormal_and_the_relation_holds(n, seed, fraction):
    A, v = symmetric(n, seed)
    T = tridiagonalize(A, v, max(1, int(fraction * n)))
    q, m = T.basis, len(T.alpha)
    torch.testing.assert_close(q @ q.T, torch.eye(m, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(q @ A @ q.T, T.matrix(), rtol=0, atol=1e-12)
    torch.testing.assert_close(v, q[0] * T.start_norm)
    rest = A @ q.T - q.T @ T.matrix()
    torch.testing.assert_close(rest[:, :-1], torch.zeros(n, m - 1, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [2, 4, 7])
def test_it_is_gauss_quadrature(m):
    """Exact up to degree 2m - 1, false at 2m."""
    A, v = symmetric(20, 70001, torch.linspace(-1, 1, 20, dtype=torch.float64))
    pairs = ritz_pairs(tridiagonalize(A, v, m))
    for k in range(2 * m + 1):
        moment = v @ torch.linalg.matrix_power(A, k) @ v / (v @ v)
        error = abs((pairs.weights * pairs.values**k).sum() - moment)
        assert error < 1e-12 if k < 2 * m else error > 1e-9


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 25), seed=st.integers(0, 10**6), m=st.integers(1, 25))
def test_bounds_are_residuals_and_hold(n, seed, m):
    A, v = symmetric(n, seed)
    pairs = ritz_pairs(tridiagonalize(A, v, m), vectors=True)
    y = pairs.vectors
    residual = torch.linalg.vector_norm(y @ A - pairs.values[:, None] * y, dim=1)
    torch.testing.assert_close(residual, pairs.bounds, rtol=1e-6, atol=1e-12)
    distance = abs(torch.linalg.eigvalsh(A) - pairs.values[:, None]).min(1).values
    assert bool((distance <= pairs.bounds + 1e-12).all())
    assert float(pairs.weights.sum()) == pytest.approx(1)


def test_clustered_spectrum_gives_no_copies():
    """A huge cluster at zero and three outliers: without two passes, copies of the outliers appear."""
    values = torch.cat(
        [1e-9 * torch.rand(197, dtype=torch.float64), torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)]
    )
    A, v = symmetric(200, 70003, values)
    pairs = ritz_pairs(tridiagonalize(A, v, 40))
    assert int((pairs.values > 0.5).sum()) == 3
    torch.testing.assert_close(pairs.values[-3:], values[-3:], rtol=1e-12, atol=0)


@pytest.mark.parametrize("sweep", [1, 3, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_invariant_subspace_ends_the_run(sweep, dtype):
    values = torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0, -2.0], dtype=torch.float64)
    A, v = symmetric(6, 70009, values)
    T = tridiagonalize(A.to(dtype), v.to(dtype), 6, sweep=sweep)
    assert T.complete
    assert len(T.alpha) == 3
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        ritz_pairs(T).values, torch.tensor([-2.0, 1.0, 5.0], dtype=torch.float64), rtol=0, atol=50 * eps
    )


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_breakdown_is_relative(factor):
    A, v = symmetric(30, 70019, torch.logspace(-6, 0, 30, dtype=torch.float64))
    T = tridiagonalize(factor * A, v, 20)
    assert len(T.alpha) == 20
    assert not T.complete


@pytest.mark.parametrize("A", [lambda v: 0 * v, lambda v: v, lambda v: -3 * v])
def test_multiples_of_the_identity_and_zero_are_caught(A):
    T = tridiagonalize(A, torch.ones(5), 5)
    assert T.complete
    assert len(T.alpha) == 1


def test_single_precision_products_with_double_precision_coefficients():
    A, v = symmetric(60, 70039)
    T = tridiagonalize(A.float(), v.float(), 20)
    assert T.basis.dtype == torch.float32
    assert T.alpha.dtype == torch.float64
    assert abs(T.basis @ T.basis.T - torch.eye(20)).max() < 1e-6
    exact = ritz_pairs(tridiagonalize(A, v, 20)).values
    torch.testing.assert_close(ritz_pairs(T).values[-1], exact[-1], rtol=1e-5, atol=0)


def test_vectors_of_any_shape():
    A = torch.arange(1.0, 13.0).reshape(3, 4)
    T = tridiagonalize(lambda v: A * v, torch.ones(3, 4), 12)
    assert T.basis.shape == (12, 3, 4)
    torch.testing.assert_close(ritz_pairs(T).values, torch.arange(1.0, 13.0, dtype=torch.float64), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("A", "v", "steps", "message"),
    [
        (torch.eye(3), torch.ones(3), 0, "steps"),
        (torch.eye(3), torch.zeros(3), 2, "non-zero"),
        (torch.eye(3), torch.tensor([1.0, float("nan"), 0.0]), 2, "finite"),
        (lambda v: v * float("inf"), torch.ones(3), 2, "overflow"),
        (lambda v: v[:2], torch.ones(3), 2, "expected a tensor of that shape"),
    ],
)
def test_bad_input_is_refused(A, v, steps, message):
    with pytest.raises(ValueError, match=message):
        tridiagonalize(A, v, steps)


def test_no_graph_is_recorded():
    A = torch.eye(3, requires_grad=True)
    T = tridiagonalize(A, torch.tensor([1.0, 2.0, 3.0], requires_grad=True), 3)
    assert not T.basis.requires_grad


def test_import_is_light():
    code = "import sys, krylearn.solvers.lanczos; assert 'numba' not in sys.modules and 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
