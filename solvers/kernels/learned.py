"""From a `Poisson` operator and a `CoefficientNetwork` to the arrays of the fused cycle, level by level, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..coarsening import balanced_factors
from ..coefficients import Perceptron
from ..hierarchy import generalised_inverse
from . import setup, setup_coarse, setup_fine
from .cpu_jit import threads_for
from .cycle import FusedCycle, FusedLevel
from .reference import Stencil

Array = np.ndarray[Any, Any]
Weights = tuple[Array, ...]


def packed(perceptron: Perceptron) -> Weights:
    """Return the arrays of a perceptron; a constant one becomes a perceptron of width one that answers its bias."""
    bias = perceptron.bias.detach().numpy()
    if perceptron.last is None:
        one = np.zeros((1, 1), np.float32)
        return one, one[0], one, one[0], np.zeros((len(bias), 1), np.float32), bias
    layers: Any = perceptron.layers
    first, second = layers
    tensors = (first.weight, first.bias, second.weight, second.bias, perceptron.last.weight)
    return (*(np.ascontiguousarray(t.detach().float().cpu().numpy()) for t in tensors), bias.astype(np.float32))


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

    @classmethod
    def empty(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil."""
        n = size[0] * size[1] * size[2]
        axes, cells = (3, n), (n,)
        w, ground, shift, diag = (np.empty(shape, np.float32) for shape in (axes, axes, cells, cells))
        return cls(size, periodic, w, ground, shift, diag)

    def stencil(self) -> Stencil:
        """View the arrays as torch tensors on a grid."""

        def grid(v: Array) -> torch.Tensor:
            return torch.from_numpy(v).view(self.size)

        return Stencil([grid(v) for v in self.w], [grid(v) for v in self.ground], grid(self.shift), self.periodic)


def first_grid(A: Any, exponent: int) -> Grid:
    """Copy the operator in fp32, divided by 2^exponent."""
    grid = Grid.empty(tuple(A.shift.shape), A.periodic)
    rows = (-1, grid.size[2])
    for source, target in zip(
        (*A.links, *A.ground, A.shift, A.diag), (*grid.w, *grid.ground, grid.shift, grid.diag), strict=True
    ):
        setup.scale_into(source.contiguous().numpy().reshape(rows), 2.0**-exponent, target.reshape(rows))
    return grid


def learned_cycle(A: Any, exponent: int, network: Any, coarsest: int) -> FusedCycle:
    """Set up the fused cycle of a Poisson operator divided by 2^exponent."""
    damping, weight, link, earth = (packed(p) for p in (network.damping, network.weight, network.link, network.ground))
    with threads_for(A.diag.numel()):
        grid = first_grid(A, exponent)
    levels: list[FusedLevel] = []
    while grid.diag.size > coarsest:
        with threads_for(grid.diag.size):
            factors = balanced_factors(link_means(grid), grid.size)
            paths, flags = circuits(grid, factors)
            levels.append(fine(grid, factors, paths, flags, damping, weight))
            grid = coarse(grid, factors, paths, link, earth)
    return FusedCycle(levels, grid.size, generalised_inverse(grid.stencil()).float())


def link_means(grid: Grid) -> list[float]:
    """Mean positive link per axis."""
    counts = [np.count_nonzero(w) for w in grid.w]
    return [float(w.sum(dtype=np.float64)) / c if c else 0.0 for w, c in zip(grid.w, counts, strict=True)]


def usual_links(w: Array) -> Array:
    """Return the largest link of each axis: that of the bulk of a cell-type problem."""
    return w.max(1)


def coarse_size(grid: Grid, factors: tuple[int, int, int]) -> Any:
    """Count the cells per axis of the next level."""
    return tuple(-(-n // f) for n, f in zip(grid.size, factors, strict=True))


def circuits(grid: Grid, factors: tuple[int, int, int]) -> tuple[Array, Array]:
    """Conductance through the outer link of every cell, and which cells look like the bulk."""
    paths, flags = np.empty_like(grid.w), np.empty(grid.diag.size, np.uint8)
    f, usual = np.array(factors), usual_links(grid.w)
    setup_fine.outer_paths(grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, grid.strides, f, usual, paths, flags)
    return paths, flags


def first_of(flags: Array) -> int:
    """Index of the first flagged cell, -1 if there is none."""
    first = int(flags.argmax())
    return first if flags[first] else -1


def fine(
    grid: Grid, factors: tuple[int, int, int], paths: Array, flags: Array, damping: Weights, weight: Weights
) -> FusedLevel:
    """Damping and prolongation weights of one level."""
    f, periodic, size = np.array(factors), np.array(grid.periodic), coarse_size(grid, factors)
    quiet = np.empty(int(np.prod(size)), np.uint8)
    setup_fine.flag_blocks(flags, grid.sizes, grid.strides, f, np.array(size), periodic, quiet)
    block = first_of(quiet)
    example = int(np.array(np.unravel_index(block, size)) * f @ grid.strides) if block >= 0 else -1
    sd, a = np.empty_like(grid.diag), np.empty((3, grid.diag.size), np.uint8)
    problem = (grid.w, grid.ground, grid.shift, grid.diag, paths, grid.sizes, grid.strides, f, periodic)
    setup_fine.fine_level(problem, quiet, example, np.array(size), damping, weight, (sd, a))
    shape = grid.size
    links = tuple(w.reshape(shape) for w in grid.w)
    return FusedLevel(factors, grid.periodic, links, grid.diag.reshape(shape), sd.reshape(shape), a.reshape(3, *shape))


def coarse(grid: Grid, factors: tuple[int, int, int], paths: Array, link: Weights, earth: Weights) -> Grid:
    """Evaluate the learned operator of the next level."""
    size = coarse_size(grid, factors)
    classical = Grid.empty(size, grid.periodic)
    uniform = np.empty_like(classical.w)
    facts = np.empty((7, classical.diag.size), np.float32)
    f, periodic = np.array(factors), np.array(grid.periodic)
    setup_coarse.coarse_sums(
        grid.w, grid.ground, grid.shift, grid.diag, paths, grid.sizes, grid.strides, f, periodic, classical.sizes,
        uniform, classical.w, classical.ground, classical.shift, facts,
    )  # fmt: skip
    setup.sum_diagonal(
        classical.w, classical.ground, classical.shift, classical.sizes, classical.strides, classical.diag
    )
    flags = np.empty(classical.diag.size, np.uint8)
    setup_coarse.flag_usual(
        uniform, classical.w, classical.ground, classical.shift, facts, classical.sizes, usual_links(uniform), flags
    )
    quiet = np.empty_like(flags)
    setup.flag_quiet(flags, classical.sizes, classical.strides, periodic, quiet)
    new = Grid.empty(size, grid.periodic)
    problem = (
        uniform, classical.w, classical.ground, classical.shift, classical.diag, facts, classical.sizes,
        classical.strides, f, periodic,
    )  # fmt: skip
    setup_coarse.coarse_level(problem, quiet, first_of(quiet), link, earth, (new.w, new.ground, new.shift))
    setup.sum_diagonal(new.w, new.ground, new.shift, new.sizes, new.strides, new.diag)
    return new
