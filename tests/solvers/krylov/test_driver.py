import pickle

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.solvers import ConvergenceError, Reason, SolveInfo, cg, dcdm
from krylearn.solvers.krylov.conjugate_gradients import cg_steps
from krylearn.solvers.krylov.driver import Attempt, drive
from krylearn.solvers.krylov.system import matrix_system
from krylearn.solvers.multigrid.hierarchy import COARSEST


def test_info_zero_is_a_promise(method, system, residual_norm):
    A, b = system
    x, info = method(A, b, rtol=1e-8)
    assert info == 0
    assert residual_norm(A, b, x) <= 1e-8 * np.linalg.norm(b) * (1 + 1e-6)
    assert info.true_residual == pytest.approx(residual_norm(A, b, x), rel=1e-3, abs=1e-14)


def test_too_few_iterations_are_no_success(method, system):
    A, b = system
    _, info = method(A, b, rtol=1e-12, maxiter=1)
    if info == 0:  # a small grid is inverted
        assert A.unknown.numel() <= COARSEST
        _, info = method(A, b, rtol=1e-12, maxiter=0)
    assert info == 1
    assert info.reason is Reason.MAXITER
    assert info.iterations <= 1


def test_matvecs_are_steps_plus_start_plus_check(method, system):
    A, b = system
    _, info = method(A, b, rtol=1e-6)
    assert info.matvecs == info.iterations + 1  # x0 = 0: the start costs none


def test_residual_history_includes_start_and_end(method, system):
    A, b = system
    _, info = method(A, b, rtol=1e-6)
    assert len(info.residuals) == info.iterations + 1
    assert info.residuals[0] == pytest.approx(np.linalg.norm(b), rel=1e-12)
    assert info.residuals[-1] <= 1e-6 * np.linalg.norm(b)


def test_scaling_by_a_power_of_two_changes_no_digit():
    rng = np.random.default_rng(31337)
    G = rng.standard_normal((20, 20))
    A, b = G @ G.T + np.eye(20), rng.standard_normal(20)
    x, info = cg(A, b, rtol=1e-9)
    y, scaled = cg(8 * A, 8 * b, rtol=1e-9)
    np.testing.assert_array_equal(x, y)
    assert scaled.residuals == tuple(8 * r for r in info.residuals)


@pytest.mark.parametrize("M", ["none", "geometric"])
@pytest.mark.parametrize("factor", [2.0**-60, 2.0**40])
def test_si_units_change_no_digit(M, factor):
    kappa = 10 ** np.random.default_rng(31393).uniform(-1, 1, (8, 9))
    b = np.ones((8, 9))
    x, info = cg(Poisson.from_coefficients(kappa), b, rtol=1e-9, M=M)
    y, scaled = cg(Poisson.from_coefficients(factor * kappa), b, rtol=1e-9, M=M)
    assert info == scaled == 0
    np.testing.assert_array_equal(x / factor, y)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1e-300, "d"), (1e-200, "d"), (1e300, "d"), (1.7e308, "d"), (1e-36, "f"), (1e-15, "f"),
     (1e15, "f"), (3e38, "f")],
)  # fmt: skip
def test_norms_neither_overflow_nor_underflow(size, dtype):
    A, b = np.diag([1, 2, 3]).astype(dtype), np.full(3, size, dtype)
    rtol = 100 * np.finfo(dtype).eps
    x, info = cg(A, b, rtol=rtol)
    assert info == 0
    np.testing.assert_allclose(x / b, [1, 1 / 2, 1 / 3], rtol=2 * rtol)


def test_absolute_tolerance_of_a_rescaled_system():
    _, info = cg(np.diag([1.0, 2.0, 3.0]), np.full(3, 1e200), rtol=0, atol=1e195)
    assert info == 0
    assert info.residuals[0] == pytest.approx(np.sqrt(3) * 1e200)
    assert info.true_residual <= 1e195


def test_check_every_looks_less_often_but_decides_the_same():
    A, b = np.diag(np.arange(1.0, 31.0)), np.ones(30)
    _, every = cg(A, b, rtol=1e-8)
    x, fifth = cg(A, b, rtol=1e-8, check_every=5)
    assert every == fifth == 0
    assert every.iterations <= fifth.iterations < every.iterations + 5
    assert np.linalg.norm(b - A @ x) <= 1e-8 * np.linalg.norm(b)
    assert len(fifth.residuals) == fifth.iterations + 1


def test_a_recurrence_that_lies_is_not_believed():
    def optimist(A, b, x, M):
        """States whose residual halves in each step, whatever x does."""
        r = b - A(x)
        yield x, r, (r @ r), ()
        while True:
            r = r / 2
            yield x, r, (r @ r), (None, 1.0, 1.0)

    x, info = drive([Attempt(optimist, None)], matrix_system(np.diag([1.0, 2.0]), np.ones(2)), rtol=1e-3)
    assert info != 0
    assert info.reason is Reason.STAGNATED
    assert info.true_residual == pytest.approx(np.sqrt(2))
    np.testing.assert_array_equal(x, 0)


def test_restart_from_the_true_residual_goes_on_to_success():
    """An x off by 1e-6 that r knows nothing of: the first success is false, the restart makes it a true one."""
    slips = [1e-6]

    def sloppy(A, b, x, M):
        for k, state in enumerate(cg_steps(A, b, x, M)):
            if k == 3 and slips:
                x.mul_(1 + slips.pop())
            yield state

    A = np.diag(np.arange(1.0, 11.0))
    _, info = drive([Attempt(sloppy, None)], matrix_system(A, np.ones(10)), rtol=1e-9)
    assert info == 0
    assert info.true_residual <= 1e-9 * np.sqrt(10)
    assert info.iterations > 10


def test_strict_raises_with_everything_attached():
    with pytest.raises(ConvergenceError, match="raise maxiter") as caught:
        cg(np.diag([1.0, 2.0, 3.0]), np.ones(3), maxiter=1, rtol=1e-9, strict=True)
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.info.reason is Reason.MAXITER
    assert caught.value.x.shape == (3,)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), ConvergenceError)


def test_info_is_an_int_that_pickles_and_speaks():
    _, info = cg(np.diag([1.0, 2.0]), np.ones(2))
    assert isinstance(info, int)
    assert not info
    again = pickle.loads(pickle.dumps(info))
    assert again == 0
    assert again.reason is Reason.CONVERGED
    assert again.residuals == info.residuals
    assert "CONVERGED after 2 iterations" in repr(info)
    assert repr(SolveInfo(3)).startswith("SolveInfo(3, MAXITER")


@pytest.mark.parametrize(
    "options",
    [{"rtol": -1.0}, {"rtol": float("nan")}, {"atol": -1}, {"atol": None}, {"atol": "legacy"}, {"maxiter": -1},
     {"maxiter": 2.5}, {"check_every": 0}, {"nullspace": "guess"}],
)  # fmt: skip
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        cg(np.eye(2), np.ones(2), **options)


@pytest.mark.parametrize("solve", [cg, lambda A, b, **o: dcdm(A, b, None, **o)])
def test_no_graph_is_recorded(solve):
    A = torch.eye(3, dtype=torch.float64, requires_grad=True)
    x, info = solve(2 * A, torch.ones(3, dtype=torch.float64, requires_grad=True))
    assert info == 0
    assert not x.requires_grad
