"""The driver of all Krylov methods here: the only place that decides "converged".

A method is a generator of states ``(x, r, rr, curvatures)``: the iterate, the residual that its recurrence carries, the
squared norm of that residual, and ``(r·Mr, p·Ap)`` of the step just made; ``()`` at the start. A method for which r·Mr
may have any sign says ``(None, p·Ap, p·r)``: there p·r = 0 means that no descent was proposed. A method holds no
tolerance, no history and no clock. The driver holds those, and this rule:

    converged  <=>  ‖b - A x‖ <= max(rtol ‖b‖, atol)          with b - A x computed, in float64 wherever A allows it

A recurrence may pass while b - A x does not: rounding separates the two. Then the method restarts from the true
residual, until either passes or restarts stop helping, which is the precision limit.

The states come from ``steps(A, b, x, M)``; x is updated in place, so x of every state is the same tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch

from .outcome import ConvergenceError, Reason, SolveInfo

if TYPE_CHECKING:
    from .system import System

__all__ = [
    "Attempt",
    "ConvergenceError",
    "Reason",
    "SolveInfo",
    "State",
    "Steps",
    "add_multiple",
    "dot",
    "drive",
    "initial_residual",
]

PATIENCE = 1000
"""Steps without a smaller residual after which directions from any map are given up."""

State = tuple[torch.Tensor, torch.Tensor, Any, tuple[Any, ...]]
Steps = Callable[[Any, torch.Tensor, torch.Tensor, Any], Iterator[State]]


def dot(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Real part of uᴴv as a 0-dimensional tensor, left on the device."""
    return torch.vdot(u.reshape(-1), v.reshape(-1)).real


