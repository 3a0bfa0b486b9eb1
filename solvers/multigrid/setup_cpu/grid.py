"""Arrays of one level during set-up: a stencil in fp32, and both classical coarse operators of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...kernels.cpu.cell_bytes import CellBytes
from ...kernels.cpu.compile import ordered_row_kernel as row_kernel, over_strips, strip_kernel
from ...kernels.cpu.lanes import WIDTH, load, splat, store, where_positive
from ...kernels.cpu.neighbours import below
from ...kernels.reference import Stencil
from .hashes import ByteHashes
from .perceptron import ONE, ZERO

Array = np.ndarray[Any, Any]


@row_kernel
def add_pairs(above, below, total):
    """Add the links of a row on both sides of an axis; few arrays at a time, or they are not added by vectors."""
    for k in range(total.shape[0]):
        total[k] += np.float64(above[k]) + below[k]


@strip_kernel
def sum_diagonal_rows(start, stop, ranges, w, ground, shift, size, stride, diag):
    """Write diag = links on both sides + ground + shift for the ranges of rows start..stop, summed in fp64."""
    ny, nz = size[1], size[2]
    total, low = np.empty(nz, np.float64), np.empty(nz, np.float32)
    for row in range(start, stop):
        begin, end = ranges[row, 0], ranges[row, 1]
        first = row * nz
        x = below(first, row // ny, size[0], stride[0])
        y = below(first, row % ny, ny, stride[1])
        for k in range(begin, end):
            c = first + k
            total[k] = np.float64(shift[c]) + (ground[0, c] + ground[1, c] + ground[2, c])
        part = total[begin:end]
        add_pairs(w[0, first + begin : first + end], w[0, x + begin : x + end], part)
        add_pairs(w[1, first + begin : first + end], w[1, y + begin : y + end], part)
        for k in range(max(begin, 1), end):
            low[k] = w[2, first + k - 1]
        if begin == 0:
            low[0] = w[2, first + nz - 1]
        add_pairs(w[2, first + begin : first + end], low[begin:end], part)
        for k in range(begin, end):
            diag[first + k] = total[k]


@strip_kernel
def scale_rows(start, stop, ranges, sources, factor, divisor, targets):
    """Write the ranges of rows start..stop of several arrays, times factor / divisor, in the targets' dtype."""
    for f in range(len(sources)):
        source, target = sources[f], targets[f]
        for row in range(start, stop):
            for k in range(ranges[row, 0], ranges[row, 1]):
                target[row, k] = source[row, k] * factor / divisor


@strip_kernel
def link_sums(start, stop, w, nz, sums):
    """Write the sum of the links and the number of positive ones, per axis, for rows start..stop: (rows, 3, 2)."""
    part = np.empty((2, WIDTH), np.float32)
    for row in range(start, stop):
        for d in range(3):
            total, count = splat(ZERO), splat(ZERO)
            whole = nz - nz % WIDTH
            for k in range(0, whole, WIDTH):
                v = load(w, (d, row * nz + k))
                total, count = total + v, count + where_positive(v, ONE, ZERO)
            store(part, (0, 0), total)
            store(part, (1, 0), count)
            for k in range(nz - whole):
                v = w[d, row * nz + whole + k]
                part[0, k] += v
                part[1, k] += ONE if v > 0 else ZERO
            for f in range(2):
                sums[row, d, f] = 0
                for k in range(WIDTH):
                    sums[row, d, f] += part[f, k]


def empty_with_room(n: int) -> Array:
    """Return n numbers with room for a vector behind them: rows are read by whole vectors."""
    return np.empty(n + 16, np.float32)[:n]


def zeros_with_room(*shape: int) -> Array:
    """Return zeros with room for a vector behind them."""
    n = math.prod(shape)
    return np.zeros(n + 16, np.float32)[:n].reshape(shape)


