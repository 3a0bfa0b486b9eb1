"""Compiled levels of pieces: the partition, operators and cycle of the readable form, whatever the threads."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case
from krylearn.solvers import NeuralMultigrid, cg, solve
from krylearn.solvers.multigrid import pieces
from krylearn.solvers.multigrid.setup_pieces import graph_level
from krylearn.solvers.multigrid.setup_pieces.build import graph_of_level
from krylearn.solvers.multigrid.setup_pieces.partition import find_pieces

SHAPES = {2: (19, 22), 3: (11, 8, 9)}
EXACT = {torch.float64: 1e-7, torch.float32: 1e-4}  # image_1000 has a contrast of 1e10
TIES = ("blocks", "channels", "cut_cells")  # which are decided differently if sums are taken in another order
TIES_IN_FP32 = ("white_image_1000",)  # whose links of 1e-10 are equal until the first graph has been rounded
CASES = [*FAMILIES, *FIELD_CASES]


def system(name, dimension, seed=31_153):
    return scene(name, SHAPES[dimension], seed) if name in FAMILIES else field_case(name, SHAPES[dimension], seed)


def vector(A, seed=31_159):
    v = np.random.default_rng(seed).standard_normal(A.shape[0])
    return A.from_grid(A.to_grid(v), v)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_compiled_partition_is_the_readable_one(name, dimension):
    g, _ = pieces.graph_of(system(name, dimension))
    block = pieces.find_blocks(g.cell, pieces.find_factors(g))[1].astype(np.int32)
    order = np.lexsort((g.axis, g.col, g.row))
    begin = np.r_[0, np.cumsum(np.bincount(g.row, minlength=g.n))].astype(np.uint32)
    links = begin, g.col[order].astype(np.uint32), g.w[order]
    for merge in (pieces.MERGE, 0.0):
        found, count = find_pieces(block, int(block.max()) + 1, links, g.diag, merge)
        expected = pieces.find_pieces(g, block, merge)
        assert count == found.max() + 1
        assert np.mean(found == expected) >= (0.9 if name in TIES else 1.0)


@pytest.mark.parametrize("name", ["lognormal", "neumann", "periodic", "layers_100", "ocean", "white_image_30"])
def test_compiled_coarse_operator_is_the_readable_one_for_any_partition(name):
    A = system(name, 3)
    g, size = pieces.graph_of(A)[0], tuple(A.unknown.shape)
    order = np.lexsort((g.axis, g.col, g.row))
    begin = np.r_[0, np.cumsum(np.bincount(g.row, minlength=g.n))].astype(np.uint32)
    links = begin, g.col[order].astype(np.uint32), g.w[order], g.axis[order].astype(np.uint8)
    cell = np.ravel_multi_index(tuple(g.cell.T), size).astype(np.int32)
    level = graph_level.Level(size, cell, *links, g.ground, g.shift, g.diag)
    size, place = graph_level.coarse_blocks(level)
    labels = pieces.renumber(np.random.default_rng(31_177).integers(0, g.n // 3, g.n))
    step = graph_level.coarsen(level, size, place, labels.astype(np.int32), int(labels.max()) + 1)
    prolongation, below = pieces.coarsen(g, labels, np.stack(np.unravel_index(place, size), 1))
    compiled = graph_of_level(step.below)
    assert np.mean(compiled.cell == below.cell) > 0.97  # of equally heavy unknowns rounding decides
    difference = abs(compiled.matrix() - below.matrix())
    assert difference.max() <= 1e-12 * below.diag.max()
    begin, index, values = graph_level.compose_rows(level, step)
    composed = sp.csr_array((values, index, begin), shape=(level.n, step.below.n))
    assert abs(composed - prolongation).max() <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_fused_cycle_is_the_sparse_one(name, dimension, dtype):
    A = system(name, dimension)
    r = vector(A)
    expected = NeuralMultigrid(A, "pieces", dtype=torch.float64, kernels="reference") @ r
    found = NeuralMultigrid(A, "pieces", dtype=dtype) @ r
    tied = name in TIES or (dtype == torch.float32 and name in TIES_IN_FP32)
    assert tied or np.linalg.norm(found - expected) <= EXACT[dtype] * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["mazes", "lognormal", "white_image_130"])
def test_results_do_not_depend_on_threads(name):
    A = scene(name, (40, 30, 35), 1) if name in FAMILIES else field_case(name, (40, 30, 35), 1)
    r, found = vector(A), []
    for threads in (1, 2):
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads, before))
        try:
            found.append(NeuralMultigrid(A, "pieces") @ r)
        finally:
            numba.set_num_threads(before)
    assert np.array_equal(*found)


def test_threads_may_share_one_preconditioner():
    A = field_case("stretched_1.3", (16, 17, 18), 1)
    M, rows = NeuralMultigrid(A, "pieces"), np.random.default_rng(31_181).standard_normal((40, A.shape[0]))
    expected = [M @ r for r in rows]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda r: M @ r, rows))
    assert np.array_equal(expected, found)
    again = pickle.loads(pickle.dumps(M.fused))
    assert np.array_equal(again(np.ones_like(again.input)), M.fused(np.ones_like(again.input)))


def test_update_is_a_new_set_up_bit_for_bit():
    first, second = (field_case("layers_100", (12, 13, 14), seed) for seed in (1, 2))
    M = NeuralMultigrid(first, "pieces").update(second)
    r = vector(second)
    assert np.array_equal(M @ r, NeuralMultigrid(second, "pieces") @ r)


def test_gradients_and_batches_pass_through():
    kappa = torch.rand(12, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(31_183)) + 0.1
    kappa.requires_grad_(True)
    A = Poisson.from_coefficients(kappa)
    b = torch.ones(3, 12, 13, dtype=torch.float64)
    x, info = cg(A, b, M="pieces", rtol=1e-10)
    assert info == 0
    assert x.shape == b.shape
    y = solve(A, b[0], M="pieces")
    y.sum().backward()
    assert torch.isfinite(kappa.grad).all()
    assert torch.allclose(y.detach(), x[0], rtol=1e-7)


def test_work_and_memory_are_counted():
    A = scene("lognormal", (40, 40, 40), 1)
    M = NeuralMultigrid(A, "pieces")
    right_hand_side(A)
    assert 1.0 < M.fused.steps < 2.2
    assert M.fused.nbytes / 40**3 < 170
