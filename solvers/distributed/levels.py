"""The levels of the cycle, every rank evaluating the rule for its own cells on a box.

What a rule writes at a cell depends on cells up to four away (five where a block straddles two ranks), so a box of own
cells and `PAD` around them gives every rank what a single process would find there. Communication: one exchange of
seven numbers per cell and level, and two reductions per level and three at the start, which make the ranks agree on
the axes to coarsen and on what depends on the whole medium.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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

Channels = Callable[[int], Array]
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


def scaled_channels(part: Partition, fields: Fields, diag: Array) -> tuple[Channels, int]:
    """Return the seven numbers per own cell in fp32, divided by 2^exponent, made when asked for. Collective."""
    from mpi4py import MPI

    largest = part.comm.allreduce(float(diag.max(initial=0.0)), MPI.MAX)
    exponent = power_of_two(largest)

    def channel(c: int) -> Array:
        found = fields.links[..., c] if c < 3 else fields.ground[..., c - 3] if c < 6 else fields.shift
        return np.ldexp(found, -exponent).astype(np.float32)

    return channel, exponent


def build_levels(part: Partition, channels: Channels, exponent: int, rule: Rule, gather: int) -> Ladder:
    """Coarsen until at most `gather` cells are left. Collective.

    channels : the seven numbers of own cells, scaled
    """
    from mpi4py import MPI

    comm = part.comm
    largest = np.float32(comm.allreduce(max(float(channels(d).max(initial=0.0)) for d in range(3)), MPI.MAX))
    several = any(bool(((w != 0) & (w != largest)).any()) for w in map(channels, range(3)))
    varying = bool(comm.allreduce(several, MPI.LOR))
    levels: list[DistributedLevel] = []
    reduction = 1
    while math.prod(part.size) > max(gather, COARSEST):
        sums = np.array([(w.sum(dtype=np.float64), (w > 0).sum()) for w in map(channels, range(3))])
        sums = comm.allreduce(sums)
        factors = balanced_factors([total / count if count else 0.0 for total, count in sums], part.size)
        level, channels = _coarsen(part, channels, rule, factors, visits(reduction, varying), not levels)
        levels.append(level)
        part = level.below
        reduction *= math.prod(factors)
    return Ladder(levels, part, np.stack([channels(c) for c in range(7)], -1), exponent, reduction, varying)


def _coarsen(
    part: Partition, channels: Channels, rule: Rule, factors: tuple[int, int, int], times: int, finest: bool
) -> tuple[DistributedLevel, Channels]:
    """Evaluate the rule on this rank's box; return the level, and the fields of own cells of the next."""
    box, below = part.padded(PAD), part.coarse(factors)
    axes = (a.coarse(f, own) for a, f, own in zip(box.axes, factors, below.ranges, strict=True))
    coarse_box = Box(tuple(axes))  # type: ignore[arg-type]
    halo = Halo(part, box)

    def around(c: int) -> Array:
        found = halo(channels(c))
        if c < 3 and not box.periodic[c]:  # links out of the box are none: kernels read rows as if they wrapped
            np.moveaxis(found, c, 0)[-1] = 0
        return found

    fused, coarse = evaluate(rule, around, box.shape, box.periodic, factors, finest)
    halo.destroy()
    new = [c[coarse_box.own].copy() for c in coarse]
    return DistributedLevel(part, box, fused, factors, times, below, coarse_box), new.__getitem__


def evaluate(
    rule: Rule,
    channels: Channels,
    size: tuple[int, int, int],
    periodic: tuple[bool, bool, bool],
    factors: tuple[int, int, int],
    finest: bool,
) -> tuple[FusedLevel, list[Array]]:
    """Return a level and the seven numbers of the next; a network by the kernels that a single process uses."""
    if not isinstance(rule, CoefficientNetwork):
        op = stencil_of_fields(np.stack([channels(c) for c in range(7)], -1), periodic)
        with torch.no_grad():
            s, transfer, coarse = rule(op, factors)
            h = quantise(Hierarchy([Level(op, s, transfer)], NOTHING, torch.zeros(1, 1)), torch.float32)
        level = h.levels[0]
        made = FusedLevel.from_tensors(level.op, level.s, level.transfer)
        return made, [v.numpy() for v in (*coarse.links, *coarse.ground, coarse.shift)]
    damping, weight, link, ground = pack_network(rule)
    grid = Grid.empty(size, periodic)
    for c, target in enumerate((*grid.w, *grid.ground, grid.shift)):
        target[:] = channels(c).ravel()
    grid.sum_diagonal(cover_grid(grid.size))
    kept = SetupLevel(grid, factors, None, finest, object)
    (fused,) = kept.refresh(grid, ((damping, weight), (link, ground)), None, None, None, False, 1)
    below = kept.next_grid
    return fused, [v.reshape(below.size) for v in (*below.w, *below.ground, below.shift)]


def stencil_of_fields(fields: Array, periodic: tuple[bool, bool, bool]) -> Stencil:
    """View seven numbers per cell as a stencil in fp32."""
    parts = [torch.from_numpy(np.ascontiguousarray(fields[..., k], dtype=np.float32)) for k in range(7)]
    return Stencil(parts[:3], parts[3:6], parts[6], periodic)


def fields_of(fields: Array) -> Channels:
    """Return the seven arrays by number."""
    return lambda c: fields[..., c]


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
        fused, coarse = evaluate(rule, fields_of(fields), size, periodic, factors, not levels and reduction == 1)
        levels += fused.repeated(visits(reduction, ladder.varying))
        fields, reduction = np.stack(coarse, -1), reduction * math.prod(factors)
        size = coarse[0].shape
    return FusedCycle(levels, size, generalised_inverse(stencil_of_fields(fields, periodic)).float())
