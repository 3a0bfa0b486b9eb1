"""Arrays of one level during set-up: a stencil in fp32, and both classical coarse operators of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...kernels.cpu.cell_bytes import Codes
from ...kernels.cpu.compile import over_strips
from ...kernels.reference import Stencil
from . import perceptron as setup
from .byte_hashes import Marks

Array = np.ndarray[Any, Any]


def roomy(n: int) -> Array:
    """Return n numbers with room for a vector behind them: rows are read by whole vectors."""
    return np.empty(n + 16, np.float32)[:n]


def roomy_zeros(*shape: int) -> Array:
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

    def sum_diagonal(self, spans: Array) -> None:
        """Make the diagonal what the rest says."""
        parts = self.w, self.ground, self.shift, self.sizes, self.strides
        over_strips(setup.sum_diagonal, self.rows, spans, *parts, self.diag)

    @classmethod
    def empty(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil."""
        n = size[0] * size[1] * size[2]
        w, ground = (roomy(3 * n).reshape(3, n) for _ in range(2))
        shift, diag = roomy(n), roomy(n)
        return cls(size, periodic, w, ground, shift, diag)

    @classmethod
    def zeros(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil, filled with zeros."""
        n = size[0] * size[1] * size[2]
        return cls(size, periodic, roomy_zeros(3, n), roomy_zeros(3, n), roomy_zeros(n), roomy_zeros(n))

    def links(self) -> list[torch.Tensor]:
        """View the links as torch tensors on a grid."""
        return [torch.from_numpy(w).view(self.size) for w in self.w]

    def stencil(self) -> Stencil:
        """View the arrays as torch tensors on a grid."""

        def grid(v: Array) -> torch.Tensor:
            return torch.from_numpy(v).view(self.size)

        return Stencil(self.links(), [grid(v) for v in self.ground], grid(self.shift), self.periodic)


class Source:
    """A Poisson operator divided by mantissa 2^exponent, to be copied in fp32; codes : the same in bytes."""

    def __init__(self, A: Any, exponent: int, mantissa: float, codes: Codes | None) -> None:
        self.codes, self.size, self.periodic = codes, tuple(A.unknown.shape), A.periodic
        self.rows = (-1, self.size[2])
        self.factor, self.divisor = 2.0**-exponent, mantissa
        links, ground, rest = (
            [v.contiguous().numpy().reshape(self.rows) for v in part] for part in (A.links, A.ground, (A.shift, A.diag))
        )
        self.values, self.extras = (*links, *ground, *rest), (*ground, rest[0])

    def marks(self, grid: Grid) -> Marks:
        """Return what tells which cells of a cell-type problem have changed from one set-up to the next."""
        return Marks(grid)

    def fill(self, grid: Grid, spans: Array) -> None:
        """Copy the spans of all rows."""
        targets = tuple(v.reshape(self.rows) for v in (*grid.w, *grid.ground, grid.shift, grid.diag))
        over_strips(setup.scale_rows, grid.rows, spans, self.values, self.factor, self.divisor, targets)


def link_means(grid: Grid) -> list[float]:
    """Mean positive link per axis."""
    sums = np.empty((grid.rows, 3, 2), np.float32)
    over_strips(setup.link_sums, grid.rows, grid.w, grid.size[2], sums)
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
        return cls(grid, roomy_zeros(3, n), roomy_zeros(7, n))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What `fine_level` writes."""
        return self.uniform, self.grid.w, self.grid.ground, self.grid.shift, self.facts
