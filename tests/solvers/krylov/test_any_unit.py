"""The unit of kappa, of lengths and of b does not matter, and no grid is too small."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg, solve
from krylearn.solvers.krylov.driver import ConvergenceError

RNG = np.random.default_rng(13806)


@pytest.mark.parametrize(
    ("kappa", "spacing", "size"),
    [(8.85e-12, 1e-9, 1e-21), (1e-14, 2e-6, 1e-20), (1e-30, 1.0, 1e-30), (1e25, 1.0, 1e15), (1e-6, 1.0, 1.0)],
)
@pytest.mark.parametrize("way", ["default", "explicit M", "none", "list", "solve"])
def test_single_precision_in_any_unit(kappa, spacing, size, way):
    A = Poisson.from_coefficients(np.full((12,) * 3, kappa), spacing=spacing, dtype=np.float32)
    b = (size * RNG.standard_normal((12,) * 3)).astype(np.float32)
    if way == "solve":
        assert np.isfinite(solve(A, b.astype(np.float64))).all()
        return
    if way == "list":
        info = cg([A, A], np.stack([b, b]))[1]
    else:
        M = {"default": None, "none": "none", "explicit M": NeuralMultigrid(A) if way == "explicit M" else None}[way]
        info = cg(A, b, M=M)[1]
    assert info == 0
    assert info.iterations <= (60 if way == "none" else 8)


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-200, 1e-100, 1e100, 1e200, 1e300])
@pytest.mark.parametrize("way", ["default", "explicit M", "none", "list", "matrix"])
def test_double_precision_in_any_unit(scale, way):
    A = Poisson.from_coefficients(np.full((13, 11), scale))
    b = scale * RNG.standard_normal((13, 11))
    if way == "list":
        x, info = cg([A, A], np.stack([b, b]))
    elif way == "matrix":
        x, info = cg(A.matrix(), b.ravel())
    else:
        x, info = cg(A, b, M={"none": "none", "default": None, "explicit M": NeuralMultigrid(A)}[way])
    assert info == 0
    assert np.isfinite(x).all()


@pytest.mark.parametrize("h", [1e-15, 3e-15, 7e-14, 1e-12, 1e12, 1e15])
@pytest.mark.parametrize("builder", ["cells", "coefficients", "sizes by cell", "robin"])
def test_a_volume_beyond_single_precision_costs_no_digit(h, builder):
    """Links are kappa h, shifts are sigma h³; both are what they are in double precision."""
    cells, sigma, kappa = np.ones((3, 4, 2), int), 0.37 / h**2, np.full((3, 4, 2), 1.3)
    spacing = ([h] * 2 + [1.5 * h], h, h) if builder == "sizes by cell" else h
    sides = {"x-": ("robin", 0.7 / h) if builder == "robin" else "dirichlet"}

    def built(dtype):
        if builder == "cells":
            return Poisson.from_cells(cells, h, {"x-": "dirichlet"}, sigma, dtype=dtype)
        return Poisson.from_coefficients(kappa, spacing, sides, sigma, dtype=dtype)

    single, double = built(np.float32).matrix().astype(float), built(np.float64).matrix()
    assert abs(single - double).max() <= 1e-6 * abs(double).max()
    f = np.full((3, 4, 2), 2.3 / h**2)
    expected = built(np.float64).rhs(f, flux={"y-": 0.4 / h} if builder == "cells" else None)
    b = built(np.float32).rhs(f.astype(np.float32), flux={"y-": 0.4 / h} if builder == "cells" else None)
    assert b.dtype == np.float32
    np.testing.assert_allclose(b, expected, rtol=1e-6)


def test_conductances_among_the_last_numbers_are_refused():
    for dtype, h in ((np.float32, 1e-41), (np.float64, 1e-320)):
        with pytest.raises(ValueError, match="underflow"):
            Poisson.from_cells(np.ones((3, 3, 3)), h, dtype=dtype)
    Poisson.from_cells(np.ones((3, 3, 3)), 2.0**-140, dtype=np.float32)  # a power of two loses nothing


@pytest.mark.parametrize("unit", [1e-250, 1e-100, 1e100, 1e250])
def test_a_guess_of_another_size(unit):
    A = Poisson.from_coefficients(np.ones((9, 9)))
    x, info = cg(A, np.ones((9, 9)), unit * RNG.standard_normal((9, 9)), rtol=1e-6)
    assert info == 0
    assert np.linalg.norm(1 - A @ x) <= 1e-6 * 9


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6, 1e12])
@pytest.mark.parametrize("boundary", ["neumann", "dirichlet", "periodic"])
@pytest.mark.parametrize("way", ["default", "none", "matrix", "list"])
def test_a_guess_worse_than_zero_does_not_cost_the_answer(way, boundary, far):
    A = Poisson.from_coefficients(np.ones((9, 4)), boundary=boundary, dtype=np.float32)
    b = RNG.standard_normal(36).astype(np.float32)
    b -= b.mean()
    x0 = (far * RNG.standard_normal(36)).astype(np.float32)
    given = {"list": ([A, A], np.stack([b, b]), np.stack([x0, x0])), "matrix": (A.matrix(), b, x0)}.get(way, (A, b, x0))
    options = {"M": "none"} if way == "none" else {"nullspace": np.ones(36)} if way == "matrix" else {}
    if boundary == "dirichlet":
        options.pop("nullspace", None)
    x, info = cg(*given, rtol=3e-5, **options)
    assert info == 0
    for each in np.atleast_2d(x):
        assert np.linalg.norm(b - A @ each.astype(float)) <= 1.01 * 3e-5 * np.linalg.norm(b) + 1e-7


@pytest.mark.parametrize("far", [1e20, 1e40, 1e62, 1e100])
def test_integers_on_the_right_and_a_guess_of_another_world(far):
    A = Poisson.from_coefficients(1 + RNG.random((7, 6)))
    b = RNG.integers(-300, 300, 42)
    for matrix in (A, A.matrix()):
        x, info = cg(matrix, b, far * RNG.standard_normal(42), rtol=1e-9, M="none")
        assert info == 0
        assert np.linalg.norm(b - A @ x) <= 1.01e-9 * np.linalg.norm(b)


def test_a_large_guess_that_is_right_is_kept():
    kappa = np.ones((8, 8))
    S = Poisson.from_coefficients(kappa).matrix().tolil()
    S[0, 0] = 1e30  # a penalty
    x, _ = cg(S.tocsr(), np.ones(64), rtol=1e-12)
    x0 = x * (1 + 1e-3)
    x0[0] = x[0]
    assert cg(S.tocsr(), np.ones(64), x0, rtol=1e-2)[1].iterations == 0


def test_m_applies_in_any_unit():
    r = RNG.standard_normal((9, 7))
    plain = NeuralMultigrid(Poisson.from_coefficients(np.ones((9, 7)))) @ r
    for exponent in (-1000, -500, -200, 200, 500, 900):
        M = NeuralMultigrid(Poisson.from_coefficients(np.full((9, 7), 2.0**exponent)))
        np.testing.assert_array_equal(M @ (r * 2.0**exponent), plain)


@pytest.mark.parametrize("spacing", [1e-200, 1e-160, 1e160, 1e200, (1e-200, 3e-200)])
def test_spacing_whose_square_leaves_the_range(spacing):
    A = Poisson.from_coefficients(np.ones((5, 4)), spacing=spacing)
    ratio = np.ravel(spacing)[-1] / np.ravel(spacing)[0]
    wanted = Poisson.from_coefficients(np.ones((5, 4)), spacing=(1.0, ratio))
    np.testing.assert_allclose(A.matrix().toarray(), wanted.matrix().toarray(), rtol=1e-14)
    assert Poisson.from_cells(np.ones((5, 4)), spacing=spacing, boundary="dirichlet").nullspace.dimension == 0


@pytest.mark.parametrize("h", [6.5e-108, 3e-105, 2e-120, 7e103])
def test_a_volume_among_the_last_numbers_costs_no_digit(h):
    A = Poisson.from_cells(np.ones((3, 2, 2)), spacing=h, boundary="dirichlet")
    np.testing.assert_allclose(
        A.matrix().toarray() / h,
        Poisson.from_cells(np.ones((3, 2, 2)), boundary="dirichlet").matrix().toarray(),
        rtol=1e-14,
    )


def test_units_in_which_nothing_can_be_represented_are_refused():
    with pytest.raises(ValueError, match="use other units"):
        Poisson.from_coefficients(np.ones((4, 4)), spacing=(1e-200, 1e200))
    with pytest.raises(ValueError, match="underflow"):
        Poisson.from_coefficients(np.full((4, 4, 4), 1e-30), spacing=1e-20, dtype=np.float32)
    with pytest.raises(ValueError, match="underflow"):
        Poisson.from_coefficients(np.ones((4, 4)), spacing=1e-200, shift=1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 8, 11, 12, 16])
@pytest.mark.parametrize("shift", [3e-8, 1e-6, 1e-10])
@pytest.mark.parametrize("consistent", [True, False])
def test_small_grids_that_are_almost_singular(n, shift, consistent):
    A = Poisson.from_coefficients(np.ones((n, n)), boundary="neumann", shift=shift)
    b = A @ RNG.standard_normal((n, n)) if consistent else RNG.standard_normal((n, n))
    for M in (None, "none", "resistor"):
        info = cg(A, b, M=M)[1]
        assert info == 0
        assert M == "none" or info.iterations <= 30


def test_batches_for_m_have_a_scale_each():
    A = Poisson.from_coefficients(np.ones((9, 9)))
    M, r = NeuralMultigrid(A), torch.from_numpy(RNG.standard_normal((3, 81)))
    scales = torch.tensor([1.0, 1e-200, 1e200], dtype=torch.float64)[:, None]
    torch.testing.assert_close((M @ (r * scales)) / scales, M @ r, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1e-36, 1e-38, 1e-39, 1e-40])
def test_solve_hands_over_no_digits_that_single_precision_has_lost(size):
    A = Poisson.from_coefficients(np.full((6, 6), 1e29))
    b = (A @ (size * RNG.uniform(0.5, 1, 36))).astype(np.float32)
    if size < 6e-39:  # subnormal
        with pytest.raises(ConvergenceError, match="leaves the range"):
            solve(A, b, rtol=1e-6)
        return
    assert np.linalg.norm(b - A @ solve(A, b, rtol=1e-6).astype(float)) <= 3e-6 * np.linalg.norm(b)
