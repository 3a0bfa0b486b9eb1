"""Restriction, prolongation and the coarsest solve for a GPU (Triton); transfer weights in eight bits, as on the CPU.

Prolongation mixes axis by axis, P = L_z L_y L_x E (`reference`). Here one thread follows the eight paths from a fine
cell to coarse values; restriction follows the same paths backwards, from a coarse cell over its block to the cells that
give to it. Both read the same weights, so the transposes agree to rounding.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .cuda import TILE, launch, tile

ROWS = tl.constexpr(16)  # rows of the coarsest inverse per program


@triton.jit
def outer(k, n, WRAP: tl.constexpr):
    """Return the outer neighbour along a coarsened axis; k itself at a side of the box, where the weight is 0."""
    other = tl.where(k % 2 == 0, k - 1, k + 1)
    if WRAP:
        return tl.where(other < 0, n - 1, tl.where(other >= n, 0, other))
    return tl.where((other < 0) | (other >= n), k, other)


@triton.jit
def donor(k, n, Q: tl.constexpr, WRAP: tl.constexpr):
    """Return a cell whose outer neighbour is k, or -1: its outer neighbour, but for a ring of odd length.

    There the ends n - 1 and 0 lie in different positions of their blocks: 0 gives to n - 1 and gets nothing back.
    """
    if Q == 1:
        return tl.where((n % 2 == 1) & (k == n - 1), 0, -1)
    other = tl.where(k % 2 == 0, k - 1, k + 1)
    if WRAP:
        other = tl.where(other < 0, tl.where(n % 2 == 0, n - 1, -1), tl.where(other >= n, 0, other))
    return tl.where(other >= n, -1, other)


@triton.jit
def weight(a, axis, o, n, live, dtype: tl.constexpr):
    """Return the transfer weight of an axis at flat index o; n cells per axis array."""
    return tl.load(a + axis * n + o, mask=live, other=0).to(dtype) / 255


# --- restriction ------------------------------------------------------------------------------------------------------


@triton.jit
def given_z(r, a, i, j, k, nx, ny, nz, live, WZ: tl.constexpr, DZ: tl.constexpr):
    """Return L_zᵀ r at fine cells; DZ: how many donors a cell may have (0: the axis is not coarsened)."""
    o, n = (i * ny + j) * nz + k, nx * ny * nz
    v = tl.load(r + o, mask=live, other=0)
    if DZ > 0:
        v -= weight(a, 2, o, n, live, v.dtype) * v
        for q in tl.static_range(DZ):
            source = donor(k, nz, q, WZ)
            there = live & (source >= 0)
            p = (i * ny + j) * nz + source
            v += weight(a, 2, p, n, there, v.dtype) * tl.load(r + p, mask=there, other=0)
    return v


@triton.jit
def given_y(
    r, a, i, j, k, nx, ny, nz, live, WY: tl.constexpr, WZ: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr
):  # fmt: skip
    """Return L_yᵀ L_zᵀ r at fine cells."""
    v = given_z(r, a, i, j, k, nx, ny, nz, live, WZ, DZ)
    if DY > 0:
        n = nx * ny * nz
        v -= weight(a, 1, (i * ny + j) * nz + k, n, live, v.dtype) * v
        for q in tl.static_range(DY):
            source = donor(j, ny, q, WY)
            there = live & (source >= 0)
            share = weight(a, 1, (i * ny + source) * nz + k, n, there, v.dtype)
            v += share * given_z(r, a, i, source, k, nx, ny, nz, there, WZ, DZ)
    return v


@triton.jit
def given_x(
    r, a, i, j, k, nx, ny, nz, live, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
    DX: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr,
):  # fmt: skip
    """Return L_xᵀ L_yᵀ L_zᵀ r at fine cells."""
    v = given_y(r, a, i, j, k, nx, ny, nz, live, WY, WZ, DY, DZ)
    if DX > 0:
        n = nx * ny * nz
        v -= weight(a, 0, (i * ny + j) * nz + k, n, live, v.dtype) * v
        for q in tl.static_range(DX):
            source = donor(i, nx, q, WX)
            there = live & (source >= 0)
            share = weight(a, 0, (source * ny + j) * nz + k, n, there, v.dtype)
            v += share * given_y(r, a, source, j, k, nx, ny, nz, there, WY, WZ, DY, DZ)
    return v


@triton.jit
def _restrict(
    r, a, coarse, nx, ny, nz, cx, cy, cz, R: tl.constexpr, Z: tl.constexpr,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
    DX: tl.constexpr, DY: tl.constexpr, DZ: tl.constexpr,
):  # fmt: skip
    ci, cj, ck, live = tile(cx, cy, cz, R, Z)
    total = tl.zeros((R, Z), coarse.dtype.element_ty)
    for di in tl.static_range(FX):
        for dj in tl.static_range(FY):
            for dk in tl.static_range(FZ):
                i, j, k = FX * ci + di, FY * cj + dj, FZ * ck + dk
                there = live & (i < nx) & (j < ny) & (k < nz)
                total += given_x(r, a, i, j, k, nx, ny, nz, there, WX, WY, WZ, DX, DY, DZ)
    tl.store(coarse + (ci * cy + cj) * cz + ck, total, mask=live)


# --- prolongation -----------------------------------------------------------------------------------------------------


@triton.jit
def mixed_x(
    c, a, i, j, k, nx, ny, nz, cy, cz, live,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr,
):  # fmt: skip
    """Return L_x E c at fine cells."""
    v = tl.load(c + ((i // FX) * cy + j // FY) * cz + k // FZ, mask=live, other=0)
    if FX == 2:
        other = tl.load(c + ((outer(i, nx, WX) // FX) * cy + j // FY) * cz + k // FZ, mask=live, other=0)
        v += weight(a, 0, (i * ny + j) * nz + k, nx * ny * nz, live, v.dtype) * (other - v)
    return v


@triton.jit
def mixed_y(
    c, a, i, j, k, nx, ny, nz, cy, cz, live,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr,
):  # fmt: skip
    """Return L_y L_x E c at fine cells."""
    v = mixed_x(c, a, i, j, k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX)
    if FY == 2:
        other = mixed_x(c, a, i, outer(j, ny, WY), k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX)
        v += weight(a, 1, (i * ny + j) * nz + k, nx * ny * nz, live, v.dtype) * (other - v)
    return v


@triton.jit
def _prolong_add(
    c, a, s, x, cy, cz, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr,
    FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr, WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
):  # fmt: skip
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o = (i * ny + j) * nz + k
    v = mixed_y(c, a, i, j, k, nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, WY)
    if FZ == 2:
        other = mixed_y(c, a, i, j, outer(k, nz, WZ), nx, ny, nz, cy, cz, live, FX, FY, FZ, WX, WY)
        v += weight(a, 2, o, nx * ny * nz, live, v.dtype) * (other - v)
    unknown = tl.load(s + o, mask=live, other=0) > 0  # damping is at least 1/255 where there is an unknown
    tl.store(x + o, tl.load(x + o, mask=live, other=0) + tl.where(unknown, v, 0), mask=live)


# --- the coarsest level -----------------------------------------------------------------------------------------------


@triton.jit
def _multiply(matrix, b, y, m, M: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, M)
    live = (row[:, None] < m) & (column[None, :] < m)
    values = tl.load(matrix + row[:, None] * m + column[None, :], mask=live, other=0)
    vector = tl.load(b + column, mask=column < m, other=0)
    tl.store(y + row, tl.sum(values * vector[None, :], 1), mask=row < m)


# --- what the host calls ----------------------------------------------------------------------------------------------


def restrict(r: Tensor, a: Tensor, factors: Any, periodic: Any, coarse: Tensor) -> None:
    """Compute coarse = Pᵀ r."""
    size = tuple(r.shape)
    # a ring of odd length has one cell with two donors
    donors = [0 if f == 1 else 2 if p and n % 2 else 1 for f, p, n in zip(factors, periodic, size, strict=True)]
    names = ("FX", "FY", "FZ", "WX", "WY", "WZ", "DX", "DY", "DZ")
    constants = dict(zip(names, (*factors, *periodic, *donors), strict=True))
    # 64 paths per coarse cell: one per thread, else sm_90 runs out of registers
    launch(_restrict, tuple(coarse.shape), r, a, coarse, *size, cells=TILE // 8, **constants)


def prolong_add(c: Tensor, a: Tensor, s: Tensor, factors: Any, periodic: Any, x: Tensor) -> None:
    """Add P c to x where there is an unknown."""
    constants = dict(zip(("FX", "FY", "FZ", "WX", "WY", "WZ"), (*factors, *periodic), strict=True))
    launch(_prolong_add, tuple(x.shape), c, a, s, x, c.shape[1], c.shape[2], **constants)


def multiply(matrix: Tensor, b: Tensor, y: Tensor) -> None:
    """Compute y = matrix b for the small dense inverse of the coarsest level."""
    m = matrix.shape[0]
    _multiply[(triton.cdiv(m, ROWS.value),)](matrix, b, y, m, M=max(triton.next_power_of_2(m), 1))
