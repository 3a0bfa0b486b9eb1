"""What the network reads about the cells of one row, as columns: the circuit of every axis, from the arrays of a level.

A fine row of nz cells becomes COLUMNS arrays per axis, padded to whole vectors; lanes beyond nz hold anything finite.
Arrays of a level have room for one vector more at their end (`grid.Grid`).
"""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel
from ...kernels.cpu.lanes import WIDTH, larger, load, splat, store, swapped, where_positive
from .perceptron import HALF, ONE, TINY, ZERO

# per axis: links below and above and the diagonals there; inner and outer link, the outer neighbour's inner link; path
# through this cell, mean of the parallel ones; diagonal of the outer neighbour; no unknown in the partner cell (alone),
# partner with an unknown but zero inner link (blocked); geometric weight; ground; flags packed for hashing. A diagonal
# beyond the end of an axis counts as 0. The words are those of `coarsening`.
(
    LOW, HIGH, DIAG_LOW, DIAG_HIGH, INNER, LINK, INNER_O, PATH, MEAN, DIAG_O, ALONE, ALONE_O, BLOCKED, GEOMETRIC,
    GROUND, FLAGS,
) = range(16)  # fmt: skip
COLUMNS = 16


@row_kernel
def pad_row(row, n, wide):
    """Copy a row with two values on either side, as if it wrapped, and fill up with zeros."""
    wide[: wide.shape[0]] = 0
    for k in range(n):
        wide[k + 2] = row[k]
    wide[0], wide[1], wide[n + 2], wide[n + 3] = row[max(n - 2, 0)], row[n - 1], row[0], row[min(1, n - 1)]


@inlined_kernel
def across_rows(row, p, n, step, nz):
    """Return where rows of an axis across the rows begin: inner and outer link, outer neighbour's inner link, partners.

    The links are among those of the axis, both partners among the diagonals; -1: there is none.
    """
    low = row - step if p > 0 else row + (n - 1) * step
    if p & 1:
        inner, link, partner = low, row, low
        o, po = (row + step, p + 1) if p < n - 1 else (row - (n - 1) * step, 0)
    else:
        inner, partner = (row, row + step) if p < n - 1 else (-1, -1)
        link = low
        o, po = (low, p - 1) if p > 0 else (low, n - 1)
    inner_o, partner_o = (o - step, o - step) if po & 1 else ((o, o + step) if po < n - 1 else (-1, -1))
    return inner * nz, link * nz, inner_o * nz, partner * nz, partner_o * nz


@row_kernel
def link_at(w, d, start, k):
    """Read links of an axis; 0 where there are none."""
    return load(w, (d, start + k)) if start >= 0 else splat(ZERO)


@row_kernel
def diagonal_at(diag, start, k):
    """Read diagonals; 0 where there are none."""
    return load(diag, start + k) if start >= 0 else splat(ZERO)


@row_kernel
def geometric_weight(p, n):
    """Return the geometric weight of a cell at position p."""
    po = (p + 1 if p < n - 1 else 0) if p & 1 else (p - 1 if p > 0 else n - 1)
    half, half_o = (HALF if p & 1 or p < n - 1 else ZERO), (HALF if po & 1 or po < n - 1 else ZERO)
    return half / (ONE + half + half_o)


