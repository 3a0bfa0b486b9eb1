"""Liquid with a free surface: a dam break by particles on a MAC grid (FLIP), one pressure system per step.

Particles carry the liquid; cells that hold one are FLUID, other cells that are not SOLID are OPEN (air, p = 0), so the
system's geometry changes every step. Per step: move the particles, mark the cells, average velocities to the faces, add
gravity, project, extend the velocities into the air, hand the change back to the particles.
Brackbill and Ruppel 1986; Zhu and Bridson 2005. Lengths in box heights, times in seconds; the last axis points up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..poisson.grid import Cell, internal_shape
from ..poisson.operator import Poisson
from . import mac
from .advection import sample

LAYERS = 4  # faces into the air, and thus cells per step, that extended velocities reach


@dataclass(frozen=True)
class LiquidFrame:
    """What one step leaves: the system as it was posed, its solution, cells, velocities and particles after it.

    `p`, `cells` and `b` have the grid's shape; `u` are face velocities in the internal 3D layout; `particles` are
    (3, number) positions in cells.
    """

    A: Poisson
    b: Tensor
    p: Tensor
    cells: Tensor
    u: list[Tensor]
    particles: Tensor
    time: float


def scatter(values: Tensor, points: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Average particle values to a grid with trilinear weights; points (3, number) in index coordinates.

    Examples
    --------
    >>> half_way = torch.tensor([[0.5], [0.0], [0.0]])
    >>> scatter(torch.tensor([3.0]), half_way, (3, 1, 1)).ravel().tolist()
    [3.0, 3.0, 0.0]
    """
    low = points.floor()
    fraction = points - low
    total, weights = (values.new_zeros(int(np.prod(shape))) for _ in range(2))
    for corner in product((0, 1), repeat=3):
        # flat index of this corner, and its trilinear weight
        index = torch.zeros_like(values, dtype=torch.long)
        weight = torch.ones_like(values)
        for axis, c in enumerate(corner):
            index = index * shape[axis] + (low[axis].long() + c).clamp(0, shape[axis] - 1)
            weight = weight * (fraction[axis] if c else 1 - fraction[axis])
        total.index_add_(0, index, weight * values)
        weights.index_add_(0, index, weight)
    return torch.where(weights > 0, total / weights.clamp_min(1e-30), 0.0).reshape(shape)


def extend(v: Tensor, known: Tensor, layers: int = LAYERS) -> Tensor:
    """Extend v from the known entries, layer by layer, by the mean of the known neighbours.

    Examples
    --------
    >>> v, known = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([True, False, False])
    >>> extend(v.reshape(3, 1, 1), known.reshape(3, 1, 1)).ravel().tolist()
    [2.0, 2.0, 2.0]
    """
    v = torch.where(known, v, 0.0)
    for _ in range(layers):
        total, count = torch.zeros_like(v), torch.zeros_like(v)
        for q, out in ((v, total), (known.to(v.dtype), count)):
            for axis in range(3):
                left, right = mac.values_beside_faces(q, axis, outside=0.0)
                n = v.shape[axis]
                out += mac.slice_along(left, axis, 0, n) + mac.slice_along(right, axis, 1, n)
        v = torch.where(known | (count == 0), v, total / count.clamp_min(1.0))
        known = known | (count > 0)
    return v


