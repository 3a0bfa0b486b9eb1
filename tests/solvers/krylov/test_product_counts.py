"""Iterations to a true relative residual of 1e-8, pinned: +-1 passes; more, in either direction, needs an edited row.

Rows: family, shape, M, iterations, reason for the last change. Test stream, seed 10007, white noise, x0 = 0, float64.
"""

import numpy as np
import pytest
from krylearn.pde import Poisson
from krylearn.pde.scenes import right_hand_side, scene
from krylearn.solvers import cg

ROWS = [
    ("open_box", (16, 16, 16), "none", 119, "first"),
    ("open_box", (16, 16, 16), "geometric", 8, "first"),
    ("obstacles", (16, 16, 16), "resistor", 9, "first"),
    ("thin_walls", (33, 31), "resistor", 14, "first"),
    ("lognormal", (16, 16, 16), "resistor", 16, "first"),
    ("anisotropic", (17, 13, 11), "geometric", 8, "first"),
    ("neumann", (16, 16, 16), "geometric", 8, "first"),
    ("periodic", (32, 32), "geometric", 8, "first"),
]


@pytest.mark.parametrize(("family", "shape", "M", "expected", "reason"), ROWS)
def test_iterations_are_as_pinned(family, shape, M, expected, reason):
    A = scene(family, shape, 10007)
    b = right_hand_side(A, "white", 10007)
    _, info = cg(A, b, M=M, rtol=1e-8)
    assert info == 0
    assert abs(info.iterations - expected) <= 1, f"{info.iterations} iterations; {expected} pinned ({reason})"


@pytest.mark.parametrize("M", ["none", "geometric"])
def test_iterations_do_not_depend_on_the_order_of_axes(M):
    kappa = 10 ** np.random.default_rng(10009).uniform(-1, 1, (9, 12, 7))
    b = np.random.default_rng(10037).standard_normal(kappa.shape)
    x, info = cg(Poisson.from_coefficients(kappa), b, M=M, rtol=1e-10)
    order = (2, 0, 1)
    y, turned = cg(Poisson.from_coefficients(kappa.transpose(order)), b.transpose(order), M=M, rtol=1e-10)
    np.testing.assert_allclose(y, x.transpose(order), atol=1e-8 * abs(x).max())
    assert abs(info.iterations - turned.iterations) <= 1
