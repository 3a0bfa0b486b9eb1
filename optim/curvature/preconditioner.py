"""What an optimizer makes of a gradient: P of the update -lr · P⁻¹ m, read from its state, and the update itself.

Adam, AdamW:  √v̂ + ε, v̂ = v/(1 - β₂^t), the largest v̂ so far with amsgrad
RMSprop:      √v + ε, v minus the squared mean if centered;     Adagrad:  √(sum of squares) + ε;     SGD:  1
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .network import gather_shards


def denominator(group: Mapping[str, Any], state: Mapping[str, Any], p: Tensor) -> Tensor:
    """Return P of one parameter.

    Examples
    --------
    >>> denominator({"eps": 0.0, "betas": (0.9, 0.75)}, {"exp_avg_sq": torch.tensor([1.0]), "step": 1}, torch.ones(1))
    tensor([2.])
    """
    eps = group.get("eps", 0.0)
    if "exp_avg_sq" in state:
        v = state.get("max_exp_avg_sq", state["exp_avg_sq"])
        return (v / (1 - group["betas"][1] ** float(state["step"]))).sqrt() + eps
    if "square_avg" in state:
        v = state["square_avg"]
        return (v - state["grad_avg"] ** 2 if "grad_avg" in state else v).sqrt() + eps
    if "sum" in state:
        return state["sum"].sqrt() + eps
    if "betas" in group or "alpha" in group:
        raise ValueError("the optimizer has no second moments yet; take at least one step before this")
    return torch.ones_like(p)


def inverse_root(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return P^(-1/2) per named parameter, with the ratio of its group's lr to the first group's; 0 if not owned.

    Examples
    --------
    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> inverse_root(torch.optim.SGD([p], lr=0.1), {"p": p})
    {'p': tensor([1., 1.])}
    """
    owner = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    first = float(optimizer.param_groups[0]["lr"])
    roots = {}
    for name, p in tensors.items():
        group = owner.get(id(p))
        if group is None:
            roots[name] = gather_shards(torch.zeros_like(p, requires_grad=False))
            continue
        lr = float(group["lr"])
        if lr != first and first == 0:
            raise ValueError(f"the first group has lr 0 and another has {lr}; expected a positive first lr")
        ratio = 1.0 if lr == first else lr / first
        P = denominator(group, optimizer.state.get(p, {}), p)
        if not bool((P > 0).all()):
            raise ValueError(f"the preconditioner of {name} has entries <= 0; set eps > 0 or take a step first")
        roots[name] = gather_shards((ratio / P.detach()).sqrt())
    return roots


def propose_update(
    optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor | None], *, unit: bool = False
) -> list[Tensor]:
    """Return u of the step θ - lr·u that a copy of the optimizer takes with these gradients; nothing changes.

    lr is the first group's. Parameters without a gradient (None) are left alone by the copy, hence zero here.

    Parameters
    ----------
    unit : the copy stands at θ = 0 with lr 1 in the first group and no momentum: ratios between groups stay, and
        nothing is rounded away, however small the lr. Where such a step is zero (steps relative to ‖θ‖), or the lr
        is, the gradient itself is returned

    Examples
    --------
    >>> p = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> sgd = torch.optim.SGD([p], lr=1e-6)
    >>> [u.tolist() for u in propose_update(sgd, [torch.tensor([3.0, -5.0])], unit=True)]
    [[3.0, -5.0]]
    """
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    first = float(optimizer.param_groups[0]["lr"])
    plain = [torch.zeros_like(p) if g is None else g for p, g in zip(owned, gradients, strict=True)]
    if first <= 0:
        return plain
    twin = copy.deepcopy(optimizer)
    copies = [p for group in twin.param_groups for p in group["params"]]
    for group in twin.param_groups if unit else ():
        ratio = float(group["lr"]) / first
        group["lr"] = torch.full_like(group["lr"], ratio) if isinstance(group["lr"], Tensor) else ratio
        if "momentum" in group:
            group["momentum"] = 0.0
            group.update({"nesterov": False} if "nesterov" in group else {})
    with torch.no_grad():
        for p, g in zip(copies, gradients, strict=True):
            if unit:
                p.zero_()
            p.grad = None if g is None else g.to(p.dtype).reshape(p.shape).clone()
    twin.step()
    lr = 1.0 if unit else first
    moved = [(q.detach() if unit else q.detach() - p.detach()) / -lr for p, q in zip(owned, copies, strict=True)]
    size = sum(float(m.double().square().sum()) for m in moved)
    return moved if not unit or 0 < size < float("inf") else plain
