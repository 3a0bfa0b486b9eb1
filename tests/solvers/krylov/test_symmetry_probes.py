"""Every corner case on which the solvers in use differ; the module docstring of cg lists the deviations."""

import warnings

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from krylearn.pde import Poisson
from krylearn.solvers import Reason, cg
from scipy.sparse import diags_array

A3, B3 = np.diag([1.0, 2.0, 3.0]), np.ones(3)


def spd(n=20, seed=50021):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, n))
    return G @ G.T + np.eye(n), rng.standard_normal(n)


def neumann_1d(n=20):
    main = 2 * np.ones(n)
    main[[0, -1]] = 1
    return diags_array([-np.ones(n - 1), main, -np.ones(n - 1)], offsets=[-1, 0, 1]).tocsr()


def test_tolerance_reached_exactly_on_the_last_iteration():
    x, info = cg(A3, B3, rtol=1e-10, maxiter=3)
    assert (info, info.iterations) == (0, 3)
    np.testing.assert_allclose(A3 @ x, B3)


def test_maxiter_zero_is_no_success():
    x, info = cg(A3, B3, maxiter=0)
    assert info != 0
    assert info.reason is Reason.MAXITER
    np.testing.assert_array_equal(x, 0)


def test_zero_rhs_gives_fresh_zeros():
    b = np.zeros(3)
    x, info = cg(A3, b, x0=np.ones(3))
    assert info == 0
    np.testing.assert_array_equal(x, 0)
    assert not np.shares_memory(x, b)
    x, info = cg(Poisson.from_coefficients(np.ones((2, 2))), np.zeros((2, 2)), x0=np.ones((2, 2)), M="none")
    assert info == 0
    np.testing.assert_array_equal(x, np.zeros((2, 2)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_tolerance_stops_at_the_precision_limit(dtype):
    A, b = spd()
    A, b = A.astype(dtype), b.astype(dtype)
    x, info = cg(A, b, rtol=0.0, atol=0.0)
    assert info > 0
    assert info.reason is Reason.STAGNATED
    assert info.iterations < 200
    assert np.linalg.norm(b - A.astype(float) @ x) <= 200 * np.finfo(dtype).eps * np.linalg.norm(A) * np.linalg.norm(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["b", "x0", "A", "M"])
def test_nan_and_infinity_stop_at_once(bad, where):
    A, b, x0, M = A3.copy(), B3.copy(), np.full(3, 0.5), np.eye(3)
    {"b": b, "x0": x0, "A": A, "M": M}[where].ravel()[0] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's own product of infinity and zero
        x, info = cg(A, b, x0, M=M)
    assert info > 0
    assert info.reason is Reason.NON_FINITE
    assert info.iterations <= 1
    if where in "AM":
        np.testing.assert_array_equal(x, x0)


def test_indefinite_matrix_keeps_the_last_finite_iterate():
    x, info = cg(np.diag([1.0, -1.0]), np.ones(2))
    assert info > 0
    assert info.reason is Reason.INDEFINITE_A
    assert np.isfinite(x).all()
    x, info = cg(np.diag([3.0, 1.0, -2.0, 5.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert info.reason is Reason.INDEFINITE_A
    assert np.isfinite(x).all()


def test_negative_definite_matrix_or_preconditioner_converges_and_is_flagged():
    A, b = spd()
    x, info = cg(-A, b, rtol=1e-9)
    assert info == 0
    assert "A is negative definite" in info.notes
    np.testing.assert_allclose(A @ x, -b, atol=1e-7)
    x, info = cg(A, b, rtol=1e-9, M=-np.eye(20))
    assert info == 0
    assert "M is negative definite" in info.notes
    np.testing.assert_allclose(A @ x, b, atol=1e-7)


def test_indefinite_preconditioner_switches_to_flexible_directions_and_says_so():
    A, b = spd()
    M = np.diag(np.where(np.arange(20) % 3 == 0, -1.0, 1.0))
    x, info = cg(A, b, M=M, rtol=1e-8, maxiter=5000)
    assert any("flexible" in note for note in info.notes)
    if info == 0:
        assert np.linalg.norm(b - A @ x) <= 1e-8 * np.linalg.norm(b)
    else:
        assert info.reason in (Reason.INDEFINITE_M, Reason.STAGNATED, Reason.MAXITER)
    assert np.isfinite(x).all()


def test_preconditioner_orthogonal_to_the_residual_is_called_indefinite():
    M = np.array([[0.0, 1.0], [-1.0, 0.0]])  # r·Mr = 0 for every r: no method can use it
    x, info = cg(np.eye(2), np.array([1.0, 2.0]), M=M)
    assert info > 0
    assert info.reason in (Reason.INDEFINITE_M, Reason.STAGNATED)
    assert np.isfinite(x).all()


def test_unsymmetric_preconditioner_is_found_out_and_replaced_by_flexible_directions():
    n = 150
    A = diags_array([-np.ones(n - 1), 2.001 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]).tocsc()
    rng = np.random.default_rng(50023)
    M = scipy.sparse.linalg.LinearOperator((n, n), lambda r: skewed @ r, dtype=float)
    skew = rng.standard_normal((n, n))
    skewed = np.eye(n) + 0.2 * (skew - skew.T)  # positive: r·Mr = ‖r‖², so signs do not show it
    x, info = cg(A, rng.standard_normal(n), M=M, rtol=1e-6, maxiter=3000)
    assert any("flexible" in note for note in info.notes)
    assert np.isfinite(x).all()


def test_gauss_seidel_sweep_as_preconditioner_still_converges():
    A = diags_array([-np.ones(99), 2.1 * np.ones(100), -np.ones(99)], offsets=[-1, 0, 1]).tocsr()
    lower = scipy.sparse.tril(A).tocsr()
    M = scipy.sparse.linalg.LinearOperator(
        A.shape, lambda r: scipy.sparse.linalg.spsolve_triangular(lower, r), dtype=float
    )
    x, info = cg(A, np.ones(100), M=M, rtol=1e-8)
    assert info == 0
    assert np.linalg.norm(1 - A @ x) <= 1e-7


def test_rounding_in_single_precision_cycle_is_repeated_in_double():
    """An M whose fp32 form is indefinite: `exact` takes over before M is given up."""
    from krylearn.solvers.krylov.conjugate_gradients import cg_steps
    from krylearn.solvers.krylov.driver import Attempt, drive
    from krylearn.solvers.krylov.system import Preconditioner, matrix_system

    A, b = spd()
    M = Preconditioner(lambda r: -r if float(r @ r) < 1e-3 * float(b @ b) else r, exact=lambda r: r.clone())
    x, info = drive(
        [Attempt(cg_steps, M), Attempt(cg_steps, M.exact, "M applied in double")], matrix_system(A, b), rtol=1e-8
    )
    assert info == 0
    assert info.notes == ("M applied in double",)
    np.testing.assert_allclose(A @ x, b, atol=1e-6)


def test_incompatible_neumann_rhs_gives_the_least_squares_solution_of_zero_mean():
    A = Poisson.from_cells([[1, 1, 1, 0, 1], [1, 1, 1, 0, 2]])
    b = np.arange(1.0, 11.0).reshape(2, 5)
    x, info = cg(A, b, rtol=1e-10, M="none")
    assert info > 0
    assert info.reason is Reason.INCOMPATIBLE_RHS
    assert info.nullspace == 1
    left, masked = slice(0, 3), np.where(A.unknown.numpy().reshape(2, 5), b, 0)
    assert abs(x[:, left].mean()) < 1e-12
    exact = np.linalg.lstsq(A.matrix().toarray(), masked.ravel(), rcond=None)[0]
    np.testing.assert_allclose(x.ravel(), exact, atol=1e-8)
    assert info.true_residual == pytest.approx(np.linalg.norm(masked.ravel() - A.matrix() @ x.ravel()))


def test_incompatibility_below_the_tolerance_is_success():
    A = Poisson.from_cells(np.ones((4, 4)))
    b = np.random.default_rng(50033).standard_normal((4, 4))
    b -= b.mean() - 1e-7
    x, info = cg(A, b, rtol=1e-5, M="none")
    assert info == 0
    assert np.linalg.norm(b.ravel() - A.matrix() @ x.ravel()) <= 1e-5 * np.linalg.norm(b)
    _, info = cg(A, b, rtol=1e-8, M="none")
    assert info.reason is Reason.INCOMPATIBLE_RHS


def test_constant_rhs_on_a_closed_box():
    x, info = cg(Poisson.from_cells(np.ones((3, 3))), np.ones((3, 3)), M="none")
    assert info.reason is Reason.INCOMPATIBLE_RHS
    np.testing.assert_allclose(x, 0, atol=1e-15)
    assert info.true_residual == pytest.approx(3.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_null_space_given_for_a_matrix(dtype):
    A, b = neumann_1d().astype(dtype), np.arange(20, dtype=dtype)
    eps = np.finfo(dtype).eps
    x, info = cg(A, b, nullspace=np.ones(20), rtol=1e3 * eps)
    assert info.reason is Reason.INCOMPATIBLE_RHS
    exact = np.linalg.lstsq(A.toarray().astype(float), b, rcond=1e-10)[0]
    np.testing.assert_allclose(x, exact, atol=1e6 * eps)
    x, info = cg(A, b - b.mean(), nullspace=np.ones((20, 1)), rtol=1e3 * eps)
    assert info == 0
    assert abs(x.mean()) < 1e3 * eps


def test_incompatible_rhs_on_a_bare_singular_matrix_does_not_claim_success():
    x, info = cg(neumann_1d(), np.arange(20.0))
    assert info > 0
    assert np.isfinite(x).all()


@pytest.mark.parametrize("M", ["none", "geometric"])
def test_compatible_neumann_rhs_gets_the_zero_mean_gauge(M):
    A = Poisson.from_cells([[1, 1, 0, 1], [1, 1, 0, 1], [1, 1, 0, 1]])  # two closed rooms
    x_true = np.random.default_rng(50047).standard_normal((3, 4))
    x, info = cg(A, A @ x_true, x0=np.full((3, 4), 7.0), rtol=1e-10, M=M)
    assert info == 0
    assert info.nullspace == 2
    assert abs(x[:, :2].mean()) < 1e-14
    assert abs(x[:, 3].mean()) < 1e-14


def test_single_precision_preconditioner_in_double_precision_cg():
    A, b = spd()
    inverse = np.linalg.inv(A).astype(np.float32)
    M = scipy.sparse.linalg.LinearOperator(A.shape, lambda r: inverse @ r.astype(np.float32), dtype=np.float32)
    x, info = cg(A, b, M=M, rtol=1e-12)
    assert info == 0
    assert info.iterations <= 4
    assert x.dtype == np.float64
    assert info.true_residual == pytest.approx(np.linalg.norm(b - A @ x), rel=0.1)


def test_shapes_of_preconditioners_that_scipy_accepts_and_bare_callables():
    A, b = spd()

    class Duck:
        shape = (20, 20)

        def matvec(self, r):
            return (r / 2).reshape(-1, 1)

    reference, _ = cg(A, b)
    for M in (Duck(), lambda r: r / 2, np.eye(20) / 2, scipy.sparse.eye_array(20).tocsr() * 0.5):
        x, info = cg(A, b, M=M)
        assert info == 0
        np.testing.assert_allclose(x, reference, rtol=1e-9)


def test_psolve_of_the_matrix_is_its_preconditioner():
    A, b = spd()
    operator = scipy.sparse.linalg.aslinearoperator(A)
    operator.psolve = lambda r: np.linalg.solve(A, r)
    _, info = cg(operator, b)
    assert info.iterations == 1


def test_callback_gets_one_live_array():
    seen = []
    x, info = cg(A3, B3, callback=seen.append)
    assert len(seen) == info.iterations
    assert all(array is seen[0] for array in seen)
    np.testing.assert_array_equal(seen[0], x)


def test_callback_can_stop_the_solve_by_raising():
    class StopError(Exception):
        pass

    def stop(x):
        raise StopError

    with pytest.raises(StopError):
        cg(A3, B3, callback=stop)


@pytest.mark.parametrize("b", [np.array([1, 2, 3]), np.array([[1.0], [2.0], [3.0]]), [1, 2, 3], np.float32([1, 2, 3])])
def test_kinds_of_b(b):
    x, info = cg(A3, b)
    assert info == 0
    assert x.shape == (3,)
    assert x.dtype == np.float64


def test_x0_already_exact_and_x0_mb():
    exact = B3 / np.diag(A3)
    _, info = cg(A3, B3, exact)
    assert (info, info.iterations) == (0, 0)
    _, info = cg(A3, B3, "Mb", M=np.linalg.inv(A3))
    assert (info, info.iterations) == (0, 0)
    _, info = cg(A3, B3, "Mb")
    assert info == 0


def test_recursive_residual_below_true_one_above():
    """In float32 the recurrence sinks below any tolerance; what is claimed is what b - A x says."""
    n = 400
    A = diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]).tocsr().astype(np.float32)
    b = np.random.default_rng(50051).standard_normal(n).astype(np.float32)
    for rtol in 10.0 ** -np.arange(2, 9):
        x, info = cg(A, b, rtol=rtol)
        true = np.linalg.norm(b.astype(float) - A.astype(float) @ x.astype(float))
        assert info.true_residual == pytest.approx(true, rel=1e-6)
        assert (info == 0) == (true <= rtol * np.linalg.norm(b.astype(float)))
    assert info.reason is Reason.STAGNATED


def test_torch_input_gives_torch_output_of_its_dtype():
    A = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    x, info = cg(A, torch.ones(3), rtol=1e-5)
    assert info == 0
    assert (x.dtype, x.shape) == (torch.float32, (3,))
