"""`recognise` for matrices of any size, compiled by numba.

Where rows are cells in order, one pass over the matrix adds up the couplings of each row by direction, so duplicates
and their order do not matter, compares both triangles, and finds what each diagonal has in excess. Rows in another
order need two. What follows reads the cells alone: which sides have no neighbour, and how the excess is split between
sides and shift as `recognise` says. Strips of planes are worked on at the same time.

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

    unknown : cells that are coupled to another one
    wraps : which axes are periodic;  read : the diagonal as it stands in the matrix
    """

    links: list[Array]
    ground: list[Array]
    shift: Array
    unknown: Array
    wraps: list[bool]
    read: Array


def read_planes(start, stop, indptr, indices, data, sign, nx, ny, nz, eps, links, diag, coupled, surplus, strip):
    """Read the rows of planes of cells, in which row = cell: couplings, diagonal, and what it has in excess.

    Each row's couplings to cells before it meet there what those cells' rows said, so nothing is written down twice.

    sign : -1 for a matrix whose diagonal is negative
    links : mean of both triangles;  coupled : whether a cell has any;  surplus : diagonal minus all couplings
    strip : for this strip: which axes wrap, whether anything is unusual, then the couplings of its first plane to the
        plane before, then room for a row
    """
    sx, sy = ny * nz, nz
    limit, edge, waiting = 64 * eps, 4, 4 + ny * nz
    for i in range(start, stop):
        for j in range(ny):
            inner = 0 < i < nx - 1 and (0 < j < ny - 1 or ny == 1)
            begin, width = i * sx + j * sy, 5 if ny == 1 else 7
            first_of_row = 0.0
            for k in range(nz):
                c = begin + k
                first, last = indptr[c], indptr[c + 1]
                a0, a1, a2, b0, b1, b2, d = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                ordered = inner and 0 < k < nz - 1 and last - first == width
                if ordered and width == 7:
                    ordered = (
                        indices[first] == c - sx
                        and indices[first + 1] == c - sy
                        and indices[first + 2] == c - 1
                        and indices[first + 3] == c
                        and indices[first + 4] == c + 1
                        and indices[first + 5] == c + sy
                        and indices[first + 6] == c + sx
                    )
                elif ordered:
                    ordered = (
                        indices[first] == c - sx
                        and indices[first + 1] == c - 1
                        and indices[first + 2] == c
                        and indices[first + 3] == c + 1
                        and indices[first + 4] == c + sx
                    )
                if ordered and width == 7:  # an inner row in ascending order: nothing to find out
                    b0, b1, b2 = -sign * data[first], -sign * data[first + 1], -sign * data[first + 2]
                    a2, a1, a0 = -sign * data[first + 4], -sign * data[first + 5], -sign * data[first + 6]
                    d = sign * data[first + 3]
                elif ordered:
                    b0, b2, d = -sign * data[first], -sign * data[first + 1], sign * data[first + 2]
                    a2, a0 = -sign * data[first + 3], -sign * data[first + 4]
                else:
                    for e in range(first, last):
                        v, offset = sign * data[e], indices[e] - c
                        if v == 0:
                            continue
                        if offset == 0:
                            d += v
                        elif offset == 1 and k < nz - 1:
                            a2 -= v
                        elif offset == -1 and k > 0:
                            b2 -= v
                        elif offset == sy and j < ny - 1:
                            a1 -= v
                        elif offset == -sy and j > 0:
                            b1 -= v
                        elif offset == sx and i < nx - 1:
                            a0 -= v
                        elif offset == -sx and i > 0:
                            b0 -= v
                        elif nz > 2 and offset == nz - 1 and k == 0:
                            b2 -= v
                            strip[2] = 1
                        elif nz > 2 and offset == 1 - nz and k == nz - 1:
                            a2 -= v
                            strip[2] = 1
                        elif ny > 2 and offset == (ny - 1) * sy and j == 0:
                            b1 -= v
                            strip[1] = 1
                        elif ny > 2 and offset == (1 - ny) * sy and j == ny - 1:
                            a1 -= v
                            strip[1] = 1
                        elif nx > 2 and offset == (nx - 1) * sx and i == 0:
                            b0 -= v
                            strip[0] = 1
                        elif nx > 2 and offset == (1 - nx) * sx and i == nx - 1:
                            a0 -= v
                            strip[0] = 1
                        else:
                            strip[3] = 1
                            return
                good = d >= 0 and d < np.inf
                total = max(a0, 0.0) + max(b0, 0.0) + (max(a1, 0.0) + max(b1, 0.0)) + (max(a2, 0.0) + max(b2, 0.0))
                good &= total > 0 or (max(a0, a1, a2, b0, b1, b2) == 0 and min(a0, a1, a2, b0, b1, b2) == 0)
                diag[c], coupled[c] = d, total > 0
                excess = d - total
                surplus[c] = excess if total > 0 and abs(excess) > limit * d else 0.0
                links[0, c], links[1, c], links[2, c] = a0, a1, a2
                # what the cells before said of the same faces: wraps wait for the last cell of their row or plane
                if k > 0:
                    w, other = links[2, c - 1], diag[c - 1]
                    mean = (w + b2) / 2
                    good &= abs(w - b2) <= limit * min(d, other) and mean >= -limit * other
                    links[2, c - 1] = max(mean, 0.0)
                else:
                    first_of_row = b2
                if k == nz - 1:
                    mean = (a2 + first_of_row) / 2
                    good &= abs(a2 - first_of_row) <= limit * min(d, diag[begin]) and mean >= -limit * d
                    links[2, c] = max(mean, 0.0)
                if j > 0:
                    w, other = links[1, c - sy], diag[c - sy]
                    mean = (w + b1) / 2
                    good &= abs(w - b1) <= limit * min(d, other) and mean >= -limit * other
                    links[1, c - sy] = max(mean, 0.0)
                else:
                    strip[waiting + k] = b1
                if j == ny - 1:
                    w, other = strip[waiting + k], diag[c - j * sy]
                    mean = (a1 + w) / 2
                    good &= abs(a1 - w) <= limit * min(d, other) and mean >= -limit * d
                    links[1, c] = max(mean, 0.0)
                if i > start:
                    w, other = links[0, c - sx], diag[c - sx]
                    mean = (w + b0) / 2
                    good &= abs(w - b0) <= limit * min(d, other) and mean >= -limit * other
                    links[0, c - sx] = max(mean, 0.0)
                else:
                    strip[edge + j * nz + k] = b0
                if not good:
                    strip[3] = 1
                    return


