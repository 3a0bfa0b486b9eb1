"""The kernels of `reference` for a GPU (Triton): the product with its dot product, and the smoother in residual form.

Conductances come in four forms (`formats`); arithmetic has the dtype of the vectors.

With S = s/diag, ω₁ and ω₂ = 0.57 and 1.4 and c = B Pᵀ r₂ from the coarse level, one level of the cycle is

    relax    r₁ = b - ω₁ A S b,   r₂ = r₁ - ω₂ A S r₁          residual after each of the two steps from x = 0
    restrict Pᵀ r₂                                             `transfer`
    prolong  e = P c
    correct  g = r₂ - A e                                      in place of r₂
    finish   z = ω₁ S b + ω₂ S r₁ + e + ω₂ S g + ω₁ S (g - ω₂ A S g)      in place of r₁; with z·b on request

which is the reference's two steps, correction and two steps in reverse order: no iterate is stored, only residuals.
`finish` computes e again from c, since reading the coarse grid is cheaper. Bytes per cell of one level, neighbours in
cache; the last column is what all levels of an isotropic 3D grid move together (cell-type: coarser levels stored):

    form            relax  relax  restrict  prolong  correct  finish   sum    all levels
    stored, fp32       28     28       7.5      7.5       28    39.5   138.5     179
    stored, bf16       18     18       7.5      7.5       20    29.5   100.5     131
    patterns           10     10       6.5      6.5       14    18.5    65.5      87 (fp32 below), 81 (bf16 below)

A level that is visited twice is two levels with the identity between them: no restriction, no prolongation.

Dot products are partial sums of one program each, added up in a fixed order by the kernel that needs the scalar. Every
kernel reads `stop` first, a number on the device, and does nothing if it is not 0: what `vectors` sets once the
tolerance is met.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .formats import IS_CODES, IS_LEVEL, IS_TABLE, Couplings, load_link, name_or_index
from .launch import around, launch, tile


@triton.jit
def product_from(w0, w1, w2, e, name, o, xm, ym, zm, live, v, vxp, vxm, vyp, vym, vzp, vzm, FORM: tl.constexpr):
    """Return A v at flat index o from the values there and at the six neighbours; `name` is the code or id there."""
    if FORM == IS_CODES or FORM == IS_TABLE:
        code = name
        if FORM == IS_TABLE:
            code = tl.load(w2 + name, mask=live, other=0)
        cx, cy, cz = tl.load(w1), tl.load(w1 + 1), tl.load(w1 + 2)
        n = code >> 6  # how many conductances of each axis add up, in base 5
        x = (n % 5).to(v.dtype) * v - tl.where(code & 1 != 0, vxp, 0) - tl.where(code & 2 != 0, vxm, 0)
        y = (n // 5 % 5).to(v.dtype) * v - tl.where(code & 4 != 0, vyp, 0) - tl.where(code & 8 != 0, vym, 0)
        z = (n // 25).to(v.dtype) * v - tl.where(code & 16 != 0, vzp, 0) - tl.where(code & 32 != 0, vzm, 0)
        return cx * x + cy * y + cz * z
    else:
        if FORM == IS_LEVEL:  # differences: a constant is in the null space exactly, whatever links were rounded to
            vxp, vxm, vyp, vym, vzp, vzm = vxp - v, vxm - v, vyp - v, vym - v, vzp - v, vzm - v
        x = load_link(w0, o, live, v.dtype) * vxp + load_link(w0, xm, live, v.dtype) * vxm
        y = load_link(w1, o, live, v.dtype) * vyp + load_link(w1, ym, live, v.dtype) * vym
        z = load_link(w2, o, live, v.dtype) * vzp + load_link(w2, zm, live, v.dtype) * vzm
        return load_link(e, o, live, v.dtype) * v - (x + y + z)


@triton.jit
def load_smoothed(w0, sd, r, o, live, FORM: tl.constexpr):
    """Return S r at flat index o."""
    v = tl.load(r + o, mask=live, other=0)
    return tl.load(sd + name_or_index(w0, o, live, FORM), mask=live, other=0).to(v.dtype) * v


@triton.jit
def smoothed_product(w0, w1, w2, e, sd, r, i, j, k, nx, ny, nz, live, FORM: tl.constexpr):
    """Return flat index, r, S and A S r at the cells (i, j, k)."""
    o, xp, xm, yp, ym, zp, zm = around(i, j, k, nx, ny, nz)
    name, value = name_or_index(w0, o, live, FORM), tl.load(r + o, mask=live, other=0)
    s = tl.load(sd + name, mask=live, other=0).to(value.dtype)
    vxp, vxm = load_smoothed(w0, sd, r, xp, live, FORM), load_smoothed(w0, sd, r, xm, live, FORM)
    vyp, vym = load_smoothed(w0, sd, r, yp, live, FORM), load_smoothed(w0, sd, r, ym, live, FORM)
    vzp, vzm = load_smoothed(w0, sd, r, zp, live, FORM), load_smoothed(w0, sd, r, zm, live, FORM)
    v = s * value
    return o, value, s, product_from(
        w0, w1, w2, e, name, o, xm, ym, zm, live, v, vxp, vxm, vyp, vym, vzp, vzm, FORM
    )  # fmt: skip


@triton.jit
def product_at(w0, w1, w2, e, x, i, j, k, nx, ny, nz, live, FORM: tl.constexpr):
    """Return flat index, x and A x at the cells (i, j, k)."""
    o, xp, xm, yp, ym, zp, zm = around(i, j, k, nx, ny, nz)
    v = tl.load(x + o, mask=live, other=0)
    vxp, vxm = tl.load(x + xp, mask=live, other=0), tl.load(x + xm, mask=live, other=0)
    vyp, vym = tl.load(x + yp, mask=live, other=0), tl.load(x + ym, mask=live, other=0)
    vzp, vzm = tl.load(x + zp, mask=live, other=0), tl.load(x + zm, mask=live, other=0)
    name = name_or_index(w0, o, live, FORM)
    return o, v, product_from(w0, w1, w2, e, name, o, xm, ym, zm, live, v, vxp, vxm, vyp, vym, vzp, vzm, FORM)


# --- kernels: what a tile does, then the kernel of it -----------------------------------------------------------------


@triton.jit
def _apply_dot(
    w0, w1, w2, e, x, y, sums, stop, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, FORM: tl.constexpr
):  # fmt: skip
    if tl.load(stop) == 0:
        i, j, k, live = tile(nx, ny, nz, R, Z)
        o, v, product = product_at(w0, w1, w2, e, x, i, j, k, nx, ny, nz, live, FORM)
        tl.store(y + o, product, mask=live)
        part = tl.where(live, v.to(tl.float64) * product.to(tl.float64), 0)
        tl.store(sums + tl.program_id(0), tl.sum(part))


@triton.jit
def relax_tile(
    w0, w1, w2, e, sd, r, out, nx, ny, nz,
    R: tl.constexpr, Z: tl.constexpr, FORM: tl.constexpr, OMEGA: tl.constexpr,
):  # fmt: skip
    """Write out = r - omega A S r where there is an unknown, else 0."""
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o, value, s, product = smoothed_product(w0, w1, w2, e, sd, r, i, j, k, nx, ny, nz, live, FORM)
    # cells without an unknown may hold a coarse-grid b: it must not come back to the finer level
    tl.store(out + o, tl.where(s > 0, value - OMEGA * product, 0), mask=live)


@triton.jit
def _relax(
    w0, w1, w2, e, sd, r, out, stop, nx, ny, nz,
    R: tl.constexpr, Z: tl.constexpr, FORM: tl.constexpr, OMEGA: tl.constexpr,
):  # fmt: skip
    if tl.load(stop) == 0:
        relax_tile(w0, w1, w2, e, sd, r, out, nx, ny, nz, R, Z, FORM, OMEGA)


@triton.jit
def correct_tile(w0, w1, w2, e, x, r, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, FORM: tl.constexpr):
    """Subtract A x from r."""
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o, _, product = product_at(w0, w1, w2, e, x, i, j, k, nx, ny, nz, live, FORM)
    tl.store(r + o, tl.load(r + o, mask=live, other=0) - product, mask=live)


@triton.jit
def _correct(w0, w1, w2, e, x, r, stop, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, FORM: tl.constexpr):
    if tl.load(stop) == 0:
        correct_tile(w0, w1, w2, e, x, r, nx, ny, nz, R, Z, FORM)


# --- what the host calls ----------------------------------------------------------------------------------------------


def apply_dot(op: Couplings, x: Tensor, y: Tensor, sums: Tensor, stop: Tensor) -> None:
    """Compute y = A x; sums = x.y, one partial sum per program, in fp64."""
    launch(_apply_dot, op.size, *op.arrays[:4], x, y, sums, stop, FORM=op.form)


def relax(op: Couplings, r: Tensor, out: Tensor, omega: float, stop: Tensor) -> None:
    """Compute out = r - omega A S r where there is an unknown, else 0: the residual after a step from x = 0."""
    launch(_relax, op.size, *op.arrays, r, out, stop, FORM=op.form, OMEGA=omega)


def correct(op: Couplings, e: Tensor, r: Tensor, stop: Tensor) -> None:
    """Subtract A e from r."""
    launch(_correct, op.size, *op.arrays[:4], e, r, stop, FORM=op.form)
