import numpy as np
import pytest
from krylearn.pde import Poisson
from krylearn.solvers import cg
from krylearn.solvers.front_door.small_systems import cg_from_small

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
