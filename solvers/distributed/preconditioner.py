"""`DistributedMultigrid`: the learned preconditioner of a `DistributedPoisson`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..multigrid.hierarchy import Rule
from ..multigrid.preconditioner import find_rule
from .assembled_cycle import AssembledCycle
from .builders import Fields
from .ghosted_cycle import GhostedCycle
from .levels import build_levels, scaled_channels
from .operator import DistributedPoisson
from .partition import Array, Partition
from .petsc_library import collective_errors, free_at_exit

GATHER = 20_000
"""Cells of the first level that every rank holds whole: less time than the messages of its levels would take (ours)."""
ROUTES = ("ghosted", "assembled")


def rule_of(weights: str | Path | nn.Module | None, dimension: int) -> Rule:
    """Return the rule that a `weights` argument means; None is "network" here, whatever the operator."""
    if isinstance(weights, str) and weights == "pieces":
        raise ValueError("got weights='pieces'; expected levels that are grids: pieces are for one process so far")
    return find_rule(None if isinstance(weights, str) and weights == "network" else weights, dimension)


def build_cycle(
    part: Partition, fields: Fields, diag: Array, matrix: Callable[[], Any], rule: Rule, route: str, gather: int
) -> GhostedCycle | AssembledCycle:
    """Return the cycle of an operator given by its own conductances; `matrix` gives it assembled. Collective."""
    channels, exponent = scaled_channels(part, fields, diag)
    ladder = build_levels(part, channels, exponent, rule, gather)
    return GhostedCycle(ladder, rule) if route == "ghosted" else AssembledCycle(matrix(), ladder, rule)


class DistributedMultigrid:
    """`NeuralMultigrid` on several ranks: the same levels, weights and visits, so the same iterations.

    Parameters
    ----------
    A : DistributedPoisson
    weights : as in `NeuralMultigrid`, but None is "network" for every operator, and "pieces" is refused
    route : "ghosted" or "assembled"
        krylearn's own kernels on boxes with cells of the neighbours around them, or PETSc's PCMG over assembled
        matrices: the same map up to single precision, at several times the memory and time
    gather : cells from which on every rank holds a level whole

    Attributes
    ----------
    setup_seconds : wall time of the last set-up on the slowest rank
    levels : one line per level
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
            self._rule = rule_of(weights, len(A.grid_shape))
        self.route, self.gather = route, gather
        self.cycle: GhostedCycle | AssembledCycle | None = None
        free_at_exit(self)
        self.update(A)

    def update(self, A: DistributedPoisson) -> DistributedMultigrid:
        """Set up again for another operator on the same ranks (moved obstacle, new coefficients). Collective."""
        from mpi4py import MPI

        A.comm.Barrier()
        start = time.perf_counter()
        self.destroy()
        self.A = A
        self.cycle = build_cycle(A.part, A.fields, A.diag, lambda: A.mat, self._rule, self.route, self.gather)
        self.setup_seconds = A.comm.allreduce(time.perf_counter() - start, MPI.MAX)
        return self

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
