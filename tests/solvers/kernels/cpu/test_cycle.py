"""The fused kernels say what the reference says, on every level of odd, flat, periodic grids; transposes are exact."""

import numba
import numpy as np
import pytest
import torch
from krylearn.pde import FAMILIES, kernel_cache, scene
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.kernels import FusedProduct, reference
from krylearn.solvers.kernels.cpu import compile as cpu_jit
from krylearn.solvers.kernels.cpu.compile import kernel, threads_for
from krylearn.solvers.kernels.cpu.cycle import outer_index, sources
from krylearn.solvers.kernels.cpu.smoothing import apply_dot, smooth, smooth_from_zero
from krylearn.solvers.kernels.cpu.transfer import prolong_add, residual_rows, restrict_rows
from krylearn.solvers.multigrid import weight_files as storage
from krylearn.solvers.multigrid.hierarchy import v_cycle
from krylearn.solvers.multigrid.network import CoefficientNetwork
from krylearn.solvers.multigrid.preconditioner import power_of_two
from krylearn.solvers.multigrid.setup_cpu.build import learned_cycle
from multigrid_cases import GRIDS, dyadic, grid_system, hierarchy, matrix_of, random_network, rough, stencil

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-4}
NETWORK = random_network(32_003, scale=0.7)


def noise(like, seed, mask=True):
    x = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)
    return x * (like > 0) if mask else x


def agree(fused, expected):
    expected = expected.numpy()
    limit = ROUNDING[torch.float64 if expected.dtype == np.float64 else torch.float32]
    np.testing.assert_allclose(fused, expected, rtol=0, atol=limit * max(abs(expected).max(), 1e-30))


# --- the product ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("grid", GRIDS)
def test_four_products_agree(grid, dtype):
    A = grid_system(grid).to(dtype=dtype)
    x = A.to_grid(np.random.default_rng(32_009).standard_normal(A.shape[0])).to(dtype)
    expected = torch.from_numpy(A.matrix() @ x.flatten().numpy()).view(x.shape)
    op = reference.Stencil(A.links, A.ground, A.shift, A.periodic)
    y, partial = np.empty(x.shape, x.numpy().dtype), np.empty(x.shape[0] * x.shape[1])
    apply_dot(A.diag.numpy(), tuple(w.numpy() for w in A.links), x.numpy(), y, partial)
    for product in (A.apply(x), reference.apply(op, x), FusedProduct(A)(x), torch.from_numpy(y)):
        agree(product.numpy(), expected)
    np.testing.assert_allclose(partial.sum(), float((x.double() * expected.double()).sum()), rtol=ROUNDING[dtype])


@pytest.mark.parametrize("grid", GRIDS)
def test_the_product_is_symmetric(grid):
    op = stencil(grid_system(grid))
    matrix = matrix_of(lambda x: reference.apply(op, x), op.size)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=0)
    torch.testing.assert_close(matrix.diagonal(), op.diag.flatten())


