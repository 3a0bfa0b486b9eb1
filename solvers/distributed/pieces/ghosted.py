"""The cycle over pieces by krylearn's kernels: the finest level on every rank's box, the graph below on every rank."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...kernels.cpu.compile import threads_for
from ...kernels.cpu.graph_levels import NO_WEIGHTS, GridStage, GridTransfer
from ...kernels.cpu.smoothing import smooth, smooth_from_zero
from ...kernels.cpu.transfer import residual_rows
from ...multigrid.preconditioner import power_of_two
from ..halo import Halo
from ..partition import Array, Partition, from_rank_order
from ..petsc_library import load_petsc
from .first_graph import FirstGraph, narrow_box
from .gathered_graph import GatheredGraph

PAD = 4
"""Cells around own ones: two steps from zero reach one cell, the residual two, its restriction three."""


class GhostedPieces:
    """The preconditioner z = M r between PETSc vectors numbered as the partition does."""

    def __init__(self, part: Partition, graph: FirstGraph, below: GatheredGraph, exponent: int) -> None:
        box, at = narrow_box(part, graph.box, PAD)
        self.comm, self.size, self.exponent, self.below, self.own = part.comm, part.size, exponent, below, box.own
        self.stage = grid_stage(graph, box.periodic, at, below.kind)
        self.halo = Halo(part, box)
        # restriction adds up what own cells give, over the pieces that have some here
        cells = self.stage.transfer.part.view(np.int32)[box.own]
        self.here = np.unique(cells[cells < below.m])
        own = np.full(box.shape, self.here.size, np.int32)
        own[box.own] = np.where(cells < below.m, np.searchsorted(self.here, cells), self.here.size)
        t = self.stage.transfer
        self.down = GridTransfer(own, t.low, t.high, float(t.unit), self.here.size, slabs=1)
        self.b, self.x, self.y, self.z = np.zeros((4, *box.shape), below.kind)
        self.sums, self.coarse = (
            np.empty(int(self.down.offsets[-1]), below.kind),
            np.empty(self.here.size + 1, below.kind),
        )

    def apply(self, r: Any, z: Any) -> None:
        """Apply to a PETSc vector: scaled by a power of two, one cycle, scaled back. Collective."""
        exponent = power_of_two(r.norm(load_petsc().NormType.INFINITY))
        scale = math.ldexp(1.0, min(-exponent, 1000))
        np.multiply(self.halo.from_vector(r), scale, out=self.b, casting="same_kind")
        with threads_for(self.b.size):
            x = self._correct()[self.own]
        np.multiply(x, 1 / scale, out=from_rank_order(z.getArray(), x.shape))
        if self.exponent:
            z.scale(math.ldexp(1.0, -self.exponent))

    def _correct(self) -> Array:
        """Run the cycle for `b` on the box; return x, right at own cells."""
        from mpi4py import MPI

        v, b, x, y, z = self.stage, self.b, self.x, self.y, self.z
        first, second = v.omega
        smooth_from_zero(v.diag, v.w, v.damping, b, x, first, second)
        residual_rows(v.diag, v.w, x, b, NO_WEIGHTS, (1, 1, 1), False, y)
        self.down.restrict(y, z, self.sums, self.coarse)
        right = self.below.b[: self.below.m]
        right[:] = 0
        right[self.here] = self.coarse[:-1]
        self.comm.Allreduce(MPI.IN_PLACE, right)  # a piece of several ranks has cells on each
        v.transfer.prolong_add(self.below.correct(), z, x)
        smooth(v.diag, v.w, v.damping, x, b, y, second)
        smooth(v.diag, v.w, v.damping, y, b, x, first)
        return x

    def view(self, viewer: Any) -> None:
        """Describe the levels."""
        size = " x ".join(map(str, self.size))
        viewer.printfASCII(f"  krylearn: {size} on every rank's box, cells joined to {self.below.m} pieces\n")
        self.below.view(viewer)

    def destroy(self) -> None:
        """Free PETSc's memory."""
        self.halo.destroy()


def grid_stage(
    graph: FirstGraph, wraps: tuple[bool, bool, bool], at: tuple[Array, Array, Array], kind: Any
) -> GridStage:
    """Return the finest level on a part of the box that it was set up on."""
    where: tuple[Any, ...] = np.ix_(*at)
    diag = graph.finest.diag[where].astype(kind)
    damping = np.where(diag > 0, 1 / np.where(diag > 0, diag, 1), 0).astype(kind)
    links, low, high = (np.ascontiguousarray(v[:, *where]) for v in (graph.finest.links, graph.low, graph.high))
    for d, wrap in enumerate(wraps):
        if not wrap:  # the kernels read rows as if they wrapped
            for values, end in ((links, -1), (high, -1), (low, 0)):
                np.moveaxis(values[d], d, 0)[end] = 0
    part = np.ascontiguousarray(graph.part[where])
    transfer = GridTransfer(part, low, high, graph.unit, graph.level.n, slabs=1)
    return GridStage(tuple(w.astype(kind) for w in links), diag, damping, transfer)