@dataclass
class Grid:
    """A stencil of one level as flat fp32 arrays; links w and ground have one row per axis."""

    size: tuple[int, int, int]
    periodic: tuple[bool, bool, bool]
    w: Array
    ground: Array
    shift: Array
    diag: Array

    @property
    def sizes(self) -> Array:
        """Cells per axis."""
        return np.array(self.size)

    @property
    def strides(self) -> Array:
        """Flat distance of neighbours per axis."""
        return np.array([self.size[1] * self.size[2], self.size[2], 1])

    @property
    def rows(self) -> int:
        """Lines of cells along the last axis."""
        return self.size[0] * self.size[1]

    def sum_diagonal(self, ranges: Array) -> None:
        """Make the diagonal what the rest says."""
        parts = self.w, self.ground, self.shift, self.sizes, self.strides
        over_strips(sum_diagonal_rows, self.rows, ranges, *parts, self.diag)

    @classmethod
    def empty(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil."""
        n = size[0] * size[1] * size[2]
        w, ground = (empty_with_room(3 * n).reshape(3, n) for _ in range(2))
        shift, diag = empty_with_room(n), empty_with_room(n)
        return cls(size, periodic, w, ground, shift, diag)

    @classmethod
    def zeros(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil, filled with zeros."""
        n = size[0] * size[1] * size[2]
        return cls(size, periodic, zeros_with_room(3, n), zeros_with_room(3, n), zeros_with_room(n), zeros_with_room(n))

    def links(self) -> list[torch.Tensor]:
        """View the links as torch tensors on a grid."""
        return [torch.from_numpy(w).view(self.size) for w in self.w]

    def stencil(self) -> Stencil:
        """View the arrays as torch tensors on a grid."""

        def grid(v: Array) -> torch.Tensor:
            return torch.from_numpy(v).view(self.size)

        return Stencil(self.links(), [grid(v) for v in self.ground], grid(self.shift), self.periodic)


class ConductanceSource:
    """A Poisson operator divided by mantissa 2^exponent, to be copied in fp32; cell_bytes : the same in bytes."""

    def __init__(self, A: Any, exponent: int, mantissa: float, cell_bytes: CellBytes | None) -> None:
        self.cell_bytes, self.size, self.periodic = cell_bytes, tuple(A.unknown.shape), A.periodic
        self.rows = (-1, self.size[2])
        self.factor, self.divisor = 2.0**-exponent, mantissa
        links, ground, rest = (
            [v.contiguous().numpy().reshape(self.rows) for v in part] for part in (A.links, A.ground, (A.shift, A.diag))
        )
        self.values, self.extras = (*links, *ground, *rest), (*ground, rest[0])

    def new_hashes(self, grid: Grid) -> ByteHashes:
        """Return what tells which cells of a cell-type problem have changed from one set-up to the next."""
        return ByteHashes(grid)

    def fill(self, grid: Grid, ranges: Array) -> None:
        """Copy the ranges of all rows."""
        targets = tuple(v.reshape(self.rows) for v in (*grid.w, *grid.ground, grid.shift, grid.diag))
        over_strips(scale_rows, grid.rows, ranges, self.values, self.factor, self.divisor, targets)


def link_means(grid: Grid) -> list[float]:
    """Mean positive link per axis."""
    sums = np.empty((grid.rows, 3, 2), np.float32)
    over_strips(link_sums, grid.rows, grid.w, grid.size[2], sums)
    return [float(total / count) if count else 0.0 for total, count in sums.sum(0, dtype=np.float64)]


def coarse_size(grid: Grid, factors: tuple[int, int, int]) -> tuple[int, int, int]:
    """Count the cells per axis of the next level."""
    nx, ny, nz = (-(-n // f) for n, f in zip(grid.size, factors, strict=True))
    return nx, ny, nz


@dataclass
class Classical:
    """Both classical coarse operators: the resistor rule's as a grid, the links of the geometric one, and facts."""

    grid: Grid
    uniform: Array
    facts: Array

    @classmethod
    def zeros(cls, fine: Grid, factors: tuple[int, int, int]) -> Classical:
        """Room for the coarse operators of a fine level, filled with zeros."""
        grid = Grid.zeros(coarse_size(fine, factors), fine.periodic)
        n = grid.diag.size
        return cls(grid, zeros_with_room(3, n), zeros_with_room(7, n))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What `fine_level` writes."""
        return self.uniform, self.grid.w, self.grid.ground, self.grid.shift, self.facts
