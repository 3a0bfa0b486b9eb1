"""The levels of the cycle, every rank evaluating the rule for its own cells on a box.

What a rule writes at a cell depends on cells up to four away (five where a block straddles two ranks), so a box of own
cells and `PAD` around them gives every rank what a single process would find there. Communication: one exchange of
seven numbers per cell and level, and two reductions per level and three at the start, which make the ranks agree on
the axes to coarsen and on what depends on the whole medium.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..kernels.cpu.cycle import FusedCycle, FusedLevel
from ..kernels.reference import Stencil
from ..multigrid.coarsening import balanced_factors, choose_factors
from ..multigrid.hierarchy import COARSEST, Hierarchy, Level, Rule, generalised_inverse, visits
from ..multigrid.network import CoefficientNetwork
from ..multigrid.preconditioner import power_of_two, quantise
from ..multigrid.setup_cpu.build import pack_network
from ..multigrid.setup_cpu.dirty_ranges import cover_grid
from ..multigrid.setup_cpu.grid import Grid
from ..multigrid.setup_cpu.level import SetupLevel
from .builders import Fields
from .halo import Halo
from .partition import Array, Box, Partition

PAD = 8
"""Cells around own ones: 5 for the rule, 3 more for the smoothing steps that the ghosted cycle makes without asking."""


@dataclass
class DistributedLevel:
    """One level: arrays on the box, right at own cells and near them; `below` is the partition of the next."""

    part: Partition
    box: Box
    fused: FusedLevel
    factors: tuple[int, int, int]
    visits: int
    below: Partition
    coarse_box: Box


@dataclass
class Ladder:
    """All distributed levels, and the operator of the first level that is gathered.

    fields : (..., 7) links, ground and shift of own cells, scaled by 2^-exponent; reduction : how many times fewer
    cells it has than the finest; varying : whether the medium has several conductances
    """

    levels: list[DistributedLevel]
    part: Partition
    fields: Array
    exponent: int
    reduction: int
    varying: bool


def scaled_fields(part: Partition, fields: Fields, diag: Array) -> tuple[Array, int]:
    """Return the seven numbers per own cell in fp32, divided by the power of two 2^exponent. Collective."""
    from mpi4py import MPI

    largest = part.comm.allreduce(float(diag.max(initial=0.0)), MPI.MAX)
    exponent = power_of_two(largest)
    stacked = np.empty((*part.internal_shape, 7), np.float32)
    for d in range(3):
        stacked[..., d] = np.ldexp(fields.links[..., d], -exponent)
        stacked[..., 3 + d] = np.ldexp(fields.ground[..., d], -exponent)
    stacked[..., 6] = np.ldexp(fields.shift, -exponent)
    return stacked, exponent


def build_levels(part: Partition, fields: Array, exponent: int, rule: Rule, gather: int) -> Ladder:
    """Coarsen until at most `gather` cells are left. Collective.

    fields : (..., 7) of own cells, scaled
    """
    from mpi4py import MPI

    comm = part.comm
    links = fields[..., :3]
    largest = comm.allreduce(float(links.max(initial=0.0)), MPI.MAX)
    varying = bool(comm.allreduce(bool(((links != 0) & (links != np.float32(largest))).any()), MPI.LOR))
    levels: list[DistributedLevel] = []
    reduction = 1
    while math.prod(part.size) > max(gather, COARSEST):
        sums = np.array([(fields[..., d].sum(dtype=np.float64), (fields[..., d] > 0).sum()) for d in range(3)])
        sums = comm.allreduce(sums)
        factors = balanced_factors([total / count if count else 0.0 for total, count in sums], part.size)
        level, fields = _coarsen(part, fields, rule, factors, visits(reduction, varying), not levels)
        levels.append(level)
        part = level.below
        reduction *= math.prod(factors)
    return Ladder(levels, part, fields, exponent, reduction, varying)


def _coarsen(
    part: Partition, fields: Array, rule: Rule, factors: tuple[int, int, int], times: int, finest: bool
) -> tuple[DistributedLevel, Array]:
    """Evaluate the rule on this rank's box; return the level, and the fields of own cells of the next."""
    box, below = part.padded(PAD), part.coarse(factors)
    axes = (a.coarse(f, own) for a, f, own in zip(box.axes, factors, below.ranges, strict=True))
    coarse_box = Box(tuple(axes))  # type: ignore[arg-type]
    halo = Halo(part, box, 7)
    around = halo(fields)
    around = halo(fields)
    for d, wraps in enumerate(box.periodic):
        if not wraps:  # links out of the box are none: kernels read them as if the axis wrapped
            np.moveaxis(around[..., d], d, 0)[-1] = 0
    fused, coarse = evaluate(rule, around, box.periodic, factors, finest)
    halo.destroy()
    own = coarse_box.own
    new = np.stack([c[own] for c in coarse], -1)
    return DistributedLevel(part, box, fused, factors, times, below, coarse_box), new


