"""The kernels of `reference` fused and parallel for the CPU (numba); the same results to rounding.

Arrays are C-contiguous internal grids (nx, ny, nz) of one dtype (fp32 or fp64); a work item is a row along z. Transfer
weights are stored in eight bits; prolongation and restriction use the same numbers, so symmetry and definiteness do not
notice. Links wrap around every axis (the wrap link is 0 where an axis is not periodic), so no row is special.

Bytes per cell of one level in fp32, neighbours in cache, without write-allocation: from zero 28, residual 29,
restriction 6.5, prolongation 15.5, two smoothing steps 64; sum 143, times 8/7 for all levels = 163.

Reductions sum rows first and then the rows in a fixed order: results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np

FAST = {"contract", "reassoc", "nsz"}  # no nnan, no ninf: a NaN has to reach the stopping rule
SERIAL = 20_000  # cells up to which one thread is faster than waking the others (ours, two cores)


@contextmanager
def threads_for(cells: int) -> Iterator[None]:
    """One thread for a small grid, all that numba has for a large one."""
    threads = numba.get_num_threads()
    if cells > SERIAL or threads == 1:
        yield
        return
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(threads)


def kernel(function: Any = None, *, parallel: bool = True) -> Any:
    """``numba.njit`` with a disk cache where one can be written (containers and read-only installations have none)."""
    if function is None:
        return lambda f: kernel(f, parallel=parallel)
    options = {"parallel": parallel, "fastmath": FAST, "error_model": "numpy", "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return numba.njit(**options)(function)


row_kernel = kernel(parallel=False)


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
            yr[k] = xr[k] + omega * sr[k] * (br[k] - yr[k])


@row_kernel
def scaled_row(out, sd, b, omega):
    """Take the first step from zero: omega sd b."""
    for k in range(out.shape[0]):
        out[k] = omega * sd[k] * b[k]


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
            yr[k] = x0[k] + omega2 * sr[k] * (br[k] - yr[k])


# --- transfer ---------------------------------------------------------------------------------------------------------


@row_kernel
def transpose_z(t, a, r, periodic):
    """Compute t = L_zᵀ r on one row: every cell gives the share a to its outer neighbour."""
    n = r.shape[0]
    unit = r.dtype.type(1 / 255)
    for k in range(n):
        t[k] = r[k] - (a[k] * unit) * r[k]
    pairs = (n - 1) // 2
    to, ao, ro, te, ae, re = t[1::2], a[1::2], r[1::2], t[2::2], a[2::2], r[2::2]
    for m in range(pairs):
        to[m] += (ae[m] * unit) * re[m]
        te[m] += (ao[m] * unit) * ro[m]
    if periodic:
        t[n - 1] += (a[0] * unit) * r[0]
        if n % 2 == 0:
            t[0] += (a[n - 1] * unit) * r[n - 1]


@kernel
def residual_rows(diag, w, x, b, a, factors, periodic_z, t):
    """Compute t = L_zᵀ (b - A x): the residual and the part of the restriction that stays in a row."""
    nx, ny, nz = x.shape
    for row in numba.prange(nx * ny):
        i, j, ip, im, jp, jm = around(row, ny, nx)
        r = np.empty(nz, x.dtype)
        product_at(r, diag, w, x, i, j, ip, im, jp, jm)
        br, tr, dr = b[i, j], t[i, j], diag[i, j]
        # cells without an unknown may hold a coarse-grid b: it must not come back to the finer level
        for k in range(nz):
            r[k] = br[k] - r[k] if dr[k] > 0 else br.dtype.type(0)
        if factors[2] == 2:
            transpose_z(tr, a[2, i, j], r, periodic_z)
        else:
            for k in range(nz):
                tr[k] = r[k]


@row_kernel
def gather_y(u, t, ay, i, j, fy, sources):
    """Compute u = row j of L_yᵀ t in plane i."""
    n = u.shape[0]
    unit = u.dtype.type(1 / 255)
    tr = t[i, j]
    if fy == 1:
        for k in range(n):
            u[k] = tr[k]
        return
    own = ay[i, j]
    for k in range(n):
        u[k] = tr[k] - (own[k] * unit) * tr[k]
    for q in range(2):
        source = sources[j, q]
        if source >= 0:
            share, value = ay[i, source], t[i, source]
            for k in range(n):
                u[k] += (share[k] * unit) * value[k]


@row_kernel
def add_to_blocks(out, v, fz):
    """Add to out[K] the sum of v over block K."""
    n = v.shape[0]
    if fz == 1:
        for k in range(n):
            out[k] += v[k]
        return
    even, odd = v[0::2], v[1::2]
    for k in range(n // 2):
        out[k] += even[k] + odd[k]
    if n % 2:
        out[n // 2] += v[n - 1]


@kernel
def restrict_rows(t, a, factors, sources_x, sources_y, coarse):
    """Compute coarse = Eᵀ L_xᵀ L_yᵀ t."""
    nx, ny, nz = t.shape
    cx, cy = coarse.shape[0], coarse.shape[1]
    fx, fy, fz = factors[0], factors[1], factors[2]
    unit = t.dtype.type(1 / 255)
    for row in numba.prange(cx * cy):
        out = coarse[row // cy, row % cy]
        u, v = np.empty(nz, t.dtype), np.empty(nz, t.dtype)
        out[:] = 0
        for i in range(fx * (row // cy), min(fx * (row // cy) + fx, nx)):
            for j in range(fy * (row % cy), min(fy * (row % cy) + fy, ny)):
                gather_y(v, t, a[1], i, j, fy, sources_y)
                if fx == 2:
                    own = a[0, i, j]
                    for k in range(nz):
                        v[k] -= (own[k] * unit) * v[k]
                    for q in range(2):
                        source = sources_x[i, q]
                        if source >= 0:
                            gather_y(u, t, a[1], source, j, fy, sources_y)
                            share = a[0, source, j]
                            for k in range(nz):
                                v[k] += (share[k] * unit) * u[k]
                add_to_blocks(out, v, fz)


@row_kernel
def mix_x(e, c, ax, own, other, fz):
    """Compute e = row of L_x E c: coarse rows `own` and `other`, mixed by this fine row's weights."""
    n = e.shape[0]
    unit = e.dtype.type(1 / 255)
    if fz == 1:
        for k in range(n):
            e[k] = own[k] + (ax[k] * unit) * (other[k] - own[k])
        return
    ee, eo, ae, ao = e[0::2], e[1::2], ax[0::2], ax[1::2]
    for k in range(n // 2):
        difference = other[k] - own[k]
        ee[k] = own[k] + (ae[k] * unit) * difference
        eo[k] = own[k] + (ao[k] * unit) * difference
    if n % 2:
        m = n // 2
        e[n - 1] = own[m] + (ax[n - 1] * unit) * (other[m] - own[m])


@row_kernel
def add_mixed_z(x, e, az, sd, fz, periodic):
    """Add L_z e to x where the cell holds an unknown."""
    n = x.shape[0]
    unit = x.dtype.type(1 / 255)
    for k in range(n):
        x[k] += e[k] if sd[k] > 0 else x.dtype.type(0)
    if fz == 1:
        return
    xo, ao, eo, xe, ae, ee = x[1::2], az[1::2], e[1::2], x[2::2], az[2::2], e[2::2]
    for m in range((n - 1) // 2):
        difference = ee[m] - eo[m]
        xo[m] += (ao[m] * unit) * difference
        xe[m] -= (ae[m] * unit) * difference
    if periodic:
        x[0] += (az[0] * unit) * (e[n - 1] - e[0])
        if n % 2 == 0:
            x[n - 1] += (az[n - 1] * unit) * (e[0] - e[n - 1])


@kernel
def prolong_add(c, a, sd, factors, outer_x, outer_y, periodic_z, x):
    """Add P c to x."""
    nx, ny, nz = x.shape
    fx, fy, fz = factors[0], factors[1], factors[2]
    unit = x.dtype.type(1 / 255)
    for row in numba.prange(nx * ny):
        i, j = row // ny, row % ny
        io = outer_x[i] if fx == 2 and outer_x[i] >= 0 else i
        jo = outer_y[j] if fy == 2 and outer_y[j] >= 0 else j
        e, f = np.empty(nz, x.dtype), np.empty(nz, x.dtype)
        mix_x(e, c, a[0, i, j], c[i // fx, j // fy], c[io // fx, j // fy], fz)
        if jo != j:
            mix_x(f, c, a[0, i, jo], c[i // fx, jo // fy], c[io // fx, jo // fy], fz)
            ay = a[1, i, j]
            for k in range(nz):
                e[k] += (ay[k] * unit) * (f[k] - e[k])
        add_mixed_z(x[i, j], e, a[2, i, j], sd[i, j], fz, periodic_z)


# --- conjugate gradients ----------------------------------------------------------------------------------------------


@kernel
def update_solution(x, r, p, q, alpha, scale, b, sums):
    """Step x += alpha p, r -= alpha q; set b = scale r (the cycle's dtype) and sums[row] = r.r."""
    rows, n = x.shape
    for row in numba.prange(rows):
        xr, rr, pr, qr, br, total = x[row], r[row], p[row], q[row], b[row], 0.0
        for k in range(n):
            xr[k] += alpha * pr[k]
            v = rr[k] - alpha * qr[k]
            rr[k] = v
            br[k] = v * scale
            total += v * v
        sums[row] = total


@kernel
def dot_rows(r, z, sums):
    """Compute sums[row] = r.z in fp64."""
    rows, n = r.shape
    for row in numba.prange(rows):
        rr, zr, total = r[row], z[row], 0.0
        for k in range(n):
            total += rr[k] * zr[k]
        sums[row] = total


@kernel
def update_direction(p, z, scale, beta):
    """Compute p = scale z + beta p."""
    rows, n = p.shape
    for row in numba.prange(rows):
        pr, zr = p[row], z[row]
        for k in range(n):
            pr[k] = scale * zr[k] + beta * pr[k]
