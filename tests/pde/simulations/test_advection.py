import numpy as np
import torch
from krylearn.pde.simulations.advection import advect, displacement, sample


def test_advection_is_exact_for_whole_cells_and_makes_no_new_extrema():
    rng = np.random.default_rng(31415)
    q = torch.as_tensor(rng.random((9, 7, 8)))
    whole = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64).reshape(3, 1, 1, 1).expand(3, 9, 7, 8)
    torch.testing.assert_close(advect(q, whole)[2:, :, :-1], q[:-2, :, 1:])  # also where paths leave the box
    moved = torch.as_tensor(4 * rng.random((3, 9, 7, 8)) - 2)
    out = advect(q, moved)
    assert float(out.min()) >= float(q.min())
    assert float(out.max()) <= float(q.max())


def test_advection_is_second_order():
    errors = []
    for n in (32, 64):
        x = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        wave = lambda x: torch.exp(-(((x - 0.4) / 0.12) ** 2))  # noqa: E731
        q = wave(x).reshape(n, 1, 1)
        moved = torch.zeros(3, n, 1, 1, dtype=torch.float64)
        moved[0] = 0.5
        for _ in range(n // 4):  # to the same time at both resolutions: an eighth of the box
            q = advect(q, moved)
        errors.append(float((q.ravel() - wave(x - 0.125)).abs().mean()))
    assert errors[0] / errors[1] > 3


def test_interpolation_is_exact_for_linear_fields_and_clamped_outside():
    x, y, z = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (5, 4, 6)], indexing="ij")
    field = (2 * x - y + 0.5 * z)[None]
    points = torch.as_tensor(np.random.default_rng(31415).random((3, 7, 1, 1))) * 3
    expected = 2 * points[0] - points[1] + 0.5 * points[2]
    torch.testing.assert_close(sample(field, points)[0], expected)
    outside = torch.tensor([-3.0, 9.0, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    assert float(sample(field, outside)) == -3.0 + 1.0


def test_the_midpoint_rule_follows_a_rotation_to_second_order():
    n, errors = 17, []
    centre = (torch.arange(n, dtype=torch.float64) + 0.5) - n / 2
    u = [-centre.reshape(1, n, 1).expand(n + 1, n, 1), centre.reshape(n, 1, 1).expand(n, n + 1, 1)]
    u.append(torch.zeros(n, n, 2, dtype=torch.float64))
    for angle in (0.1, 0.05):
        moved = displacement(u, angle)[:, n // 2 + 3, n // 2, 0]  # three cells from the axis: back along the circle
        exact = torch.tensor([3 * (1 - np.cos(angle)), 3 * np.sin(angle), 0.0], dtype=torch.float64)
        errors.append(float((moved - exact).abs().max()))
    assert errors[0] / errors[1] > 6  # third order per step
