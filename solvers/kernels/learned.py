"""From a `Poisson` operator and a `CoefficientNetwork` to the arrays of the fused cycle, level by level, on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..coarsening import balanced_factors
from ..coefficients import Perceptron
from ..hierarchy import generalised_inverse, varies, visits
from . import setup, setup_coarse, setup_fine
from .codes import Codes
from .cpu_jit import over_strips, threads_for
from .cycle import STEPS, FusedCycle, FusedLevel
from .reference import Stencil

Array = np.ndarray[Any, Any]
Weights = tuple[Array, ...]


# in which order the set-up kernels write the features: those last that are 0 in most cells, which are then skipped
DAMPING_ORDER, WEIGHT_ORDER = (2, 3, 4, 5, 6, 7, 8, 0, 1), (0, 1, 2, 3, 4, 5, 6, 10, 11, 15, 7, 8, 9, 12, 13, 14)
LINK_ORDER, GROUND_ORDER = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15, 9, 10, 11), tuple(range(9))


def packed(perceptron: Perceptron, order: tuple[int, ...]) -> Weights:
    """Return w (features, units) and b of both hidden layers and of the outputs (outputs, units), units in eights.

    A constant one becomes a perceptron that answers its bias.
    """
    bias = perceptron.bias.detach().float().cpu().numpy()
    if perceptron.last is None:
        none = np.zeros(8, np.float32)
        return (
            np.zeros((len(order), 8), np.float32),
            none,
            np.zeros((8, 8), np.float32),
            none,
            np.outer(bias, none),
            bias,
        )
    layers: Any = perceptron.layers
    (w1, b1), (w2, b2) = ((v.weight.T[list(order)] if v is layers[0] else v.weight.T, v.bias) for v in layers)
    tensors = (w1, b1, w2, b2, perceptron.last.weight)
    first, *others = (t.detach().float().cpu().numpy() for t in tensors)
    first = np.pad(first, [(0, 0), (0, -first.shape[1] % 8)])
    last = np.pad(others[3], [(0, 0), (0, -others[3].shape[1] % 8)])
    return np.ascontiguousarray(first), *(padded(v) for v in others[:3]), np.ascontiguousarray(last), bias


def padded(v: Array) -> Array:
    """Append zeros so that every axis is a multiple of eight long."""
    return np.ascontiguousarray(np.pad(v, [(0, -n % 8) for n in v.shape]))


def roomy(n: int) -> Array:
    """Return n numbers with room for a vector behind them: rows are read by whole vectors."""
    return np.empty(n + 16, np.float32)[:n]


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
        w, ground = (roomy(3 * n).reshape(3, n) for _ in range(2))
        shift, diag = roomy(n), roomy(n)
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
    perceptrons = (network.damping, network.weight, network.link, network.ground)
    orders = (DAMPING_ORDER, WEIGHT_ORDER, LINK_ORDER, GROUND_ORDER)
    damping, weight, link, earth = map(packed, perceptrons, orders)
    with threads_for(A.diag.numel()):
        grid = first_grid(A, exponent, mantissa)
    levels: list[FusedLevel] = []
    varying, reduction = codes is None and varies(grid.links()), 1
    while grid.diag.size > coarsest:
        with threads_for(grid.diag.size):
            factors = balanced_factors(link_means(grid), grid.size)
            classical = Classical.empty(grid, factors)
            level = fine(grid, factors, (damping, weight), classical, codes, not levels)
            levels += level.visited(visits(reduction, varying))
            reduction *= math.prod(factors)
            grid = coarse(classical, factors, (link, earth), codes is not None)
    return FusedCycle(levels, grid.size, generalised_inverse(grid.stencil()).float())


def link_means(grid: Grid) -> list[float]:
    """Mean positive link per axis."""
    sums = np.empty((grid.rows, 3, 2), np.float32)
    over_strips(setup.link_sums, grid.rows, grid.w, grid.size[2], sums)
    return [float(total / count) if count else 0.0 for total, count in sums.sum(0, dtype=np.float64)]


def coarse_size(grid: Grid, factors: tuple[int, int, int]) -> tuple[int, int, int]:
    """Count the cells per axis of the next level."""
    nx, ny, nz = (-(-n // f) for n, f in zip(grid.size, factors, strict=True))
    return nx, ny, nz


def bits(*arrays: Array) -> tuple[Array, ...]:
    """View fp32 arrays as integers, to be hashed."""
    return tuple(v.view(np.uint32) for v in arrays)


@dataclass
class Classical:
    """Both classical coarse operators: the resistor rule's as a grid, the links of the geometric one, and facts."""

    grid: Grid
    uniform: Array
    facts: Array

    @classmethod
    def empty(cls, fine: Grid, factors: tuple[int, int, int]) -> Classical:
        """Room for the coarse operators of a fine level."""
        grid = Grid.empty(coarse_size(fine, factors), fine.periodic)
        n = grid.diag.size
        return cls(grid, roomy(3 * n).reshape(3, n), roomy(7 * n).reshape(7, n))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What `fine_level` writes."""
        return self.uniform, self.grid.w, self.grid.ground, self.grid.shift, self.facts


def fine(
    grid: Grid,
    factors: tuple[int, int, int],
    nets: tuple[Weights, Weights],
    classical: Classical,
    codes: Codes | None,
    finest: bool,
) -> FusedLevel:
    """Damping and prolongation weights of one level, and the classical operators of the next."""
    f, periodic, size = np.array(factors), np.array(grid.periodic), classical.grid.sizes
    sd, a = np.zeros_like(grid.diag), np.zeros((3, grid.diag.size), np.uint8)
    shape = grid.size
    problem = (grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, f, periodic)
    repeats = int(codes is not None)
    over_strips(setup_fine.fine_level, classical.grid.rows, problem, size, repeats, nets, (sd, a), classical.arrays)
    weights: Array = a.reshape(3, *shape)
    if finest and codes is not None:
        steps = np.empty(sd.size, np.uint16)
        rows = (-1, grid.size[2])
        over_strips(setup.scale_into, grid.rows, sd.reshape(rows), STEPS, 1.0, steps.reshape(rows))
        return FusedLevel(factors, grid.periodic, codes.links, codes.diag, steps.reshape(shape), weights)
    links = tuple(w.reshape(shape) for w in grid.w)
    return FusedLevel(factors, grid.periodic, links, grid.diag.reshape(shape), sd.reshape(shape), weights)


def coarse(classical: Classical, factors: tuple[int, int, int], nets: tuple[Weights, Weights], repeats: bool) -> Grid:
    """Evaluate the learned operator of the next level."""
    old, uniform, facts = classical.grid, classical.uniform, classical.facts
    n = old.diag.size
    old.sum_diagonal()
    pairs, fractions = roomy(3 * n).reshape(3, n), roomy(2 * n).reshape(2, n)
    classic = old.w, old.ground, old.shift, old.diag
    over_strips(setup_coarse.cell_facts, old.rows, *classic, old.sizes, pairs, fractions)
    signatures = np.empty(n if repeats else 0, np.uint64)
    if repeats:
        seen = bits(uniform, old.w, old.ground, old.shift, facts)
        over_strips(setup_coarse.cell_signatures, old.rows, seen, old.sizes, signatures)
    new = Grid.zeros(old.size, old.periodic)
    problem = (uniform, *classic, facts, pairs, fractions)
    places = (signatures, old.sizes, old.strides, np.array(old.periodic))
    results = (new.w, new.ground, new.shift)
    task = (problem, places, int(repeats), np.array(factors), nets, results)
    over_strips(setup_coarse.coarse_level, old.rows, *task)
    new.sum_diagonal()
    return new
