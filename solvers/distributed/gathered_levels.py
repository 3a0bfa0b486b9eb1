"""The levels too small to be worth several ranks: every rank holds them whole and runs the serial fused cycle."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..multigrid.hierarchy import Rule
from ..multigrid.preconditioner import power_of_two
from .halo import Halo
from .levels import Ladder, gathered_cycle
from .partition import Array, from_rank_order, to_rank_order


class GatheredLevels:
    """A preconditioner of type python for PETSc: bring b to every rank, run the cycle in fp32, keep the own part."""

    def __init__(self, ladder: Ladder, rule: Rule) -> None:
        self.part = ladder.part
        box = self.part.whole()
        self.cycle, self.factor, self.own = gathered_cycle(ladder, rule), -ladder.exponent, box.own
        self.halo = Halo(self.part, box)

    def correct(self, own: Array) -> Array:
        """Return the correction at own cells for scaled residuals there. Collective."""
        b = self.halo(own)
        exponent = power_of_two(float(np.abs(b).max(initial=0.0)))
        z = self.cycle(np.ldexp(b, -exponent).astype(np.float32))
        return np.ldexp(z[self.own].astype(np.float64), exponent)

    def apply(self, pc: Any, r: Any, z: Any) -> None:
        """Do what PETSc asks of a preconditioner."""
        own = from_rank_order(r.getArray(readonly=True), self.part.internal_shape)
        z.setArray(to_rank_order(np.ldexp(self.correct(own), self.factor)))

    def view(self, pc: Any, viewer: Any) -> None:
        """Describe the levels."""
        sizes = " -> ".join(" x ".join(map(str, v.size)) for v in self.cycle.levels if not v.identity_transfer)
        bottom = " x ".join(map(str, self.cycle.bottom_b.shape))
        viewer.printfASCII(f"  krylearn: gathered on every rank, {sizes} -> {bottom} inverted\n")

    def destroy(self, pc: Any = None) -> None:
        """Free PETSc's memory."""
        self.halo.destroy()
