"""`NeuralMultigrid.update` visits what changed; nothing tells its result from a fresh set-up's."""

import copy

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson, scene
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.multigrid.setup_cpu import (
    grid as setup_grid,
    level as setup_level,
    voxels as setup_voxels,
)
from multigrid_cases import random_network

FEW = settings(deadline=None, max_examples=40)
CHANGES = ("nothing", "one cell", "box", "scattered", "everything", "all fluid", "boundary", "shift", "kind", "unit")


def arrays_of(M):
    """All numbers that the cycle reads."""
    return [np.asarray(v) for level in M.fused.levels for v in (*level.w, level.diag, level.sd, level.a)] + [
        M.fused.inverse
    ]


def assert_fresh(M, A, **options):
    wanted = NeuralMultigrid(A, **{"weights": "network", **options})
    assert M.levels == wanted.levels
    for x, y in zip(arrays_of(M), arrays_of(wanted), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()
    r = np.random.default_rng(5).standard_normal(A.shape[0])
    np.testing.assert_array_equal(M @ r, wanted @ r)  # work space kept from the system before does not show


class Scene:
    """Cells and coefficients that change at random."""

    def __init__(self, shape, rng):
        self.rng, self.shape = rng, shape
        self.cells, self.kappa = np.ones(shape, int), np.ones(shape)
        self.boundary, self.shift, self.kind, self.unit = "neumann", 0.0, "cells", 1.0

    def change(self, what):
        rng = self.rng
        where = tuple(slice(*sorted(rng.integers(0, n + 1, 2))) for n in self.shape)
        if what == "one cell":
            where = tuple(rng.integers(0, n) for n in self.shape)
        if what == "scattered":
            where = rng.random(self.shape) < 0.1
        if what in ("one cell", "box", "scattered"):
            self.cells[where] = rng.integers(0, 3)  # solid, fluid or open
            self.kappa[where] *= 3.0
        if what == "everything":
            self.cells, self.kappa = (rng.random(self.shape) < 0.8).astype(int), np.exp(rng.normal(size=self.shape))
        if what == "all fluid":
            self.cells[:], self.kappa[:] = 1, 1.0
        if what == "boundary":
            self.boundary = str(rng.choice(["neumann", "periodic", "dirichlet"]))
        if what == "shift":
            self.shift = float(rng.choice([0.0, 0.1, 1.0]))
        if what == "kind":
            self.kind = str(rng.choice(["cells", "medium", "both"]))
        if what == "unit":
            self.unit = float(rng.choice([1.0, 3.7, 8.0]))
        self.cells.flat[0] = 1

    def system(self):
        facts = {"boundary": self.boundary, "shift": self.shift}
        if self.kind == "cells":
            return Poisson.from_cells(self.cells, spacing=self.unit, **facts)
        cells = {"cells": self.cells} if self.kind == "both" else {}
        return Poisson.from_coefficients(self.kappa * self.unit, **cells, **facts)


@FEW
@given(st.integers(0, 2**32), st.integers(2, 3), st.lists(st.sampled_from(CHANGES), min_size=1, max_size=5))
def test_any_update_is_a_fresh_set_up_bit_for_bit(seed, dimension, changes):
    rng = np.random.default_rng(seed)
    scenery = Scene(tuple(rng.integers(3, 20 if dimension == 3 else 40, dimension)), rng)
    scenery.change(str(rng.choice(["all fluid", "everything"])))
    M = NeuralMultigrid(scenery.system(), "network")
    for what in changes:
        scenery.change(what)
        A = scenery.system()
        assert_fresh(M.update(A), A)


def ball(k, kind="cells"):
    """A ball that moves, or a warm one in a medium that varies."""
    x, y, z = np.ogrid[:36, :36, :36]
    inside = (x - 12 - k) ** 2 + (y - 17) ** 2 + (z - 18) ** 2 < 40
    if kind == "cells":
        cells = np.where(inside, 0, 1)
        cells[:, :, -1] = 2
        return Poisson.from_cells(cells)
    return Poisson.from_coefficients(np.exp(np.random.default_rng(3).normal(size=inside.shape)) * (1 + k * inside))


@pytest.mark.parametrize("kind", ["cells", "medium"])
def test_threads_do_not_show_in_an_update(kind):
    threads = numba.get_num_threads()
    results = []
    for n in {1, numba.config.NUMBA_NUM_THREADS}:
        numba.set_num_threads(n)
        M = NeuralMultigrid(ball(0, kind), "network")
        results.append([v.copy() for k in (1, 2, 3) for v in arrays_of(M.update(ball(k, kind)))])
    numba.set_num_threads(threads)
    for other in results[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kind", ["cells", "medium"])
def test_what_did_not_change_is_not_visited(kind):
    """One cell of 46,656 changes: its block and what reads it, on the finest level and below."""
    M = NeuralMultigrid(ball(0, kind), "network").update(ball(0, kind))
    before = ball(0, kind)
    faces = [np.zeros(tuple(36 + (d == e) for e in range(3))) for d in range(3)]
    for d, (w, f) in enumerate(zip(before.links, faces, strict=True)):
        f[tuple(slice(1, None) if e == d else slice(None) for e in range(3))] = w.numpy()
    faces[0][21, 17, 18] = 0 if kind == "cells" else faces[0][21, 17, 18] * 2
    extra = sum(g.numpy() for g in before.ground)
    one, other = (Poisson.from_faces(faces, extra=extra) for _ in range(2))
    M = NeuralMultigrid(one, "network").update(other)
    finest = M._kept[1]
    if kind == "cells":
        assert finest.blocks.changed.sum() == finest.cells.changed.sum() == 0
    M.update(Poisson.from_faces(changed(faces), extra=extra))
    assert 0 < finest.blocks.changed.sum() <= 27
    assert 0 < finest.cells.changed.sum() <= 125
    assert_fresh(M, M.A)


def changed(faces):
    """Close one face, far from the ball."""
    faces = [f.copy() for f in faces]
    faces[1][28, 6, 9] *= 0
    return faces


class Recycled:
    """NumPy, but fresh memory holds what an earlier set-up may have left there: numbers of blocks, anything else."""

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype):
        out = np.empty(shape, dtype)
        out.ravel()[:] = np.arange(out.size) if out.dtype.kind in "iu" else np.nan
        return out


@pytest.mark.parametrize("kind", ["cells", "medium"])
def test_what_is_in_fresh_memory_does_not_show(monkeypatch, kind):
    wanted = [NeuralMultigrid(ball(k, kind), "network") for k in range(4)]
    for module in (setup_level, setup_grid, setup_voxels):
        monkeypatch.setattr(module, "np", Recycled())
    M = NeuralMultigrid(ball(0, kind), "network")
    for k in (1, 2, 3):
        M.update(ball(k, kind))
        for x, y in zip(arrays_of(M), arrays_of(wanted[k]), strict=True):
            np.testing.assert_array_equal(x, y)


def test_block_hashes_change_only_where_cell_hashes_did():
    """An update that looks at ranges of rows finds the hashes of a look at everything."""
    M = NeuralMultigrid(ball(0), "network")
    for k in (1, 2, 5):
        history = M.update(ball(k))._kept[1].blocks
        np.testing.assert_array_equal(history.hashes, NeuralMultigrid(ball(k), "network")._kept[1].blocks.hashes)


def test_weights_that_were_trained_since_count():
    network = random_network(7)
    M = NeuralMultigrid(ball(0), network)
    with torch.no_grad():
        next(iter(network.parameters())).mul_(1.5)
    assert_fresh(M.update(ball(1)), ball(1), weights=network)


def test_an_interrupted_update_leaves_nothing_half_done(monkeypatch):
    M = NeuralMultigrid(ball(0), "network")
    find = setup_level.find_classical_hashes

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_level, "find_classical_hashes", stop)
    with pytest.raises(KeyboardInterrupt):
        M.update(ball(1))
    monkeypatch.setattr(setup_level, "find_classical_hashes", find)
    assert_fresh(M.update(ball(1)), ball(1))
    assert_fresh(M.update(ball(2)), ball(2))


