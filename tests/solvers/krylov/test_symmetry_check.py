"""A map that is not linear or not symmetric does not go into `cg` unnoticed; one that is, is not accused."""

import numpy as np
import pytest
import scipy.sparse.linalg as spla
import torch
from krylearn.pde import right_hand_side, scene
from krylearn.solvers import DCDM, DCDMNetwork, NeuralMultigrid, Reason, cg, dcdm
from krylearn.solvers.krylov.conjugate_gradients import cg_steps
from krylearn.solvers.krylov.driver import Attempt, drive
from krylearn.solvers.krylov.symmetry_check import SUSPICIOUS, SymmetryCheck, check_symmetry
from krylearn.solvers.krylov.system import Preconditioner, open_system

NOTE = "M is not symmetric positive definite: switched to flexible CG"


@pytest.fixture(scope="module")
def problem():
    A = scene("neumann", (16, 16, 16), 0)
    return A, right_hand_side(A, "white", 0)


def inverse_diagonal(A):
    d = A.matrix().diagonal()
    return torch.from_numpy(np.where(d > 0, 1 / np.where(d > 0, d, 1), 0))


def test_trained_network_is_noticed_and_replaced(problem):
    """r·Mr stays positive: the sign checks alone would never trip, and CG would not converge."""
    A, b = problem
    system, M = open_system(A, b, None, DCDM(A))
    plain = drive([Attempt(cg_steps, M)], system, rtol=1e-8, maxiter=100)[1]
    _x, info = cg(A, b, M=DCDM(A), rtol=1e-8, maxiter=100)
    flexible = dcdm(A, b, DCDM(A), rtol=1e-8, maxiter=100)[1]
    assert plain.reason is not Reason.CONVERGED
    assert info == 0
    assert NOTE in info.notes
    assert info.iterations <= 1.5 * flexible.iterations


@pytest.mark.parametrize("seed", [70_401, 70_403, 70_409])
def test_random_networks_are_noticed(problem, seed):
    A, b = problem
    f = DCDM(A, DCDMNetwork(width=4, generator=torch.Generator().manual_seed(seed)))
    info = cg(A, b, M=f, maxiter=15)[1]
    assert NOTE in info.notes or info.reason in (Reason.INDEFINITE_M, Reason.STAGNATED)


@pytest.mark.parametrize("name", ["tanh", "cube", "unsymmetric"])
def test_other_maps_are_noticed(problem, name):
    A, b = problem
    shift = {"unsymmetric": lambda r: r + 0.5 * torch.roll(r, 1)}
    f = {"tanh": torch.tanh, "cube": lambda r: r + 0.5 * r**3, **shift}[name]
    _x, info = cg(A, b, M=f, rtol=1e-6)
    assert info == 0
    assert NOTE in info.notes


def symmetric_maps(A):
    jacobi = inverse_diagonal(A)
    csr = A.matrix()
    return {
        "identity": lambda r: r,
        "Jacobi": lambda r: jacobi * r,
        "fp32 Jacobi": lambda r: (jacobi.float() * r.float()).double(),
        "fp32 cycle": lambda r: NeuralMultigrid(A, "geometric") @ r,
        "bfloat16 cycle": lambda r: (NeuralMultigrid(A, "geometric") @ r).bfloat16().double(),
        "polynomial": lambda r: jacobi * (2 * r - 0.9 * torch.from_numpy(csr @ (jacobi * r).numpy())),
    }


@pytest.mark.parametrize("name", list(symmetric_maps(scene("neumann", (4, 4, 4), 0))))
@pytest.mark.parametrize("family", ["neumann", "cellwise"])
def test_symmetric_maps_are_not_accused(name, family):
    A = scene(family, (12, 12, 12), 0)
    b = right_hand_side(A, "white", 0)
    info = cg(A, b, M=symmetric_maps(A)[name], rtol=1e-7)[1]
    assert info == 0
    assert not info.notes


def test_unsymmetric_incomplete_factors_are_noticed_where_cg_would_crawl():
    A = scene("obstacles", (16, 16, 16), 0)
    csr, b = A.matrix(unknowns=True).tocsc(), None
    b = csr @ np.random.default_rng(70_411).standard_normal(csr.shape[0])
    factors = spla.spilu(csr, drop_tol=1e-2, fill_factor=5)
    M = spla.LinearOperator(csr.shape, factors.solve)
    _x, info = cg(csr, b, M=M, rtol=1e-8)
    assert info == 0
    assert NOTE in info.notes
    assert info.iterations < spla_count(csr, b, M)


def spla_count(A, b, M):
    count = []
    spla.cg(A, b, M=M, rtol=1e-8, maxiter=500, callback=lambda x: count.append(1))
    return len(count)


def test_watching_changes_no_iterate(problem):
    A, b = problem
    jacobi = inverse_diagonal(A)
    iterates = []
    for wrap in (lambda M: Attempt(cg_steps, M), lambda M: Attempt(check_symmetry(cg_steps), SymmetryCheck(M))):
        system, M = open_system(A, b, None, lambda r: jacobi * r)
        iterates.append([])
        drive([wrap(M)], system, rtol=1e-6, callback=lambda x, into=iterates[-1]: into.append(x.clone()))
    assert len(iterates[0]) == len(iterates[1])
    assert all(torch.equal(x, y) for x, y in zip(*iterates, strict=True))


def test_cosine_by_hand():
    M = SymmetryCheck(Preconditioner(lambda r: torch.tensor([2.0, 1.0]) * r))
    M(torch.tensor([1.0, 0.0]))
    M(torch.tensor([1.0, 1.0]))  # z = (2, 0), z·r = 2, r·Mr = 2 and 3
    assert float(M.cosine) == pytest.approx(2 / 6**0.5)
    assert M.is_suspicious()
    assert not M.is_suspicious()  # asked again: nothing new
    assert M.limit == 2 * SUSPICIOUS
    M.forget_step()
    M(torch.tensor([1.0, 1.0]))
    assert M.cosine is None


def test_a_map_that_returns_its_argument_is_not_compared_with_itself():
    M, r = SymmetryCheck(Preconditioner(lambda r: r)), torch.tensor([1.0, 0.0])
    M(r)
    r.copy_(torch.tensor([0.0, 1.0]))  # as CG updates it in place
    M(r)
    assert float(M.cosine) == 0


def test_dcdm_never_asks_for_symmetry(problem):
    """A long plateau of the residual is no reason to accuse a map of which nothing is asked."""
    A, b = problem
    f = DCDM(A, DCDMNetwork(width=4, generator=torch.Generator().manual_seed(70_421)))
    info = dcdm(A, b, f, maxiter=45, rtol=1e-12)[1]
    assert info.reason in (Reason.MAXITER, Reason.STAGNATED)
    assert info.iterations == 45
