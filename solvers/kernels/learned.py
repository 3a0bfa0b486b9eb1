"""From a `Poisson` operator and a `CoefficientNetwork` to the arrays of the fused cycle, level by level, on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..coarsening import balanced_factors
from ..coefficients import Perceptron
from ..hierarchy import TWICE, generalised_inverse, smoothed_twice_from
from . import setup, setup_coarse, setup_fine, setup_paths, setup_sums
from .codes import Codes
from .cpu_jit import over_strips, threads_for
from .cycle import STEPS, FusedCycle, FusedLevel
from .reference import Stencil
from .setup_patterns import STRIP

Array = np.ndarray[Any, Any]
Weights = tuple[Array, ...]


def packed(perceptron: Perceptron) -> Weights:
    """Return the arrays of a perceptron, padded with zeros to widths that are multiples of four.

    A constant one becomes a perceptron that answers its bias.
    """
    bias = perceptron.bias.detach().numpy()
    if perceptron.last is None:
        one, outputs = np.zeros((4, 4), np.float32), np.zeros(4, np.float32)
        return one, one[0].copy(), one, one[0].copy(), one, np.append(bias, outputs)[:4].astype(np.float32)
    layers: Any = perceptron.layers
    first, second = layers
    tensors = (first.weight, first.bias, second.weight, second.bias, perceptron.last.weight, perceptron.bias)
    return tuple(padded(t.detach().float().cpu().numpy()) for t in tensors)


def padded(v: Array) -> Array:
    """Append zeros so that every axis is a multiple of four long."""
    return np.ascontiguousarray(np.pad(v, [(0, -n % 4) for n in v.shape]))


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

    def sum_diagonal(self) -> None:
        """Make the diagonal what the rest says."""
        over_strips(setup.sum_diagonal, self.rows, self.w, self.ground, self.shift, self.sizes, self.strides, self.diag)

    @classmethod
    def empty(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil."""
        n = size[0] * size[1] * size[2]
        axes, cells = (3, n), (n,)
        w, ground, shift, diag = (np.empty(shape, np.float32) for shape in (axes, axes, cells, cells))
        return cls(size, periodic, w, ground, shift, diag)

    @classmethod
    def zeros(cls, size: tuple[int, int, int], periodic: tuple[bool, bool, bool]) -> Grid:
        """Room for a stencil, filled with zeros."""
        grid = cls.empty(size, periodic)
        for v in (grid.w, grid.ground, grid.shift):
            v.fill(0)
        return grid

    def links(self) -> list[torch.Tensor]:
        """View the links as torch tensors on a grid."""
        return [torch.from_numpy(w).view(self.size) for w in self.w]

    def stencil(self) -> Stencil:
        """View the arrays as torch tensors on a grid."""

        def grid(v: Array) -> torch.Tensor:
            return torch.from_numpy(v).view(self.size)

        return Stencil(self.links(), [grid(v) for v in self.ground], grid(self.shift), self.periodic)


def first_grid(A: Any, exponent: int, mantissa: float = 1.0) -> Grid:
    """Copy the operator in fp32, divided by mantissa 2^exponent."""
    grid = Grid.empty(tuple(A.shift.shape), A.periodic)
    rows = (-1, grid.size[2])
    for source, target in zip(
        (*A.links, *A.ground, A.shift, A.diag), (*grid.w, *grid.ground, grid.shift, grid.diag), strict=True
    ):
        values = source.contiguous().numpy().reshape(rows)
        over_strips(setup.scale_into, grid.rows, values, 2.0**-exponent, mantissa, target.reshape(rows))
    return grid


def learned_cycle(
    A: Any, exponent: int, network: Any, coarsest: int, mantissa: float = 1.0, codes: Codes | None = None
) -> FusedCycle:
    """Set up the fused cycle of a Poisson operator divided by mantissa 2^exponent; `codes`: the same in bytes."""
    damping, weight, link, earth = (packed(p) for p in (network.damping, network.weight, network.link, network.ground))
    with threads_for(A.diag.numel()):
        grid = first_grid(A, exponent, mantissa)
    levels: list[FusedLevel] = []
    twice, reduction = TWICE if codes is not None else smoothed_twice_from(grid.links()), 1
    while grid.diag.size > coarsest:
        with threads_for(grid.diag.size):
            factors = balanced_factors(link_means(grid), grid.size)
            paths, patterns = circuits(grid, factors)
            level = fine(grid, factors, paths, patterns, damping, weight, None if levels else codes)
            levels += [level.stay(), level] if reduction >= twice else [level]
            reduction *= math.prod(factors)
            grid = coarse(grid, factors, paths, link, earth)
    return FusedCycle(levels, grid.size, generalised_inverse(grid.stencil()).float())


