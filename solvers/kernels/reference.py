"""The kernels of the V-cycle in plain torch: slow, obvious, differentiable, on any device. The truth for `kernels.cpu`.

Every array is an internal grid ``(..., nx, ny, nz)`` (2D systems have ny = 1) and leading dimensions are batches. One
level holds a `Stencil` and, towards the next level, a `Transfer`:

    A x          = diag x - Σ_d ( w_d x₊ + w₋ x₋ )              w_d, w₋: links with the upper and lower neighbour
    smoothing    x ← x + ω (s/diag) (b - A x)                   ω = ω₁, ω₂ before, ω₂, ω₁ after the correction
    P            = L_z L_y L_x E,     (L_d v)ₖ = (1 - a_d,k) vₖ + a_d,k v_outer(k)
    restriction  = Pᵀ exactly

E copies a coarse value to the (up to eight) cells of its block. The *outer* neighbour of a cell along an axis is the
one that belongs to the next block; the *partner* is the other cell of its own block. Where the weights vary, the three
mixings do not commute, so the order of the axes matters a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class JacobiDamping(NamedTuple):
    """Factors of the two damped Jacobi steps, in this order before the coarse correction and reversed after it."""

    first: float
    second: float


OMEGA = JacobiDamping(first=0.57, second=1.4)
"""Damping of the two Jacobi steps: |(1 - 0.57 t)(1 - 1.4 t)| < 1 on (0, 2], where (s/diag) A has its spectrum.

Two steps are written out in every cycle: CONTRIBUTING, "Changing the cycle", lists the places.
"""


def neighbour(x: Tensor, d: int, step: int, periodic: bool = False) -> Tensor:
    """Return the value at index + step (1 or -1) along internal axis d; zero outside the box, wrapped if periodic."""
    ax, n = d - 3, x.shape[d - 3]
    if periodic:
        return torch.roll(x, -step, ax)
    zero = torch.zeros_like(x.narrow(ax, 0, 1))
    if step == 1:
        return torch.cat([x.narrow(ax, 1, n - 1), zero], ax)
    return torch.cat([zero, x.narrow(ax, 0, n - 1)], ax)


def ghosts(x: Tensor, d: int, periodic: bool) -> Tensor:
    """Add one layer at both ends of internal axis d: zeros, or the other end of a periodic axis."""
    ax, n = d - 3, x.shape[d - 3]
    first, last = x.narrow(ax, 0, 1), x.narrow(ax, n - 1, 1)
    return torch.cat([last, x, first] if periodic else [torch.zeros_like(first), x, torch.zeros_like(last)], ax)


@dataclass(frozen=True)
class Stencil:
    """A 7-point operator of one level: conductances between cells, to p = 0, and a directionless shift.

    links, ground : three tensors each, see `krylearn.pde.Poisson`; shift : tensor; periodic : one flag per axis.
    lower : links of a cell with its lower neighbours; diag, mask, inv : the diagonal, where it is positive, its inverse
    """

    links: Sequence[Tensor]
    ground: Sequence[Tensor]
    shift: Tensor
    periodic: tuple[bool, bool, bool]
    lower: Sequence[Tensor] = field(init=False)
    diag: Tensor = field(init=False)
    mask: Tensor = field(init=False)
    inv: Tensor = field(init=False)

    def __post_init__(self) -> None:
        lower = [neighbour(w, d, -1, self.periodic[d]) for d, w in enumerate(self.links)]
        diag = self.shift + sum(self.ground) + sum(self.links) + sum(lower)
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "diag", diag)
        object.__setattr__(self, "mask", (diag > 0).to(diag.dtype))
        object.__setattr__(self, "inv", torch.where(diag > 0, 1 / torch.where(diag > 0, diag, 1), 0))

    @property
    def size(self) -> tuple[int, int, int]:
        """Cells per axis."""
        return tuple(self.shift.shape[-3:])  # type: ignore[return-value]

    def to(self, dtype: torch.dtype) -> Stencil:
        """Convert the conductances to another precision; the diagonal is summed there."""
        return Stencil(
            [w.to(dtype) for w in self.links], [g.to(dtype) for g in self.ground], self.shift.to(dtype), self.periodic
        )


def apply(op: Stencil, x: Tensor) -> Tensor:
    """Compute A x."""
    y = op.diag * x
    for d in range(3):
        if x.shape[d - 3] > 1:
            around = ghosts(x, d, op.periodic[d])
            n = x.shape[d - 3]
            y = torch.addcmul(y, op.links[d], around.narrow(d - 3, 2, n), value=-1)
            y = torch.addcmul(y, op.lower[d], around.narrow(d - 3, 0, n), value=-1)
    return y


def smooth(op: Stencil, s: Tensor, x: Tensor, b: Tensor, omega: float) -> Tensor:
    """Take one Jacobi step with the learned damping s in (0, 1] times omega."""
    return x + omega * s * op.inv * (b - apply(op, x))


def smooth_from_zero(op: Stencil, s: Tensor, b: Tensor) -> Tensor:
    """Take the two steps before the coarse correction, from x = 0."""
    return smooth(op, s, OMEGA[0] * s * op.inv * b, b, OMEGA[1])


# --- blocks of two cells per coarsened axis ---------------------------------------------------------------------------


def position(x: Tensor, d: int) -> Tensor:
    """Return the index along internal axis d, shaped for broadcasting."""
    shape = [1, 1, 1]
    shape[d] = x.shape[d - 3]
    return torch.arange(shape[d], device=x.device).view(shape)


def outer(x: Tensor, d: int, periodic: bool) -> Tensor:
    """Return the value of the outer neighbour along a coarsened axis d: of k - 1 for even k, of k + 1 for odd k."""
    around, n = ghosts(x, d, periodic), x.shape[d - 3]
    even = position(x, d) % 2 == 0
    return torch.where(even, around.narrow(d - 3, 0, n), around.narrow(d - 3, 2, n))


def block_sum(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Sum over the cells of each block; the last block of an odd axis holds one cell."""
    for d, f in enumerate(factors):
        if f == 2:
            ax, n = x.dim() - 3 + d, x.shape[d - 3]
            if n % 2:
                x = torch.cat([x, torch.zeros_like(x.narrow(ax, 0, 1))], ax)
            x = x.unflatten(ax, (-1, 2)).sum(ax + 1)
    return x


