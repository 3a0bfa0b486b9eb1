"""NPSDO's operator: its size, that it is linear, that the tied variant is symmetric positive definite."""

import json

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import NPSDO, NPSDONetwork, cg, dcdm
from krylearn.solvers.multigrid.weight_files import card_of
from krylearn.solvers.published.npsdo_method import load_npsdo, save_npsdo
from krylearn.solvers.published.npsdo_network import apply_stencil, geometry_image, mean_patch, transposed
from krylearn.solvers.published.npsdo_training import residual_loss, train_npsdo
from torch.utils.flop_counter import FlopCounterMode


def random_network(seed=70_301, levels=2, **options):
    """Weights far from the initial ones."""
    rng = torch.Generator().manual_seed(seed)
    network = NPSDONetwork(levels, **options)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    return network


@pytest.mark.parametrize(("levels", "parameters"), [(3, 15_990), (4, 20_582), (5, 25_174)])
def test_published_size(levels, parameters):
    assert sum(p.numel() for p in NPSDONetwork(levels).parameters()) == parameters


def test_published_work_per_cell():
    """5,061 multiply-adds per cell: convolutions counted by running them, and 27 for each stencil."""
    network, n = NPSDONetwork(4), 32
    A = Poisson.from_cells(np.ones((n, n, n)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        s = network.stencils(geometry_image(A))
    counted = counter.get_total_flops() / 2 - 2 * 4 * 81  # without the scalars' products, once per level
    stencils = sum(w.numel() for w in (*s.down, *s.up))
    fine_cells = n**3 * sum(8.0**-level * (2 if level < 4 else 1) for level in range(5))
    assert (counted + stencils) / n**3 == pytest.approx(5061, abs=2)  # 5,061 with levels without end
    assert counted + stencils == pytest.approx(2214 * fine_cells)


@pytest.fixture(scope="module", params=["neumann", "obstacles", "free_surface"])
def operator(request):
    return scene(request.param, (6, 5, 7), 1)  # sizes that 4 does not divide


@pytest.mark.parametrize("symmetric", [False, True])
def test_linear_in_the_residual(operator, symmetric):
    P = NPSDO(operator, random_network(symmetric=symmetric))
    rng = np.random.default_rng(70_303)
    u, v = rng.standard_normal((2, operator.shape[0])) * 1e6
    combined, apart = P @ (3 * u - 2 * v), 3 * (P @ u) - 2 * (P @ v)
    assert np.linalg.norm(combined - apart) < 1e-5 * np.linalg.norm(combined)
    np.testing.assert_allclose(P @ (1e-20 * u), 1e-20 * (P @ u), rtol=1e-4, atol=1e-24 * np.abs(P @ u).max())


def test_tied_variant_is_symmetric_positive_definite_for_any_weights(operator):
    P = NPSDO(operator, random_network(symmetric=True))
    unknown = operator.unknown.reshape(-1).numpy()
    dense = (P @ np.eye(operator.shape[0])[unknown])[:, unknown]
    assert abs(dense - dense.T).max() < 1e-5 * abs(dense).max()
    values = np.linalg.eigvalsh((dense + dense.T) / 2)
    assert values[0] > -1e-6 * values[-1]


def test_published_variant_is_not_symmetric(operator):
    P = NPSDO(operator, random_network())
    dense = P @ np.eye(operator.shape[0])
    assert abs(dense - dense.T).max() > 1e-2 * abs(dense).max()


@pytest.mark.parametrize("grid", [(4, 5), (3, 4, 5)])
def test_transposed_stencil_is_the_adjoint(grid):
    rng = torch.Generator().manual_seed(70_307)
    w = torch.randn(3 ** len(grid), *grid, generator=rng, dtype=torch.float64)
    u, v = torch.randn(2, 1, *grid, generator=rng, dtype=torch.float64)
    forward, backward = (v * apply_stencil(w, u)).sum(), (u * apply_stencil(transposed(w), v)).sum()
    torch.testing.assert_close(forward, backward)


def test_stencil_is_a_weighted_sum_over_neighbours():
    w, u = torch.rand(9, 4, 4), torch.rand(1, 4, 4)
    expected = sum(w[3 * (i + 1) + j + 1, 1, 2] * u[0, 1 + i, 2 + j] for i in (-1, 0, 1) for j in (-1, 0, 1))
    torch.testing.assert_close(apply_stencil(w, u)[0, 1, 2], expected)


def test_constant_stencil_is_a_convolution():
    kernel, u = torch.rand(27), torch.rand(2, 5, 4, 6)
    expected = torch.nn.functional.conv3d(u.unsqueeze(1), kernel.view(1, 1, 3, 3, 3), padding=1).squeeze(1)
    torch.testing.assert_close(apply_stencil(kernel.view(27, 1, 1, 1).expand(27, 5, 4, 6), u), expected)


def test_image_has_air_fluid_and_not_solid():
    A = Poisson.from_cells(np.array([[1, 1, 2], [1, 0, 1]]))
    image = geometry_image(A, 4)
    assert image.shape == (3, 4, 4)
    assert image[:, 0, 2].tolist() == [1, 0, 1]  # air
    assert image[:, 0, 0].tolist() == [0, 1, 1]  # fluid
    assert not image[:, 1, 1].any()  # solid
    assert not image[:, 2:].any()  # beyond the box
    assert mean_patch(image).shape == (27,)
    assert float(mean_patch(image)[4]) == pytest.approx(1 / 16)


def test_geometry_is_evaluated_once():
    network = random_network()
    A = scene("obstacles", (8, 8, 8), 0)
    P = NPSDO(A, network)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    assert (P @ np.ones(A.shape[0])).any()
    assert P.memory == 4 * 27 * sum(512 // 8**level * (2 if level < 2 else 1) for level in range(3))


def test_what_was_saved_comes_back(tmp_path):
    network = random_network(levels=3, dimension=2, symmetric=True)
    loaded = load_npsdo(save_npsdo(network, tmp_path / "mine", {}))
    assert (loaded.levels, loaded.dimension, loaded.symmetric) == (3, 2, True)
    image, r = torch.rand(3, 8, 8), torch.rand(1, 8, 8)
    assert torch.equal(loaded(loaded.stencils(image), r), network(network.stencils(image), r))


def test_what_does_not_fit_is_refused():
    A = scene("neumann", (8, 8), 0)
    with pytest.raises(ValueError, match="expected the same"):
        NPSDO(A, random_network())
    with pytest.raises(TypeError, match="expected None, a path or an NPSDONetwork"):
        NPSDO(A, torch.nn.Identity())
    with pytest.raises(TypeError, match=r"expected krylearn.pde.Poisson"):
        NPSDO(np.eye(3))
    with pytest.raises(ValueError, match="expected 1 or more"):
        NPSDONetwork(0)


# --- training ---------------------------------------------------------------------------------------------------------


def test_loss_wants_the_scale_right_too():
    A = Poisson.from_coefficients(np.ones((5, 5)))
    z = torch.rand(2, 5, 1, 5, dtype=torch.float64)
    r = A.apply(z)
    assert float(residual_loss(A, r, z)) == 0
    assert float(residual_loss(A, r, 0 * z)) == pytest.approx(float(r.flatten(1).norm(dim=1).mean()))
    assert float(residual_loss(A, r, 2 * z)) == pytest.approx(float(r.flatten(1).norm(dim=1).mean()))


@pytest.mark.parametrize("symmetric", [False, True])
def test_training_helps_on_a_scene_never_seen(tmp_path, symmetric):
    facts = {"grid": 16, "levels": 3, "scenes": 1, "ritz_vectors": 60, "right_hand_sides": 64, "passes": 1}
    path = train_npsdo(2, steps=100, lr=3e-3, symmetric=symmetric, output=tmp_path, progress=False, **facts)
    assert path.stem == ("npsdo-2d-symmetric" if symmetric else "npsdo-2d")
    assert json.loads(path.with_suffix(".json").read_text())["families"] == ["neumann", "obstacles", "free_surface"]
    A = scene("obstacles", (16, 16), 7)
    b = right_hand_side(A, "white", 7)
    solve = (lambda P: cg(A, b, M=P, rtol=1e-6)) if symmetric else (lambda P: dcdm(A, b, P, rtol=1e-6))
    _x, info = solve(NPSDO(A, path))
    assert info == 0
    assert not info.notes
    assert info.iterations < cg(A, b, M="none", rtol=1e-6)[1].iterations


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected names out of"):
        train_npsdo(2, families=["caves"], output=tmp_path)


# --- shipped weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
def test_shipped_weights_beat_plain_cg_on_scenes_never_seen(symmetric):
    for family in ("neumann", "obstacles"):
        A = scene(family, (24, 20, 28), 13)
        b = right_hand_side(A, "white", 13)
        P = NPSDO(A, symmetric=symmetric)
        info = (cg(A, b, M=P, rtol=1e-4) if symmetric else dcdm(A, b, P, rtol=1e-4, maxiter=200))[1]
        assert info == 0
        assert not info.notes
        assert info.iterations < cg(A, b, M="none", rtol=1e-4)[1].iterations / 2
    name = "npsdo-3d-symmetric-v1" if symmetric else "npsdo-3d-v1"
    assert card_of(name, "krylearn.solvers.published")["levels"] in (4, "4")
