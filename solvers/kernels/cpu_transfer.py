"""Residual with restriction, and prolongation with correction, on the CPU: exact transposes in eight-bit weights."""

from __future__ import annotations

import numba
import numpy as np

from .cpu_jit import kernel, row_kernel
from .cpu_smoothing import around, product_at


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
