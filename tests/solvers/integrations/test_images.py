"""Packages for images: their own function and ours give the same answer. They run where the package is installed."""

import contextlib
import io

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("default")

RNG = np.random.default_rng(34031)


# --- scikit-image -----------------------------------------------------------------------------------------------------
def disks(shape, seed=34033, noise=0.35):
    rng = np.random.default_rng(seed)
    at = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = (sum(x * x for x in at) < 0.4) + noise * rng.standard_normal(shape)
    labels = np.zeros(shape, dtype=np.int32)
    centre = tuple(n // 2 for n in shape)
    labels[centre], labels[(0,) * len(shape)] = 2, 1
    return image, labels


ISOLATED = [[1, 0, -1, 0], [2, 0, -1, 0], [0, 0, -1, -1], [-1, -1, -1, 3]]


def masked():
    image, labels = disks((30, 33))
    return image, np.where((RNG.random((30, 33)) < 0.1) & (labels == 0), -1, labels), {}


WALKS = {
    "2d": lambda: (*disks((30, 33)), {}),
    "3d": lambda: (*disks((12, 13, 14)), {}),
    "beta": lambda: (*disks((30, 33)), {"beta": 400}),
    "spacing": lambda: (*disks((12, 13, 14)), {"spacing": (1.0, 2.0, 0.5)}),
    "masked": masked,
    "gaps": lambda: (disks((30, 33))[0], 3 * disks((30, 33))[1] + (np.arange(33) == 32) * 11, {}),
    "channels": lambda: (np.stack([disks((30, 33), s)[0] for s in (1, 2, 3)]), disks((30, 33))[1], {"channel_axis": 0}),
    "dense": lambda: (disks((30, 33))[0], np.where(RNG.random((30, 33)) < 0.3, 1 + (disks((30, 33))[0] > 0.5), 0), {}),
    "bytes": lambda: ((255 * np.clip(disks((30, 33))[0], 0, 1)).astype(np.uint8), disks((30, 33))[1], {}),
    "isolated": lambda: (disks((8, 8))[0], np.kron(ISOLATED, np.ones((2, 2), int)), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WALKS))
def test_random_walker(name):
    segmentation = pytest.importorskip("skimage.segmentation", reason="scikit-image is not installed")
    from krylearn.solvers.integrations.skimage import random_walker

    data, labels, options = WALKS[name]()
    theirs = segmentation.random_walker(data, labels, mode="bf", return_full_prob=True, **options)
    ours = random_walker(data, labels, tol=1e-12, return_full_prob=True, **options)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=5e-4 if name == "beta" else 2e-6)  # weights of 1e-10: ill conditioned
    decided = np.sort(theirs, axis=0)[-1] - np.sort(theirs, axis=0)[-2] > 1e-4
    segmented = random_walker(data, labels, tol=1e-10, **options)
    np.testing.assert_array_equal(
        segmented[decided], segmentation.random_walker(data, labels, mode="bf", **options)[decided]
    )
    assert segmented.dtype == labels.dtype


def test_random_walker_at_its_own_tolerance_gives_the_same_labels():
    segmentation = pytest.importorskip("skimage.segmentation", reason="scikit-image is not installed")
    from krylearn.solvers.integrations.skimage import random_walker

    data, labels = disks((24, 24, 24))
    theirs = segmentation.random_walker(data, labels, mode="bf")
    assert (random_walker(data, labels) != theirs).mean() < 1e-3


def test_random_walker_without_unlabelled_pixels_warns():
    pytest.importorskip("skimage.segmentation", reason="scikit-image is not installed")
    from krylearn.solvers.integrations.skimage import random_walker

    with pytest.warns(UserWarning, match="without 0"):
        assert (random_walker(np.eye(3), np.ones((3, 3), int)) == 1).all()
    with pytest.raises(ValueError, match="without a seed"):
        random_walker(np.eye(3), np.zeros((3, 3), int))


