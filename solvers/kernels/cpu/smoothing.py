"""Products with A and damped Jacobi steps on the CPU, a register of cells at a time; see `cycle` for layout and bytes.

Links, diagonal and damping may be integers (`cell_bytes`); they become fp32 or fp64 in registers. The last vector of a
row begins so early that it ends with the row: some cells are computed twice, to the same result.
"""

from __future__ import annotations

import numba

from .compile import kernel, register_kernel
from .lane_rows import count_lanes, from_lane, full_register, one_lane, read, read_next, read_previous, sum_lanes
from .lanes import store


@register_kernel
def locate_row(index, ny, nx):
    """Return row (i, j) of a flat index and its four neighbours, wrapped."""
    i, j = index // ny, index % ny
    return (
        i,
        j,
        (i + 1 if i + 1 < nx else 0),
        (i - 1 if i > 0 else nx - 1),
        (j + 1 if j + 1 < ny else 0),
        (j - 1 if j > 0 else ny - 1),
    )


@register_kernel
def row_product(like, diag, w, x, row, k):
    """Return A x from cell k of a row on; w holds the links of the three axes."""
    i, j, ip, im, jp, jm = row
    # off-diagonal part: a link is stored at its lower cell, so that of the face below stands at the neighbour
    off = read(like, w[0], (i, j, k)) * read(like, x, (ip, j, k))
    off = off + read(like, w[0], (im, j, k)) * read(like, x, (im, j, k))
    off = off + read(like, w[1], (i, j, k)) * read(like, x, (i, jp, k))
    off = off + read(like, w[1], (i, jm, k)) * read(like, x, (i, jm, k))
    off = off + read(like, w[2], (i, j, k)) * read_next(like, x, i, j, k)
    off = off + read_previous(like, w[2], i, j, k) * read_previous(like, x, i, j, k)
    return read(like, diag, (i, j, k)) * read(like, x, (i, j, k)) - off


@register_kernel
def product_row(like, diag, w, x, y, row):
    """Compute y = A x on a row; return x.y."""
    n, step, sums = x.shape[2], count_lanes(like), like
    for first in range(0, n, step):
        k = min(first, n - step)
        # the last vector overlaps the one before: only its new lanes count in the sum
        here, q = read(like, x, (row[0], row[1], k)), row_product(like, diag, w, x, row, k)
        store(y, (row[0], row[1], k), q)
        sums = sums + from_lane(first - k, here * q, like)
    return sum_lanes(sums)


@kernel
def apply_dot(diag, w, x, y, sums):
    """Compute y = A x; sums[row] = x.y of that row in the dtype of x."""
    nx, ny, nz = x.shape
    for index in numba.prange(nx * ny):
        row, like = locate_row(index, ny, nx), full_register(x)
        if nz >= count_lanes(like):
            sums[index] = product_row(like, diag, w, x, y, row)
        else:
            sums[index] = product_row(one_lane(x), diag, w, x, y, row)


@register_kernel
def smooth_row(like, diag, w, sd, x, b, y, omega, row):
    """Compute y = x + omega sd (b - A x) on a row."""
    n, step = x.shape[2], count_lanes(like)
    for first in range(0, n, step):
        k = min(first, n - step)
        at = row[0], row[1], k
        change = read(like, sd, at) * (read(like, b, at) - row_product(like, diag, w, x, row, k))
        store(y, at, read(like, x, at) + omega * change)


@kernel
def smooth(diag, w, sd, x, b, y, omega):
    """Compute y = x + omega sd (b - A x), sd = s/diag."""
    nx, ny, nz = x.shape
    for index in numba.prange(nx * ny):
        row, like = locate_row(index, ny, nx), full_register(x)
        if nz >= count_lanes(like):
            smooth_row(like, diag, w, sd, x, b, y, omega, row)
        else:
            smooth_row(one_lane(x), diag, w, sd, x, b, y, omega, row)


@register_kernel
def damp_rhs(like, sd, b, i, j, k):
    """Return sd b: the first step from zero but for its factor."""
    return read(like, sd, (i, j, k)) * read(like, b, (i, j, k))


@register_kernel
def from_zero_row(like, diag, w, sd, b, y, omega1, omega2, row):
    """Compute y = x + omega2 sd (b - A x), x = omega1 sd b, on a row."""
    i, j, ip, im, jp, jm = row
    n, step = b.shape[2], count_lanes(like)
    for first in range(0, n, step):
        k = min(first, n - step)
        off = read(like, w[0], (i, j, k)) * damp_rhs(like, sd, b, ip, j, k)
        off = off + read(like, w[0], (im, j, k)) * damp_rhs(like, sd, b, im, j, k)
        off = off + read(like, w[1], (i, j, k)) * damp_rhs(like, sd, b, i, jp, k)
        off = off + read(like, w[1], (i, jm, k)) * damp_rhs(like, sd, b, i, jm, k)
        off = off + read(like, w[2], (i, j, k)) * (read_next(like, sd, i, j, k) * read_next(like, b, i, j, k))
        off = off + read_previous(like, w[2], i, j, k) * (
            read_previous(like, sd, i, j, k) * read_previous(like, b, i, j, k)
        )
        # the residual after the first step; `off` still lacks the factor omega1
        damping, here = read(like, sd, (i, j, k)), read(like, b, (i, j, k))
        x = omega1 * (damping * here)
        residual = here - read(like, diag, (i, j, k)) * x + omega1 * off
        store(y, (i, j, k), x + omega2 * (damping * residual))


@kernel
def smooth_from_zero(diag, w, sd, b, y, omega1, omega2):
    """Take both steps from x = 0; the first is recomputed at neighbours instead of being stored."""
    nx, ny, nz = b.shape
    for index in numba.prange(nx * ny):
        row, like = locate_row(index, ny, nx), full_register(b)
        if nz >= count_lanes(like):
            from_zero_row(like, diag, w, sd, b, y, omega1, omega2, row)
        else:
            from_zero_row(one_lane(b), diag, w, sd, b, y, omega1, omega2, row)
