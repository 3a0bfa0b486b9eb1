"""Cell-type problems in four bytes per cell: every link is 0 or one conductance W, every diagonal a multiple of W.

Pressure projection, heat and electrostatics on voxels with equal spacing are of this kind. A/W then has links of 0 and
1 and small integers on its diagonal, exactly; the CPU kernels read these bytes instead of four words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from krylearn.pde.poisson.fields import Slot

from .compile import inlined_kernel, ordered_row_kernel as row_kernel, over_strips, strip_kernel, threads_for
from .neighbours import four_sides

Array = np.ndarray[Any, Any]
SOLID, FLUID, OPEN, WALL, FIXED = (np.uint8(k) for k in range(5))  # codes of `Cell`; beyond a Neumann, a Dirichlet side
PER_CELL = 100  # times cheaper is it to look at a cell here than what `threads_for` reckons with


class CellBytes(NamedTuple):
    """A/unit in bytes; grids."""

    unit: float
    links: tuple[Array, Array, Array]
    diag: Array


CELL_BYTES: Slot[CellBytes | None] = Slot("cell bytes")  # of an operator


# --- from voxels: a cell's row follows from its own code and those of its six neighbours ------------------------------


@row_kernel
def code_beyond(n, kind):
    """Return the code of what lies beyond an end of an axis of n cells; 0: the cell at the other end."""
    if kind == 2:
        return SOLID if n > 1 else WALL
    return FIXED if kind == 1 else WALL


@inlined_kernel
def rows_around(row, size, kinds):
    """Return the rows on four sides, and the code of what lies there if it is no row."""
    nx, ny = size[0], size[1]
    (i, j), rows = four_sides(row, nx, ny)
    codes = (
        code_beyond(nx, kinds[0, 0]) if i == 0 else SOLID,
        code_beyond(nx, kinds[0, 1]) if i == nx - 1 else SOLID,
        code_beyond(ny, kinds[1, 0]) if j == 0 else SOLID,
        code_beyond(ny, kinds[1, 1]) if j == ny - 1 else SOLID,
    )
    return rows, codes


@inlined_kernel
def ends_of(row, nz, kinds):
    """Return the codes before the first and after the last cell of a row."""
    low, high = code_beyond(nz, kinds[2, 0]), code_beyond(nz, kinds[2, 1])
    return low if low != 0 else row[nz - 1], high if high != 0 else row[0]


@row_kernel
def count_faces(code):
    """Count the conductances between an unknown and a neighbour of this code."""
    return np.uint8(0) if code == SOLID or code == WALL else np.uint8(2) if code == FIXED else np.uint8(1)


@row_kernel
def add_faces(neighbours, count):
    """Count one conductance for each neighbour that is not solid."""
    for k in range(count.shape[0]):
        count[k] += np.uint8(1) if neighbours[k] != SOLID else np.uint8(0)


@row_kernel
def add_number(number, count):
    """Add the same number everywhere."""
    for k in range(count.shape[0]):
        count[k] += number


@row_kernel
def write_links(own, neighbours, link):
    """Write 1 where two unknowns lie side by side."""
    for k in range(own.shape[0]):
        link[k] = np.uint8(1) if (own[k] == FLUID) & (neighbours[k] == FLUID) else np.uint8(0)


@row_kernel
def clear_without_unknown(own, count):
    """Set to 0 where there is no unknown."""
    for k in range(own.shape[0]):
        count[k] = count[k] if own[k] == FLUID else np.uint8(0)


@strip_kernel
def encode_voxel_rows(start, stop, cells, size, kinds, links, diag):
    """Write the links and the diagonal of rows start..stop in bytes."""
    nz = size[2]
    for row in range(start, stop):
        rows, codes = rows_around(row, size, kinds)
        own, count = cells[row], diag[row]
        low, high = ends_of(own, nz, kinds)
        for side in range(4):
            if codes[side] == SOLID:
                add_faces(cells[rows[side]], count)
            else:
                add_number(count_faces(codes[side]), count)
            if side % 2 == 1 and codes[side] == SOLID:
                write_links(own, cells[rows[side]], links[side // 2, row])
        add_faces(own[: nz - 1], count[1:])
        add_faces(own[1:], count[: nz - 1])
        count[0] += count_faces(low)
        count[nz - 1] += count_faces(high)
        write_links(own[: nz - 1], own[1:], links[2, row, : nz - 1])
        links[2, row, nz - 1] = 1 if own[nz - 1] == FLUID and high == FLUID else 0
        clear_without_unknown(own, count)


KINDS = {"neumann": 0, "dirichlet": 1, "periodic": 2}


def encode_cells(voxels: Any) -> CellBytes:
    """Return the operator in bytes."""
    shape = tuple(voxels.cells.shape)
    rows = (shape[0] * shape[1], shape[2])
    links, diag = np.zeros((3, *rows), np.uint8), np.zeros(rows, np.uint8)
    with threads_for(diag.size // PER_CELL):
        over_strips(encode_voxel_rows, rows[0], *problem_of(voxels), links, diag)
    x, y, z = links.reshape(3, *shape)
    return CellBytes(voxels.unit, (x, y, z), diag.reshape(shape))


def problem_of(voxels: Any) -> tuple[Array, Array, Array]:
    """Return what all kernels here take: codes by rows, the size, and the kinds of the sides as numbers."""
    size = np.array(voxels.cells.shape)
    return (
        voxels.cells.numpy().reshape(-1, size[2]),
        size,
        np.array([[KINDS[k] for k in pair] for pair in voxels.kinds]),
    )


# --- from conductances ------------------------------------------------------------------------------------------------


@strip_kernel
def encode_rows(start, stop, links, diag, unit, slack, codes, counts, fits):
    """Write rows start..stop as bytes, and whether each fits; give up at the first that does not."""
    for row in range(start, stop):
        good = True
        for d in range(3):
            w, out = links[d][row], codes[d, row]
            for k in range(w.shape[0]):
                out[k] = 1 if w[k] == unit else 0
            for k in range(w.shape[0]):
                good &= (w[k] == 0) | (w[k] == unit)
        q, out = diag[row], counts[row]
        for k in range(q.shape[0]):
            count = np.rint(q[k] / unit)
            good &= (abs(q[k] / unit - count) <= slack * count) & (count < 256)
            out[k] = np.uint8(count) if count < 256 else np.uint8(255)
        if not good:
            return
        fits[row] = True


def find_cell_bytes(A: Any) -> CellBytes | None:
    """Return the operator in bytes, or None if it is not of cell type; kept in the operator's cache.

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.pde import Poisson
    >>> find_cell_bytes(Poisson.from_coefficients(np.full((4, 4), 3.0))).unit
    3.0
    """
    return CELL_BYTES.compute_once(A, lambda: encode_conductances(A) if A.voxels is None else encode_cells(A.voxels))


def encode_conductances(A: Any) -> CellBytes | None:
    """Write the operator in bytes, or return None if it has several conductances."""
    shape = tuple(A.diag.shape)
    # if there is one conductance, any positive link shows it, mostly one of the first plane
    unit = next((m for w in A.links for plane in w if (m := float(plane.max())) > 0), 0.0)
    if not 0 < unit < np.inf:
        return None
    rows = (shape[0] * shape[1], shape[2])
    links = tuple(w.contiguous().numpy().reshape(rows) for w in A.links)
    diag = A.diag.contiguous().numpy().reshape(rows)
    codes, counts, fits = np.empty((3, *rows), np.uint8), np.empty(rows, np.uint8), np.zeros(rows[0], np.bool_)
    slack = 16 * np.finfo(diag.dtype).eps  # the diagonal is a sum of rounded terms
    with threads_for(diag.size):
        over_strips(encode_rows, rows[0], links, diag, unit, slack, codes, counts, fits)
    if not fits.all():
        return None
    x, y, z = codes.reshape(3, *shape)
    return CellBytes(unit, (x, y, z), counts.reshape(shape))
