"""Products with A and damped Jacobi steps on the CPU, a register of cells at a time; see `cpu` for layout and bytes.

Links, diagonal and damping may be integers (`codes`); they become fp32 or fp64 in registers. The last vector of a row
begins so early that it ends with the row: some cells are computed twice, to the same result.
"""

from __future__ import annotations

import numba

from .compile import kernel, register_kernel
from .lane_rows import after, before, from_lane, read, single, total, wide, width
from .lanes import store


@register_kernel
def around(index, ny, nx):
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
def product(like, diag, w, x, row, k):
    """Return A x from cell k of a row on; w holds the links of the three axes."""
    i, j, ip, im, jp, jm = row
    off = read(like, w[0], (i, j, k)) * read(like, x, (ip, j, k))
    off = off + read(like, w[0], (im, j, k)) * read(like, x, (im, j, k))
    off = off + read(like, w[1], (i, j, k)) * read(like, x, (i, jp, k))
    off = off + read(like, w[1], (i, jm, k)) * read(like, x, (i, jm, k))
    off = off + read(like, w[2], (i, j, k)) * after(like, x, i, j, k)
    off = off + before(like, w[2], i, j, k) * before(like, x, i, j, k)
    return read(like, diag, (i, j, k)) * read(like, x, (i, j, k)) - off


@register_kernel
def product_row(like, diag, w, x, y, row):
    """Compute y = A x on a row; return x.y."""
    n, step, sums = x.shape[2], width(like), like
    for first in range(0, n, step):
        k = min(first, n - step)
        here, q = read(like, x, (row[0], row[1], k)), product(like, diag, w, x, row, k)
        store(y, (row[0], row[1], k), q)
        sums = sums + from_lane(first - k, here * q, like)
    return total(sums)


@kernel
def apply_dot(diag, w, x, y, sums):
    """Compute y = A x; sums[row] = x.y of that row in the dtype of x."""
    nx, ny, nz = x.shape
    for index in numba.prange(nx * ny):
        row, like = around(index, ny, nx), wide(x)
        if nz >= width(like):
            sums[index] = product_row(like, diag, w, x, y, row)
        else:
            sums[index] = product_row(single(x), diag, w, x, y, row)


@register_kernel
def smooth_row(like, diag, w, sd, x, b, y, omega, row):
    """Compute y = x + omega sd (b - A x) on a row."""
    n, step = x.shape[2], width(like)
    for first in range(0, n, step):
        k = min(first, n - step)
        at = row[0], row[1], k
        change = read(like, sd, at) * (read(like, b, at) - product(like, diag, w, x, row, k))
        store(y, at, read(like, x, at) + omega * change)


@kernel
def smooth(diag, w, sd, x, b, y, omega):
    """Compute y = x + omega sd (b - A x), sd = s/diag."""
    nx, ny, nz = x.shape
    for index in numba.prange(nx * ny):
        row, like = around(index, ny, nx), wide(x)
        if nz >= width(like):
            smooth_row(like, diag, w, sd, x, b, y, omega, row)
        else:
            smooth_row(single(x), diag, w, sd, x, b, y, omega, row)


@register_kernel
def scaled(like, sd, b, i, j, k):
    """Return sd b: the first step from zero but for its factor."""
    return read(like, sd, (i, j, k)) * read(like, b, (i, j, k))


@register_kernel
def from_zero_row(like, diag, w, sd, b, y, omega1, omega2, row):
    """Compute y = x + omega2 sd (b - A x), x = omega1 sd b, on a row."""
    i, j, ip, im, jp, jm = row
    n, step = b.shape[2], width(like)
    for first in range(0, n, step):
        k = min(first, n - step)
        off = read(like, w[0], (i, j, k)) * scaled(like, sd, b, ip, j, k)
        off = off + read(like, w[0], (im, j, k)) * scaled(like, sd, b, im, j, k)
        off = off + read(like, w[1], (i, j, k)) * scaled(like, sd, b, i, jp, k)
        off = off + read(like, w[1], (i, jm, k)) * scaled(like, sd, b, i, jm, k)
        off = off + read(like, w[2], (i, j, k)) * (after(like, sd, i, j, k) * after(like, b, i, j, k))
        off = off + before(like, w[2], i, j, k) * (before(like, sd, i, j, k) * before(like, b, i, j, k))
        damping, here = read(like, sd, (i, j, k)), read(like, b, (i, j, k))
        x = omega1 * (damping * here)
        residual = here - read(like, diag, (i, j, k)) * x + omega1 * off
        store(y, (i, j, k), x + omega2 * (damping * residual))


@kernel
def smooth_from_zero(diag, w, sd, b, y, omega1, omega2):
    """Take both steps from x = 0; the first is recomputed at neighbours instead of being stored."""
    nx, ny, nz = b.shape
    for index in numba.prange(nx * ny):
        row, like = around(index, ny, nx), wide(b)
        if nz >= width(like):
            from_zero_row(like, diag, w, sd, b, y, omega1, omega2, row)
        else:
            from_zero_row(single(b), diag, w, sd, b, y, omega1, omega2, row)
