"""Spans: from where to where something has changed in every row of a grid, so that an update looks nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...kernels.cpu.compile import over_strips, strip_kernel
from .grid import Array


@strip_kernel
def find_spans(start, stop, changed, spans):
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
        spans[row, 0], spans[row, 1] = (low, high) if some else (0, 0)


@strip_kernel
def spread_spans(start, stop, spans, size, reach, wraps, out):
    """Write the spans of what lies at most `reach` rows and cells away from other spans."""
    nx, ny, nz = size[0], size[1], size[2]
    for row in range(start, stop):
        i, j = row // ny, row % ny
        low, high = nz, 0
        for u in range(i - reach, i + reach + 1):
            for v in range(j - reach, j + reach + 1):
                other = (u % nx) * ny + v % ny
                if spans[other, 1] > 0:
                    low, high = min(low, spans[other, 0]), max(high, spans[other, 1])
        if high == 0:
            low = 0
        elif wraps and (low < reach or high > nz - reach):
            low, high = 0, nz
        else:
            low, high = max(low - reach, 0), min(high + reach, nz)
        out[row, 0], out[row, 1] = low, high


def everywhere(size: Sequence[int]) -> Array:
    """Return spans of whole rows."""
    spans = np.zeros((size[0] * size[1], 2), np.int64)
    spans[:, 1] = size[2]
    return spans


def spans_of(changed: Array, size: Sequence[int]) -> Array:
    """Return the spans of flags."""
    spans = np.empty((size[0] * size[1], 2), np.int64)
    over_strips(find_spans, len(spans), changed.reshape(len(spans), size[2]), spans)
    return spans


def spread(spans: Array, size: Sequence[int], reach: int, wraps: bool) -> Array:
    """Return the spans of what lies at most `reach` rows and cells away; wraps : whether rows do.

    Examples
    --------
    >>> spread(np.array([[0, 0], [4, 5], [0, 0]]), (3, 1, 9), 1, False).tolist()
    [[3, 6], [3, 6], [3, 6]]
    """
    out = np.empty_like(spans)
    over_strips(spread_spans, len(spans), spans, np.array(size), reach, wraps, out)
    return out


def size_of(spans: Array, cells: int) -> int:
    """Return to how many cells the work comes: one thread does what little there is faster than it wakes another.

    Examples
    --------
    >>> size_of(np.array([[0, 0], [4, 5], [0, 9]]), 1_000_000), size_of(np.array([[0, 9], [0, 9]]), 20)
    (0, 20)
    """
    some = int((spans[:, 1] - spans[:, 0]).sum())
    return cells if 4 * some > cells else 0


def whole(spans: Array, n: int) -> Array:
    """Return the spans of the whole rows of n cells in which something has changed."""
    return np.where(spans[:, 1:] > 0, np.array([0, n]), 0)


def of_cells(spans: Array, size: Sequence[int], blocks: Sequence[int], factors: Sequence[int]) -> Array:
    """Return the spans of the cells of blocks."""
    cells = spans.reshape(blocks[0], blocks[1], 2) * factors[2]
    cells = cells.repeat(factors[0], 0)[: size[0]].repeat(factors[1], 1)[:, : size[1]]
    return np.minimum(cells, size[2]).reshape(-1, 2)
