"""How learned values stand in the groups: while a step is made, and nowhere else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

NAMES = ("lr", "momentum", "betas")


def momentum_name(base: torch.optim.Optimizer) -> str | None:
    """Return where a base keeps the momentum that may be learned: "momentum", "betas" of Adam's family, or None.

    Other optimizers with `betas` may mean something else by the first one, so they keep theirs.

    Examples
    --------
    >>> momentum_name(torch.optim.SGD([torch.ones(1)])), momentum_name(torch.optim.AdamW([torch.ones(1)]))
    ('momentum', 'betas')
    """
    group = base.param_groups[0]
    if "momentum" in group:
        return "momentum"
    optim = torch.optim
    family = isinstance(base, optim.Adam | optim.AdamW | optim.NAdam | optim.RAdam | optim.Adamax)
    return "betas" if family and isinstance(group["betas"][0], float | int) else None


def with_momentum(group: dict[str, Any], name: str, momentum: float) -> Any:
    """Return what a group's entry becomes with a learned momentum.

    Examples
    --------
    >>> with_momentum({"betas": (0.9, 0.999)}, "betas", 0.5)
    (0.5, 0.999)
    """
    return (momentum, *group["betas"][1:]) if name == "betas" else momentum


@contextlib.contextmanager
def effective(base: torch.optim.Optimizer, scale: float, momentum: float) -> Iterator[None]:
    """Multiply the groups' lrs and set their momentum (NaN: left alone); at the end what stood there is back.

    Examples
    --------
    >>> sgd = torch.optim.SGD([torch.ones(1)], lr=1.0)
    >>> with effective(sgd, 0.25, 0.9):
    ...     print(sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"])
    0.25 0.9
    >>> sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]
    (1.0, 0)
    """
    name = momentum_name(base) if math.isfinite(momentum) else None
    if scale == 1.0 and name is None:
        yield
        return
    outside = [(group, group["lr"], group[name] if name else None) for group in base.param_groups]
    saved = [lr.clone() if isinstance(lr, Tensor) else lr for _, lr, _ in outside]
    try:
        for group, lr, _ in outside:
            group["lr"] = lr.mul_(scale) if isinstance(lr, Tensor) else lr * scale
            if name:
                group[name] = with_momentum(group, name, momentum)
        yield
    finally:
        for (group, lr, old_momentum), old in zip(outside, saved, strict=True):
            group["lr"] = lr.copy_(old) if isinstance(lr, Tensor) else lr  # in place: compiled steps hold the tensor
            if name:
                group[name] = old_momentum
