"""Vectors in registers say what NumPy says, lane by lane, wherever the numbers lie in memory."""

import numpy as np
import pytest
from krylearn.pde import Poisson, scene
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.kernels.cpu import cell_bytes as voxel_codes
from krylearn.solvers.kernels.cpu.compile import strip_kernel
from krylearn.solvers.kernels.cpu.lanes import (
    WIDTH,
    any_positive,
    larger,
    load,
    nearest,
    root,
    smaller,
    splat,
    store,
    store_all,
    swapped,
    where_positive,
)  # fmt: skip
from krylearn.solvers.multigrid.setup_cpu import grid as setup_grid, level as setup_level, voxels as setup_voxels
from krylearn.solvers.multigrid.setup_cpu.perceptron import exponential, fourth_root, ratio
from krylearn.solvers.multigrid.warmup import compile_kernels

THREE = np.float32(3)


@strip_kernel
def formulas(start, stop, x, y, out):
    """Write every function of two vectors."""
    a, b = load(x, start), load(y, (0, stop))
    sums = (a + b, a - b, a * b, a / b, larger(a, b), smaller(a, THREE), root(a), nearest(a), swapped(a))
    store_all(out, (0, 0), sums)
    chosen = where_positive(a - THREE, a, splat(THREE))
    others = (chosen, exponential(a - b), ratio(fourth_root(a), fourth_root(b)), b * THREE)
    store_all(out, (1, 0), others)
    out[2, 0] = any_positive(a - a)
    out[2, 1] = any_positive(a)
    store(out, (2, WIDTH), THREE - a)


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_functions_are_those_of_numpy(offset):
    rng = np.random.default_rng(39_101)
    x, y = (rng.uniform(0.1, 9, 2 * WIDTH).astype(np.float32) for _ in range(2))
    out = np.full((3, 9 * WIDTH), np.nan, np.float32)
    formulas(offset, offset, x, y.reshape(1, -1), out)
    a, b = x[offset : offset + WIDTH], y[offset : offset + WIDTH]
    pairs = a.reshape(-1, 2)[:, ::-1].ravel()
    first = (a + b, a - b, a * b, a / b, np.maximum(a, b), np.minimum(a, 3), np.sqrt(a), np.rint(a), pairs)
    np.testing.assert_allclose(out[0].reshape(9, -1), first, rtol=3e-7, atol=1e-6)
    q, p = a.astype(float) ** 0.25, b.astype(float) ** 0.25
    second = (np.where(a > 3, a, 3), np.exp(a.astype(float) - b), q / (q + p), 3 * b)
    np.testing.assert_allclose(out[1, : 4 * WIDTH].reshape(4, -1), second, rtol=1e-6)
    assert (out[2, 0], out[2, 1]) == (0, 1)
    np.testing.assert_array_equal(out[2, WIDTH : 2 * WIDTH], np.float32(3) - a)
    assert np.isnan(out[2, 2 * WIDTH :]).all()  # nothing else was written


@pytest.mark.parametrize(
    ("family", "finest"),
    [
        (
            "obstacles",
            ["encode_voxel_rows", "find_differences", "hash_voxels", "fill_rows"],
        ),  # which hardly fills any rows
        ("lognormal", ["encode_rows", "scale_rows", "link_sums"]),  # the first gives up at once
    ],
)
def test_set_up_looks_once_at_the_finest_level(monkeypatch, family, finest):
    """Cells are read once to copy or to mark them, and one kernel does the rest."""
    for kind in ("voxels", "medium"):
        compile_kernels(kind)  # which sets up small systems
    calls, over_strips = [], setup_level.over_strips

    def counting(function, tasks, *arguments):
        calls.append((function.py_func.__name__, tasks))
        over_strips(function, tasks, *arguments)

    for module in (setup_level, setup_grid, setup_voxels, voxel_codes):
        monkeypatch.setattr(module, "over_strips", counting)
    NeuralMultigrid(scene(family, (26, 28, 30), 39_103))
    assert [name for name, tasks in calls if tasks == 26 * 28] == finest
    assert [name for name, tasks in calls if tasks == 13 * 14].count("fine_level") == 1  # a task is a row of blocks


def test_repeated_surroundings_are_found_wherever_they_are():
    """Two copies of a scene beside each other get the same weights, though evaluated and copied in another order."""
    A = scene("porous", (24, 24, 24), 39_107)
    links = [np.concatenate([w.numpy()] * 2, 1) for w in A.links]
    links[1][:, [23, 47]] = 0
    faces = [np.zeros((25, 48, 24)), np.zeros((24, 49, 24)), np.zeros((24, 48, 25))]
    for d, f in enumerate(faces):
        inside = [slice(None)] * 3
        inside[d] = slice(1, None)
        f[tuple(inside)] = links[d]
    v = NeuralMultigrid(Poisson.from_faces(faces), "network").fused.levels[0]
    for x in (v.sd, *v.a):
        np.testing.assert_array_equal(x[:, :22], x[:, 24:46])
