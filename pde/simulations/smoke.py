"""Smoke on a MAC grid: a buoyant plume past a moving solid sphere, one genuine pressure system per step.

Lengths are in box heights and times in seconds, so a scene means the same at every resolution. The last axis points
up; the box is closed but for the top layer, which is OPEN (p = 0), and an inlet in the floor. Per step: move the
sphere, advect smoke and velocity (MacCormack), add buoyancy and vorticity confinement (Fedkiw, Stam and Jensen 2001),
impose the walls' velocities, project. The pressure solver is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..poisson.grid import Cell, internal_shape
from ..poisson.operator import Poisson
from . import mac
from .advection import advect, advect_faces, displacement, index_grid

Path = Callable[[float], tuple[float, float, float]]


@dataclass(frozen=True)
class Frame:
    """What one step leaves: the pressure system as it was posed, its solution, and the fields after the projection.

    `smoke`, `p`, `cells` and `b` have the grid's shape; `u` are the face velocities in the internal 3D layout.
    """

    A: Poisson
    b: Tensor
    p: Tensor
    smoke: Tensor
    cells: Tensor
    u: list[Tensor]
    time: float


@dataclass
class SmokePlume(mac.Simulation[Frame]):
    """A plume of buoyant smoke from an inlet in the floor, and a solid sphere that moves through it.

    Parameters
    ----------
    shape : (nx, nz) or (nx, ny, nz), the last axis up
    dt : time step, s
    inflow : speed at the inlet, box heights/s
    inlet, radius : radii of inlet and sphere, box heights; radius 0 means no sphere
    buoyancy : upward acceleration of pure smoke, box heights/s²
    confinement : strength of vorticity confinement, dimensionless
    turbulence : relative size of the random fluctuations at the inlet
    path : t -> centre (x, y, z) of the sphere, box heights; default: to and fro across the plume at mid-height
    seed : of the fluctuations
    dtype, device : of all fields

    Examples
    --------
    >>> plume = SmokePlume((12, 12, 12))
    >>> frame = plume.step(mac.plain_solve)
    >>> frame.A.grid_shape, bool(frame.smoke.max() > 0.5)
    ((12, 12, 12), True)
    """

    shape: tuple[int, ...] = (80, 64, 112)
    dt: float = 0.04
    inflow: float = 1.2
    inlet: float = 0.1
    radius: float = 0.12
    buoyancy: float = 7.0
    confinement: float = 0.4
    turbulence: float = 0.5
    path: Path | None = None
    seed: int = 31415
    dtype: torch.dtype = torch.float64
    device: str | torch.device = "cpu"
    time: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        mac.check_shape(self.shape)
        nx, ny, nz = self.inner = internal_shape(self.shape)
        self.h = 1.0 / nz
        self.rng = np.random.default_rng(self.seed)
        like = torch.zeros(self.inner, dtype=self.dtype, device=self.device)
        self.centres = (index_grid(self.inner, like) + 0.5) * self.h
        self.middle = (0.5 * nx * self.h, 0.5 * ny * self.h)
        self.smoke = like
        self.u = [like.new_zeros([n + (a == d) for a, n in enumerate(self.inner)]) for d in range(3)]
        self.cells = self._mark_cells()

    def sphere(self, time: float) -> tuple[float, float, float]:
        """Centre of the moving sphere."""
        if self.path is not None:
            return self.path(time)
        x, y = self.middle
        return x - 0.4 * x * math.cos(2 * math.pi * time / 3.6), y, 0.48

    def _mark_cells(self) -> Tensor:
        cells = torch.full(self.inner, int(Cell.FLUID), dtype=torch.uint8, device=self.device)
        cells[..., -1] = int(Cell.OPEN)
        cells[self._cells_within(self.sphere(self.time), self.radius)] = int(Cell.SOLID)
        return cells

    def _cells_within(self, centre: tuple[float, float, float], radius: float) -> Tensor:
        """Cells of a ball; in 2D of a disc, whose y does not count."""
        squares = [(self.centres[d] - centre[d]) ** 2 for d in range(3) if self.inner[d] > 1]
        return torch.stack(squares).sum(0) < radius**2

    def _impose_walls(self, u: list[Tensor]) -> list[Tensor]:
        """Give wall faces the wall's velocity: the sphere's beside SOLID cells, the inlet's in the floor, else 0."""
        before, now = self.sphere(self.time - self.dt), self.sphere(self.time)
        out = []
        for axis, v in enumerate(u):
            left, right = mac.values_beside_faces(self.cells == Cell.SOLID, axis, outside=0.0)
            speed = (now[axis] - before[axis]) / self.dt if self.inner[axis] > 1 else 0.0
            v = torch.where(mac.wall_faces(self.cells, axis), (left | right) * speed, v)
            mac.slice_along(v, axis, 0, 1).zero_()
            mac.slice_along(v, axis, v.shape[axis] - 1, 1).zero_()
            out.append(v)
        out[2][..., 0] = self.inflow * self._inlet_profile()[..., 0]
        out[2][..., -1] = out[2][..., -2]  # smoke leaves through the top as it reaches it
        return out

    def _inlet_profile(self) -> Tensor:
        """Smooth inlet profile: 1 in the middle, 0 from the radius on."""
        x, y = self.middle
        squares = (self.centres[0] - x) ** 2 + ((self.centres[1] - y) ** 2 if self.inner[1] > 1 else 0.0)
        return (2.0 * (1.0 - squares / self.inlet**2)).clamp(0.0, 1.0)

    def _emit_smoke(self) -> None:
        """Fill the inlet with smoke, whose density fluctuates in patches."""
        source = self._inlet_profile() * (self.centres[2] < max(0.04, 1.01 * self.h))
        patches = torch.as_tensor(self.rng.random((4, 4)), dtype=self.dtype, device=self.device)
        at = (self.centres[:, :, :, 0] * 40 + 4 * self.rng.random()) % 4
        amount = 1.0 - self.turbulence * patches[at[0].long(), at[1].long()]
        self.smoke = torch.maximum(self.smoke, source * amount[..., None])

    def _add_forces(self, u: list[Tensor]) -> list[Tensor]:
        """Add buoyancy and vorticity confinement: ε h (N x ω), N = ∇|ω|/|∇|ω||."""
        v = mac.to_centres(u)
        slope = [[self._central_difference(v[i], j) for j in range(3)] for i in range(3)]
        curl = [slope[2][1] - slope[1][2], slope[0][2] - slope[2][0], slope[1][0] - slope[0][1]]
        size = torch.stack(curl).square().sum(0).sqrt()
        normal = [self._central_difference(size, d) for d in range(3)]
        scale = self.confinement * self.h / torch.stack(normal).square().sum(0).sqrt().clamp_min(1e-6 / self.h)
        out = []
        for d, w in enumerate(u):
            i, j = (d + 1) % 3, (d + 2) % 3
            force = scale * (normal[i] * curl[j] - normal[j] * curl[i])
            if d == 2:
                force = force + self.buoyancy * self.smoke
            out.append(w + self.dt * mac.to_faces(force, d))
        return out

    def _central_difference(self, q: Tensor, axis: int) -> Tensor:
        """Central difference, one-sided at the ends."""
        left, right = mac.values_beside_faces(q, axis)
        n = q.shape[axis]
        return (mac.slice_along(right, axis, 1, n) - mac.slice_along(left, axis, 0, n)) / (2 * self.h)

    def advance(self) -> tuple[Poisson, Tensor]:
        """Do everything up to the projection and return the pressure system (A, b)."""
        moved = displacement(self.u, self.dt / self.h)
        self.time += self.dt
        self.cells = self._mark_cells()
        self.smoke = advect(self.smoke, moved) * (self.cells != Cell.SOLID)
        self._emit_smoke()
        self.u = self._impose_walls(self._add_forces(advect_faces(self.u, moved)))
        return mac.pressure_system(self.u, self.cells, self.h, self.shape)

    def finish_step(self, system: tuple[Poisson, Tensor], projected: list[Tensor], p: Tensor) -> Frame:
        """Let smoke leave through the top as it reaches it."""
        self.u = projected
        self.u[2][..., -1] = self.u[2][..., -2]
        p, smoke, cells = (g.reshape(self.shape) for g in (p, self.smoke, self.cells))
        return Frame(*system, p, smoke, cells, self.u, self.time)


def smoke_sequence(
    shape: tuple[int, ...], steps: int, seed: int = 31415, solve: mac.Solve = mac.plain_solve
) -> Iterator[tuple[Poisson, Tensor]]:
    """Yield the (A, b) of `steps` successive pressure projections of a smoke plume past a moving sphere.

    Examples
    --------
    >>> [A.unknowns for A, b in smoke_sequence((8, 8, 8), 2)]
    [444, 444]
    """
    return ((frame.A, frame.b) for frame in SmokePlume(shape, seed=seed).frames(steps, solve))
