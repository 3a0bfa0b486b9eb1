"""What an optimizer divides the gradient by: P of the update -lr · P⁻¹ m, read from its state.

Adam, AdamW:  √v̂ + ε, v̂ = v/(1 - β₂^t), the largest v̂ so far with amsgrad
RMSprop:      √v + ε, v minus the squared mean if centered;     Adagrad:  √(sum of squares) + ε;     SGD:  1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


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
            roots[name] = torch.zeros_like(p, requires_grad=False)
            continue
        lr = float(group["lr"])
        if lr != first and first == 0:
            raise ValueError(f"the first group has lr 0 and another has {lr}; expected a positive first lr")
        ratio = 1.0 if lr == first else lr / first
        P = denominator(group, optimizer.state.get(p, {}), p)
        if not bool((P > 0).all()):
            raise ValueError(f"the preconditioner of {name} has entries <= 0; set eps > 0 or take a step first")
        roots[name] = (ratio / P.detach()).sqrt()
    return roots
