"""Both classical coarse operators of a row of blocks, and what the learned blend reads besides, from its columns."""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel
from ...kernels.cpu.lanes import WIDTH, any_positive, larger, load, store, where_positive
from .perceptron import HALF, ONE, TINY, ZERO
from .row_features import GROUND, HIGH, INNER, PATH, fill_row

UNIFORM, SERIES, GROUND_SUM, OPEN, SQUARES = range(
    5
)  # per axis: geometric link, resistor link, ground; open paths, squares


@row_kernel
def add_paths(paths, k, share, total):
    """Add a vector of conductances, how many are open, and their squares, times 0 or 1."""
    v = load(paths, k) * share
    store(total, (SERIES, k), load(total, (SERIES, k)) + v)
    store(total, (OPEN, k), load(total, (OPEN, k)) + where_positive(v, ONE, ZERO))
    store(total, (SQUARES, k), load(total, (SQUARES, k)) + v * v)


@row_kernel
def add_ground(g, k, coarsened, total):
    """Add conductances to p = 0, in series with half the inner link."""
    ground = load(g, (GROUND, k))
    if not any_positive(ground):
        return
    if coarsened:
        inner = load(g, (INNER, k))
        r = where_positive(inner, HALF / larger(inner, TINY), ZERO)
        ground = where_positive(ground, ONE / (ONE / larger(ground, TINY) + r), ZERO)
    store(total, (GROUND_SUM, k), load(total, (GROUND_SUM, k)) + ground)


@inlined_kernel
def add_across(g, first, p, n, periodic, coarsened, total):
    """Add what leaves a row upwards across rows; `first` : paths of the first row of an axis that wraps to it."""
    upper = not coarsened or p & 1 or (p == n - 1 and periodic)
    # the lower cell of an interface stores it as its outer path, but not the single last cell of an odd periodic axis:
    # there the upper cell does
    paths = g[HIGH] if not coarsened else (g[PATH] if p & 1 else first)
    own, other = (HALF if p & 1 else ZERO), (HALF if (p + 1 if p < n - 1 else 0) < n - 1 else ZERO)
    factor = ONE / (ONE + own + other) if coarsened else ONE
    for k in range(0, total.shape[1], WIDTH):
        add_ground(g, k, coarsened, total)
        if upper:
            store(total, (UNIFORM, k), load(total, (UNIFORM, k)) + load(g, (HIGH, k)) * factor)
            add_paths(paths, k, ONE, total)


@inlined_kernel
def add_along(g, n, periodic, coarsened, factors, shares, total):
    """Add what leaves blocks upwards along the row."""
    wrapped = coarsened and n & 1 and periodic
    kept = g[PATH, n - 1]
    if wrapped:
        g[PATH, n - 1] = g[PATH, 0]
    paths = g[PATH] if coarsened else g[HIGH]
    for k in range(0, total.shape[1], WIDTH):
        add_ground(g, k, coarsened, total)
        store(total, (UNIFORM, k), load(total, (UNIFORM, k)) + load(g, (HIGH, k)) * load(factors, k))
        add_paths(paths, k, load(shares, k), total)
    if wrapped:
        g[PATH, n - 1] = kept


@inlined_kernel
def shares_along(n, periodic, coarsened, factors, shares):
    """Write which cells of a row are the upper ones of their block, and the geometric factor of their links."""
    for k in range(shares.shape[0]):
        upper = k < n and (not coarsened or k & 1 or (k == n - 1 and periodic))
        own, other = (HALF if k & 1 else ZERO), (HALF if (k + 1 if k < n - 1 else 0) < n - 1 else ZERO)
        shares[k] = ONE if upper else ZERO
        factors[k] = (ONE / (ONE + own + other) if coarsened else ONE) if upper else ZERO


@row_kernel
def sum_blocks(row, n, factor, out):
    """Add up the cells of blocks along a row."""
    m = out.shape[0]
    if factor == 1:
        for k in range(m):
            out[k] = row[k]
        return
    for k in range(n // 2):
        out[k] = row[2 * k] + row[2 * k + 1]
    if n & 1:
        out[m - 1] = row[n - 1]


@inlined_kernel
def add_row(r, row, problem, space, room, owns, columns):
    """Add one fine row to the totals of its row of blocks."""
    _, _, _, _, size, factors, periodic = problem
    total, cells, along, shares, _ = room
    ny, nz = size[1], size[2]
    position = (row // ny, row % ny)
    for d in range(2):
        p, n = position[d], size[d]
        if factors[d] == 2 and not p & 1 and p == n - 1 and periodic[d]:
            fill_row(row % ny if d == 0 else row - p, problem, space, owns[4], columns[4])
        add_across(columns[r, d], columns[4, d, PATH], p, n, periodic[d], factors[d] == 2, total[d])
    add_along(columns[r, 2], nz, periodic[2], factors[2] == 2, along, shares, total[2])
    for k in range(0, cells.shape[1], WIDTH):
        store(cells, (0, k), load(cells, (0, k)) + where_positive(load(owns, (r, 0, k)), ONE, ZERO))
        store(cells, (1, k), load(cells, (1, k)) + load(owns, (r, 1, k)))


@inlined_kernel
def coarse_row(index, problem, coarse, space, room, rows, owns, columns, here, span, results):
    """Write one row of both coarse operators, and `facts`: children; open paths and sum of squared paths per axis.

    here, span : where the blocks in a span find their results: written are those that a block finds at itself; all, if
        `here` is empty
    """
    _, _, _, _, size, factors, _ = problem
    uniform, path, grounds, shifts, facts = results
    total, cells, _, _, sums = room
    total[:] = 0
    cells[:] = 0
    for r in range(4):
        if rows[r] >= 0:
            add_row(r, rows[r], problem, space, room, owns, columns)
    begin, n, nz, fz = index * coarse[2], coarse[2], size[2], factors[2]
    for d in range(3):
        for f in range(5):
            sum_blocks(total[d, f], nz, fz, sums[5 * d + f])
        if coarse[d] == 1:  # a periodic axis of one block couples to itself: no link
            sums[5 * d + UNIFORM] = 0
            sums[5 * d + SERIES] = 0
    sum_blocks(cells[1], nz, fz, sums[15])
    sum_blocks(cells[0], nz, fz, sums[16])
    low, high = (span[0], span[1]) if here.shape[0] else (0, n)
    for k in range(low, high):
        if here.shape[0] and here[k] != begin + k:
            continue
        c = begin + k
        for d in range(3):
            uniform[d, c], path[d, c] = sums[5 * d + UNIFORM, k], sums[5 * d + SERIES, k]
            grounds[d, c] = sums[5 * d + GROUND_SUM, k]
            facts[1 + d, c], facts[4 + d, c] = sums[5 * d + OPEN, k], sums[5 * d + SQUARES, k]
        shifts[c], facts[0, c] = sums[15, k], sums[16, k] / np.float32(factors[0] * factors[1] * fz)


@inlined_kernel
def sum_space(width, n, periodic, coarsened, blocks):
    """Arrays for the totals of a row of blocks."""
    along, shares = np.empty(width, np.float32), np.empty(width, np.float32)
    shares_along(n, periodic, coarsened, along, shares)
    sums = np.zeros((17, blocks), np.float32)
    return np.zeros((3, 5, width), np.float32), np.zeros((2, width), np.float32), along, shares, sums
