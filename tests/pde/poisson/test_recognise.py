import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from naive_poisson import problems

FEW = settings(deadline=None, max_examples=60)
DIRICHLET = Poisson.from_cells(np.ones((3, 4)), boundary="dirichlet").matrix()


def permutation(shape, order, mask=None):
    cells = np.arange(np.prod(shape)).reshape(shape).ravel(order=order)
    return cells if mask is None else cells[mask.ravel()[cells]]


def same_product(A, csr):
    x = np.random.default_rng(50990).standard_normal(csr.shape[0])
    np.testing.assert_allclose(A @ x, csr @ x, rtol=0, atol=1e-13 * max(abs(csr).max(), 1e-300) * 8)


@FEW
@given(problems(), st.sampled_from("CF"))
def test_compressed_matrices_come_back_in_their_own_numbering(problem, order):
    known = Poisson.from_coefficients(**problem)
    mask = known.unknown.numpy().reshape(known.grid_shape)
    rows = permutation(known.grid_shape, order, mask)
    csr = known.matrix()[rows][:, rows]
    A = Poisson.from_matrix(csr, known.grid_shape, cells=mask, order=order)
    assert A.shape == csr.shape
    assert A.unknowns == known.unknowns
    same_product(A, csr)
    assert abs(A.matrix() - csr).max() <= 1e-13 * abs(csr).max()
    assert A.nullspace.dimension == known.nullspace.dimension


@FEW
@given(problems(), st.sampled_from("CF"), st.sampled_from(["empty", "identity", "cells"]))
def test_full_boxes_come_back_whatever_stands_in_solid_rows(problem, order, solid):
    known = Poisson.from_coefficients(**problem | {"shift": 0.7})  # every unknown has a diagonal
    outside = ~known.unknown.numpy().ravel()
    rows = permutation(known.grid_shape, order)
    block = known.matrix()[rows][:, rows]
    solids = scipy.sparse.diags_array(outside[rows] * {"empty": 0.0, "identity": 1.0, "cells": 3.0}[solid])
    filled = scipy.sparse.csr_array(block + solids)
    cells = problem["cells"] if solid == "cells" else None
    A = Poisson.from_matrix(filled, known.grid_shape, cells=cells, order=order)
    assert A.shape == filled.shape
    equations = int(outside.sum()) if solid == "identity" else 0  # a row is an equation unless cells says otherwise
    assert A.unknowns == known.unknowns + equations
    same_product(A, filled if solid == "identity" else block)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "lil", "dia", "dok"])
def test_any_sparse_format_dense_arrays_and_integers(kind):
    for matrix in (DIRICHLET.asformat(kind), scipy.sparse.csr_matrix(DIRICHLET).asformat(kind)):
        assert abs(Poisson.from_matrix(matrix, (3, 4)).matrix() - DIRICHLET).max() == 0
    assert abs(Poisson.from_matrix(DIRICHLET.toarray().astype(int), (3, 4)).matrix() - DIRICHLET).max() == 0


def test_duplicates_are_summed_and_the_matrix_left_alone():
    half = (DIRICHLET / 2).tocoo()
    twice = scipy.sparse.csr_array(
        (np.tile(half.data, 2), (np.tile(half.row, 2), np.tile(half.col, 2))), shape=half.shape
    )
    data = np.repeat(DIRICHLET.data / 2, 2)
    raw = scipy.sparse.csr_array((data, np.repeat(DIRICHLET.indices, 2), 2 * DIRICHLET.indptr), shape=DIRICHLET.shape)
    before = raw.nnz
    for matrix in (twice, raw):
        assert abs(Poisson.from_matrix(matrix, (3, 4)).matrix() - DIRICHLET).max() == 0
    assert raw.nnz == before


def test_single_precision_stays_single():
    A = Poisson.from_matrix(DIRICHLET.astype(np.float32), (3, 4))
    assert A.dtype == np.float32
    assert Poisson.from_matrix((DIRICHLET * 0.1).astype(np.float32), (3, 4)).nullspace.dimension == 0


@pytest.mark.parametrize("boundary", ["dirichlet", {"x": "periodic", "y+": "dirichlet"}, {"x-": "dirichlet"}])
@pytest.mark.parametrize("shift", [None, 0.25])
def test_the_diagonal_splits_into_sides_and_shift(boundary, shift):
    known = Poisson.from_coefficients(np.ones((4, 5)), boundary=boundary, shift=shift)
    A = Poisson.from_matrix(known.matrix(), (4, 5))
    assert A.periodic == known.periodic
    np.testing.assert_allclose(A.shift, known.shift, atol=1e-14)
    np.testing.assert_allclose(sum(A.ground), sum(known.ground), atol=1e-13)
    assert (A.ground[0][1:-1] == 0).all()
    assert (A.ground[2][:, :, 1:-1] == 0).all()


def test_pure_dirichlet_and_free_surface_grounds_are_recovered_exactly():
    cells = np.ones((5, 4), int)
    cells[:, -1], cells[2, 1] = 2, 0
    for known in (
        Poisson.from_cells(np.ones((4, 5, 6)), boundary="dirichlet"),
        Poisson.from_cells(np.ones((4, 4)), boundary={"y": "dirichlet"}),
    ):
        A = Poisson.from_matrix(known.matrix(), known.grid_shape)
        inner = (slice(1, -1),) * 3 if len(known.grid_shape) == 3 else (slice(1, -1), slice(None), slice(None))
        for mine, theirs in zip(A.ground, known.ground, strict=True):
            np.testing.assert_allclose(mine[inner], theirs[inner], atol=1e-13)