def initial_residual(A: Callable, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return b - A x; the product is saved when x is zero."""
    return b - A(x) if bool(x.any()) else b.clone()


def add_multiple(x: torch.Tensor, alpha: torch.Tensor, p: torch.Tensor) -> None:
    """Do x += alpha p in place; leave x alone if alpha is not finite, so that it is the last finite iterate."""
    if not x.is_cpu:
        x += torch.where(torch.isfinite(alpha), alpha * p, torch.zeros_like(p))
    elif math.isfinite(alpha):
        x.addcmul_(p, alpha.to(x.dtype))


class SymmetryMonitor(Protocol):
    """A preconditioner that knows when CG's theory seems not to hold for it (`symmetry_check`)."""

    def is_suspicious(self) -> bool:
        """Whether something spoke against symmetry since the last question."""

    def forget_step(self) -> None:
        """Forget the last step."""


class Attempt(NamedTuple):
    """A recurrence and its preconditioner; the driver takes the next one when M turns out not to suit."""

    steps: Steps
    M: Callable | None
    note: str = ""


@dataclass
class _Run:
    """What the driver knows about one solve while it runs."""

    system: System
    tolerance: float
    limit: float  # the tolerance for the part of b that A can reach
    floor: float  # rounding of b
    residuals: list[float] = field(default_factory=list)
    iterations: int = 0
    true: float = math.nan
    last_reachable: float = math.inf
    best: float = math.inf
    best_at: int = 0  # or the restart since then
    next_probe: int = 30  # plateaus are normal for CG: only after one this long are two applications of M spent
    last_r: torch.Tensor | None = None  # the residual when its norm was last seen not to change
    checked_at: int = -1
    best_checked: tuple[float, torch.Tensor | None] = (math.inf, None)  # ‖b - Ax‖ and x of the best failed check
    a_sign: float = 0.0
    m_sign: float = 0.0
    any_map: bool = False  # the recurrence asks nothing of M: r·Mr has no meaning, symmetry is not expected
    notes: list[str] = field(default_factory=list)

    def read_scalars(self, pending: list[tuple[Any, tuple[Any, ...]]]) -> Reason | None:
        """Bring ‖r‖² and the curvatures of the last steps to the host, all at one synchronisation."""
        verdict, last = None, None
        for state in _on_host(pending):
            rr, curvatures = float(state[0]), state[1]
            # on a GPU the recurrence stops updating below the tolerance: later states repeat the last one
            if last == state and math.sqrt(rr) <= self.system.A.goal:
                self.iterations -= 1
                self.system.A.calls -= 1
                continue
            last = state
            self.residuals.append(math.sqrt(rr) if rr >= 0 else math.nan)
            if curvatures and verdict is None:
                values: list[Any] = [None if c is None else float(c) for c in curvatures]
                verdict = self.check_curvature(*values)
        return verdict

    def check_residual(self, x: torch.Tensor) -> Reason | None:
        """Judge x by b - A x. None: not there, but a restart from here is still worth while."""
        self.system.remove_null_space(x)
        self.true, reachable = self.system.residual(x)
        self.residuals[-1], self.checked_at = reachable, self.iterations
        if self.true <= self.tolerance:
            return Reason.CONVERGED
        if not math.isfinite(self.true):
            return Reason.NON_FINITE
        if self.true < self.best_checked[0]:
            self.best_checked = self.true, x.clone()
        if reachable <= self.limit:
            if self.incompatible:
                return Reason.INCOMPATIBLE_RHS
            self.limit /= 2  # the two norms differ by rounding only: aim lower
        if reachable <= self.floor or reachable > 0.8 * self.last_reachable:
            return Reason.STAGNATED
        self.last_reachable = reachable
        self.system.refine(x)
        return None

    @property
    def incompatible(self) -> bool:
        """Whether b lies outside the range of A by more than tolerance and rounding."""
        return self.system.lost > max(self.tolerance, 64 * self.floor)

    def check_curvature(self, rz: float | None, pAp: float, descent: float | None = None) -> Reason | None:
        """Free checks of a step: finite, and of constant sign (SPD: both positive; both negative converge as well)."""
        if any(c is not None and not math.isfinite(c) for c in (rz, pAp, descent)):
            return Reason.NON_FINITE
        if descent == 0:
            return Reason.STAGNATED
        if rz is not None:
            self.m_sign = self.m_sign or math.copysign(1.0, rz)
            if rz * self.m_sign <= 0:
                return Reason.INDEFINITE_M
        self.any_map = rz is None
        self.a_sign = self.a_sign or math.copysign(1.0, pAp)
        return Reason.INDEFINITE_A if pAp * self.a_sign <= 0 else None

    def watch_progress(self, value: float, r: torch.Tensor, M: Callable | None) -> Reason | None:
        """Look for a residual that no longer falls, frozen or held up, and for an M that is not symmetric."""
        if not math.isfinite(value):
            return Reason.NON_FINITE
        if value < self.best:
            self.best, self.best_at = value, self.iterations
        waited = self.iterations - self.best_at
        if waited >= 4 and len(set(self.residuals[-4:])) == 1:
            # the norm alone may stay while r wanders: of a point source on a line it does until the other end
            if self.last_r is not None and torch.dist(self.last_r, r) <= 4 * torch.finfo(r.dtype).eps * value:
                return Reason.STAGNATED
            self.last_r = r.clone()
        if M is None or self.any_map:
            return Reason.STAGNATED if self.any_map and waited >= PATIENCE else None
        # asked for by name: `isinstance` with a protocol takes 6 us, a twentieth of a step on a small grid
        monitor = cast(SymmetryMonitor, M) if hasattr(M, "is_suspicious") else None
        suspicious = monitor is not None and monitor.is_suspicious()
        if waited >= self.next_probe or suspicious:
            self.next_probe *= 1 if suspicious else 2
            if not _is_symmetric(M, r, self.system.b):
                return Reason.INDEFINITE_M
            if monitor is not None:
                monitor.forget_step()  # what the probe applied M to were no steps
        return None


def _on_host(pending: list[tuple[Any, tuple[Any, ...]]]) -> list[tuple[Any, tuple[Any, ...]]]:
    """Fetch what lies on a CUDA device in one transfer: every transfer is a synchronisation."""
    scalars = [c for rr, curvatures in pending for c in (rr, *curvatures) if isinstance(c, torch.Tensor) and c.is_cuda]
    if not scalars:
        return pending
    values = iter(torch.stack(scalars).tolist())

    def fetch(c: Any) -> Any:
        return next(values) if isinstance(c, torch.Tensor) and c.is_cuda else c

    return [(fetch(rr), tuple(fetch(c) for c in curvatures)) for rr, curvatures in pending]


def _is_symmetric(M: Callable, u: torch.Tensor, v: torch.Tensor, slack: float = 1e-4) -> bool:
    """Tell whether u·Mv = v·Mu up to what a single-precision M may show."""
    norm = torch.linalg.vector_norm
    mu, mv = M(u).clone(), M(v)
    return not bool(abs(dot(u, mv) - dot(v, mu)) > slack * (norm(mu) * norm(v) + norm(mv) * norm(u)))


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
    setup: tuple[float, float] = (0.0, 0.0),
    preconditioner: Any = None,
) -> tuple[Any, SolveInfo]:
    """Run a method until the true residual decides, and say what happened.

    Parameters
    ----------
    attempts : list of Attempt; the method, then what replaces it if M turns out not to suit it
    system : System; A, b, x0 in torch terms, and the way back to the caller's arrays
    rtol, atol, maxiter, callback : as in ``scipy.sparse.linalg.cg``
    check_every : int; steps between two looks at the residual (a look costs a synchronisation on a GPU)
    strict : bool; raise ConvergenceError instead of returning a failure
    setup : seconds of set-up and of compilation, recorded in info
    preconditioner : what its set-up chose, recorded in info

    Returns
    -------
    x, info : the caller's array type; SolveInfo

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.solvers.krylov.conjugate_gradients import cg_steps
    >>> from krylearn.solvers.krylov.system import matrix_system
    >>> x, info = drive([Attempt(cg_steps, None)], matrix_system(np.diag([1.0, 4.0]), np.ones(2)))
    >>> info == 0, info.iterations
    (True, 2)
    """
    limited, maxiter = maxiter is not None, _check_arguments(rtol, atol, maxiter, check_every, system)
    run = _open_run(system, rtol, atol / system.scale)
    guess = system.x.clone() if bool(system.x.any()) else None
    if system.norm_b == 0.0:
        system.x.zero_()
        run.residuals.append(0.0)
        run.true, reason = 0.0, Reason.CONVERGED
    elif not (math.isfinite(system.norm_b) and (guess is None or bool(torch.isfinite(guess).all()))):
        run.residuals.append(math.nan)
        reason = Reason.NON_FINITE
    else:
        reason = _run_attempts(run, attempts, maxiter, system.wrap_callback(callback), check_every)
        again = run if reason is Reason.CONVERGED else _open_run(system, rtol, atol / system.scale)  # as it began
        if reason is not Reason.CONVERGED:
            reason = _go_back(run, reason, again, attempts, guess, check_every)
        if reason is not Reason.CONVERGED and guess is not None and not run.residuals[0] <= system.norm_reachable:
            left = maxiter - run.iterations if limited else maxiter
            reason = _start_from_zero(run, reason, again, attempts, left, system.wrap_callback(callback), check_every)
        if reason is not Reason.CONVERGED:
            reason = _explain(run, reason)
        else:
            reason = _judge_returned(run)
    info = _build_info(run, reason, maxiter, setup, preconditioner)
    x = system.finish(system.x)
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


