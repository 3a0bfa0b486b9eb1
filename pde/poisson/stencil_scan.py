"""`recognise` for matrices of any size in three passes over memory, compiled by numba.

The first pass adds up the couplings of each row by direction, so duplicates and their order do not matter. The second
compares both triangles, and finds what each diagonal has in excess; the third splits that excess between sides and
shift as `recognise` says. Each cell writes only to itself, so strips of cells may be worked on at the same time.

Whatever is unusual (another stencil, an asymmetric pair, a negative diagonal) ends the scan with None: `recognise` then
reads the matrix again, slowly, and names the place.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..compiled import compile_once

Array = np.ndarray[Any, Any]
SINGLE = 64 * 1.1920929e-07  # rounding of single precision, relative to the diagonal
ALONE = 50_000  # rows up to which one thread is faster than starting others


class Scanned(NamedTuple):
    """What a matrix says, on the internal grid.

    diag : of the unknowns, freed of rounding;  unknown : cells that are coupled to another one
    wraps : which axes are periodic;  read : the diagonal as it stands in the matrix
    """

    links: list[Array]
    ground: list[Array]
    shift: Array
    diag: Array
    unknown: Array
    wraps: list[bool]
    read: Array


def read_rows(start, stop, indptr, indices, data, numbering, plain, nx, ny, nz, after, before, diag, coupled, facts):
    """Write the couplings of each cell to its neighbours on both sides along every axis, and its diagonal.

    A coupling across the ends of an axis is stored as that of the last cell to the next one, of the first to the one
    before.

    numbering : cell of each row, not read if `plain` (row = cell)
    after, before : (3, cells);  coupled : whether a cell has any coupling
    facts : per axis whether an entry wraps, then whether a row is no such stencil
    """
    sx, sy, size = ny * nz, nz, nx * ny * nz
    for row in range(start, stop):
        c = row if plain else numbering[row]
        first, last = indptr[row], indptr[row + 1]
        if plain and last - first == 7 and sy > 1 and sx > sy and c >= sx and c + sx < size:
            if (
                indices[first] == c - sx
                and indices[first + 1] == c - sy
                and indices[first + 2] == c - 1
                and indices[first + 3] == c
                and indices[first + 4] == c + 1
                and indices[first + 5] == c + sy
                and indices[first + 6] == c + sx
                and 0 < c % nz < nz - 1
                and sy <= c % sx < sx - sy
            ):  # an inner row in ascending order: nothing to find out
                before[0, c], before[1, c], before[2, c] = -data[first], -data[first + 1], -data[first + 2]
                after[2, c], after[1, c], after[0, c] = -data[first + 4], -data[first + 5], -data[first + 6]
                diag[c] = data[first + 3]
                coupled[c] = (
                    data[first] != 0
                    or data[first + 1] != 0
                    or data[first + 2] != 0
                    or data[first + 4] != 0
                    or data[first + 5] != 0
                    or data[first + 6] != 0
                )
                continue
        if plain and last - first == 5 and ny == 1 and nz > 2 and c >= sx and c + sx < size:
            if (
                indices[first] == c - sx
                and indices[first + 1] == c - 1
                and indices[first + 2] == c
                and indices[first + 3] == c + 1
                and indices[first + 4] == c + sx
                and 0 < c % nz < nz - 1
            ):
                before[0, c], before[2, c] = -data[first], -data[first + 1]
                after[2, c], after[0, c] = -data[first + 3], -data[first + 4]
                diag[c] = data[first + 2]
                coupled[c] = data[first] != 0 or data[first + 1] != 0 or data[first + 3] != 0 or data[first + 4] != 0
                continue
        k, rest = c % nz, c // nz
        j, i = rest % ny, rest // ny
        for e in range(first, last):
            v = data[e]
            if v == 0:
                continue
            offset = (indices[e] if plain else numbering[indices[e]]) - c
            if offset == 0:
                diag[c] += v
                continue
            coupled[c] = True
            if offset == 1 and k < nz - 1:
                after[2, c] -= v
            elif offset == -1 and k > 0:
                before[2, c] -= v
            elif offset == sy and j < ny - 1:
                after[1, c] -= v
            elif offset == -sy and j > 0:
                before[1, c] -= v
            elif offset == sx and i < nx - 1:
                after[0, c] -= v
            elif offset == -sx and i > 0:
                before[0, c] -= v
            elif nz > 2 and offset == nz - 1 and k == 0:
                before[2, c] -= v
                facts[2] = True
            elif nz > 2 and offset == 1 - nz and k == nz - 1:
                after[2, c] -= v
                facts[2] = True
            elif ny > 2 and offset == (ny - 1) * sy and j == 0:
                before[1, c] -= v
                facts[1] = True
            elif ny > 2 and offset == (1 - ny) * sy and j == ny - 1:
                after[1, c] -= v
                facts[1] = True
            elif nx > 2 and offset == (nx - 1) * sx and i == 0:
                before[0, c] -= v
                facts[0] = True
            elif nx > 2 and offset == (1 - nx) * sx and i == nx - 1:
                after[0, c] -= v
                facts[0] = True
            else:
                facts[3] = True
                return


def find_surplus(
    start, stop, after, before, diag, unknown, full, nx, ny, nz, eps, wraps, flat, links, surplus, sums, sides, facts
):
    """Compare both triangles; write their mean, the diagonal minus all couplings, and the sides without a neighbour.

    start, stop : planes of cells;  full : whether every cell holds an unknown
     sums : the diagonal without the rounding that its surplus is freed of
    sides : per cell one bit for each of the six sides that have no unknown behind them
    facts : of this strip: least and largest surplus of cells that lack no side, least surplus of all, -, whether
        anything is not as it should be, how many are negative, how many of these only by rounding in single precision
    """
    sx, sy = ny * nz, nz
    low, high, least, negative, small = np.inf, -np.inf, np.inf, 0, 0
    for i in range(start, stop):
        to_xb, to_xa = (-sx if i > 0 else (nx - 1) * sx), (sx if i < nx - 1 else (1 - nx) * sx)
        for j in range(ny):
            to_yb, to_ya = (-sy if j > 0 else (ny - 1) * sy), (sy if j < ny - 1 else (1 - ny) * sy)
            row = i * sx + j * sy
            edge = 0
            if not wraps[0]:
                edge |= (1 if i == 0 else 0) | (2 if i == nx - 1 else 0)
            if not wraps[1] and not flat:
                edge |= (4 if j == 0 else 0) | (8 if j == ny - 1 else 0)
            for k in range(nz):
                c = row + k
                xb, xa, yb, ya = c + to_xb, c + to_xa, c + to_yb, c + to_ya
                zb, za = (c - 1 if k > 0 else c + nz - 1), (c + 1 if k < nz - 1 else c - (nz - 1))
                d = diag[c]
                limit = 64 * eps
                w0, w1, w2 = (
                    (after[0, c] + before[0, xa]) / 2,
                    (after[1, c] + before[1, ya]) / 2,
                    (after[2, c] + before[2, za]) / 2,
                )
                good = d >= 0 and d < np.inf
                good &= abs(after[0, c] - before[0, xa]) <= limit * min(d, diag[xa])
                good &= abs(after[1, c] - before[1, ya]) <= limit * min(d, diag[ya])
                good &= abs(after[2, c] - before[2, za]) <= limit * min(d, diag[za])
                good &= min(w0, min(w1, w2)) >= -limit * d
                links[0, c], links[1, c], links[2, c] = max(w0, 0.0), max(w1, 0.0), max(w2, 0.0)
                # of its own row: the means of both triangles differ from it by rounding
                total = (
                    max(after[0, c], 0.0) + max(before[0, c], 0.0) + (max(after[1, c], 0.0) + max(before[1, c], 0.0))
                )
                total += max(after[2, c], 0.0) + max(before[2, c], 0.0)
                good &= total > 0 if full or unknown[c] else total == 0
                if not good:
                    facts[4] = 1
                    return
                bits, excess = edge, d - total
                if not (full or unknown[c]):
                    surplus[c], sides[c], sums[c] = 0.0, 0, 0.0
                    continue
                if not full:
                    bits |= (0 if unknown[xb] else 1) | (0 if unknown[xa] else 2)
                    bits |= (0 if unknown[zb] else 16) | (0 if unknown[za] else 32)
                    if not flat:
                        bits |= (0 if unknown[yb] else 4) | (0 if unknown[ya] else 8)
                if not wraps[2]:
                    bits |= (16 if k == 0 else 0) | (32 if k == nz - 1 else 0)
                if abs(excess) <= limit * d:
                    excess = 0.0
                surplus[c], sides[c], sums[c] = excess, bits, total + excess
                least = min(least, excess)
                if excess < 0:
                    negative += 1
                    small += excess > -SINGLE * d
                if bits == 0:
                    low, high = min(low, excess), max(high, excess)
    facts[0], facts[1], facts[2], facts[5], facts[6] = low, high, least, negative, small


def split_surplus(start, stop, surplus, sides, common, shift, ground):
    """Give each side without a neighbour an equal part of what exceeds `common`; cells that lack none keep a shift."""
    for c in range(start, stop):
        bits, rest = sides[c], surplus[c] - common
        if bits == 0 or rest < 0:
            shift[c], ground[0, c], ground[1, c], ground[2, c] = surplus[c], 0.0, 0.0, 0.0
            continue
        ox, oy, oz = (bits & 1) + (bits >> 1 & 1), (bits >> 2 & 1) + (bits >> 3 & 1), (bits >> 4 & 1) + (bits >> 5 & 1)
        share = rest / (ox + oy + oz)
        shift[c], ground[0, c], ground[1, c], ground[2, c] = common, share * ox, share * oy, share * oz


def common_shift(low: float, high: float, least: float) -> float:
    """Return the surplus that all unknowns share, from the bounds over inner cells and the least of all.

    What is negative in some cells alone is theirs, and no shift of the rest.

    >>> common_shift(0.5, 0.7, 0.5), common_shift(-0.1, -0.1, -0.1), common_shift(-0.1, 0.2, -0.1)
    (0.5, -0.1, 0.0)
    """
    if low > high:  # every cell lacks a neighbour
        return 0.0
    common = min(low, least)
    return common if common >= 0 or (high - low <= 1e-9 * abs(low) and low <= least * (1 - 1e-9)) else 0.0


def in_strips(function: Callable, count: int, alone: bool, *arguments: Any, per_strip: Array | None = None) -> None:
    """Call a compiled function for all strips of `count` items, by as many threads as numba would use.

    per_strip : an array with one row for each strip, handed over as the last argument
    """
    import numba

    pieces = 1 if alone else min(numba.get_num_threads(), count, 64)
    bounds = [count * s // pieces for s in range(pieces + 1)]
    work = [
        (start, stop, *arguments, *([] if per_strip is None else [per_strip[s]]))
        for s, (start, stop) in enumerate(pairwise(bounds))
    ]
    if pieces == 1:
        compile_once(function)(*work[0])
        return
    with ThreadPoolExecutor(pieces - 1) as pool:
        waiting = [pool.submit(compile_once(function), *strip) for strip in work[1:]]
        compile_once(function)(*work[0])
        for each in waiting:
            each.result()


def scan(
    csr: Any, shape: tuple[int, int, int], flat: bool, fluid: Array | None, numbering: Array | None, eps: float
) -> Scanned | None:
    """Return the conductances of a CSR matrix on the internal grid, or None if something is unusual.

    Parameters
    ----------
    csr : SciPy CSR, duplicates allowed
    shape : of the internal grid;  flat : whether the grid is 2D
    fluid : flat mask of the cells that may be coupled, or None
    numbering : cell of each row, or None if rows are cells
    eps : rounding unit of the matrix

    Examples
    --------
    >>> import scipy.sparse
    >>> line = scipy.sparse.diags_array([-np.ones(2), 3.0 * np.ones(3), -np.ones(2)], offsets=[-1, 0, 1]).tocsr()
    >>> found = scan(line, (1, 1, 3), True, None, None, 2.2e-16)
    >>> found.links[2].tolist(), found.diag.tolist()
    ([[[1.0, 1.0, 0.0]]], [[[3.0, 3.0, 3.0]]])
    """
    cells, n = int(np.prod(shape)), csr.shape[0]
    alone = cells <= ALONE
    after, before, links = np.zeros((3, cells)), np.zeros((3, cells)), np.empty((3, cells))
    diag, coupled, facts = np.zeros(cells), np.zeros(cells, dtype=np.bool_), np.zeros(4, dtype=np.bool_)
    plain = numbering is None
    cell_of = np.zeros(1, dtype=np.int64) if numbering is None else np.ascontiguousarray(numbering, dtype=np.int64)
    index = (csr.indptr, csr.indices)
    if csr.indptr.dtype != csr.indices.dtype or csr.indptr.dtype not in (np.int32, np.int64):
        index = (csr.indptr.astype(np.int64), csr.indices.astype(np.int64))
    in_strips(read_rows, n, alone, *index, csr.data, cell_of, plain, *shape, after, before, diag, coupled, facts)
    if facts[3]:
        return None
    if fluid is not None and (coupled & ~fluid).any():
        return None
    surplus, sums, sides = np.empty(cells), np.empty(cells), np.empty(cells, dtype=np.uint8)
    strips = np.zeros((64, 7))
    strips[:, :3] = np.inf, -np.inf, np.inf
    place = (coupled, bool(coupled.all()), *shape, eps, facts, flat)
    in_strips(find_surplus, shape[0], alone, after, before, diag, *place, links, surplus, sums, sides, per_strip=strips)
    low, high, least = strips[:, 0].min(), strips[:, 1].max(), strips[:, 2].min()
    if strips[:, 4].any() or not least < np.inf:
        return None
    negative = [int(count) for count in strips[:, 5:].sum(axis=0)]
    if negative[0] and negative[0] == negative[1] and low != high:
        return None  # rounding of single precision, perhaps
    common = common_shift(low, high, least)
    shift, ground = np.empty(cells), before  # its memory is free again
    in_strips(split_surplus, cells, alone, surplus, sides, common, shift, ground)
    on_grid = [a.reshape(shape) for a in (*links, *ground, shift, sums, coupled, diag)]
    return Scanned(
        on_grid[:3], on_grid[3:6], on_grid[6], on_grid[7], on_grid[8], [bool(w) for w in facts[:3]], on_grid[9]
    )
