"""py-pde: Poisson's and Laplace's equations on Cartesian grids, with py-pde's calls.

    solution = solve_poisson_equation(field, bc)        # instead of pde.solve_poisson_equation

py-pde assembles its matrix and boundary values, and hands both to SciPy's `spsolve`; here krylearn's solver stands in.
"""

from __future__ import annotations

from typing import Any

from .scipy_functions import replaced


def solve_poisson_equation(rhs: Any, bc: Any, **options: Any) -> Any:
    """Solve as ``pde.solve_poisson_equation``: -laplace(u) = -rhs in py-pde's convention, to a residual of 1e-10.

    Examples
    --------
    >>> solve_poisson_equation(pde.ScalarField(grid, 1), {"value": 0})          # doctest: +SKIP
    """
    import pde

    with replaced():
        return pde.solve_poisson_equation(rhs, bc, **options)


def solve_laplace_equation(grid: Any, bc: Any, **options: Any) -> Any:
    """Solve as ``pde.solve_laplace_equation``.

    Examples
    --------
    >>> solve_laplace_equation(grid, {"x-": {"value": 1}, "*": {"value": 0}})   # doctest: +SKIP
    """
    import pde

    with replaced():
        return pde.solve_laplace_equation(grid, bc, **options)
