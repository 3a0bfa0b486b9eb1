"""Raise an lr that is too low: in the first hundred steps after the start, by `policies_drift`.

No gradient is taken beside those of the steps, no loss is asked for: two inner products a step, and for that time three
copies of the parameters and one of the gradients. Not where a step has no gradients, or sparse ones; no more after a
blow-up, or after a failure, which is a warning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import drift as policy
from .loss import device_of
from .state import parameters_of

if TYPE_CHECKING:
    from .loop import Loop


class Watch:
    """One step of the base, watched.

    Examples
    --------
    >>> from .loop import Loop
    >>> Watch(Loop(torch.optim.SGD([torch.ones(1)], lr=0.1), budget=0.1, rng=0, own_momentum=True)).active
    False
    """

    def __init__(self, loop: Loop) -> None:
        self.loop, f = loop, loop.facts
        self.active = f.blocks > 0 and f.phase == "hold" and f.rescues == 0 and loop.factor >= 0.5
        if not self.active:
            loop.anchors = []
            return
        self.owned = [p for p in parameters_of(loop.base) if p.grad is not None]
        self.active = bool(self.owned) and not any(p.grad.is_sparse for p in self.owned if p.grad is not None)
        if self.active:
            with self._careful():
                self.gradient = _flat([p.grad for p in self.owned if p.grad is not None]).double()
                self.before = _flat(self.owned)

    def after(self, group: Any) -> None:
        """Add to the sums what the step has shown; at the end of a block raise the lr, if that is due."""
        if self.active:
            with self._careful():
                self._add()
                if self.loop.facts.watched == policy.BLOCK:
                    self._next(group)

    @contextlib.contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.active, self.loop.facts.blocks, self.loop.anchors = False, 0, []
            self.loop.warn(f"gradients and steps could not be compared ({error}); the lr stays")

    def _add(self) -> None:
        loop, f = self.loop, self.loop.facts
        if not loop.anchors or loop.anchors[0].shape != self.before.shape:
            loop.anchors, f.watched, f.way, f.descent = [self.before], 0, 0.0, 0.0
        if len(loop.anchors) > 1:
            f.way += self._slope(loop.anchors[0])
            f.descent += self._slope(_flat(self.owned))
        f.watched += 1

    def _slope(self, other: Tensor) -> float:
        """Return the inner product of the gradient with the way from there to where the step began."""
        return float(self.gradient @ (self.before - other.to(self.before.device)).double())

    def _next(self, group: Any) -> None:
        loop, f = self.loop, self.loop.facts
        if len(loop.anchors) > 1:
            self._decide(group)
        loop.anchors, f.watched, f.way, f.descent = [loop.anchors[-1], _flat(self.owned)], 0, 0.0, 0.0

    def _decide(self, group: Any) -> None:
        loop, f = self.loop, self.loop.facts
        way, descent = _mean([f.way, f.descent], group)
        q = policy.drift(way, descent, loop.momentum)
        more = policy.doublings(policy.BLOCKS - f.blocks, q, f.raised, loop.adaptive)
        f.blocks -= 1
        f.raised += more
        f.scale *= 2.0**more
        loop.note("raised" if more > 0 else "drift", q)


def _flat(values: list[Tensor]) -> Tensor:
    """Return copies of all in one vector, on the first one's device: few operations, however many tensors."""
    device = values[0].device
    flat = torch.cat([v.reshape(-1) if v.device == device else v.reshape(-1).to(device) for v in values]).detach()
    return torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat


def _mean(values: list[float], group: Any) -> list[float]:
    """Average over the ranks, so that all decide alike even where their gradients are not averaged."""
    if group is None:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device_of(group))
    dist.all_reduce(shared, group=group)
    return [float(value) / dist.get_world_size(group) for value in shared]
