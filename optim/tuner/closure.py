"""The opt-in: losses taken from the closure of `step`, which zeroes gradients and runs backward itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .state import parameters_of


def observe_closure(tuner: Any, closure: Callable[[], Any]) -> None:
    """Let a tuner observe through a closure; gradients are put back, and each call counts as a gradient.

    Examples
    --------
    >>> from .optimizer import CurvatureTuner
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> def closure():
    ...     w.grad = None
    ...     loss = (w**2).sum()
    ...     loss.backward()
    ...     return loss
    >>> tuner = CurvatureTuner(torch.optim.SGD([w], lr=1.0), closure=True)
    >>> observe_closure(tuner, closure)
    >>> tuner.facts.phase, w.grad
    ('ramp', None)
    """
    owned, calls = parameters_of(tuner.base), 0
    grads = [p.grad for p in owned]

    def loss_fn(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            loss = closure()
        return _from_gradients(loss, owned) if wanted else loss.detach()

    before = tuner.facts.spent
    tuner.observe(loss_fn, None)
    tuner.facts.spent = max(tuner.facts.spent, before + calls)
    for p, g in zip(owned, grads, strict=True):
        p.grad = g


def _from_gradients(loss: Tensor, owned: list[Tensor]) -> Tensor:
    """Return a tensor with the loss's value whose gradient is what the closure has left in `.grad`: its graph is gone.

    It is linear, so a second derivative is zero: products fall back to differences of gradients.
    """
    linear = torch.stack([(p * p.grad.detach()).sum() for p in owned if p.grad is not None]).sum()
    return loss.detach() + linear - linear.detach()
