"""Several operators on grids of one shape as a single one: the block-diagonal system of all of them.

The grids are put side by side with walls between, along an axis that does not wrap. So one set-up, one loop and one
kernel launch serve many small systems. Each gets a power of two of cells along that axis: then no coarse cell of a
multigrid hierarchy holds parts of two systems before each system is down to one cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .conductances import Conductances
from .fields import Deviation, Uncoupled
from .grid import internal_axes, internal_shape
from .operator import Poisson


def stack(operators: Sequence[Poisson]) -> Poisson:
    """Return the block-diagonal operator of several; differentiable in what they were built from.

    Its rows are the rows of the first operator, then those of the second, and so on: flat vectors of shape
    ``(..., k * n)`` belong to ``(..., k, n)`` of the operators one by one.

    Parameters
    ----------
    operators : k `Poisson` on grids of one shape, with the same periodic axes, spacing, dtype and device

    Raises
    ------
    ValueError
        for operators that differ in one of these, for none, or with all axes periodic (no room for a wall)

    Examples
    --------
    >>> A = Poisson.from_coefficients([[1.0, 3.0]], boundary="neumann", shift=1.0)
    >>> both = stack([A, Poisson.from_coefficients([[2.0, 2.0]], boundary="neumann", shift=1.0)])
    >>> both.matrix().toarray().tolist()
    [[2.5, -1.5, 0.0, 0.0], [-1.5, 2.5, 0.0, 0.0], [0.0, 0.0, 3.0, -2.0], [0.0, 0.0, -2.0, 3.0]]
    """
    first = _alike(operators)
    inside, d = internal_shape(first.grid_shape), _axis(first)

    room = 1 << (inside[d] - 1).bit_length()

    def joined(parts: Sequence[Tensor]) -> Tensor:
        wall = [parts[0].new_zeros([room - n if axis == d else n for axis, n in enumerate(inside)])]
        return torch.cat([piece for part in parts for piece in (part.expand(inside), *wall)], dim=d)

    links = [joined([A.links[axis] for A in operators]) for axis in range(3)]
    ground = [joined([A.ground[axis] for A in operators]) for axis in range(3)]
    axis = internal_axes(len(first.grid_shape)).index(d)
    grid_shape = tuple(n if k != axis else room * len(operators) for k, n in enumerate(first.grid_shape))
    return Poisson(
        grid_shape=grid_shape,
        spacing=tuple(h if isinstance(h, float) else 1.0 for h in first.spacing),  # sizes by cell are of one grid
        boundary=tuple(("neumann", "neumann") if k == axis else kind for k, kind in enumerate(first.boundary)),
        unknown=joined([A.unknown for A in operators]),
        source=Conductances(
            (links[0], links[1], links[2]), (ground[0], ground[1], ground[2]), joined([A.shift for A in operators])
        ),
        numbering=_numbering(operators, internal_shape(grid_shape), room, inside[d], d),
        uncoupled=_uncoupled(operators, internal_shape(grid_shape), room, inside[d], d),
        deviation=_deviation(operators, internal_shape(grid_shape), room, inside[d], d),
    )


def _alike(operators: Sequence[Poisson]) -> Poisson:
    if not operators:
        raise ValueError("got no operators; expected at least one")
    first = operators[0]
    for k, A in enumerate(operators):
        if not all(np.array_equal(g, h) for g, h in zip(A.spacing, first.spacing, strict=False)):
            raise ValueError(f"got operators with different spacing (number {k}); expected equal ones: group them")
        for what in ("grid_shape", "periodic", "dtype", "device"):
            mine, theirs = getattr(A, what), getattr(first, what)
            if mine != theirs:
                raise ValueError(
                    f"got operators with {what} {theirs} and {mine} (number {k}); expected equal ones: group them"
                )
    return first


def room_for_walls(A: Poisson) -> bool:
    """Tell whether grids like this one can be put side by side: along some axis that does not wrap.

    >>> room_for_walls(Poisson.from_cells([[1, 1]])), room_for_walls(Poisson.from_cells([[1, 1]], boundary="periodic"))
    (True, False)
    """
    return not all(A.periodic[d] for d in internal_axes(len(A.grid_shape)))


def _axis(A: Poisson) -> int:
    """Choose the internal axis to put grids side by side along: the one that wastes the fewest cells."""
    free = [d for d in internal_axes(len(A.grid_shape)) if not A.periodic[d]]
    if not free:
        raise ValueError("got operators that wrap along all axes; expected one axis that does not: solve one by one")
    sizes = internal_shape(A.grid_shape)
    return min(free, key=lambda d: (1 << (sizes[d] - 1).bit_length()) / sizes[d])


def _cells_of_blocks(
    operators: Sequence[Poisson], shape: tuple[int, int, int], room: int, n: int, d: int
) -> list[Tensor]:
    """Return, system by system, where its cells lie in the joint grid."""
    cells = torch.arange(torch.Size(shape).numel(), device=operators[0].device).reshape(shape)
    return [block.narrow(d, 0, n).reshape(-1) for block in cells.split(room, dim=d)]


def _uncoupled(operators: Sequence[Poisson], *blocks: Any) -> Uncoupled | None:
    """Join the uncoupled rows."""
    pairs = zip(_cells_of_blocks(operators, *blocks), operators, strict=True)
    found = [(cells[A.uncoupled.cells], A.uncoupled.diag) for cells, A in pairs if A.uncoupled is not None]
    if not found:
        return None
    cells, order = torch.cat([cells for cells, _ in found]).sort()
    return Uncoupled(cells, torch.cat([diag for _, diag in found])[order])


def _deviation(operators: Sequence[Poisson], *blocks: Any) -> Deviation | None:
    """Join what the matrices have more than the operators."""
    pairs = zip(_cells_of_blocks(operators, *blocks), operators, strict=True)
    found = [
        (cells[A.deviation.rows], cells[A.deviation.columns], A.deviation.values) for cells, A in pairs if A.deviation
    ]
    return Deviation(*(torch.cat(parts) for parts in zip(*found, strict=True))) if found else None


def _numbering(operators: Sequence[Poisson], shape: tuple[int, int, int], room: int, n: int, d: int) -> Tensor:
    """Find the internal cell of each row, system by system."""
    blocks = _cells_of_blocks(operators, shape, room, n, d)
    return torch.cat([b if A.numbering is None else b[A.numbering] for b, A in zip(blocks, operators, strict=True)])
