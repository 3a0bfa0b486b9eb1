"""PETSc's conjugate gradients around a preconditioner that options describe: what all rivals out of PETSc share."""

from __future__ import annotations

from typing import Any

import numpy as np

from .loops import MAXITER, LibraryLoop


def petsc_loop(
    matrix: Any, options: dict[str, Any], *, unknown: np.ndarray | None = None, da: Any = None
) -> LibraryLoop:
    """Set PETSc's `cg` up, stopped by the unpreconditioned norm, and return it as a loop.

    Parameters
    ----------
    matrix : PETSc Mat on one rank, its null space attached
    options : PETSc options without a prefix, `pc_type` among them
    unknown : (n,) mask of the rows that b and x are about, where the matrix has more rows than the system; None: all
    da : DMDA that the preconditioner coarsens, if it is one that does
    """
    from petsc4py import PETSc

    ksp = PETSc.KSP().create(comm=PETSc.COMM_SELF)
    ksp.setOptionsPrefix(f"krylearn_{options['pc_type']}_")
    if da is not None:
        ksp.setDM(da)
        ksp.setDMActive(False)
    database = PETSc.Options(ksp.getOptionsPrefix())
    for name, value in options.items():
        database[name] = value
    ksp.setOperators(matrix)
    ksp.setType("cg")
    ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
    ksp.setConvergenceHistory(MAXITER + 1, reset=True)
    ksp.setFromOptions()
    ksp.setUp()

    def solve(b: np.ndarray, rtol: float) -> np.ndarray:
        if unknown is not None:
            whole = np.zeros(unknown.size)
            whole[unknown] = b
            b = whole
        x = np.zeros_like(b)
        ksp.setTolerances(rtol=rtol, atol=0.0, max_it=MAXITER)
        vectors = (PETSc.Vec().createWithArray(v, comm=PETSc.COMM_SELF) for v in (b, x))
        ksp.solve(*vectors)
        return x if unknown is None else x[unknown]

    return LibraryLoop(solve, lambda: (ksp.getConvergenceHistory(), ksp.getIterationNumber()), keep=(matrix, da))
