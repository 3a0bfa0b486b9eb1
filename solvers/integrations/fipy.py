"""FiPy: a solver for ``equation.solve(var, solver=...)`` and ``sweep``, with FiPy's SciPy suite.

    equation.solve(var=phi, solver=KrylearnSolver(tolerance=1e-10))

Diffusion, transient and implicit source terms on `Grid2D` and `Grid3D`, with any dx, dy, dz. With convection the matrix
is not symmetric, and SciPy's own solver is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from .scipy_functions import krylearn_cg


@cache
def make_solver_class() -> type:
    """Make `KrylearnSolver`, one of FiPy's ``LinearCGSolver``.

    Examples
    --------
    >>> make_solver_class()(tolerance=1e-10)                                    # doctest: +SKIP
    """
    from fipy.solvers.scipy import LinearCGSolver

    class KrylearnSolver(LinearCGSolver):
        """Conjugate gradients with multigrid on FiPy's grid; arguments as of every solver of FiPy."""

        solveFnc = staticmethod(krylearn_cg)  # noqa: N815, FiPy's name

        def __init__(self, *arguments: Any, precon: Any = None, **options: Any) -> None:
            super().__init__(*arguments, precon=precon, **options)

    return KrylearnSolver


def __getattr__(name: str) -> Any:
    if name == "KrylearnSolver":
        return make_solver_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
