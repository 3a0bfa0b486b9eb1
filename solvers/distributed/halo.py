"""Exchange between ranks: own cells to a box, or to the whole grid, by one of PETSc's scatters."""

from __future__ import annotations

from typing import Any

import numpy as np

from .partition import Array, Box, Partition, from_rank_order, to_rank_order
from .petsc_library import load_petsc


def make_vector(part: Partition, dof: int = 1) -> Any:
    """Return a PETSc vector with `dof` numbers per cell."""
    cells = int(np.prod(part.size, dtype=np.int64))
    return load_petsc().Vec().createMPI((part.count * dof, cells * dof), bsize=dof, comm=part.comm)


class Halo:
    """Brings `dof` numbers per cell from their owners to a box, for a call on all ranks."""

    def __init__(self, part: Partition, box: Box, dof: int = 1) -> None:
        PETSc = load_petsc()
        self.shape, self.dof = box.shape, dof
        self.vector = make_vector(part, dof)
        wanted = part.numbers(box).ravel().astype(PETSc.IntType)
        index = PETSc.IS().createBlock(dof, wanted, comm=PETSc.COMM_SELF)
        self.local = PETSc.Vec().createSeq(wanted.size * dof, comm=PETSc.COMM_SELF)
        self.scatter = PETSc.Scatter().create(self.vector, index, self.local, None)
        index.destroy()

    def __call__(self, own: Array) -> Array:
        """Return the box of an array over own cells; a view that the next call overwrites."""
        self.vector.setArray(to_rank_order(own).ravel())
        return self.from_vector(self.vector)

    def from_vector(self, v: Any) -> Array:
        """Return the box of a PETSc vector; a view that the next call overwrites."""
        self.scatter.scatter(v, self.local)
        return self.local.getArray().reshape(*self.shape, *([self.dof] if self.dof > 1 else []))

    def destroy(self) -> None:
        """Free PETSc's memory."""
        for each in (self.scatter, self.vector, self.local):
            each.destroy()


def bring(part: Partition, box: Box, own: Array) -> Array:
    """Exchange once: return the box of an array over own cells, in its dtype."""
    halo = Halo(part, box, own.shape[3] if own.ndim == 4 else 1)
    values = halo(own).astype(own.dtype)
    halo.destroy()
    return values


__all__ = ["Halo", "bring", "from_rank_order", "make_vector", "to_rank_order"]
