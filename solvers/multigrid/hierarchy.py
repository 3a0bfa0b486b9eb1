"""The hierarchy of levels that a rule builds, and the symmetric V-cycle over it, in plain torch (differentiable).

A *rule* is a callable ``rule(stencil, factors) -> (s, transfer, coarse stencil)``: the classical ones of `coarsening`,
or the network of `network`. Every rule gives a symmetric positive definite cycle;
`krylearn.solvers.NeuralMultigrid` has the proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..kernels import reference as kernels
from ..kernels.reference import OMEGA, Stencil, Transfer
from .coarsening import choose_factors, classical

COARSEST = 128  # cells of the level that is inverted densely: 64 KiB in fp32, read once per cycle

Rule = Callable[[Stencil, tuple[int, int, int]], tuple[Tensor, Transfer, Stencil]]


class KernelLevel(Protocol):
    """A level of some kernels."""

    def repeat(self: T) -> T:
        """Share the arrays, with the identity as transfer."""


T = TypeVar("T", bound=KernelLevel)

geometric: Rule = partial(classical, kind="geometric")
resistor: Rule = partial(classical, kind="resistor")


@dataclass(frozen=True)
class Level:
    """One level above the coarsest: its operator, damping and transfer to the next."""

    op: Stencil
    s: Tensor
    transfer: Transfer

    def repeat(self) -> Level:
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


def generalised_inverse(op: Stencil, applied_in: torch.dtype = torch.float32) -> Tensor:
    """D^(-1/2) (D^(-1/2) A D^(-1/2))⁺ D^(-1/2): symmetric, positive semidefinite, exact on the range of A; in fp64.

    The scaling by the diagonal keeps the rank decision independent of contrast. The row sums are formed in fp64, else
    the null space of a singular component would show up as an eigenvalue of either sign near 1e-8.

    applied_in : dtype of the cycle. An eigenvalue λ contributes 1/(mλ) to every entry, whose rounding has to stay below
        what the others contribute: smaller ones count as zero.
    """
    m = op.shift.shape[-3:].numel()
    rank_tolerance = 1e-13 if applied_in == torch.float64 else max(1e-9, 2.5e-7 / m)
    op = op.to(torch.float64)
    root = op.inv.sqrt().flatten(-3)
    scaled = root[..., :, None] * dense(op) * root[..., None, :]
    scaled = 0.5 * (scaled + scaled.mT)
    return root[..., :, None] * torch.linalg.pinv(scaled, hermitian=True, rtol=rank_tolerance) * root[..., None, :]


def varies(links: Sequence[Tensor]) -> bool:
    """Return whether a medium has links of several conductances (0 is none); links : of the finest level.

    Examples
    --------
    >>> varies([torch.ones(4), torch.tensor([0.0, 1.0])]), varies([torch.arange(4.0)])
    (False, True)
    """
    largest = max(float(w.max()) for w in links)
    for w in links:
        # most media that vary do so in the first plane; of a device, ask once
        for plane in w if w.dim() > 1 and w.device.type == "cpu" else (w,):
            if not bool(((plane == 0) | (plane == largest)).all()):
                return True
    return False


def visits(reduction: float, varying: bool) -> int:
    """Return how often a level is smoothed that has `reduction` times fewer cells than the finest.

    The more, the smaller. That costs 2 % of an iteration, or 9 % where the medium varies, and saves up to a fifth of
    them (ours, docs/studies/neural-multigrid.md; doubling on every level: Bramble and Pasciak, Math. Comp. 49, 1987).

    Examples
    --------
    >>> [visits(8**l, varying=False) for l in range(4)], [visits(8**l, varying=True) for l in range(4)]
    ([1, 1, 2, 2], [1, 2, 4, 4])
    """
    if varying:
        return 4 if reduction >= 64 else 2 if reduction >= 8 else 1
    return 2 if reduction >= 64 else 1


class Coarsening(NamedTuple):
    """How a level is coarsened: its number (0: the finest), factors per axis, how often it is smoothed."""

    level: int
    factors: tuple[int, int, int]
    visits: int


def coarsen(
    size: Sequence[int],
    choose: Callable[[Sequence[int]], tuple[int, int, int]],
    *,
    varying: bool,
    coarsest: int = COARSEST,
) -> Iterator[Coarsening]:
    """Yield level by level how to coarsen, until at most `coarsest` cells are left: the one loop of all set-ups.

    Parameters
    ----------
    size : cells per axis of the finest level
    choose : (size of a level) -> its factors; asked when that level's operator is there
    varying : whether the medium varies, see `visits`

    Examples
    --------
    >>> [tuple(step) for step in coarsen((32, 32, 8), lambda size: (2, 2, 1), varying=False)]
    [(0, (2, 2, 1), 1), (1, (2, 2, 1), 1), (2, (2, 2, 1), 1)]
    """
    size, level, reduction = tuple(size), 0, 1
    while math.prod(size) > coarsest:
        factors = choose(size)
        yield Coarsening(level, factors, visits(reduction, varying))
        size = tuple(-(-n // f) for n, f in zip(size, factors, strict=True))
        reduction, level = reduction * math.prod(factors), level + 1


def build(op: Stencil, rule: Rule, coarsest: int = COARSEST) -> Hierarchy:
    """Coarsen until at most `coarsest` cells are left."""
    levels: list[Level] = []

    def choose(_: Sequence[int]) -> tuple[int, int, int]:
        return choose_factors(op)

    for _, factors, times in coarsen(op.size, choose, varying=varies(op.links), coarsest=coarsest):
        # a level visited again comes first as copies whose transfer is the identity: the cycle needs no case for it
        s, transfer, coarse = rule(op, factors)
        level = Level(op, s, transfer)
        levels += [level.repeat()] * (times - 1) + [level]
        op = coarse
    return Hierarchy(levels, op, generalised_inverse(op).to(op.shift.dtype))


def convert_levels(h: Hierarchy, convert: Callable[[Level, bool], T]) -> list[T]:
    """Return the levels as some kernels store them; a level that is visited again shares its arrays by `.repeat()`.

    convert : (level, whether it is the finest) -> the level of these kernels
    """
    levels: list[T] = []
    for level in reversed(h.levels):
        levels.append(levels[-1].repeat() if level.transfer.identity_transfer else convert(level, level is h.levels[0]))
    return levels[::-1]


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
