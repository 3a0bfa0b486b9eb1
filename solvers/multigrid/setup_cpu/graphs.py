"""From a `Poisson` operator to the fused cycle over pieces, level by level, on the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...kernels.cpu.cell_bytes import CellBytes
from ...kernels.cpu.cycle import STEPS
from ...kernels.cpu.graph_levels import GraphCycle, GridStage
from ..graph_hierarchy import SHRINKS, bottom_inverse
from ..hierarchy import visits
from ..pieces import Array, Graph
from .graph_level import Level, coarsen_by_pieces, finest_level, graph_stage, grid_transfer


def graph_of_level(level: Level) -> Graph:
    """Return a level in the form of `multigrid.pieces`."""
    row = np.repeat(np.arange(level.n), np.diff(level.begin))
    cell = np.stack(np.unravel_index(level.place, level.size), 1)
    return Graph(cell, row, level.index, level.w, level.axis, level.ground, level.shift)


def pieces_cycle(
    A: Any, exponent: int, mantissa: float, codes: CellBytes | None, kind: Any, coarsest: int
) -> GraphCycle:
    """Set up the cycle of a Poisson operator divided by mantissa 2^exponent.

    codes : the finest operator in bytes, for an fp32 cycle; kind : np.float32 or np.float64
    """
    factor = math.ldexp(1.0, -exponent) / mantissa
    level = finest_level(A, factor)
    unknowns = int((level.place >= 0).sum())
    step = coarsen_by_pieces(level, SHRINKS)
    top, transfer = grid_arrays(A, level, factor, codes, kind), grid_transfer(A, factor, step, kind)
    stages = []
    level = step.below
    while level.n > coarsest:
        step = coarsen_by_pieces(level, SHRINKS)
        if step is None:
            break
        stages.append(graph_stage(level, step, visits(unknowns / level.n, varying=True), kind))
        level = step.below
    return GraphCycle(GridStage(*top, transfer), stages, bottom_inverse(graph_of_level(level)))


def grid_arrays(
    A: Any, level: Level, factor: float, codes: CellBytes | None, kind: Any
) -> tuple[tuple[Array, ...], Array, Array]:
    """Return links, diagonal and damping of the finest level, bytes if it is given in bytes."""
    size = level.size
    if codes is not None:
        inverse = np.where(level.diag > 0, STEPS / np.where(level.diag > 0, level.diag, 1), 0)
        return codes.links, codes.diag, inverse.astype(np.uint16).reshape(size)
    w = tuple(np.ascontiguousarray((v.numpy() * factor).astype(kind)) for v in A.links)
    diag = level.diag.astype(kind)
    inverse = np.where(diag > 0, 1 / np.where(diag > 0, diag, 1), 0).astype(kind)
    return w, diag.reshape(size), inverse.reshape(size)
