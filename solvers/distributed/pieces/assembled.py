"""The cycle over pieces made of PETSc's own parts: PCMG with the assembled prolongation to the graph below."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from ..assembled_cycle import set_smoother
from ..partition import Array, Partition, to_rank_order
from ..petsc_library import load_petsc
from .first_graph import FirstGraph, narrow_box
from .gathered_graph import GatheredGraph, GatheredSolve

PAD = 4
"""Cells around own ones that the rows of P reach: one per axis."""


class AssembledPieces:
    """The preconditioner as a PETSc PC of type mg.

    Parameters
    ----------
    A : PETSc matrix of the finest level, numbered as the partition does
    """

    def __init__(self, part: Partition, A: Any, graph: FirstGraph, below: GatheredGraph, exponent: int) -> None:
        PETSc = load_petsc()
        self.solve = GatheredSolve(graph, below, part.comm, exponent)
        self.transfer = prolongation(part, graph, self.solve.inverse)
        # nobody multiplies by the operator of the gathered levels: its size and layout are all that PETSc asks for
        ones = PETSc.Vec().createMPI((graph.count, graph.level.n), comm=part.comm)
        ones.set(1.0)
        self.ones = PETSc.Mat().createDiagonal(ones) if hasattr(PETSc.Mat, "createDiagonal") else diagonal_of(ones)
        ones.destroy()
        self.pc = pc = PETSc.PC().create(comm=part.comm)
        pc.setOperators(A, A)
        pc.setType("mg")
        pc.setMGLevels(2)
        set_smoother(pc.getMGSmoother(1), A, A)
        pc.setMGInterpolation(1, self.transfer)
        pc.setMGRestriction(1, self.transfer)
        coarse = pc.getMGCoarseSolve()
        coarse.setType("preonly")
        coarse.setOperators(self.ones, self.ones)
        coarse.getPC().setType("python")
        coarse.getPC().setPythonContext(self.solve)
        pc.setUp()

    def apply(self, r: Any, z: Any) -> None:
        """Apply to a PETSc vector."""
        self.pc.apply(r, z)

    def view(self, viewer: Any) -> None:
        """Let PETSc describe all levels."""
        self.pc.view(viewer)

    def destroy(self) -> None:
        """Free PETSc's memory."""
        self.pc.destroy()
        self.transfer.destroy()
        self.ones.destroy()
        self.solve.destroy()


def diagonal_of(v: Any) -> Any:
    """Return an AIJ matrix with a vector on its diagonal."""
    PETSc = load_petsc()
    first, last = v.getOwnershipRange()
    rows, columns = np.arange(last - first + 1), np.arange(first, last)
    csr = rows.astype(PETSc.IntType), columns.astype(PETSc.IntType), v.getArray(readonly=True).copy()
    return PETSc.Mat().createAIJ((v.getSizes(), v.getSizes()), csr=csr, comm=v.comm)


def prolongation(part: Partition, graph: FirstGraph, inverse: Array) -> Any:
    """Return P = L_z L_y L_x E as a PETSc matrix; inverse : see `GatheredSolve`. Collective."""
    PETSc, m = load_petsc(), graph.level.n
    box, at = narrow_box(part, graph.box, PAD)
    where = np.ix_(*at)
    unknown = graph.part[where].ravel()
    cells = np.arange(unknown.size).reshape(box.shape)
    rows = np.flatnonzero(unknown < m)
    P = sp.csr_array((np.ones(rows.size), (rows, unknown[rows])), shape=(unknown.size, m))
    for d in range(3):
        low, high = (v[d][where].ravel() * float(graph.unit) for v in (graph.low, graph.high))
        before, after = (np.roll(cells, step, d).ravel() for step in (1, -1))  # across the ends of a box weights are 0
        flat = cells.ravel()
        column = np.concatenate([flat, before, after])
        mean = sp.csr_array((np.concatenate([1 - low - high, low, high]), (np.tile(flat, 3), column)))
        P = mean @ P
    own = P[to_rank_order(cells[box.own])]
    numbers = graph.order.astype(PETSc.IntType)[own.indices]
    csr = sp.csr_array((own.data, numbers, own.indptr), shape=own.shape)
    csr.eliminate_zeros()
    csr.sort_indices()
    parts = csr.indptr.astype(PETSc.IntType), csr.indices.astype(PETSc.IntType), csr.data
    size = (part.count, int(np.prod(part.size, dtype=np.int64))), (graph.count, m)
    return PETSc.Mat().createAIJ(size, csr=parts, comm=part.comm)