def _open_run(system: System, rtol: float, atol: float) -> _Run:
    """Set the tolerances: for b as given, and for its part in the range of A, ‖b - Ax‖² = ‖Pb - Ax‖² + ‖b - Pb‖²."""
    norm_b, lost = system.norm_b, system.lost
    tolerance = limit = max(rtol * norm_b, atol) if norm_b else atol
    if lost >= tolerance:
        limit = max(rtol * system.norm_reachable, atol) if system.norm_reachable else atol
    elif lost:
        limit = math.sqrt(tolerance - lost) * math.sqrt(tolerance + lost)
    return _Run(system, tolerance, limit, floor=torch.finfo(system.b.dtype).eps * norm_b)


def _run_attempts(
    run: _Run, attempts: list[Attempt], maxiter: int, watcher: Callable | None, check_every: int
) -> Reason:
    """Run the attempts one after the other, each restarted while restarts from the true residual help."""
    queue = list(attempts)
    while True:
        reason = _follow_recurrence(run, queue[0], maxiter, watcher, check_every)
        if reason is None:
            continue
        ended = reason in (Reason.INDEFINITE_A, Reason.STAGNATED) and run.system.semidefinite
        if ended and run.checked_at != run.iterations < maxiter:  # by rounding: p·Ap cannot be negative there
            verdict = run.check_residual(run.system.x)
            if verdict is Reason.CONVERGED:
                return verdict
            if verdict is None:  # much was gained since the last restart: the next may gain as much
                run.a_sign = run.m_sign = 0.0
                run.best_at = run.iterations
                continue
        if reason is Reason.INDEFINITE_M and len(queue) > 1 and run.iterations < maxiter:
            queue.pop(0)
            run.m_sign, run.best_at = 0.0, run.iterations
            run.notes.append(queue[0].note)
            continue
        if reason is not Reason.NON_FINITE and run.checked_at != run.iterations:
            if run.check_residual(run.system.x) is Reason.CONVERGED:  # the failure came too late to matter
                return Reason.CONVERGED
        return reason


