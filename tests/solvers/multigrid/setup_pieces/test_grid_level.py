"""The finest level on its grid: partition, interpolation and first graph of the readable form."""

import numpy as np
import pytest
from krylearn.pde import FAMILIES, Poisson, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case
from krylearn.solvers.multigrid import pieces
from krylearn.solvers.multigrid.coarsening import balanced_factors
from krylearn.solvers.multigrid.setup_pieces import grid_level
from krylearn.solvers.multigrid.setup_pieces.build import graph_of_level

SHAPES = {2: (19, 22), 3: (11, 8, 9)}
TIES = ("blocks", "channels", "cut_cells")  # which are decided differently if sums are taken in another order
CASES = [*FAMILIES, *FIELD_CASES]


def system(name, dimension, seed=31_153):
    return scene(name, SHAPES[dimension], seed) if name in FAMILIES else field_case(name, SHAPES[dimension], seed)


def around(shape, seed=31_319):
    """Draw a medium on a box that is periodic along every axis."""
    kappa = np.exp(np.random.default_rng(seed).standard_normal(shape))
    return Poisson.from_coefficients(kappa, boundary="periodic", shift=0.01)


def compare_coarse_levels(A, labels, dtype=np.float64, near=1e-12):
    g, cells = pieces.graph_of(A)
    finest = grid_level.finest_conductances(A, 1.0)
    factors = balanced_factors(grid_level.link_means(finest), finest.size)
    piece = np.full(finest.diag.size, -1, np.int32)
    piece[cells] = labels
    transfer, level, total = grid_level.coarsen_grid(finest, factors, piece, int(labels.max()) + 1, dtype)
    assert total.size == level.n
    expected, below = pieces.coarsen(g, labels, g.cell // np.array(factors))
    compiled = graph_of_level(level)
    assert (compiled.n, compiled.w.size) == (below.n, below.w.size)
    assert np.mean(compiled.cell == below.cell) > 0.97  # of equally heavy unknowns rounding decides
    assert abs(compiled.matrix() - below.matrix()).max() <= near * below.diag.max()
    columns = []
    for k in range(level.n):
        unit, x, work = np.zeros(level.n + 1, dtype), np.zeros(finest.size, dtype), np.empty(finest.size, dtype)
        unit[k] = 1
        transfer.prolong_add(unit, work, x)
        columns.append(x.ravel()[cells])
    rounding = 0 if dtype == np.float64 else 6 / 65535
    assert abs(np.stack(columns, 1) - expected).max() <= near + rounding


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_partition_is_the_readable_one(name, dimension):
    A = system(name, dimension)
    g, cells = pieces.graph_of(A)
    finest = grid_level.finest_conductances(A, 1.0)
    factors = pieces.find_factors(g)
    block = pieces.find_blocks(g.cell, factors)[1]
    for merge in (pieces.MERGE, 0.0):
        found, count = grid_level.partition_grid(finest, factors, merge)
        assert count == found.max() + 1
        assert (found[finest.diag.ravel() == 0] == -1).all()
        assert np.mean(found[cells] == pieces.find_pieces(g, block, merge)) >= (0.9 if name in TIES else 1.0)


@pytest.mark.parametrize("name", ["lognormal", "neumann", "periodic", "layers_100", "ocean", "white_image_30", "mazes"])
def test_coarse_operator_is_the_readable_one_for_any_partition(name):
    A = system(name, 3)
    n = pieces.graph_of(A)[0].n
    compare_coarse_levels(A, pieces.renumber(np.random.default_rng(31_177).integers(0, n // 3, n)))


@pytest.mark.parametrize("shape", [(6, 5, 4), (2, 5, 4), (5, 2, 3), (4, 3, 2), (7, 5), (2, 6), (3, 1, 4)])
def test_axes_wrap_and_axes_of_two_cells_have_two_links(shape):
    A = around(shape)
    g = pieces.graph_of(A)[0]
    compare_coarse_levels(A, pieces.renumber(np.random.default_rng(31_321).integers(0, g.n // 3, g.n)))
    finest = grid_level.finest_conductances(A, 1.0)
    assert np.allclose(finest.diag.ravel(), g.diag, rtol=1e-14)
    factors = pieces.find_factors(g)
    found, _ = grid_level.partition_grid(finest, factors, pieces.MERGE)
    assert (found == pieces.find_pieces(g, pieces.find_blocks(g.cell, factors)[1])).all()


def test_single_precision_keeps_what_single_precision_can():
    A = system("lognormal", 3)
    n = pieces.graph_of(A)[0].n
    labels = pieces.renumber(np.random.default_rng(31_327).integers(0, n // 3, n))
    compare_coarse_levels(A, labels, np.float32, 1e-5)
