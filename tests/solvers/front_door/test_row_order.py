"""Equations in another order than the unknowns are put into it; what is not clear is left alone."""

import numpy as np
import pytest
import scipy.sparse as sp
from krylearn.pde import Poisson
from krylearn.solvers import factorized, solve_matrix
from krylearn.solvers.front_door.row_order import find_row_order

RNG = np.random.default_rng(37003)


def equations(n, neumann=False):
    """The inner cells first, then the sides, each as an equation of its own; as scripts append them."""
    number = np.arange(n * n).reshape(n, n)
    rows, values = [], []
    for i, j in np.ndindex(n - 2, n - 2):
        own = number[i + 1, j + 1]
        rows.append([own, own - n, own + n, own - 1, own + 1])
        values.append([-4.0, 1, 1, 1, 1])
    for j in range(n):
        rows += [[number[0, j]], [number[-1, j]]]
        values += [[1.0], [1.0]]
    for i in range(1, n - 1):
        for side, inner in ((0, 1), (-1, -2)):
            rows.append([number[i, side], number[i, inner]] if neumann else [number[i, side]])
            values.append([1.0, -1.0] if neumann else [1.0])
    entries = [
        (k, c, v) for k, (cs, vs) in enumerate(zip(rows, values, strict=True)) for c, v in zip(cs, vs, strict=True)
    ]
    i, j, v = map(np.array, zip(*entries, strict=True))
    return sp.csr_array((v, (i, j)), shape=(n * n, n * n))


@pytest.mark.parametrize("neumann", [False, True])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "toarray"])
def test_sides_written_after_the_inside(neumann, form):
    C, n = equations(24, neumann), 24 * 24
    b = RNG.standard_normal(n)
    x, info = solve_matrix(getattr(C, form if form == "toarray" else f"to{form}")(), b, rtol=1e-9)
    assert info == 0
    assert "another order" in info.notes[0]
    assert any("grid (24, 24)" in note for note in info.notes)
    assert np.linalg.norm(b - C @ x) <= 1e-9 * np.linalg.norm(b)
    np.testing.assert_allclose(factorized(C, rtol=1e-12)(b), np.linalg.solve(C.toarray(), b), atol=1e-8)


def test_any_order_of_the_rows_of_a_medium():
    kappa = 10 ** RNG.uniform(-1, 1, (7, 8, 9))
    C = sp.csr_array(Poisson.from_coefficients(kappa).matrix())[RNG.permutation(kappa.size)]
    b = RNG.standard_normal((kappa.size, 2))
    x, info = solve_matrix(C, b)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(C.toarray(), b), rtol=1e-6, atol=1e-6)


def test_what_is_not_clear_is_refused_as_before():
    advection = sp.diags_array([-2 * np.ones(29), 2 * np.ones(30), -0.5 * np.ones(29)], offsets=[-1, 0, 1])
    assert find_row_order(sp.csr_array(advection)) is None  # ties that leave two choices, and no order but its own
    with pytest.raises(ValueError, match="unsymmetric"):
        solve_matrix(advection, np.ones(30))
    twice = sp.csr_array(np.array([[5.0, 1, 0], [4, 1, 1], [0, 1, 3]]))  # two rows whose largest is the same column
    assert find_row_order(twice) is None
    assert find_row_order(sp.csr_array(np.zeros((3, 3)))) is None


def test_what_settles_row_by_row_is_given_up_soon():
    n = 200_000  # upwind differences: every row but the last has two largest entries
    upwind = sp.csr_array(sp.diags_array([np.ones(n), -np.ones(n - 1)], offsets=[0, 1]))
    assert find_row_order(upwind) is None
