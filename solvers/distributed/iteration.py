"""Conjugate gradients on several ranks: PETSc's KSPCG iterates, the true residual decides, as everywhere in krylearn.

    converged  <=>  ‖b - A x‖ <= max(rtol ‖b‖, atol)          with b - A x computed, in float64, over all ranks

PETSc stops on the residual of its recurrence. Where b - A x is larger, the solve starts again from x, until either
passes or restarts stop helping. b and x are projected away from the null space first and last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..krylov.outcome import ConvergenceError, Reason, SolveInfo
from .operator import DistributedPoisson
from .partition import from_rank_order
from .petsc_library import collective_errors, load_petsc
from .preconditioner import DistributedMultigrid


def cg(
    A: DistributedPoisson,
    b: Any,
    x0: Any = None,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    M: Any = None,
    callback: Callable | None = None,
    strict: bool = False,
) -> tuple[Any, SolveInfo]:
    """Solve A x = b on several ranks by preconditioned conjugate gradients. Collective.

    Parameters
    ----------
    A : DistributedPoisson
    b, x0 : this rank's part, an array over own cells
    rtol, atol, maxiter : as in ``scipy.sparse.linalg.cg``, over all ranks
    M : DistributedMultigrid; None for the shipped one, cached on A; "none" for plain CG
    callback : called with this rank's part of x after every iteration, on every rank
    strict : raise ConvergenceError instead of returning a failure

    Returns
    -------
    x, info : this rank's part of x; SolveInfo, the same on every rank
    """
    with collective_errors(A.comm):
        for name, value in (("rtol", rtol), ("atol", atol)):
            if not float(value) >= 0:
                raise ValueError(f"invalid `{name}`={value!r}: expected a real, non-negative number")
        if not isinstance(A, DistributedPoisson):
            raise TypeError(f"got A of type {type(A).__name__}; expected DistributedPoisson")
    _ = A.nullspace  # before anything that lives longer takes memory
    setup = 0.0
    if M is None:
        if "multigrid" not in A.cache:
            A.cache["multigrid"] = DistributedMultigrid(A)
            setup = A.cache["multigrid"].setup_seconds
        M = A.cache["multigrid"]
    run = _Run(A, b, x0, M, callback)
    try:
        info = run.solve(rtol, atol, 10 * A.unknowns if maxiter is None else int(maxiter), setup)
        x = run.solution(b)
    finally:
        run.destroy()
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


class _Run:
    """One solve: PETSc's objects, and what is known so far."""

    def __init__(self, A: DistributedPoisson, b: Any, x0: Any, M: Any, callback: Callable | None) -> None:
        PETSc = load_petsc()
        self.A, self.like, self.callback = A, b, callback
        given = A.to_internal(b)
        self.norm_b = _norm(A.comm, given)
        reachable = A.nullspace.project(given)
        self.lost = _norm(A.comm, given - reachable)
        self.norm_reachable = _norm(A.comm, reachable)
        self.b = A.to_vector(reachable.reshape(A.part.own_shape))
        self.x = self.b.duplicate() if x0 is None else A.to_vector(x0, "x0")
        if x0 is None:
            self.x.set(0.0)
        self.guessed = x0 is not None
        self.r = self.b.duplicate()
        self.history: list[float] = []
        self.matvecs = self.iterations = 0
        self.ksp = ksp = PETSc.KSP().create(comm=A.comm)
        ksp.setType("cg")
        ksp.setOperators(A.product.matrix, A.product.matrix)
        ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        pc = ksp.getPC()
        if M == "none":
            pc.setType("none")
        else:
            pc.setType("python")
            pc.setPythonContext(_Apply(M.cycle))
        ksp.setMonitor(self._monitor)

    def _monitor(self, ksp: Any, k: int, norm: float) -> None:
        if k or not self.history:
            self.history.append(float(norm))
        if k and self.callback is not None:
            self.callback(self.A.from_vector(ksp.buildSolution(), self.like))

    def solve(self, rtol: float, atol: float, maxiter: int, setup: float) -> SolveInfo:
        """Iterate, check, start again, until the true residual passes or cannot."""
        tolerance = limit = max(rtol * self.norm_b, atol)
        if self.lost >= tolerance:
            limit = max(rtol * self.norm_reachable, atol)
        elif self.lost:
            limit = math.sqrt(tolerance - self.lost) * math.sqrt(tolerance + self.lost)
        floor = np.finfo(np.float64).eps * self.norm_b
        true, last, reason = math.nan, math.inf, None
        incompatible = self.lost > max(tolerance, 64 * floor)
        if self.norm_b == 0:
            self.x.set(0.0)
            self.history, true, reason = [0.0], 0.0, Reason.CONVERGED
        elif not math.isfinite(self.norm_b):
            self.history, reason = [math.nan], Reason.NON_FINITE
        while reason is None:
            found = self._iterate(max(limit, floor), maxiter - self.iterations)
            reachable = self._true_residual()
            true = math.hypot(reachable, self.lost)
            self.history[-1] = reachable
            if true <= tolerance:
                reason = Reason.CONVERGED
            elif not math.isfinite(true):
                reason = Reason.NON_FINITE
            elif reachable <= limit and incompatible:
                reason = Reason.INCOMPATIBLE_RHS
            elif found is not None:
                reason = found
            elif self.iterations >= maxiter:
                reason = Reason.MAXITER
            elif reachable <= floor or reachable > 0.8 * last:
                reason = Reason.STAGNATED
            if reachable <= limit:
                limit /= 2  # the two norms differ by rounding only: aim lower
            last = reachable
        notes = (f"part of b in the null space: {self.lost:.3g}",) if incompatible else ()
        return SolveInfo(
            0 if reason is Reason.CONVERGED else max(maxiter, 1),
            reason=reason,
            iterations=self.iterations,
            matvecs=self.matvecs,
            residuals=tuple(self.history),
            true_residual=true,
            setup_seconds=setup,
            nullspace=self.A.nullspace.dimension,
            notes=notes,
        )

    def _iterate(self, limit: float, steps: int) -> Reason | None:
        """Follow PETSc's recurrence down to `limit`; None if it got there, or gave up without a reason of its own."""
        reasons = load_petsc().KSP.ConvergedReason
        self.ksp.setTolerances(rtol=0.0, atol=limit, divtol=1e300, max_it=max(steps, 0))
        self.ksp.setInitialGuessNonzero(self.guessed)
        self.ksp.solve(self.b, self.x)
        self.matvecs += self.ksp.getIterationNumber() + self.guessed
        self.guessed = True
        self.iterations += self.ksp.getIterationNumber()
        return {
            reasons.DIVERGED_MAX_IT: Reason.MAXITER,
            reasons.DIVERGED_INDEFINITE_PC: Reason.INDEFINITE_M,
            reasons.DIVERGED_INDEFINITE_MAT: Reason.INDEFINITE_A,
            reasons.DIVERGED_NANORINF: Reason.NON_FINITE,
        }.get(self.ksp.getConvergedReason())

    def _true_residual(self) -> float:
        self.matvecs += 1
        return self.A.product.residual_norm(self.x, self.b, self.r)

    def solution(self, like: Any) -> Any:
        """Return this rank's part of x, of minimal norm on every singular component."""
        x = from_rank_order(self.x.getArray(readonly=True), self.A.part.internal_shape).copy("C")
        self.destroy()  # their memory serves what follows
        return self.A.from_internal(self.A.nullspace.project(x), like)

    def destroy(self) -> None:
        """Free PETSc's memory: a python-type PC that outlives the interpreter ends it with an error."""
        for each in (self.ksp, self.b, self.x, self.r):
            each.destroy()


class _Apply:
    """A cycle as a preconditioner of type python."""

    def __init__(self, cycle: Any) -> None:
        self.cycle = cycle

    def apply(self, pc: Any, r: Any, z: Any) -> None:
        """Do what PETSc asks of a preconditioner."""
        self.cycle.apply(r, z)


def _norm(comm: Any, own: Any) -> float:
    return math.sqrt(comm.allreduce(float(np.vdot(own, own))))
