"""Cells found in the pattern of a matrix are neighbours where it couples them, whatever was left out of the box."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from krylearn.pde.scenes import scene
from krylearn.solvers import solve_matrix
from krylearn.solvers.front_door.cell_search import find_cells


def number(mask, slow_last=False):
    """Return the row of each cell, -1 where there is none; x fastest if `slow_last`."""
    numbers = np.full(mask.shape, -1)
    cells = numbers.T if slow_last else numbers
    cells[mask.T if slow_last else mask] = np.arange(mask.sum())
    return numbers


def matrix_of(mask, slow_last=False, shift=0.0):
    """Return the Laplacian of the cells of a mask, Neumann, with those rows alone."""
    numbers, n, pairs = number(mask, slow_last), int(mask.sum()), []
    for d in range(mask.ndim):
        low, high = np.moveaxis(numbers, d, 0)[:-1].ravel(), np.moveaxis(numbers, d, 0)[1:].ravel()
        pairs.append(np.stack([low, high])[:, (low >= 0) & (high >= 0)])
    i, j = np.concatenate(pairs, axis=1)
    W = sp.coo_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), (n, n))
    return sp.csr_array(sp.diags_array(W.sum(1) + shift) - W)


def check_placing(C, found):
    """Different cells; those that C couples side by side."""
    assert len(np.unique(found.numbering)) == C.shape[0]
    pairs = sp.coo_array(C)
    off = pairs.row != pairs.col
    here, there = (np.array(np.unravel_index(found.numbering[k[off]], found.shape)) for k in (pairs.row, pairs.col))
    assert (abs(here - there).sum(0) == 1).all()


@given(
    st.sampled_from([(7, 9), (12, 5), (1, 8), (5, 4, 6), (3, 7, 4), (8, 1, 5)]),
    st.floats(0.2, 1.0),
    st.booleans(),
    st.integers(0, 10**6),
)
@settings(max_examples=200, deadline=None)
def test_a_random_mask_is_placed_without_contradiction_or_not_at_all(shape, share, slow_last, seed):
    mask = np.random.default_rng(seed).random(shape) < share
    mask.flat[0] = True
    C = matrix_of(mask, slow_last)
    found = find_cells(C)
    if found is not None:
        check_placing(C, found)
    elif len(shape) == 2:
        pytest.fail("in a plane every mask can be placed")


@pytest.mark.parametrize("slow_last", [False, True])
@pytest.mark.parametrize("family", ["obstacles", "thin_walls", "mazes", "porous", "free_surface"])
@pytest.mark.parametrize("shape", [(40, 41), (24, 23, 22)])
def test_geometries_are_found(family, shape, slow_last):
    mask = scene(family, shape, 5).unknown.numpy().reshape(shape)
    C = matrix_of(mask, slow_last)
    found = find_cells(C)
    check_placing(C, found)
    assert found.numbering.size == C.shape[0]
    assert len(found.shape) == len(shape)


def test_two_balls_that_do_not_touch():
    x, y, z = np.meshgrid(*[np.arange(30)] * 3, indexing="ij")
    mask = np.minimum((x - 8) ** 2, (x - 21) ** 2) + (y - 15) ** 2 + (z - 14) ** 2 < 36
    check_placing(matrix_of(mask), find_cells(matrix_of(mask)))


@pytest.mark.parametrize("slow_last", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_matrix_of_some_cells_is_solved_on_its_grid(slow_last, sign):
    mask = scene("obstacles", (26, 25, 24), 7).unknown.numpy().reshape(26, 25, 24)
    C = sign * matrix_of(mask, slow_last, shift=0.01)
    b = np.random.default_rng(3).standard_normal(C.shape[0])
    x, info = solve_matrix(C, b, rtol=1e-10)
    assert info == 0
    assert np.linalg.norm(b - C @ x) <= 1e-10 * np.linalg.norm(b)
    assert any("cells of a grid" in note for note in info.notes)
    np.testing.assert_allclose(x, sp.linalg.spsolve(sp.csc_array(C), b), rtol=1e-6, atol=1e-6)


def test_wells_beside_the_grid_get_cells_of_their_own():
    mask = np.random.default_rng(1).random((30, 31)) < 0.9
    C = sp.block_diag([matrix_of(mask, shift=0.1), sp.diags_array(np.arange(1.0, 3001.0))], format="csr")
    check_placing(C, find_cells(C))
    x, info = solve_matrix(C, np.ones(C.shape[0]))
    assert info == 0
    np.testing.assert_allclose(x[-3000:], 1 / np.arange(1.0, 3001.0))


@pytest.mark.parametrize(
    "A",
    [
        sp.csr_array(np.ones((8, 8))),  # everything coupled to everything
        sp.csr_array(np.triu(np.ones((4, 4)))),  # no symmetric pattern
        sp.csr_array(sp.diags_array([1.0, 1.0, 1.0, 1.0], offsets=[-4, -1, 1, 4], shape=(5, 5))),  # a ring of five
        Poisson.from_coefficients(np.ones((5, 5)), boundary="periodic").matrix(),  # a torus
        # layers of three, each coupled to all of the next: many more squares than rows
        np.kron(np.diag(np.ones(39), 1) + np.diag(np.ones(39), -1), np.ones((3, 3))),
    ],
)
def test_what_is_no_part_of_a_grid_is_not_placed(A):
    assert find_cells(sp.csr_array(A)) is None