def evaluate(
    rule: Rule, fields: Array, periodic: tuple[bool, bool, bool], factors: tuple[int, int, int], finest: bool
) -> tuple[FusedLevel, list[Array]]:
    """Return a level and the seven numbers of the next; a network by the kernels that a single process uses."""
    if not isinstance(rule, CoefficientNetwork):
        op = stencil_of_fields(fields, periodic)
        with torch.no_grad():
            s, transfer, coarse = rule(op, factors)
            h = quantise(Hierarchy([Level(op, s, transfer)], NOTHING, torch.zeros(1, 1)), torch.float32)
        level = h.levels[0]
        fused = FusedLevel.from_tensors(level.op, level.s, level.transfer)
        return fused, [v.numpy() for v in (*coarse.links, *coarse.ground, coarse.shift)]
    damping, weight, link, ground = pack_network(rule)
    grid = Grid.empty(fields.shape[:3], periodic)
    for d in range(3):
        grid.w[d] = fields[..., d].ravel()
        grid.ground[d] = fields[..., 3 + d].ravel()
    grid.shift[:] = fields[..., 6].ravel()
    grid.sum_diagonal(cover_grid(grid.size))
    level = SetupLevel(grid, factors, None, finest, object)
    (fused,) = level.refresh(grid, ((damping, weight), (link, ground)), None, None, None, False, 1)
    below = level.next_grid
    return fused, [v.reshape(below.size) for v in (*below.w, *below.ground, below.shift)]


def stencil_of_fields(fields: Array, periodic: tuple[bool, bool, bool]) -> Stencil:
    """View seven numbers per cell as a stencil in fp32."""
    parts = [torch.from_numpy(np.ascontiguousarray(fields[..., k], dtype=np.float32)) for k in range(7)]
    return Stencil(parts[:3], parts[3:6], parts[6], periodic)


NOTHING = Stencil([torch.zeros(1, 1, 1)] * 3, [torch.ones(1, 1, 1)] * 3, torch.ones(1, 1, 1), (False,) * 3)


def gathered_cycle(ladder: Ladder, rule: Rule) -> FusedCycle:
    """Return the cycle of all levels below the distributed ones, the same on every rank. Collective."""
    part, periodic = ladder.part, ladder.part.periodic
    halo = Halo(part, part.whole(), 7)
    fields = halo(ladder.fields).copy()
    halo.destroy()
    levels, reduction, size = list[FusedLevel](), ladder.reduction, part.size
    while math.prod(size) > COARSEST:
        factors = choose_factors(stencil_of_fields(fields, periodic))
        fused, coarse = evaluate(rule, fields, periodic, factors, not levels and reduction == 1)
        levels += fused.repeated(visits(reduction, ladder.varying))
        fields, reduction = np.stack(coarse, -1), reduction * math.prod(factors)
        size = coarse[0].shape
    return FusedCycle(levels, size, generalised_inverse(stencil_of_fields(fields, periodic)).float())