def link_means(grid: Grid) -> list[float]:
    """Mean positive link per axis."""
    sums = np.empty((grid.rows, 3, 2))
    over_strips(setup.link_sums, grid.rows, grid.w, grid.size[2], sums)
    return [float(total / count) if count else 0.0 for total, count in sums.sum(0)]


def coarse_size(grid: Grid, factors: tuple[int, int, int]) -> tuple[int, int, int]:
    """Count the cells per axis of the next level."""
    nx, ny, nz = (-(-n // f) for n, f in zip(grid.size, factors, strict=True))
    return nx, ny, nz


def bits(*arrays: Array) -> tuple[Array, ...]:
    """View fp32 arrays as integers, to be hashed."""
    return tuple(v.view(np.uint32) for v in arrays)


def circuits(grid: Grid, factors: tuple[int, int, int]) -> tuple[Array, Array]:
    """Conductance through the outer link of every cell, and the pattern of every block's surroundings."""
    paths, signatures = np.empty_like(grid.w), np.empty(grid.diag.size, np.uint64)
    f, size = np.array(factors), coarse_size(grid, factors)
    seen = bits(grid.w, grid.ground, grid.shift, paths)
    problem = (grid.w, grid.ground, grid.shift, grid.diag, seen, grid.sizes, f)
    over_strips(setup_paths.outer_paths, grid.rows, problem, paths, signatures)
    patterns = np.empty(int(np.prod(size)), np.uint64)
    places = (grid.sizes, f, np.array(size), np.array(grid.periodic))
    over_strips(setup_paths.block_patterns, size[0] * size[1], signatures, places, patterns)
    return paths, patterns


def strips(tasks: int) -> int:
    """Count the strips of blocks or coarse cells."""
    return -(-tasks // STRIP)


def fine(
    grid: Grid,
    factors: tuple[int, int, int],
    paths: Array,
    patterns: Array,
    damping: Weights,
    weight: Weights,
    codes: Codes | None,
) -> FusedLevel:
    """Damping and prolongation weights of one level."""
    f, periodic, size = np.array(factors), np.array(grid.periodic), np.array(coarse_size(grid, factors))
    sd, a = np.zeros_like(grid.diag), np.zeros((3, grid.diag.size), np.uint8)
    shape = grid.size
    problem = (grid.w, grid.ground, grid.shift, grid.diag, paths, grid.sizes, grid.strides, f, periodic)
    over_strips(setup_fine.fine_level, strips(patterns.size), problem, patterns, size, damping, weight, (sd, a))
    weights: Array = a.reshape(3, *shape)
    if codes is not None:
        steps = np.empty(sd.size, np.uint16)
        rows = (-1, grid.size[2])
        over_strips(setup.scale_into, grid.rows, sd.reshape(rows), STEPS, 1.0, steps.reshape(rows))
        return FusedLevel(factors, grid.periodic, codes.links, codes.diag, steps.reshape(shape), weights)
    links = tuple(w.reshape(shape) for w in grid.w)
    return FusedLevel(factors, grid.periodic, links, grid.diag.reshape(shape), sd.reshape(shape), weights)


def coarse(grid: Grid, factors: tuple[int, int, int], paths: Array, link: Weights, earth: Weights) -> Grid:
    """Evaluate the learned operator of the next level."""
    size = coarse_size(grid, factors)
    old = Grid.empty(size, grid.periodic)  # the resistor rule's
    uniform, facts = np.empty_like(old.w), np.empty((7, old.diag.size), np.float32)
    f, periodic = np.array(factors), np.array(grid.periodic)
    problem = ((grid.w, grid.ground, grid.shift, grid.diag), paths, grid.sizes, f, periodic, old.sizes)
    over_strips(setup_sums.coarse_sums, old.rows, problem, (uniform, old.w, old.ground, old.shift, facts))
    old.sum_diagonal()
    signatures = np.empty(old.diag.size, np.uint64)
    seen = bits(uniform, old.w, old.ground, old.shift, facts)
    over_strips(setup_coarse.cell_signatures, old.rows, seen, old.sizes, signatures)
    new = Grid.zeros(size, grid.periodic)
    classical = (uniform, old.w, old.ground, old.shift, old.diag, facts, old.sizes, old.strides, f, periodic)
    results = (new.w, new.ground, new.shift)
    over_strips(setup_coarse.coarse_level, strips(old.diag.size), classical, signatures, link, earth, results)
    new.sum_diagonal()
    return new