@row_kernel
def fill_across(w, d, diag, row, p, n, step, nz, periodic, coarsened, g):
    """Fill the columns of an axis across the rows; ALONE and ALONE_O take the partners' diagonals for `circuits`."""
    low = (row - step if p > 0 else row + (n - 1) * step) * nz
    high = (row + step if p < n - 1 else row - (n - 1) * step) * nz
    keep_low, keep_high = (ONE if periodic or p > 0 else ZERO), (ONE if periodic or p < n - 1 else ZERO)
    exists = keep_high if p & 1 else keep_low
    inner, link, inner_o, partner, partner_o = across_rows(row, p, n, step, nz)
    weight = geometric_weight(p, n)
    for k in range(0, g.shape[1], WIDTH):
        below, above = load(diag, low + k) * keep_low, load(diag, high + k) * keep_high
        store(g, (LOW, k), load(w, (d, low + k)))
        store(g, (HIGH, k), load(w, (d, row * nz + k)))
        store(g, (DIAG_LOW, k), below)
        store(g, (DIAG_HIGH, k), above)
        if coarsened:
            store(g, (INNER, k), link_at(w, d, inner, k))
            store(g, (LINK, k), link_at(w, d, link, k))
            store(g, (INNER_O, k), link_at(w, d, inner_o, k) * exists)
            store(g, (DIAG_O, k), above if p & 1 else below)
            store(g, (ALONE, k), diagonal_at(diag, partner, k))
            store(g, (ALONE_O, k), diagonal_at(diag, partner_o, k))
            store(g, (GEOMETRIC, k), splat(weight))


@inlined_kernel
def fill_along(w, diag, n, periodic, coarsened, space, g):
    """Fill the columns of the axis along the row."""
    wide, wide_diag, odd_lanes = space
    pad_row(w, n, wide)
    pad_row(diag, n, wide_diag)
    if not periodic:
        wide_diag[0] = wide_diag[1] = wide_diag[n + 2] = wide_diag[n + 3] = 0
    odd = load(odd_lanes, 0)
    for k in range(0, g.shape[1], WIDTH):
        low, high, below, above = load(wide, k + 1), load(wide, k + 2), load(wide_diag, k + 1), load(wide_diag, k + 3)
        store(g, (LOW, k), low)
        store(g, (HIGH, k), high)
        store(g, (DIAG_LOW, k), below)
        store(g, (DIAG_HIGH, k), above)
        if coarsened:
            store(g, (INNER, k), where_positive(odd, low, high))
            store(g, (LINK, k), where_positive(odd, high, low))
            store(g, (INNER_O, k), where_positive(odd, load(wide, k + 3), load(wide, k)))
            store(g, (DIAG_O, k), where_positive(odd, above, below))
            store(g, (ALONE, k), where_positive(odd, below, above))
            store(g, (ALONE_O, k), where_positive(odd, load(wide_diag, k + 4), load(wide_diag, k)))
            store(g, (GEOMETRIC, k), splat(HALF * HALF))
    if coarsened:
        last = n - 1
        if not periodic:
            g[INNER_O, 0] = 0
            if last & 1:
                g[INNER_O, last] = 0
        if n & 1:  # the last cell is a block of its own
            g[INNER, last] = g[ALONE, last] = 0
            for k in (0, n - 2):
                g[INNER_O, k] = g[ALONE_O, k] = 0
        for k in (0, max(n - 2, 0), last):
            g[GEOMETRIC, k] = geometric_weight(k, n)


@inlined_kernel
def solve_circuits(g):
    """Write the path through each outer link, 1 / (r + 1/link + r'), and which cells are alone or blocked."""
    for k in range(0, g.shape[1], WIDTH):
        inner, link, inner_o = load(g, (INNER, k)), load(g, (LINK, k)), load(g, (INNER_O, k))
        partner, partner_o = load(g, (ALONE, k)), load(g, (ALONE_O, k))
        r = where_positive(inner, HALF / larger(inner, TINY), ZERO)
        r_o = where_positive(inner_o, HALF / larger(inner_o, TINY), ZERO)
        blocked = where_positive(inner, ZERO, where_positive(partner, ONE, ZERO))
        blocked_o = where_positive(inner_o, ZERO, where_positive(partner_o, ONE, ZERO))
        free = where_positive(blocked + blocked_o, ZERO, ONE / (r + ONE / larger(link, TINY) + r_o))
        alone = where_positive(partner, ZERO, ONE)
        alone_o = where_positive(load(g, (DIAG_O, k)), where_positive(partner_o, ZERO, ONE), ZERO)
        store(g, (PATH, k), where_positive(link, free, ZERO))
        store(g, (ALONE, k), alone)
        store(g, (ALONE_O, k), alone_o)
        store(g, (BLOCKED, k), blocked)
        store(g, (FLAGS, k), alone + alone_o * TWO + blocked * FOUR + load(g, (GEOMETRIC, k)) * EIGHT)


