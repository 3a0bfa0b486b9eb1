"""The product with the operator on own cells by krylearn's kernel in double precision: a PETSc matrix of type python.

It reads the links once and no column numbers: 40 bytes per cell instead of the 84 of an assembled matrix, and half the
memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.cpu.compile import threads_for
from ..kernels.cpu.smoothing import apply_dot
from .builders import Fields, previous_cells
from .halo import Halo
from .partition import Partition, from_rank_order, to_rank_order
from .petsc_library import load_petsc


class StencilProduct:
    """Links and diagonal on own cells and one layer around them; `matrix` is what PETSc multiplies by.

    Attributes
    ----------
    links : (own cells, 3), a view;  diag : own cells, a view
    """

    def __init__(self, part: Partition, fields: Fields) -> None:
        self.part, box = part, part.ghosted()
        self.own, self.halo = box.own, Halo(part, box)
        self.w = np.zeros((3, *box.shape))
        self.full_diag = np.zeros(box.shape)
        diag = fields.shift.copy()
        for d, axis in enumerate(box.axes):
            self.w[d] = self.halo(fields.links[..., d])
            if axis.stop < len(axis.cells):  # links out of the box: the kernel reads rows as if they wrapped
                np.moveaxis(self.w[d], d, 0)[-1] = 0
            diag += fields.ground[..., d]
            diag += self.w[d][box.own]
            diag += previous_cells(self.w[d], box, d)
        self.halo.free_vector()
        self.full_diag[box.own] = diag
        self.links, self.diag = np.moveaxis(self.w[:, *box.own], 0, -1), self.full_diag[box.own]
        self.y, self.sums = np.zeros(box.shape), np.zeros(box.shape[0] * box.shape[1])
        cells = math.prod(part.size)
        self.matrix = load_petsc().Mat().createPython(((part.count, cells),) * 2, context=self, comm=part.comm)
        self.matrix.setUp()

    def mult(self, matrix: Any, x: Any, y: Any) -> None:
        """Compute y = A x; rows without an unknown give 0."""
        v = self.halo.from_vector(x)
        with threads_for(v.size):
            apply_dot(self.full_diag, tuple(self.w), v, self.y, self.sums)
        from_rank_order(y.getArray(), self.part.internal_shape)[...] = self.y[self.own]

    multTranspose = mult  # noqa: N815  the names that PETSc calls

    def getDiagonal(self, matrix: Any, diag: Any) -> None:  # noqa: N802
        """Give the diagonal, 1 in rows without an unknown."""
        diag.setArray(to_rank_order(np.where(self.diag > 0, self.diag, 1.0)))

    def residual_norm(self, x: Any, b: Any, r: Any) -> float:
        """Return ‖b - A x‖ over all ranks; r is overwritten."""
        self.mult(None, x, r)
        r.aypx(-1.0, b)
        return float(r.norm())

    def destroy(self, matrix: Any = None) -> None:
        """Free PETSc's memory."""
        if self.matrix is not None and matrix is None:
            found, self.matrix = self.matrix, None
            found.destroy()
            self.halo.destroy()
