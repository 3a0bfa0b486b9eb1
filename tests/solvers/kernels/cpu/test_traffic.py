"""The budgets of a cycle over pieces hold on every family and field case but where links differ from cell to cell."""

import pytest
from krylearn.pde import FAMILIES, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case
from krylearn.solvers import NeuralMultigrid
from krylearn.solvers.kernels.cpu.traffic import cost_of

BYTES, MEMORY, STEPS = 280, 170, 2.2
SHAPE = (40, 40, 40)
# image weights: hardly two neighbours are strongly connected, so levels shrink slowly; with what they take at most
DEARER = {name: (640, 400, 2.6) for name in FIELD_CASES if "image" in name}


@pytest.mark.parametrize("name", [*FAMILIES, *FIELD_CASES])
def test_a_cycle_over_pieces_keeps_its_budgets(name):
    A = scene(name, SHAPE, 1) if name in FAMILIES else field_case(name, SHAPE, 1)
    cost = cost_of(NeuralMultigrid(A, "pieces").fused)
    most = DEARER.get(name, (BYTES, MEMORY, STEPS))
    assert cost.moved <= most[0]
    assert cost.kept <= most[1]
    assert 1.0 <= cost.steps <= most[2]


def test_grid_levels_are_counted_as_before():
    A = scene("lognormal", (64, 64, 64), 1)
    cost = cost_of(NeuralMultigrid(A, "network").fused)
    assert 180 <= cost.moved <= 190
    assert cost.steps < 1.4
