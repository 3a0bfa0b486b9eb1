import numpy as np
import pytest
import torch
from krylearn.pde import Cell
from krylearn.pde.poisson.grid import internal_axes, internal_shape, parse_boundary, parse_cells, parse_spacing


def test_two_dimensions_are_stored_with_a_middle_axis_of_one_cell():
    assert internal_shape((4, 6)) == (4, 1, 6)
    assert internal_shape((4, 5, 6)) == (4, 5, 6)
    assert internal_axes(2) == (0, 2)


def test_a_side_wins_over_its_axis_and_the_default_fills_the_rest():
    kinds = parse_boundary({"x": "dirichlet", "x+": "neumann"}, 3, "neumann")
    assert kinds == (("dirichlet", "neumann"), ("neumann", "neumann"), ("neumann", "neumann"))
    assert parse_boundary("periodic", 2, "neumann") == (("periodic", "periodic"),) * 2


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        ("robin", "'robin' for x; expected one of neumann"),
        ({"w": "neumann"}, "key 'w'; expected one of x"),
        ({"z-": "neumann"}, "key 'z-'"),
        ({"x-": "periodic"}, "expected both sides periodic or neither"),
        (None, "None for x"),
    ],
)
def test_wrong_boundaries_are_named(boundary, message):
    with pytest.raises(ValueError, match=message):
        parse_boundary(boundary, 2, "neumann")


@pytest.mark.parametrize("spacing", [0, -1.0, np.nan, np.inf, (1, 2, 3), ((1, 2),)])
def test_wrong_spacings_are_refused(spacing):
    with pytest.raises(ValueError, match="got spacing"):
        parse_spacing(spacing, 2)


def test_cells_come_as_lists_arrays_tensors_or_booleans():
    wanted = torch.tensor([[1, 0], [1, 1]], dtype=torch.uint8)
    for cells in ([[1, 0], [1, 1]], np.array([[1.0, 0.0], [1.0, 1.0]]), wanted.bool(), wanted.numpy().astype(np.uint8)):
        assert torch.equal(parse_cells(cells), wanted)
    assert parse_cells([[Cell.FLUID, Cell.OPEN]]).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.zeros((3, 3)), "without FLUID"),
        (np.full((3, 3), 2), "without FLUID"),
        ([[1, 3]], r"cell code 3 at \(0, 1\)"),
        ([[1, 0.5]], "cell code 0.5"),
        ([[1, np.nan]], "cell code nan"),
        (np.ones(4), r"flat grid: use \(n, 1\)"),
        (np.ones((2, 2, 2, 2)), "expected 2 or 3"),
        (np.ones((0, 3)), "at least one cell"),
    ],
)
def test_wrong_cells_are_named(cells, message):
    with pytest.raises(ValueError, match=message):
        parse_cells(cells)


def test_a_grid_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"cells of shape \(2, 2\); expected \(3, 2\)"):
        parse_cells(np.ones((2, 2)), (3, 2))
