"""What a solve says about itself: failure is a value with a remedy, and an exception only where one is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any


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
    NOT_SYMMETRIC = "u·Av and v·Au differ: A is not symmetric (Hermitian); use GMRES or BiCGSTAB, or symmetrise it"
    INCOMPATIBLE_RHS = "b has a part in the null space of A: no solution exists, x is the least-squares one"


class SolveInfo(int):
    """SciPy's info (0 = converged, else the iteration limit) that also carries what happened.

    Attributes
    ----------
    reason : Reason
    iterations, matvecs : int
    residuals : tuple of float; recurrence's ‖r‖ per iteration, the initial one first, checked ones replaced by ‖b - Ax‖
    true_residual : float; ‖b - Ax‖ of the x returned
    setup_seconds : float; what this solve had to prepare and found in no cache: null space and preconditioner
    compile_seconds : float; compiling kernels, at the first solve of a process (`krylearn warmup` fills the disk cache)
    nullspace : int; dimension of the null space that was projected out
    preconditioner : SetupChoice or None; what the set-up of a `NeuralMultigrid` took, and why
    notes : tuple of str; what was noticed on the way, for example that A is negative definite
    each : tuple of SolveInfo; of a batch one per right-hand side, in C order, else empty. Then the facts above are: the
        first failure's reason, the most iterations, all products, the largest residual, no history

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
    compile_seconds: float
    nullspace: int
    preconditioner: Any
    notes: tuple[str, ...]
    each: tuple[SolveInfo, ...]

    def __new__(cls, value: int = 0, **facts: Any) -> SolveInfo:
        """Make the integer, then attach the facts."""
        info = super().__new__(cls, value)
        defaults: dict[str, Any] = {
            "reason": Reason.MAXITER if value else Reason.CONVERGED, "iterations": 0, "matvecs": 0, "residuals": (),
            "true_residual": math.nan, "setup_seconds": 0.0, "compile_seconds": 0.0, "nullspace": 0, "notes": (),
            "preconditioner": None, "each": (),
        }  # fmt: skip
        info.__dict__.update(defaults | facts)
        return info

    def __repr__(self) -> str:
        text = f"{int(self)}, {self.reason.name} after {self.iterations} iterations"
        return f"SolveInfo({', '.join([text, f'‖b - Ax‖ = {self.true_residual:.3g}', *self.notes])})"

    __str__ = __repr__

    @classmethod
    def of_batch(cls, each: Sequence[SolveInfo], **facts: Any) -> SolveInfo:
        """Sum up a batch: 0 if and only if every right-hand side has converged.

        >>> SolveInfo.of_batch([SolveInfo(0, iterations=3), SolveInfo(9, iterations=9)])
        SolveInfo(9, MAXITER after 9 iterations, ‖b - Ax‖ = nan, 1 of 2 failed: 1)
        """
        failed = [k for k, info in enumerate(each) if info]
        first = each[failed[0]] if failed else None
        listed = ", ".join(map(str, failed[:8])) + (", ..." if len(failed) > 8 else "")
        found: dict[str, Any] = {
            "reason": first.reason if first else Reason.CONVERGED,
            "iterations": max((info.iterations for info in each), default=0),
            "matvecs": sum(info.matvecs for info in each),
            "true_residual": _largest([info.true_residual for info in each]),
            "setup_seconds": sum(info.setup_seconds for info in each),
            "compile_seconds": sum(info.compile_seconds for info in each),
            "nullspace": max((info.nullspace for info in each), default=0),
            "preconditioner": next((info.preconditioner for info in each), None),
            "notes": (f"{len(failed)} of {len(each)} failed: {listed}",) if failed else (),
            "each": tuple(each),
        }
        if "notes" in facts:
            facts["notes"] = (*facts["notes"], *found["notes"])
        return cls(int(first) if first else 0, **(found | facts))


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)


class ConvergenceError(RuntimeError):
    """A solve that was asked to raise did not converge; ``.info`` tells why, ``.x`` is the last iterate."""

    def __init__(self, info: SolveInfo, x: Any = None):
        super().__init__(f"{info.reason.name}: {info.reason.value} ({info!r})")
        self.info, self.x = info, x

    def __reduce__(self) -> tuple[Any, ...]:
        return ConvergenceError, (self.info, self.x)
