"""Where the ramp begins: the optimizer's own first update, and the lr at which it stops lowering the loss."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from .loss import LossSource, norm, shifted
from .state import parameters_of


def proposed(base: torch.optim.Optimizer, gradient: list[Tensor]) -> list[Tensor]:
    """Return u of the step θ - lr·u that a copy of the optimizer takes with this gradient; exact for any lr.

    The copy stands at θ = 0 with lr 1 in the first group, so the ratios between groups stay and nothing is rounded
    away. Where such a step is zero (steps relative to ‖θ‖), the gradient itself is returned.

    Examples
    --------
    >>> p = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> [u.tolist() for u in proposed(torch.optim.SGD([p], lr=1e-6), [torch.tensor([3.0, -5.0])])]
    [[3.0, -5.0]]
    """
    twin = copy.deepcopy(base)
    first = float(base.param_groups[0]["lr"])
    for group in twin.param_groups:
        ratio = float(group["lr"]) / first
        group["lr"] = torch.full_like(group["lr"], ratio) if isinstance(group["lr"], Tensor) else ratio
        if "momentum" in group:
            group["momentum"] = 0.0
            group.update({"nesterov": False} if "nesterov" in group else {})
    copies = parameters_of(twin)
    with torch.no_grad():
        for p, g in zip(copies, gradient, strict=True):
            p.zero_()
            p.grad = g.clone()
    twin.step()
    moved = [-p.detach() for p in copies]
    size = norm(moved)
    return moved if math.isfinite(size) and size > 0 else gradient


def critical_lr(source: LossSource, owned: list[Tensor], update: list[Tensor], loss: float, limit: int = 16) -> float:
    """Return the lr along an update between one that lowers the loss and one four times larger that raises it.

    Forward passes only. The search begins with a step of a hundredth of the parameters' norm, so neither the unit of
    the loss nor the lr in force matter. 0 or infinity if nothing is found.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> source = LossSource(lambda batch: (w**2).sum(), None)               # rises beyond lr 1 along the gradient 2w
    >>> critical_lr(source, [w], [torch.tensor([2.0])], 1.0)
    0.64
    """
    size = norm(update)
    eta = 0.01 * (norm(owned) or 1.0) / size if size > 0 else 0.0

    def rises(lr: float) -> bool:
        with shifted(owned, update, -lr):
            return not source.value() <= loss

    up = not rises(eta) if eta > 0 else False
    for _ in range(limit):
        if eta == 0 or rises(4 * eta if up else eta / 4) == up:
            return 2 * eta if up else eta / 2
        eta *= 4 if up else 0.25
    return math.inf if up else 0.0
