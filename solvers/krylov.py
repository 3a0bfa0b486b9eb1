"""The driver of all Krylov methods here: the only place that decides "converged".

A method is a generator of states ``(x, r, rr, curvatures)``: the iterate, the residual that its recurrence carries, the
squared norm of that residual, and ``(r·Mr, p·Ap)`` of the step just made (``()`` at the start; None for a quantity the
method says nothing about). It holds no tolerance, no history and no clock. The driver holds those, and this rule:

    converged  <=>  ‖b - A x‖ <= max(rtol ‖b‖, atol)          with b - A x computed, in float64 wherever A allows it

A recurrence may pass while b - A x does not: rounding separates the two. Then the method restarts from the true
residual, until either passes or restarts stop helping, which is the precision limit.

The states come from ``steps(A, b, x, M)``; x is updated in place, so x of every state is the same tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from .systems import System

State = tuple[torch.Tensor, torch.Tensor, Any, tuple[Any, ...]]
Steps = Callable[[Any, torch.Tensor, torch.Tensor, Any], Iterator[State]]


class Reason(Enum):
    """Why a solve ended; the value is the sentence to print.

    Examples
    --------
    >>> Reason.MAXITER.value
    'iteration limit reached: raise maxiter, loosen rtol or strengthen M'
    """

    CONVERGED = "‖b - Ax‖ <= max(rtol·‖b‖, atol), checked on the true residual"
    MAXITER = "iteration limit reached: raise maxiter, loosen rtol or strengthen M"
    STAGNATED = "b - Ax stopped falling: the tolerance is below what this dtype can reach, or M proposes no descent"
    NON_FINITE = "NaN or infinity in A, M, b or x0 (or an overflow): look there first"
    INDEFINITE_A = "p·Ap is zero or changed sign: A is indefinite or singular; use MINRES, or declare the null space"
    INDEFINITE_M = "r·Mr is zero or changed sign: M is not definite; dcdm accepts any map"
    INCOMPATIBLE_RHS = "b has a part in the null space of A: no solution exists, x is the least-squares one"


class SolveInfo(int):
    """SciPy's info (0 = converged, else the iteration limit) that also carries what happened.

    Attributes
    ----------
    reason : Reason
    iterations, matvecs : int
    residuals : tuple of float; recurrence's ‖r‖ per iteration, the initial one first, checked ones replaced by ‖b - Ax‖
    true_residual : float; ‖b - Ax‖ of the x returned
    setup_seconds : float; what this solve had to prepare and found in no cache
    nullspace : int; dimension of the null space that was projected out
    notes : tuple of str; what was noticed on the way, for example that A is negative definite

    Examples
    --------
    >>> info = SolveInfo(0, reason=Reason.CONVERGED, iterations=7, true_residual=2e-9)
    >>> info == 0, info.iterations
    (True, 7)
    >>> info
    SolveInfo(0, CONVERGED after 7 iterations, ‖b - Ax‖ = 2e-09)
    """

    reason: Reason
    iterations: int
    matvecs: int
    residuals: tuple[float, ...]
    true_residual: float
    setup_seconds: float
    nullspace: int
    notes: tuple[str, ...]

    def __new__(cls, value: int = 0, **facts: Any) -> SolveInfo:
        """Make the integer, then attach the facts."""
        info = super().__new__(cls, value)
        defaults: dict[str, Any] = {
            "reason": Reason.MAXITER if value else Reason.CONVERGED, "iterations": 0, "matvecs": 0, "residuals": (),
            "true_residual": math.nan, "setup_seconds": 0.0, "nullspace": 0, "notes": (),
        }  # fmt: skip
        info.__dict__.update(defaults | facts)
        return info

    def __repr__(self) -> str:
        text = f"{int(self)}, {self.reason.name} after {self.iterations} iterations"
        return f"SolveInfo({', '.join([text, f'‖b - Ax‖ = {self.true_residual:.3g}', *self.notes])})"

    __str__ = __repr__


class ConvergenceError(RuntimeError):
    """A solve that was asked to raise did not converge; ``.info`` tells why, ``.x`` is the last iterate."""

    def __init__(self, info: SolveInfo, x: Any = None):
        super().__init__(f"{info.reason.name}: {info.reason.value} ({info!r})")
        self.info, self.x = info, x

    def __reduce__(self) -> tuple[Any, ...]:
        return ConvergenceError, (self.info, self.x)


def dot(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Real part of uᴴv as a 0-dimensional tensor, left on the device."""
    return torch.vdot(u.reshape(-1), v.reshape(-1)).real


