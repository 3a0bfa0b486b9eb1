"""The kernels of `reference` for a GPU (Triton): the product with its dot product, and the smoother.

Arrays are C-contiguous internal grids (nx, ny, nz). A program handles a tile of rows along z: integer divisions happen
once per row, loads are contiguous, and what neighbouring tiles share comes from the cache. As in `cpu`, links wrap
around every axis (the wrap link is 0 where an axis is not periodic), so no size and no boundary is special.

Conductances come in two forms (`Couplings`). *Stored*: three links and the diagonal. *Cell-type*: all links of an axis
are equal where they are open, so one byte per cell says which of its six links are open, one byte how many conductances
per axis add up to its diagonal: 2 bytes instead of 16 (32 in fp64), also in the outer product.

Damping is stored in eight bits. Bytes per cell of one level in fp32, neighbours in cache, stored (cell-type): from zero
25 (11), residual 28 (14), restriction 7.5, prolongation 12.5, two smoothing steps 58 (30); sum 131 (75). Coarser levels
are always stored, so all levels together move 150 (94).

Dot products are partial sums of one program each, added up in a fixed order by the kernel that needs the scalar.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .reference import OMEGA

try:
    import triton
    import triton.language as tl
except ImportError as error:  # pragma: no cover
    raise ImportError("the CUDA kernels need Triton; expected: pip install 'krylearn[cuda]' (Linux)") from error

if TYPE_CHECKING:
    from .cuda_couplings import Couplings

TILE = 1024  # cells per program: 8 per thread of 4 warps
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read by Triton too when it is imported
FIRST, SECOND = tl.constexpr(OMEGA[0]), tl.constexpr(OMEGA[1])


def blocks(size: Any, cells: int = TILE) -> tuple[int, int]:
    """Return rows and cells along z of a tile of so many cells; the interpreter takes a whole grid at once."""
    columns = min(triton.next_power_of_2(size[2]), 128, cells)
    if INTERPRETED and cells >= 128:  # tests of several programs ask for fewer
        return min(triton.next_power_of_2(size[0] * size[1]), (1 << 14) // columns), columns
    return max(cells // columns, 1), columns


def programs(size: Any, cells: int = TILE) -> int:
    """Count the tiles of a grid: the number of partial sums of a dot product."""
    rows, columns = blocks(size, cells)
    return triton.cdiv(size[0] * size[1], rows) * triton.cdiv(size[2], columns)


def launch(kernel: Any, size: Any, *arguments: Any, cells: int = TILE, **constants: Any) -> None:
    """Run a kernel over all tiles of a grid, whose lengths are its last arguments."""
    rows, columns = blocks(size, cells)
    kernel[(programs(size, cells),)](*arguments, *size, R=rows, Z=columns, **constants)


# --- inside a kernel --------------------------------------------------------------------------------------------------


@triton.jit
def tile(nx, ny, nz, R: tl.constexpr, Z: tl.constexpr):
    """Return i, j (rows, 1), k (1, columns) of this program's cells, and which of them exist."""
    strips = tl.cdiv(nz, Z)
    row = (tl.program_id(0) // strips) * R + tl.arange(0, R)[:, None]
    k = (tl.program_id(0) % strips) * Z + tl.arange(0, Z)[None, :]
    return row // ny, row % ny, k, (row < nx * ny) & (k < nz)


@triton.jit
def up(i, n):
    """Return the next index, wrapped."""
    return tl.where(i + 1 < n, i + 1, 0)


@triton.jit
def down(i, n):
    """Return the index before, wrapped."""
    return tl.where(i > 0, i - 1, n - 1)


@triton.jit
def around(i, j, k, nx, ny, nz):
    """Return the flat index of a cell and of its six neighbours: x+, x-, y+, y-, z+, z-."""
    return (
        (i * ny + j) * nz + k,
        (up(i, nx) * ny + j) * nz + k,
        (down(i, nx) * ny + j) * nz + k,
        (i * ny + up(j, ny)) * nz + k,
        (i * ny + down(j, ny)) * nz + k,
        (i * ny + j) * nz + up(k, nz),
        (i * ny + j) * nz + down(k, nz),
    )


@triton.jit
def diagonal(w1, diag, o, live, CELLS: tl.constexpr):
    """Return the diagonal at flat index o."""
    value = tl.load(diag + o, mask=live, other=0)
    if CELLS:  # how many conductances of each axis add up, in base 5; w1 holds the three conductances
        cx, cy, cz = tl.load(w1), tl.load(w1 + 1), tl.load(w1 + 2)
        n = value.to(tl.int32)
        value = cx * (n % 5).to(cx.dtype) + cy * (n // 5 % 5).to(cx.dtype) + cz * (n // 25).to(cx.dtype)
    return value


@triton.jit
def neighbours_sum(w0, w1, w2, o, xm, ym, zm, live, vxp, vxm, vyp, vym, vzp, vzm, CELLS: tl.constexpr):
    """Return the sum of links times values at the six neighbours."""
    if CELLS:
        cx, cy, cz = tl.load(w1), tl.load(w1 + 1), tl.load(w1 + 2)
        code = tl.load(w0 + o, mask=live, other=0).to(tl.int32)
        x = tl.where(code & 1 != 0, vxp, 0) + tl.where(code & 2 != 0, vxm, 0)
        y = tl.where(code & 4 != 0, vyp, 0) + tl.where(code & 8 != 0, vym, 0)
        z = tl.where(code & 16 != 0, vzp, 0) + tl.where(code & 32 != 0, vzm, 0)
        return cx * x + cy * y + cz * z
    x = tl.load(w0 + o, mask=live, other=0) * vxp + tl.load(w0 + xm, mask=live, other=0) * vxm
    y = tl.load(w1 + o, mask=live, other=0) * vyp + tl.load(w1 + ym, mask=live, other=0) * vym
    z = tl.load(w2 + o, mask=live, other=0) * vzp + tl.load(w2 + zm, mask=live, other=0) * vzm
    return x + y + z


@triton.jit
def product_at(w0, w1, w2, diag, x, i, j, k, nx, ny, nz, live, CELLS: tl.constexpr):
    """Return flat index, A x, x and the diagonal at the cells (i, j, k)."""
    o, xp, xm, yp, ym, zp, zm = around(i, j, k, nx, ny, nz)
    d, v = diagonal(w1, diag, o, live, CELLS), tl.load(x + o, mask=live, other=0)
    vxp, vxm = tl.load(x + xp, mask=live, other=0), tl.load(x + xm, mask=live, other=0)
    vyp, vym = tl.load(x + yp, mask=live, other=0), tl.load(x + ym, mask=live, other=0)
    vzp, vzm = tl.load(x + zp, mask=live, other=0), tl.load(x + zm, mask=live, other=0)
    y = d * v - neighbours_sum(w0, w1, w2, o, xm, ym, zm, live, vxp, vxm, vyp, vym, vzp, vzm, CELLS)
    return o, y, v, d


@triton.jit
def damping(s, d, o, live):
    """Return s/diag at flat index o; 0 where there is no unknown."""
    share = tl.load(s + o, mask=live, other=0).to(d.dtype) / 255
    return tl.where(d > 0, share / tl.where(d > 0, d, 1), 0)


@triton.jit
def first_step(w1, diag, s, b, o, live, CELLS: tl.constexpr):
    """Return the first step from zero, omega (s/diag) b, at flat index o."""
    d = diagonal(w1, diag, o, live, CELLS)
    return FIRST * damping(s, d, o, live) * tl.load(b + o, mask=live, other=0)


# --- kernels ----------------------------------------------------------------------------------------------------------


@triton.jit
def _apply_dot(w0, w1, w2, diag, x, y, sums, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, CELLS: tl.constexpr):
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o, product, v, _ = product_at(w0, w1, w2, diag, x, i, j, k, nx, ny, nz, live, CELLS)
    tl.store(y + o, product, mask=live)
    part = tl.where(live, v.to(tl.float64) * product.to(tl.float64), 0)
    tl.store(sums + tl.program_id(0), tl.sum(part))


@triton.jit
def _smooth(
    w0, w1, w2, diag, s, x, b, y, sums, nx, ny, nz,
    R: tl.constexpr, Z: tl.constexpr, CELLS: tl.constexpr, OMEGA: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o, product, v, d = product_at(w0, w1, w2, diag, x, i, j, k, nx, ny, nz, live, CELLS)
    r = tl.load(b + o, mask=live, other=0)
    v += OMEGA * damping(s, d, o, live) * (r - product)
    tl.store(y + o, v, mask=live)
    if DOT:
        part = tl.where(live, v.to(tl.float64) * r.to(tl.float64), 0)
        tl.store(sums + tl.program_id(0), tl.sum(part))


@triton.jit
def _smooth_from_zero(
    w0, w1, w2, diag, s, b, y, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, CELLS: tl.constexpr
):  # fmt: skip
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o, xp, xm, yp, ym, zp, zm = around(i, j, k, nx, ny, nz)
    d, r = diagonal(w1, diag, o, live, CELLS), tl.load(b + o, mask=live, other=0)
    sd = damping(s, d, o, live)
    v = FIRST * sd * r
    # the first step is recomputed at the six neighbours instead of being stored
    vxp, vxm = first_step(w1, diag, s, b, xp, live, CELLS), first_step(w1, diag, s, b, xm, live, CELLS)
    vyp, vym = first_step(w1, diag, s, b, yp, live, CELLS), first_step(w1, diag, s, b, ym, live, CELLS)
    vzp, vzm = first_step(w1, diag, s, b, zp, live, CELLS), first_step(w1, diag, s, b, zm, live, CELLS)
    product = d * v - neighbours_sum(w0, w1, w2, o, xm, ym, zm, live, vxp, vxm, vyp, vym, vzp, vzm, CELLS)
    tl.store(y + o, v + SECOND * sd * (r - product), mask=live)


@triton.jit
def _residual(w0, w1, w2, diag, x, b, r, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr, CELLS: tl.constexpr):
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o, product, _, d = product_at(w0, w1, w2, diag, x, i, j, k, nx, ny, nz, live, CELLS)
    # cells without an unknown may hold a coarse-grid b: it must not come back to the finer level
    tl.store(r + o, tl.where(d > 0, tl.load(b + o, mask=live, other=0) - product, 0), mask=live)


# --- what the host calls ----------------------------------------------------------------------------------------------


def apply_dot(op: Couplings, x: Tensor, y: Tensor, sums: Tensor) -> None:
    """Compute y = A x; sums = x.y, one partial sum per program, in fp64."""
    launch(_apply_dot, op.size, *op.arrays, x, y, sums, CELLS=op.cells)


def smooth_from_zero(op: Couplings, s: Tensor, b: Tensor, y: Tensor) -> None:
    """Take the two steps before the coarse correction, from x = 0."""
    launch(_smooth_from_zero, op.size, *op.arrays, s, b, y, CELLS=op.cells)


def smooth(op: Couplings, s: Tensor, x: Tensor, b: Tensor, y: Tensor, omega: float, sums: Tensor | None = None) -> None:
    """Compute y = x + omega (s/diag) (b - A x); with `sums` also the partial sums of y.b."""
    some = y if sums is None else sums
    launch(_smooth, op.size, *op.arrays, s, x, b, y, some, CELLS=op.cells, OMEGA=omega, DOT=sums is not None)


def residual(op: Couplings, x: Tensor, b: Tensor, r: Tensor) -> None:
    """Compute r = b - A x where there is an unknown, else 0."""
    launch(_residual, op.size, *op.arrays, x, b, r, CELLS=op.cells)


def new_sums(size: Any, device: torch.device) -> Tensor:
    """Room for one partial sum per program."""
    return torch.zeros(programs(size), dtype=torch.float64, device=device)