def _go_back(
    run: _Run, reason: Reason, again: _Run, attempts: list[Attempt], guess: torch.Tensor | None, check_every: int
) -> Reason:
    """Set x to the best iterate of a solve that failed, by repeating it up to there as `again`; return the reason.

    A copy of every better iterate would cost each solve a twentieth of its time. The last iterate of a solve that only
    lacked steps has the smallest error in the A-norm, and is kept unless the residual had been much smaller.
    """
    system, gain = run.system, 0.1 if reason is Reason.MAXITER else 0.9
    if run.best_checked[1] is not None and not run.true <= run.best_checked[0]:
        run.true = run.best_checked[0]
        system.x.copy_(run.best_checked[1])
    if not run.best < gain * (run.true if math.isfinite(run.true) else math.inf):
        return reason
    calls, kept, outcome = system.A.calls, system.x.clone(), reason
    end = len(run.residuals)
    for _ in range(3):  # what a recurrence says late may not be true: then the best of its first half is tried
        past = [r if math.isfinite(r) else math.inf for r in run.residuals[:end]]
        best_at = min(range(len(past)), key=past.__getitem__, default=0)
        repeated = replace(again, residuals=[], notes=[])
        system.x.copy_(guess) if guess is not None else system.x.zero_()
        verdict = _run_attempts(repeated, attempts, best_at, None, check_every)
        x, true = system.x, repeated.true
        best_true, best_x = repeated.best_checked
        if best_x is not None and not true <= best_true:
            true, x = best_true, best_x
        if math.isfinite(true) and not true >= run.true:
            run.true, kept = true, x.clone()
            outcome = verdict if verdict is Reason.CONVERGED else reason
            run.notes[:] = [n for n in run.notes if not n.startswith("x is iterate")]
            run.notes.append(f"x is iterate {repeated.iterations}, the best one")
        if true <= 2 * past[best_at] or best_at < 2:
            break
        end = best_at // 2 + 1
    system.A.calls = calls
    system.x.copy_(kept)
    return outcome


def _start_from_zero(
    run: _Run, reason: Reason, again: _Run, attempts: list[Attempt], left: int, watcher: Callable | None, every: int
) -> Reason:
    """Use the steps that are left, or as many again, for a second solve, from zero: the guess was worse than that.

    What b - A x0 loses by rounding grows with x0, and so does what a recurrence loses that starts there.
    """
    system = run.system
    if left <= 0:
        return reason
    kept, second = system.x.clone(), replace(again, residuals=[], notes=[])
    system.x.zero_()
    outcome = _run_attempts(second, attempts, left, watcher, every)
    if outcome is not Reason.CONVERGED:
        outcome = _go_back(second, outcome, again, attempts, None, every)
    run.iterations += second.iterations
    run.residuals += second.residuals
    if outcome is not Reason.CONVERGED and not second.true < run.true:
        system.x.copy_(kept)
        return reason
    run.true, run.best, run.notes = second.true, second.best, [*second.notes, "x0 set aside: zero was nearer"]
    return outcome


def _explain(run: _Run, reason: Reason) -> Reason:
    """Return the reason that is true of a solve that failed, and note a remedy where there is one in sight."""
    system = run.system
    stale = system.describe_mismatch()
    if stale:
        run.notes.append(stale)
    if reason in (Reason.INDEFINITE_A, Reason.INDEFINITE_M) and system.semidefinite and not stale:
        # p·Ap and r·Mr cannot be negative then, but for rounding: the recurrence has come to its end
        if reason is Reason.INDEFINITE_A or run.best <= 1e3 * run.floor:
            return Reason.STAGNATED
    if reason is Reason.INDEFINITE_A and run.best <= math.sqrt(torch.finfo(system.b.dtype).eps) * system.norm_b:
        reason = Reason.STAGNATED
    enough = reason is not Reason.MAXITER or run.iterations >= min(100, system.unknowns)  # else only steps were lacking
    if system.is_matrix and enough and reason is not Reason.INCOMPATIBLE_RHS and not _seems_symmetric(system):
        return Reason.NOT_SYMMETRIC
    return reason


