"""The cycle made of PETSc's own parts: PCMG over assembled matrices, compiled code and nothing else on its levels.

* Two damped Jacobi steps with (0.57, 1.4) s/diag are one Chebyshev polynomial of degree two of PETSc's, on the interval
  whose polynomial has the roots 1/0.57 and 1/1.4, preconditioned by the diagonal matrix diag/s.
* A level that is visited v times is v levels of PCMG joined by identity matrices.
* The levels of at most `gather` cells run on every rank (`gathered_levels`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..kernels.reference import OMEGA
from ..multigrid.hierarchy import Rule
from .gathered_levels import GatheredLevels
from .levels import DistributedLevel, Ladder
from .matrices import diagonal_matrix, level_damping, level_operator, level_prolongation
from .petsc_library import load_petsc

MIDDLE = (1 / OMEGA[0] + 1 / OMEGA[1]) / 2
HALF = (1 / OMEGA[0] - 1 / OMEGA[1]) / math.sqrt(2)  # the roots of T_2 are +- 1/sqrt(2)
INTERVAL = MIDDLE - HALF, MIDDLE + HALF


class AssembledCycle:
    """The preconditioner as a PETSc PC of type mg (or python where all levels are gathered).

    Parameters
    ----------
    A : PETSc matrix of the finest level, numbered as the partition does
    ladder : its levels;  rule : of the gathered ones
    """

    def __init__(self, A: Any, ladder: Ladder, rule: Rule) -> None:
        PETSc = load_petsc()
        self.gathered, self.owned = GatheredLevels(ladder, rule), []
        self.pc = pc = PETSc.PC().create(comm=ladder.part.comm)
        pc.setOperators(A, A)
        if not ladder.levels:
            pc.setType("python")
            pc.setPythonContext(self.gathered)
            pc.setUp()
            return
        pc.setType("mg")
        scale = math.ldexp(1.0, ladder.exponent)
        steps = [step for level in ladder.levels for step in self._visited(A, level, scale, level is ladder.levels[0])]
        pc.setMGLevels(len(steps) + 1)
        for k, (matrix, damping, transfer) in enumerate(steps):
            at = len(steps) - k  # PETSc counts from the coarsest
            set_smoother(pc.getMGSmoother(at), matrix, damping)
            pc.setMGInterpolation(at, transfer)
            pc.setMGRestriction(at, transfer)
        coarse = pc.getMGCoarseSolve()
        coarse.setType("preonly")
        # nobody multiplies by the operator of the gathered levels: its size and layout are all that PETSc asks for
        ones = diagonal_matrix(ladder.part, np.ones(ladder.part.internal_shape))
        self.owned.append(ones)
        coarse.setOperators(ones, ones)
        coarse.getPC().setType("python")
        coarse.getPC().setPythonContext(self.gathered)
        pc.setUp()

    def _visited(self, A: Any, level: DistributedLevel, scale: float, finest: bool) -> list[tuple[Any, Any, Any]]:
        """Return operator, damping and transfer for each visit of a level, fine to coarse."""
        matrix = A if finest else level_operator(level, scale)
        damping, down = level_damping(level, scale), level_prolongation(level)
        self.owned += [damping, down] + ([] if finest else [matrix])
        if level.visits == 1:
            return [(matrix, damping, down)]
        stays = diagonal_matrix(level.part, np.ones(level.part.internal_shape))
        self.owned.append(stays)
        return [(matrix, damping, stays)] * (level.visits - 1) + [(matrix, damping, down)]

    def apply(self, r: Any, z: Any) -> None:
        """Apply to a PETSc vector."""
        self.pc.apply(r, z)

    def view(self, viewer: Any) -> None:
        """Let PETSc describe all levels."""
        self.pc.view(viewer)

    def destroy(self) -> None:
        """Free PETSc's memory."""
        self.pc.destroy()
        for matrix in self.owned:
            matrix.destroy()
        self.gathered.destroy()


def set_smoother(ksp: Any, matrix: Any, damping: Any) -> None:
    """Let a KSP take two damped Jacobi steps; damping : a matrix with the diagonal diag / s."""
    PETSc = load_petsc()
    options, prefix = PETSc.Options(), f"krylearn_{id(ksp):x}_"
    ksp.setType("chebyshev")
    # petsc4py has no function for the interval; the option is taken back at once
    options[prefix + "ksp_chebyshev_eigenvalues"] = f"{INTERVAL[0]!r},{INTERVAL[1]!r}"
    ksp.setOptionsPrefix(prefix)
    ksp.setFromOptions()
    options.delValue(prefix + "ksp_chebyshev_eigenvalues")
    ksp.setOperators(matrix, damping)
    ksp.setTolerances(max_it=2)
    ksp.setNormType(PETSc.KSP.NormType.NONE)
    ksp.getPC().setType("jacobi")
