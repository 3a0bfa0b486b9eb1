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
        self.part = part
        self.vector: Any = None
        wanted = part.numbers(box).ravel().astype(PETSc.IntType)
        index = PETSc.IS().createBlock(dof, wanted, comm=PETSc.COMM_SELF)
        self.local = PETSc.Vec().createSeq(wanted.size * dof, comm=PETSc.COMM_SELF)
        layout = make_vector(part, dof)
        self.scatter = PETSc.Scatter().create(layout, index, self.local, None)
        index.destroy()
        layout.destroy()

    def __call__(self, own: Array) -> Array:
        """Return the box of an array over own cells; a view that the next call overwrites."""
        if self.vector is None:  # callers who have a vector need none of ours
            self.vector = make_vector(self.part, self.dof)
        self.vector.setArray(to_rank_order(own).ravel())
        return self.from_vector(self.vector)

    def free_vector(self) -> None:
        """Free the memory that a call on an array over own cells has taken."""
        if self.vector is not None:
            self.vector.destroy()
            self.vector = None

    def from_vector(self, v: Any) -> Array:
        """Return the box of a PETSc vector; a view that the next call overwrites."""
        self.scatter.scatter(v, self.local)
        return self.local.getArray().reshape(*self.shape, *([self.dof] if self.dof > 1 else []))

    def destroy(self) -> None:
        """Free PETSc's memory."""
        self.free_vector()
        for each in (self.scatter, self.local):
            each.destroy()


def bring(part: Partition, box: Box, own: Array) -> Array:
    """Exchange once: return the box of an array over own cells, in its dtype."""
    halo = Halo(part, box, own.shape[3] if own.ndim == 4 else 1)
    values = halo(own).astype(own.dtype)
    halo.destroy()
    return values


__all__ = ["Halo", "bring", "from_rank_order", "make_vector", "to_rank_order"]
