"""OpenPNM: a solver for ``algorithm.run(solver=...)`` on cubic networks.

    fickian.run(solver=KrylearnSolver(tol=1e-10))

Networks that are no grid go to `cg` with PyAMG, as OpenPNM's own PyAMG solver would.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .scipy_functions import prepared_for


@cache
def make_solver_class() -> type:
    """Make `KrylearnSolver`, one of OpenPNM's ``IterativeSolver``.

    Examples
    --------
    >>> make_solver_class()(tol=1e-10).solve(A, b)                              # doctest: +SKIP
    """
    from openpnm.solvers import IterativeSolver

    class KrylearnSolver(IterativeSolver):
        """Conjugate gradients with multigrid; ``tol`` is relative to the right-hand side, as in OpenPNM."""

        def solve(self, A: Any, b: Any, **_: Any) -> tuple[Any, Any]:
            """Return x and SciPy's number: 0 if converged."""
            return prepared_for(A).solve(np.asarray(b, dtype=np.float64), self.tol)

    return KrylearnSolver


def __getattr__(name: str) -> Any:
    if name == "KrylearnSolver":
        return make_solver_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
