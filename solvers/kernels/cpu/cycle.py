"""The V-cycle over the fused CPU kernels: the grids of all levels are allocated once, at set-up.

The kernels are those of `reference`, fused and parallel; the same results to rounding.

Arrays are C-contiguous internal grids (nx, ny, nz) of one dtype (fp32 or fp64); a work item is a row along z. Transfer
weights are stored in eight bits; prolongation and restriction use the same numbers, so symmetry and definiteness do not
notice. Links wrap around every axis (the wrap link is 0 where an axis is not periodic), so no row is special.

Bytes per cell of one level in fp32, neighbours in cache, without write-allocation, are in `LEVEL_BYTES`: general
coefficients 143 (188 for all levels, repeated visits included), of cell type 87 on the finest level (110 for all).

Reductions sum rows first and then the rows in a fixed order: results do not depend on the number of threads.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..reference import OMEGA, Stencil, Transfer
from .cell_bytes import CellBytes
from .compile import threads_for
from .smoothing import smooth, smooth_from_zero
from .transfer import prolong_add, residual_rows, restrict_rows
from .workspaces import Loan, Workspaces

Array = np.ndarray[Any, Any]

# what each kernel reads and writes per cell, by the type of sd: links (3), diagonal, sd; vectors; weights
LEVEL_BYTES = {
    "float32": {"from zero": 28.0, "residual": 29.0, "restrict": 6.5, "prolong": 15.5, "smooth": 32.0},
    "uint16": {"from zero": 14.0, "residual": 17.0, "restrict": 6.5, "prolong": 13.5, "smooth": 18.0},
    "float64": {"from zero": 56.0, "residual": 57.0, "restrict": 11.0, "prolong": 28.0, "smooth": 64.0},
}


def outer_index(n: int, periodic: bool) -> Array:
    """Return the outer neighbour of every index along a coarsened axis, -1 where there is none."""
    k = np.arange(n)
    index = np.where(k % 2 == 0, k - 1, k + 1)
    if periodic:
        return index % n
    index[index >= n] = -1
    return index


def sources(n: int, periodic: bool) -> Array:
    """Return the (at most two) indices whose outer neighbour an index is, -1 where there is none."""
    table = np.full((n, 2), -1)
    for k, target in enumerate(outer_index(n, periodic)):
        if target >= 0 and target != k:
            table[target, 0 if table[target, 0] < 0 else 1] = k
    return table


STEPS = 65535.0  # damping over the diagonal of a cell-type level is a multiple of 1/65535, rounded down: s stays <= 1


class FusedLevel:
    """Contiguous arrays of one level and its work space.

    Of a cell-type level w and diag are bytes (see `cell_bytes`), sd is 16 bits: the same kernels,
    compiled for these types.
    """

    def __init__(self, factors: Any, periodic: Any, w: tuple[Array, ...], diag: Array, sd: Array, a: Array) -> None:
        self.factors, self.w, self.diag, self.sd, self.a = np.array(factors), w, diag, sd, a
        kind: Any = np.float32 if sd.dtype == np.uint16 else sd.dtype.type
        unit = 1 / STEPS if sd.dtype == np.uint16 else 1.0
        self.omega = kind(OMEGA[0] * unit), kind(OMEGA[1] * unit)
        self.outer = [outer_index(n, p) for n, p in zip(diag.shape, periodic, strict=True)]
        self.sources = [sources(n, p) for n, p in zip(diag.shape, periodic, strict=True)]
        self.periodic_z, self.identity_transfer = bool(periodic[2]), max(factors) == 1
        self.b, self.x, self.y = (np.zeros(diag.shape, kind) for _ in range(3))
        # the pre-smoother leaves its result in x; the residual then overwrites y, and is not needed in the last steps
        self.t = self.y

    @classmethod
    def from_tensors(cls, op: Stencil, s: torch.Tensor, t: Transfer, codes: CellBytes | None = None) -> FusedLevel:
        """Take over a level whose damping s and weights are multiples of 1/255; `codes`: its operator in bytes."""
        a = np.zeros((3, *op.size), np.uint8)
        for d, weight in enumerate(t.weights):
            if weight is not None:
                a[d] = torch.round(weight * 255).to(torch.uint8).numpy()
        w = tuple(w.contiguous().numpy() for w in op.links)
        sd = (s * op.inv).contiguous().numpy()
        if codes is not None:
            return cls(t.factors, op.periodic, codes.links, codes.diag, (sd * np.float32(STEPS)).astype(np.uint16), a)
        return cls(t.factors, op.periodic, w, op.diag.contiguous().numpy(), sd, a)

    def repeat(self) -> FusedLevel:
        """Share the arrays, with the identity as transfer and work space of its own: see `hierarchy.Level.repeat`."""
        periodic = False, False, self.periodic_z  # not read along axes that are not coarsened
        level = FusedLevel((1, 1, 1), periodic, self.w, self.diag, self.sd, self.a)
        self.b = level.t  # whose residual is the right-hand side of the next visit
        return level

    def repeated(self, times: int) -> list[FusedLevel]:
        """Return this level after times - 1 repeats of it."""
        levels = [self]
        while len(levels) < times:
            levels.insert(0, levels[0].repeat())
        return levels

    def twin(self) -> FusedLevel:
        """Return the same level with work space of its own."""
        level = copy.copy(self)
        level.b, level.x, level.y = (np.zeros_like(v) for v in (self.b, self.x, self.y))
        level.t = level.y
        return level

    @property
    def size(self) -> tuple[int, ...]:
        """Cells per axis."""
        return tuple(self.diag.shape)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All memory of this level; what levels share is in several."""
        return (*self.w, self.diag, self.sd, self.a, self.b, self.x, self.y, self.t)


