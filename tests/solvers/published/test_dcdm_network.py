"""The published network: its size and cost, what it sees, and `DCDM`, which binds it to an operator."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import DCDM, DCDMNetwork, cg, dcdm
from krylearn.solvers.multigrid.weight_files import card_of
from krylearn.solvers.published.dcdm_method import SHIPPED, load_network, save_network, shipped_network
from torch.utils.flop_counter import FlopCounterMode


def seeded(seed=70_001, **options):
    return DCDMNetwork(generator=torch.Generator().manual_seed(seed), **options)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "parameters", "work"), [(64, 97_457, 60_928), (128, 152_881, 92_032)])
def test_published_size_and_cost(size, parameters, work):
    network, grid = seeded(size=size), (8, 8, 8)
    assert sum(p.numel() for p in network.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.ones(1, *grid))
    assert counter.get_total_flops() == 2 * work * 8**3  # multiply-adds per cell, by running it


@pytest.mark.parametrize(("size", "radius"), [(64, 22), (128, 34)])
def test_receptive_field(size, radius):
    """As far as the published one: what happens farther away does not matter, what happens nearly there does."""
    network, n = seeded(size=size, dimension=2), 96
    r = torch.rand(1, n, n, requires_grad=True)
    network(r)[0, n // 2, n // 2].backward()
    rows = r.grad[0].abs().sum(1).nonzero().flatten() - n // 2
    assert int(rows.abs().max()) <= radius
    assert int(rows.abs().max()) >= radius - 3


def test_same_graph_in_2d():
    network = seeded(dimension=2)
    assert [tuple(c.weight.shape[2:]) for c in network.convolutions()][:-1] == [(3, 3)] * 15
    assert network(torch.ones(2, 10, 7)).shape == (2, 10, 7)


@pytest.mark.parametrize("grid", [(7, 8, 9), (5, 5, 5), (1, 4, 3)])
def test_odd_grids_are_padded_with_zeros(grid):
    network, r = seeded(), torch.rand(2, *grid)
    even = [n + n % 2 for n in grid]
    padded = torch.zeros(2, *even)
    padded[:, : grid[0], : grid[1], : grid[2]] = r
    expected = network(padded)[:, : grid[0], : grid[1], : grid[2]]
    torch.testing.assert_close(network(r), expected)


def test_initial_weights_are_those_of_keras():
    for layer in seeded().convolutions():
        fan_in, fan_out = (layer.weight.shape[k] * layer.weight[0, 0].numel() for k in (1, 0))
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert float(layer.weight.detach().abs().max()) <= bound
        if layer.weight.numel() > 1000:
            assert float(layer.weight.detach().abs().max()) > 0.95 * bound
        assert not layer.bias.any()


def test_seeds_decide_and_nobody_seeds_globally():
    state = torch.get_rng_state()
    first, again, other = seeded(1), seeded(1), seeded(2)
    assert torch.equal(first.lift.weight, again.lift.weight)
    assert not torch.equal(first.lift.weight, other.lift.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_layout_changes_no_value():
    network, r = seeded(), torch.rand(2, 8, 8, 8)
    assert network.before[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    plain = seeded().to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(network(r), plain(r), rtol=1e-4, atol=1e-5)


def test_compiles_as_one_graph():
    network, r = seeded(dimension=2), torch.rand(1, 8, 9)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(r), network(r))


@pytest.mark.parametrize("wrong", [{"size": 32}, {"dimension": 1}, {"width": 0}])
def test_other_networks_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 64 or 128"):
        DCDMNetwork(**wrong)


# --- bound to an operator ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed():
    return scene("neumann", (10, 9, 12), 3)


def test_input_is_normalised_output_is_not_scaled_and_masked(closed):
    f, network = DCDM(closed, seeded()), seeded()
    r = np.random.default_rng(70_003).standard_normal(closed.grid_shape)
    z = f(r)
    np.testing.assert_allclose(f(1e-12 * r), z, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(f(1e30 * r), z, rtol=1e-4, atol=1e-6)
    unknown = closed.unknown.numpy()
    assert not z[~unknown].any()
    masked = torch.from_numpy(np.where(unknown, r, 0)).float()
    expected = network((masked / masked.norm()).unsqueeze(0))[0].detach().numpy()
    np.testing.assert_allclose(z[unknown], expected[unknown], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(1080,), (10, 9, 12), (3, 1080), (2, 10, 9, 12)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_shapes_and_array_types_come_back(closed, shape, kind):
    r = np.random.default_rng(70_009).standard_normal(shape).astype(np.float32)
    z = DCDM(closed, seeded())(torch.from_numpy(r) if kind == "torch" else r)
    assert z.shape == shape
    assert isinstance(z, torch.Tensor if kind == "torch" else np.ndarray)
    assert str(z.dtype).endswith("float32")
    if len(shape) in (2, 4):
        one = DCDM(closed, seeded())(r[1])
        np.testing.assert_allclose(np.asarray(z)[1], one, rtol=1e-4, atol=1e-6)


def test_zero_gives_zero_and_nan_is_passed_on(closed):
    f = DCDM(closed, seeded())
    assert not f(np.zeros(1080)).any()
    bad = right_hand_side(closed).numpy().copy()
    bad[closed.unknown.numpy().reshape(bad.shape)] = np.nan
    assert np.isnan(f(bad)).any()
    _x, info = dcdm(closed, bad, f)
    assert info.reason.name == "NON_FINITE"


def test_two_dimensions():
    A = scene("neumann", (14, 11), 0)
    z = DCDM(A, seeded(dimension=2)) @ np.ones(A.shape[0])
    assert z.shape == (A.shape[0],)
    assert z.any()


def test_reduced_precision_is_near(closed):
    r = right_hand_side(closed).numpy()
    full, half = DCDM(closed, seeded())(r), DCDM(closed, seeded(), precision="bfloat16")(r)
    error = np.linalg.norm(full - half) / np.linalg.norm(full)
    assert 0 < error < 0.05


def test_what_does_not_fit_is_refused(closed, tmp_path):
    with pytest.raises(TypeError, match=r"expected krylearn.pde.Poisson"):
        DCDM(np.eye(3))
    with pytest.raises(ValueError, match="expected the same"):
        DCDM(closed, seeded(dimension=2))
    with pytest.raises(ValueError, match="precision='double'"):
        DCDM(closed, precision="double")
    with pytest.raises(ValueError, match="got size=32 in 3D"):
        DCDM(closed, size=32)
    with pytest.raises(TypeError, match="got weights of type int"):
        DCDM(closed, 3)
    with pytest.raises(FileNotFoundError, match="safetensors"):
        DCDM(closed, tmp_path / "none.safetensors")


# --- on disk ----------------------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back(tmp_path):
    network = seeded(size=128, dimension=2, width=3)
    loaded = load_network(save_network(network, tmp_path / "mine", {"name": "mine"}))
    assert (loaded.size, loaded.dimension, loaded.width) == (128, 2, 3)
    r = torch.rand(1, 6, 6)
    assert torch.equal(loaded(r), network(r))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_other_architectures_are_refused():
    from importlib import resources

    weights = resources.files("krylearn.solvers.multigrid") / "weights"

    with (
        resources.as_file(weights / "3d-network-v1.safetensors") as other,
        pytest.raises(ValueError, match="expected 'dcdm-1'"),
    ):
        load_network(other)


# --- shipped weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SHIPPED.values()))
def test_card_says_what_the_training_was(name):
    network, card = shipped_network(name), card_of(name, "krylearn.solvers.published")
    assert card["architecture"] == "dcdm-1"
    assert (int(card["size"]), card["dimension"]) == (network.size, network.dimension)
    for fact in ("grid", "ritz_vectors", "steps", "batch", "learning_rate", "hours", "hardware", "validation_loss"):
        assert card[fact], fact


@pytest.mark.parametrize("grid", [(20, 20, 20), (40, 40)])
def test_shipped_weights_solve_obstacle_scenes_that_they_never_saw(grid):
    A = scene("neumann", grid, 11)
    b = right_hand_side(A, "divergence", 11)
    x, info = dcdm(A, b, DCDM(A), rtol=1e-4, maxiter=60)
    plain = cg(A, b, M="none", rtol=1e-4)[1]
    assert info == 0
    assert float((b - (A @ x)).norm() / b.norm()) <= 1e-4
    assert info.iterations <= plain.iterations / 3


def test_any_grid_and_a_right_hand_side_of_zeros():
    A = Poisson.from_cells(np.ones((5, 4, 3)))
    x, info = dcdm(A, np.zeros(60), DCDM(A))
    assert info == 0
    assert not x.any()
