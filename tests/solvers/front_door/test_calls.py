import math
import sys

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg  # noqa: F401
import torch
from krylearn.pde import Poisson
from krylearn.solvers import ConvergenceError, Reason, factorized, solve_matrix
from krylearn.solvers.front_door import small_systems

SHAPES = [(19, 23), (7, 9, 11)]


def dirichlet(shape, seed=31013, decades=1.0):
    kappa = 10 ** np.random.default_rng(seed).uniform(-decades / 2, decades / 2, shape)
    return sp.csr_array(Poisson.from_coefficients(kappa).matrix())


def right_side(n, k=None, seed=31019):
    return np.random.default_rng(seed).standard_normal(n if k is None else (n, k))


def check(C, b, rtol=1e-8, notes=(), **options):
    """The promise on the caller's numbers, agreement with a direct solve, and what was said."""
    before = sp.csr_array(C).toarray().copy()
    x, info = solve_matrix(C, b, rtol=rtol, **options)
    assert info == 0, info
    assert (sp.csr_array(C).toarray() == before).all()
    dense = np.asarray(C.todense() if sp.issparse(C) else C, dtype=np.float64)
    assert np.linalg.norm(b - dense @ x) <= rtol * np.linalg.norm(b)
    for note in notes:
        assert any(note in each for each in info.notes), info.notes
    return x, info