def start(A: Callable, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return b - A x; the product is saved when x is zero."""
    return b - A(x) if bool(x.any()) else b.clone()


def move(x: torch.Tensor, alpha: torch.Tensor, p: torch.Tensor) -> None:
    """Do x += alpha p in place; leave x alone if alpha is not finite, so that it is the last finite iterate."""
    if not x.is_cpu:
        x += torch.where(torch.isfinite(alpha), alpha * p, torch.zeros_like(p))
    elif math.isfinite(alpha):
        x.addcmul_(p, alpha.to(x.dtype))


class Attempt(NamedTuple):
    """A recurrence and its preconditioner; the driver takes the next one when M turns out not to suit."""

    steps: Steps
    M: Callable | None
    note: str = ""


@dataclass
class _Run:
    """What the driver knows about one solve while it runs."""

    system: System
    limit: float
    floor: float
    residuals: list[float] = field(default_factory=list)
    iterations: int = 0
    last_true: float = math.inf
    best: float = math.inf
    best_at: int = 0
    a_sign: float = 0.0
    m_sign: float = 0.0
    notes: list[str] = field(default_factory=list)

    def check(self, x: torch.Tensor) -> Reason | None:
        """Judge x by b - A x. None: not there, but a restart from here is still worth while."""
        self.system.gauge(x)
        true = self.system.residual(x)
        self.residuals[-1] = true
        if true <= self.limit:
            return Reason.CONVERGED
        if not math.isfinite(true):
            return Reason.NON_FINITE
        if true <= self.floor or true > 0.8 * self.last_true:
            return Reason.STAGNATED
        self.last_true = true
        return None

    def curvature(self, rz: float | None, pAp: float | None) -> Reason | None:
        """Free checks of a step: finite, and of constant sign (SPD: both positive; both negative converge as well)."""
        if any(c is not None and not math.isfinite(c) for c in (rz, pAp)):
            return Reason.NON_FINITE
        if rz is not None:
            self.m_sign = self.m_sign or math.copysign(1.0, rz)
            if rz * self.m_sign <= 0:
                return Reason.INDEFINITE_M
        if pAp is not None:
            self.a_sign = self.a_sign or math.copysign(1.0, pAp)
            if pAp * self.a_sign <= 0:
                return Reason.INDEFINITE_A
        return None

    def watch(self, value: float, r: torch.Tensor, M: Callable | None) -> Reason | None:
        """Look for a residual that no longer falls: frozen, or held up by an M that is not symmetric."""
        if value < self.best:
            self.best, self.best_at = value, self.iterations
        waited = self.iterations - self.best_at
        if waited >= 4 and len(set(self.residuals[-4:])) == 1:
            return Reason.STAGNATED
        if M is not None and waited in _PROBES and not _is_symmetric(M, r, self.system.b):
            return Reason.INDEFINITE_M
        return None


# Plateaus are normal for CG; only after one of these lengths two applications of M are spent to test its symmetry.
_PROBES = frozenset(30 * 2**i for i in range(24))


def _is_symmetric(M: Callable, u: torch.Tensor, v: torch.Tensor) -> bool:
    """Tell whether u·Mv = v·Mu up to what a single-precision M may show."""
    norm = torch.linalg.vector_norm
    mu, mv = M(u).clone(), M(v)
    return bool(abs(dot(u, mv) - dot(v, mu)) <= 1e-4 * (norm(mu) * norm(v) + norm(mv) * norm(u)))


def drive(
    attempts: list[Attempt],
    system: System,
    *,
    rtol: float = 1e-5,
    atol: float = 0.0,
    maxiter: int | None = None,
    callback: Callable | None = None,
    check_every: int = 1,
    strict: bool = False,
    setup_seconds: float = 0.0,
) -> tuple[Any, SolveInfo]:
    """Run a method until the true residual decides, and say what happened.

    Parameters
    ----------
    attempts : list of Attempt; the method, then what replaces it if M turns out not to suit it
    system : System; A, b, x0 in torch terms, and the way back to the caller's arrays
    rtol, atol, maxiter, callback : as in ``scipy.sparse.linalg.cg``
    check_every : int; steps between two looks at the residual (a look costs a synchronisation on a GPU)
    strict : bool; raise ConvergenceError instead of returning a failure
    setup_seconds : float; recorded in info

    Returns
    -------
    x, info : the caller's array type; SolveInfo

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.solvers.conjugate_gradients import cg_steps
    >>> from krylearn.solvers.systems import matrix_system
    >>> x, info = drive([Attempt(cg_steps, None)], matrix_system(np.diag([1.0, 4.0]), np.ones(2)))
    >>> info == 0, info.iterations
    (True, 2)
    """
    maxiter = _validated(rtol, atol, maxiter, check_every, system)
    norm_b = system.norm_b
    tolerance = max(rtol * norm_b, atol) if norm_b else atol
    eps = torch.finfo(system.b.dtype).eps
    run = _Run(system, limit=_inner_limit(system, tolerance, rtol, atol), floor=eps * norm_b)
    if norm_b == 0.0:
        system.x.zero_()
        run.residuals.append(0.0)
        reason = Reason.CONVERGED
    elif not (math.isfinite(norm_b) and bool(torch.isfinite(system.x).all())):
        run.residuals.append(math.nan)
        reason = Reason.NON_FINITE
    else:
        reason = _iterate(run, attempts, maxiter, system.watcher(callback), check_every)
    info = _conclude(run, reason, tolerance, maxiter, eps, setup_seconds)
    x = system.finish(system.x)
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


def _iterate(run: _Run, attempts: list[Attempt], maxiter: int, watcher: Callable | None, check_every: int) -> Reason:
    """Run the attempts one after the other, each restarted while restarts from the true residual help."""
    queue = list(attempts)
    while True:
        reason = _round(run, queue[0], maxiter, watcher, check_every)
        if reason is None:
            continue
        if reason in (Reason.INDEFINITE_M, Reason.STAGNATED) and len(queue) > 1 and run.iterations < maxiter:
            if reason is Reason.INDEFINITE_M:
                queue.pop(0)
                run.m_sign, run.best_at = 0.0, run.iterations
                run.notes.append(queue[0].note)
                continue
        if reason in (Reason.CONVERGED, Reason.NON_FINITE):
            return reason
        verdict = run.check(run.system.x)  # the failure may have come too late to matter
        return verdict if verdict in (Reason.CONVERGED, Reason.NON_FINITE) else reason


def _round(run: _Run, attempt: Attempt, maxiter: int, watcher: Callable | None, check_every: int) -> Reason | None:
    """One uninterrupted recurrence. None: it asks for a restart from the true residual."""
    system, pending = run.system, []
    for step, (x, r, rr, curvatures) in enumerate(attempt.steps(system.A, system.b, system.x, attempt.M)):
        run.iterations += step > 0
        if step and watcher:
            watcher(x)
        pending.append((rr, curvatures))
        if step and run.iterations % check_every and run.iterations < maxiter:
            continue
        verdict = None
        for rr, curvatures in pending:  # read back together: one synchronisation
            value = math.sqrt(float(rr)) if rr >= 0 else math.nan
            if step or not run.residuals:
                run.residuals.append(value)
            verdict = verdict or (
                run.curvature(*(None if c is None else float(c) for c in curvatures)) if curvatures else None
            )
        pending.clear()
        if value <= max(run.limit, run.floor):
            return run.check(x)
        verdict = verdict or (None if math.isfinite(value) else Reason.NON_FINITE) or run.watch(value, r, attempt.M)
        if verdict or run.iterations >= maxiter:
            return verdict or Reason.MAXITER
    raise AssertionError("a method must not end by itself")


def _validated(rtol: float, atol: float, maxiter: int | None, check_every: int, system: System) -> int:
    """Return maxiter after refusing what makes no sense."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not isinstance(value, int | float) and not hasattr(value, "__float__"):
            raise ValueError(f"invalid `{name}`={value!r}: expected a real, non-negative number")
        if not float(value) >= 0:
            raise ValueError(f"invalid `{name}`={value!r}: expected a real, non-negative number")
    if check_every < 1:
        raise ValueError(f"check_every is {check_every}; expected an integer >= 1")
    limit = 10 * system.unknowns if maxiter is None else maxiter
    if int(limit) != limit or limit < 0:
        raise ValueError(f"maxiter is {maxiter!r}; expected a non-negative integer, or None for 10 N")
    return int(limit)


def _inner_limit(system: System, tolerance: float, rtol: float, atol: float) -> float:
    """Tolerance for the part of b that A can reach: ‖b - Ax‖² = ‖Pb - Ax‖² + ‖b - Pb‖²."""
    lost = system.incompatible
    if lost < tolerance:
        return math.sqrt(tolerance - lost) * math.sqrt(tolerance + lost) if lost else tolerance
    return max(rtol * math.sqrt(max(system.norm_b - lost, 0.0)) * math.sqrt(system.norm_b + lost), atol)


def _conclude(run: _Run, reason: Reason, tolerance: float, maxiter: int, eps: float, setup_seconds: float) -> SolveInfo:
    """Assemble the facts; the residual of the system as given decides between success and failure."""
    system, scale = run.system, run.system.scale
    true = math.hypot(run.residuals[-1], system.incompatible)
    notes = [note for note in run.notes if note]
    if run.a_sign < 0:
        notes.append("A is negative definite")
    if run.m_sign < 0:
        notes.append("M is negative definite")
    if reason is Reason.CONVERGED and not true <= tolerance:
        reason = Reason.INCOMPATIBLE_RHS if system.incompatible > 64 * eps * system.norm_b else Reason.STAGNATED
    return SolveInfo(
        0 if reason is Reason.CONVERGED else max(maxiter, 1),
        reason=reason,
        iterations=run.iterations,
        matvecs=system.A.calls,
        residuals=tuple(scale * value for value in run.residuals),
        true_residual=scale * true,
        setup_seconds=setup_seconds,
        nullspace=system.nullspace,
        notes=tuple(notes),
    )
