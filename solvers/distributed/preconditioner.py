"""`DistributedMultigrid`: the learned preconditioner of a `DistributedPoisson`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..multigrid.hierarchy import COARSEST, Rule
from ..multigrid.preconditioner import find_rule
from .assembled_cycle import AssembledCycle
from .builders import Fields
from .ghosted_cycle import GhostedCycle
from .levels import build_levels, scaled_channels
from .operator import DistributedPoisson
from .partition import Array, Partition
from .petsc_library import collective_errors, free_at_exit
from .pieces.assembled import AssembledPieces
from .pieces.build import build_pieces
from .pieces.ghosted import GhostedPieces
from .pieces.survey import has_several_conductances, prefers_pieces

GATHER = 20_000
"""Cells of the first level that every rank holds whole: less time than the messages of its levels would take (ours)."""
ROUTES = ("ghosted", "assembled")


PIECES = ("pieces", "untrained pieces")
"""On several ranks both are smoothed by the steps of the rule."""
MOST_CELLS = 4_000_000
"""Cells up to which pieces are taken by themselves: every rank holds the graph below the finest level."""
Cycle = GhostedCycle | AssembledCycle | GhostedPieces | AssembledPieces


def rule_of(weights: str | Path | nn.Module | None, dimension: int) -> Rule | None:
    """Return the rule that a `weights` argument means for levels that are grids; None if they are pieces."""
    if isinstance(weights, str) and weights in PIECES:
        return None
    return find_rule(None if isinstance(weights, str) and weights == "network" else weights, dimension)


def build_cycle(
    part: Partition,
    fields: Fields,
    diag: Array,
    matrix: Callable[[], Any],
    rule: Rule | None,
    chooses: bool,
    route: str,
    gather: int,
) -> Cycle:
    """Return the cycle of an operator given by its own conductances; `matrix` gives it assembled. Collective.

    rule : of levels that are grids, None for pieces; chooses : whether a look at the operator may say pieces instead
    """
    cells = math.prod(part.size)
    if cells > COARSEST and (rule is None or (chooses and cells <= MOST_CELLS)):
        varying = has_several_conductances(part, fields)
        if rule is None or prefers_pieces(part, fields, varying):
            return build_pieces(part, fields, diag, matrix, route, varying)
    if rule is None:  # so small a system is inverted
        rule = find_rule(None, len(part.grid_shape))
    channels, exponent = scaled_channels(part, fields, diag)
    ladder = build_levels(part, channels, exponent, rule, gather)
    return GhostedCycle(ladder, rule) if route == "ghosted" else AssembledCycle(matrix(), ladder, rule)


class DistributedMultigrid:
    """`NeuralMultigrid` on several ranks: the same levels, weights and visits, so the same iterations.

    Parameters
    ----------
    A : DistributedPoisson
    weights : as in `NeuralMultigrid`; None looks whether pieces suit the operator better, up to `MOST_CELLS` cells
    route : "ghosted" or "assembled"
        krylearn's own kernels on boxes with cells of the neighbours around them, or PETSc's PCMG over assembled
        matrices: the same map up to single precision, at several times the memory and time
    gather : cells from which on every rank holds a level whole

    Attributes
    ----------
    setup_seconds : wall time of the last set-up on the slowest rank
    uses_pieces : whether levels are pieces
    """

    def __init__(
        self,
        A: DistributedPoisson,
        weights: str | Path | nn.Module | None = None,
        *,
        route: str = "ghosted",
        gather: int = GATHER,
    ) -> None:
        with collective_errors(A.comm):
            if route not in ROUTES:
                raise ValueError(f"got route={route!r}; expected one of {', '.join(map(repr, ROUTES))}")
            self._rule, self._chooses = rule_of(weights, len(A.grid_shape)), weights is None
        self.route, self.gather = route, gather
        self.cycle: Cycle | None = None
        free_at_exit(self)
        self.update(A)

    def update(self, A: DistributedPoisson) -> DistributedMultigrid:
        """Set up again for another operator on the same ranks (moved obstacle, new coefficients). Collective."""
        from mpi4py import MPI

        A.comm.Barrier()
        start = time.perf_counter()
        self.destroy()
        self.A = A
        choice = self._rule, self._chooses, self.route, self.gather
        self.cycle = build_cycle(A.part, A.fields, A.diag, lambda: A.mat, *choice)
        self.setup_seconds = A.comm.allreduce(time.perf_counter() - start, MPI.MAX)
        return self

    @property
    def uses_pieces(self) -> bool:
        """Whether levels are pieces."""
        return isinstance(self.cycle, GhostedPieces | AssembledPieces)

    def __matmul__(self, r: Any) -> Any:
        """Return M r in the shape and type of r. Collective."""
        if self.cycle is None:
            raise ValueError("got a preconditioner that destroy() has freed; call update(A) first")
        v = self.A.to_vector(r, "r")
        z = v.duplicate()
        self.cycle.apply(v, z)
        out = self.A.from_vector(z, r)
        v.destroy(), z.destroy()
        return out

    def destroy(self) -> None:
        """Free PETSc's memory; done by `update` for what it replaces."""
        if self.cycle is not None:
            self.cycle.destroy()
            self.cycle = None