def join_strips(links, diag, before, after, strip, eps, size):
    """Compare what two planes of neighbouring strips say of the faces between them; tell whether they agree.

    before, after : first cells of the planes;  size : cells of a plane
    """
    limit, good = 64 * eps, True
    for c in range(size):
        w, v, d = links[before + c], strip[4 + c], diag[before + c]
        good &= abs(w - v) <= limit * min(d, diag[after + c]) and (w + v) / 2 >= -limit * d
        links[before + c] = max((w + v) / 2, 0.0)
    return good


def read_rows(start, stop, indptr, indices, data, numbering, nx, ny, nz, after, before, diag, coupled, facts):
    """Write the couplings of each cell to its neighbours on both sides along every axis, and its diagonal.

    A coupling across the ends of an axis is stored as that of the last cell to the next one, of the first to the one
    before.

    numbering : cell of each row
    after, before : (3, cells);  coupled : whether a cell has any coupling
    facts : per axis whether an entry wraps, then whether a row is no such stencil
    """
    sx, sy = ny * nz, nz
    for row in range(start, stop):
        c = numbering[row]
        k, rest = c % nz, c // nz
        j, i = rest % ny, rest // ny
        for e in range(indptr[row], indptr[row + 1]):
            v = data[e]
            if v == 0:
                continue
            offset = numbering[indices[e]] - c
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


def compare_triangles(start, stop, after, before, diag, unknown, nx, ny, nz, eps, links, surplus, facts):
    """Write the mean of both triangles, and the diagonal minus all couplings of its own row.

    start, stop : planes of cells;  facts : the fourth tells whether anything is not as it should be
    """
    sx, sy, limit = ny * nz, nz, 64 * eps
    for i in range(start, stop):
        to_xa = sx if i < nx - 1 else (1 - nx) * sx
        for j in range(ny):
            to_ya = sy if j < ny - 1 else (1 - ny) * sy
            for k in range(nz):
                c = i * sx + j * sy + k
                xa, ya, za = c + to_xa, c + to_ya, (c + 1 if k < nz - 1 else c - (nz - 1))
                d = diag[c]
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
                good &= total > 0 if unknown[c] else total == 0
                if not good:
                    facts[3] = True
                    return
                excess = d - total
                surplus[c] = excess if unknown[c] and abs(excess) > limit * d else 0.0


