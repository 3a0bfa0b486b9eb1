import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import FAMILIES, Cell, Poisson, right_hand_side, scene
from krylearn.pde.scenes.families import KINDS
from krylearn.pde.scenes.geometries import free_surface, porous
from krylearn.pde.scenes.mazes import maze
from krylearn.pde.scenes.media import lognormal, smooth_noise
from krylearn.pde.scenes.right_hand_sides import generator

HARD = {"thin_walls", "mazes", "porous", "lognormal", "inclusions", "blocks", "cellwise", "channels", "anisotropic"}
EASY = {"open_box", "obstacles", "free_surface", "neumann", "periodic"}
SIZES = st.one_of(
    st.tuples(*[st.sampled_from([4, 5, 7, 12, 13])] * 2), st.tuples(*[st.sampled_from([4, 5, 7, 8, 11])] * 3)
)


def same(A, other):
    pairs = [*zip(A.links, other.links, strict=True), *zip(A.ground, other.ground, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_manifest_names_every_family_once_and_describes_it():
    assert set(FAMILIES) == HARD | EASY
    for name, family in FAMILIES.items():
        assert family.name == name
        assert family.hard == (name in HARD)
        assert family.description.endswith(".")
    assert FAMILIES["free_surface"].parameters["spheres"] == 12


@pytest.mark.parametrize("family", FAMILIES)
@given(shape=SIZES, seed=st.integers(0, 99999), stream=st.sampled_from(["train", "test"]))
@settings(deadline=None, max_examples=12)
def test_every_scene_is_a_repeatable_operator_with_compatible_right_hand_sides(family, shape, seed, stream):
    A = scene(family, shape, seed, stream)
    assert A.grid_shape == shape
    assert A.unknowns >= 1
    assert all((w >= 0).all() and torch.isfinite(w).all() for w in (*A.links, *A.ground))
    assert same(A, scene(family, shape, seed, stream))
    for kind in KINDS:
        b = right_hand_side(A, kind, seed, stream)
        assert b.shape == shape
        assert b.dtype == torch.float64
        inner = b.reshape(A.unknown.shape)
        assert not inner[~A.unknown].any()
        torch.testing.assert_close(
            A.nullspace.project(inner), inner, rtol=0, atol=1e-12 * max(1.0, float(b.abs().max()))
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_train_and_test_streams_share_no_scene(family):
    seeds = range(8)
    train, test = ([scene(family, (9, 8, 10), s, stream) for s in seeds] for stream in ("train", "test"))
    if family == "open_box":  # has no random part: only its right-hand sides differ
        assert same(train[0], test[0])
    elif family == "anisotropic":  # the test stream has one ratio and three axes
        assert all(len({float(w.max()) for w in A.links}) == 2 for A in train)
        ratios = {max(float(w.max()) for w in A.links) / min(float(w.max()) for w in A.links) for A in test}
        assert max(abs(r - 10) for r in ratios) < 1e-9
        assert not any(same(A, B) for A in train for B in test)
    else:
        assert not any(same(A, B) for A in train for B in test)
    for kind in KINDS:
        bs = [right_hand_side(train[0], kind, s, stream) for s in seeds for stream in ("train", "test")]
        assert len({tuple(b.ravel().tolist()) for b in bs}) == len(bs)


def test_streams_share_no_draw_across_families_seeds_and_streams():
    draws = [generator(f, s, t).random(4) for f in FAMILIES for s in range(20) for t in ("train", "test")]
    assert len(np.unique(np.concatenate(draws))) == 4 * len(draws)


def test_singular_families_are_singular_and_drained_ones_are_not():
    assert scene("neumann", (12, 12, 12), 31415).nullspace.dimension >= 1
    assert scene("periodic", (12, 12, 12), 31415).nullspace.dimension >= 1
    for family in ("open_box", "mazes", "lognormal", "inclusions", "blocks", "cellwise", "channels", "anisotropic"):
        assert scene(family, (12, 12, 12), 31415).nullspace.dimension == 0, family


@pytest.mark.parametrize("shape", [(24, 24), (16, 16, 16)])
def test_a_scene_at_twice_the_resolution_is_the_same_scene(shape):
    fine = tuple(2 * n for n in shape)
    coarse_cells, fine_cells = (free_surface(s, np.random.default_rng(31415)) for s in (shape, fine))
    assert np.mean(fine_cells[(slice(None, None, 2),) * len(shape)] != coarse_cells) < 0.12  # only surfaces move
    coarse_log, fine_log = (np.log(lognormal(s, np.random.default_rng(31415), waves=3.0)) for s in (shape, fine))
    pooled = fine_log
    for axis in range(len(shape)):
        pooled = (np.take(pooled, range(0, fine[axis], 2), axis) + np.take(pooled, range(1, fine[axis], 2), axis)) / 2
    # the two grids sample the noise a quarter of a fine cell apart
    assert np.corrcoef(pooled.ravel(), coarse_log.ravel())[0, 1] > 0.9


def test_smooth_noise_is_real_gaussian_noise_of_unit_variance_on_odd_and_even_grids():
    for shape in [(31, 30), (17, 16, 15)]:
        f = smooth_noise(shape, np.random.default_rng(27182), 6.0)
        assert abs(f.mean()) < 1e-12
        assert abs(f.std() - 1) < 1e-12


def test_porous_media_have_the_solid_fraction_asked_for():
    for seed in range(31415, 31420):
        assert 0.29 < (porous((16, 16, 16), np.random.default_rng(seed)) == Cell.SOLID).mean() < 0.61


@pytest.mark.parametrize("shape", [(30, 30), (20, 18, 22), (12, 5, 9)])
def test_every_corridor_of_a_maze_leads_out(shape):
    for seed in range(31415, 31420):
        cells = maze(shape, np.random.default_rng(seed))
        assert (cells == Cell.OPEN).any()
        A = Poisson.from_cells(cells)
        assert A.nullspace.dimension == 0
        assert int(A.component_labels().max()) == 0  # one component: a spanning tree


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: scene("lakes", (8, 8), 1), "lakes.*expected one of open_box"),
        (lambda: scene("mazes", (8,), 1), "two or three axes of at least 4"),
        (lambda: scene("mazes", (8, 3), 1), "two or three axes of at least 4"),
        (lambda: scene("mazes", (8, 8), -1), "seed is -1"),
        (lambda: scene("mazes", (8, 8), 1, "validation"), "stream is 'validation'"),
        (lambda: right_hand_side(scene("open_box", (4, 4), 1), "pink"), "kind is 'pink'"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
