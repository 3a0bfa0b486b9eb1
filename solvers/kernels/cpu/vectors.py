"""The vector updates of conjugate gradients, merged; grids come as (rows, nz)."""

from __future__ import annotations

import numba

from .compile import kernel


@kernel
def update_solution(x, r, p, q, alpha, step, scale, b, sums):
    """Step x += alpha p, r -= step q; set b = scale r (the cycle's dtype) and sums[row] = r.r."""
    rows, n = x.shape
    for row in numba.prange(rows):
        xr, rr, pr, qr, br, total = x[row], r[row], p[row], q[row], b[row], 0.0
        for k in range(n):
            xr[k] += alpha * pr[k]
            v = rr[k] - step * qr[k]
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
