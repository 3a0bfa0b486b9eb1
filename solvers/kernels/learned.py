"""From a `Poisson` operator and a `CoefficientNetwork` to the arrays of the fused cycle, level by level, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..coarsening import balanced_factors
from ..hierarchy import generalised_inverse
from . import setup
from .cpu import threads_for
from .cycle import FusedCycle, FusedLevel
from .reference import Stencil

Array = np.ndarray[Any, Any]
Weights = tuple[Array, ...]


def packed(perceptron: nn.Module) -> Weights:
    """The arrays of a perceptron; a constant one becomes a perceptron of width one that answers its bias."""
    bias = perceptron.bias.detach().numpy()
    if perceptron.last is None:
        one = np.zeros((1, 1), np.float32)
        return one, one[0], one, one[0], np.zeros((len(bias), 1), np.float32), bias
    first, second = perceptron.layers
    tensors = (first.weight, first.bias, second.weight, second.bias, perceptron.last.weight)
    return (*(np.ascontiguousarray(t.detach().float().cpu().numpy()) for t in tensors), bias.astype(np.float32))


@dataclass
class Grid:
    """A stencil of one level as flat fp32 arrays."""

    size: tuple[int, int, int]
    periodic: tuple[bool, bool, bool]
    w: tuple[Array, Array, Array]
    ground: tuple[Array, Array, Array]
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

    @classmethod
    def empty(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil."""
        n = size[0] * size[1] * size[2]
        new = [np.empty(n, np.float32) for _ in range(8)]
        return cls(size, periodic, tuple(new[:3]), tuple(new[3:6]), new[6], new[7])  # type: ignore[arg-type]

    def stencil(self) -> Stencil:
        """The same as torch tensors on a grid."""
        def grid(v: Array) -> torch.Tensor:
            return torch.from_numpy(v).view(self.size)

        return Stencil([grid(v) for v in self.w], [grid(v) for v in self.ground], grid(self.shift), self.periodic)


def first_grid(A: Any, exponent: int) -> Grid:
    """The operator in fp32, divided by 2^exponent."""
    grid = Grid.empty(tuple(A.shift.shape), A.periodic)
    rows = (-1, grid.size[2])
    for source, target in zip((*A.links, *A.ground, A.shift, A.diag), (*grid.w, *grid.ground, grid.shift, grid.diag), strict=True):
        setup.scale_into(source.contiguous().numpy().reshape(rows), 2.0**-exponent, target.reshape(rows))
    return grid


def learned_cycle(A: Any, exponent: int, network: Any, coarsest: int) -> FusedCycle:
    """Set up the fused cycle of a Poisson operator divided by 2^exponent."""
    damping, weight, link, earth = (packed(p) for p in (network.damping, network.weight, network.link, network.ground))
    grid, levels = first_grid(A, exponent), []
    while grid.diag.size > coarsest:
        with threads_for(grid.diag.size):
            factors = balanced_factors(link_means(grid), grid.size)
            levels.append(fine(grid, factors, damping, weight))
            grid = coarse(grid, factors, link, earth)
    return FusedCycle(levels, grid.size, generalised_inverse(grid.stencil()).float())


def link_means(grid: Grid) -> list[float]:
    """Mean positive link per axis."""
    counts = [np.count_nonzero(w) for w in grid.w]
    return [float(w.sum(dtype=np.float64)) / c if c else 0.0 for w, c in zip(grid.w, counts, strict=True)]


def fine(grid: Grid, factors: tuple[int, int, int], damping: Weights, weight: Weights) -> FusedLevel:
    """Damping and prolongation weights of one level."""
    sd, a = np.empty_like(grid.diag), np.empty((3, grid.diag.size), np.uint8)
    setup.fine_level(
        grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, grid.strides, np.array(factors), np.array(grid.periodic),
        damping, weight, sd, a,
    )  # fmt: skip
    shape = grid.size
    links = tuple(w.reshape(shape) for w in grid.w)
    return FusedLevel(factors, grid.periodic, links, grid.diag.reshape(shape), sd.reshape(shape), a.reshape(3, *shape))


def coarse(grid: Grid, factors: tuple[int, int, int], link: Weights, earth: Weights) -> Grid:
    """The learned operator of the next level."""
    size: Any = tuple(-(-n // f) for n, f in zip(grid.size, factors, strict=True))
    classical, uniform = Grid.empty(size, grid.periodic), tuple(np.empty(np.prod(size), np.float32) for _ in range(3))
    facts = np.empty((7, classical.diag.size), np.float32)
    f, periodic = np.array(factors), np.array(grid.periodic)
    setup.coarse_sums(
        grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, grid.strides, f, periodic, classical.sizes,
        uniform, classical.w, classical.ground, classical.shift, facts,
    )  # fmt: skip
    setup.sum_diagonal(
        classical.w, classical.ground, classical.shift, classical.sizes, classical.strides, classical.diag
    )
    new = Grid.empty(size, grid.periodic)
    setup.coarse_level(
        uniform, classical.w, classical.ground, classical.shift, classical.diag, facts, classical.sizes, classical.strides,
        f, periodic, link, earth, new.w, new.ground, new.shift,
    )  # fmt: skip
    setup.sum_diagonal(new.w, new.ground, new.shift, new.sizes, new.strides, new.diag)
    return new
