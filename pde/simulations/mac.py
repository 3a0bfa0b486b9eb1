"""The marker-and-cell grid: pressures and smoke at cell centres, velocities at faces; what both simulators share.

Everything has the internal 3D shape (nx, ny, nz); 2D is (nx, 1, nz) with nothing moving across the flat axis.
`u[d]` lives on the faces normal to axis d and has one entry more along it. Outside the box is wall.

The pressure system in the scaling of `Poisson`: with p the pressure times dt/density, u_new = u - (p_right - p_left)/h
on the faces of FLUID cells that are not walls; the net outflow of u_new is zero if A p = b, b = -(net outflow of u).
Harlow and Welch 1965.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..poisson.grid import Cell
from ..poisson.operator import Poisson

Solve = Callable[[Poisson, Tensor], Any]  # (A, b) -> p, grid-shaped or flat
Frame = TypeVar("Frame")


class Simulation(Generic[Frame]):
    """A simulation in steps of one pressure projection each; `advance` and `finish_step` make one.

    shape : of the grid;  u, cells, h : face velocities, cells (internal 3D layout) and cell size, kept by the subclass
    """

    shape: tuple[int, ...]
    u: list[Tensor]
    cells: Tensor
    h: float

    def advance(self) -> tuple[Poisson, Tensor]:
        """Do everything up to the projection and return the pressure system (A, b)."""
        raise NotImplementedError

    def finish_step(self, system: tuple[Poisson, Tensor], projected: list[Tensor], p: Tensor) -> Frame:
        """Take over the projected velocities and return the frame."""
        raise NotImplementedError

    def step(self, solve: Solve) -> Frame:
        """Advance by one time step; `solve(A, b)` returns the pressure, grid-shaped or flat."""
        system = self.advance()
        return self.finish_step(system, *project_velocities(self.u, self.cells, self.h, solve, system))

    def frames(self, steps: int, solve: Solve) -> Iterator[Frame]:
        """Yield `steps` frames."""
        for _ in range(steps):
            yield self.step(solve)


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse what is no grid for a simulation.

    Examples
    --------
    >>> check_shape((8, 8))
    """
    if len(shape) not in (2, 3) or min(shape) < 4:
        raise ValueError(f"shape is {shape}; expected two or three axes of at least 4 cells")


def slice_along(x: Tensor, axis: int, start: int, length: int) -> Tensor:
    """Return `length` entries of the last-three axis `axis` from `start`; a view.

    Examples
    --------
    >>> slice_along(torch.zeros(4, 5, 6), 1, 1, 3).shape
    torch.Size([4, 3, 6])
    """
    return x.narrow(x.dim() - 3 + axis, start, length)


def values_beside_faces(x: Tensor, axis: int, outside: float | None = None) -> tuple[Tensor, Tensor]:
    """Cell values left and right of every face normal to `axis`; beyond the box `outside`, or the nearest value.

    Examples
    --------
    >>> left, right = values_beside_faces(torch.ones(2, 1, 1), 0, outside=0.0)
    >>> left.ravel().tolist(), right.ravel().tolist()
    ([0.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    """
    n = x.shape[axis - 3]
    low, high = slice_along(x, axis, 0, 1), slice_along(x, axis, n - 1, 1)
    if outside is not None:
        low, high = torch.full_like(low, outside), torch.full_like(high, outside)
    return torch.cat([low, x], x.dim() - 3 + axis), torch.cat([x, high], x.dim() - 3 + axis)


def to_faces(x: Tensor, axis: int) -> Tensor:
    """Average cell values to the faces normal to `axis`.

    Examples
    --------
    >>> to_faces(torch.tensor([1.0, 3.0]).reshape(2, 1, 1), 0).ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    left, right = values_beside_faces(x, axis)
    return (left + right) / 2


def to_centres(u: list[Tensor]) -> Tensor:
    """Average face velocities to the cell centres: (3, nx, ny, nz).

    Examples
    --------
    >>> to_centres([torch.ones(3, 1, 2), torch.zeros(2, 2, 2), torch.zeros(2, 1, 3)])[0].ravel().tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    pairs = [(slice_along(v, d, 0, v.shape[d] - 1), slice_along(v, d, 1, v.shape[d] - 1)) for d, v in enumerate(u)]
    return torch.stack([(low + high) / 2 for low, high in pairs])


def wall_faces(cells: Tensor, axis: int) -> Tensor:
    """Faces with SOLID or the outside on either side: their velocity is imposed.

    Examples
    --------
    >>> wall_faces(torch.ones(2, 1, 1, dtype=torch.uint8), 0).ravel().tolist()
    [True, False, True]
    """
    left, right = values_beside_faces(cells, axis, outside=int(Cell.SOLID))
    return (left == Cell.SOLID) | (right == Cell.SOLID)


def pressure_faces(cells: Tensor, axis: int) -> Tensor:
    """Faces through which pressure acts: FLUID on one side, no wall on the other.

    Examples
    --------
    >>> pressure_faces(torch.ones(2, 1, 1, dtype=torch.uint8), 0).ravel().tolist()
    [False, True, False]
    """
    left, right = values_beside_faces(cells, axis, outside=int(Cell.SOLID))
    return ((left == Cell.FLUID) | (right == Cell.FLUID)) & (left != Cell.SOLID) & (right != Cell.SOLID)


