"""`info == 0` is a statement about the system that the caller handed over and the array that comes back."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from krylearn.pde import Poisson, stack
from krylearn.solvers import NeuralMultigrid, cg, dcdm, solve
from krylearn.solvers.krylov.driver import ConvergenceError, Reason

RNG = np.random.default_rng(66260)
DIAGONAL = {"one": 1.0, "penalty": 1e10, "tiny": 1e-10, "seven": 7.0}


def relative_residual(S, x, b):
    """Judge in extended precision, entry by entry of the caller's matrix."""
    S, x, b = scipy.sparse.coo_array(S), np.asarray(x).ravel().astype(np.longdouble), np.ravel(b).astype(np.longdouble)
    r = b.copy()
    np.subtract.at(r, S.row, S.data.astype(np.longdouble) * x[S.col])
    return float(np.sqrt((r * r).sum() / (b * b).sum()))


def insulated(diagonal=1.0, shape=(8, 8), scale=1.0):
    """A diffusion step around an insulating block: its rows have a diagonal entry alone."""
    kappa = np.ones(shape)
    kappa[3:5, 3:5] = 0
    matrix = (0.1 * scale * Poisson.from_coefficients(kappa, boundary="neumann").matrix()).tolil()
    matrix.setdiag(matrix.diagonal() + np.where(kappa.ravel() > 0, scale, diagonal))
    return scipy.sparse.csr_array(matrix.tocsr()), kappa.ravel() == 0


# --- rows without neighbours ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("diagonal", DIAGONAL.values(), ids=DIAGONAL)
@pytest.mark.parametrize("way", ["cg", "plain cg", "dcdm", "solve", "scipy", "list", "batch", "x0", "torch", "grid"])
def test_uncoupled_rows_are_equations(way, diagonal):
    S, alone = insulated(diagonal)
    A, b = Poisson.from_matrix(S, (8, 8)), RNG.uniform(1, 20, 64)
    if way == "cg":
        x, info = cg(A, b, rtol=1e-10)
    elif way == "plain cg":
        x, info = cg(A, b, rtol=1e-10, M="none")
    elif way == "dcdm":
        x, info = dcdm(A, b, NeuralMultigrid(A), rtol=1e-10)
    elif way == "solve":
        x, info = solve(A, b), 0
    elif way == "scipy":
        x, info = scipy.sparse.linalg.cg(S, b, M=NeuralMultigrid(A), rtol=1e-10, maxiter=40)
    elif way == "list":
        x, info = cg([A, A], np.stack([b, 3 * b]), rtol=1e-10)
        x = x[1] / 3
    elif way == "batch":
        x, info = cg(A, np.stack([b, 3 * b]), rtol=1e-10)
        x = x[1] / 3
    elif way == "x0":
        x, info = cg(A, b, np.full(64, -5.0), rtol=1e-10)
    elif way == "torch":
        x, info = cg(A, torch.from_numpy(b), rtol=1e-10)
        x = x.numpy()
    else:
        x, info = cg(A, b.reshape(8, 8), rtol=1e-10)
        assert x.shape == (8, 8)
    assert info == 0
    assert relative_residual(S, x, b) <= 1.1e-10
    np.testing.assert_allclose(np.ravel(x)[alone], b[alone] / diagonal, rtol=1e-14)


def test_a_constant_state_stays_constant_through_a_diffusion_step():
    S, _ = insulated()
    x, info = cg(Poisson.from_matrix(S, (8, 8)), np.full(64, 20.0), rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, 20.0, rtol=1e-10)


def test_dirichlet_rows_kept_as_identity_keep_their_values():
    """The commonest script: unknowns inside, the boundary's rows and columns replaced by the identity."""
    n = 12
    inside = np.zeros((n, n), bool)
    inside[1:-1, 1:-1] = True
    whole = Poisson.from_coefficients(np.ones((n, n)), boundary="neumann").matrix()
    keep = scipy.sparse.diags_array(inside.ravel().astype(float))
    S = scipy.sparse.csr_array(keep @ whole @ keep + scipy.sparse.diags_array((~inside.ravel()).astype(float)))
    values = RNG.standard_normal(n * n)
    b = np.where(inside.ravel(), -(whole @ np.where(inside.ravel(), 0, values)), values)
    x, info = cg(Poisson.from_matrix(S, (n, n)), b, rtol=1e-10)
    assert info == 0
    assert info.iterations <= 12
    np.testing.assert_array_equal(x[~inside.ravel()], values[~inside.ravel()])
    np.testing.assert_allclose(x, scipy.sparse.linalg.spsolve(S.tocsc(), b), atol=1e-8)


