"""The graph levels of pieces, which every rank holds and cycles whole by the kernels of one process."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.cpu.graph_levels import GraphCycle, GraphStage, GridStage, GridTransfer
from ...multigrid.preconditioner import power_of_two
from ..partition import Array
from ..petsc_library import load_petsc
from .first_graph import FirstGraph


class GatheredGraph:
    """The map from residuals on all unknowns of the first graph to corrections there, the same on every rank."""

    def __init__(self, graph: FirstGraph, stages: list[GraphStage], inverse: Array, kind: Any) -> None:
        self.m, self.kind = graph.level.n, kind
        self.cycle = GraphCycle(empty_grid(self.m, kind), stages, inverse)
        work = self.cycle.work
        self.b = work.graphs[0][0][0] if work.graphs else work.right

    def correct(self) -> Array:
        """Return the correction for what is in `b`, (m + 1,) with a 0 at the end; the next call overwrites it."""
        self.b[self.m] = 0
        found = self.cycle.descend(self.cycle.work, 0, 0)
        found[self.m] = 0
        return found[: self.m + 1]

    def view(self, viewer: Any) -> None:
        """Describe the levels."""
        for line in self.cycle.describe()[1:]:
            viewer.printfASCII(f"  krylearn: gathered on every rank, {line}\n")


def empty_grid(m: int, kind: Any) -> GridStage:
    """Return a grid of one cell without unknown, for graphs whose grid is on several ranks."""
    none, stored = np.zeros((1, 1, 1), kind), np.float64 if kind == np.float64 else np.uint16
    low, high = np.zeros((2, 3, 1, 1, 1), stored)
    return GridStage((none, none, none), none, none, GridTransfer(np.full((1, 1, 1), m, np.int32), low, high, 1.0, m))


class GatheredSolve:
    """The gathered graph as a preconditioner of type python, for vectors that are cut by ranks."""

    def __init__(self, graph: FirstGraph, levels: GatheredGraph, comm: Any, exponent: int) -> None:
        PETSc = load_petsc()
        self.levels, self.order, self.exponent = levels, graph.order, exponent
        self.mine = slice(graph.first, graph.first + graph.count)
        self.inverse = np.empty_like(graph.order)  # the unknown, as one process numbers them, of each entry
        self.inverse[graph.order] = np.arange(graph.order.size)
        layout = PETSc.Vec().createMPI((graph.count, graph.level.n), comm=comm)
        self.scatter, self.everything = PETSc.Scatter.toAll(layout)
        layout.destroy()

    def apply(self, pc: Any, r: Any, z: Any) -> None:
        """Do what PETSc asks of a preconditioner."""
        self.scatter.scatter(r, self.everything)
        b = self.everything.getArray(readonly=True)
        exponent = power_of_two(float(np.abs(b).max(initial=0.0)))
        self.levels.b[: self.levels.m] = np.ldexp(b[self.order], -exponent)
        found = self.levels.correct()[self.inverse[self.mine]]
        z.setArray(np.ldexp(found.astype(np.float64), exponent - self.exponent))

    def view(self, pc: Any, viewer: Any) -> None:
        """Describe the levels."""
        self.levels.view(viewer)

    def destroy(self, pc: Any = None) -> None:
        """Free PETSc's memory."""
        self.scatter.destroy()
        self.everything.destroy()
