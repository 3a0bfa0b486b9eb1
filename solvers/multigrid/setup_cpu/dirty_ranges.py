"""Dirty ranges: from where to where something changed in every row of a grid; an update looks nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...kernels.cpu.compile import over_strips, strip_kernel
from .grid import Array


@strip_kernel
def find_dirty_ranges(start, stop, changed, ranges):
    """Write from where to where flags are set in rows start..stop, (0, 0) if none is."""
    n = changed.shape[1]
    for row in range(start, stop):
        some = False
        for k in range(n):
            some |= changed[row, k]
        low, high = 0, n if some else 0
        while low < high and not changed[row, low]:
            low += 1
        while high > low and not changed[row, high - 1]:
            high -= 1
        ranges[row, 0], ranges[row, 1] = (low, high) if some else (0, 0)


@strip_kernel
def spread_rows(start, stop, ranges, size, reach, wraps, out):
    """Write the ranges of what lies at most `reach` rows and cells away from other ranges."""
    nx, ny, nz = size[0], size[1], size[2]
    for row in range(start, stop):
        i, j = row // ny, row % ny
        low, high = nz, 0
        for u in range(i - reach, i + reach + 1):
            for v in range(j - reach, j + reach + 1):
                other = (u % nx) * ny + v % ny
                if ranges[other, 1] > 0:
                    low, high = min(low, ranges[other, 0]), max(high, ranges[other, 1])
        if high == 0:
            low = 0
        elif wraps and (low < reach or high > nz - reach):
            low, high = 0, nz
        else:
            low, high = max(low - reach, 0), min(high + reach, nz)
        out[row, 0], out[row, 1] = low, high


def cover_grid(size: Sequence[int]) -> Array:
    """Return ranges of whole rows."""
    ranges = np.zeros((size[0] * size[1], 2), np.int64)
    ranges[:, 1] = size[2]
    return ranges


def dirty_ranges_of(changed: Array, size: Sequence[int]) -> Array:
    """Return per row from where to where flags are set."""
    ranges = np.empty((size[0] * size[1], 2), np.int64)
    over_strips(find_dirty_ranges, len(ranges), changed.reshape(len(ranges), size[2]), ranges)
    return ranges


def spread_ranges(ranges: Array, size: Sequence[int], reach: int, wraps: bool) -> Array:
    """Return the ranges of what lies at most `reach` rows and cells away; wraps : whether rows do.

    Examples
    --------
    >>> spread_ranges(np.array([[0, 0], [4, 5], [0, 0]]), (3, 1, 9), 1, False).tolist()
    [[3, 6], [3, 6], [3, 6]]
    """
    out = np.empty_like(ranges)
    over_strips(spread_rows, len(ranges), ranges, np.array(size), reach, wraps, out)
    return out


def cells_to_process(ranges: Array, cells: int) -> int:
    """Return the number of cells to process, or 0 if less than a quarter changed (then one thread is faster).

    Examples
    --------
    >>> cells_to_process(np.array([[0, 0], [4, 5], [0, 9]]), 1_000_000)
    0
    >>> cells_to_process(np.array([[0, 9], [0, 9]]), 20)
    20
    """
    some = int((ranges[:, 1] - ranges[:, 0]).sum())
    return cells if 4 * some > cells else 0


def widen_to_rows(ranges: Array, n: int) -> Array:
    """Widen ranges to the whole rows of n cells in which something has changed."""
    return np.where(ranges[:, 1:] > 0, np.array([0, n]), 0)


def ranges_of_cells(ranges: Array, size: Sequence[int], blocks: Sequence[int], factors: Sequence[int]) -> Array:
    """Return the ranges of the cells of ranges of blocks."""
    cells = ranges.reshape(blocks[0], blocks[1], 2) * factors[2]
    cells = cells.repeat(factors[0], 0)[: size[0]].repeat(factors[1], 1)[:, : size[1]]
    return np.minimum(cells, size[2]).reshape(-1, 2)
