"""Other libraries' calling conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .krylov.conjugate_gradients import cg


def pyamg_accel(
    A: Any,
    b: Any,
    x0: Any = None,
    tol: float = 1e-5,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable | None = None,
    residuals: list[float] | None = None,
    **options: Any,
) -> tuple[Any, int]:
    """Run `cg` under PyAMG's calling convention, for the ``accel=`` argument of its ``solve``.

    Parameters
    ----------
    A, b, x0, maxiter, M, callback : as in `cg`
    tol : float; relative tolerance (`rtol` of `cg`)
    residuals : list or None; overwritten with the norms of the residuals, the initial one included
    options : further keywords of `cg`

    Returns
    -------
    x, info : as from `cg`

    Examples
    --------
    >>> import numpy as np
    >>> history = []
    >>> x, info = pyamg_accel(np.diag([1.0, 4.0]), np.ones(2), tol=1e-8, residuals=history)
    >>> info == 0, len(history)
    (True, 3)
    """
    x, info = cg(A, b, x0, rtol=tol, maxiter=maxiter, M=M, callback=callback, **options)
    if residuals is not None:
        residuals[:] = info.residuals
    return x, info
