"""Deep conjugate directions: A-orthogonal directions proposed by any map f, for example a network.

    gₖ = f(rₖ),   dₖ = gₖ - Σⱼ (gₖᵀA dⱼ / dⱼᵀA dⱼ) dⱼ           over the last `window` directions
    αₖ = dₖᵀrₖ / dₖᵀA dₖ,   xₖ₊₁ = xₖ + αₖ dₖ,   rₖ₊₁ = rₖ - αₖ A dₖ

A: SPD.  f: any map.  Per step: one product with A, one f, window + 3 inner products.
The line search is exact, so the A-norm of the error never grows, whatever f proposes.
If f is linear and SPD this is PCG in exact arithmetic, for every window >= 1.

Kaneda et al., ICML 2023 (window = 2).  Notay, SIAM J. Sci. Comput. 22 (2000): the same for general windows.
Departures: r by recurrence (one product instead of two); normalising the input of f is f's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..kernels.graph_break import runs_outside_graphs
from .driver import Attempt, SolveInfo, State, Steps, add_multiple, dot, drive, initial_residual
from .system import open_system


def direction_steps(window: int) -> Steps:
    """Return the recurrence for a given number of remembered directions."""

    def steps(A: Callable, b: torch.Tensor, x: torch.Tensor, f: Callable | None) -> Iterator[State]:
        r = initial_residual(A, b, x)
        past: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = deque(maxlen=window)
        yield x, r, dot(r, r), ()
        while True:
            g = f(r) if f else r
            d = g.clone()
            for d_j, Ad_j, dAd_j in past:  # classical Gram-Schmidt, as published: g, not d
                d -= (dot(Ad_j, g) / dAd_j) * d_j
            Ad = A(d)  # the one product of the step
            dAd = dot(d, Ad)
            dr = dot(d, r)
            alpha = dr / dAd
            add_multiple(x, alpha, d)
            add_multiple(r, -alpha, Ad)
            past.append((d, Ad.clone(), dAd))  # A may give the same memory again
            yield x, r, dot(r, r), (None, dAd, dr)

    return steps


@runs_outside_graphs
def dcdm(
    A: Any,
    b: Any,
    network: Any,
    x0: Any = None,
    *,
    window: int = 2,  # Kaneda et al. 2023
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    callback: Callable | None = None,
    nullspace: Any = "auto",
    check_every: int = 1,
    strict: bool = False,
) -> tuple[Any, SolveInfo]:
    """Solve A x = b along A-orthogonal directions that any map proposes.

    dₖ = f(rₖ) made A-orthogonal to the last `window` directions, then an exact line search (module docstring). Per
    iteration one product with A and one f; memory for `window` pairs (d, A d). The error's A-norm never grows.
    Kaneda et al., ICML 2023; Notay 2000.

    Parameters
    ----------
    A, b, x0 : as in `cg`; A symmetric positive (semi)definite
    network : applicable; any map r -> direction: nonlinear, unsymmetric, not normalised; None is the identity
    window : int >= 0; how many earlier directions the new one is made A-orthogonal to
    rtol, atol, maxiter, callback, nullspace, check_every, strict : as in `cg`

    Returns
    -------
    x, info : array like b, SolveInfo (0 = converged; ``info.reason`` says why not)

    Examples
    --------
    >>> import numpy as np
    >>> A, b = np.diag([1.0, 2.0, 10.0]), np.ones(3)
    >>> x, info = dcdm(A, b, lambda r: np.tanh(r), rtol=1e-8)      # nonlinear: not a preconditioner for cg
    >>> info == 0, bool(abs(A @ x - b).max() < 1e-7)
    (True, True)
    """
    if int(window) != window or window < 0:
        raise ValueError(f"window is {window!r}; expected an integer >= 0 (2 as published)")
    with torch.no_grad():
        system, f = open_system(A, b, x0, network, nullspace=nullspace)
        return drive(
            [Attempt(direction_steps(int(window)), f)], system, rtol=rtol, atol=atol, maxiter=maxiter,
            callback=callback, check_every=check_every, strict=strict,
        )  # fmt: skip