@dataclass
class DamBreak(mac.Simulation[LiquidFrame]):
    """A column of liquid collapses in a closed box and runs against a solid pillar.

    Parameters
    ----------
    shape : (nx, nz) or (nx, ny, nz), the last axis up
    dt : time step, s
    gravity : box heights/s²
    column : width and height of the column at the start, fractions of the box
    pillar : low corner and high corner of the solid pillar, fractions of the box; None for none
    flip : share of FLIP; the rest is PIC, which damps
    per_axis : particles per cell and axis
    seed : of the particles' places within their cells
    dtype, device : of all fields

    Examples
    --------
    >>> frame = DamBreak((12, 8, 8)).step(mac.plain_solve)
    >>> frame.A.grid_shape, frame.A.unknowns == int((frame.cells == 1).sum())
    ((12, 8, 8), True)
    """

    shape: tuple[int, ...] = (96, 64, 64)
    dt: float = 0.015
    gravity: float = 9.8
    column: tuple[float, float] = (0.35, 0.75)
    pillar: tuple[tuple[float, float, float], tuple[float, float, float]] | None = ((0.6, 0.35, 0.0), (0.7, 0.65, 0.45))
    flip: float = 0.95
    per_axis: int = 2
    seed: int = 31415
    dtype: torch.dtype = torch.float64
    device: str | torch.device = "cpu"
    time: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        mac.check_shape(self.shape)
        self.inner = internal_shape(self.shape)
        self.h = 1.0 / self.inner[2]
        self.solid = torch.zeros(self.inner, dtype=torch.bool, device=self.device)
        if self.pillar is not None:
            corners = zip(*self.pillar, self.inner, strict=True)
            window = tuple(slice(int(a * n), max(int(b * n), int(a * n) + 1)) for a, b, n in corners)
            self.solid[window if self.inner[1] > 1 else (window[0], slice(None), window[2])] = True
        self.particles = self._place_particles()
        self.velocities = torch.zeros_like(self.particles)
        self.u: list[Tensor] = []

    def _place_particles(self) -> Tensor:
        """Jittered particles in the column; across a flat axis they stay in the middle."""
        rng, k = np.random.default_rng(self.seed), self.per_axis
        counts = [max(1, round(f * n)) for f, n in zip((self.column[0], 1.0, self.column[1]), self.inner, strict=True)]
        fine = [c * (k if n > 1 else 1) for c, n in zip(counts, self.inner, strict=True)]
        at = np.indices(fine).reshape(3, -1) + rng.random((3, int(np.prod(fine))))
        at = at / np.array([k if n > 1 else 1 for n in self.inner])[:, None]
        if self.inner[1] == 1:
            at[1] = 0.5
        points = torch.as_tensor(at, dtype=self.dtype, device=self.device)
        return points[:, ~self._in_solid(points)]

    def _cell_of(self, points: Tensor) -> tuple[Tensor, ...]:
        return tuple(points[d].long().clamp(0, n - 1) for d, n in enumerate(self.inner))

    def _in_solid(self, points: Tensor) -> Tensor:
        return self.solid[self._cell_of(points)]

    def _face_points(self, axis: int) -> Tensor:
        """Particle positions as index coordinates of the faces normal to `axis`."""
        offset = self.particles.new_tensor([0.0 if d == axis else 0.5 for d in range(3)])
        return self.particles - offset[:, None]

    def _at_particles(self, u: list[Tensor], points: Tensor) -> Tensor:
        """Face velocities interpolated to `points`, (3, number)."""
        out = []
        for axis, v in enumerate(u):
            offset = points.new_tensor([0.0 if d == axis else 0.5 for d in range(3)])
            out.append(sample(v[None], (points - offset[:, None])[..., None, None])[0, :, 0, 0])
        return torch.stack(out)

    def _move_particles(self) -> None:
        """Midpoint rule; a particle that would enter a wall gives up the guilty component of its step."""
        scale = self.dt / self.h
        half = self.particles + 0.5 * scale * self._at_particles(self.u, self.particles)
        new = self.particles + scale * self._at_particles(self.u, half)
        limit = new.new_tensor(self.inner)[:, None]
        new = torch.minimum(new.clamp_min(1e-5), limit - 1e-5)
        for axis in range(3):
            # the same step without its component along this axis: if that stays outside, this component was the guilty
            # one
            step = new.clone()
            step[axis] = self.particles[axis]
            new = torch.where(self._in_solid(new) & ~self._in_solid(step), step, new)
        self.particles = torch.where(self._in_solid(new), self.particles, new)

    def _mark_cells(self) -> Tensor:
        """FLUID where particles are, and in holes of one cell inside the liquid; OPEN elsewhere."""
        cells = torch.full(self.inner, int(Cell.OPEN), dtype=torch.uint8, device=self.device)
        cells[self._cell_of(self.particles)] = int(Cell.FLUID)
        cells[self.solid] = int(Cell.SOLID)
        enclosed = torch.ones_like(self.solid)
        for axis, n in enumerate(self.inner):
            left, right = mac.values_beside_faces(cells, axis, outside=int(Cell.SOLID))
            # no neighbour along this axis is air
            enclosed &= (mac.slice_along(left, axis, 0, n) != Cell.OPEN) & (
                mac.slice_along(right, axis, 1, n) != Cell.OPEN
            )
        cells[enclosed & (cells == Cell.OPEN)] = int(Cell.FLUID)
        return cells

    def advance(self) -> tuple[Poisson, Tensor]:
        """Do everything up to the projection and return the pressure system (A, b)."""
        if self.u:
            self._move_particles()
        self.time += self.dt
        self.cells = self._mark_cells()
        # velocities before gravity and pressure are kept: FLIP hands back the change, not the value
        self.before, self.u = [], []
        for axis in range(3):
            shape = tuple(n + (d == axis) for d, n in enumerate(self.inner))
            v = scatter(self.velocities[axis], self._face_points(axis), shape)
            self.before.append(v)
            v = v - self.dt * self.gravity * (axis == 2)
            self.u.append(torch.where(mac.wall_faces(self.cells, axis), 0.0, v))
        return mac.pressure_system(self.u, self.cells, self.h, self.shape)

    def _extend_velocities(self, u: list[Tensor]) -> list[Tensor]:
        """Extend velocities from the faces of FLUID cells into air and walls; nothing crosses a wall."""
        out = []
        for axis, v in enumerate(u):
            left, right = mac.values_beside_faces(self.cells, axis, outside=int(Cell.SOLID))
            v = extend(v, (left == Cell.FLUID) | (right == Cell.FLUID))
            out.append(torch.where((left == Cell.SOLID) != (right == Cell.SOLID), 0.0, v))
        return out

    def finish_step(self, system: tuple[Poisson, Tensor], projected: list[Tensor], p: Tensor) -> LiquidFrame:
        """Extend the velocities into the air and hand their change back to the particles."""
        self.u = self._extend_velocities(projected)
        new = self._at_particles(self.u, self.particles)
        change = new - self._at_particles(self.before, self.particles)
        self.velocities = self.flip * (self.velocities + change) + (1 - self.flip) * new
        p, cells = p.reshape(self.shape), self.cells.reshape(self.shape)
        return LiquidFrame(*system, p, cells, self.u, self.particles, self.time)


def liquid_sequence(
    shape: tuple[int, ...], steps: int, seed: int = 31415, solve: mac.Solve = mac.plain_solve
) -> Iterator[tuple[Poisson, Tensor]]:
    """Yield the (A, b) of `steps` successive pressure projections of a dam break.

    Examples
    --------
    >>> [A.unknowns for A, b in liquid_sequence((8, 8, 8), 2)]
    [144, 147]
    """
    return ((frame.A, frame.b) for frame in DamBreak(shape, seed=seed).frames(steps, solve))
