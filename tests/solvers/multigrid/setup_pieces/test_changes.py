"""An update of pieces computes what has changed and gives the bits of a new set-up, whatever changes."""

import numpy as np
import pytest
import torch
from krylearn.pde import FAMILIES, Cell, Poisson, scene
from krylearn.pde.scenes.field_cases import field_case
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.multigrid.setup_pieces import changes
from krylearn.solvers.multigrid.setup_pieces.grid_level import Finest, first_level

SHAPES = [(20, 22, 18), (40, 38), (9, 2, 17)]


@pytest.fixture
def always_in_windows(monkeypatch):
    """Compute in windows however much has changed: on small grids nearly all rows lie near a change."""
    monkeypatch.setattr(changes, "MOST", 2.0)


def fused_arrays(M):
    cycle = M.fused
    large = [v for stage in cycle.large for v in stage.arrays]
    return [*cycle.top.arrays, *large, *cycle.small.arrays, cycle.small.plan]


def assert_same_bits(M, A, **wanted):
    fresh = NeuralMultigrid(A, "pieces", **wanted)
    found, expected = fused_arrays(M), fused_arrays(fresh)
    assert len(found) == len(expected)
    assert all(np.array_equal(u, v) for u, v in zip(found, expected, strict=True))
    r = np.random.default_rng(31_411).standard_normal(A.shape[0])
    assert np.array_equal(M @ r, fresh @ r)


def medium(rng, shape):
    """Draw conductances of many decades, so that pieces have every shape."""
    return np.exp(rng.choice([0.5, 2.0, 5.0]) * rng.standard_normal(shape))


def change(rng, kappa):
    """Change a cell, a box, a plane, all or nothing; some to a wall."""
    kappa, kind = kappa.copy(), rng.integers(6)
    low = [int(rng.integers(n)) for n in kappa.shape]
    if kind == 0:
        kappa[tuple(low)] = np.exp(3 * rng.standard_normal())
    elif kind in (1, 2):
        box = tuple(slice(a, a + 4) for a in low)
        kappa[box] = 0 if kind == 2 else medium(rng, kappa[box].shape)
    elif kind == 3:
        kappa[low[0]] *= 1e3
    elif kind == 4:
        kappa = medium(rng, kappa.shape)
    return kappa


@pytest.mark.usefixtures("always_in_windows")
@pytest.mark.parametrize("dtype", [None, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("boundary", ["dirichlet", "neumann", "periodic"])
def test_any_change_of_a_medium_gives_the_bits_of_a_new_set_up(shape, boundary, dtype):
    rng = np.random.default_rng(31_413)
    shift = 0.01 if boundary == "periodic" else None
    kappa = medium(rng, shape)
    M = NeuralMultigrid(Poisson.from_coefficients(kappa, boundary=boundary, shift=shift), "pieces", dtype=dtype)
    for _ in range(12):
        kappa = change(rng, kappa)
        A = Poisson.from_coefficients(kappa, boundary=boundary, shift=shift)
        assert_same_bits(M.update(A), A, dtype=dtype)


@pytest.mark.usefixtures("always_in_windows")
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_moving_obstacles_give_the_bits_of_a_new_set_up(shape):
    M = None
    for step in range(6):
        cells = np.where(np.random.default_rng(31_419).random(shape) < 0.7, Cell.FLUID, Cell.SOLID)
        cells[tuple(slice(step + 2, step + 6) for _ in shape)] = Cell.SOLID
        A = Poisson.from_cells(cells.astype(np.uint8))
        M = NeuralMultigrid(A, "pieces") if M is None else M.update(A)
        assert_same_bits(M, A)


@pytest.mark.usefixtures("always_in_windows")
@pytest.mark.parametrize("name", ["mazes", "channels", "layers_100", "white_image_130", "ocean", "reservoir"])
def test_from_one_system_to_another_and_back(name):
    shape = (24, 20, 22)
    systems = [scene(name, shape, s) if name in FAMILIES else field_case(name, shape, s) for s in (1, 2, 1, 1)]
    M = NeuralMultigrid(systems[0], "pieces")
    for A in systems:
        assert_same_bits(M.update(A), A)


def test_a_local_change_visits_few_rows(monkeypatch):
    kappa = medium(np.random.default_rng(31_421), (64, 64, 16))
    M = NeuralMultigrid(Poisson.from_coefficients(kappa), "pieces")
    M.update(Poisson.from_coefficients(kappa))
    windows, find = [], changes.Past.window
    monkeypatch.setattr(changes.Past, "window", lambda *a: windows.append(find(*a)) or windows[-1])
    kappa[30:32, 30:32, 5] = 7.0
    A = Poisson.from_coefficients(kappa)
    assert_same_bits(M.update(A), A)
    assert windows[0].ties.size < 0.4 * 64**2
    assert windows[0].pieces.mean() < 0.2


def test_a_failed_set_up_leaves_nothing(monkeypatch):
    kappa = medium(np.random.default_rng(31_423), (20, 18, 16))
    A = Poisson.from_coefficients(kappa)
    M = NeuralMultigrid(A, "pieces").update(A).update(A)
    kappa[3, 4, 5] = 100.0
    changed = Poisson.from_coefficients(kappa)
    with monkeypatch.context() as patch:
        patch.setattr(changes.Past, "window", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            M.update(changed)
    assert_same_bits(M.update(changed), changed)


def half_random_walls(left, right):
    """The finest level of (8, 4, 4): conductances of 1/2 to 2, and walls, in each half from its seed."""
    links = np.ones((3, 8, 4, 4))
    for half, seed in ((slice(0, 4), left), (slice(4, 8), right)):
        rng = np.random.default_rng(seed)
        links[:, half] = rng.uniform(0.5, 2, (3, 4, 4, 4)) * (rng.random((3, 4, 4, 4)) < 0.6)
    for d in range(3):
        np.moveaxis(links[d], d, 0)[-1] = 0
    diag = sum(links[d] + np.roll(links[d], 1, d) for d in range(3))
    none = np.zeros((8, 4, 4))
    return Finest(links, (none, none, none), none, diag, np.zeros(3, bool), False)


def test_clusters_merged_harder_miss_no_change_while_they_are_not_asked_for():
    past, always, never = changes.Past(), 0.0, 2.0
    for system, shrinks in ((half_random_walls(1, 2), always), (half_random_walls(1, 3), never)):
        first_level(system, shrinks, np.float64, past)
    last = half_random_walls(4, 3)
    found = first_level(last, always, np.float64, past)
    for one, other in zip(found, first_level(last, always, np.float64), strict=True):
        for name, value in getattr(one, "__dict__", {"totals": one}).items():
            np.testing.assert_array_equal(value, getattr(other, name, other))
