"""From a `Poisson` operator to the fused cycle over pieces, level by level, on the CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...kernels.cpu.cell_bytes import CellBytes
from ...kernels.cpu.compile import SERIAL
from ...kernels.cpu.cycle import STEPS
from ...kernels.cpu.graph_levels import GraphCycle, GraphStage, GridStage
from ..graph_hierarchy import SHRINKS, bottom_inverse, graph_visits
from ..pieces import Array, Graph
from ..setup_choice import check_isolated
from .changes import Past
from .graph_level import Level, coarsen_by_pieces, graph_stage
from .grid_level import Finest, finest_conductances, first_level


def graph_of_level(level: Level) -> Graph:
    """Return a level in the form of `multigrid.pieces`."""
    row = np.repeat(np.arange(level.n), np.diff(level.begin))
    cell = np.stack(np.unravel_index(level.place, level.size), 1)
    return Graph(cell, row, level.index, level.w, level.axis, level.ground, level.shift)


def pieces_cycle(
    A: Any, exponent: int, mantissa: float, codes: CellBytes | None, kind: Any, coarsest: int, serial: int = SERIAL,
    allowed: float = 1.0, past: Past | None = None,
) -> GraphCycle:  # fmt: skip
    """Set up the cycle of a Poisson operator divided by mantissa 2^exponent.

    codes : the finest operator in bytes, for an fp32 cycle; kind : np.float32 or np.float64
    serial : graph levels of at most so many unknowns are cycled by one thread in one call
    allowed : the share of isolated unknowns that a level may have, else `IsolatedPiecesError` as soon as one has more
    past : what earlier set-ups left; on the finest level only what has changed is computed, bit for bit the same
    """
    finest = finest_conductances(A, math.ldexp(1.0, -exponent) / mantissa)
    transfer, level, total = first_level(finest, SHRINKS, kind, past)
    check_isolated(level.diag, total, allowed)
    top = GridStage(*grid_arrays(finest, codes, kind), transfer)
    if past and past.nothing and past.graphs:
        return GraphCycle(top, *past.graphs, serial)
    stages, inverse = graph_stages(level, total, int(np.count_nonzero(finest.diag)), kind, coarsest, allowed)
    if past:
        past.graphs = stages, inverse
    return GraphCycle(top, stages, inverse, serial)


def graph_stages(
    level: Level, total: Array, unknowns: int, kind: Any, coarsest: int, allowed: float
) -> tuple[list[GraphStage], Array]:
    """Coarsen the first graph until at most `coarsest` unknowns are left; return the levels and the inverse below.

    total : for each unknown, the diagonals of the finest level of all its cells; unknowns : of the finest level
    """
    stages = list[GraphStage]()
    while level.n > coarsest:
        step = coarsen_by_pieces(level, SHRINKS)
        if step is None:
            break
        inside = step.piece >= 0
        total = np.bincount(step.piece[inside], total[inside], step.new.size)[step.new >= 0]
        check_isolated(step.below.diag, total, allowed)
        stages.append(graph_stage(level, step, graph_visits(unknowns / level.n), kind))
        level = step.below
    return stages, bottom_inverse(graph_of_level(level))


def grid_arrays(finest: Finest, codes: CellBytes | None, kind: Any) -> tuple[tuple[Array, ...], Array, Array]:
    """Return links, diagonal and damping of the finest level, bytes if it is given in bytes."""
    if codes is not None:
        inverse = np.where(finest.diag > 0, STEPS / np.where(finest.diag > 0, finest.diag, 1), 0)
        return codes.links, codes.diag, inverse.astype(np.uint16)
    diag = finest.diag.astype(kind)
    inverse = np.where(diag > 0, 1 / np.where(diag > 0, diag, 1), 0).astype(kind)
    return tuple(w.astype(kind) for w in finest.links), diag, inverse
