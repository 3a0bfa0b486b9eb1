"""SimPEG and discretize: a solver class in the way of pymatsolver.

    simulation = dc.Simulation3DNodal(mesh, ..., solver=KrylearnSolver)

Every source is a column; they share what was found out about the matrix.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..front_door.border import prepare
from ..krylov.outcome import ConvergenceError


@cache
def make_solver_class() -> type:
    """Make `KrylearnSolver`, a class of pymatsolver's ``Base``: ``KrylearnSolver(A, rtol=1e-10, shape=None)``.

    Examples
    --------
    >>> make_solver_class()(A) @ b                                              # doctest: +SKIP
    """
    from pymatsolver.solvers import Base

    class KrylearnSolver(Base):
        """Conjugate gradients with multigrid on the mesh of a symmetric positive definite matrix.

        A : matrix;  rtol : relative residual of each right-hand side;  shape : of the mesh, None: found in the pattern
        Raises ConvergenceError where rtol is not met, ValueError for a matrix that is not symmetric.
        """

        def __init__(self, A: Any, rtol: float = 1e-10, shape: Any = None, **options: Any) -> None:
            options.setdefault("is_symmetric", True)
            options.setdefault("is_hermitian", True)
            options.setdefault("is_positive_definite", True)
            super().__init__(A, **options)
            self.rtol = rtol
            self.prepared = prepare(A, shape)

        def _solve_single(self, rhs: Any) -> Any:
            x, info = self.prepared.solve(np.ascontiguousarray(rhs, dtype=np.float64).reshape(-1), self.rtol)
            if info:
                raise ConvergenceError(info, x)
            return x

        def _solve_multiple(self, rhs: Any) -> Any:
            return np.stack([self._solve_single(column) for column in np.asarray(rhs).T], axis=1)

        def transpose(self) -> Any:
            """Return the solver itself: A is symmetric."""
            return self

        @property
        def T(self) -> Any:
            """The solver itself: A is symmetric."""
            return self

    return KrylearnSolver


def __getattr__(name: str) -> Any:
    if name == "KrylearnSolver":
        return make_solver_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