def block_expand(c: Tensor, factors: Sequence[int], size: Sequence[int]) -> Tensor:
    """Copy each coarse value to the cells of its block: the transpose of `block_sum`."""
    for d, f in enumerate(factors):
        if f == 2:
            c = c.repeat_interleave(2, d - 3).narrow(d - 3, 0, size[d])
    return c


@dataclass(frozen=True)
class Transfer:
    """Prolongation weights a_d in [0, 1] towards the outer neighbour per coarsened axis, and which axes those are.

    weights : None along an axis that is not coarsened; factors : 1 or 2 per axis; mask : 1 where an unknown is
    """

    weights: Sequence[Tensor | None]
    factors: tuple[int, int, int]
    mask: Tensor
    periodic: tuple[bool, bool, bool]

    @property
    def identity_transfer(self) -> bool:
        """Whether this is the identity, to a further visit of the same level."""
        return self.factors == (1, 1, 1)


def prolong(t: Transfer, c: Tensor) -> Tensor:
    """Compute P c: copy to the blocks, then mix with the outer neighbour, axis by axis."""
    x = block_expand(c, t.factors, t.mask.shape[-3:]) * t.mask
    for d, a in enumerate(t.weights):
        if a is not None:
            x = torch.lerp(x, outer(x, d, t.periodic[d]), a)
    return x


def restrict(t: Transfer, r: Tensor) -> Tensor:
    """Compute Pᵀ r: every cell gives its share a to the outer neighbour, then blocks are summed."""
    y = r * t.mask
    for d in reversed(range(3)):
        a = t.weights[d]
        if a is not None:
            q, n = a * y, y.shape[d - 3]
            around = ghosts(q, d, t.periodic[d])
            gives_down = (position(y, d) % 2 == 0).to(y.dtype)  # even k gives to k - 1, odd k to k + 1
            flags = ghosts(gives_down, d, t.periodic[d])
            y = y - q
            y = torch.addcmul(y, around.narrow(d - 3, 2, n), flags.narrow(d - 3, 2, n))
            y = torch.addcmul(y, around.narrow(d - 3, 0, n), 1 - flags.narrow(d - 3, 0, n))
    return block_sum(y, t.factors)
