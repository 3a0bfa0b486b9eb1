"""Residual with restriction, and prolongation with correction, on the CPU: exact transposes in eight-bit weights.

Along a coarsened axis a cell takes a share of its block's value from the block on its other side. Along z that side is
the cell's own neighbour: cells 1 and 2, 3 and 4, ... swap values, so vectors begin at odd cells and swap lanes.
"""

from __future__ import annotations

import numba

from .compile import kernel, register_kernel
from .lane_rows import (
    add_block_sums,
    count_lanes,
    from_lane,
    full_register,
    one_lane,
    read,
    read_blocks,
    swap_partners,
    two_lanes,
)
from .lanes import store, where_positive
from .smoothing import locate_row, row_product


@register_kernel
def read_weight(like, a, at, unit):
    """Read weights of transfer as numbers between 0 and 1."""
    return read(like, a, at) * unit


# --- residual and restriction -----------------------------------------------------------------------------------------


@register_kernel
def masked_residual(like, diag, w, x, b, row, k):
    """Return b - A x; 0 in cells without an unknown, which may hold a coarse-grid b."""
    at = row[0], row[1], k
    return where_positive(read(like, diag, at), read(like, b, at) - row_product(like, diag, w, x, row, k), like)


@register_kernel
def residual_row(like, diag, w, x, b, t, row):
    """Compute t = b - A x on a row."""
    n = x.shape[2]
    for first in range(0, n, count_lanes(like)):
        k = min(first, n - count_lanes(like))
        store(t, (row[0], row[1], k), masked_residual(like, diag, w, x, b, row, k))


@register_kernel
def next_first(k, count, n):
    """Return the first cell whose pair was not complete in a vector from cell k on."""
    return k + count if k % 2 == 1 or k + count == n else k + count - 1


@register_kernel
def residual_pairs(like, diag, w, x, b, a, t, row, unit):
    """Compute t = L_zᵀ (b - A x) on a row: every cell gives its share to its partner."""
    n, first = x.shape[2], 0
    while first < n:
        k = min(first, n - count_lanes(like))
        at = row[0], row[1], k
        r = masked_residual(like, diag, w, x, b, row, k)
        given = read_weight(like, a, (2, row[0], row[1], k), unit) * r
        # lanes before `first` are written already, by a vector that held their partners
        store(t, at, from_lane(first - k, r - given + swap_partners(given, k % 2), read(like, t, at)))
        first = next_first(k, count_lanes(like), n)


@register_kernel
def residual_wraps(like, diag, w, x, b, a, t, row, unit):
    """Add to t what the ends of a periodic row give to one another."""
    i, j, last = row[0], row[1], x.shape[2] - 1
    given = read_weight(like, a, (2, i, j, 0), unit) * masked_residual(like, diag, w, x, b, row, 0)
    store(t, (i, j, last), read(like, t, (i, j, last)) + given)
    if last % 2 == 1:
        given = read_weight(like, a, (2, i, j, last), unit) * masked_residual(like, diag, w, x, b, row, last)
        store(t, (i, j, 0), read(like, t, (i, j, 0)) + given)


@kernel
def residual_rows(diag, w, x, b, a, factors, periodic_z, t):
    """Compute t = L_zᵀ (b - A x): the residual and the part of the restriction that stays in a row."""
    nx, ny, nz = x.shape
    fz, unit = factors[2], x.dtype.type(1 / 255)
    for index in numba.prange(nx * ny):
        row, like = locate_row(index, ny, nx), full_register(x)
        if fz == 1:
            if nz >= count_lanes(like):
                residual_row(like, diag, w, x, b, t, row)
            else:
                residual_row(one_lane(x), diag, w, x, b, t, row)
            continue
        if nz >= count_lanes(like):
            residual_pairs(like, diag, w, x, b, a, t, row, unit)
        else:
            residual_pairs(two_lanes(x), diag, w, x, b, a, t, row, unit)
        if periodic_z:
            residual_wraps(one_lane(x), diag, w, x, b, a, t, row, unit)