def _seems_symmetric(system: System) -> bool:
    """Compare u·Av with v·Au for two pairs of vectors."""
    u, calls = system.b, system.A.calls
    slack = max(1e-6, 1e3 * torch.finfo(u.dtype).eps)
    mixed = torch.flip(u, (0,)) * torch.linspace(0.5, 1, len(u), device=u.device).to(u.dtype)
    finite = bool(torch.isfinite(system.x).all())
    good = all(_is_symmetric(system.A, u, v, slack) for v in ([system.x, mixed] if finite else [mixed]))
    system.A.calls = calls
    return good


def _judge_returned(run: _Run) -> Reason:
    """Judge x once more where the caller gets another one: where a power of two took it out of the dtype's range."""
    system = run.system
    if not system.x_exponent:
        return Reason.CONVERGED  # nobody has scaled it
    x = system.returned(system.x)
    if bool((x == system.x).all()):
        return Reason.CONVERGED
    finite = bool(torch.isfinite(x).all())
    run.true = system.residual(x)[0] if finite else math.inf
    if run.true <= run.tolerance:
        return Reason.CONVERGED
    run.notes.append(f"x {'under' if finite else 'over'}flows {x.dtype}: use other units")
    return Reason.STAGNATED if finite else Reason.NON_FINITE


def _follow_recurrence(
    run: _Run, attempt: Attempt, maxiter: int, watcher: Callable | None, check_every: int
) -> Reason | None:
    """Follow one uninterrupted recurrence. None: it asks for a restart from the true residual."""
    system, pending = run.system, []
    system.A.goal = max(run.limit, run.floor)
    for step, (x, r, rr, curvatures) in enumerate(attempt.steps(system.A, system.b, system.x, attempt.M)):
        run.iterations += step > 0
        if step and watcher:
            watcher(x)
        if step or not run.residuals:
            pending.append((rr, curvatures))
        if step and run.iterations % check_every and run.iterations < maxiter:
            continue
        verdict = run.read_scalars(pending)
        pending = []
        value = run.residuals[-1]
        if value <= max(run.limit, run.floor):
            return run.check_residual(x)
        verdict = verdict or run.watch_progress(value, r, attempt.M)
        if verdict or run.iterations >= maxiter:
            return verdict or Reason.MAXITER
    raise AssertionError("a method must not end by itself")


def _check_arguments(rtol: float, atol: float, maxiter: int | None, check_every: int, system: System) -> int:
    """Return maxiter after refusing what makes no sense."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not isinstance(value, int | float) and not hasattr(value, "__float__"):
            raise ValueError(f"invalid `{name}`={value!r}: expected a real, non-negative number")
        if not float(value) >= 0:
            raise ValueError(f"invalid `{name}`={value!r}: expected a real, non-negative number")
    if not check_every >= 1:
        raise ValueError(f"check_every is {check_every}; expected an integer >= 1")
    limit = 10 * system.unknowns if maxiter is None else maxiter
    if not (math.isfinite(limit) and int(limit) == limit and limit >= 0):
        raise ValueError(f"maxiter is {maxiter!r}; expected a non-negative integer, or None for 10 N")
    return int(limit)


def _build_info(run: _Run, reason: Reason, maxiter: int, setup: tuple[float, float], preconditioner: Any) -> SolveInfo:
    """Assemble the facts."""
    system, scale = run.system, run.system.scale
    notes = [note for note in run.notes if note]
    notes += ["A is negative definite"] if run.a_sign < 0 and not system.semidefinite else []
    notes += ["M is negative definite"] if run.m_sign < 0 else []
    if getattr(system.preconditioner, "serves_meanwhile", False):
        notes.append("solved by torch: the kernels were being compiled")
    notes += [f"part of b in the null space: {scale * system.lost:.3g}"] if run.incompatible else []
    return SolveInfo(
        0 if reason is Reason.CONVERGED else max(maxiter, 1),
        reason=reason,
        iterations=run.iterations,
        matvecs=system.A.calls,
        residuals=tuple(scale * value for value in run.residuals),
        true_residual=scale * run.true,
        setup_seconds=setup[0],
        compile_seconds=setup[1],
        nullspace=system.nullspace,
        preconditioner=preconditioner,
        notes=tuple(notes),
    )