def net_outflow(u: list[Tensor], cells: Tensor, area: float = 1.0) -> Tensor:
    """Net outflow of every FLUID cell: Σ area · (u_right - u_left); zero elsewhere.

    Examples
    --------
    >>> u = [torch.tensor([0.0, 1.0]).reshape(2, 1, 1), torch.zeros(1, 2, 1), torch.zeros(1, 1, 2)]
    >>> float(net_outflow(u, torch.ones(1, 1, 1)))
    1.0
    """
    net = sum(slice_along(v, d, 1, v.shape[d] - 1) - slice_along(v, d, 0, v.shape[d] - 1) for d, v in enumerate(u))
    return area * net * (cells == Cell.FLUID)


def subtract_gradient(u: list[Tensor], p: Tensor, cells: Tensor, h: float) -> list[Tensor]:
    """Return u - ∇p on the faces where pressure acts; p is 0 outside FLUID.

    Examples
    --------
    >>> u = [torch.zeros(3, 1, 1), torch.zeros(2, 2, 1), torch.zeros(2, 1, 2)]
    >>> p, cells = torch.tensor([0.0, 1.0]).reshape(2, 1, 1), torch.ones(2, 1, 1, dtype=torch.uint8)
    >>> subtract_gradient(u, p, cells, h=0.5)[0].ravel().tolist()
    [0.0, -2.0, 0.0]
    """
    out = []
    for axis, v in enumerate(u):
        left, right = values_beside_faces(p, axis, outside=0.0)
        out.append(v - (right - left) / h * pressure_faces(cells, axis))
    return out


def pressure_system(u: list[Tensor], cells: Tensor, h: float, grid_shape: tuple[int, ...]) -> tuple[Poisson, Tensor]:
    """Return (A, b) whose solution makes u free of divergence in every FLUID cell; b has `grid_shape`.

    Examples
    --------
    >>> u = [torch.zeros(3, 1, 2), torch.zeros(2, 2, 2), torch.ones(2, 1, 3)]
    >>> A, b = pressure_system(u, torch.tensor([[[1, 2]], [[1, 2]]]), h=1.0, grid_shape=(2, 2))
    >>> A.unknowns, tuple(b.shape)
    (2, (2, 2))
    """
    area = h ** (len(grid_shape) - 1)
    A = Poisson.from_cells(cells.reshape(grid_shape), spacing=h)
    return A, -net_outflow(u, cells, area).reshape(grid_shape)


def project_velocities(
    u: list[Tensor], cells: Tensor, h: float, solve: Solve, system: tuple[Poisson, Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Solve the system and subtract the pressure gradient; return (u, p).

    Examples
    --------
    >>> cells, u = torch.tensor([[[1, 2]]]), [torch.zeros(2, 1, 2), torch.zeros(1, 2, 2), torch.zeros(1, 1, 3)]
    >>> u, p = project_velocities(u, cells, 1.0, plain_solve, pressure_system(u, cells, 1.0, (1, 2)))
    >>> float(p.abs().max())
    0.0
    """
    A, b = system
    answer = solve(A, b)
    if isinstance(answer, tuple):
        raise TypeError("solve returned a tuple; expected the pressure alone: lambda A, b: cg(A, b)[0]")
    p = torch.as_tensor(answer, dtype=b.dtype, device=b.device)
    if p.numel() != b.numel():
        raise ValueError(f"solve returned shape {tuple(p.shape)}; expected {tuple(b.shape)} or flat")
    p = torch.where(cells == Cell.FLUID, p.reshape(cells.shape), 0.0)
    return subtract_gradient(u, p, cells, h), p


def plain_solve(A: Poisson, b: Tensor, rtol: float = 1e-6) -> Tensor:
    """SciPy's conjugate gradients with a diagonal preconditioner: the default solver of the sequences.

    Examples
    --------
    >>> A = Poisson.from_cells(np.array([[1, 2], [1, 2]]))
    >>> [round(float(x), 6) for x in plain_solve(A, torch.tensor([[2.0, 0.0], [2.0, 0.0]])).ravel()]
    [2.0, 0.0, 2.0, 0.0]
    """
    from scipy.sparse.linalg import LinearOperator, cg

    matrix = A.matrix()
    diagonal = matrix.diagonal()
    inverse = 1.0 / np.where(diagonal > 0, diagonal, 1.0)
    flat = b.detach().cpu().double().numpy().ravel()
    # SciPy stops on the recursive residual; a tenth leaves room for its drift
    x, info = cg(matrix, flat, rtol=0.1 * rtol, M=LinearOperator(A.shape, matvec=lambda r: inverse * r.ravel()))
    if info != 0:
        raise RuntimeError(f"SciPy's cg returned info = {info}; expected 0: pass a stronger `solve`")
    return torch.as_tensor(x, dtype=b.dtype, device=b.device).reshape(b.shape)