def find_sides(start, stop, surplus, diag, unknown, full, nx, ny, nz, wraps, flat, sides, facts):
    """Write the sides of each cell that have no unknown behind them, a bit for each of the six.

    start, stop : planes of cells;  full : whether every cell holds an unknown
    facts : of this strip: least and largest surplus of cells that lack no side, least surplus of all, how many are
        negative, how many of these only by rounding in single precision
    """
    sx, sy = ny * nz, nz
    low, high, least, negative, small = np.inf, -np.inf, np.inf, 0, 0
    for i in range(start, stop):
        to_xb, to_xa = (-sx if i > 0 else (nx - 1) * sx), (sx if i < nx - 1 else (1 - nx) * sx)
        for j in range(ny):
            to_yb, to_ya = (-sy if j > 0 else (ny - 1) * sy), (sy if j < ny - 1 else (1 - ny) * sy)
            edge = 0
            if not wraps[0]:
                edge |= (1 if i == 0 else 0) | (2 if i == nx - 1 else 0)
            if not wraps[1] and not flat:
                edge |= (4 if j == 0 else 0) | (8 if j == ny - 1 else 0)
            for k in range(nz):
                c = i * sx + j * sy + k
                excess, bits = surplus[c], edge
                if not (full or unknown[c]):
                    sides[c] = 0
                    continue
                if not full:
                    xb, xa, yb, ya = c + to_xb, c + to_xa, c + to_yb, c + to_ya
                    zb, za = (c - 1 if k > 0 else c + nz - 1), (c + 1 if k < nz - 1 else c - (nz - 1))
                    bits |= (0 if unknown[xb] else 1) | (0 if unknown[xa] else 2)
                    bits |= (0 if unknown[zb] else 16) | (0 if unknown[za] else 32)
                    if not flat:
                        bits |= (0 if unknown[yb] else 4) | (0 if unknown[ya] else 8)
                if not wraps[2]:
                    bits |= (16 if k == 0 else 0) | (32 if k == nz - 1 else 0)
                sides[c] = bits
                least = min(least, excess)
                if excess < 0:
                    negative += 1
                    small += excess > -SINGLE * diag[c]
                if bits == 0:
                    low, high = min(low, excess), max(high, excess)
    facts[0], facts[1], facts[2], facts[3], facts[4] = low, high, least, negative, small


def split_surplus(start, stop, surplus, sides, common, shift, ground):
    """Give each side without a neighbour an equal part of what exceeds `common`; cells that lack none keep a shift.

    shift, ground : zero on entry; memory that stays so is not touched
    """
    for c in range(start, stop):
        bits, rest = sides[c], surplus[c] - common
        if surplus[c] == 0 and common == 0:
            continue
        if bits == 0 or rest < 0:
            shift[c] = surplus[c]
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


def count_strips(count: int, alone: bool) -> int:
    """Return into how many strips `count` items are cut.

    >>> count_strips(7, alone=True)
    1
    """
    import numba

    return 1 if alone else min(numba.get_num_threads(), count, 64)