TWO, FOUR, EIGHT = np.float32(2), np.float32(4), np.float32(8)


@row_kernel
def fill_row(row, problem, space, own, axes):
    """Fill all columns of a row but the mean of parallel paths."""
    w, ground, shift, diag, size, factors, periodic = problem
    nx, ny, nz = size[0], size[1], size[2]
    first = row * nz
    for k in range(0, own.shape[1], WIDTH):
        store(own, (0, k), load(diag, first + k))
        store(own, (1, k), load(shift, first + k))
        for d in range(3):
            store(axes, (d, GROUND, k), load(ground, (d, first + k)))
    for k in range(nz, own.shape[1]):
        own[0, k] = 0
    fill_across(w, 0, diag, row, row // ny, nx, ny, nz, periodic[0], factors[0] == 2, axes[0])
    fill_across(w, 1, diag, row, row % ny, ny, 1, nz, periodic[1], factors[1] == 2, axes[1])
    fill_along(w[2, first : first + nz], diag[first : first + nz], nz, periodic[2], factors[2] == 2, space, axes[2])
    for d in range(3):
        if factors[d] == 2:
            solve_circuits(axes[d])
            for k in range(nz, own.shape[1]):
                axes[d, PATH, k] = 0


@inlined_kernel
def mean_paths(d, u, v, rows, factors, columns):
    """Write the mean of the paths through the parallel cells of the coarse face across d, for row (u, v) of a block."""
    target = columns[2 * u + v, d]
    scale = ONE / np.float32(factors[0] * factors[1] * factors[2] // 2)
    for k in range(0, target.shape[1], WIDTH):
        total = splat(ZERO)
        for r in range(4):
            if rows[r] >= 0 and (d != 0 or r // 2 == u) and (d != 1 or r % 2 == v):
                total = total + load(columns, (r, d, PATH, k))
        if d != 2 and factors[2] == 2:
            total = total + swapped(total)
        store(target, (MEAN, k), total * scale)


@inlined_kernel
def fill_block_row(index, problem, coarse, space, rows, owns, columns):
    """Fill the columns of the up to four fine rows of a row of blocks; rows : their numbers, -1 where there is none."""
    _, _, _, _, size, factors, _ = problem
    for u in range(2):
        for v in range(2):
            i, j = (index // coarse[1]) * factors[0] + u, (index % coarse[1]) * factors[1] + v
            inside = u < factors[0] and v < factors[1] and i < size[0] and j < size[1]
            rows[2 * u + v] = i * size[1] + j if inside else -1
            if inside:
                fill_row(rows[2 * u + v], problem, space, owns[2 * u + v], columns[2 * u + v])
    for r in range(4):
        if rows[r] >= 0:
            for d in range(3):
                if factors[d] == 2:
                    mean_paths(d, r // 2, r % 2, rows, factors, columns)


@inlined_kernel
def column_space(nz):
    """Arrays for the columns of five rows, and what filling them needs."""
    width = (nz + WIDTH - 1) // WIDTH * WIDTH
    odd = np.empty(WIDTH, np.float32)
    for k in range(WIDTH):
        odd[k] = k & 1
    wide = np.empty(width + WIDTH, np.float32), np.empty(width + WIDTH, np.float32), odd
    owns, columns = np.zeros((5, 2, width), np.float32), np.zeros((5, 3, COLUMNS, width), np.float32)
    return wide, np.empty(4, np.int64), owns, columns
