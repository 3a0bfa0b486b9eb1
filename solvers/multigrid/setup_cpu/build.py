"""From a `Poisson` operator and a `CoefficientNetwork` to the arrays of the fused cycle, level by level, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ...kernels.cpu.cell_bytes import CellBytes
from ...kernels.cpu.compile import threads_for
from ...kernels.cpu.cycle import FusedCycle, FusedLevel
from ..coarsening import balanced_factors
from ..hierarchy import coarsen, generalised_inverse, varies
from ..network import Perceptron
from .dirty_ranges import cover_grid
from .grid import Array, ConductanceSource, Grid, link_means
from .level import SetupLevel, Weights
from .voxels import VoxelSource

# in which order the set-up kernels write the features: those last that are 0 in most cells, which are then skipped
DAMPING_ORDER, WEIGHT_ORDER = (2, 3, 4, 5, 6, 7, 8, 0, 1), (0, 1, 2, 3, 4, 5, 6, 10, 11, 15, 7, 8, 9, 12, 13, 14)
LINK_ORDER, GROUND_ORDER = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15, 9, 10, 11), tuple(range(9))


PACKED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def pack_perceptron(perceptron: Perceptron, order: tuple[int, ...]) -> Weights:
    """Return w (features, units) and b of both hidden layers and of the outputs (outputs, units), units in eights.

    A constant one becomes a perceptron that answers its bias.
    """
    bias = perceptron.bias.detach().float().cpu().numpy().copy()
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
    (w1, b1), (w2, b2) = ((v.weight.T, v.bias) for v in layers)
    parts = (v.detach().float().cpu().numpy() for v in (w1, b1, w2, b2, perceptron.last.weight))
    first, *others, last = parts
    return (
        pad_to_eights(first[list(order)], rows=False),
        *(pad_to_eights(v) for v in others),
        pad_to_eights(last, rows=False),
        bias,
    )


def pack_network(network: Any) -> tuple[Weights, ...]:
    """Return all four perceptrons: the same arrays as long as nobody trains the network."""
    parameters, known = list(network.parameters()), PACKED.get(network)
    if known is None or not all(map(torch.equal, parameters, known[0])):
        perceptrons = network.damping, network.weight, network.link, network.ground
        orders = DAMPING_ORDER, WEIGHT_ORDER, LINK_ORDER, GROUND_ORDER
        seen = [p.detach().clone() for p in parameters]
        known = PACKED[network] = seen, tuple(map(pack_perceptron, perceptrons, orders))
    return known[1]


def pad_to_eights(v: Array, rows: bool = True) -> Array:
    """Copy an array, with zeros appended so that the last axis, or every axis, is a multiple of eight long."""
    shape = [n + -n % 8 if rows or axis == v.ndim - 1 else n for axis, n in enumerate(v.shape)]
    wide = np.zeros(shape, np.float32)
    wide[tuple(slice(n) for n in v.shape)] = v
    return wide


def learned_cycle(
    A: Any,
    exponent: int,
    network: Any,
    coarsest: int,
    mantissa: float = 1.0,
    cell_bytes: CellBytes | None = None,
    kept: list[Any] | None = None,
) -> FusedCycle:
    """Set up the fused cycle of a Poisson operator divided by mantissa 2^exponent.

    cell_bytes : the same in bytes
    kept : an empty list, and from then on what the last set-up left in it: arrays that this one changes in place where
        the operator has changed. The result is the same, bit for bit.
    """
    damping, weight, link, ground = nets = pack_network(network)
    source: Any = (
        ConductanceSource(A, exponent, mantissa, cell_bytes)
        if cell_bytes is None or A.voxels is None
        else VoxelSource(A, cell_bytes)
    )
    old = take_levels(kept, nets)
    grid = Grid.empty(source.size, source.periodic)
    if cell_bytes is None or grid.diag.size <= coarsest:
        with threads_for(grid.diag.size):
            source.fill(grid, cover_grid(grid.size))
    tracked, levels, fused = cell_bytes is not None or bool(old), list[SetupLevel](), list[FusedLevel]()
    varying, ranges, rules = cell_bytes is None and varies(grid.links()), None, ((damping, weight), (link, ground))

    def choose(size: Sequence[int]) -> tuple[int, int, int]:
        with threads_for(grid.diag.size):
            means = link_means(grid) if levels or cell_bytes is None else [float(w.any()) for w in cell_bytes.links]
        return balanced_factors(means, size)

    for number, factors, times in coarsen(grid.size, choose, varying=varying, coarsest=coarsest):
        with threads_for(grid.diag.size):
            kind = grid.size, grid.periodic, factors, cell_bytes and cell_bytes.unit, number == 0, type(source)
            level = old.pop(0) if old and old[0].fits_kind(*kind) else SetupLevel(grid, factors, *kind[3:])
            fused += level.refresh(grid, rules, cell_bytes, source, ranges, tracked, times)
            levels.append(level)
            grid, ranges = level.next_grid, level.changed
    if kept is not None:
        kept[:] = [nets, *levels]
    return FusedCycle(fused, grid.size, generalised_inverse(grid.stencil()).float())


def take_levels(kept: list[Any] | None, nets: tuple[Weights, ...]) -> list[SetupLevel]:
    """Move the kept levels out, so that an exception during set-up leaves no half-updated state.

    Nothing is kept of a network that has been trained since.
    """
    if not kept:
        return []
    (before, *levels), kept[:] = list(kept), []
    return levels if before is nets else []