@register_kernel
def gather_rows(like, t, a, planes, rows, shares_x, shares_y, k):
    """Return part of L_xᵀ L_yᵀ t from cell k of row (i, j) on: what stays there and what one other row gives.

    `planes` and `rows` are i and j with the others; shares are 1 or 0 for what stays, the unit of weights or 0 for what
    goes, and that for what comes. A missing row is read and counts 0: branches on vectors would cost more.
    """
    (i, i_other), (j, j_other) = planes, rows
    (stays_x, goes_x, comes_x), (stays_y, goes_y, comes_y) = shares_x, shares_y
    here = (stays_y - goes_y * read(like, a, (1, i, j, k))) * read(like, t, (i, j, k))
    here = here + (comes_y * read(like, a, (1, i, j_other, k))) * read(like, t, (i, j_other, k))
    other = (stays_y - goes_y * read(like, a, (1, i_other, j, k))) * read(like, t, (i_other, j, k))
    other = other + (comes_y * read(like, a, (1, i_other, j_other, k))) * read(like, t, (i_other, j_other, k))
    here = (stays_x - goes_x * read(like, a, (0, i, j, k))) * here
    return here + (comes_x * read(like, a, (0, i_other, j, k))) * other


@register_kernel
def add_row(like, t, a, part, coarse, to, start, stop):
    """Add cells of a fine row to the cells of a coarse one."""
    planes, rows, shares_x, shares_y = part
    for first in range(start, stop, count_lanes(like)):
        k = min(first, stop - count_lanes(like))
        v = gather_rows(like, t, a, planes, rows, shares_x, shares_y, k)
        at = to[0], to[1], k
        store(coarse, at, read(like, coarse, at) + from_lane(first - k, v, like))


