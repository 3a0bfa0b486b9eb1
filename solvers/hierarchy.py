"""The hierarchy of levels that a rule builds, and the symmetric V-cycle over it, in plain torch (differentiable).

A *rule* is a callable ``rule(stencil, factors) -> (s, transfer, coarse stencil)``: the classical ones of `coarsening`,
or the network of `coefficients`. Every rule gives a symmetric positive definite cycle;
`krylearn.solvers.NeuralMultigrid` has the proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .coarsening import choose_factors, classical
from .kernels import reference as kernels
from .kernels.reference import OMEGA, Stencil, Transfer

COARSEST = 128  # cells of the level that is inverted densely: 64 KiB in fp32, read once per cycle
# A level with so many times fewer cells than the finest is smoothed twice: 2 % of an iteration are spent from 64 on,
# 7 % from 8 on, and up to a fifth of them saved where coefficients vary (ours, docs/neural-multigrid.md).
TWICE, TWICE_VARYING = 64, 8

Rule = Callable[[Stencil, tuple[int, int, int]], tuple[Tensor, Transfer, Stencil]]

geometric: Rule = partial(classical, kind="geometric")
resistor: Rule = partial(classical, kind="resistor")


@dataclass(frozen=True)
class Level:
    """One level above the coarsest: its operator, damping and transfer to the next."""

    op: Stencil
    s: Tensor
    transfer: Transfer

    def stay(self) -> Level:
        """Return the level with the identity as transfer: a pair of smoothing steps more on either side."""
        return Level(self.op, self.s, Transfer([None] * 3, (1, 1, 1), self.op.mask, self.op.periodic))


@dataclass(frozen=True)
class Hierarchy:
    """Levels from fine to coarse, then the coarsest operator and its symmetric generalised inverse (..., m, m)."""

    levels: list[Level]
    bottom: Stencil
    inverse: Tensor


def dense(op: Stencil) -> Tensor:
    """Assemble an operator as a matrix (..., m, m): apply it to every unit vector."""
    m = op.shift.shape[-3:].numel()
    eye = torch.eye(m, dtype=op.shift.dtype, device=op.shift.device).view(m, *([1] * (op.shift.dim() - 3)), *op.size)
    columns = kernels.apply(op, eye.expand(m, *op.shift.shape))
    return columns.flatten(-3).movedim(0, -1)


def generalised_inverse(op: Stencil) -> Tensor:
    """D^(-1/2) (D^(-1/2) A D^(-1/2))⁺ D^(-1/2): symmetric, positive semidefinite, exact on the range of A; in fp64.

    The scaling by the diagonal keeps the rank decision independent of contrast. The row sums are formed in fp64, else
    the null space of a singular component would show up as an eigenvalue of either sign near 1e-8.
    """
    op = op.to(torch.float64)
    root = op.inv.sqrt().flatten(-3)
    scaled = root[..., :, None] * dense(op) * root[..., None, :]
    scaled = 0.5 * (scaled + scaled.mT)
    return root[..., :, None] * torch.linalg.pinv(scaled, hermitian=True, rtol=1e-9) * root[..., None, :]


def smoothed_twice_from(links: Sequence[Tensor]) -> int:
    """Return from which reduction on levels are smoothed twice; links : of the finest level.

    Examples
    --------
    >>> smoothed_twice_from([torch.ones(4), torch.tensor([0.0, 1.0])]), smoothed_twice_from([torch.arange(4.0)])
    (64, 8)
    """
    largest = max(float(w.max()) for w in links)
    for w in links:
        # most media that vary do so in the first plane; of a device, ask once
        for plane in w if w.dim() > 1 and w.device.type == "cpu" else (w,):
            if not bool(((plane == 0) | (plane == largest)).all()):
                return TWICE_VARYING
    return TWICE


def build(op: Stencil, rule: Rule, coarsest: int = COARSEST) -> Hierarchy:
    """Coarsen until at most `coarsest` cells are left."""
    levels, reduction, twice = [], 1, smoothed_twice_from(op.links)
    while op.shift.shape[-3:].numel() > coarsest:
        factors = choose_factors(op)
        s, transfer, coarse = rule(op, factors)
        level = Level(op, s, transfer)
        levels += [level.stay(), level] if reduction >= twice else [level]
        op, reduction = coarse, reduction * math.prod(factors)
    return Hierarchy(levels, op, generalised_inverse(op).to(op.shift.dtype))


def v_cycle(h: Hierarchy, b: Tensor, l: int = 0) -> Tensor:
    """Compute z = M b: two Jacobi steps, coarse correction, the two steps in reverse order; symmetric, definite."""
    if l == len(h.levels):
        return (h.inverse @ b.flatten(-3)[..., None])[..., 0].unflatten(-1, h.bottom.size)
    level = h.levels[l]
    x = kernels.smooth_from_zero(level.op, level.s, b)
    r = b - kernels.apply(level.op, x)
    x = x + kernels.prolong(level.transfer, v_cycle(h, kernels.restrict(level.transfer, r), l + 1))
    x = kernels.smooth(level.op, level.s, x, b, OMEGA[1])
    return kernels.smooth(level.op, level.s, x, b, OMEGA[0])
