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
from ..step_sizes import StepNetwork, describe_rows, rows_of_grid, rows_of_matrix, scales_of
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
    allowed: float = 1.0, past: Past | None = None, network: StepNetwork | None = None,
) -> GraphCycle:  # fmt: skip
    """Set up the cycle of a Poisson operator divided by mantissa 2^exponent.

    codes : the finest operator in bytes, for an fp32 cycle; kind : np.float32 or np.float64
    serial : graph levels of at most so many unknowns are cycled by one thread in one call
    allowed : the share of isolated unknowns that a level may have, else `IsolatedPiecesError` as soon as one has more
    past : what earlier set-ups left; on the finest level only what has changed is computed, bit for bit the same
    network : what chooses the step sizes, None: those of the rule
    """
    finest = finest_conductances(A, math.ldexp(1.0, -exponent) / mantissa)
    transfer, level, total = first_level(finest, SHRINKS, kind, past)
    check_isolated(level.diag, total, allowed)
    top = GridStage(*grid_arrays(finest, codes, kind), transfer)
    chooser = None if network is None else (network, network.versions())
    if past and past.nothing and past.graphs and past.graphs[-1] == chooser:
        stages, inverse, top.omega, _ = past.graphs
        return GraphCycle(top, stages, inverse, serial)
    if past:
        past.graphs = None  # those of another system, should this set-up not come to its end
    unknowns = int(np.count_nonzero(finest.diag))
    stages, bottom = coarsen_graphs(level, total, unknowns, kind, coarsest, allowed)
    inverse = bottom_inverse(graph_of_level(bottom))
    if network is not None:
        take_steps(network, finest, top, stages, bottom, inverse)
    if past:
        past.graphs = stages, inverse, top.omega, chooser
    return GraphCycle(top, stages, inverse, serial)


def graph_stages(
    level: Level, total: Array, unknowns: int, kind: Any, coarsest: int, allowed: float
) -> tuple[list[GraphStage], Array]:
    """Coarsen the first graph until at most `coarsest` unknowns are left; return the levels and the inverse below.

    As `coarsen_graphs`, and the steps are those of the rule.
    """
    stages, bottom = coarsen_graphs(level, total, unknowns, kind, coarsest, allowed)
    return stages, bottom_inverse(graph_of_level(bottom))


def coarsen_graphs(
    level: Level, total: Array, unknowns: int, kind: Any, coarsest: int, allowed: float
) -> tuple[list[GraphStage], Level]:
    """Coarsen the first graph until at most `coarsest` unknowns are left; return the levels and what is left.

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
    return stages, level


def take_steps(
    network: StepNetwork, finest: Finest, top: GridStage, stages: list[GraphStage], bottom: Level, inverse: Array
) -> None:
    """Give every level the steps that a network chooses; scale graphs and inverse so that corrections are stretched."""
    rows = [rows_of_grid(finest.links, finest.diag)]
    for stage in stages:
        begin, index, w = stage.links
        rows.append(rows_of_matrix(begin, index, w, stage.diag))
    diags = [finest.diag, *(s.diag for s in stages), bottom.diag]
    counts = np.array([np.count_nonzero(finest.diag), *(d.size for d in diags[1:])])
    sums = np.array([d.sum(dtype=np.float64) for d in diags])
    shrinks, coarse = counts[:-1] / np.maximum(counts[1:], 1), sums[1:] / np.maximum(sums[:-1], 1e-300)
    steps = network.steps_of(np.array(list(map(describe_rows, rows, shrinks, coarse))))
    scales = scales_of(steps)
    top.take_steps(*steps[0][:2])
    for stage, chosen, scale in zip(stages, steps[1:], scales[1:], strict=False):
        stage.take_steps(chosen.first, chosen.second, scale)
    inverse /= scales[-1]


def grid_arrays(finest: Finest, codes: CellBytes | None, kind: Any) -> tuple[tuple[Array, ...], Array, Array]:
    """Return links, diagonal and damping of the finest level, bytes if it is given in bytes."""
    if codes is not None:
        inverse = np.where(finest.diag > 0, STEPS / np.where(finest.diag > 0, finest.diag, 1), 0)
        return codes.links, codes.diag, inverse.astype(np.uint16)
    diag = finest.diag.astype(kind)
    inverse = np.where(diag > 0, 1 / np.where(diag > 0, diag, 1), 0).astype(kind)
    return tuple(w.astype(kind) for w in finest.links), diag, inverse
