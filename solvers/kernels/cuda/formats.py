"""Conductances as the CUDA kernels read them: stored, or two bytes per cell where that says it all.

    form     arrays (w0, w1, w2, e, sd)                                              read per cell, fp32 (bf16)
    -------  ----------------------------------------------------------------------  --------------------------
    STORED   three links, diagonal; no damping                                       16 B: the outer operator
    CODES    code; three conductances; no damping                                     2 B: the same, cell-type
    LEVEL    three links, extra (ground + shift), s/diag per cell                    20 B (10): a level of the cycle
    TABLE    pattern id; three conductances, code of a pattern, s/diag of a pattern   2 B: the same, cell-type

A *code* is 16 bits of a cell-type operator: which of the six links are open (6 bits), and how many conductances per
axis add up to the diagonal (three digits in base 5, 7 bits). A *pattern* is a code with damping and transfer weights;
cells with equal surroundings share one, so a level stores an id per cell and a small table, which stays in cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from krylearn.pde.poisson.fields import Slot
from torch import Tensor

from .launch import TILE, down, launch, programs, tile, tl, triton

STORED, CODES, LEVEL, TABLE = range(4)
# the same for branches inside kernels, which see compile-time constants only
IS_CODES, IS_LEVEL, IS_TABLE = tl.constexpr(CODES), tl.constexpr(LEVEL), tl.constexpr(TABLE)
MOST = tl.constexpr(4)  # conductances of one axis that may add up: two links, or two Dirichlet sides of twice that


@dataclass(frozen=True)
class Couplings:
    """What kernels read of an operator: its form, five arrays as in the table above, cells per axis."""

    form: int
    arrays: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    size: tuple[int, int, int]

    @classmethod
    def stored(cls, links: Any, diag: Tensor, dtype: torch.dtype) -> Couplings:
        """Take links and diagonal as they are."""
        x, y, z = (w.to(dtype).contiguous() for w in links)
        d = diag.to(dtype).contiguous()
        return cls(STORED, (x, y, z, d, d), tuple(diag.shape))  # type: ignore[arg-type]

    @classmethod
    def of_cells(cls, codes: CellFormat16, dtype: torch.dtype) -> Couplings:
        """Take codes and the conductance of each axis."""
        c = codes.conductance.to(dtype)
        return cls(CODES, (codes.code, c, c, c, c), tuple(codes.code.shape))  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Bytes kept, each array once."""
        return sum({t.data_ptr(): t.nbytes for t in self.arrays}.values())


@dataclass(frozen=True)
class CellFormat16:
    """The 16-bit code of every cell (internal grid), and one conductance per axis (fp64)."""

    code: Tensor
    conductance: Tensor

    def scaled(self, exponent: int) -> CellFormat16:
        """Divide the conductances by 2^exponent."""
        return CellFormat16(self.code, self.conductance * math.ldexp(1.0, -exponent))


CELL_CODES: Slot[CellFormat16 | None] = Slot("16-bit cell codes")


def cell_codes(A: Any) -> CellFormat16 | None:
    """Return the codes of a cell-type operator, None for any other; remembered on the operator.

    Cell-type: along each axis all positive links are equal, what goes to p = 0 are whole multiples of the same
    conductance, at most four in all, and there is no shift. So are fluids around obstacles, below free surfaces and
    between Dirichlet sides. One pass over the operator (56 bytes per cell in fp64), two looks of the host.

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.pde import Poisson
    >>> codes = cell_codes(Poisson.from_cells(np.array([[1, 1, 2], [1, 0, 1]])))        # doctest: +SKIP
    >>> [(c & 63, c >> 6) for c in codes.code.flatten().tolist()]                        # doctest: +SKIP
    [(17, 26), (32, 50), (0, 0), (2, 1), (0, 0), (0, 1)]
    """
    return CELL_CODES.compute_once(A, lambda: encode_operator(A))


def couplings_of(A: Any, dtype: torch.dtype) -> Couplings:
    """Return the couplings of a Poisson operator for a product in `dtype`; codes if there are any."""
    codes = cell_codes(A)
    return Couplings.stored(A.links, A.diag, dtype) if codes is None else Couplings.of_cells(codes, dtype)


# --- inside a kernel --------------------------------------------------------------------------------------------------


@triton.jit
def load_name(w0, o, live):
    """Return code or pattern id at flat index o; unsigned."""
    return tl.load(w0 + o, mask=live, other=0).to(tl.int32)


@triton.jit
def load_link(w, o, live, dtype: tl.constexpr):
    """Return a stored number at flat index o."""
    return tl.load(w + o, mask=live, other=0).to(dtype)


@triton.jit
def name_or_index(w0, o, live, FORM: tl.constexpr):
    """Return code or pattern id at flat index o where there is one, else the index."""
    if FORM == IS_CODES or FORM == IS_TABLE:
        return load_name(w0, o, live)
    else:
        return o


# --- which operators are cell-type, and their codes -------------------------------------------------------------------


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


def encode_operator(A: Any) -> CellFormat16 | None:
    """Return the code of every cell and the conductance of each axis, or None where the operator is none of cells."""
    largest = torch.stack([w.max() for w in A.links] + [g.max() for g in A.ground]).double()
    # an axis of one cell has no links: its unit comes from what goes to p = 0
    units = torch.where(largest[:3] > 0, largest[:3], largest[3:])
    arrays = [t.contiguous() for t in (*A.links, *A.ground, A.shift)]
    code = torch.zeros(A.shift.shape, dtype=torch.int16, device=A.device)
    misfits = torch.zeros(programs(code.shape, TILE // 4), dtype=torch.int32, device=A.device)
    launch(_encode, tuple(code.shape), *arrays, units.to(A.shift.dtype), code, misfits, cells=TILE // 4)
    return None if bool(misfits.any()) else CellFormat16(code, units)