@pytest.mark.parametrize("shape", [(14, 17), (9, 8, 10)])
@pytest.mark.parametrize("dense", [False, True])
def test_the_diagonal_finds_the_probabilities_that_multigrid_does(shape, dense, monkeypatch):
    from krylearn.solvers.integrations import skimage

    image, labels = disks(shape)
    number = np.where(RNG.random(shape) < (0.3 if dense else 0.02), RNG.integers(1, 4, shape), labels)
    number[:, 3] = -1  # a wall, and what lies behind it may be without a seed
    reached = skimage._reached(number)
    given = (image[..., None], number, reached, 3, 130, None, 1e-9, False)
    by_diagonal = skimage._probabilities(*given)
    monkeypatch.setattr(skimage, "choose_steps", lambda cells, grounded: 0)
    np.testing.assert_allclose(by_diagonal, skimage._probabilities(*given), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_labels_are_numbered_in_ascending_order(dtype):
    from krylearn.solvers.integrations.skimage import _numbered

    seeds = np.array([[127, 0], [3, 5]], dtype=dtype)
    if np.issubdtype(dtype, np.signedinteger):
        seeds[1, 1] = -128
    far = np.where(seeds == 127, 2**40, seeds.astype(np.int64))
    for each in (seeds, far):
        number = _numbered(each)[1]
        assert number[0].tolist() == [len(set(each[each > 0].tolist())), 0]
        assert number[1, 0] == 1
        assert (number[1, 1] < 0) == (each[1, 1] < 0)


# --- TauFactor and PoreSpy --------------------------------------------------------------------------------------------
def porous(shape, seed=34039):
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return noise > np.quantile(noise, 0.4)


@pytest.mark.parametrize("axis", [0, 2])
def test_taufactor(axis):
    tau = pytest.importorskip("taufactor", reason="TauFactor is not installed")
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    image = porous((30, 28, 26))
    found = effective_diffusivity(image, axis, ftol=1e-6)
    solver = tau.Solver(np.moveaxis(image, axis, 0).astype(int), device="cpu")
    with contextlib.redirect_stdout(io.StringIO()):
        solver.solve(conv_crit=1e-4, iter_limit=20000)
    assert found.converged
    assert found.tau == pytest.approx(float(np.ravel(solver.tau)[0]), rel=2e-3)
    assert found.D_eff == pytest.approx(float(np.ravel(solver.D_eff)[0]), rel=2e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_porespy(axis):
    pytest.importorskip("porespy", reason="PoreSpy is not installed")
    import porespy
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    image = porous((20, 22, 18))
    theirs = porespy.simulations.tortuosity_fd(image, axis, ftol=1e-6)
    found = effective_diffusivity(image, axis, at="cells", ftol=1e-6)
    assert found.tau_percolating == pytest.approx(theirs.tortuosity, rel=1e-5)
    assert found.D_eff == pytest.approx(1 / theirs.formation_factor, rel=1e-5)


@pytest.mark.parametrize("at", ["faces", "cells"])
@pytest.mark.parametrize("ftol", [0.3, 0.1, 1e-2, 1e-3])
def test_the_dissipation_is_right_to_the_square_of_the_mismatch(at, ftol):
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    image = porous((40, 24, 26))
    right, found = (effective_diffusivity(image, at=at, ftol=tol) for tol in (1e-9, ftol))
    assert found.converged
    excess = found.D_eff / right.D_eff - 1
    assert -1e-7 < excess < found.mismatch**2 + 1e-7  # Dirichlet's principle: never too little


@pytest.mark.parametrize("shape", [(2, 3, 3), (1, 3, 3), (5, 3), (7, 1, 1)])
def test_open_images_conduct_as_they_are_long(shape):
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    found = effective_diffusivity(np.ones(shape, dtype=bool))
    assert (found.D_eff, found.tau) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found.converged


def test_layers_in_series_and_in_parallel():
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    layers = np.repeat([1, 2, 3, 2], 3)[:, None, None] * np.ones((12, 4, 5), dtype=int)
    conductivity = {1: 1.0, 2: 10.0, 3: 0.1}
    kappa = np.vectorize(conductivity.get)(layers[:, 0, 0])
    assert effective_diffusivity(layers, 0, conductivity, ftol=1e-9).D_eff == pytest.approx(1 / (1 / kappa).mean())
    assert effective_diffusivity(layers, 1, conductivity, ftol=1e-9).D_eff == pytest.approx(kappa.mean())
    nothing = effective_diffusivity(layers, 0, {1: 1.0})
    assert (nothing.D_eff, nothing.tau) == (0.0, np.inf)


@pytest.mark.parametrize(("at", "ftol"), [("cells", 1e-4), ("cells", 1e-8), ("faces", 0.0), ("faces", 1e-11)])
def test_equal_flow_through_all_layers_does_not_pass_for_a_solution(at, ftol):
    from krylearn.solvers.integrations.taufactor import effective_diffusivity

    image = np.zeros((12, 16), bool)
    for i in range(12):  # inclined: the straight profile has equal flows through all layers
        image[i, i : i + 3] = True
    exact = effective_diffusivity(image, 0, at=at, ftol=1e-6)
    found = effective_diffusivity(image, 0, at=at, ftol=ftol)
    assert found.iterations > 0
    assert found.D_eff == pytest.approx(exact.D_eff, rel=1e-4)
    assert found.D_eff < 0.1
