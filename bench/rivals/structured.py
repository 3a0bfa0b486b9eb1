"""Rivals that know the grid: hypre's PFMG and SMG and PETSc's multigrid, on a DMDA, under PETSc's conjugate gradients.

They take the system as a full box: a cell without an unknown is a row with 1 on its diagonal and nothing else. They run
on one rank; `NUMBA_NUM_THREADS=1` gives ours one thread, for a comparison at equal width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from .loops import LibraryLoop, System, UnsuitedError
from .petsc import petsc_loop

# hypre's manual offers two sides: red-black Gauss-Seidel with coarse operators of seven points is the cheapest,
# weighted Jacobi with Galerkin operators (the default) the one that closed boxes and walls do not break
PFMG = {"pc_type": "pfmg", "pc_pfmg_relax_type": "symmetric-Red/Black-Gauss-Seidel", "pc_pfmg_rap_type": "non-Galerkin"}
PFMG_JACOBI = {"pc_type": "pfmg", "pc_pfmg_relax_type": "Weighted-Jacobi", "pc_pfmg_rap_type": "Galerkin"}
SMG = {"pc_type": "smg"}
PCMG = {
    "pc_type": "mg",
    "pc_mg_galerkin": "both",
    "mg_levels_ksp_type": "chebyshev",
    "mg_levels_pc_type": "jacobi",
    "mg_levels_ksp_max_it": 2,
}
COARSEST = 8  # cells along an axis below which PCMG does not halve any more


def pfmg(system: System) -> LibraryLoop:
    """Semicoarsening multigrid of hypre, as cheap to set up as it can be."""
    return _on_box(system, PFMG, "hyprestruct")


def pfmg_jacobi(system: System) -> LibraryLoop:
    """Semicoarsening multigrid of hypre as its manual has it by default: weighted Jacobi, Galerkin coarse operators."""
    return _on_box(system, PFMG_JACOBI, "hyprestruct")


def smg(system: System) -> LibraryLoop:
    """Semicoarsening multigrid of hypre with plane smoothing: more robust, and dearer."""
    return _on_box(system, SMG, "hyprestruct")


def pcmg(system: System) -> LibraryLoop:
    """Geometric multigrid of PETSc for cell-centred grids (Q0, as in its tutorials), Galerkin, Chebyshev-Jacobi 2."""
    return _on_box(system, PCMG, "aij")


def _on_box(system: System, options: dict[str, Any], matrix_type: str) -> LibraryLoop:
    """Hand the system over as a matrix on a DMDA, our axes in reverse: the first runs fastest there, the last here."""
    from petsc4py import PETSc

    A = system.A
    if A is None:
        raise UnsuitedError("structured multigrid needs a grid, and nothing is known of one")
    if any(kinds[0] == "periodic" for kinds in A.boundary):
        raise UnsuitedError("periodic axes are not handed to the structured rivals")
    unknown = np.asarray(A.unknown).ravel()
    full = (sp.csr_array(A.matrix()) + sp.diags_array((~unknown).astype(float))).tocsr()
    full.sort_indices()
    sizes = tuple(reversed(A.grid_shape))
    da = PETSc.DMDA().create(sizes=sizes, dof=1, stencil_width=1, stencil_type="star", comm=PETSc.COMM_SELF)
    da.setMatType(matrix_type)
    da.setInterpolationType(PETSc.DMDA.InterpolationType.Q0)  # cells: an axis of n is refined from n / 2
    matrix = da.createMatrix()
    matrix.setValuesLocalIJV(full.indptr.astype(np.int32), full.indices.astype(np.int32), full.data)
    matrix.assemble()
    if system.constants_in_kernel:
        kernel = PETSc.Vec().createWithArray(unknown / np.sqrt(unknown.sum()), comm=PETSc.COMM_SELF)
        matrix.setNullSpace(PETSc.NullSpace().create(vectors=[kernel], comm=PETSc.COMM_SELF))
    if options["pc_type"] != "mg":
        return petsc_loop(matrix, options, unknown=unknown)
    return petsc_loop(matrix, options | {"pc_mg_levels": _levels(A.grid_shape)}, unknown=unknown, da=da)


def _levels(shape: tuple[int, ...]) -> int:
    """Count how often every axis can be halved, and one."""
    levels, cells = 1, [n for n in shape if n > 1]
    while all(n % 2 == 0 and n > COARSEST for n in cells):
        levels, cells = levels + 1, [n // 2 for n in cells]
    return levels
