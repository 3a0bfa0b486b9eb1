"""Many right-hand sides, many small systems: every row keeps its own promise."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, right_hand_side, scene, stack
from krylearn.solvers import ConvergenceError, Reason, cg

FAMILIES = ["obstacles", "thin_walls", "neumann"]


def relative_residuals(operators, b, x):
    rows = zip(operators, np.asarray(b), np.asarray(x), strict=True)
    masked = ((A, A.from_grid(A.to_grid(g), g), y) for A, g, y in rows)
    return np.array([np.linalg.norm(g - A @ y) / np.linalg.norm(g) for A, g, y in masked])


@pytest.mark.parametrize("gridded", [True, False])
def test_rows_of_a_batch_are_the_solves_one_by_one(gridded):
    A = scene("obstacles", (7, 6, 5), 1)
    b = np.random.default_rng(90203).standard_normal((2, 3, *A.grid_shape))
    b = b if gridded else b.reshape(2, 3, -1)
    x, info = cg(A, b, rtol=1e-9)
    assert info == 0
    assert x.shape == b.shape
    assert len(info.each) == 6
    for k in range(6):
        row, alone = cg(A, b[k // 3, k % 3], rtol=1e-9)
        np.testing.assert_array_equal(x[k // 3, k % 3], row)
        assert info.each[k].iterations == alone.iterations
    assert info.iterations == max(each.iterations for each in info.each)
    assert info.matvecs == sum(each.matvecs for each in info.each)


@pytest.mark.parametrize("library", [np.asarray, torch.from_numpy])
def test_matrices_take_batches_too(library):
    b = library(np.array([[1.0, 2.0, 3.0], [0.0, 4.0, 9.0]]))
    x, info = cg(np.diag([1.0, 2.0, 3.0]), b, rtol=1e-12)
    assert info == 0
    assert type(x) is type(b)
    np.testing.assert_allclose(x, [[1, 1, 1], [0, 2, 3]])


def test_a_bad_row_spoils_no_other():
    A = scene("obstacles", (6, 6, 6), 2)
    b = np.random.default_rng(90217).standard_normal((3, *A.grid_shape))
    b[1] = np.nan
    x, info = cg(A, b, rtol=1e-8)
    assert info != 0
    assert info.reason is Reason.NON_FINITE
    assert [int(each) == 0 for each in info.each] == [True, False, True]
    assert "1 of 3 failed: 1" in repr(info)
    with pytest.raises(ConvergenceError) as caught:
        cg(A, b, rtol=1e-8, strict=True)
    np.testing.assert_array_equal(caught.value.x[0], x[0])


def test_guesses_are_one_for_all_or_one_for_each():
    A = scene("open_box", (6, 6, 6), 0)
    b = np.random.default_rng(90227).standard_normal((2, *A.grid_shape))
    x, _ = cg(A, b, rtol=1e-8)
    assert cg(A, b, x, rtol=1e-6)[1].iterations == 0
    assert [each.iterations > 0 for each in cg(A, b, x[0], rtol=1e-6)[1].each] == [False, True]


def test_an_empty_batch_is_no_error():
    x, info = cg(np.eye(3), np.empty((0, 3)))
    assert x.shape == (0, 3)
    assert info == 0


# --- many systems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5, 6), (9, 11), (8, 8)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_system_of_a_stack_keeps_its_own_promise(family, shape):
    """Right-hand sides nine decades apart: a joint tolerance would let the small ones go."""
    operators = [scene(family, shape, seed) for seed in range(4)]
    b = np.stack([right_hand_side(A, "white", k).numpy() * 1e-3 ** (k - 1) for k, A in enumerate(operators)])
    x, info = cg(operators, b, rtol=1e-8)
    assert info == 0
    assert len(info.each) == 4
    assert (relative_residuals(operators, b, x) <= 1e-8).all()
    flat, _ = cg(operators, b.reshape(4, -1), rtol=1e-8)
    np.testing.assert_array_equal(flat, x.reshape(4, -1))


def test_the_stacked_operator_is_block_diagonal():
    operators = [scene("obstacles", (4, 5, 4), seed) for seed in range(3)]
    A, n = stack(operators), 80
    dense = A.matrix().toarray()
    for i in range(3):
        for k in range(3):
            expected = operators[i].matrix().toarray() if i == k else np.zeros((n, n))
            np.testing.assert_array_equal(dense[i * n : (i + 1) * n, k * n : (k + 1) * n], expected)


@pytest.mark.parametrize("boundary", ["periodic", {"x": "periodic"}, {"y": "periodic", "z-": "dirichlet"}, "dirichlet"])
def test_stacks_of_any_boundary(boundary):
    operators = [Poisson.from_coefficients(np.full((4, 3, 5), k), boundary=boundary) for k in (1.0, 2.0)]
    if boundary == "periodic":
        with pytest.raises(ValueError, match="wrap along all axes"):
            stack(operators)
        return
    v = np.random.default_rng(90239).standard_normal((2, 60))
    expected = np.stack([A @ row for A, row in zip(operators, v, strict=True)])
    np.testing.assert_allclose((stack(operators) @ v.reshape(-1)).reshape(2, 60), expected, atol=1e-12)


def test_matrices_numbered_over_their_fluid_cells_stack_too():
    cells = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=bool)
    full = Poisson.from_cells(cells, boundary="dirichlet")
    A = Poisson.from_matrix(full.matrix(unknowns=True), shape=(3, 3), cells=cells)
    b = np.arange(1.0, 15.0).reshape(2, 7)
    x, info = cg([A, A], b, rtol=1e-10)
    assert info == 0
    np.testing.assert_allclose(x[0], cg(A, b[0], rtol=1e-12)[0], rtol=1e-7)


def test_a_second_solve_finds_the_set_up():
    operators = [scene("obstacles", (6, 6, 6), seed) for seed in range(2)]
    b = np.random.default_rng(90247).standard_normal((2, 6, 6, 6))
    assert cg(operators, b)[1].setup_seconds > 0
    assert cg(operators, b)[1].setup_seconds == 0


def test_zero_and_non_finite_rows_of_many_systems():
    operators = [scene("obstacles", (6, 6, 6), seed) for seed in range(3)]
    b = np.random.default_rng(90263).standard_normal((3, 6, 6, 6))
    b[0], b[2, 0, 0, 0] = 0, np.inf
    b[2][operators[2].unknown.numpy()] = np.inf
    x, info = cg(operators, b, rtol=1e-8)
    assert [each.reason for each in info.each] == [Reason.CONVERGED, Reason.CONVERGED, Reason.NON_FINITE]
    assert not x[0].any()
    assert np.isfinite(x[1]).all()
    assert info != 0


def test_what_does_not_fit_together_is_refused():
    a, b = scene("obstacles", (4, 4, 4), 0), scene("obstacles", (4, 4, 5), 0)
    with pytest.raises(ValueError, match="grid_shape"):
        stack([a, b])
    with pytest.raises(ValueError, match="no operators"):
        stack([])
    with pytest.raises(ValueError, match="a row each"):
        cg([a, a], np.ones((3, 64)))
    with pytest.raises(ValueError, match="x0"):
        cg([a, a], np.ones((2, 64)), x0=np.ones(64))
