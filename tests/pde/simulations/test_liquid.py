import numpy as np
import pytest
import torch
from krylearn.pde import Cell, DamBreak, liquid_sequence
from krylearn.pde.simulations import mac
from krylearn.pde.simulations.liquid import extend, scatter

SHAPES = [(24, 16), (14, 9, 10), (11, 4, 7)]


def tight(A, b):
    return mac.plain_solve(A, b, rtol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_liquid_is_conserved_and_its_velocity_free_of_divergence(shape):
    dam = DamBreak(shape)
    number, volumes = dam.particles.shape[1], []
    for frame in dam.frames(15, tight):
        cells = frame.cells.reshape(dam.inner)
        assert float(mac.net_outflow(frame.u, cells).abs().max()) < 1e-8 * max(float(v.abs().max()) for v in frame.u)
        assert all(torch.isfinite(v).all() for v in (*frame.u, frame.p, frame.particles))
        assert frame.particles.shape[1] == number
        assert not dam._in_solid(frame.particles).any()
        assert float(frame.particles.min()) > 0
        assert all(float(x.max()) < n for x, n in zip(frame.particles, dam.inner, strict=True))
        assert (cells[dam._cell_of(frame.particles)] == Cell.FLUID).all()
        volumes.append(frame.A.unknowns)
    assert 0.75 * volumes[0] < min(volumes)
    assert max(volumes) < 1.35 * volumes[0]
    assert len(set(volumes)) > 1  # the free surface moves


def test_the_column_falls_and_spreads():
    frames = list(DamBreak((24, 8, 12)).frames(20, mac.plain_solve))
    first, last = frames[0].particles, frames[-1].particles
    assert float(last[2].mean()) < 0.95 * float(first[2].mean())
    assert float(last[0].max()) > 1.3 * float(first[0].max())


def test_liquid_at_rest_stays_at_rest_under_hydrostatic_pressure():
    dam = DamBreak((6, 5, 8), column=(1.0, 0.5), pillar=None)
    before = dam.particles.clone()
    *_, frame = dam.frames(5, tight)
    assert float((frame.particles - before).abs().max()) < 1e-8
    depth = frame.p[2, 2, :4] / (dam.dt * dam.gravity * dam.h)  # p = dt g h times the cells to the first OPEN centre
    torch.testing.assert_close(depth, torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64), rtol=1e-8, atol=0)


def test_a_blob_in_the_air_falls_freely():
    dam = DamBreak((10, 10, 20), pillar=None, column=(0.3, 0.3), flip=1.0)
    dam.particles[0] += 3
    dam.particles[2] += 12
    dam.particles = dam.particles[:, (dam.particles[1] > 3) & (dam.particles[1] < 7)]
    dam.velocities = torch.zeros_like(dam.particles)
    start = float(dam.particles[2].mean())
    *_, frame = dam.frames(9, tight)
    fallen = (start - float(frame.particles[2].mean())) * dam.h
    moves = 8  # the first step only sets the velocity
    expected = dam.gravity * dam.dt**2 * moves * (moves + 1) / 2
    assert abs(fallen - expected) < 0.05 * expected


def test_scatter_is_exact_for_constants_and_extend_reaches_its_layers():
    points = torch.as_tensor(np.random.default_rng(31415).random((3, 200)) * 4)
    out = scatter(torch.full((200,), 2.5, dtype=torch.float64), points, (5, 5, 5))
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 2.5))
    v, known = torch.zeros(9, 1, 1), torch.zeros(9, 1, 1, dtype=torch.bool)
    v[0], known[0] = 3.0, True
    assert extend(v, known, layers=4).ravel().tolist() == [3.0] * 5 + [0.0] * 4


def test_sequences_repeat_and_the_seed_matters():
    a, b, other = ([b for _, b in liquid_sequence((8, 6, 8), 4, seed=s)] for s in (31415, 31415, 27182))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[-1], other[-1])


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match="at least 4 cells"):
        DamBreak((8,))
