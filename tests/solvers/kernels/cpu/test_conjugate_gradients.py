"""The fused CPU recurrence yields the states of the readable one, ignores the number of threads, fails as it does."""

import math
from itertools import islice, pairwise

import numba
import numpy as np
import pytest
import torch
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels import fused_cg_steps
from krylearn.solvers.kernels.cpu import compile as cpu_jit
from krylearn.solvers.krylov.conjugate_gradients import cg_steps
from krylearn.solvers.krylov.system import open_system
from multigrid_cases import GRIDS, grid_system, random_network, rough


def started(steps, A, b, M=None, x0=None):
    """A recurrence from its beginning: fresh arrays, fresh counters."""
    system, precondition = open_system(A, b, x0, M)
    return steps(system.A, system.b, system.x, precondition), system


def history(steps, A, b, M=None, x0=None, length=11):
    """Norms of the residuals, curvatures, the last iterate, and how many products it took."""
    states, system = started(steps, A, b, M, x0)
    norms, curvatures, x = [], [], None
    for state in islice(states, length):
        x = state[0]
        norms.append(math.sqrt(float(state[2])))
        curvatures.append([float(c) for c in state[3]])
    return np.array(norms), np.array(curvatures[1:]), x.clone(), system.A.calls


def load(A, seed=37_003):
    b = torch.from_numpy(np.random.default_rng(seed).standard_normal(A.grid_shape))
    return A.from_grid(A.nullspace.project(A.to_grid(b)), b)


def compare(A, b, rtol, M=None, x0=None, length=11):
    norms, curvatures, x, products = history(fused_cg_steps, A, b, M, x0, length)
    expected, expected_curvatures, y, expected_products = history(cg_steps, A, b, M, x0, length)
    np.testing.assert_allclose(norms, expected, rtol=rtol)
    np.testing.assert_allclose(curvatures, expected_curvatures, rtol=2 * rtol)
    x, y = A.nullspace.project(x), A.nullspace.project(y)  # the fused cycle leaves that part to the driver
    torch.testing.assert_close(x, y, rtol=rtol, atol=rtol * float(y.abs().max()))
    assert products == expected_products


# --- the same states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_plain_steps_agree_on_every_family(family):
    A = scene(family, (12, 11, 13), 37_013)
    compare(A, right_hand_side(A, "white", 37_013), 1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_ten_plain_steps_agree_on_every_grid(grid):
    A = grid_system(grid)
    compare(A, load(A), 1e-9)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("weights", ["resistor", None])
def test_preconditioned_steps_agree(grid, weights):
    A = grid_system(grid)
    M = NeuralMultigrid(A, weights)
    assert M.fused is not None
    compare(A, load(A), 1e-4, M=M, length=6)  # fp32 cycle: rounding grows by an order of magnitude in a few steps


@pytest.mark.parametrize("weights", ["geometric", random_network(37_019, scale=0.5)], ids=["geometric", "network"])
def test_steps_with_a_cycle_in_double_agree_closely(weights):
    A = rough((9, 8, 10), {"x": "dirichlet"})
    compare(A, load(A), 1e-8, M=NeuralMultigrid(A, weights, dtype=torch.float64))


def test_the_first_steps_with_a_single_precision_cycle_agree():
    for family in ("free_surface", "blocks", "open_box"):
        A = scene(family, (12, 12, 12), 37_021)
        compare(A, right_hand_side(A, "white", 37_021), 1e-5, M=NeuralMultigrid(A), length=4)


def test_a_starting_vector_and_any_map_as_preconditioner():
    A = rough((12, 13), {"y": "dirichlet"})
    x0 = np.random.default_rng(37_039).standard_normal(A.grid_shape)
    compare(A, load(A), 1e-9, x0=x0)
    diagonal = torch.where(A.diag > 0, A.diag, 1).flatten()
    compare(A, load(A), 1e-9, M=lambda r: r / diagonal, x0=x0)
    compare(A, load(A), 1e-9, M=np.diag(1 / diagonal.numpy()))


def test_single_precision_operators():
    A = rough((10, 11, 9), {"x": "dirichlet"}).to(dtype=torch.float32)
    compare(A, load(A).float(), 1e-4, length=6)
    compare(A, load(A).float(), 1e-3, M=NeuralMultigrid(A), length=4)


@pytest.mark.parametrize("M", ["none", "resistor", None])
def test_whole_solves_take_as_many_iterations(M, monkeypatch):
    from krylearn.solvers.krylov import conjugate_gradients

    A = scene("lognormal", (14, 12, 13), 37_049)
    b = right_hand_side(A, "white", 37_049)
    x, fused = cg(A, b, M=M, rtol=1e-8)
    monkeypatch.setattr(conjugate_gradients, "_choose_recurrence", lambda *_: cg_steps)
    y, readable = cg(A, b, M=M, rtol=1e-8)
    assert fused == readable == 0
    allowed = 1 + 0.02 * readable.iterations  # plain CG takes a thousand, in which rounding has its say
    assert abs(fused.iterations - readable.iterations) <= allowed
    assert abs(fused.matvecs - readable.matvecs) <= allowed
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6 * float(y.abs().max()))


