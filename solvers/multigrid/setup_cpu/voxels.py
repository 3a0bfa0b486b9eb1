"""The finest level of a problem that is given as voxels: which cells have changed, their hashes, their rows as numbers.

The bytes themselves are compared with those of the last set-up; cells are hashed where one of them or of their
neighbours has changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.cpu.cell_bytes import FIXED, FLUID, OPEN, PER_CELL, SOLID, CellBytes, ends_of, problem_of, rows_around
from ...kernels.cpu.compile import (
    inlined_kernel,
    ordered_row_kernel as row_kernel,
    over_strips,
    strip_kernel,
    threads_for,
)
from .dirty_ranges import cells_to_process
from .grid import Array, Grid
from .hashes import PRIMES, find_differing_range, mix_bits
from .perceptron import ONE, ZERO

NEVER = 255  # a code that no cell has
BITS = np.uint64(3)  # per code


@strip_kernel
def find_differences(start, stop, cells, before, ranges):
    """Write from where to where rows start..stop differ from those before, and keep the new ones."""
    for row in range(start, stop):
        low, high = find_differing_range(cells[row], before[row])
        ranges[row, 0], ranges[row, 1] = low, high
        for k in range(low, high):
            before[row, k] = cells[row, k]


@row_kernel
def add_code(neighbours, shift, code):
    """Add the codes of a row of neighbours at a place of their own."""
    for k in range(code.shape[0]):
        code[k] |= np.uint64(neighbours[k]) << shift


@row_kernel
def add_same_code(number, shift, code):
    """Add the same code everywhere."""
    for k in range(code.shape[0]):
        code[k] |= np.uint64(number) << shift


@inlined_kernel
def find_range_beside_changes(rows, here, changed, nz, wraps):
    """Return from where to where a row has a changed cell or lies next to one."""
    low, high = here[0], here[1]
    if high > 0:
        ends = wraps and (low == 0 or high == nz)
        low, high = (0, nz) if ends else (max(low - 1, 0), min(high + 1, nz))
    else:
        low = nz
    for side in range(4):
        other = changed[rows[side]]
        if other[1] > 0:
            low, high = min(low, other[0]), max(high, other[1])
    return low, high


@strip_kernel
def hash_voxels(start, stop, cells, size, kinds, changed, cell_hashes, ranges):
    """Write the hashes of rows start..stop where they may have changed, and `ranges`: from where to where."""
    nz = size[2]
    space = np.empty(nz, np.uint64)
    for row in range(start, stop):
        rows, codes = rows_around(row, size, kinds)
        low, high = find_range_beside_changes(rows, changed[row], changed, nz, kinds[2, 0] == 2)
        ranges[row, 0], ranges[row, 1] = (low, high) if high > low else (0, 0)
        if high <= low:
            continue
        own, code, some = cells[row], space[low:high], cell_hashes[row * nz + low : row * nz + high]
        before, after = ends_of(own, nz, kinds)
        for k in range(high - low):
            code[k] = 1
        for side in range(4):
            if codes[side] == SOLID:
                add_code(cells[rows[side], low:high], BITS * np.uint64(side + 1), code)
            else:
                add_same_code(codes[side], BITS * np.uint64(side + 1), code)
        first, last = max(low, 1), min(high, nz - 1)
        add_code(own[first - 1 : high - 1], BITS * np.uint64(5), code[first - low :])
        add_code(own[low + 1 : last + 1], BITS * np.uint64(6), code[: last - low])
        if low == 0:
            code[0] |= np.uint64(before) << (BITS * np.uint64(5))
        if high == nz:
            code[high - low - 1] |= np.uint64(after) << (BITS * np.uint64(6))
        for k in range(high - low):
            h = mix_bits(code[k] * PRIMES[0])
            some[k] = h if own[low + k] == FLUID else np.uint64(0)


@row_kernel
def add_ground(neighbours, count):
    """Add one conductance for each OPEN neighbour."""
    for k in range(count.shape[0]):
        count[k] += ONE if neighbours[k] == OPEN else ZERO


@row_kernel
def add_ground_beyond(code, count):
    """Add what lies beyond a side, or at the other end of a row, to a number of cells."""
    some = np.float32(2) if code == FIXED else ONE if code == OPEN else ZERO
    for k in range(count.shape[0]):
        count[k] += some


@row_kernel
def clear_without_unknown(own, count):
    """Set to 0 where there is no unknown."""
    for k in range(count.shape[0]):
        count[k] = count[k] if own[k] == FLUID else ZERO


@strip_kernel
def fill_rows(start, stop, ranges, cells, size, kinds, codes, w, ground, rest):
    """Write the ranges of rows start..stop as numbers, in units of the conductance."""
    nz = size[2]
    links, diag = codes
    shift, diagonal = rest
    for row in range(start, stop):
        low, high = ranges[row, 0], ranges[row, 1]
        if high <= low:
            continue
        rows, sides = rows_around(row, size, kinds)
        own = cells[row]
        before, after = ends_of(own, nz, kinds)
        for d in range(3):
            link, numbers, ground_row = links[d][row, low:high], w[d, row, low:high], ground[d, row, low:high]
            for k in range(high - low):
                numbers[k], ground_row[k] = link[k], ZERO
        for side in range(4):
            ground_row = ground[side // 2, row, low:high]
            if sides[side] == SOLID:
                add_ground(cells[rows[side], low:high], ground_row)
            else:
                add_ground_beyond(sides[side], ground_row)
        ground_row, first, last = ground[2, row], max(low, 1), min(high, nz - 1)
        add_ground(own[first - 1 : high - 1], ground_row[first:high])
        add_ground(own[low + 1 : last + 1], ground_row[low:last])
        add_ground_beyond(before, ground_row[low:low] if low else ground_row[:1])
        add_ground_beyond(after, ground_row[nz - 1 : high])
        for d in range(3):
            clear_without_unknown(own[low:high], ground[d, row, low:high])
        for k in range(low, high):
            shift[row, k], diagonal[row, k] = ZERO, diag[row, k]


class VoxelHashes:
    """Hashes of the cells, and the voxels that they were found from."""

    def __init__(self, grid: Grid) -> None:
        self.cells = np.full((grid.rows, grid.size[2]), NEVER, np.uint8)
        self.cell_hashes, self.ranges = np.zeros(grid.diag.size, np.uint64), np.zeros((2, grid.rows, 2), np.int64)
        self.kinds = np.full((3, 2), NEVER)

    def find_hashes(self, source: VoxelSource) -> tuple[Array, Array]:
        """Return the hashes, and per row from where to where they may have changed."""
        cells, size, kinds = source.problem
        if not np.array_equal(kinds, self.kinds):
            self.cells[:], self.kinds = NEVER, kinds
        changed, ranges = self.ranges
        with threads_for(cells.size // PER_CELL):
            over_strips(find_differences, len(cells), cells, self.cells, changed)
        with threads_for(cells_to_process(changed, cells.size)):
            over_strips(hash_voxels, len(cells), cells, size, kinds, changed, self.cell_hashes, ranges)
        return self.cell_hashes, ranges


class VoxelSource:
    """A problem given as voxels, to be copied in fp32 in units of its conductance."""

    def __init__(self, A: Any, codes: CellBytes) -> None:
        self.size, self.periodic, self.problem = tuple(A.unknown.shape), A.periodic, problem_of(A.voxels)
        rows = self.problem[0].shape
        self.codes = tuple(w.reshape(rows) for w in codes.links), codes.diag.reshape(rows)

    def new_hashes(self, grid: Grid) -> VoxelHashes:
        """Return what tells which cells have changed from one set-up to the next."""
        return VoxelHashes(grid)

    def fill(self, grid: Grid, ranges: Array) -> None:
        """Copy the ranges of all rows."""
        rows = self.problem[0].shape
        parts = (
            grid.w.reshape(3, *rows),
            grid.ground.reshape(3, *rows),
            (grid.shift.reshape(rows), grid.diag.reshape(rows)),
        )
        over_strips(fill_rows, grid.rows, ranges, *self.problem, self.codes, *parts)
