"""How A x and the solution of A x = b depend on conductances: two formulas, both differentiable again.

    (A x)_i = sum over the faces of cell i of  w (x_i - x_other)  +  (ground_i + shift_i) x_i

A is linear in its conductances, so a change dw of them gives the product dA x by the same formula. With A x = b and the
adjoint solution A λ = g for a loss with gradient g in x:

    dloss = λ·(db - dA x):      dloss/dw = -(λ_i - λ_j)(x_i - x_j),     dloss/dground_i = dloss/dshift_i = -λ_i x_i

A conductance that does not couple two unknowns has gradient 0: the set of unknowns is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from krylearn.pde import Poisson
from torch import Tensor


class OperatorTensors(NamedTuple):
    """The tensors of a `Poisson` that its products depend on: three of links, three of ground, shift, and who counts.

    >>> len(OperatorTensors.of(Poisson.from_coefficients(torch.ones(3, 4))))
    8
    """

    link_x: Tensor
    link_y: Tensor
    link_z: Tensor
    ground_x: Tensor
    ground_y: Tensor
    ground_z: Tensor
    shift: Tensor
    unknown: Tensor

    @classmethod
    def of(cls, A: Poisson) -> OperatorTensors:
        """Collect them."""
        return cls(*A.links, *A.ground, A.shift, A.unknown)

    @property
    def links(self) -> tuple[Tensor, Tensor, Tensor]:
        """Conductance to the next cell, per axis."""
        return self[0], self[1], self[2]

    @property
    def ground(self) -> tuple[Tensor, Tensor, Tensor]:
        """Conductance to p = 0, per axis."""
        return self[3], self[4], self[5]


def product(c: OperatorTensors, x: Tensor) -> Tensor:
    """Return A x for x of shape (..., internal grid), in torch operations that any transform can go through.

    Examples
    --------
    >>> A = Poisson.from_coefficients(torch.rand(3, 4), boundary={"x": "periodic"})
    >>> x = torch.rand(3, 1, 4)
    >>> torch.allclose(product(OperatorTensors.of(A), x), A.apply(x), atol=1e-5)
    True
    """
    y = (c.shift + sum(c.ground)) * x
    for d, w in enumerate(c.links):
        flux = w * (x - x.roll(-1, d - 3))  # out of a cell into the next one; the last link is 0 or wraps
        y = y + flux - flux.roll(1, d - 3)
    return torch.where(c.unknown, y, 0)


def gradients(c: OperatorTensors, x: Tensor, adjoint: Tensor, wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Return dloss/d(each field of c), None where it is not wanted; x and adjoint (λ): (batch, internal grid).

    The last link along an axis closes the ring; where the axis does not wrap, it is a constant 0 of the builders, and
    its gradient leads nowhere.

    Examples
    --------
    >>> c = OperatorTensors.of(Poisson.from_coefficients([[1.0, 1.0]], boundary="neumann", shift=1.0))
    >>> x = torch.tensor([[[[2.0, 1.0]]]], dtype=torch.float64)
    >>> float(gradients(c, x, x, [True] * 8)[2][0, 0, 0])              # one face, across which x jumps by 1
    -1.0
    """
    own = -(adjoint * x).sum(0) if any(wanted[3:7]) else None
    found: list[Tensor | None] = [own if w else None for w in wanted]
    for d in range(3):
        if wanted[d]:
            couples = c.unknown & c.unknown.roll(-1, d)
            if c.unknown.shape[d] == 1:
                couples = torch.zeros_like(couples)
            jumps = [v - v.roll(-1, d - 3) for v in (adjoint, x)]
            found[d] = torch.where(couples, -(jumps[0] * jumps[1]).sum(0), 0)
    found[7] = None
    return tuple(found)
