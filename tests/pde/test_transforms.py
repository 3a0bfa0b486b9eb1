import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from krylearn.pde.transforms import _box_of, _solve_dense, is_box, solve_box
from naive_poisson import SHAPES, boundaries

FEW = settings(deadline=None, max_examples=60)


@st.composite
def boxes(draw):
    shape = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(10000, 99999)))
    return Poisson.from_coefficients(
        np.full(shape, rng.uniform(0.1, 10)),
        rng.uniform(0.5, 2, len(shape)),
        draw(boundaries(len(shape))),
        draw(st.sampled_from([None, 0.3])),
    )


def truth(A, seed=44721):
    x = np.random.default_rng(seed).standard_normal((2, *A.grid_shape))
    return A.from_grid(A.nullspace.project(A.to_grid(x)), x)


@FEW
@given(boxes(), st.booleans())
def test_every_mix_of_sides_is_solved_exactly_by_both_paths(A, assembled):
    x = truth(A)
    b = A @ x
    if assembled and A.unknowns > 1:
        A = Poisson.from_matrix(A.matrix(), A.grid_shape)
    assert is_box(A)
    np.testing.assert_allclose(solve_box(A, b), x, atol=1e-11)
    np.testing.assert_allclose(A.from_grid(_solve_dense(_box_of(A), A.to_grid(b)), b), x, atol=1e-11)


@pytest.mark.parametrize("kinds", list(itertools.product(["neumann", "dirichlet"], repeat=2)))
def test_an_odd_box_agrees_with_a_dense_solve(kinds):
    A = Poisson.from_cells(np.ones((5, 1, 7)), (1, 2, 3), {"x-": kinds[0], "z+": kinds[1], "y": "periodic"}, shift=0.1)
    b = np.random.default_rng(45825).standard_normal(35)
    np.testing.assert_allclose(solve_box(A, b), np.linalg.solve(A.matrix().toarray(), b), rtol=1e-11)


def test_an_incompatible_right_hand_side_is_solved_in_the_least_squares_sense():
    A = Poisson.from_cells(np.ones((4, 6)))
    b = np.random.default_rng(46904).uniform(1, 2, 24)
    np.testing.assert_allclose(solve_box(A, b), np.linalg.lstsq(A.matrix().toarray(), b, rcond=1e-12)[0], atol=1e-11)


@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.float64, torch.float32])
@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
def test_the_solution_has_type_and_dtype_of_b(kind, boundary):
    A = Poisson.from_cells(np.ones((4, 6)), boundary=boundary, shift=1.0)
    b = torch.ones(24).to(kind) if isinstance(kind, torch.dtype) else np.ones(24, kind)
    x = solve_box(A, b, workers=1)
    assert (type(x), x.dtype, x.shape) == (type(b), b.dtype, b.shape)
    np.testing.assert_allclose(np.asarray(A @ x), np.asarray(b), rtol=1e-4)


def test_it_is_differentiable():
    A = Poisson.from_cells(np.ones((3, 4)), boundary={"x": "periodic"})
    b = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(47958), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: solve_box(A, v), b)


def not_boxes():
    cells, kappa, shift = np.ones((5, 6)), np.ones((5, 6)), np.zeros((5, 6))
    cells[2, 3], kappa[2, 3], shift[2, 3] = 0, 1 + 1e-9, 1e-9
    free = np.ones((5, 6))
    free[:, -1] = 2
    faces = [np.ones((6, 6)), np.ones((5, 7))]
    return {
        "obstacle": Poisson.from_cells(cells),
        "free surface": Poisson.from_cells(free),
        "coefficient": Poisson.from_coefficients(kappa),
        "shift": Poisson.from_coefficients(np.ones((5, 6)), shift=shift),
        "sides at the wrong distance": Poisson.from_faces(faces),
    }


@pytest.mark.parametrize("name", not_boxes())
def test_what_is_no_box_is_refused(name):
    A = not_boxes()[name]
    assert not is_box(A)
    with pytest.raises(ValueError, match="expected is_box"):
        solve_box(A, np.ones(30))


def test_precision_of_a_copy_does_not_leak_into_the_original():
    A = Poisson.from_coefficients(np.full((4, 5), 0.1))
    assert is_box(A.to(dtype=np.float32))
    b = np.ones(20)
    np.testing.assert_allclose(A @ solve_box(A, b), b, rtol=1e-13)
