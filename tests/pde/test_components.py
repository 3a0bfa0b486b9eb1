"""The compiled labelling is the readable one, run for run and component for component."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from krylearn.pde import Poisson, components, nullspace
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
    (runs, of_run), (wanted, of_wanted) = components.label(*maze), nullspace.label(*maze)
    assert np.array_equal(runs, wanted)
    pairs = set(zip(of_run.tolist(), of_wanted.tolist(), strict=True))
    assert len(pairs) == len(set(of_run.tolist())) == len(set(of_wanted.tolist()))  # one to one
    assert set(of_run.tolist()) == set(range(len(pairs)))


@FEW
@given(problems(), st.integers(0, 2**32))
def test_the_same_components_are_earthed(problem, seed):
    A = Poisson.from_coefficients(**problem)
    rng = np.random.default_rng(seed)
    extras = [np.where(rng.random(A.diag.shape) < 0.2, rng.choice([1e-20, 1.0]), 0) * A.unknown.numpy() for _ in "1234"]
    runs, of_run = nullspace.label(A.unknown.numpy(), [w.numpy() for w in A.links], A.periodic)
    count = int(of_run.max(initial=-1)) + 1
    singular, doubtful = components.earthed(extras, 1e-15, runs, of_run, count)
    wanted, wanted_doubt = nullspace.earthed(extras, 1e-15, runs, of_run, count)
    assert np.array_equal(singular, wanted)
    assert doubtful == wanted_doubt


def test_large_grids_take_the_compiled_path(monkeypatch):
    cells = (np.random.default_rng(5).random((12, 13, 14)) < 0.6).astype(int)
    small = Poisson.from_cells(cells).nullspace
    monkeypatch.setattr(nullspace, "SMALL", 0)
    large = Poisson.from_cells(cells).nullspace
    assert large.dimension == small.dimension > 1
    x = Poisson.from_cells(cells).to_grid(np.random.default_rng(6).standard_normal(cells.size))
    np.testing.assert_allclose(large.project(x), small.project(x), atol=1e-12)
