import numpy as np
import pytest
import torch
from krylearn.pde import Cell, SmokePlume, smoke_sequence
from krylearn.pde.simulations import mac

SHAPES = [(20, 24), (14, 12, 16), (9, 7, 11)]


def tight(A, b):
    return mac.plain_solve(A, b, rtol=1e-11)


def no_smoke_without_solver(A, b):
    return b.new_zeros(b.numel())


@pytest.mark.parametrize("shape", SHAPES)
def test_projected_velocity_has_no_divergence_where_there_is_fluid(shape):
    for frame in SmokePlume(shape).frames(4, tight):
        cells = frame.cells.reshape([n - 1 if d == 0 else n for d, n in enumerate(frame.u[0].shape)])
        assert frame.b.shape == shape
        assert float(frame.b.abs().max()) > 1e-6  # there was something to project
        left = mac.net_outflow(frame.u, cells)
        assert float(left.abs().max()) < 1e-9 * max(float(v.abs().max()) for v in frame.u)


def test_b_is_minus_the_net_outflow_and_p_solves_the_system():
    plume = SmokePlume((14, 12, 16))
    for _ in range(3):
        A, b = plume.advance()
        area = (1 / 16) ** 2
        torch.testing.assert_close(b, -mac.net_outflow(plume.u, plume.cells, area), rtol=0, atol=0)
        p = tight(A, b)
        assert float((A @ p - b).abs().max()) < 1e-9 * float(b.abs().max())
        plume.u, _ = mac.project_velocities(plume.u, plume.cells, plume.h, lambda A, b, p=p: p, (A, b))


@pytest.mark.parametrize("shape", SHAPES)
def test_smoke_stays_between_nothing_and_pure_and_grows_no_faster_than_the_inlet_gives(shape):
    plume, masses = SmokePlume(shape, seed=27182), []
    for frame in plume.frames(12, mac.plain_solve):
        assert all(torch.isfinite(v).all() for v in (*frame.u, frame.p))
        assert float(frame.smoke.min()) >= 0
        assert float(frame.smoke.max()) <= 1
        assert not frame.smoke[frame.cells == Cell.SOLID].any()
        masses.append(float(frame.smoke.sum()))
    assert masses[-1] > masses[0] > 0
    # one step brings at most: speed at the inlet, plus the refilled inlet cells
    assert max(np.diff(masses)) < 2 * masses[0] + float(frame.smoke.numel()) * 0.05


def test_faces_of_the_sphere_move_with_the_sphere():
    plume = SmokePlume((16, 12, 18), path=lambda t: (0.3 + t, 0.3 - 0.5 * t, 0.4 + 0.25 * t))
    for frame in plume.frames(3, tight):
        for axis, speed in enumerate((1.0, -0.5, 0.25)):
            left, right = mac.values_beside_faces(frame.cells == Cell.SOLID, axis, outside=0.0)
            faces = frame.u[axis][left | right]
            assert len(faces) > 0
            torch.testing.assert_close(faces, torch.full_like(faces, speed), rtol=1e-9, atol=1e-12)


def test_walls_of_the_box_let_nothing_through():
    *_, frame = SmokePlume((10, 8, 12)).frames(3, mac.plain_solve)
    for axis in (0, 1):
        assert not frame.u[axis].select(axis, 0).any()
        assert not frame.u[axis].select(axis, -1).any()
    floor = frame.u[2][..., 0]
    assert 0 < float((floor > 0).double().mean()) < 0.5  # the inlet alone
    assert not (floor < 0).any()


@pytest.mark.parametrize("shape", [(16, 24), (12, 10, 16)])
def test_a_symmetric_scene_stays_symmetric(shape):
    x, y = 0.5 * shape[0] / shape[-1], 0.5 * (shape[1] if len(shape) == 3 else 1) / shape[-1]
    plume = SmokePlume(shape, turbulence=0.0, path=lambda t: (x, y, 0.5))
    *_, frame = plume.frames(8, tight)
    assert float(frame.smoke.sum()) > 0
    torch.testing.assert_close(frame.smoke, frame.smoke.flip(0), rtol=0, atol=1e-8)
    torch.testing.assert_close(frame.u[0], -frame.u[0].flip(0), rtol=0, atol=1e-8)
    if len(shape) == 3:
        torch.testing.assert_close(frame.smoke, frame.smoke.flip(1), rtol=0, atol=1e-8)


def test_without_smoke_and_inflow_nothing_moves():
    *_, frame = SmokePlume((8, 8, 8), inflow=0.0, buoyancy=0.0, radius=0.0).frames(3, no_smoke_without_solver)
    assert not any(v.any() for v in frame.u)
    assert not frame.b.any()


def test_smoke_rises():
    heights = []
    for frame in SmokePlume((12, 10, 16), radius=0.0).frames(10, mac.plain_solve):
        column = frame.smoke.sum((0, 1))
        heights.append(float((column * torch.arange(16)).sum() / column.sum()))
    assert heights[-1] > heights[4] > heights[0]


def test_the_sphere_changes_the_system_and_the_seed_the_smoke():
    first, *_, last = SmokePlume((20, 8, 20)).frames(8, mac.plain_solve)
    assert not torch.equal(first.cells, last.cells)
    a, b = (list(SmokePlume((8, 8, 8), seed=s).frames(2, mac.plain_solve))[-1].smoke for s in (31415, 27182))
    assert not torch.equal(a, b)


def test_sequences_repeat():
    runs = [[b for _, b in smoke_sequence((8, 9, 10), 3, seed=31415)] for _ in range(2)]
    assert len(runs[0]) == 3
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    ("solve", "error", "match"),
    [
        (lambda A, b: (b, 0), TypeError, "returned a tuple"),
        (lambda A, b: b[:2], ValueError, "returned shape"),
    ],
)
def test_a_wrong_solver_is_named(solve, error, match):
    with pytest.raises(error, match=match):
        SmokePlume((6, 6, 6)).step(solve)


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match="at least 4 cells"):
        SmokePlume((6, 3, 6))


def test_float32_fields_keep_their_type():
    frame = SmokePlume((8, 8, 8), dtype=torch.float32).step(mac.plain_solve)
    assert frame.smoke.dtype == frame.p.dtype == frame.b.dtype == torch.float32
