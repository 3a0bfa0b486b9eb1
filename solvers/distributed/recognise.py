"""Find the conductances in a PETSc AIJ matrix that is numbered by a DMDA, rank by rank, or say what it is instead.

The rules are those of `krylearn.pde.Poisson.from_matrix`: entries couple neighbours only, both triangles agree, no
entry off the diagonal is positive, no diagonal is below the sum of its row; all to 64 rounding errors. What a diagonal
has in excess is shift where all cells have it, else ground through the sides without an unknown behind them. Rows that
couple to nothing and hold a 1 are no unknowns (Dirichlet and solid cells): `identity_rows` tells them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.cpu.compile import kernel
from .builders import Fields
from .halo import bring
from .partition import Array, Box, Partition

TOLERANCE = 64 * float(np.finfo(np.float64).eps)
SYMMETRIC = (
    "different entries above and below the diagonal; expected equal ones: eliminate Dirichlet columns together with "
    "rows (MatZeroRowsColumns, not MatZeroRows)"
)


def partition_of(da: Any) -> Partition:
    """Return the partition of a DMDA with one unknown per point."""
    if da.getDof() != 1 or da.getDim() not in (2, 3):
        raise ValueError(
            f"got a DMDA of {da.getDim()} axes and {da.getDof()} unknowns per point; expected 2 or 3, and 1"
        )
    cuts = [np.concatenate([[0], np.cumsum(r)]) for r in da.getOwnershipRanges()]
    wraps = [kind == type(da).BoundaryType.PERIODIC for kind in da.getBoundaryType()]
    sizes = [int(n) for n in da.getSizes()]
    # of two cells, step and seam are the same pair
    wraps = [wrap and n > 2 for wrap, n in zip(wraps, sizes, strict=True)]
    if len(wraps) == 2:
        wraps.insert(1, False)
    return Partition(tuple(sizes), da.comm.tompi4py(), cuts=cuts, periodic=(wraps[0], wraps[1], wraps[2]))


def recognise(A: Any, part: Partition) -> tuple[Fields, Array]:
    """Return the fields of own cells and the diagonal, or refuse. Collective."""
    if "aij" not in A.getType():
        raise ValueError(f"got a matrix of type {A.getType()}; expected aij: MatConvert it, or -mat_type aij")
    if A.getLocalSize()[0] != part.count:
        raise ValueError(f"got {A.getLocalSize()[0]} local rows; expected {part.count}, one per own point of the DMDA")
    box = part.ghosted()
    found, strange = read_entries(A, part, box)
    diag, up, down = found[0], -found[1::2], -found[2::2]
    around = bring(part, box, np.stack([*up, diag], -1))
    mirror = [_neighbour(around[..., d], box, d, -1) for d in range(3)]
    sums = sum(up) + sum(mirror)
    noise = TOLERANCE * diag
    uneven = any((np.abs(a - b) > noise).any() for a, b in zip(mirror, down, strict=True))
    surplus = np.where(diag > 0, diag - sums, 0.0)
    coupled = sums > 0
    _refuse_together(
        part.comm,
        (
            (bool((~np.isfinite(diag)).any()), "NaN or infinity in the matrix; expected finite entries"),
            (
                bool((diag < 0).any()),
                "a negative diagonal entry; expected > 0: pass -A and -b if A is negative definite",
            ),
            (
                strange,
                "an entry that couples no neighbours; expected a 5-point or 7-point stencil on the DMDA",
            ),
            (any((u < -noise).any() for u in up), "an entry > 0 off the diagonal; expected a Laplacian"),
            (uneven, SYMMETRIC),
            (
                bool((coupled & (surplus < -noise)).any()),
                "a diagonal below the sum of its row; expected more",
            ),
        ),
    )
    unknown = (diag > 0) & (coupled | (np.abs(diag - 1) > TOLERANCE))
    # the 1 of a row that is no unknown is no shift: coarse cells would inherit it
    surplus = np.where(unknown & (surplus > noise), surplus, 0.0)
    shift, ground = _split(part, box, surplus, unknown)
    links = np.stack([np.maximum(u, 0.0) for u in up], -1)
    return Fields(links, ground, shift, unknown), diag


@kernel(parallel=False)
def sort_entries(indptr, column, value, number, low, joined, found):
    """Add up the entries of own rows by where their columns lie; tell whether one couples no neighbours.

    number : (z, y, x) of the cells of a box that is a layer wider than the own cells, -1 beyond the grid
    low : where own cells begin, x first; joined : which axes have more than one cell
    found : (7, z, y, x) of own cells: diagonal, then the next and the previous cell along each axis
    """
    row = 0
    for k in range(found.shape[1]):
        for j in range(found.shape[2]):
            for i in range(found.shape[3]):
                x, y, z = i + low[0], j + low[1], k + low[2]
                here = number[z, y, x]
                for t in range(indptr[row], indptr[row + 1]):
                    c, v = column[t], value[t]
                    if c == here:
                        found[0, k, j, i] += v
                    elif joined[0] and c == number[z, y, x + 1]:
                        found[1, k, j, i] += v
                    elif joined[0] and c == number[z, y, x - 1]:
                        found[2, k, j, i] += v
                    elif joined[1] and c == number[z, y + 1, x]:
                        found[3, k, j, i] += v
                    elif joined[1] and c == number[z, y - 1, x]:
                        found[4, k, j, i] += v
                    elif joined[2] and c == number[z + 1, y, x]:
                        found[5, k, j, i] += v
                    elif joined[2] and c == number[z - 1, y, x]:
                        found[6, k, j, i] += v
                    elif v != 0:
                        return True
                row += 1
    return False


def read_entries(A: Any, part: Partition, box: Box) -> tuple[Array, bool]:
    """Return the entries of own rows, (7, x, y, z), see `sort_entries`, and whether one couples no neighbours."""
    indptr, column, value = A.getValuesCSR()
    number = np.pad(part.numbers(box).transpose(2, 1, 0), 1, constant_values=-1)
    low, joined = np.array([a.start + 1 for a in box.axes]), np.array([n > 1 for n in part.size])
    found = np.zeros((7, *reversed(part.internal_shape)))
    strange = sort_entries(indptr, column, value, np.ascontiguousarray(number), low, joined, found)
    found = np.ascontiguousarray(found.transpose(0, 3, 2, 1))
    return found, bool(strange)


def _neighbour(values: Array, box: Box, d: int, step: int, fill: float = 0) -> Array:
    """Return at own cells the value of the next or previous cell of a ghosted box, `fill` beyond the grid."""
    padding = [(1, 1) if axis == d else (0, 0) for axis in range(3)]
    index = list(box.own)
    index[d] = slice(box.axes[d].start + 1 + step, box.axes[d].stop + 1 + step)
    return np.pad(values, padding, constant_values=fill)[tuple(index)]


def _refuse_together(comm: Any, checks: tuple[tuple[bool, str], ...]) -> None:
    """Raise on every rank what is wrong on any."""
    found = comm.allgather([bool(wrong) for wrong, _ in checks])
    for k, (_, message) in enumerate(checks):
        ranks = [rank for rank, each in enumerate(found) if each[k]]
        if ranks:
            raise ValueError(f"rank {ranks[0]} of {comm.size}: got {message}")


def _split(part: Partition, box: Box, surplus: Array, unknown: Array) -> tuple[Array, Array]:
    """Split the surplus into shift and ground through the sides without an unknown behind them."""
    from mpi4py import MPI

    around = bring(part, box, unknown.astype(np.float64)) > 0
    missing = np.zeros((*unknown.shape, 3))
    for d in range(3):
        if part.size[d] > 1 or d != 1 or len(part.grid_shape) == 3:
            low, high = (_neighbour(around, box, d, step, False) for step in (-1, 1))
            missing[..., d] = np.where(unknown, (~low).astype(int) + ~high, 0)
    count = missing.sum(-1)
    inner = surplus[unknown & (count == 0)]
    lowest_inner, lowest = (
        part.comm.allreduce(float(v.min(initial=math.inf)), MPI.MIN) for v in (inner, surplus[unknown])
    )
    common = min(lowest_inner, lowest) if math.isfinite(lowest_inner) else 0.0
    rest = surplus - common * unknown
    share = np.divide(rest, count, out=np.zeros_like(rest), where=count > 0)
    return np.where(count > 0, common * unknown, surplus), share[..., None] * missing