class FusedCycle:
    """The map b -> M b over all levels; the result lives in work space and is overwritten by the next call.

    `borrow` lends this cycle, or one with other work space, to one caller at a time.
    """

    def __init__(self, levels: list[FusedLevel], bottom: tuple[int, ...], inverse: torch.Tensor) -> None:
        self.levels, self.inverse = levels, inverse.contiguous().numpy()
        self.bottom_b = np.zeros(bottom, self.inverse.dtype)
        self.workspaces: Workspaces[FusedCycle] = Workspaces()

    def twin(self) -> FusedCycle:
        """Return the same cycle with work space of its own."""
        cycle = copy.copy(self)
        cycle.levels, cycle.bottom_b = [level.twin() for level in self.levels], np.zeros_like(self.bottom_b)
        for level, after in pairwise(cycle.levels):
            if level.identity_transfer:
                after.b = level.t  # as `FusedLevel.repeat` has it
        return cycle

    def borrow(self) -> Loan[FusedCycle]:
        """Lend a cycle for as long as its work space is needed."""
        return self.workspaces.borrow(self, self.twin)

    @property
    def input(self) -> Array:
        """Where a caller may write b of the finest level to save a copy."""
        return self.levels[0].b if self.levels else self.bottom_b

    @property
    def nbytes(self) -> int:
        """Bytes kept for all levels."""
        own = (v for level in self.levels for v in level.arrays)
        return sum({v.ctypes.data: v.nbytes for v in (*own, self.inverse, self.bottom_b)}.values())

    def __call__(self, b: Array, l: int = 0) -> Array:
        """Apply the cycle from level l on, small grids on one thread."""
        with threads_for(b.size):
            return self.descend(b, l)

    def apply(self, b: torch.Tensor) -> torch.Tensor:
        """Return M b as a tensor of its own; several threads may ask at once."""
        with self.borrow() as cycle:
            return torch.from_numpy(cycle(b.contiguous().numpy()).copy())

    def descend(self, b: Array, l: int) -> Array:
        """Apply the cycle from level l on, with the threads there are."""
        if l == len(self.levels):
            return (self.inverse @ b.ravel()).reshape(b.shape)
        v = self.levels[l]
        coarse = self.levels[l + 1].b if l + 1 < len(self.levels) else self.bottom_b
        first, second = v.omega
        smooth_from_zero(v.diag, v.w, v.sd, b, v.x, first, second)
        residual_rows(v.diag, v.w, v.x, b, v.a, v.factors, v.periodic_z, v.t)
        if not v.identity_transfer:
            restrict_rows(v.t, v.a, v.factors, v.sources[0], v.sources[1], coarse)
        correction = self(coarse, l + 1)
        prolong_add(correction, v.a, v.sd, v.factors, v.outer[0], v.outer[1], v.periodic_z, v.x)
        smooth(v.diag, v.w, v.sd, v.x, b, v.y, second)
        smooth(v.diag, v.w, v.sd, v.y, b, v.x, first)
        return v.x


def cycle_bytes(cycle: FusedCycle) -> float:
    """Bytes per cell of the finest level that one V-cycle moves, all levels counted."""
    moved = 0.0
    for level in cycle.levels:
        bytes_of = LEVEL_BYTES[level.sd.dtype.name]
        each = sum(bytes_of.values()) + bytes_of["smooth"] - (bytes_of["restrict"] if level.identity_transfer else 0)
        moved += each * level.b.size
    return moved / max(cycle.input.size, 1)
