import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from krylearn.pde.poisson import recognise, stencil_scan
from krylearn.pde.poisson.grid import internal_shape
from naive_poisson import problems

EPS = float(np.finfo(np.float64).eps)


def both(csr, grid_shape, order="C"):
    """What the compiled passes read, and what the readable ones do."""
    cells = int(np.prod(grid_shape))
    numbering = np.arange(cells).reshape(grid_shape).ravel(order=order)
    plain = None if order == "C" else numbering
    fast = stencil_scan.scan(csr, internal_shape(grid_shape), len(grid_shape) == 2, None, plain, EPS)
    return fast, recognise._read_slowly(csr, recognise.Stencil(grid_shape, numbering, order, EPS), None)


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from("CF"), st.booleans())
def test_the_compiled_passes_read_what_the_readable_ones_do(problem, order, shuffled):
    known = Poisson.from_coefficients(**problem | {"shift": 0.7})
    rows = np.arange(known.shape[0]).reshape(known.grid_shape).ravel(order=order)
    csr = sp.csr_array(known.matrix()[rows][:, rows])
    if shuffled:  # entries of a row in any order, and in two parts
        coo = csr.tocoo()
        at = np.random.default_rng(37003).permutation(2 * coo.nnz)
        twice = [np.tile(v, 2)[at] for v in (coo.data / 2, coo.row, coo.col)]
        order_of = np.argsort(twice[1], kind="stable")
        counts = np.bincount(twice[1], minlength=csr.shape[0])
        csr = sp.csr_array(
            (twice[0][order_of], twice[2][order_of], np.concatenate([[0], np.cumsum(counts)])), shape=csr.shape
        )
    if not any(w.any() for w in known.links):
        return
    fast, slow = both(csr, known.grid_shape, order)
    assert fast is not None
    assert fast.wraps == slow.wraps
    np.testing.assert_array_equal(fast.unknown, slow.unknown)
    for mine, theirs in zip(
        (*fast.links, *fast.ground, fast.shift), (*slow.links, *slow.ground, slow.shift), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12 * abs(csr).max())


def test_strips_on_several_threads_read_the_same(monkeypatch):
    csr = sp.csr_array(Poisson.from_coefficients(np.random.default_rng(37013).uniform(1, 2, (13, 9, 8))).matrix())
    alone, _ = both(csr, (13, 9, 8))
    monkeypatch.setattr(stencil_scan, "ALONE", 0)
    together, _ = both(csr, (13, 9, 8))
    for mine, theirs in zip(
        (*alone.links, *alone.ground, alone.shift), (*together.links, *together.ground, together.shift), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("entry", [(0, 7, -0.1), (2, 3, -2.0), (5, 5, np.nan), (5, 5, -1.0)])
def test_what_is_unusual_is_left_to_the_readable_ones(entry):
    i, j, value = entry
    matrix = Poisson.from_cells(np.ones((3, 4)), boundary="dirichlet").matrix().tolil()
    matrix[i, j] = value
    assert stencil_scan.scan(sp.csr_array(matrix), (3, 1, 4), True, None, None, EPS) is None
