"""Step sizes chosen by a network: whatever it says, the cycle stays symmetric positive definite."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.pde.scenes.field_cases import field_case
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.multigrid.graph_hierarchy import build_graphs, ratios_of
from krylearn.solvers.multigrid.pieces import graph_of
from krylearn.solvers.multigrid.step_sizes import (
    RATIOS,
    RULE,
    StepNetwork,
    bound_steps,
    load_steps,
    save_steps,
    shipped_steps,
)


def wild(seed, hidden=6):
    """A network of large random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = StepNetwork(hidden)
        with torch.no_grad():
            for p in network.parameters():
                p.normal_(0, 3)
    return network


def system(name, shape=(11, 10, 12), seed=31_411):
    if name in ("stretched_1.3", "white_image_130", "layers_1000"):
        return field_case(name, shape, seed)
    return scene(name, shape, seed)


def test_bounded_steps_contract_whatever_is_asked():
    t = np.linspace(1e-6, 2, 20_001)
    for first, second in np.random.default_rng(31_415).uniform(-1, 12, (200, 2)):
        a, b = bound_steps(first, second)
        assert abs((1 - a * t) * (1 - b * t)).max() < 1


@pytest.mark.parametrize("name", ["lognormal", "mazes", "neumann", "stretched_1.3", "white_image_130"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_positive_definite_and_symmetric_for_random_weights(name, dtype):
    A = system(name, (7, 8, 6))
    M = NeuralMultigrid(A, wild(31_421), dtype=dtype)
    assert M.uses_pieces
    assert M.info.rule == "trained"
    unknown = np.flatnonzero(np.asarray(A.unknown).reshape(-1))
    dense = np.stack([(M @ column)[unknown] for column in np.eye(A.shape[0])[unknown]])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert abs(dense - dense.T).max() <= tolerance * abs(dense).max()
    values = np.linalg.eigvalsh(0.5 * (dense + dense.T))
    assert values.min() > -tolerance * values.max()
    if dtype == torch.float64:
        assert values.min() > 0


@pytest.mark.parametrize("name", ["lognormal", "open_box", "periodic", "layers_1000"])
@pytest.mark.parametrize("shape", [(14, 15, 13), (40, 37)])
def test_fused_levels_take_the_steps_of_the_readable_ones(name, shape):
    A, network = system(name, shape), wild(31_429)
    M = NeuralMultigrid(A, network, dtype=torch.float64)
    reference = NeuralMultigrid(A, network, dtype=torch.float64, kernels="reference")
    r = np.random.default_rng(31_433).standard_normal(A.shape[0])
    r = A.from_grid(A.to_grid(r), r)
    x, y = M @ r, reference @ r
    assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y)


def test_ratios_have_no_unit_and_are_bounded():
    for name in ("lognormal", "mazes", "white_image_130"):
        A = system(name)
        graph, _ = graph_of(A)
        scaled, _ = graph_of(A, 2.0**-30)  # exact: rounding may break ties between pieces another way
        ratios = ratios_of(build_graphs(graph))
        assert ratios.shape[1] == RATIOS
        assert np.allclose(ratios, ratios_of(build_graphs(scaled)), rtol=1e-9)
        assert np.isfinite(ratios).all()
        assert ratios.min() >= 0
        assert ratios.max() <= 5


def test_outside_of_what_training_saw_steps_are_the_rule():
    network = wild(31_453)
    network.see(np.random.default_rng(31_457).uniform(0.2, 0.3, (50, network.mean.numel())))
    far = network.steps_of(np.full((3, RATIOS), 4.0))
    for chosen in far:
        assert np.allclose(chosen, RULE, rtol=1e-6)


def test_files_come_back_bit_for_bit_and_serve_as_weights(tmp_path):
    A, network = system("lognormal"), wild(31_469)
    path = save_steps(network, tmp_path / "mine", {"dimension": 3})
    r = np.random.default_rng(31_477).standard_normal(A.shape[0])
    assert np.array_equal(NeuralMultigrid(A, path) @ r, NeuralMultigrid(A, network) @ r)
    assert load_steps(path).hidden == network.hidden
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="truncated"):
        load_steps(path)


def test_update_is_a_new_set_up_bit_for_bit():
    first, second = system("lognormal"), system("layers_1000")
    M, r = NeuralMultigrid(first, "pieces"), np.ones(first.shape[0])
    assert np.array_equal(M.update(second) @ r, NeuralMultigrid(second, "pieces") @ r)
    assert not np.array_equal(M @ r, NeuralMultigrid(second, "untrained pieces") @ r)


def test_shipped_steps_help_where_they_should():
    """Geometric mean over systems of the test stream; what the study measures, small."""
    gains = []
    for name in ("open_box", "lognormal", "blocks", "stretched_1.3", "layers_1000", "mazes"):
        A = system(name, (20, 20, 20), 0)
        b = right_hand_side(A, "white", 0)
        rule, trained = (cg(A, b, rtol=1e-8, M=weights)[1].iterations for weights in ("untrained pieces", "pieces"))
        gains.append(rule / trained)
    assert np.exp(np.mean(np.log(gains))) > 1.05
    assert min(gains) >= 0.9


def test_in_two_dimensions_pieces_are_those_of_the_rule():
    assert shipped_steps(2) is None
    A = system("blocks", (30, 31), 0)
    assert NeuralMultigrid(A, "pieces").info.rule == "resistor"


def test_small_systems_have_no_steps():
    M = NeuralMultigrid(Poisson.from_coefficients(np.ones((5, 5))), "pieces")
    assert M.info.coarsening == "none"
