"""Operators of cell type kept as what they were built from: one byte per cell, conductances only when asked for.

With one conductance W for all open faces everything follows from the codes of a cell and of its six neighbours. A
simulation that makes a new operator every step then never pays for eight arrays of numbers, since the kernels of
`krylearn.solvers` read bytes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .conductances import Conductances, from_cells, internal_kinds, loses_digits
from .grid import Cell, Kinds, face_factor, internal_shape, parse_boundary, parse_cells, parse_spacing


class Voxels(NamedTuple):
    """What a cell-type operator was built from.

    cells : uint8 codes on the internal grid, a copy of its own; kinds : of the sides, per internal axis
    unit : the one conductance, a number of `dtype`;  given : cells, spacing and boundary for `conductances.from_cells`
    """

    cells: Tensor
    kinds: Kinds
    unit: float
    dtype: torch.dtype
    given: tuple[Tensor, Any, Any]

    def to(self, device: Any) -> Voxels:
        """Return the same with its cells on another device."""
        return self._replace(cells=self.cells.to(device))

    def conductances(self) -> Conductances:
        """Compute the conductances of the operator."""
        cells, spacing, boundary = self.given
        return from_cells(cells, spacing, boundary, None, self.dtype)["source"]

    def linked_along(self, d: int) -> np.ndarray:
        """Say which cells are linked with the next one along an internal axis; of voxels on the host."""
        fluid = self.cells.numpy() == Cell.FLUID
        linked = np.zeros_like(fluid)
        linked[cut(d, 0, -1)] = fluid[cut(d, 0, -1)] & fluid[cut(d, 1, None)]
        if self.kinds[d][0] == "periodic" and fluid.shape[d] > 1:
            linked[cut(d, -1, None)] = fluid[cut(d, -1, None)] & fluid[cut(d, 0, 1)]
        return linked

    def grounded(self) -> np.ndarray:
        """Say which unknowns have a face towards p = 0, next to OPEN or on a Dirichlet side; of voxels on the host."""
        cells = self.cells.numpy()
        is_open = cells == Cell.OPEN
        beside = np.zeros_like(is_open)
        for d, (low, high) in enumerate(self.kinds):
            beside[cut(d, 1, None)] |= is_open[cut(d, 0, -1)]
            beside[cut(d, 0, -1)] |= is_open[cut(d, 1, None)]
            if low == "periodic":
                beside[cut(d, 0, 1)] |= is_open[cut(d, -1, None)]
                beside[cut(d, -1, None)] |= is_open[cut(d, 0, 1)]
            for end, kind in ((cut(d, 0, 1), low), (cut(d, -1, None), high)):
                if kind == "dirichlet":
                    beside[end] = True
        return beside & (cells == Cell.FLUID)


def raw(t: Tensor) -> Any:
    """Return a tensor of the host as an array: NumPy compares bytes thirty times faster than torch."""
    return t.numpy() if t.is_cpu else t


def cut(d: int, start: int | None, stop: int | None) -> tuple[slice, ...]:
    """Index a range along an axis of three."""
    return tuple(slice(start, stop) if axis == d else slice(None) for axis in range(3))


def keep_cells(cells: Any, spacing: Any, boundary: Any, shift: Any, dtype: torch.dtype) -> dict[str, Any] | None:
    """Return the fields that are known without any conductance, None for operators that are not of cell type.

    Raises
    ------
    ValueError
        as `conductances.from_cells`

    Examples
    --------
    >>> sorted(keep_cells(torch.ones(3, 4), 1.0, "neumann", None, torch.float64))
    ['boundary', 'grid_shape', 'open', 'source', 'spacing', 'unknown']
    >>> keep_cells(torch.ones(3, 4), (1.0, 2.0), "neumann", None, torch.float64) is None
    True
    """
    codes = parse_cells(cells)
    h = parse_spacing(spacing, codes.ndim)
    kinds = parse_boundary(boundary, codes.ndim, "neumann")
    factor = face_factor(h, 0)
    unit = float(torch.tensor(factor, dtype=dtype))
    some_shift = shift is not None and not (isinstance(shift, int | float) and shift == 0)
    beyond = loses_digits(1.0, factor, dtype) or 12 * unit > torch.finfo(dtype).max
    if some_shift or len(set(h)) > 1 or beyond:
        return None
    grid_shape = tuple(codes.shape)
    inside = codes.reshape(internal_shape(grid_shape)).contiguous().clone()  # the caller may reuse the array
    given = inside.reshape(grid_shape), h, boundary
    unknown, is_open = (torch.as_tensor(raw(inside) == kind) for kind in (Cell.FLUID, Cell.OPEN))
    return {
        "grid_shape": grid_shape,
        "spacing": h,
        "boundary": kinds,
        "unknown": unknown,
        "open": is_open if bool(raw(is_open).any()) else None,
        "source": Voxels(inside, internal_kinds(kinds), unit, dtype, given),
    }
