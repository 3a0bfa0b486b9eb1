"""A solve that fails returns its best iterate, and the reason that is true of it."""

import numpy as np
import pytest
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg, dcdm
from krylearn.solvers.krylov.driver import Reason

RNG = np.random.default_rng(83144)


def bottleneck(dtype=np.float64):
    """Two closed rooms behind a wall with one pinhole, a source in one and a sink in the other."""
    fx, fy, g = np.ones((21, 12)), np.ones((20, 13)), np.zeros((20, 12), dtype)
    fx[[0, -1]], fx[10], fx[10, 5] = 0, 0, 1e-8
    fy[:, [0, -1]] = 0
    g[2, 2], g[15, 7] = 1, -1
    return Poisson.from_faces([fx, fy], dtype=dtype), g


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("M", [None, "none", "resistor"])
def test_a_recurrence_at_its_end_has_stagnated_and_gives_its_best_iterate(dtype, M):
    A, b = bottleneck(dtype)
    x, info = cg(A, b, rtol=1e-8, M=M)
    true = np.linalg.norm(b.astype(float) - A.to(dtype=np.float64) @ x.astype(float))
    assert info.true_residual == pytest.approx(true, rel=0.2)
    if info:
        assert info.reason in (Reason.STAGNATED, Reason.MAXITER)
        assert true <= 1.5 * np.linalg.norm(b)  # never worse than no solve at all
        best = min(
            np.linalg.norm(b.astype(float) - A.to(dtype=np.float64) @ cg(A, b, rtol=1e-8, M=M, maxiter=k)[0])
            for k in range(0, info.iterations, 2)
        )
        assert true <= 5 * best  # the recurrence cannot know it better than that


@pytest.mark.parametrize("seed", range(8))
def test_closed_boxes_in_single_precision_never_accuse_a(seed):
    rng = np.random.default_rng(71828 + seed)
    A = Poisson.from_coefficients(10 ** rng.uniform(-3, 0, (14, 17)), boundary="neumann", dtype=np.float32)
    b = A @ rng.standard_normal((14, 17)).astype(np.float32)
    info = cg(A, b, rtol=1e-7)[1]
    assert info.reason in (Reason.CONVERGED, Reason.STAGNATED)
    assert info.true_residual <= np.linalg.norm(b)


def test_a_stale_preconditioner_is_named():
    cells = np.ones((16, 16))
    before = Poisson.from_cells(cells, boundary="dirichlet")
    cells[6:9, 9:12] = 0
    M = NeuralMultigrid(Poisson.from_cells(cells, boundary="dirichlet"))
    _, info = cg(before, RNG.standard_normal((16, 16)), M=M, rtol=1e-10)
    assert info != 0
    assert any("call M.update(A)" in note for note in info.notes)
    M.update(before)
    assert cg(before, np.ones((16, 16)), M=M, rtol=1e-10)[1] == 0


def lopsided():
    A = Poisson.from_coefficients(np.ones((16, 16))).matrix().tolil()
    for i in range(255):
        A[i, i + 1] = -0.2
    return A.tocsr()


SKEWED = {"convection": lopsided(), "rotation": np.array([[1.0, 5], [-5, 1]]), "single": lopsided().astype(np.float32)}


@pytest.mark.parametrize("A", SKEWED.values(), ids=SKEWED)
def test_a_matrix_that_is_not_symmetric_is_named(A):
    x, info = cg(A, np.ones(A.shape[0], A.dtype))
    assert info.reason is Reason.NOT_SYMMETRIC
    assert np.linalg.norm(1 - A @ x) <= 1.01 * A.shape[0] ** 0.5


def test_a_symmetric_matrix_that_is_indefinite_is_not_called_unsymmetric():
    A = np.diag(np.concatenate([np.arange(1.0, 20), [-3.0]]))
    A[0, 19] = A[19, 0] = 0.5
    info = cg(A, np.ones(20), rtol=1e-12)[1]
    assert info.reason in (Reason.INDEFINITE_A, Reason.CONVERGED, Reason.STAGNATED)


def test_a_limit_of_steps_returns_the_last_iterate_at_the_usual_cost():
    A, b = Poisson.from_coefficients(np.ones((20, 20))).matrix(), RNG.standard_normal(400)
    calls = []
    info = cg(lambda v: calls.append(1) or A @ v, b, maxiter=7, rtol=1e-12)[1]
    assert info.reason is Reason.MAXITER
    assert len(calls) == info.matvecs == 8


def test_an_infinite_limit_is_refused():
    with pytest.raises(ValueError, match="maxiter is inf"):
        cg(np.eye(2), np.ones(2), maxiter=float("inf"))


@pytest.mark.parametrize("n", [12, 60])
@pytest.mark.parametrize("way", ["matrix", "none", "dcdm"])
def test_a_residual_of_constant_norm_is_no_stagnation(n, way):
    """A point source at one end of a line: ‖r‖ stays 1 until step n - 1, and step n ends the solve."""
    A = Poisson.from_cells(np.ones((1, n)), boundary={"y-": "dirichlet"})
    b = np.zeros(n)
    b[-1] = 1
    if way == "dcdm":
        x, info = dcdm(A, b, lambda r: r)
    else:
        x, info = cg(A if way == "none" else A.matrix(), b, M="none")
    assert info == 0
    assert np.linalg.norm(b - A @ x) <= 1e-5
