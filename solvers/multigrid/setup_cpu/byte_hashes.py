"""Cell hashes of the finest level of a cell-type problem, from its bytes; only where something changed.

Nearly everything in the row of such a cell are six bits. Ground and shift are looked at bit by bit, and remembered as
one hash per row of cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel, over_strips, strip_kernel
from ...kernels.cpu.neighbours import four_sides
from .hashes import FINAL, PRIMES, S32, mix_bits

NONE = np.uint16(0)
LINK_X, LINK_Y, LINK_Z, LOW_X, LOW_Y, LOW_Z, UNKNOWN = (np.uint16(1 << b) for b in range(7))
FILLED_BELOW, FILLED_ABOVE = np.uint16(2048), np.uint16(4096)  # along the row; across rows 128 to 1024


@inlined_kernel
def find_row_neighbours(row, size, periodic):
    """Return the rows below and above across rows, and the bits that say that there is an unknown (0: no such row)."""
    nx, ny = size[0], size[1]
    (i, j), rows = four_sides(row, nx, ny)
    bits = (
        np.uint16(128) if i > 0 or periodic[0] else NONE,
        np.uint16(256) if i < nx - 1 or periodic[0] else NONE,
        np.uint16(512) if j > 0 or periodic[1] else NONE,
        np.uint16(1024) if j < ny - 1 or periodic[1] else NONE,
    )
    return rows, bits


@inlined_kernel
def write_surroundings(row, problem, bits):
    """Write links on six sides, whether there is an unknown, and at which neighbours there is one, in 13 bits."""
    x, y, z, diag, size, periodic = problem
    nz = size[2]
    (x0, x1, y0, y1), (bx0, bx1, by0, by1) = find_row_neighbours(row, size, periodic)
    for k in range(nz):
        c = (LINK_X if x[row, k] != 0 else NONE) | (LINK_Y if y[row, k] != 0 else NONE)
        c |= (LINK_Z if z[row, k] != 0 else NONE) | (UNKNOWN if diag[row, k] != 0 else NONE)
        c |= (LOW_X if x[x0, k] != 0 else NONE) | (LOW_Y if y[y0, k] != 0 else NONE)
        c |= (bx0 if diag[x0, k] != 0 else NONE) | (bx1 if diag[x1, k] != 0 else NONE)
        bits[k] = c | (by0 if diag[y0, k] != 0 else NONE) | (by1 if diag[y1, k] != 0 else NONE)
    for k in range(1, nz):
        bits[k] |= (LOW_Z if z[row, k - 1] != 0 else NONE) | (FILLED_BELOW if diag[row, k - 1] != 0 else NONE)
    for k in range(nz - 1):
        bits[k] |= FILLED_ABOVE if diag[row, k + 1] != 0 else NONE
    bits[0] |= LOW_Z if z[row, nz - 1] != 0 else NONE
    if periodic[2]:
        bits[0] |= FILLED_BELOW if diag[row, nz - 1] != 0 else NONE
        bits[nz - 1] |= FILLED_ABOVE if diag[row, 0] != 0 else NONE


@inlined_kernel
def hash_ground_of_row(row, extras):
    """Condense the bits of ground and shift of a row; 0 if there are none."""
    some = np.uint64(0)
    for extra in extras:
        for k in range(extra.shape[1]):
            some |= np.uint64(extra[row, k])
    h = np.uint64(0)
    if some != 0:
        for f, extra in enumerate(extras):
            for k in range(extra.shape[1]):
                v = np.uint64(extra[row, k]) * PRIMES[f]
                h += (v ^ (v >> S32)) * (FINAL + np.uint64(2 * k))
        h |= np.uint64(1)
    return h


@row_kernel
def find_differing_range(row, before):
    """Return from where to where two rows differ, (0, 0) if they do not."""
    some = False
    for k in range(row.shape[0]):
        some |= row[k] != before[k]
    if not some:
        return 0, 0
    low, high = 0, row.shape[0]
    while row[low] == before[low]:
        low += 1
    while row[high - 1] == before[high - 1]:
        high -= 1
    return low, high


@strip_kernel
def hash_changed_cells(start, stop, problem, extras, before, cell_hashes, ranges):
    """Write the cell hashes of rows start..stop where they changed, and `ranges`: from where to where they did.

    extras : the bits of ground and shift; before : surroundings of cells and hashes of rows of the last set-up
    """
    bits_before, row_hashes = before
    _, _, _, _, size, _ = problem
    nz = size[2]
    bits = np.empty(nz, np.uint16)
    for row in range(start, stop):
        write_surroundings(row, problem, bits)
        h = hash_ground_of_row(row, extras)
        low, high = find_differing_range(bits, bits_before[row])
        if h != row_hashes[row]:
            low, high = 0, nz
        ranges[row, 0], ranges[row, 1], row_hashes[row] = low, high, h
        for k in range(low, high):
            bits_before[row, k] = bits[k]
            total = np.uint64(bits[k]) * PRIMES[0]
            if h != 0:
                for f, extra in enumerate(extras):
                    total += np.uint64(extra[row, k]) * PRIMES[1 + f]
            cell_hashes[row * nz + k] = mix_bits(total) if bits[k] & UNKNOWN else np.uint64(0)


class ByteHashes:
    """Cell hashes of the finest level of a cell-type problem, and what they were found from."""

    def __init__(self, grid: Any) -> None:
        nz = grid.size[2]
        self.bits_before, self.row_hashes = np.zeros((grid.rows, nz), np.uint16), np.zeros(grid.rows, np.uint64)
        self.cell_hashes, self.ranges = np.zeros(grid.diag.size, np.uint64), np.zeros((grid.rows, 2), np.int64)

    def find_hashes(self, source: Any) -> tuple[Any, Any]:
        """Return the cell hashes, and per row from where to where they changed."""
        bytes_of = tuple(v.reshape(source.rows) for v in (*source.cell_bytes.links, source.cell_bytes.diag))
        kind = np.uint64 if source.values[0].itemsize == 8 else np.uint32
        extras = tuple(v.view(kind) for v in source.extras)
        problem = (*bytes_of, np.array(source.size), np.array(source.periodic))
        before = self.bits_before, self.row_hashes
        over_strips(hash_changed_cells, len(self.row_hashes), problem, extras, before, self.cell_hashes, self.ranges)
        return self.cell_hashes, self.ranges
