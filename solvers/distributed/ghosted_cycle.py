"""The cycle by krylearn's own kernels: every rank runs them on its box, in fp32, and asks its neighbours twice a level.

A box holds `PAD` cells around a rank's own. One exchange brings the right-hand side to the box; smoothing, residual and
restriction then lose one or two layers each, and what is left is right at own cells. A second exchange brings the
correction, and the two steps after it lose two layers more. The price is arithmetic on the cells around; what is saved
are the exchanges of every product, and the traffic of assembled matrices: bytes of a level are those of the serial
cycle.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.cpu import smoothing, transfer
from ..kernels.cpu.compile import threads_for
from ..kernels.cpu.cycle import FusedLevel
from ..multigrid.hierarchy import Rule
from ..multigrid.preconditioner import power_of_two
from .gathered_levels import GatheredLevels
from .halo import Halo
from .levels import DistributedLevel, Ladder
from .partition import Array, from_rank_order
from .petsc_library import load_petsc


class GhostedLevel:
    """One level: its visits, and the exchanges that bring cells of this level and of the next to the boxes."""

    def __init__(self, level: DistributedLevel) -> None:
        self.own, self.below_own = level.box.own, level.coarse_box.own
        self.visits: list[FusedLevel] = level.fused.repeated(level.visits)
        self.down = Halo(level.part, level.box)
        self.up = Halo(level.below, level.coarse_box)
        self.coarse = np.zeros(level.coarse_box.shape, np.float32)
        self.cells = level.fused.diag.size

    def destroy(self) -> None:
        """Free PETSc's memory."""
        self.down.destroy()
        self.up.destroy()


class GhostedCycle:
    """The preconditioner z = M r between PETSc vectors numbered as the partition does."""

    def __init__(self, ladder: Ladder, rule: Rule) -> None:
        self.exponent, self.bottom = ladder.exponent, GatheredLevels(ladder, rule)
        self.levels = [GhostedLevel(level) for level in ladder.levels]
        self.sizes = [level.part.size for level in ladder.levels]

    def apply(self, r: Any, z: Any) -> None:
        """Apply to a PETSc vector: scaled by a power of two, one cycle, scaled back. Collective."""
        if not self.levels:
            self.bottom.apply(None, r, z)
            return
        level = self.levels[0]
        exponent = power_of_two(r.norm(load_petsc().NormType.INFINITY))
        # multiplied in place: no array in double precision is made on the way in or out
        scale = math.ldexp(1.0, min(-exponent, 1000))
        np.multiply(level.down.from_vector(r), scale, out=level.visits[0].b, casting="same_kind")
        with threads_for(level.cells):
            x = self._descend(0, 0)[level.own]
        np.multiply(x, 1 / scale, out=from_rank_order(z.getArray(), x.shape))
        if self.exponent:
            z.scale(math.ldexp(1.0, -self.exponent))

    def _descend(self, l: int, visit: int) -> Array:
        """Run the cycle from a visit of a level on, whose b is there on the box; return x, right at own cells."""
        level = self.levels[l]
        v = level.visits[visit]
        first, second = v.omega
        smoothing.smooth_from_zero(v.diag, v.w, v.sd, v.b, v.x, first, second)
        transfer.residual_rows(v.diag, v.w, v.x, v.b, v.a, v.factors, v.periodic_z, v.t)
        if not v.identity_transfer:
            transfer.restrict_rows(v.t, v.a, v.factors, v.sources[0], v.sources[1], level.coarse)
            level.coarse[...] = level.up(self._correct_below(l, level.coarse[level.below_own]))
            correction = level.coarse
        else:
            b = level.visits[visit + 1].b  # the same memory as v.t
            b[...] = level.down(v.t[level.own])
            correction = level.down(self._descend(l, visit + 1)[level.own]).astype(np.float32)
        transfer.prolong_add(correction, v.a, v.sd, v.factors, v.outer[0], v.outer[1], v.periodic_z, v.x)
        smoothing.smooth(v.diag, v.w, v.sd, v.x, v.b, v.y, second)
        smoothing.smooth(v.diag, v.w, v.sd, v.y, v.b, v.x, first)
        return v.x

    def _correct_below(self, l: int, b: Array) -> Array:
        """Return the correction of the next level, at own cells, for its b there."""
        if l + 1 == len(self.levels):
            return self.bottom.correct(b)
        level = self.levels[l + 1]
        level.visits[0].b[...] = level.down(b)
        return self._descend(l + 1, 0)[level.own]

    def view(self, viewer: Any) -> None:
        """Describe the levels."""
        for size, level in zip(self.sizes, self.levels, strict=True):
            times = f", {len(level.visits)} times" if len(level.visits) > 1 else ""
            viewer.printfASCII(f"  krylearn: {' x '.join(map(str, size))} on every rank's box{times}\n")
        self.bottom.view(None, viewer)

    def destroy(self) -> None:
        """Free PETSc's memory."""
        for level in self.levels:
            level.destroy()
        self.bottom.destroy()
