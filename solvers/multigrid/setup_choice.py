"""What a set-up takes, and why: levels, rule, precision; a value that a user can read and a test can compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

Array = np.ndarray[Any, Any]

# A coarse unknown is isolated if its diagonal is below this part of what its cells' diagonals add up to: sums over its
# cells, rounded to fp32, then say nothing of what leaves it.
ISOLATED = 2e-7
MANY = 0.05  # isolated unknowns of a level, as a share, from which on the cycle runs in fp64
CONTRAST = 1e6  # of diagonals, from which on the classical rules on grids run in fp64


@dataclass(frozen=True)
class SetupChoice:
    """What a set-up has chosen.

    coarsening : "blocks" (one coarse unknown per block of cells), "pieces" (of blocks), or "none" (inverted directly)
    rule : "network", "resistor", "geometric", "tuned", "module" or the name of a file: what computes the weights; of
        pieces "trained" (the resistor rule with step sizes of a trained network) or "resistor" (without)
    precision : "float32", "float64" or "bfloat16" (stored so, computed in float32), of the cycle
    kernels : "numba", "Triton", "torch", or "sparse products of torch"
    reuse : how many solves the set-up was to serve
    levels : one line per level, fine to coarse
    why : the reasons, in one sentence

    Examples
    --------
    >>> print(SetupChoice("pieces", "resistor", "float32", "numba", 1, ("8 x 8", "4 unknowns, inverted"), "asked for"))
    pieces by the resistor rule, 2 levels in float32, kernels numba: asked for
    """

    coarsening: str
    rule: str
    precision: str
    kernels: str
    reuse: int
    levels: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        if self.coarsening == "none":
            return f"inverted directly in {self.precision}: {self.why}"
        rule = {"network": "network", "trained": "resistor rule with trained steps"}.get(self.rule, f"{self.rule} rule")
        count = f"{len(self.levels)} levels in {self.precision}"
        return f"{self.coarsening} by the {rule}, {count}, kernels {self.kernels}: {self.why}"

    def because(self, reason: str) -> SetupChoice:
        """Return the same choice with one more reason."""
        return replace(self, why=f"{self.why}; {reason}" if self.why else reason)


def share_of_isolated(below: Array, summed: Array) -> float:
    """Return the share of coarse unknowns that hardly anything leaves.

    Parameters
    ----------
    below : diagonal of the coarse operator
    summed : for each coarse unknown, the diagonals of the finest level of all its cells, added up

    Notes
    -----
    The right-hand side of a coarse unknown is the sum of residuals over its cells. In a cycle of unit roundoff u these
    have errors up to u D |x| each, D their diagonals, so the sum has u |x| sum D; the coarse equation weighs the same
    |x| by its own diagonal. Contrast alone is harmless: where a medium changes by decades but step by step, pieces
    leave one another by links that are large against the sum.

    Examples
    --------
    >>> share_of_isolated(np.array([1e-9, 0.5]), np.array([2.0, 2.0]))
    0.5
    """
    return float(np.mean(below < ISOLATED * summed)) if below.size else 0.0


class IsolatedPiecesError(ValueError):
    """Raised where a set-up in fp32 meets a level with too many isolated unknowns; `share` tells how many."""

    def __init__(self, share: float) -> None:
        super().__init__(
            f"got {share:.0%} of the unknowns of a level isolated; expected fewer for float32: use float64"
        )
        self.share = share


def check_isolated(below: Array, summed: Array, allowed: float) -> None:
    """Raise if more than `allowed` of the coarse unknowns are isolated, see `share_of_isolated`.

    Examples
    --------
    >>> check_isolated(np.array([1e-9, 0.5]), np.array([2.0, 2.0]), allowed=0.5)
    """
    share = share_of_isolated(below, summed)
    if share > allowed:
        raise IsolatedPiecesError(share)


def find_contrast(diagonal: Tensor) -> float:
    """Return the largest positive entry over the smallest one; 1 without any.

    Examples
    --------
    >>> import torch
    >>> find_contrast(torch.tensor([0.0, 2.0, 8.0]))
    4.0
    """
    positive = diagonal[diagonal > 0]
    return float(positive.max() / positive.min()) if positive.numel() else 1.0
