"""PhiFlow: its SciPy methods, solved by ours, for as long as a block lasts.

    with krylearn_solves():
        velocity, pressure = fluid.make_incompressible(velocity, obstacles, Solve("scipy-CG", 1e-5))

`Solve("scipy-CG")` asks SciPy's `cg`, which is replaced meanwhile; every step with the same geometry finds its matrix
prepared. PhiFlow's matrices are negative, obstacles have the other sign, closed boxes are bordered by a row of ones:
all of that is understood. Its own methods ("CG", "biCG-stab", on any backend) are not touched.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from .scipy_functions import replaced


def krylearn_solves() -> AbstractContextManager[None]:
    """Return a context in which ``Solve("scipy-CG", ...)`` is solved by krylearn.

    Examples
    --------
    >>> with krylearn_solves():                                                 # doctest: +SKIP
    ...     v, p = fluid.make_incompressible(v, solve=Solve("scipy-CG", 1e-5))
    """
    return replaced()
