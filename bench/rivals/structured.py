"""Rivals that know the grid: hypre's PFMG and SMG and PETSc's multigrid, on a DMDA, under PETSc's conjugate gradients.

They take the system as a full box: a cell without an unknown is a row with 1 on its diagonal and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .loops import System
from .petsc import one_rank

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


def pfmg(system: System, make: Callable[..., Any] = one_rank) -> Any:
    """Semicoarsening multigrid of hypre, as cheap to set up as it can be."""
    return make(system, PFMG, grid=True)


def pfmg_jacobi(system: System, make: Callable[..., Any] = one_rank) -> Any:
    """Semicoarsening multigrid of hypre as its manual has it by default: weighted Jacobi, Galerkin coarse operators."""
    return make(system, PFMG_JACOBI, grid=True)


def smg(system: System, make: Callable[..., Any] = one_rank) -> Any:
    """Semicoarsening multigrid of hypre with plane smoothing: more robust, and dearer."""
    return make(system, SMG, grid=True)


def pcmg(system: System, make: Callable[..., Any] = one_rank) -> Any:
    """Geometric multigrid of PETSc for cell-centred grids (Q0, as in its tutorials), Galerkin, Chebyshev-Jacobi 2."""
    return make(system, PCMG, grid=True)
