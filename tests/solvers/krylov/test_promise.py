"""`info == 0` implies ‖b - A x‖ <= tolerance; and it is said whenever it can be, on all kinds of systems."""

import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.pde.scenes import FAMILIES, right_hand_side, scene
from krylearn.solvers import cg, dcdm

SYSTEMS_PER_SOURCE = 120
PRECONDITIONERS = ("none", "geometric", "resistor", None, None)


def random_shape(rng):
    return tuple(int(n) for n in rng.integers(4, 10, size=rng.integers(2, 4)))


def random_boundary(rng, dimension):
    boundary = {}
    for axis in "xyz"[:dimension]:
        if rng.random() < 0.2:
            boundary[axis] = "periodic"
        else:
            boundary |= {axis + side: str(rng.choice(["neumann", "dirichlet"])) for side in "-+"}
    return boundary


def random_faces(rng):
    """Conductances over six decades, a tenth of them walls, any mix of sides."""
    shape = random_shape(rng)
    faces = []
    for d in range(len(shape)):
        w = 10 ** rng.uniform(-3, 3, [n + (k == d) for k, n in enumerate(shape)])
        w[rng.random(w.shape) < 0.1] = 0
        for side in (0, -1):
            if rng.random() < 0.4:
                np.moveaxis(w, d, 0)[side] = 0
        faces.append(w)
    extra = 10 ** rng.uniform(-4, 0) * rng.random(shape) if rng.random() < 0.3 else None
    return Poisson.from_faces(faces, extra=extra)


def random_coefficients(rng):
    shape = random_shape(rng)
    kappa = 10 ** rng.uniform(-2, 2, shape) * 10 ** rng.uniform(-15, 5)
    return Poisson.from_coefficients(
        kappa, spacing=tuple(rng.uniform(0.3, 3, len(shape))), boundary=random_boundary(rng, len(shape))
    )


def random_cells(rng):
    shape = random_shape(rng)
    cells = rng.choice([0, 1, 2], p=[0.2, 0.75, 0.05], size=shape)
    cells[tuple(n // 2 for n in shape)] = 1
    return Poisson.from_cells(cells, boundary=random_boundary(rng, len(shape)))


SOURCES = {
    **{name: (lambda rng, name=name: scene(name, random_shape(rng), int(rng.integers(1 << 30)))) for name in FAMILIES},
    "random_faces": random_faces,
    "random_coefficients": random_coefficients,
    "random_cells": random_cells,
}


def random_rhs(A, rng, dtype):
    kind = rng.choice(["white", "divergence", "points", "incompatible"], p=[0.5, 0.2, 0.2, 0.1])
    if kind == "incompatible":
        return torch.from_numpy(rng.standard_normal(A.grid_shape)).to(dtype)
    return right_hand_side(A, str(kind), int(rng.integers(1 << 30))).to(dtype)


def true_residual(A, b, x):
    """‖b - A x‖ in float64 from the assembled matrix, and the rounding of that evaluation."""
    matrix = A.matrix().astype(np.float64)
    b = A.from_grid(A.to_grid(b.double()), b.double()).numpy().ravel()
    x = x.double().numpy().ravel()
    rounding = 8 * np.finfo(float).eps * (np.linalg.norm(abs(matrix) @ abs(x)) + np.linalg.norm(b))
    return np.linalg.norm(b - matrix @ x), np.linalg.norm(b), rounding


@pytest.mark.parametrize("source", SOURCES)
def test_info_zero_is_a_promise_on_random_systems(source):
    rng = np.random.default_rng([71_993, *source.encode()])
    regular = converged = 0
    for k in range(SYSTEMS_PER_SOURCE):
        dtype = (torch.float64, torch.float32)[k % 3 == 2]
        A = SOURCES[source](rng).to(dtype=dtype)
        b = random_rhs(A, rng, dtype)
        rtol = float(10 ** rng.uniform(-9, -1))
        atol = float(rng.choice([0.0, 1e-3 * float(torch.linalg.vector_norm(b))], p=[0.9, 0.1]))
        x, info = solve(A, b, k, rtol=rtol, atol=atol)
        assert bool(torch.isfinite(x).all())
        true, norm_b, rounding = true_residual(A, b, x)
        tolerance = max(rtol * norm_b, atol)
        if info == 0:
            assert true <= tolerance + rounding, (source, k, A, info, rtol)
        assert info.true_residual == pytest.approx(true, rel=1e-6, abs=rounding)
        if dtype == torch.float64 and not A.nullspace:
            regular += 1
            converged += info == 0
    assert converged >= 0.99 * regular, f"{converged} of {regular} regular float64 systems converged"


def solve(A, b, k, **tolerances):
    if k % 10 == 9:
        return dcdm(A, b, None, **tolerances)
    return cg(A, b, M=PRECONDITIONERS[k % len(PRECONDITIONERS)], **tolerances)


def test_enough_systems_are_tried():
    assert SYSTEMS_PER_SOURCE * len(SOURCES) >= 2000