def in_strips(function: Callable, count: int, alone: bool, *arguments: Any, per_strip: Array | None = None) -> None:
    """Call a compiled function for all strips of `count` items, by as many threads as numba would use.

    per_strip : an array with one row for each strip, handed over as the last argument; its length is their number
    """
    pieces = count_strips(count, alone) if per_strip is None else len(per_strip)
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
    csr: Any,
    shape: tuple[int, int, int],
    flat: bool,
    fluid: Array | None,
    numbering: Array | None,
    eps: float,
    sign: float = 1.0,
) -> Scanned | None:
    """Return the conductances of a CSR matrix on the internal grid, or None if something is unusual.

    Parameters
    ----------
    csr : SciPy CSR, duplicates allowed
    shape : of the internal grid;  flat : whether the grid is 2D
    fluid : flat mask of the cells that may be coupled, or None
    numbering : cell of each row, or None if rows are cells
    eps : rounding unit of the matrix;  sign : of its diagonal, -1 for rows that are cells alone

    Examples
    --------
    >>> import scipy.sparse
    >>> line = scipy.sparse.diags_array([-np.ones(2), 3.0 * np.ones(3), -np.ones(2)], offsets=[-1, 0, 1]).tocsr()
    >>> found = scan(line, (1, 1, 3), True, None, None, 2.2e-16)
    >>> found.links[2].tolist(), found.read.tolist()
    ([[[1.0, 1.0, 0.0]]], [[[3.0, 3.0, 3.0]]])
    """
    cells = int(np.prod(shape))
    alone = cells <= ALONE
    index = (csr.indptr, csr.indices)
    if csr.indptr.dtype != csr.indices.dtype or csr.indptr.dtype not in (np.int32, np.int64):
        index = (csr.indptr.astype(np.int64), csr.indices.astype(np.int64))
    links, surplus, sides = np.empty((3, cells)), np.empty(cells), np.empty(cells, dtype=np.uint8)
    if numbering is None:
        diag, coupled = np.empty(cells), np.empty(cells, dtype=np.bool_)
        wraps = _read_in_order((*index, csr.data), shape, eps, sign, (links, diag, coupled, surplus))
    else:
        diag, coupled = np.zeros(cells), np.zeros(cells, dtype=np.bool_)
        cell_of = np.ascontiguousarray(numbering, dtype=np.int64)
        wraps = _read_numbered((*index, csr.data, cell_of), shape, eps, (links, diag, coupled, surplus))
    if wraps is None or (fluid is not None and (coupled & ~fluid).any()):
        return None
    strips = np.tile([np.inf, -np.inf, np.inf, 0, 0], (count_strips(shape[0], alone), 1))
    full = bool(coupled.all())
    in_strips(find_sides, shape[0], alone, surplus, diag, coupled, full, *shape, wraps, flat, sides, per_strip=strips)
    low, high, least = strips[:, 0].min(), strips[:, 1].max(), strips[:, 2].min()
    if not least < np.inf:
        return None
    negative = [int(count) for count in strips[:, 3:].sum(axis=0)]
    if negative[0] and negative[0] == negative[1] and low != high:
        return None  # rounding of single precision, perhaps
    common = common_shift(low, high, least)
    shift, ground = np.zeros(cells), np.zeros((3, cells))
    in_strips(split_surplus, cells, alone, surplus, sides, common, shift, ground)
    on_grid = [a.reshape(shape) for a in (*links, *ground, shift, coupled, diag)]
    return Scanned(on_grid[:3], on_grid[3:6], on_grid[6], on_grid[7], [bool(w) for w in wraps], on_grid[8])


def _read_in_order(matrix: Any, shape: tuple[int, int, int], eps: float, sign: float, out: Any) -> Array | None:
    """Read a matrix whose rows are cells; return which axes wrap, or None."""
    nx, ny, nz = shape
    alone, plane = nx * ny * nz <= ALONE, ny * nz
    strips = np.zeros((count_strips(nx, alone), 4 + plane + nz))
    in_strips(read_planes, nx, alone, *matrix, sign, *shape, eps, *out, per_strip=strips)
    if strips[:, 3].any():
        return None
    links, diag = out[0][0], out[1]
    starts = [nx * s // len(strips) for s in range(len(strips))]
    for start, strip in zip(starts, strips, strict=True):
        before = (start - 1) % nx * plane
        if not compile_once(join_strips)(links, diag, before, start * plane, strip, eps, plane):
            return None
    return np.asarray(strips[:, :3].any(axis=0))


def _read_numbered(matrix: Any, shape: tuple[int, int, int], eps: float, out: Any) -> Array | None:
    """Do the same for rows in another order or of some cells alone."""
    links, diag, coupled, surplus = out
    cells, rows = diag.size, len(matrix[0]) - 1
    alone, facts = cells <= ALONE, np.zeros(4, dtype=np.bool_)
    after, before = np.zeros((3, cells)), np.zeros((3, cells))
    in_strips(read_rows, rows, alone, *matrix, *shape, after, before, diag, coupled, facts)
    if not facts[3]:
        given = (after, before, diag, coupled, *shape, eps, links, surplus, facts)
        in_strips(compare_triangles, shape[0], alone, *given)
    return None if facts[3] else facts[:3]
