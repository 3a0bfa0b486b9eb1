"""Symmetry check: an inner product now and then tells whether CG's theory holds for a preconditioner.

For a linear symmetric positive definite M the residuals of CG are M-orthogonal. So the cosine

    cₖ = zₖ₋₁ᵀrₖ / sqrt(zₖ₋₁ᵀrₖ₋₁ · zₖᵀrₖ)        zₖ = M rₖ

is zero up to rounding. For a map that is not linear or not symmetric it is not, from the second step on, while r·Mr
and p·Ap may well stay positive: then CG neither fails nor converges as it should, and nothing else would show it. The
cosine only raises suspicion; the driver then spends two applications of M on u·Mv = v·Mu before it accuses.

Notay, SIAM J. Sci. Comput. 22 (2000): the terms that flexible CG keeps are these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .driver import State, Steps, dot
from .system import Preconditioner

SUSPICIOUS = 0.03
"""Measured: at most 6e-3 for cycles rounded to bfloat16, 6e-8 in float32; above 0.1 within a few steps otherwise."""
EVERY_STEP, LATER = 20, 10
"""Check the first 20 steps, then every 10th: with a cheap M two extra inner products are measurable."""


class SymmetryCheck:
    """M, with the cosine between consecutive residuals; everything else is M's.

    Attributes
    ----------
    cosine : 0-dimensional tensor on M's device, the largest |c| since it was last cleared, or None
    """

    def __init__(self, M: Preconditioner) -> None:
        self.M, self.operator, self.limit, self.calls = M, M.operator, SUSPICIOUS, 0
        self.forget_step()

    def forget_step(self) -> None:
        """Forget the last step: what comes next is no step of the same recurrence."""
        self.z: torch.Tensor | None = None
        self.rz: torch.Tensor | None = None
        self.cosine: torch.Tensor | None = None

    def __call__(self, r: torch.Tensor) -> torch.Tensor:
        """Return M r."""
        cross = None if self.z is None else dot(self.z, r).abs()
        z, self.z = self.M(r), None
        self.calls += 1
        remember = self.calls <= EVERY_STEP or self.calls % LATER == 0
        if cross is None and not remember:
            return z
        rz = dot(r, z)
        if cross is not None and self.rz is not None:
            cosine = cross / (self.rz.abs() * rz.abs()).sqrt()
            self.cosine = cosine if self.cosine is None else torch.maximum(cosine, self.cosine)
        if remember:
            shared = z.untyped_storage().data_ptr() == r.untyped_storage().data_ptr()  # r will change in place
            self.z, self.rz = (z.clone() if shared else z), rz
        return z

    def is_suspicious(self) -> bool:
        """Whether a cosine since the last question was too large; then the next has to be twice as large."""
        cosine, self.cosine = self.cosine, None
        if cosine is None or not float(cosine) > self.limit:
            return False
        self.limit *= 2
        return True


def check_symmetry(steps: Steps) -> Steps:
    """Return the recurrence whose M is checked for symmetry: every restart forgets the step before it."""

    def run(A: Any, b: torch.Tensor, x: torch.Tensor, M: Any) -> Iterator[State]:
        M.forget_step()
        return steps(A, b, x, M)

    return run
