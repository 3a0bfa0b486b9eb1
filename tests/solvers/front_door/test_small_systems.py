import numpy as np
import pytest
from krylearn.pde import Poisson
from krylearn.solvers import cg
from krylearn.solvers.front_door.small_systems import cg_from_small, steps_with_diagonal

RNG = np.random.default_rng(36007)
KAPPA = 10 ** RNG.uniform(-0.5, 0.5, (10, 11, 12))


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic", {"x": "periodic", "y-": "neumann"}])
def test_the_diagonal_keeps_the_promise(boundary):
    A = Poisson.from_coefficients(KAPPA, boundary=boundary)
    b = RNG.standard_normal(A.shape[0])
    b -= b.mean()
    x, info = cg_from_small(A, b, rtol=1e-4)
    assert info == 0
    assert "diagonal" in info.notes[0]
    assert np.linalg.norm(b - A.matrix() @ x) <= 1e-4 * np.linalg.norm(b)
    assert info.nullspace == A.nullspace.dimension
    assert abs(x.mean()) < 1e-10 or not A.nullspace


def test_multigrid_goes_on_where_the_diagonal_is_too_slow():
    A = Poisson.from_coefficients(10 ** RNG.uniform(-3, 3, (64, 64)), boundary={"y": "neumann"})
    b = RNG.standard_normal(A.shape[0])
    x, info = cg_from_small(A, b, rtol=1e-9)
    assert info == 0
    assert not any("diagonal" in note for note in info.notes)
    assert np.linalg.norm(b - A.matrix() @ x) <= 1e-9 * np.linalg.norm(b)


def test_seeds_everywhere_need_no_multigrid_at_any_of_these_sizes():
    fixed = RNG.random((30, 30, 30)) < 0.3
    A = Poisson.from_cells(np.ones((30, 30, 30)), fixed=fixed)
    _, info = cg_from_small(A, A.rhs(0.0, fixed=RNG.random((30, 30, 30))), rtol=1e-3)
    assert info == 0
    assert info.iterations < 20
    assert "diagonal" in info.notes[0]


def test_what_it_is_not_made_for_goes_to_cg():
    A = Poisson.from_coefficients(KAPPA, dtype=np.float32)
    b = RNG.standard_normal(A.shape[0]).astype(np.float32)
    np.testing.assert_array_equal(cg_from_small(A, b, rtol=1e-4)[0], cg(A, b, rtol=1e-4)[0])
    B = Poisson.from_coefficients(KAPPA)  # noqa: N806
    for b in (np.zeros(B.shape[0]), np.full(B.shape[0], np.nan), np.full(B.shape[0], 1e300)):
        x, info = cg_from_small(B, b, rtol=1e-6)
        assert (info == 0) == (not np.isnan(b).any())
        assert x.shape == b.shape
    negative = Poisson.from_cells(np.ones((9, 9)), shift=-0.5)
    assert cg_from_small(negative, RNG.standard_normal(81), rtol=1e-6)[1] != 0


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 1, 4), (1, 5, 4), (2, 2, 2)])
@pytest.mark.parametrize("periodic", [(), "x", "yz", "xyz"])
def test_the_flat_product_is_that_of_the_matrix(shape, periodic):
    sides = {axis: "periodic" if axis in periodic else "neumann" for axis in "xyz"}
    A = Poisson.from_coefficients(10 ** RNG.uniform(-1, 1, shape), boundary=sides, shift=0.5)
    b = RNG.standard_normal(A.shape[0])
    links = [w.numpy().reshape(-1) for w in A.links]
    for steps in (1, 3, 200):  # the norm that it returns is that of the last product, with u
        u, _, left = steps_with_diagonal(links, A.diag.numpy().reshape(-1), shape, b, 1e-13, steps)
        assert left == pytest.approx(np.linalg.norm(b - A.matrix() @ u), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(u, np.linalg.solve(A.matrix().toarray(), b), atol=1e-10)


def test_what_is_out_of_reach_ends_early():
    A = Poisson.from_coefficients(np.ones((32, 32, 32)), boundary={"x": "dirichlet", "y": "neumann", "z": "neumann"})
    links = [w.numpy().reshape(-1) for w in A.links]
    b = np.asarray(A.rhs(1.0)).ravel()
    _, steps, left = steps_with_diagonal(links, A.diag.numpy().reshape(-1), A.grid_shape, b, 1e-6, 100)
    assert steps < 50
    assert left > 1e-6
