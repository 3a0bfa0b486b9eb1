"""Systems of real codes from seeds: repeatable, valid, with the contrasts that their names promise."""

import numpy as np
import pytest
import torch
from krylearn.pde import right_hand_side
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case, growing_cells


@pytest.mark.parametrize("name", FIELD_CASES)
@pytest.mark.parametrize("shape", [(9, 7), (12, 16), (8, 9, 7), (4, 5, 13)])
def test_every_case_is_a_repeatable_operator(name, shape):
    A, again = field_case(name, shape, 31_415), field_case(name, shape, 31_415)
    assert A.grid_shape == shape
    assert A.unknowns >= 1
    assert all((w >= 0).all() and torch.isfinite(w).all() for w in (*A.links, *A.ground, A.shift))
    assert torch.equal(A.diag, again.diag)
    b = right_hand_side(A, seed=31_416)
    assert torch.isfinite(b).all()
    matrix = A.matrix(unknowns=True)
    assert abs(matrix - matrix.T).max() == 0


def test_train_and_test_streams_differ():
    for name in ("layers_100", "ocean", "white_image_130", "reservoir", "cut_cells", "air_over_earth"):
        train, test = (field_case(name, (9, 8, 10), 31_415, stream) for stream in ("train", "test"))
        assert not torch.equal(train.diag, test.diag), name


def test_meshes_grow_by_their_factor():
    h = growing_cells(24, 1.3)
    ratios = h[1:] / h[:-1]
    assert ratios[-8:] == pytest.approx(np.full(8, 1.3))
    assert ratios[:8] == pytest.approx(np.full(8, 1 / 1.3))
    assert h.min() == 1


def test_contrasts_are_those_of_the_field():
    air = field_case("air_over_earth", (12, 12, 12), 31_415)
    assert float(air.links[2].max() / air.links[2][air.links[2] > 0].min()) > 1e6
    cut = field_case("cut_cells", (16, 16, 16), 31_415)
    open_parts = torch.cat([w[w > 0] for w in cut.links])
    assert float(open_parts.max()) == 1
    assert 1e-6 <= float(open_parts.min()) < 1e-2


def test_unknown_names_and_shapes_are_refused():
    with pytest.raises(ValueError, match="expected one of stretched"):
        field_case("nothing", (8, 8, 8), 0)
    with pytest.raises(ValueError, match="at least 4 cells"):
        field_case("ocean", (8, 3, 8), 0)