def fixed_rows_script(n, columns_too):
    """The Dirichlet problem of most tutorials: boundary rows of the identity, the five-point rows elsewhere."""
    inside = np.zeros((n, n), dtype=bool)
    inside[1:-1, 1:-1] = True
    line = sp.diags_array([np.ones(n - 1), -2 * np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
    A = sp.csr_array(sp.kronsum(line, line)).tolil()
    for i in np.flatnonzero(~inside.ravel()):
        A[i, :] = 0
        if columns_too:
            A[:, i] = 0
        A[i, i] = 1
    return A.tocsr(), ~inside.ravel()


# --- D1: signs --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", SHAPES)
def test_a_negative_laplacian_is_solved_as_it_is(shape):
    C = -dirichlet(shape)
    _, info = check(C, right_side(C.shape[0]), notes=["the diagonal is negative", f"grid {shape}"])
    assert info.iterations < 80


@pytest.mark.parametrize("sign", [1, -1])
def test_obstacle_rows_of_the_other_sign(sign):
    A = Poisson.from_cells(np.pad(np.zeros((4, 5), int), 5, constant_values=1), boundary="dirichlet")
    outside = sp.diags_array((~A.unknown.numpy().ravel()).astype(float))
    C = sp.csr_array(sign * (outside - A.matrix()))
    b = right_side(C.shape[0])
    x, _ = check(C, b, notes=[f"grid {A.grid_shape}"])
    solid = ~A.unknown.numpy().ravel()
    np.testing.assert_array_equal(x[solid], sign * b[solid])


def test_rows_of_either_sign_in_one_system():
    C = dirichlet((14, 15))
    signs = np.where(np.random.default_rng(31033).random(C.shape[0]) < 0.5, -1.0, 1.0)
    check(sp.csr_array(sp.diags_array(signs) @ C), right_side(C.shape[0]), notes=["their signs were changed"])


# --- D2: rows of fixed values -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns_too", [False, True])
def test_the_commonest_script_of_the_web(columns_too):
    C, fixed = fixed_rows_script(24, columns_too)
    b = right_side(C.shape[0])
    x, info = check(C, b, rtol=1e-10, notes=["grid (24, 24)"])
    np.testing.assert_array_equal(x[fixed], b[fixed])
    np.testing.assert_allclose(x, sp.linalg.spsolve(C.tocsc(), b), rtol=1e-7, atol=1e-7)
    assert any("without couplings" in note for note in info.notes) != columns_too
    assert info.iterations < 80


def test_fixed_values_inside_with_a_diagonal_of_their_own():
    C = dirichlet((20, 21)).tolil()
    wells = [45, 200, 201, 333]
    for k, well in enumerate(wells):
        C[well, :] = 0
        C[well, well] = 10.0**k
    C, b = C.tocsr(), right_side(420)
    x, _ = check(C, b)
    np.testing.assert_allclose(x[wells], b[wells] / 10.0 ** np.arange(4), rtol=1e-15)


# --- D3: rows divided by volumes --------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_divided_by_the_volumes_of_their_cells(shape):
    S = dirichlet(shape)
    volumes = 10 ** np.random.default_rng(31039).uniform(-3, 3, S.shape[0])
    C = sp.csr_array(sp.diags_array(1 / volumes) @ S)
    _, info = check(C, right_side(S.shape[0]), rtol=1e-6, notes=["makes A symmetric"])
    assert info.iterations < 200


def test_a_closed_box_divided_by_volumes_is_still_known_to_be_singular():
    S = sp.csr_array(Poisson.from_cells(np.ones((15, 16))).matrix())
    volumes = np.random.default_rng(31051).uniform(0.2, 5, S.shape[0])
    b = right_side(S.shape[0])
    b -= (volumes @ b) / volumes.sum()  # the left null vector of V^-1 S
    _, info = check(sp.csr_array(sp.diags_array(1 / volumes) @ S), b)
    assert info.nullspace == 1


def test_rows_divided_by_volumes_in_single_precision():
    S = dirichlet((16, 17))
    volumes = np.random.default_rng(31063).uniform(0.2, 5, S.shape[0])
    C = sp.csr_array(sp.diags_array(1 / volumes) @ S).astype(np.float32)
    check(C, right_side(S.shape[0]), rtol=1e-9)


# --- D4: symmetric scaling and negative shifts ------------------------------------------------------------------------
@pytest.mark.parametrize("shape", SHAPES)
def test_unit_diagonals_by_symmetric_scaling(shape):
    S = dirichlet(shape, decades=3.0)
    roots = sp.diags_array(1 / np.sqrt(S.diagonal()))
    _, info = check(sp.csr_array(roots @ S @ roots), right_side(S.shape[0]), rtol=1e-8)
    assert info.iterations < (300 if "diagonal, which is faster" in str(info) else 120)


def test_a_laplacian_minus_a_small_multiple_of_the_identity():
    C = sp.csr_array(dirichlet((20, 20), decades=0) - 0.01 * sp.eye_array(400))
    _, info = check(C, right_side(400))
    assert info.iterations < 80


def test_a_shift_beyond_the_smallest_eigenvalue_is_reported():
    C = sp.csr_array(dirichlet((20, 20), decades=0) - 0.5 * sp.eye_array(400))
    _, info = solve_matrix(C, right_side(400))
    assert info.reason is Reason.INDEFINITE_A


# --- D5: rounding -----------------------------------------------------------------------------------------------------
def test_an_asymmetry_of_rounding():
    C = dirichlet((18, 19))
    C.data *= 1 + 1e-12 * np.random.default_rng(31069).uniform(-1, 1, C.nnz)
    check(C, right_side(C.shape[0]), rtol=1e-9, notes=["taken for rounding"])


@pytest.mark.parametrize("both", [True, False])
def test_stray_entries_off_the_stencil(both):
    C = dirichlet((18, 19)).tolil()
    C[3, 200] = 1e-18
    if both:
        C[200, 3] = 1e-18
    check(C.tocsr(), right_side(C.shape[0]), notes=["entries below the rounding", "grid (18, 19)"])


@pytest.mark.parametrize("form", ["%.6g", "%.6e", "%.10g"])
def test_a_matrix_printed_with_few_digits(form):
    C = dirichlet((18, 19))
    C.data = np.array([float(form % v) for v in C.data])
    check(C, right_side(C.shape[0]), rtol=1e-9, notes=["grid (18, 19)"])


def test_printed_rows_divided_by_volumes():
    C = sp.csr_array(sp.diags_array(1 / np.linspace(1, 7, 342)) @ dirichlet((18, 19)))
    C.data = np.array([float(f"{v:.6g}") for v in C.data])
    check(C, right_side(342), rtol=1e-9)


def test_single_precision_in_double_storage():
    S = sp.csr_array(Poisson.from_coefficients(np.random.default_rng(31079).uniform(0.1, 1, (6, 7))).matrix())
    check(S.astype(np.float32).astype(np.float64), right_side(42), rtol=1e-9)


# --- D6 and the shape -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("boundary", ["dirichlet", "periodic", {"x": "periodic", "y": "dirichlet"}])
@pytest.mark.parametrize("shape", [(6, 10), (1, 30), (30, 1), (5, 6, 7), (2, 9, 3), (4, 4, 4)])
def test_the_grid_is_found_in_either_order(shape, boundary):
    A = Poisson.from_coefficients(np.ones(shape), boundary=boundary, shift=0.1)
    numbers = np.arange(A.shape[0]).reshape(shape)
    for rows in (numbers.ravel(), numbers.ravel(order="F")):
        C = sp.csr_array(A.matrix()[rows][:, rows])
        _, info = check(C, right_side(A.shape[0]))
        assert any("found in the pattern" in note for note in info.notes)


def test_a_shape_in_the_other_order_is_understood():
    A = Poisson.from_coefficients(np.ones((6, 10)))
    rows = np.arange(60).reshape(6, 10).ravel(order="F")
    _, info = check(sp.csr_array(A.matrix()[rows][:, rows]), right_side(60), shape=(6, 10))
    assert info.iterations < 80


def test_a_mask_whose_cells_alone_are_numbered():
    mask = np.random.default_rng(31081).random((12, 13)) > 0.2
    A = Poisson.from_cells(mask, boundary="dirichlet")
    C = sp.csr_array(A.matrix(unknowns=True))
    x, _ = check(C, right_side(C.shape[0]), cells=mask)
    np.testing.assert_array_equal(check(C, right_side(C.shape[0]), shape=mask.shape, cells=mask)[0], x)
    np.testing.assert_allclose(factorized(C, cells=mask)(right_side(C.shape[0])), x, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="rows"):
        solve_matrix(C, right_side(C.shape[0]), cells=np.ones_like(mask))  # not the cells of this matrix
    y, _ = check(C, right_side(C.shape[0]), notes=["120 cells of a grid (12, 13) found in the pattern of A"])
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


# --- what b may be ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dia", "bsr", "lil", "dok"])
@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
def test_formats(form, kind):
    C = kind(dirichlet((8, 9))).asformat(form)
    check(C, right_side(72))


def test_other_containers_and_index_types():
    C = dirichlet((8, 9))
    wide = sp.csr_array((C.data, C.indices.astype(np.int64), C.indptr.astype(np.int64)), shape=C.shape)
    coo = C.tocoo()
    places = np.append(coo.row, [0, 5, 70]), np.append(coo.col, [60, 8, 1])
    zeros = sp.coo_array((np.append(coo.data, np.zeros(3)), places), shape=C.shape).tocsr()
    assert zeros.nnz > C.nnz
    expected, _ = check(C, right_side(72))
    for given in (wide, zeros, C.toarray(), C.toarray().tolist()):
        x, info = solve_matrix(given, right_side(72))
        assert info == 0
        np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-8)
    for given in (torch.from_numpy(C.toarray()), torch.from_numpy(C.toarray()).to_sparse()):
        x, info = solve_matrix(given, torch.from_numpy(right_side(72)))
        assert info == 0
        assert isinstance(x, torch.Tensor)


def test_columns():
    C, three = -dirichlet((18, 19)), right_side(342, 3)
    for b in (three, three[:, :1], three[:, 0], np.asfortranarray(three), three.tolist()):
        x, info = solve_matrix(C, b)
        assert info == 0
        assert x.shape == np.shape(b)
        residuals = np.linalg.norm(np.asarray(b) - C @ x, axis=0)
        assert (residuals <= 1e-8 * np.linalg.norm(b, axis=0)).all()
    _, info = solve_matrix(C, three)
    assert len(info.each) == 3
    x, info = solve_matrix(C, np.zeros((342, 2)))
    assert info == 0
    assert not x.any()


def test_integers_and_single_precision():
    C = dirichlet((8, 9), decades=0)
    x, info = solve_matrix(C.astype(int), np.ones(72, dtype=int))
    assert info == 0
    assert x.dtype == np.float64
    x, info = solve_matrix(C.astype(np.float32), np.ones(72, dtype=np.float32), rtol=1e-5)
    assert info == 0
    assert x.dtype == np.float32
    # judged as returned: nothing of this precision has such a residual
    x, info = solve_matrix(C.astype(np.float32), np.ones(72, dtype=np.float32), rtol=1e-12)
    assert info.reason is Reason.STAGNATED


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_units(scale):
    C, b = dirichlet((8, 9)), right_side(72)
    x, info = solve_matrix(C * scale, b)
    assert info == 0
    expected = solve_matrix(C, b)[0]
    assert np.linalg.norm(x * scale - expected) <= 1e-6 * np.linalg.norm(expected)
    x, info = solve_matrix(C, b * scale)
    assert info == 0


# --- outside our stencils ---------------------------------------------------------------------------------------------
def test_another_positive_matrix_goes_to_the_diagonal_or_to_aggregation(monkeypatch):
    stencil = sp.csr_array(
        sp.kron(*[sp.diags_array([np.ones(19), 4 * np.ones(20), np.ones(19)], offsets=[-1, 0, 1])] * 2)
    )
    line = sp.diags_array([-np.ones(19), 2 * np.ones(20), -np.ones(19)], offsets=[-1, 0, 1])
    nine = sp.csr_array(sp.kronsum(line, line) + 0.05 * stencil)
    check(nine, right_side(400), notes=["no 5-point", "cg with the diagonal"])
    monkeypatch.setattr(small_systems, "STEPS_ON_ROWS", ((math.inf, 5),))
    check(nine, right_side(400), notes=["no 5-point", "PyAMG's smoothed aggregation"])
    check(-nine, right_side(400), notes=["PyAMG's smoothed aggregation", "negative"])


def test_without_pyamg_the_diagonal_serves(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyamg", None)
    monkeypatch.setattr(small_systems, "STEPS_ON_ROWS", ((math.inf, 5),))
    G = np.random.default_rng(31091).standard_normal((50, 50))
    check(G @ G.T + 5 * np.eye(50), right_side(50), notes=["pip install pyamg"])


def test_what_cannot_be_is_refused_with_the_reason():
    C = dirichlet((8, 9))
    cycle = C.tolil()
    cycle[0, 1], cycle[1, 10], cycle[10, 9], cycle[9, 0] = -9, -9, -9, -9  # around a loop: no factors of rows help
    with pytest.raises(ValueError, match=r"unsymmetric A: .* which no scaling of rows makes equal"):
        solve_matrix(cycle.tocsr(), np.ones(72))
    one_sided = C.tolil()
    one_sided[4, 40] = -1.0
    with pytest.raises(ValueError, match="unsymmetric A"):
        solve_matrix(one_sided.tocsr(), np.ones(72))
    saddle = sp.block_array([[C, sp.eye_array(72)], [sp.eye_array(72), -C]]).tocsr()
    with pytest.raises(ValueError, match="indefinite A: rows 0 and 72"):
        solve_matrix(saddle, np.ones(144))
    with pytest.raises(TypeError, match="expected real numbers"):
        solve_matrix(C * 1j, np.ones(72))
    with pytest.raises(ValueError, match="nan in row 0"):
        solve_matrix(C * np.nan, np.ones(72))
    with pytest.raises(ValueError, match="b of shape"):
        solve_matrix(C, np.ones(71))
    with pytest.raises(ValueError, match="72 rows for a grid"):
        solve_matrix(C, np.ones(72), shape=(8, 8))
    with pytest.raises(ValueError, match="square"):
        solve_matrix(C[:5], np.ones(72))
    with pytest.raises(ValueError, match="rtol=-1"):
        solve_matrix(C, np.ones(72), rtol=-1)


def test_strict_raises_and_factorized_does():
    C = sp.csr_array(Poisson.from_cells(np.ones((9, 9))).matrix())
    b = np.ones(81)  # no part of it is in the range of C
    _, info = solve_matrix(C, b)
    assert info.reason is Reason.INCOMPATIBLE_RHS
    with pytest.raises(ConvergenceError, match="INCOMPATIBLE_RHS"):
        solve_matrix(C, b, strict=True)
    with pytest.raises(ConvergenceError):
        factorized(C)(b)


def test_factorized_serves_many_right_hand_sides():
    C = -dirichlet((18, 19)).tocsc()
    solve = factorized(C)
    for b in (right_side(342), right_side(342, 1), right_side(342, 4)):
        x = solve(b)
        assert x.shape == b.shape
        np.testing.assert_allclose(C @ x, b, atol=1e-8)


def test_empty_rows():
    C = dirichlet((8, 9)).tolil()
    C[5, :] = 0
    C[:, 5] = 0
    b = right_side(72)
    b[5] = 0
    check(C.tocsr(), b)
    b[5] = 1
    assert solve_matrix(C.tocsr(), b)[1] != 0
    diagonal = sp.diags_array(np.arange(1.0, 7.0)).tocsr()
    x, info = solve_matrix(diagonal, np.ones(6))
    assert info == 0
    np.testing.assert_allclose(x, 1 / np.arange(1.0, 7.0))


# --- bordered by ones -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("solid", [False, True])
def test_a_closed_box_whose_mean_is_given_by_a_multiplier(sign, solid):
    cells = np.ones((11, 12))
    cells[3:6, 4:8] = not solid
    A = Poisson.from_cells(cells)
    outside = sp.diags_array((cells.ravel() == 0).astype(float))
    inside = sp.csr_array(sign * A.matrix() + outside)
    ones = np.ones((132, 1))
    C = sp.block_array([[inside, 2 * ones], [2 * ones.T, None]]).tocsr()
    b = right_side(133)
    x, info = check(C, b, rtol=1e-10, notes=["multiplier", "grid (11, 12)"])
    np.testing.assert_allclose(x, np.linalg.solve(C.toarray(), b), rtol=1e-6, atol=1e-7)
    assert info.iterations < 100


def test_a_bordered_regular_matrix():
    ones = np.ones((72, 1))
    C = sp.block_array([[dirichlet((8, 9)), ones], [ones.T, None]]).tocoo()
    x, _ = check(C, right_side(73), rtol=1e-9)
    np.testing.assert_allclose(x, np.linalg.solve(C.toarray(), right_side(73)), rtol=1e-6, atol=1e-7)
