"""Preconditioned conjugate gradients: for a symmetric (Hermitian) positive definite A and M.

    zₖ = M rₖ,   βₖ = rₖᵀzₖ / rₖ₋₁ᵀzₖ₋₁,   pₖ = zₖ + βₖ pₖ₋₁
    αₖ = rₖᵀzₖ / pₖᵀA pₖ,   xₖ₊₁ = xₖ + αₖ pₖ,   rₖ₊₁ = rₖ - αₖ A pₖ

Per step: one product with A, one M, three inner products; memory: x, r, p, z, A p.
xₖ minimises the A-norm of the error over x₀ + span{M r₀, (MA) M r₀, ...}.

Hestenes and Stiefel, J. Res. NBS 49 (1952).  Interface: SciPy's `cg`; the deliberate deviations:

| case | SciPy 1.17 | here |
|---|---|---|
| success | recursive residual < tolerance | true residual ‖b - Ax‖ <= tolerance |
| tolerance met on the last allowed iteration | info = maxiter | info 0 |
| maxiter=0, not converged | info 0 | info 1, reason MAXITER |
| b = 0 | x is b's memory | x is a fresh array of zeros |
| NaN, infinity; rtol = atol = 0 | runs on, returns NaN | stops at once, info.reason says so |
| indefinite A or M | NaN | stops with the last finite x, or switches to flexible directions and notes it |
| bare callable as A or M | TypeError | accepted |
| b of shape (..., n) | ValueError | one solve per row, `info.each` |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from krylearn.pde import Poisson

from .. import kernels
from ..kernels.graph_break import runs_outside_graphs
from ..multigrid.preconditioner import NeuralMultigrid, default_preconditioner
from .batches import is_systems, leading_shape, solve_rows, solve_systems
from .conjugate_directions import direction_steps
from .driver import Attempt, Reason, SolveInfo, State, Steps, add_multiple, dot, drive, initial_residual
from .symmetry_check import SymmetryCheck, check_symmetry
from .system import Preconditioner, System, open_system

MEANWHILE_STEPS = 40  # in torch, while kernels are being compiled: a system that needs more waits for them


def cg_steps(A: Callable, b: torch.Tensor, x: torch.Tensor, M: Callable | None) -> Iterator[State]:
    """Yield the states of the readable recurrence; a fused one must yield the same."""
    r = initial_residual(A, b, x)
    p, rz = torch.zeros_like(b), torch.full_like(dot(r, r), math.inf)  # z + (rz/inf)·p = z: no special first step
    rr = dot(r, r)
    yield x, r, rr, ()
    while True:
        z = M(r) if M else r
        rz, rz_old = (dot(r, z) if M else rr), rz
        p.mul_(rz / rz_old).add_(z)
        Ap = A(p)  # the one product of the step
        pAp = dot(p, Ap)
        alpha = rz / pAp
        add_multiple(x, alpha, p)
        add_multiple(r, -alpha, Ap)
        rr = dot(r, r)
        yield x, r, rr, (rz, pAp)


@runs_outside_graphs
def cg(
    A: Any,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable | None = None,
    nullspace: Any = "auto",
    check_every: int = 1,
    strict: bool = False,
) -> tuple[Any, SolveInfo]:
    """Solve A x = b by preconditioned conjugate gradients.

    For a `Poisson` operator the learned preconditioner is the default; for anything else this is SciPy's `cg`,
    argument for argument, with an `info` that keeps its word: 0 if and only if ‖b - A x‖ <= max(rtol ‖b‖, atol).

    Parameters
    ----------
    A : Poisson, matrix, SciPy or CuPy operator, torch tensor, or callable v -> A v; n by n, symmetric or Hermitian.
        Or k Poisson operators on grids of one shape: many small systems in one loop, b of shape (k, n)
    b : array of shape (n,) or (n, 1), for Poisson also of the grid's shape; NumPy, CuPy or torch. With leading
        dimensions, (..., n): as many solves, the tolerance of each is its own, and ``info.each`` tells of each
    x0 : array like b, "Mb" for M b, or None for zero; not changed
    rtol, atol : float; tolerance relative to ‖b‖, and absolute (in the unit of b)
    maxiter : int or None for 10 n
    M : applicable ~ A⁻¹, symmetric positive definite. None: for a matrix SciPy's meaning (``A.psolve`` if it has one),
        for Poisson the shipped `NeuralMultigrid`. "none" is plain CG; "geometric", "resistor", "tuned", "pieces":
        rules (Poisson only)
    callback : called with x after every iteration; always the same live array, copy it to keep it
    nullspace : "auto": a Poisson operator knows its own; None: ignore it; or vectors (n,) or (n, k) that span it.
        x then has no part in it (zero mean per component), and an incompatible b gives the least-squares solution
    check_every : int; steps between two looks at the residual, > 1 saves synchronisations on a GPU
    strict : bool; raise ConvergenceError (a RuntimeError) on failure

    Returns
    -------
    x : array like b, in the common precision of A and b; shape (n,), or the grid's if b has it
    info : SolveInfo; 0 = converged, else the iteration limit, with `reason`, `iterations`, `residuals`, ...

    Raises
    ------
    ValueError, TypeError : for input that is wrong in shape, type or device; never for a solve that fails

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import diags_array
    >>> A = diags_array([-np.ones(9), 2 * np.ones(10), -np.ones(9)], offsets=[-1, 0, 1]).tocsr()
    >>> x, info = cg(A, np.ones(10), rtol=1e-10)
    >>> info == 0, info.iterations, float(round(x[0], 6))
    (True, 5, 5.0)
    """
    if isinstance(b, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(b):
        raise TypeError(
            "got a b inside torch.func.vmap, grad or jvp; expected plain numbers: pass b of shape (k, n) for many "
            "right-hand sides, or use solve, which has rules for all of these"
        )
    A = A.detach() if isinstance(A, Poisson) else A
    options: dict[str, Any] = {
        "M": M, "maxiter": maxiter, "callback": callback, "nullspace": nullspace, "check_every": check_every
    }  # fmt: skip
    if is_systems(A):
        return solve_systems(partial(cg, rtol=0.0, **options), A, b, x0, rtol=rtol, atol=atol, strict=strict)
    batch = leading_shape(A, b)
    if batch:
        return solve_rows(partial(cg, A, rtol=rtol, atol=atol, **options), b, x0, batch, strict=strict)

    def run(M: Any, setup: tuple[float, float], limit: int | None, strict: bool) -> tuple[Any, SolveInfo]:
        system, precondition = open_system(A, b, x0, M, nullspace=nullspace)
        chosen = M.info if isinstance(M, NeuralMultigrid) else None
        return drive(
            _plan_attempts(system, precondition), system, rtol=rtol, atol=atol, maxiter=limit, callback=callback,
            check_every=check_every, strict=strict, setup=setup, preconditioner=chosen,
        )  # fmt: skip

    with torch.no_grad():
        found, setup = _resolve_preconditioner(A, M, nullspace, meanwhile=callback is None)
        if getattr(found, "serves_meanwhile", False):
            few = MEANWHILE_STEPS if maxiter is None else min(MEANWHILE_STEPS, maxiter)
            x, info = run(found, setup, few, strict=False)
            if info == 0:
                return x, info
            if info.reason not in (Reason.NON_FINITE, Reason.INCOMPATIBLE_RHS):  # else no kernel would help
                found, setup = _resolve_preconditioner(A, M, nullspace, meanwhile=False)
        return run(found, setup, maxiter, strict)


def _plan_attempts(system: System, M: Preconditioner | None) -> list[Attempt]:
    """CG; should M not suit it, the same with M in full precision, then flexible directions, which any M suits."""
    steps = _choose_recurrence(system, M)
    if M is None:
        return [Attempt(steps, None)]
    ours = isinstance(M.operator, NeuralMultigrid)  # symmetric by construction: nothing to watch
    attempts = [Attempt(steps, M) if ours else Attempt(check_symmetry(steps), SymmetryCheck(M))]
    if M.exact is not None:
        attempts.append(Attempt(cg_steps, M.exact, "r·Mr <= 0 in single precision: M applied in double"))
    attempts.append(Attempt(direction_steps(2), M, "M is not symmetric positive definite: switched to flexible CG"))
    return attempts


def _choose_recurrence(system: System, M: Preconditioner | None) -> Steps:
    """Return the fused recurrence where there are kernels for it, else the readable one."""
    fused = kernels.steps_for(system.b, M) if isinstance(system.A.operator, Poisson) else None
    if fused not in (None, kernels.fused_cg_steps):
        return partial(_explain_out_of_memory, fused)
    return fused or cg_steps


def _explain_out_of_memory(steps: Steps, A: Callable, b: torch.Tensor, x: torch.Tensor, M: Any) -> Iterator[State]:
    """Yield the states of a recurrence; if its vectors find no room, say how much is needed and what to do."""
    states = steps(A, b, x, M)
    try:
        first = next(states)  # allocates everything
    except torch.cuda.OutOfMemoryError as error:
        from ..multigrid.setup_cuda.memory import out_of_memory

        ours: Any = getattr(M, "operator", None)
        operator: Any = getattr(A, "operator", None)
        raise out_of_memory(operator, getattr(ours, "_rule", None), getattr(ours, "_storage", b.dtype)) from error
    yield first
    yield from states


def _resolve_preconditioner(A: Any, M: Any, nullspace: Any, meanwhile: bool) -> tuple[Any, tuple[float, float]]:
    """Replace None or a name by the preconditioner it stands for; second: seconds of set-up and of compilation.

    meanwhile : take one in torch while kernels are being compiled
    """
    if not isinstance(A, Poisson):
        if isinstance(M, str) and M != "none":
            raise ValueError(f'M is {M!r}; expected "none" or an operator: only a Poisson A has named preconditioners')
        return (None if isinstance(M, str) else M), (0.0, 0.0)
    known = set(map(id, list(A.cache.values())))
    begin, compilation = time.perf_counter(), 0.0
    if isinstance(nullspace, str):
        _ = A.nullspace  # found here, so that it counts as set-up
    if M is None or (isinstance(M, str) and M != "none"):
        M = default_preconditioner(A, M, meanwhile)
        compilation = 0.0 if id(M) in known else M.compile_seconds
    elapsed = time.perf_counter() - begin - compilation
    fresh = not set(map(id, list(A.cache.values()))) <= known
    return (None if isinstance(M, str) else M), ((elapsed if fresh else 0.0), compilation)