def test_a_scattered_shift_stays_a_shift():
    shift = np.zeros((5, 5))
    shift[2, 2] = 0.5
    A = Poisson.from_matrix(Poisson.from_cells(np.ones((5, 5)), shift=shift).matrix(), (5, 5))
    assert A.shift.sum() == A.shift[2, 0, 2] == 0.5
    assert sum(float(g.sum()) for g in A.ground) == 0


def test_rounding_of_the_assembly_is_no_ground():
    known = Poisson.from_coefficients(np.random.default_rng(53851).uniform(0.1, 1, (6, 7)), boundary="neumann")
    noise = 1 + 4e-16 * np.random.default_rng(53852).uniform(-1, 1, known.matrix().nnz)
    csr = known.matrix()
    csr.data *= noise
    assert Poisson.from_matrix(csr, (6, 7)).nullspace.dimension == 1


def test_a_diagonal_matrix_is_all_unknowns():
    A = Poisson.from_matrix(scipy.sparse.eye_array(6), (2, 3))
    np.testing.assert_array_equal(A @ np.arange(6.0), np.arange(6.0))


def test_a_diagonal_below_its_couplings_is_a_negative_shift():
    A = Poisson.from_matrix(changed((5, 5, 3.75)), (3, 4))
    same_product(A, changed((5, 5, 3.75)))
    assert float(A.shift.min()) == -0.25


def changed(*entries, base=DIRICHLET):
    matrix = base.tolil(copy=True)
    for i, j, value in entries:
        matrix[i, j] = value
    return matrix.tocsr()


@pytest.mark.parametrize(
    ("matrix", "keywords", "message"),
    [
        (-DIRICHLET, {}, "negative-definite matrix .* pass -A and -b"),
        (changed((2, 3, -2.0)), {}, r"-2 from row 2 \(cell \(0, 2\)\) to row 3 .* and -1 back; expected equal ones"),
        (changed((2, 3, 0.0)), {}, "got 0 from row 2 .* -1 back"),
        (changed((2, 3, 0.5), (3, 2, 0.5)), {}, "got 0.5 from row 2 .* no entry > 0 off the diagonal"),
        (
            changed((0, 7, -0.1)),
            {},
            r"couples row 0 \(cell \(0, 0\)\) with row 7 \(cell \(1, 3\)\), which are not neigh",
        ),
        (changed((3, 4, -0.1)), {}, r"row 3 \(cell \(0, 3\)\) with row 4 \(cell \(1, 0\)\)"),
        (changed((5, 5, -1.0)), {}, "diagonal -1 in row 5"),
        (changed((4, 4, np.nan)), {}, "nan in row 4, column 4"),
        (changed((4, 4, np.inf)), {}, "inf in row 4, column 4"),
        (DIRICHLET, {"shape": (3, 5)}, "12 rows for a grid .* of 15 cells; expected 15"),
        (DIRICHLET, {"shape": (4, 3)}, "not neighbours; expected a 5-point stencil .* try order='F'"),
        (DIRICHLET, {"order": "F"}, "in order 'F': check shape, try order='C'"),
        (DIRICHLET, {"order": "K"}, "got order 'K'"),
        (DIRICHLET, {"shape": (12,)}, "1D problem"),
        (DIRICHLET, {"cells": np.eye(3, 4)}, "row 1 .* cells says that it is not FLUID"),
        (DIRICHLET[:5, :5], {"cells": np.eye(3, 4)}, "5 rows for a grid .* 3 FLUID cells of 12"),
        (DIRICHLET[:5], {}, r"matrix of shape \(5, 12\); expected a square"),
        (DIRICHLET * 0, {}, "without non-zero rows"),
    ],
)
def test_what_is_no_such_stencil_is_refused_with_its_place(matrix, keywords, message):
    with pytest.raises(ValueError, match=message):
        Poisson.from_matrix(matrix, **{"shape": (3, 4)} | keywords)


@pytest.mark.parametrize("matrix", [DIRICHLET * 1j, "matrix", [[1.0]]])
def test_what_is_no_real_matrix_is_refused(matrix):
    with pytest.raises(TypeError, match=r"expected (real numbers|a sparse matrix)"):
        Poisson.from_matrix(matrix, (3, 4))


def test_the_right_hand_side_of_a_matrix_has_cells_of_volume_one():
    A = Poisson.from_matrix(DIRICHLET, (3, 4))
    np.testing.assert_array_equal(A.rhs(1.0), np.ones((3, 4)))
    np.testing.assert_allclose(A.rhs(np.zeros(12), dirichlet=1.0), A @ np.ones(12), atol=1e-15)


def test_a_matrix_of_single_precision_in_double_storage_gets_the_remedy():
    known = Poisson.from_coefficients(np.random.default_rng(55677).uniform(0.1, 1, (6, 7)), boundary="neumann")
    single = known.matrix().astype(np.float32)
    with pytest.raises(ValueError, match=r"pass matrix.astype\(numpy.float32\)"):
        Poisson.from_matrix(single.astype(np.float64), (6, 7))
    assert Poisson.from_matrix(single, (6, 7)).nullspace.dimension == 1
