"""Products with A and damped Jacobi steps on the CPU, row by row along z; see `cpu` for layout and bytes.

Links, diagonal and damping may be integers (`codes`); sixteen bits times fp32 would be fp64, hence the conversions.
"""

from __future__ import annotations

import numba
import numpy as np

from .cpu_jit import kernel, row_kernel


@row_kernel
def product_row(y, diag, wxp, wxm, wyp, wym, wz, x, xxp, xxm, xyp, xym):
    """Compute y = A x on one row; the ends wrap."""
    # several short loops over a row in the first-level cache: each has few enough arrays for the compiler to vectorise
    n = x.shape[0]
    for k in range(n):
        y[k] = wxp[k] * xxp[k] + wxm[k] * xxm[k]
    for k in range(n):
        y[k] += wyp[k] * xyp[k] + wym[k] * xym[k]
    for k in range(1, n):
        y[k] += wz[k - 1] * x[k - 1]
    y[0] += wz[n - 1] * x[n - 1]
    for k in range(n - 1):
        y[k] = diag[k] * x[k] - (y[k] + wz[k] * x[k + 1])
    y[n - 1] = diag[n - 1] * x[n - 1] - (y[n - 1] + wz[n - 1] * x[0])


@row_kernel
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


@row_kernel
def product_at(y, diag, w, x, i, j, ip, im, jp, jm):
    """Compute y = row (i, j) of A x; w holds the links of the three axes."""
    product_row(
        y,
        diag[i, j],
        w[0][i, j],
        w[0][im, j],
        w[1][i, j],
        w[1][i, jm],
        w[2][i, j],
        x[i, j],
        x[ip, j],
        x[im, j],
        x[i, jp],
        x[i, jm],
    )


@kernel
def apply_dot(diag, w, x, y, sums):
    """Compute y = A x; sums[row] = x.y of that row in fp64."""
    nx, ny, nz = x.shape
    for row in numba.prange(nx * ny):
        i, j, ip, im, jp, jm = around(row, ny, nx)
        product_at(y[i, j], diag, w, x, i, j, ip, im, jp, jm)
        xr, yr, total = x[i, j], y[i, j], 0.0
        for k in range(nz):
            total += xr[k] * yr[k]
        sums[row] = total


@kernel
def smooth(diag, w, sd, x, b, y, omega):
    """Compute y = x + omega sd (b - A x), sd = s/diag."""
    nx, ny, nz = x.shape
    for row in numba.prange(nx * ny):
        i, j, ip, im, jp, jm = around(row, ny, nx)
        yr, xr, br, sr = y[i, j], x[i, j], b[i, j], sd[i, j]
        product_at(yr, diag, w, x, i, j, ip, im, jp, jm)
        for k in range(nz):
            yr[k] = xr[k] + omega * b.dtype.type(sr[k]) * (br[k] - yr[k])


@row_kernel
def scaled_row(out, sd, b, omega):
    """Take the first step from zero: omega sd b."""
    for k in range(out.shape[0]):
        out[k] = omega * b.dtype.type(sd[k]) * b[k]


@kernel
def smooth_from_zero(diag, w, sd, b, y, omega1, omega2):
    """Take both steps from x = 0; the first is recomputed on the four neighbouring rows instead of being stored."""
    nx, ny, nz = b.shape
    for row in numba.prange(nx * ny):
        i, j, ip, im, jp, jm = around(row, ny, nx)
        t = np.empty((5, nz), b.dtype)
        scaled_row(t[0], sd[i, j], b[i, j], omega1)
        scaled_row(t[1], sd[ip, j], b[ip, j], omega1)
        scaled_row(t[2], sd[im, j], b[im, j], omega1)
        scaled_row(t[3], sd[i, jp], b[i, jp], omega1)
        scaled_row(t[4], sd[i, jm], b[i, jm], omega1)
        yr, br, sr, x0 = y[i, j], b[i, j], sd[i, j], t[0]
        product_row(
            yr, diag[i, j], w[0][i, j], w[0][im, j], w[1][i, j], w[1][i, jm], w[2][i, j], x0, t[1], t[2], t[3], t[4]
        )
        for k in range(nz):
            yr[k] = x0[k] + omega2 * b.dtype.type(sr[k]) * (br[k] - yr[k])
