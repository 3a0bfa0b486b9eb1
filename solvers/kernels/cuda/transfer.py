"""Restriction, prolongation, the last kernel of a level and the coarsest solve for a GPU (Triton).

Transfer weights have eight bits, as on the CPU. Prolongation mixes axis by axis, P = L_z L_y L_x E (`reference`). Here
one thread follows the eight paths from a fine cell to coarse values; restriction follows the same paths backwards, from
a coarse cell over its block to the cells that give to it. Both read the same weights, so the transposes agree to
rounding. Weights are stored per cell, (3, n), or per pattern, three bytes of one number (`formats`).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..reference import OMEGA
from .formats import IS_TABLE, Couplings, load_name
from .launch import TILE, launch, run, tile
from .smoothing import smoothed_product

ROWS = tl.constexpr(16)  # rows of the coarsest inverse per program
FINISH = TILE // 2  # cells per program of the last kernel, which needs most registers
FIRST, SECOND = tl.constexpr(OMEGA[0]), tl.constexpr(OMEGA[1])


@triton.jit
def outer_neighbour(k, n, WRAP: tl.constexpr):
    """Return the outer neighbour along a coarsened axis; k itself at a side of the box, where the weight is 0."""
    other = tl.where(k % 2 == 0, k - 1, k + 1)
    if WRAP:
        return tl.where(other < 0, n - 1, tl.where(other >= n, 0, other))
    else:
        return tl.where((other < 0) | (other >= n), k, other)


@triton.jit
def find_donor(k, n, Q: tl.constexpr, WRAP: tl.constexpr):
    """Return a cell whose outer neighbour is k, or -1: its outer neighbour, but for a ring of odd length.

    There the ends n - 1 and 0 lie in different positions of their blocks: 0 gives to n - 1 and gets nothing back.
    """
    if Q == 1:
        return tl.where((n % 2 == 1) & (k == n - 1), 0, -1)
    else:
        other = tl.where(k % 2 == 0, k - 1, k + 1)
        if WRAP:
            other = tl.where(other < 0, tl.where(n % 2 == 0, n - 1, -1), tl.where(other >= n, 0, other))
        return tl.where(other >= n, -1, other)


@triton.jit
def load_weight(w0, a, axis: tl.constexpr, o, n, live, dtype: tl.constexpr, FORM: tl.constexpr):
    """Return the transfer weight of an axis at flat index o; n cells per axis array."""
    if FORM == IS_TABLE:
        word = tl.load(a + load_name(w0, o, live), mask=live, other=0)
        return ((word >> (8 * axis)) & 255).to(dtype) / 255
    else:
        return tl.load(a + axis * n + o, mask=live, other=0).to(dtype) / 255


# --- restriction ------------------------------------------------------------------------------------------------------


@triton.jit
def restrict_along_z(
    w0, r, a, i, j, k, nx, ny, nz, live, WZ: tl.constexpr, DZ: tl.constexpr, FORM: tl.constexpr
):  # fmt: skip
    """Return L_zᵀ r at fine cells; DZ: how many donors a cell may have (0: the axis is not coarsened)."""
    o, n = (i * ny + j) * nz + k, nx * ny * nz
    v = tl.load(r + o, mask=live, other=0)
    if DZ > 0:
        v -= load_weight(w0, a, 2, o, n, live, v.dtype, FORM) * v
        for q in tl.static_range(DZ):
            source = find_donor(k, nz, q, WZ)
            there = live & (source >= 0)
            p = (i * ny + j) * nz + source
            v += load_weight(w0, a, 2, p, n, there, v.dtype, FORM) * tl.load(r + p, mask=there, other=0)
    return v


@triton.jit
def restrict_along_y(
    w0, r, a, i, j, k, nx, ny, nz, live,
    WY: tl.constexpr, WZ: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Return L_yᵀ L_zᵀ r at fine cells."""
    v = restrict_along_z(w0, r, a, i, j, k, nx, ny, nz, live, WZ, DZ, FORM)
    if DY > 0:
        n = nx * ny * nz
        v -= load_weight(w0, a, 1, (i * ny + j) * nz + k, n, live, v.dtype, FORM) * v
        for q in tl.static_range(DY):
            source = find_donor(j, ny, q, WY)
            there = live & (source >= 0)
            share = load_weight(w0, a, 1, (i * ny + source) * nz + k, n, there, v.dtype, FORM)
            v += share * restrict_along_z(w0, r, a, i, source, k, nx, ny, nz, there, WZ, DZ, FORM)
    return v


