"""What an application of the cycle costs, counted from its arrays: bytes moved, memory kept, smoothing steps."""

from __future__ import annotations

from typing import Any, NamedTuple

from .cycle import LEVEL_BYTES, FusedCycle, cycle_bytes
from .graph_levels import GraphCycle


class CycleCost(NamedTuple):
    """Per cell of the finest grid: bytes moved by one application, bytes kept; smoothing in steps of the finest level.

    Examples
    --------
    >>> CycleCost(188.0, 60.0, 1.3).steps
    1.3
    """

    moved: float
    kept: float
    steps: float


def cost_of(cycle: Any) -> CycleCost:
    """Count a cycle on grids or over pieces; neighbours in cache, without write-allocation.

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.pde import Poisson
    >>> from krylearn.solvers import NeuralMultigrid
    >>> M = NeuralMultigrid(Poisson.from_coefficients(np.ones((40, 40))), "geometric")
    >>> 1.0 < cost_of(M.fused).steps < 1.5
    True
    """
    cells = max(cycle.input.size, 1)
    if isinstance(cycle, FusedCycle):
        steps = sum(level.b.size for level in cycle.levels) / cells
        return CycleCost(cycle_bytes(cycle), cycle.nbytes / cells, steps)
    return CycleCost(graph_cycle_bytes(cycle), cycle.nbytes / cells, cycle.steps)


def graph_cycle_bytes(cycle: GraphCycle) -> float:
    """Bytes per cell of the finest grid that one cycle over pieces moves, all levels counted."""
    top, small = cycle.top, cycle.small
    number, weight = top.kind(0).itemsize, top.transfer.low.itemsize
    grid = LEVEL_BYTES[top.damping.dtype.name]
    # two smoothing steps from zero, residual, two steps; the residual reads no weights
    moved = grid["from zero"] + grid["residual"] - 3 + 2 * grid["smooth"]
    # P and its transpose: weights of three axes and the piece of a cell each, and four (three) times a vector
    moved += 2 * (6 * weight + top.transfer.part.itemsize) + 7 * number
    total = moved * top.diag.size
    stored = [(s.links[1].size, s.prolongation[1].size) for s in cycle.large]
    rows = {int(row): (int(n), int(m)) for n, row, _, _, m, _ in small.plan if m >= 0}
    begins = small.links[0], small.prolongation[0]
    for row, (n, _) in sorted(rows.items()):
        links_of, weights_of = (int(b[row + n]) - int(b[row]) for b in begins)
        stored.append((links_of, weights_of))
    for (n, links, visits, m), (_, prolonged) in zip(cycle.facts, stored, strict=True):
        entry, start = 4 + number, 4
        # per visit: four passes over the links; vectors are b / diag (3), from zero (3), residual (4), steps (4 each)
        total += visits * (4 * (links * entry + n * start) + 18 * n * number)
        # the residual of a last visit is written and read once more, the correction is read and added
        total += 2 * (prolonged * entry) + (n + m) * start + (3 * n + 2 * m) * number
    total += small.inverse.size * number
    return total / max(top.diag.size, 1)
