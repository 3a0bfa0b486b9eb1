"""Which operators are cell-type, and their 16-bit codes: one Triton kernel over the operator; see `cuda_couplings`."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .smoothing import TILE, down, launch, programs, tile

MOST = tl.constexpr(4)  # conductances of one axis that may add up: two links, or two Dirichlet sides of twice that


@triton.jit
def _encode_axis(w, ground, unit, o, lower, live):
    """Return open links (two bits), how many units add up, and whether this is all that there is."""
    upper_link, lower_link = tl.load(w + o, mask=live, other=0), tl.load(w + lower, mask=live, other=0)
    g, c = tl.load(ground + o, mask=live, other=0), tl.load(unit)
    grounds = tl.floor(g / tl.where(c > 0, c, 1) + 0.5)
    upper, below = upper_link > 0, lower_link > 0
    count = grounds.to(tl.int32) + upper.to(tl.int32) + below.to(tl.int32)
    fits = ((upper_link == 0) | (upper_link == c)) & (g == grounds * c) & (grounds <= MOST) & (count <= MOST)
    return upper.to(tl.int32) + 2 * below.to(tl.int32), count, fits


@triton.jit
def _encode(wx, wy, wz, gx, gy, gz, shift, units, code, misfits, nx, ny, nz, R: tl.constexpr, Z: tl.constexpr):
    i, j, k, live = tile(nx, ny, nz, R, Z)
    o = (i * ny + j) * nz + k
    bx, cx, fx = _encode_axis(wx, gx, units, o, (down(i, nx) * ny + j) * nz + k, live)
    by, cy, fy = _encode_axis(wy, gy, units + 1, o, (i * ny + down(j, ny)) * nz + k, live)
    bz, cz, fz = _encode_axis(wz, gz, units + 2, o, (i * ny + j) * nz + down(k, nz), live)
    fits = fx & fy & fz & (tl.load(shift + o, mask=live, other=0) == 0)
    value = (bx + 4 * by + 16 * bz) + 64 * (cx + 5 * cy + 25 * cz)
    tl.store(code + o, value.to(code.dtype.element_ty), mask=live & fits)
    tl.store(misfits + tl.program_id(0), tl.sum((live & ~fits).to(tl.int32)))


def encode(A: Any) -> tuple[Tensor, Tensor] | None:
    """Return the code of every cell and the conductance of each axis, or None where the operator is none of cells."""
    largest = torch.stack([w.max() for w in A.links] + [g.max() for g in A.ground]).double()
    # an axis of one cell has no links: its unit comes from what goes to p = 0
    units = torch.where(largest[:3] > 0, largest[:3], largest[3:])
    arrays = [t.contiguous() for t in (*A.links, *A.ground, A.shift)]
    code = torch.zeros(A.shift.shape, dtype=torch.int16, device=A.device)
    misfits = torch.zeros(programs(code.shape, TILE // 4), dtype=torch.int32, device=A.device)
    launch(_encode, tuple(code.shape), *arrays, units.to(A.shift.dtype), code, misfits, cells=TILE // 4)
    return None if bool(misfits.any()) else (code, units)
