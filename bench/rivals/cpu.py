"""Rivals on the CPU: how each is set up. SciPy, PyAMG, PETSc, AMGCL, CHOLMOD, and the fast transforms."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse.linalg as spla

from .loops import MAXITER, Direct, LibraryLoop, System, UnsuitedError
from .petsc import one_rank

GAMG = {
    "pc_type": "gamg",
    "pc_gamg_type": "agg",
    "pc_gamg_agg_nsmooths": 1,
    "pc_gamg_threshold": 0.01,  # the manual's for scalar problems in 3D: 0 to 0.08
    "mg_levels_ksp_type": "chebyshev",
    "mg_levels_pc_type": "jacobi",
    "mg_levels_ksp_max_it": 2,
}
BOOMERAMG = {  # hypre's manual for 3D diffusion; symmetric smoothing, as conjugate gradients want it
    "pc_type": "hypre",
    "pc_hypre_type": "boomeramg",
    "pc_hypre_boomeramg_coarsen_type": "HMIS",
    "pc_hypre_boomeramg_interp_type": "ext+i",
    "pc_hypre_boomeramg_P_max": 4,
    "pc_hypre_boomeramg_agg_nl": 1,
    "pc_hypre_boomeramg_relax_type_all": "symmetric-SOR/Jacobi",
}
LARGEST_3D = 300_000  # unknowns; SuperLU's set-up grows as n^1.8, CHOLMOD's as n^2.1: 30 s at 64³, 7 minutes at 96³
AMGCL = {"coarsening.type": "smoothed_aggregation", "relax.type": "spai0"}


def _refuse_large(system: System, what: str) -> None:
    """Refuse what would take minutes, since a factorisation cannot be interrupted."""
    n = system.matrix.shape[0]
    if system.dimension == 3 and n > LARGEST_3D:
        raise UnsuitedError(f"{what} of {n:,} unknowns in 3D would take minutes; run up to {LARGEST_3D:,}")


def plain(system: System) -> None:
    """No preconditioner."""


def jacobi(system: System) -> spla.LinearOperator:
    """Divide by the diagonal."""
    inverse = 1 / system.matrix.diagonal()
    return spla.LinearOperator(system.matrix.shape, matvec=lambda r: inverse * r.ravel(), dtype=system.matrix.dtype)


def incomplete_lu(system: System) -> spla.LinearOperator:
    """SuperLU's incomplete factors in symmetric mode: symmetric up to what is dropped, as conjugate gradients want it.

    The default dropping by area makes them unsymmetric, and conjugate gradients stall; plain thresholds do not.
    """
    _refuse_large(system, "an incomplete factorisation")
    factors = spla.spilu(
        system.matrix.tocsc(), drop_tol=1e-3, fill_factor=20, drop_rule="basic", permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0, options={"SymmetricMode": True},
    )  # fmt: skip
    return spla.LinearOperator(system.matrix.shape, matvec=factors.solve, dtype=system.matrix.dtype)


def smoothed_aggregation(system: System) -> spla.LinearOperator:
    """PyAMG's, as shipped."""
    import pyamg

    return pyamg.smoothed_aggregation_solver(system.matrix).aspreconditioner()


def ruge_stuben(system: System) -> spla.LinearOperator:
    """PyAMG's, as shipped."""
    import pyamg

    return pyamg.ruge_stuben_solver(system.matrix).aspreconditioner()


def petsc_gamg(system: System, make: Callable[..., Any] = one_rank) -> Any:
    """PETSc's smoothed aggregation under its own conjugate gradients."""
    return make(system, GAMG)


def petsc_boomeramg(system: System, make: Callable[..., Any] = one_rank) -> Any:
    """BoomerAMG of hypre through PETSc, under PETSc's conjugate gradients."""
    threshold = 0.5 if system.dimension == 3 else 0.25
    return make(system, BOOMERAMG | {"pc_hypre_boomeramg_strong_threshold": threshold})


def amgcl_runs_on() -> str:
    """Look whether this build of pyamgcl was linked with OpenMP, as its set-up script does where the compiler can."""
    spec = importlib.util.find_spec("pyamgcl")
    folders = spec.submodule_search_locations if spec is not None else None
    libraries = [file for folder in folders or () for file in Path(folder).glob("pyamgcl_ext*")]
    parallel = any(b"GOMP_parallel" in code or b"__kmpc_fork_call" in code for code in map(Path.read_bytes, libraries))
    return "{n} threads" if parallel else "1 thread"


def amgcl(system: System) -> LibraryLoop:
    """AMGCL's smoothed aggregation with its sparse approximate inverse smoother, under its conjugate gradients."""
    import pyamgcl

    hierarchy = pyamgcl.amg(system.matrix, AMGCL)
    made: dict[float, Any] = {}  # its loop holds its tolerance

    def solve(b: np.ndarray, rtol: float) -> np.ndarray:
        if rtol not in made:
            made.clear()
            made[rtol] = pyamgcl.solver(hierarchy, {"type": "cg", "tol": rtol, "maxiter": MAXITER})
        return made[rtol](b)

    return LibraryLoop(solve, lambda: ([], int(next(iter(made.values())).iters)), keep=hierarchy)


def cholesky(system: System) -> Direct:
    """CHOLMOD's sparse factors: no iteration; memory grows faster than the grid."""
    from sksparse import cholmod

    if system.constants_in_kernel:
        raise UnsuitedError("the matrix is singular; a Cholesky factor needs a definite one")
    _refuse_large(system, "a Cholesky factorisation")
    matrix = system.matrix.tocsc()
    if hasattr(cholmod, "cho_factor"):  # scikit-sparse 0.5 and later
        return Direct(cholmod.cho_factor(matrix).solve)
    return Direct(cholmod.cholesky(matrix))


def transforms(system: System) -> Direct:
    """Fast cosine, sine and Fourier transforms, exact where they apply: full boxes with constant coefficients."""
    from krylearn.pde.transforms import is_box, solve_box

    if system.A is None or not is_box(system.A):
        raise UnsuitedError("fast transforms need a full box with constant coefficients")
    A = system.A
    return Direct(lambda b: solve_box(A, b, workers=-1))
