"""Cell-type problems in bytes: exact, recognised by what they are, and the same preconditioner but for rounding."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels.cpu.cell_bytes import find_cell_bytes
from krylearn.solvers.multigrid.hierarchy import v_cycle

CELL_TYPE = ["open_box", "obstacles", "thin_walls", "mazes", "porous", "free_surface", "neumann", "periodic"]
OTHERS = ["lognormal", "inclusions", "blocks", "cellwise", "channels", "anisotropic"]
SHAPES = [(14, 12, 13), (25, 22)]


@pytest.mark.parametrize("shape", SHAPES, ids=["3d", "2d"])
@pytest.mark.parametrize("family", CELL_TYPE)
def test_the_bytes_are_the_operator(family, shape):
    A = scene(family, shape, 39_001)
    codes = find_cell_bytes(A)
    for w, code in zip(A.links, codes.links, strict=True):
        np.testing.assert_array_equal(codes.unit * code, w.numpy())
    np.testing.assert_allclose(codes.unit * codes.diag, A.diag.numpy(), rtol=4e-15)


@pytest.mark.parametrize("shape", SHAPES, ids=["3d", "2d"])
@pytest.mark.parametrize("family", OTHERS)
def test_other_media_are_not_of_cell_type(family, shape):
    assert find_cell_bytes(scene(family, shape, 39_009)) is None


@pytest.mark.parametrize("shift", [0.5, 1e-3, 300.0])
def test_a_diagonal_that_is_no_small_multiple_is_not(shift):
    assert find_cell_bytes(Poisson.from_coefficients(np.ones((6, 5, 4)), shift=np.full((6, 5, 4), shift))) is None


def test_one_different_link_is_enough():
    A = scene("obstacles", (12, 12, 12), 39_011)
    faces = [np.zeros((13, 12, 12)), np.zeros((12, 13, 12)), np.zeros((12, 12, 13))]
    for d, f in enumerate(faces):
        inside = [slice(None)] * 3
        inside[d] = slice(1, 13)
        f[tuple(inside)] = A.links[d].numpy()
    faces[1][3, 5, 7] = 0.999
    changed = Poisson.from_faces(faces, extra=np.full((12, 12, 12), 1.0))
    assert find_cell_bytes(changed) is None


@pytest.mark.parametrize("weights", ["network", "geometric", "resistor", "tuned"])
@pytest.mark.parametrize("family", CELL_TYPE)
def test_the_cycle_in_bytes_is_the_readable_one_but_for_the_rounding_of_damping(family, weights):
    A = scene(family, (18, 16, 17), 39_023)
    M = NeuralMultigrid(A, weights)
    assert M.fused.levels[0].diag.dtype == np.uint8
    b = torch.from_numpy(np.random.default_rng(39_029).standard_normal(A.diag.shape)).float() * (A.diag > 0)
    expected = v_cycle(M.hierarchy, b)
    assert float((M.cycle(b) - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("scale", [3.0, 1e-15, 7e11])
def test_the_conductance_may_have_any_value(scale):
    A = scene("free_surface", (16, 16, 16), 39_041)
    scaled = Poisson.from_faces([scale * f for f in faces_of(A)], extra=scale * ground_of(A))
    b = right_hand_side(A, "white", 39_041)
    x, info = cg(A, b, rtol=1e-8)
    y, other = cg(scaled, scale * b, rtol=1e-8)
    assert find_cell_bytes(scaled) is not None
    assert info == other == 0
    assert info.iterations == other.iterations
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-7 * float(x.abs().max()))


def faces_of(A):
    """Conductances between cells, one array per axis with an entry more along it; nothing leads outside."""
    faces = []
    for d, w in enumerate(A.links):
        pad = [(0, 0)] * 3
        pad[d] = (1, 0)
        faces.append(np.pad(w.numpy(), pad))
    return faces


def ground_of(A):
    """Everything on the diagonal that is no link between unknowns."""
    return (sum(A.ground) + A.shift).numpy()
