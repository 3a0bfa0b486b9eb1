"""How sharp a loss may be before an optimizer's step grows: exact for quadratics, in the unit of 1/lr.

gradient descent 2/η;  momentum 2(1+β)/((1-d)η), d = dampening;  Nesterov 2(1+β)/((1+2β)η)
Adam on P^(-1/2) H P^(-1/2) with P frozen: 2(1+β₁)/((1-β₁)η)  (Cohen et al., arXiv 2207.14484)
batch sharpness: 2(1-β)/η at small, 2(1+β)/η at large batches  (arXiv 2604.14108)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Threshold(NamedTuple):
    """What sharpness is compared with, and why; weight_decay: added to eigenvalues where gradients contain it."""

    sharpness: float
    small_batch: float
    large_batch: float
    preconditioned: bool
    weight_decay: float
    rule: str


def momentum_threshold(lr: float, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False) -> float:
    """Return the largest stable eigenvalue of torch's SGD: buf ← β·buf + (1-d)·g.

    Examples
    --------
    >>> momentum_threshold(0.1), round(momentum_threshold(0.1, 0.9), 6), round(momentum_threshold(0.1, 0.9, 0.9), 6)
    (20.0, 38.0, 380.0)
    """
    if lr <= 0:
        return float("inf")
    if nesterov:
        return 2 * (1 + momentum) / ((1 + 2 * momentum) * lr)
    return 2 * (1 + momentum) / ((1 - dampening if momentum else 1.0) * lr)


def threshold_of(optimizer: Any) -> Threshold:
    """Read the thresholds off the first group of an optimizer; lr and momentum are those in force now.

    Examples
    --------
    >>> import torch
    >>> threshold_of(torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.5)).small_batch
    10.0
    """
    group: Mapping[str, Any] = optimizer.param_groups[0]
    lr, decay = float(group["lr"]), float(group.get("weight_decay", 0.0))
    edge = float("inf") if lr <= 0 else 1 / lr
    if "betas" in group:
        beta = float(group["betas"][0])
        rule = f"Adam with a frozen preconditioner: 2(1+β₁)/((1-β₁)η), β₁ = {beta:g}, η = {lr:g}"
        return Threshold(
            momentum_threshold(lr, beta, beta), 2 * edge, momentum_threshold(lr, beta, beta), True, 0.0, rule
        )
    beta, damp = float(group.get("momentum", 0.0)), float(group.get("dampening", 0.0))
    nesterov = bool(group.get("nesterov", False))
    top = momentum_threshold(lr, beta, damp, nesterov)
    small = 2 * (1 - beta) * edge / (1 - damp if beta else 1.0)
    name = "Nesterov" if nesterov else ("momentum" if beta else "gradient descent")
    rule = f"{name}: β = {beta:g}, η = {lr:g}"
    return Threshold(top, small, top, "alpha" in group, decay, rule)