# --- its invariants ---------------------------------------------------------------------------------------------------


def test_the_residual_is_b_minus_a_x():
    A = rough((9, 10, 11), {"z": "dirichlet"})
    states, system = started(fused_cg_steps, A, load(A), NeuralMultigrid(A, "resistor"))
    for x, r, rr, _ in islice(states, 8):
        true = system.b - A.apply(x)
        torch.testing.assert_close(r, true, rtol=0, atol=1e-9 * float(system.b.abs().max()))
        assert float(rr) == pytest.approx(float((r * r).sum()), rel=1e-9)


def test_the_energy_of_the_error_falls_in_every_step():
    A = scene("blocks", (10, 10, 10), 37_057)
    solution = torch.from_numpy(np.random.default_rng(37_057).standard_normal(A.grid_shape))
    states, _ = started(fused_cg_steps, A, A @ solution, NeuralMultigrid(A))
    energies = []
    for x, *_ in islice(states, 9):
        e = x - A.to_grid(solution)
        energies.append(float((e * A.apply(e)).sum()))
    assert all(after < before for before, after in pairwise(energies))


@pytest.mark.parametrize("M", [None, "resistor", "neural"])
def test_a_power_of_two_changes_no_digit(M):
    kappa = 10 ** np.random.default_rng(37_061).uniform(-1, 1, (9, 8, 10))
    b = np.random.default_rng(37_087).standard_normal(kappa.shape)
    rows = []
    for scale in (1.0, 8.0, 2.0**-60):
        A = Poisson.from_coefficients(scale * kappa)
        preconditioner = NeuralMultigrid(A, None if M == "neural" else M) if M else None
        norms, *_ = history(fused_cg_steps, A, scale * b, preconditioner)
        rows.append(norms / scale)
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba was started with one thread")
@pytest.mark.parametrize("weights", ["none", "resistor", None])
def test_threads_change_no_digit(weights, monkeypatch):
    monkeypatch.setattr(cpu_jit, "SERIAL", 0)
    A = rough((13, 12, 11), {"x": "periodic", "y": "dirichlet"})
    b, before, rows = load(A), numba.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            numba.set_num_threads(threads)
            M = None if weights == "none" else NeuralMultigrid(A, weights)
            rows.append(history(fused_cg_steps, A, b, M))
    finally:
        numba.set_num_threads(before)
    for norms, curvatures, x, _ in rows[1:]:
        np.testing.assert_array_equal(norms, rows[0][0])
        np.testing.assert_array_equal(curvatures, rows[0][1])
        assert torch.equal(x, rows[0][2])


def test_the_same_numbers_in_every_run():
    A = rough((12, 12, 12), {})
    one, two = (history(fused_cg_steps, A, load(A), NeuralMultigrid(A)) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])
    assert torch.equal(one[2], two[2])


# --- failures ---------------------------------------------------------------------------------------------------------


def test_x_stays_finite_when_the_preconditioner_does_not():
    A = rough((8, 9), {"x": "dirichlet"})
    calls = []

    def breaks(r):
        calls.append(1)
        return r if len(calls) < 3 else r * torch.nan

    states, _ = started(fused_cg_steps, A, load(A), breaks)
    seen = list(islice(states, 4))
    assert math.isnan(seen[-1][2])
    assert bool(torch.isfinite(seen[-1][0]).all())
    assert bool(seen[-1][0].any())


def test_an_indefinite_preconditioner_is_reported_and_replaced():
    A = rough((8, 9), {"x": "dirichlet"})
    signs = torch.ones(A.shape[0], dtype=torch.float64)
    signs[::2] = -1
    x, info = cg(A, load(A), M=lambda r: r * signs, rtol=1e-8)
    assert info == 0
    assert info.notes
    b = load(A)
    assert float((b - A @ x).norm()) <= 1e-8 * float(b.norm())


def test_nothing_moves_once_the_residual_is_zero():
    A = Poisson.from_coefficients(np.ones((4, 4)))
    states, _ = started(fused_cg_steps, A, torch.zeros(4, 4, dtype=torch.float64))
    x, _, rr, _ = next(iter(states))
    assert rr == 0
    assert not x.any()
