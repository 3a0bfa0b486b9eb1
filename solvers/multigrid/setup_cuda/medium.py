"""The media from which levels are set up on a GPU: first one, next ones, and which cells of it need the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.cuda.formats import CellFormat16
from ...kernels.cuda.launch import run
from . import coarse_level, fine_level
from .perceptron import LANES, place

BULK = 63 + 64 * (2 + 5 * 2 + 25 * 2)  # the code of a cell all of whose six links are open
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Medium:
    """A stencil of one level as the kernels of `perceptron` read it, on a grid of so many cells per axis.

    arrays : links (3, n), grounds (3, n), shift (n), diagonal (n) in fp32; or codes, conductances (3), and unused ones
    """

    arrays: tuple[Tensor, Tensor, Tensor, Tensor]
    size: Triple
    periodic: tuple[bool, bool, bool]
    codes: CellFormat16 | None = None

    @classmethod
    def empty(cls, size: Triple, periodic: tuple[bool, bool, bool], device: torch.device) -> Medium:
        """Room for a stencil."""
        n = math.prod(size)
        w, g, h, q = (torch.empty(shape, device=device) for shape in ((3, n), (3, n), (n,), (n,)))
        return cls((w, g, h, q), size, periodic)

    @classmethod
    def of(cls, A: Any, codes: CellFormat16 | None, exponent: int) -> Medium:
        """Read a Poisson operator, divided by 2^exponent."""
        size = tuple(A.shift.shape)
        if codes is not None:
            c = codes.scaled(exponent)
            conductance = c.conductance.float()
            return cls((c.code.flatten(), conductance, conductance, conductance), size, A.periodic, c)
        medium = cls.empty(size, A.periodic, A.device)
        w, g, h, q = medium.arrays
        factor = math.ldexp(1.0, -exponent)
        targets, sources = (*w, *g, h, q), (*A.links, *A.ground, A.shift, A.diag)
        for target, source in zip(targets, sources, strict=True):
            torch.mul(source.reshape(-1), factor, out=target) if source.dtype == target.dtype else target.copy_(
                source.reshape(-1) * factor
            )
        return medium

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(self.size)

    def mean_links(self) -> list[float]:
        """Mean positive link per axis, in fp64; one look of the host."""
        if self.codes is not None:
            bits = [self.codes.code >> (2 * d) & 1 for d in range(3)]
            there = torch.stack([b.any() for b in bits])
            return torch.where(there, self.codes.conductance, 0).tolist()
        sums = torch.stack([w.sum(dtype=torch.float64) for w in self.arrays[0]])
        counts = torch.stack([w.count_nonzero() for w in self.arrays[0]])
        return (sums / counts.clamp_min(1)).tolist()

    def axis(self, d: int) -> tuple[int, int]:
        """Return the number of cells along an axis, and their distance."""
        return self.size[d], math.prod(self.size[d + 1 :])

    def find_paths(self, factors: Triple) -> Tensor:
        """Return the conductance of the circuit through the outer link of every cell, (3, n)."""
        n, (w, g, _, q) = self.cells, self.arrays
        paths = torch.empty((3, n), device=w.device)
        for d, f in enumerate(factors):
            if f == 2:
                run_over(fine_level._paths, n, w, g, q, paths[d], d, *self.axis(d), n, CELLS=self.codes is not None)
        return paths

    def evaluate_fine(
        self, factors: Triple, paths: Tensor, nets: tuple[Tensor, Tensor], width: int, cells: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return damping (cells) and weights (3, cells) in units of 1/255, of all cells or of those in a list."""
        count = self.cells if cells is None else len(cells)
        s, a = (torch.zeros(shape, dtype=torch.uint8, device=paths.device) for shape in ((count,), (3, count)))
        constants = {"H": width, "CELLS": self.codes is not None, "LISTED": cells is not None}
        some = s if cells is None else cells
        damping, weight = nets
        arguments = (*self.arrays, damping, some, s, count, self.cells, *self.size, *factors)
        run_over(fine_level._damping, count, *arguments, **constants)
        for d, f in enumerate(factors):
            if f == 2:
                others = [v for e in ((d + 1) % 3, (d + 2) % 3) for v in (*self.axis(e), factors[e])]
                facts = (count, self.cells, d, int(self.periodic[d]), *self.axis(d), *others)
                run_over(fine_level._weights, count, *self.arrays, paths[d], weight, some, a[d], *facts, **constants)
        return s, a

    def evaluate_coarse(self, factors: Triple, paths: Tensor, nets: tuple[Tensor, Tensor], width: int) -> Medium:
        """Evaluate the learned operator of the next level."""
        size: Triple = tuple(-(-n // f) for n, f in zip(self.size, factors, strict=True))  # type: ignore[assignment]
        classical, new = (Medium.empty(size, self.periodic, paths.device) for _ in range(2))
        w, g, h, q = classical.arrays
        m = classical.cells
        uniform, facts = torch.empty_like(w), torch.empty((7, m), device=paths.device)
        for d, f in enumerate(factors):
            axis = (d, *self.axis(d), f, int(self.periodic[d]), self.cells)
            arguments = (*self.arrays, paths, uniform, w, g, h, facts, *axis, *self.size, *factors, *size)
            run_over(coarse_level._sums, m, *arguments, CELLS=self.codes is not None)
        run_over(coarse_level._diagonal, m, w, g, h, q, m, *size)
        w_new, g_new, h_new, q_new = new.arrays
        link, ground = nets
        run_over(coarse_level._grounds, m, w, g, h, q, facts, ground, g_new, h_new, m, *size, H=width)
        for d, f in enumerate(factors):
            others = [v for e in ((d + 1) % 3, (d + 2) % 3) for v in classical.axis(e)]
            facts_of = (d, f, int(self.periodic[d]), *classical.axis(d), *others, m)
            run_over(coarse_level._links, m, uniform, w, g, h, q, facts, link, w_new, *facts_of, H=width)
        run_over(coarse_level._diagonal, m, w_new, g_new, h_new, q_new, m, *size)
        return new

    def list_cells(self, factors: Triple) -> tuple[Tensor, Tensor]:
        """Return the cells of a cell-type medium that need the network, and a flag per cell of the quiet rest.

        A block is quiet if its cells, and all cells at its faces, have six open links: all that the features see. The
        first cell of a quiet block ends the list, if there is one: what it gets, all quiet cells get.
        """
        assert self.codes is not None
        n, code = self.cells, self.arrays[0]
        quiet = torch.empty(n, dtype=torch.uint8, device=code.device)
        constants = name_constants("F", factors) | name_constants("W", self.periodic)
        run_over(_quiet, n, code, quiet, n, *self.size, bulk_code(self.size), **constants)
        found = torch.nonzero((code != 0) & (quiet == 0)).flatten()
        example = torch.nonzero(quiet).flatten()[:1]
        return torch.cat([found, example]).int(), quiet


def name_constants(letter: str, values: Any) -> dict[str, Any]:
    """Name one compile-time constant per axis."""
    return {letter + axis: value for axis, value in zip("XYZ", values, strict=True)}


def run_over(kernel: Any, count: int, *arguments: Any, **constants: Any) -> None:
    """Run a kernel over so many lanes."""
    run(kernel, triton.cdiv(count, LANES), *arguments, B=LANES, **constants)


def bulk_code(size: Triple) -> int:
    """Return the code of a cell all of whose links are open; an axis of one cell has none.

    Examples
    --------
    >>> bulk_code((4, 4, 4)) == BULK, bulk_code((4, 1, 4))
    (True, 3379)
    """
    return sum((3 << (2 * d)) + 64 * 2 * 5**d for d, n in enumerate(size) if n > 1)


@triton.jit
def block_ends(p, n, F: tl.constexpr, PERIODIC: tl.constexpr):
    """Return along an axis: first and last cell of the block, the ones before and behind, whether all is regular."""
    m = 0 * p + n  # per lane, see `number`
    first = p // F * F
    last = first + F - 1
    before, behind = first - 1, last + 1
    inside = (before >= 0) & (behind < n)
    regular = (last < n) & inside
    if PERIODIC:
        regular = last < n
        if F == 2:
            regular &= (m % 2 == 0) | ((before >= 0) & (behind < n - 1))
    elif F == 2:
        regular &= (m % 2 == 0) | (behind < n - 1)
    before, behind = tl.where(before < 0, n - 1, before), tl.where(behind >= n, 0, behind)
    alone = m == 1
    return (
        first, tl.where(alone, first, tl.minimum(last, n - 1)), tl.where(alone, first, before),
        tl.where(alone, first, behind), regular | alone,
    )  # fmt: skip


@triton.jit
def all_bulk(code, x0, x1, y0, y1, z0, z1, ny, nz, live, bulk):
    """Whether the eight corner cells are bulk."""
    good = live
    for u in tl.static_range(8):
        x, y, z = x0 if u % 2 == 0 else x1, y0 if u // 2 % 2 == 0 else y1, z0 if u // 4 == 0 else z1
        good &= tl.load(code + (x * ny + y) * nz + z, mask=live, other=0).to(tl.int32) == bulk
    return good


@triton.jit
def _quiet(
    code, quiet, n, nx, ny, nz, bulk, B: tl.constexpr, FX: tl.constexpr, FY: tl.constexpr, FZ: tl.constexpr,
    WX: tl.constexpr, WY: tl.constexpr, WZ: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * B + tl.arange(0, B)
    live = c < n
    i, j, k = place(c, ny, nz)
    x0, x1, xb, xa, rx = block_ends(i, nx, FX, WX)
    y0, y1, yb, ya, ry = block_ends(j, ny, FY, WY)
    z0, z1, zb, za, rz = block_ends(k, nz, FZ, WZ)
    good = live & rx & ry & rz
    good &= all_bulk(code, x0, x1, y0, y1, z0, z1, ny, nz, good, bulk)
    good &= all_bulk(code, xb, xa, y0, y1, z0, z1, ny, nz, good, bulk)
    good &= all_bulk(code, x0, x1, yb, ya, z0, z1, ny, nz, good, bulk)
    good &= all_bulk(code, x0, x1, y0, y1, zb, za, ny, nz, good, bulk)
    tl.store(quiet + c, good.to(tl.uint8), mask=live)