def test_scattered_identity_rows_cost_no_iterations():
    solid = RNG.random((24, 24)) < 0.3
    A = Poisson.from_cells(~solid, boundary="dirichlet")
    S = A.matrix() + scipy.sparse.diags_array(solid.ravel().astype(float))
    b = S @ RNG.standard_normal(576)
    with_rows = cg(Poisson.from_matrix(S, (24, 24)), b, rtol=1e-8)[1]
    without = cg(A, np.where(solid.ravel(), 0, b), rtol=1e-8)[1]
    assert with_rows == without == 0
    assert with_rows.iterations <= without.iterations + 3


def test_m_is_positive_definite_on_the_whole_space():
    S, _ = insulated(0.0)  # with empty rows, even
    M = NeuralMultigrid(Poisson.from_matrix(S, (8, 8)))
    T = M @ np.eye(64)
    np.testing.assert_allclose(T, T.T, atol=1e-6)
    assert np.linalg.eigvalsh((T + T.T) / 2)[0] > 0.1


def test_an_empty_row_with_a_value_has_no_solution():
    S, alone = insulated(0.0)
    A, b = Poisson.from_matrix(S, (8, 8)), np.ones(64)
    x, info = cg(A, b)
    assert info.reason is Reason.INCOMPATIBLE_RHS
    assert info.true_residual == pytest.approx(np.linalg.norm(b - S @ x))
    with pytest.raises(ConvergenceError, match="empty row"):
        solve(A, b)
    b[alone] = 0
    assert cg(A, b)[1] == 0


@pytest.mark.parametrize("share", [0.5, 0.999, 1.001])
@pytest.mark.parametrize("way", ["one", "batch", "list"])
def test_a_value_at_an_empty_row_counts_as_residual(way, share):
    S, alone = insulated(0.0)
    A, b = Poisson.from_matrix(S, (8, 8)), RNG.uniform(1, 2, 64)
    b[alone] = share * 1e-3 / np.sqrt(alone.sum())
    given = {"one": (A, b), "batch": (A, np.stack([b, b])), "list": ([A, A], np.stack([b, b]))}[way]
    x, info = cg(*given, rtol=0, atol=1e-3)
    assert (info == 0) == (share < 1)
    if share > 1:
        with pytest.raises(ConvergenceError, match="empty row"):
            solve(*given, rtol=1e-12, atol=1e-3)
        return
    for found in (x, solve(*given, rtol=1e-12, atol=1e-3)):
        assert relative_residual(S, np.atleast_2d(found)[-1], b) <= 1e-3 / np.linalg.norm(b)