# --- transfer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_restriction_is_the_transpose_of_prolongation_exactly(grid):
    for level in dyadic(hierarchy(grid_system(grid), random_network(32_027).double(), coarsest=12)).levels:
        t, fine = level.transfer, level.op.size
        coarse = [-(-n // f) for n, f in zip(fine, t.factors, strict=True)]
        down = matrix_of(lambda r, t=t: reference.restrict(t, r), fine)
        up = matrix_of(lambda c, t=t: reference.prolong(t, c), coarse)
        assert torch.equal(down, up.T)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_constant_is_prolonged_to_itself(grid):
    for level in hierarchy(grid_system(grid), random_network(32_029).double(), coarsest=12).levels:
        t = level.transfer
        ones = torch.ones([-(-n // f) for n, f in zip(level.op.size, t.factors, strict=True)], dtype=torch.float64)
        torch.testing.assert_close(reference.prolong(t, ones), t.mask, rtol=0, atol=1e-14)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_fused_transfer_is_its_own_transpose(grid):
    M = NeuralMultigrid(grid_system(grid), NETWORK, dtype=torch.float64)
    for v, following in zip(M.fused.levels, [*M.fused.levels[1:], None], strict=True):
        coarse = (following.b if following else M.fused.bottom_b).copy()
        rng = np.random.default_rng(32_051)
        r, c = rng.standard_normal(v.b.shape), rng.standard_normal(coarse.shape)
        no_links, up = tuple(np.zeros_like(w) for w in v.w), np.zeros_like(r)
        # with x = 0 the residual is b where there are unknowns
        residual_rows(v.diag, no_links, np.zeros_like(r), r, v.a, v.factors, v.periodic_z, v.t)
        restrict_rows(v.t, v.a, v.factors, v.sources[0], v.sources[1], coarse)
        prolong_add(c, v.a, v.sd, v.factors, v.outer[0], v.outer[1], v.periodic_z, up)
        assert np.vdot(coarse, c) == pytest.approx(np.vdot(r, up), rel=1e-12, abs=1e-12 * np.linalg.norm(up))


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n", [2, 3, 4, 7, 8])
def test_sources_invert_the_outer_index(n, periodic):
    outer = outer_index(n, periodic)
    for k, row in enumerate(sources(n, periodic)):
        assert sorted(j for j in row if j >= 0) == [j for j in range(n) if outer[j] == k != j]


# --- fused = reference ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_kernel_agrees_on_every_level(grid, dtype):
    M = NeuralMultigrid(grid_system(grid), "resistor", dtype=dtype)
    assert M.fused.levels
    for l, (level, v) in enumerate(zip(M.hierarchy.levels, M.fused.levels, strict=True)):
        op, s, t = level.op, level.s, level.transfer
        first, second = v.omega
        b, x = noise(op.diag, 32_057), noise(op.diag, 32_059)
        smooth_from_zero(v.diag, v.w, v.sd, b.numpy(), v.x, first, second)
        agree(v.x, reference.smooth_from_zero(op, s, b))
        smooth(v.diag, v.w, v.sd, x.numpy(), b.numpy(), v.y, second)
        agree(v.y, reference.smooth(op, s, x, b, reference.OMEGA[1]))
        coarse = np.empty_like(M.fused.levels[l + 1].b if l + 1 < len(M.fused.levels) else M.fused.bottom_b)
        residual_rows(v.diag, v.w, x.numpy(), b.numpy(), v.a, v.factors, v.periodic_z, v.t)
        restrict_rows(v.t, v.a, v.factors, v.sources[0], v.sources[1], coarse)
        agree(coarse, reference.restrict(t, b - reference.apply(op, x)))
        c, up = noise(torch.from_numpy(coarse), 32_063, mask=False), x.numpy().copy()
        prolong_add(c.numpy(), v.a, v.sd, v.factors, v.outer[0], v.outer[1], v.periodic_z, up)
        agree(up, x + reference.prolong(t, c))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("weights", ["geometric", "resistor", "random"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_fused_cycle_is_the_readable_cycle(grid, weights, dtype):
    rule = random_network(32_069) if weights == "random" else weights
    A = grid_system(grid)
    fused = NeuralMultigrid(A, rule, dtype=dtype, kernels="cpu")
    levels = (
        fused.hierarchy if weights != "random" else NeuralMultigrid(A, rule, dtype=dtype, kernels="reference").hierarchy
    )
    b = noise(levels.levels[0].op.diag, 32_077)
    expected = v_cycle(levels, b)
    if weights == "random" and dtype == torch.float32:  # other set-up kernels: a weight may be rounded the other way
        assert float((fused.cycle(b) - expected).norm() / expected.norm()) < 0.05
    else:
        agree(fused.cycle(b).numpy(), expected)


def test_batches_are_cycles_one_by_one():
    A = rough((9, 8, 7), {"x": "dirichlet"})
    for kernels in ("cpu", "reference"):
        M = NeuralMultigrid(A, "resistor", kernels=kernels)
        b = torch.randn(2, 3, 9, 8, 7, generator=torch.Generator().manual_seed(32_083)) * (A.diag > 0)
        one_by_one = torch.stack([M.cycle(v) for v in b.flatten(0, 1)]).view(b.shape)
        torch.testing.assert_close(M.cycle(b), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba was started with one thread")
def test_threads_change_no_digit(monkeypatch):
    monkeypatch.setattr(cpu_jit, "SERIAL", 0)
    A = rough((12, 13, 14), {"x": "periodic"})
    b = noise(A.diag, 32_089).float()
    answers, partial = [], []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            answers.append(NeuralMultigrid(A, NETWORK).cycle(b))
            partial.append(FusedProduct(A)(b.double()))
    finally:
        numba.set_num_threads(before)
    assert torch.equal(*answers)
    assert torch.equal(*partial)


def test_small_grids_run_on_one_thread_and_give_the_others_back():
    before = numba.get_num_threads()
    with threads_for(100):
        assert numba.get_num_threads() == 1
    assert numba.get_num_threads() == before
    with threads_for(10**6):
        assert numba.get_num_threads() == before


def test_kernels_compile_without_a_directory_for_the_cache(monkeypatch):
    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: None)
    double = kernel(lambda x: 2 * x, parallel=False)
    assert double(21) == 42


# --- set-up -----------------------------------------------------------------------------------------------------------

SETUPS = {**{name: (lambda name=name: grid_system(name)) for name in GRIDS}}
SETUPS |= {f"{f}_3d": (lambda f=f: scene(f, (14, 12, 13), 32_099)) for f in FAMILIES}
SETUPS |= {f"{f}_2d": (lambda f=f: scene(f, (25, 22), 32_117)) for f in ("mazes", "porous", "cellwise", "periodic")}


def rules_for(A):
    shipped = storage.shipped(storage.DEFAULT[len(A.grid_shape)])
    return [shipped, random_network(32_119, scale=0.4), CoefficientNetwork(0)]


@pytest.mark.parametrize("family", ["inclusions", "cellwise", "free_surface"])
@pytest.mark.parametrize("shape", [(48, 48), (24, 20, 22)], ids=["2d", "3d"])
def test_every_set_up_of_a_system_agrees_in_every_bit(family, shape):
    A = scene(family, shape, 32_141)
    first, *others = (
        NeuralMultigrid(A, "network").fused for _ in range(6)
    )  # wherever their arrays come to lie in memory
    for fused in others:
        for u, v in zip(first.levels, fused.levels, strict=True):
            for x, y in zip((*u.w, u.diag, u.sd, u.a), (*v.w, v.diag, v.sd, v.a), strict=True):
                np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("system", SETUPS)
def test_the_fused_set_up_finds_the_same_coefficients(system):
    A = SETUPS[system]()
    for network in rules_for(A):
        expected = hierarchy(A, network, torch.float32)
        fused = learned_cycle(A, power_of_two(float(A.diag.max())), network, 128)
        assert [tuple(v.factors) for v in fused.levels] == [v.transfer.factors for v in expected.levels]
        for level, v in zip(expected.levels, fused.levels, strict=True):
            scale = 1e-6 * float(level.op.diag.max())
            np.testing.assert_allclose(v.diag, level.op.diag.numpy(), rtol=1e-3, atol=scale)
            for w, expected_w in zip(v.w, level.op.links, strict=True):
                np.testing.assert_allclose(w, expected_w.numpy(), rtol=1e-3, atol=scale)
            half = 0.5 + 0.1  # rounded to eight bits, and ties may fall either way
            assert abs(v.sd * v.diag * 255 - 255 * level.s.numpy()).max() <= half
            for d, a in enumerate(level.transfer.weights if not v.identity_transfer else ()):
                assert abs(v.a[d] - (0 if a is None else 255 * a.numpy())).max() <= half
        largest = float(expected.inverse.abs().max())
        torch.testing.assert_close(torch.from_numpy(fused.inverse), expected.inverse, rtol=0.01, atol=1e-3 * largest)
