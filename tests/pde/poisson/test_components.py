"""The compiled labelling is the readable one, run for run and component for component."""

import numpy as np
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from krylearn.pde.poisson import components, nullspace
from naive_poisson import problems

FEW = settings(deadline=None, max_examples=100)


@st.composite
def mazes(draw):
    """Unknowns, links and wraps of small grids at random densities."""
    shape = tuple(draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    periodic = tuple(draw(st.booleans()) for _ in range(3))
    unknown = rng.random(shape) < rng.random()
    links = []
    for d, wraps in enumerate(periodic):
        w = (unknown & np.roll(unknown, -1, d) & (rng.random(shape) < rng.random())).astype(float)
        if not wraps or shape[d] == 1:
            w[tuple(slice(-1, None) if axis == d else slice(None) for axis in range(3))] = 0
        links.append(w)
    return unknown, links, periodic


@FEW
@given(mazes())
def test_runs_and_components_are_those_of_the_readable_form(maze):
    found, (wanted, of_wanted) = components.label_runs_compiled(*maze), nullspace.label_runs(*maze)
    of_run = found.of_run
    assert np.array_equal(found.of_cells(), wanted)
    pairs = set(zip(of_run.tolist(), of_wanted.tolist(), strict=True))
    assert len(pairs) == len(set(of_run.tolist())) == len(set(of_wanted.tolist()))  # one to one
    assert set(of_run.tolist()) == set(range(len(pairs)))


@FEW
@given(problems(), st.integers(0, 2**32))
def test_the_same_components_are_grounded(problem, seed):
    A = Poisson.from_coefficients(**problem)
    rng = np.random.default_rng(seed)
    extras = [np.where(rng.random(A.diag.shape) < 0.2, rng.choice([1e-20, 1.0]), 0) * A.unknown.numpy() for _ in "1234"]
    runs = components.label_runs_compiled(A.unknown.numpy(), [w.numpy() for w in A.links], A.periodic)
    count, component = int(runs.of_run.max(initial=-1)) + 1, np.append(runs.of_run, -1)[runs.of_cells()]
    singular, doubtful = components.find_ungrounded_compiled(extras, 1e-15, runs)
    wanted, _ = nullspace.find_ungrounded(extras, 1e-15, runs.of_cells(), runs.of_run, count)
    assert np.array_equal(singular, wanted)
    if not doubtful:  # then those that are left have nothing at all
        assert not any((g[np.isin(component, np.flatnonzero(singular))] > 0).any() for g in extras)


@FEW
@given(st.integers(0, 2**32))
def test_components_of_voxels_are_those_of_their_conductances(seed):
    rng = np.random.default_rng(seed)
    cells = rng.choice(3, tuple(rng.integers(1, 6, 3)), p=rng.dirichlet([2, 4, 0.5]))
    cells.flat[0] = 1
    kinds = [["neumann", "dirichlet", "periodic"][k] for k in rng.choice(3, 3, p=[0.7, 0.1, 0.2])]
    A = Poisson.from_cells(cells, boundary=dict(zip("xyz", kinds, strict=True)))
    found = nullspace._find_in_cells_compiled(A.voxels, A.unknown.numpy(), A.periodic)
    small = nullspace._find_in_cells(A.voxels, A.unknown.numpy(), A.periodic)
    arrays = Poisson(A.grid_shape, A.spacing, A.boundary, A.unknown, A.voxels.conductances()).nullspace
    for each in (found, small):
        assert np.array_equal(each.of_cells(), small.runs)
        singular = {k for k in range(len(each.singular)) if each.singular[k]}
        of_cell = np.append(each.of_run, -1)[each.of_cells()]
        assert np.array_equal(np.isin(of_cell, list(singular)), np.isin(arrays.labels, arrays.singular))


@FEW
@given(st.integers(0, 2**32), st.sampled_from([np.float32, np.float64]))
def test_means_are_those_of_the_readable_form(seed, dtype):
    rng = np.random.default_rng(seed)
    cells = rng.choice(3, tuple(rng.integers(1, 6, 3)), p=rng.dirichlet([2, 4, 0.2]))
    cells.flat[0] = 1
    A = Poisson.from_cells(cells)
    found = nullspace._find_in_cells_compiled(A.voxels, A.unknown.numpy(), A.periodic)
    g = A.to_grid(rng.standard_normal(cells.shape).astype(dtype))
    out = components.subtract_component_means(g.numpy(), found.runs, found.singular)
    assert out.dtype == dtype
    np.testing.assert_allclose(out, A.nullspace.project(g), atol=1e-6 if dtype == np.float32 else 1e-14)


def test_large_grids_take_the_compiled_path(monkeypatch):
    cells = (np.random.default_rng(5).random((12, 13, 14)) < 0.6).astype(int)
    small = Poisson.from_cells(cells).nullspace
    monkeypatch.setattr(nullspace, "SMALL", 0)
    large = Poisson.from_cells(cells).nullspace
    assert large.dimension == small.dimension > 1
    x = Poisson.from_cells(cells).to_grid(np.random.default_rng(6).standard_normal(cells.size))
    np.testing.assert_allclose(large.project(x), small.project(x), atol=1e-12)