@pytest.mark.parametrize("diagonal", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_infinite_value_at_an_uncoupled_row_is_not_lost(value, diagonal):
    S, alone = insulated(diagonal)
    A, b = Poisson.from_matrix(S, (8, 8)), np.ones(64)
    b[np.flatnonzero(alone)[0]] = value
    for way in (lambda: solve(A, b), lambda: solve([A, A], np.stack([b, b])), lambda: cg(A, b, strict=True)):
        with pytest.raises(ConvergenceError) as failure:
            way()
        assert failure.value.info.reason is Reason.NON_FINITE


def test_a_diagonal_matrix_is_solved_at_once():
    d = RNG.uniform(1, 9, 12)
    x, info = cg(Poisson.from_matrix(scipy.sparse.diags_array(d), (3, 4)), np.ones(12), rtol=1e-14)
    assert info == 0
    np.testing.assert_allclose(x, 1 / d, rtol=1e-15)


def test_callback_sees_the_whole_vector():
    S, alone = insulated(4.0)
    seen = []
    cg(Poisson.from_matrix(S, (8, 8)), np.full(64, 2.0), callback=lambda x: seen.append(x.copy()))
    assert all((x[alone] == 0.5).all() for x in seen)


# --- rounding and scaling after the check -----------------------------------------------------------------------------
@pytest.mark.parametrize("rtol", [1e-5, 1e-6, 1e-7, 1e-10])
def test_a_list_in_single_precision_is_judged_as_returned(rtol):
    A = [Poisson.from_coefficients(np.ones((8, 8)), dtype=np.float32)] * 2
    b = RNG.standard_normal((2, 64)).astype(np.float32)
    x, info = cg(A, b, rtol=rtol)
    assert x.dtype == np.float32
    for k in range(2):
        residual = relative_residual(A[k].matrix(), x[k], b[k])
        assert (info.each[k] == 0) == (residual <= rtol)
    if rtol == 1e-10:
        assert info.reason is Reason.STAGNATED


@pytest.mark.parametrize("scales", [(1.0, 1e-170), (1e-300, 1e300), (1e200, 1e200), (0.0, 1e-200)])
def test_rows_of_a_list_have_a_scale_each(scales):
    A = [Poisson.from_coefficients(RNG.uniform(1, 2, (6, 7))) for _ in scales]
    b = RNG.standard_normal((2, 42))
    x, info = cg(A, b * np.array(scales)[:, None], rtol=1e-9)
    assert info == 0
    for k, scale in enumerate(scales):
        assert scale == 0 or relative_residual(A[k].matrix(), x[k] / scale, b[k]) <= 1.1e-9


@pytest.mark.parametrize(
    ("kappa", "size", "dtype"),
    [(1e-20, 1e300, np.float64), (1e200, 1e-200, np.float64), (1e-20, 1e30, np.float32), (1e20, 1e-30, np.float32)],
)
@pytest.mark.parametrize("way", ["one", "list", "matrix"])
def test_an_x_out_of_range_is_no_success(kappa, size, dtype, way):
    A = Poisson.from_coefficients(np.full((8, 8), kappa), dtype=dtype)
    b = (size * RNG.standard_normal(64)).astype(dtype)
    if way == "list":
        info = cg([A, A], np.stack([b, b]))[1]
    else:
        info = cg(A if way == "one" else A.matrix(), b)[1]
    assert info != 0
    assert info.reason in (Reason.NON_FINITE, Reason.STAGNATED)


def slightly_fixed(seed, skew=0.0):
    """A matrix of single precision with x much larger than b, so that rounding matters; skew in units of eps."""
    rng = np.random.default_rng(seed)
    kappa = np.exp(1.5 * rng.standard_normal((8, 4, 6)))
    sides = {"x": "periodic", "y": "neumann", "z": "neumann"}
    S = Poisson.from_coefficients(kappa, boundary=sides, shift=1e-3).matrix().astype(np.float32)
    if skew:
        S.data *= (1 + skew * np.finfo(np.float32).eps * rng.uniform(-1, 1, S.nnz)).astype(np.float32)
    return S, rng.standard_normal(S.shape[0]).astype(np.float32)


@pytest.mark.parametrize("skew", [0.0, 20.0])
@pytest.mark.parametrize("way", ["cg", "none", "batch", "list", "dcdm", "moved", "other unit"])
def test_a_matrix_of_single_precision_is_judged_by_its_entries(way, skew):
    succeeded = 0
    for seed in range(6):
        S, b = slightly_fixed(seed, skew)
        S = S * np.float32(2.0**40) if way == "other unit" else S
        A = Poisson.from_matrix(S, (8, 4, 6))
        assert A.dtype == np.float32
        for rtol in (1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 1e-4, 1e-3):
            if way == "list":
                x, info = cg([A, A], np.stack([b, b]), rtol=rtol)
                x = x[1]
            elif way == "batch":
                x, info = cg(A, np.stack([b, b]), rtol=rtol)
                x = x[1]
            elif way == "dcdm":
                x, info = dcdm(A, b, NeuralMultigrid(A), rtol=rtol)
            else:
                x, info = cg(A.detach() if way == "moved" else A, b, rtol=rtol, M="none" if way == "none" else None)
            assert x.dtype == np.float32
            if info == 0:
                assert relative_residual(S, x, b) <= rtol * (1 + 1e-9)
            succeeded += info == 0
    assert succeeded >= 12  # below 1e-4 rounding of x alone leaves more in some of these


def test_a_matrix_differs_from_its_operator_by_what_deviation_says():
    for skew in (0.0, 20.0):
        S, _ = slightly_fixed(1, skew)
        A = Poisson.from_matrix(S, (8, 4, 6))
        rows, columns, values = A.deviation
        more = scipy.sparse.coo_array((values, (rows, columns)), shape=S.shape)
        difference = S.astype(float) - A.matrix().astype(float)
        assert abs(difference - more).max() <= 1e-7 * abs(difference).max()
        if not skew:
            np.testing.assert_array_equal(rows, columns)
        both = stack([A, A])
        assert len(both.deviation.values) == 2 * len(values)
        assert A.scaled(3).deviation.values.abs().max() == 8 * values.abs().max()
        assert A.to(dtype=torch.float64).deviation is None
    S = Poisson.from_coefficients(np.ones((4, 4))).matrix()
    assert Poisson.from_matrix(S, (4, 4)).deviation is None


# --- null spaces and masks --------------------------------------------------------------------------------------------
N = np.ones((64, 1))
SPANS = {
    "twice": np.ones((64, 2)), "zero column": np.hstack([N, 0 * N]), "only zeros": 0 * N,
    "units": np.hstack([1e200 * N, 1e-200 * N]), "almost": np.hstack([N, N + 1e-14]),
}  # fmt: skip


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
def test_nullspace_counts_independent_columns(span):
    A = Poisson.from_coefficients(np.ones((8, 8)), boundary="neumann").matrix()
    b = RNG.standard_normal(64)
    b -= b.mean()
    x, info = cg(A, b, nullspace=span, rtol=1e-9)
    assert info == 0
    assert info.nullspace == int(bool(span.any()))
    assert relative_residual(A, x, b) <= 1.1e-9


def test_nullspace_with_nan_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity in nullspace"):
        cg(np.eye(3), np.ones(3), nullspace=np.array([1.0, np.nan, 0.0]))