@register_kernel
def add_block_row(like, t, a, part, coarse, to, start, stop):
    """Add cells of a fine row to the blocks of two of a coarse one."""
    planes, rows, shares_x, shares_y = part
    for first in range(start, stop, count_lanes(like)):
        k = min(first, stop - count_lanes(like))
        v = gather_rows(like, t, a, planes, rows, shares_x, shares_y, k)
        add_block_sums(coarse, (to[0], to[1], k // 2), from_lane(first - k, v, like))


@register_kernel
def find_donor(index, factor, sources, q, unit):
    """Return row `index` and its q-th donor row with their weights.

    The row's own weight is returned for q = 0 and is 0 for q = 1, so that its share is added once.
    """
    zero, one = unit - unit, unit / unit
    source = sources[index, q] if factor == 2 else -1
    stays, goes = (one, unit if factor == 2 else zero) if q == 0 else (zero, zero)
    return (index, source if source >= 0 else index), (stays, goes, unit if source >= 0 else zero)


@register_kernel
def restrict_row(t, a, i, j, factors, sources_x, sources_y, coarse, unit):
    """Add a fine row, and what others give to it, to a coarse row."""
    nz, like = t.shape[2], full_register(t)
    to, whole = (i // factors[0], j // factors[1]), nz - nz % factors[2]
    if whole < count_lanes(like):
        whole = 0
    # q counts pairs of donors across both axes; a row has a second donor only on a ring of odd length
    for q in range(4):
        planes, shares_x = find_donor(i, factors[0], sources_x, q // 2, unit)
        rows, shares_y = find_donor(j, factors[1], sources_y, q % 2, unit)
        if (q >= 2 and planes[1] == i) or (q % 2 == 1 and rows[1] == j):
            continue
        part = planes, rows, shares_x, shares_y
        if factors[2] == 2:
            add_block_row(like, t, a, part, coarse, to, 0, whole)
            add_block_row(one_lane(t), t, a, part, coarse, to, whole, nz)
        else:
            add_row(like, t, a, part, coarse, to, 0, whole)
            add_row(one_lane(t), t, a, part, coarse, to, whole, nz)


@kernel
def restrict_rows(t, a, factors, sources_x, sources_y, coarse):
    """Compute coarse = Eᵀ L_xᵀ L_yᵀ t."""
    nx, ny, _ = t.shape
    cx, cy, cz = coarse.shape
    fx, fy = factors[0], factors[1]
    for index in numba.prange(cx * cy):
        row_x, row_y = index // cy, index % cy
        for k in range(cz):
            coarse[row_x, row_y, k] = 0
        for i in range(fx * row_x, min(fx * row_x + fx, nx)):
            for j in range(fy * row_y, min(fy * row_y + fy, ny)):
                restrict_row(t, a, i, j, factors, sources_x, sources_y, coarse, t.dtype.type(1 / 255))


# --- prolongation -----------------------------------------------------------------------------------------------------


@register_kernel
def block_values(like, c, i, j, k, halved):
    """Read the values of the blocks of cells k, k + 1, ... of a row of blocks."""
    if halved:
        return read_blocks(like, c, (i, j, k // 2), k % 2)
    return read(like, c, (i, j, k))


@register_kernel
def interpolate_x(like, c, a, i, j, blocks, block, k, halved, unit):
    """Return L_x E c from cell k of row (i, j) on; `blocks` are the own and the one beyond (or the own: share 0)."""
    own = block_values(like, c, blocks[0], block, k, halved)
    beyond = block_values(like, c, blocks[1], block, k, halved)
    return own + read_weight(like, a, (0, i, j, k), unit) * (beyond - own)


@register_kernel
def interpolate_xy(like, c, a, row, k, halved, unit):
    """Return L_y L_x E c; what is beyond an end is read and not counted: branches on vectors would cost more."""
    i, j, j_beyond, blocks_x, blocks_y = row
    e = interpolate_x(like, c, a, i, j, blocks_x, blocks_y[0], k, halved, unit)
    beyond = interpolate_x(like, c, a, i, j_beyond, blocks_x, blocks_y[1], k, halved, unit)
    return e + read_weight(like, a, (1, i, j, k), unit) * (beyond - e)


@register_kernel
def prolong_row(like, c, a, sd, x, row, unit):
    """Add P c to a row that is not coarsened along z."""
    n = x.shape[2]
    for first in range(0, n, count_lanes(like)):
        k = min(first, n - count_lanes(like))
        at = row[0], row[1], k
        old = read(like, x, at)
        new = old + where_positive(read(like, sd, at), interpolate_xy(like, c, a, row, k, False, unit), like)
        store(x, at, from_lane(first - k, new, old))


@register_kernel
def prolong_pairs(like, c, a, sd, x, row, unit):
    """Add P c to a row of pairs."""
    n, first = x.shape[2], 0
    while first < n:
        k = min(first, n - count_lanes(like))
        at = row[0], row[1], k
        old, e = read(like, x, at), interpolate_xy(like, c, a, row, k, True, unit)
        e = e + read_weight(like, a, (2, row[0], row[1], k), unit) * (swap_partners(e, k % 2) - e)
        new = from_lane(first - k, old + where_positive(read(like, sd, at), e, like), old)
        first = next_first(k, count_lanes(like), n)
        store(x, at, from_lane(first - k, old, new))


@register_kernel
def prolong_wraps(like, c, a, x, row, unit):
    """Add to the ends of a periodic row what they take from one another."""
    i, j, last = row[0], row[1], x.shape[2] - 1
    taken = read_weight(like, a, (2, i, j, 0), unit) * interpolate_xy(like, c, a, row, last, True, unit)
    store(x, (i, j, 0), read(like, x, (i, j, 0)) + taken)
    if last % 2 == 1:
        taken = read_weight(like, a, (2, i, j, last), unit) * interpolate_xy(like, c, a, row, 0, True, unit)
        store(x, (i, j, last), read(like, x, (i, j, last)) + taken)


@kernel
def prolong_add(c, a, sd, factors, outer_x, outer_y, periodic_z, x):
    """Add P c to x."""
    nx, ny, nz = x.shape
    fx, fy, fz = factors[0], factors[1], factors[2]
    unit = x.dtype.type(1 / 255)
    for index in numba.prange(nx * ny):
        i, j, like = index // ny, index % ny, full_register(x)
        i_beyond = outer_x[i] if fx == 2 and outer_x[i] >= 0 else i
        j_beyond = outer_y[j] if fy == 2 and outer_y[j] >= 0 else j
        row = i, j, j_beyond, (i // fx, i_beyond // fx), (j // fy, j_beyond // fy)
        if fz == 1:
            if nz >= count_lanes(like):
                prolong_row(like, c, a, sd, x, row, unit)
            else:
                prolong_row(one_lane(x), c, a, sd, x, row, unit)
            continue
        if nz >= count_lanes(like):
            prolong_pairs(like, c, a, sd, x, row, unit)
        else:
            prolong_pairs(two_lanes(x), c, a, sd, x, row, unit)
        if periodic_z:
            prolong_wraps(one_lane(x), c, a, x, row, unit)