@triton.jit
def restrict_along_x(
    w0, r, a, i, j, k, nx, ny, nz, live, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
    DX: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Return L_xᵀ L_yᵀ L_zᵀ r at fine cells."""
    v = restrict_along_y(w0, r, a, i, j, k, nx, ny, nz, live, WY, WZ, DY, DZ, FORM)
    if DX > 0:
        n = nx * ny * nz
        v -= load_weight(w0, a, 0, (i * ny + j) * nz + k, n, live, v.dtype, FORM) * v
        for q in tl.static_range(DX):
            source = find_donor(i, nx, q, WX)
            there = live & (source >= 0)
            share = load_weight(w0, a, 0, (source * ny + j) * nz + k, n, there, v.dtype, FORM)
            v += share * restrict_along_y(w0, r, a, source, j, k, nx, ny, nz, there, WY, WZ, DY, DZ, FORM)
    return v


@triton.jit
def restrict_tile(
    w0, r, a, coarse, nx, ny, nz, cx, cy, cz, R: tl.constexpr, Z: tl.constexpr,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
    DX: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Write coarse = Pᵀ r."""
    ci, cj, ck, live = tile(cx, cy, cz, R, Z)
    total = tl.zeros((R, Z), coarse.dtype.element_ty)
    for di in tl.static_range(FX):
        for dj in tl.static_range(FY):
            for dk in tl.static_range(FZ):
                i, j, k = FX * ci + di, FY * cj + dj, FZ * ck + dk
                there = live & (i < nx) & (j < ny) & (k < nz)
                total += restrict_along_x(w0, r, a, i, j, k, nx, ny, nz, there, WX, WY, WZ, DX, DY, DZ, FORM)
    tl.store(coarse + (ci * cy + cj) * cz + ck, total, mask=live)


@triton.jit
def _restrict(
    w0, r, a, coarse, stop, nx, ny, nz, cx, cy, cz, R: tl.constexpr, Z: tl.constexpr,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
    DX: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    if tl.load(stop) == 0:
        restrict_tile(
            w0, r, a, coarse, nx, ny, nz, cx, cy, cz, R, Z, FX, FY, FZ, WX, WY, WZ, DX, DY, DZ, FORM
        )  # fmt: skip


# --- prolongation -----------------------------------------------------------------------------------------------------


@triton.jit
def interpolate_along_x(
    w0, c, a, i, j, k, nx, ny, nz, cy, cz, live,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Return L_x E c at fine cells."""
    v = tl.load(c + ((i // FX) * cy + j // FY) * cz + k // FZ, mask=live, other=0)
    if FX == 2:
        other = tl.load(c + ((outer_neighbour(i, nx, WX) // FX) * cy + j // FY) * cz + k // FZ, mask=live, other=0)
        v += load_weight(w0, a, 0, (i * ny + j) * nz + k, nx * ny * nz, live, v.dtype, FORM) * (other - v)
    return v


@triton.jit
def interpolate_along_y(
    w0, c, a, i, j, k, nx, ny, nz, cy, cz, live, FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr,
    WX: tl.constexpr, WY: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Return L_y L_x E c at fine cells."""
    v = interpolate_along_x(w0, c, a, i, j, k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, FORM)
    if FY == 2:
        other = interpolate_along_x(
            w0, c, a, i, outer_neighbour(j, ny, WY), k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, FORM
        )
        v += load_weight(w0, a, 1, (i * ny + j) * nz + k, nx * ny * nz, live, v.dtype, FORM) * (other - v)
    return v


@triton.jit
def interpolate_along_z(
    w0, c, a, i, j, k, nx, ny, nz, cy, cz, live, FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr,
    WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Return P c at fine cells."""
    v = interpolate_along_y(w0, c, a, i, j, k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, WY, FORM)
    if FZ == 2:
        other = interpolate_along_y(
            w0, c, a, i, j, outer_neighbour(k, nz, WZ), nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, WY, FORM
        )
        v += load_weight(w0, a, 2, (i * ny + j) * nz + k, nx * ny * nz, live, v.dtype, FORM) * (other - v)
    return v


@triton.jit
def prolong_tile(
    w0, c, a, x, cy, cz, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, FX: tl.constexpr, FY: tl.constexpr,
    FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Write x = P c."""
    i, j, k, live = tile(nx, ny, nz, R, Z)
    v = interpolate_along_z(w0, c, a, i, j, k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, WY, WZ, FORM)
    tl.store(x + (i * ny + j) * nz + k, v, mask=live)


@triton.jit
def _prolong(
    w0, c, a, x, stop, cy, cz, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, FX: tl.constexpr, FY: tl.constexpr,
    FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    if tl.load(stop) == 0:
        prolong_tile(w0, c, a, x, cy, cz, nx, ny, nz, R, Z, FX, FY, FZ, WX, WY, WZ, FORM)


# --- the last kernel of a level ---------------------------------------------------------------------------------------


@triton.jit
def finish_tile(
    w0, w1, w2, e, sd, c, a, b, g, r, sums, cy, cz, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, FX: tl.constexpr,
    FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr, FORM: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """Write z of a level in place of r; with DOT also the partial sum of z.b."""
    i, j, k, live = tile(nx, ny, nz, R, Z)
    z = interpolate_along_z(w0, c, a, i, j, k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, WY, WZ, FORM)
    o, left, s, product = smoothed_product(w0, w1, w2, e, sd, g, i, j, k, nx, ny, nz, live, FORM)
    given = tl.load(b + o, mask=live, other=0)
    steps = FIRST * (given + left - SECOND * product) + SECOND * (tl.load(r + o, mask=live, other=0) + left)
    z = tl.where(s > 0, z + s * steps, 0)  # s is positive where there is an unknown
    tl.store(r + o, z, mask=live)
    if DOT:
        part = tl.where(live, z.to(tl.float64) * given.to(tl.float64), 0)
        tl.store(sums + tl.program_id(0), tl.sum(part))


@triton.jit
def _finish(
    w0, w1, w2, e, sd, c, a, b, g, r, sums, stop, cy, cz, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
    FORM: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    if tl.load(stop) == 0:
        finish_tile(
            w0, w1, w2, e, sd, c, a, b, g, r, sums, cy, cz, nx, ny, nz, R, Z, FX, FY, FZ, WX, WY, WZ, FORM, DOT
        )  # fmt: skip


# --- the coarsest level -----------------------------------------------------------------------------------------------


@triton.jit
def multiply_rows(matrix, b, y, m, first, ROWS: tl.constexpr, M: tl.constexpr):
    """Write rows of y = matrix b."""
    row, column = first + tl.arange(0, ROWS), tl.arange(0, M)
    live = (row[:, None] < m) & (column[None, :] < m)
    values = tl.load(matrix + row[:, None] * m + column[None, :], mask=live, other=0)
    vector = tl.load(b + column, mask=column < m, other=0)
    tl.store(y + row, tl.sum(values * vector[None, :], 1), mask=row < m)


@triton.jit
def _multiply(matrix, b, y, stop, m, M: tl.constexpr):
    if tl.load(stop) == 0:
        multiply_rows(matrix, b, y, m, tl.program_id(0) * ROWS, ROWS, M)


# --- what the host calls ----------------------------------------------------------------------------------------------


def constants_of(factors: Any, periodic: Any, form: int) -> dict[str, Any]:
    """Name the compile-time constants of a prolongation."""
    return dict(zip(("FX", "FY", "FZ", "WX", "WY", "WZ", "FORM"), (*factors, *periodic, form), strict=True))


def donors_of(factors: Any, periodic: Any, size: Any) -> dict[str, int]:
    """Name how many donors a cell may have per axis: a ring of odd length has one cell with two."""
    counts = [0 if f == 1 else 2 if p and n % 2 else 1 for f, p, n in zip(factors, periodic, size, strict=True)]
    return dict(zip(("DX", "DY", "DZ"), counts, strict=True))


def restrict(op: Couplings, r: Tensor, a: Tensor, factors: Any, periodic: Any, coarse: Tensor, stop: Tensor) -> None:
    """Compute coarse = Pᵀ r."""
    constants = constants_of(factors, periodic, op.form) | donors_of(factors, periodic, op.size)
    # 64 paths per coarse cell: one per thread, else sm_90 runs out of registers
    launch(
        _restrict, tuple(coarse.shape), op.arrays[0], r, a, coarse, stop, *op.size, cells=TILE // 8, **constants
    )  # fmt: skip


def prolong(op: Couplings, c: Tensor, a: Tensor, factors: Any, periodic: Any, x: Tensor, stop: Tensor) -> None:
    """Compute x = P c, also in cells without an unknown, where nothing reads it."""
    constants = constants_of(factors, periodic, op.form)
    launch(_prolong, op.size, op.arrays[0], c, a, x, stop, c.shape[1], c.shape[2], **constants)


def finish(
    op: Couplings, c: Tensor, a: Tensor, factors: Any, periodic: Any, b: Tensor, g: Tensor, r: Tensor, stop: Tensor,
    sums: Tensor | None = None,
) -> None:  # fmt: skip
    """Compute z of a level in place of r = r₁; with `sums` also the partial sums of z.b."""
    constants = constants_of(factors, periodic, op.form) | {"DOT": sums is not None}
    some = r if sums is None else sums
    arguments = (*op.arrays, c, a, b, g, r, some, stop, c.shape[1], c.shape[2])
    launch(_finish, op.size, *arguments, cells=FINISH, **constants)


def multiply(matrix: Tensor, b: Tensor, y: Tensor, stop: Tensor) -> None:
    """Compute y = matrix b for the small dense inverse of the coarsest level."""
    m = matrix.shape[0]
    run(_multiply, triton.cdiv(m, ROWS.value), matrix, b, y, stop, m, M=max(triton.next_power_of_2(m), 1))
