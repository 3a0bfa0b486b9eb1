"""The network between the classical rules: what it starts from, what it can reach, what it cannot see."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import FAMILIES, Poisson, scene
from krylearn.solvers.kernels.reference import Stencil
from krylearn.solvers.multigrid.coarsening import choose_factors, circuit
from krylearn.solvers.multigrid.hierarchy import build, geometric, resistor
from krylearn.solvers.multigrid.network import (
    BOUND,
    CUT,
    DAMPING_FEATURES,
    GROUND_FEATURES,
    LINK_FEATURES,
    WEIGHT_FEATURES,
    CoefficientNetwork,
    Perceptron,
    ratio,
)
from multigrid_cases import GRIDS, grid_system, random_network, rough, stencil

FACTORS = {"3d": (2, 2, 2), "2d": (2, 1, 2), "semi": (1, 2, 2)}


def system(kind):
    shapes = {"3d": (10, 8, 9), "2d": (18, 17), "semi": (6, 8, 10)}
    return stencil(rough(shapes[kind], {"x": "periodic", "y-": "dirichlet"}))


def evaluated(network, op, factors):
    with torch.no_grad():
        return network.double()(op, factors)


def parts(result):
    s, transfer, coarse = result
    weights = [a for a in transfer.weights if a is not None]
    return [s, *weights, *coarse.links, *coarse.ground, coarse.shift]


# --- between the classical rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("kind", FACTORS)
def test_it_starts_half_way_between_the_classical_rules(kind, hidden):
    op, factors = system(kind), FACTORS[kind]
    s, transfer, coarse = evaluated(CoefficientNetwork(hidden), op, factors)
    _, uniform_transfer, uniform = geometric(op, factors)
    _, series_transfer, series = resistor(op, factors)
    torch.testing.assert_close(s, op.mask / (1 + np.exp(-3.0)))
    for d in range(3):
        middle = (uniform.links[d] + series.links[d]) / 2
        torch.testing.assert_close(coarse.links[d], middle)
        torch.testing.assert_close(coarse.ground[d], series.ground[d])
        if factors[d] == 2:
            mix = (uniform_transfer.weights[d] + series_transfer.weights[d]) / 2
            joined = uniform_transfer.weights[d] > 0
            torch.testing.assert_close(transfer.weights[d][joined], mix[joined].clamp(1e-4, 1 - 1e-3))
    torch.testing.assert_close(coarse.shift, series.shift)


@pytest.mark.parametrize(("towards", "rule"), [(30.0, geometric), (-30.0, resistor)])
def test_its_constants_reach_both_classical_rules(towards, rule):
    network = CoefficientNetwork(hidden=0)
    with torch.no_grad():
        network.link.bias[0] = network.weight.bias[0] = towards
    op = system("3d")
    _, transfer, coarse = evaluated(network, op, (2, 2, 2))
    _, expected_transfer, expected = rule(op, (2, 2, 2))
    for d in range(3):
        torch.testing.assert_close(coarse.links[d], expected.links[d], rtol=1e-9, atol=1e-12)
        joined = circuit(op, d).outer_link > 0
        clamped = expected_transfer.weights[d].clamp(1e-4, 1 - 1e-3)[joined]
        torch.testing.assert_close(transfer.weights[d][joined], clamped)


def test_constants_are_six_numbers():
    network = CoefficientNetwork(hidden=0)
    assert sum(p.numel() for p in network.parameters()) == 6
    assert sum(p.numel() for p in CoefficientNetwork(hidden=16).parameters()) == 2054


def test_a_blocked_face_opens_only_as_a_whole():
    faces = [np.ones((9, 8)), np.ones((8, 9))]
    faces[0][3] = 0  # a wall without thickness inside the block of cells 2 and 3
    op = stencil(Poisson.from_faces(faces, extra=1.0))
    _, _, uniform = geometric(op, (2, 1, 2))
    for share, opens in ((0.5, True), (2 * CUT, True), (CUT / 2, False)):
        network = CoefficientNetwork(hidden=0)
        with torch.no_grad():
            network.link.bias[0] = float(np.log(share / (1 - share)))
        _, _, coarse = evaluated(network, op, (2, 1, 2))
        crossing = coarse.links[0][:2, 0]  # both faces of the walled block
        expected = share * uniform.links[0][:2, 0] if opens else torch.zeros_like(crossing)
        torch.testing.assert_close(crossing, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("seed", [34_019, 34_031])
def test_outputs_stay_in_their_ranges_for_any_weights(kind, seed):
    op, factors = system(kind), FACTORS[kind]
    s, transfer, coarse = evaluated(random_network(seed, scale=3.0), op, factors)
    _, _, uniform = geometric(op, factors)
    _, _, series = resistor(op, factors)
    assert bool(((s >= 0) & (s <= 1)).all())
    assert not s[op.mask == 0].any()
    for d in range(3):
        if factors[d] == 2:
            a = transfer.weights[d]
            assert bool(((a >= 0) & (a <= 1)).all())
            assert not a[circuit(op, d).outer_link == 0].any()
        assert bool((coarse.links[d] >= 0).all())
        assert bool(
            (coarse.links[d] <= np.exp(BOUND) * torch.maximum(uniform.links[d], series.links[d]) * 1.0001).all()
        )
        assert not coarse.links[d][(uniform.links[d] == 0) & (series.links[d] == 0)].any()
        assert torch.equal(coarse.ground[d] > 0, series.ground[d] > 0)


# --- what it sees -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-40, 7])
def test_scaling_the_system_changes_nothing_but_the_scale(power):
    op = system("3d").to(torch.float32)
    scale = 2.0**power
    scaled = Stencil([w * scale for w in op.links], [g * scale for g in op.ground], op.shift * scale, op.periodic)
    network = random_network(34_033, scale=0.7)
    with torch.no_grad():
        s, transfer, coarse = network(op, (2, 2, 2))
        t, scaled_transfer, scaled_coarse = network(scaled, (2, 2, 2))
    assert torch.equal(s, t)
    for a, b in zip(transfer.weights, scaled_transfer.weights, strict=True):
        assert torch.equal(a, b)
    for w, v in zip((*coarse.links, *coarse.ground), (*scaled_coarse.links, *scaled_coarse.ground), strict=True):
        assert torch.equal(w * scale, v)


def test_it_is_local():
    kappa = 10 ** np.random.default_rng(34_039).uniform(-1, 1, (32, 32))
    changed = kappa.copy()
    changed[15, 15] *= 50
    network = random_network(34_043, scale=0.7).double()
    before, after = (evaluated(network, raw(Poisson.from_coefficients(k)), (2, 1, 2)) for k in (kappa, changed))
    for old, new in zip(parts(before), parts(after), strict=True):
        moved = (old != new).nonzero()
        if len(moved):
            scale = 32 // old.shape[0]
            distance = (moved[:, [0, 2]] * scale + (scale - 1) / 2 - 15).abs().max()
            assert float(distance) <= 6  # three coarse cells
    assert any(bool((old != new).any()) for old, new in zip(parts(before), parts(after), strict=True))


def raw(A):
    return Stencil(A.links, A.ground, A.shift, A.periodic)


def test_a_batch_is_its_members_one_by_one():
    ops = [stencil(rough((8, 8, 8), {}, seed=seed)) for seed in (34_057, 34_061)]
    stacked = Stencil(
        [torch.stack([op.links[d] for op in ops]) for d in range(3)],
        [torch.stack([op.ground[d] for op in ops]) for d in range(3)],
        torch.stack([op.shift for op in ops]),
        ops[0].periodic,
    )
    network = random_network(34_063, scale=0.7)
    together = parts(evaluated(network, stacked, (2, 2, 2)))
    alone = [parts(evaluated(network, op, (2, 2, 2))) for op in ops]
    for k, value in enumerate(together):
        torch.testing.assert_close(value, torch.stack([alone[0][k], alone[1][k]]))


@pytest.mark.parametrize("contrast", [1.0, 15.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_values_and_gradients_are_finite_at_any_contrast(grid, contrast):
    op = stencil(grid_system(grid, decades=contrast), torch.float32)
    network = random_network(34_127).train()
    result = network(op, choose_factors(op))
    sum(value.sum() for value in parts(result)).backward()
    for value in parts(result):
        assert bool(torch.isfinite(value).all())
    for p in network.parameters():
        assert p.grad is None or bool(torch.isfinite(p.grad).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_features_lie_between_zero_and_two(family):
    seen = []

    class Recorder(torch.nn.Module):
        def __init__(self, perceptron):
            super().__init__()
            self.perceptron = perceptron

        def forward(self, x):
            seen.append(x)
            return self.perceptron(x)

    network = CoefficientNetwork(4)
    for name in ("damping", "weight", "link", "ground"):
        setattr(network, name, Recorder(getattr(network, name)))
    op = stencil(scene(family, (12, 13, 11), 34_129), torch.float32)
    with torch.no_grad():
        build(op, network)
    counts = {len(x) for x in seen}
    assert counts == {DAMPING_FEATURES, WEIGHT_FEATURES, LINK_FEATURES, GROUND_FEATURES}
    for x in seen:
        assert float(x.min()) >= -1e-5
        assert float(x.max()) <= 2 + 1e-5


# --- its pieces -------------------------------------------------------------------------------------------------------

positive = st.floats(1e-10, 1e10)


@settings(deadline=None, max_examples=60)
@given(positive, positive, positive)
def test_ratio_is_bounded_monotone_and_blind_to_scale(x, y, scale):
    x, y, scale = (torch.tensor(v, dtype=torch.float64) for v in (x, y, scale))
    value = ratio(x, y)
    assert 0 < value < 1
    torch.testing.assert_close(value + ratio(y, x), torch.ones_like(value))
    torch.testing.assert_close(ratio(x * scale, y * scale), value)
    assert ratio(2 * x, y) >= value


def test_ratio_of_zeros():
    zero, one = torch.zeros(()), torch.ones(())
    assert float(ratio(zero, zero)) == 0.5
    assert 0 < float(ratio(zero, one)) <= 1.01e-4
    assert float(ratio(one, zero)) >= 1 - 1.01e-4


def test_a_perceptron_keeps_the_shape_of_the_grid():
    x = torch.zeros(9, 2, 3, 4, 5)
    for hidden in (0, 8):
        perceptron = Perceptron(9, hidden, 2)
        assert perceptron(x).shape == (2, 2, 3, 4, 5)
        assert not perceptron(x).any()