def test_copies_do_not_share_what_an_update_changes():
    M = NeuralMultigrid(ball(0), "network")
    twin = copy.deepcopy(M)
    M.update(ball(3))
    assert_fresh(twin, ball(0))
    assert_fresh(M, ball(3))


def test_conductances_changed_by_hand_are_seen():
    """What an update compares with is its own, not the arrays of the operator before."""
    A = ball(0)
    M = NeuralMultigrid(A, "network")
    links = [w.clone() for w in A.links]
    links[0][20:24, 5:9, 5:9] = 0
    made = Poisson.from_faces(
        [np.concatenate([np.zeros_like(w.narrow(d, 0, 1)), w.numpy()], d) for d, w in enumerate(links)]
    )
    for w, v in zip(A.links, links, strict=True):
        w.copy_(v)  # behind the back of M
    assert_fresh(M.update(made), made)


@pytest.mark.parametrize("family", ["obstacles", "lognormal"])
def test_memory_stays_within_the_budget(family):
    """100 bytes per cell of cell type, 120 in general, with what is kept for the next update."""
    A = scene(family, (48, 48, 48), 39_119)
    M = NeuralMultigrid(A, "network").update(A)
    seen = {}

    def add(v):
        if isinstance(v, np.ndarray):
            root = v
            while isinstance(root.base, np.ndarray):
                root = root.base
            seen[id(root)] = root.nbytes
        elif isinstance(v, list | tuple):
            for part in v:
                add(part)
        elif hasattr(v, "__dict__") and type(v).__module__.startswith("krylearn.solvers"):
            add(list(vars(v).values()))

    add([M.fused, M._kept])
    assert sum(seen.values()) / A.diag.numel() <= (100 if family == "obstacles" else 120)
