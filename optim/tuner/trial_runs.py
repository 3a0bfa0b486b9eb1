"""The trials of a base that divides by second moments: short annealed runs from one point, on a few batches kept.

They run inside one call of `observe`: gradients of the loss function on pieces of the batches that the steps since the
start have seen, the base's own steps, the loss on the last of these batches. Weights, optimizer state, gradients and
running statistics are put back between trials; what the best trial has learned is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import trials as policy
from .groups import effective
from .loss import LossSource
from .state import Snapshot, parameters_of

SMALLEST = 4  # samples that a piece of a batch must have


def pieces(batch: Any, count: int) -> list[Any]:
    """Split a batch (tensors in tuples, lists, dicts that agree in their first size) into interleaved pieces.

    A batch that is built in another way, or too small, is returned whole.

    Examples
    --------
    >>> [x.tolist() for x, y in pieces((torch.arange(8), torch.zeros(8, 2)), 2)], len(pieces("text", 2))
    ([[0, 2, 4, 6], [1, 3, 5, 7]], 1)
    """
    sizes = {len(x) if x.dim() else 0 for x in _tensors(batch)}
    if len(sizes) != 1 or min(sizes) < count * SMALLEST:
        return [batch]
    return [_taken(batch, slice(k, None, count)) for k in range(count)]


def _tensors(batch: Any) -> list[Any]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return [x for part in parts for x in _tensors(part)]


def _taken(batch: Any, rows: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[rows]
    if isinstance(batch, dict):
        return {name: _taken(part, rows) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [_taken(part, rows) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


class Trials:
    """Trials around a base, from where it stands.

    Parameters
    ----------
    base : the optimizer;  nominal : first group's lr at construction;  momentum : learned momentum, NaN: left alone
    source : what gives the loss function and the process group;  batches : `policies_trials.batches()` of them
    modules : those with running statistics

    Attributes
    ----------
    spent : gradient-equivalents;  tried : pairs of lr and loss at the end of a trial
    start : loss before any trial;  shown : whether the trials have shown anything

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> adam = torch.optim.Adam([w], lr=1.0)
    >>> trials = Trials(adam, 1.0, math.nan, LossSource(lambda batch: (w**2).sum(), None), [None] * 5, [])
    >>> 0.05 < trials.run(0.1) < 1, trials.start, bool(w < 1)
    (True, 1.0, True)
    """

    def __init__(
        self, base: torch.optim.Optimizer, nominal: float, momentum: float, source: LossSource, batches: list[Any],
        modules: list[torch.nn.Module],
    ) -> None:  # fmt: skip
        self.base, self.nominal, self.momentum, self.source, self.modules = base, nominal, momentum, source, modules
        cuts = [pieces(batch, policy.PARTS) for batch in batches[: -policy.JUDGES]]
        self.parts = [(piece, 1 / len(cut)) for cut in cuts for piece in cut]
        self.judges = batches[-policy.JUDGES :]
        self.spent, self.start, self.shown = 0.0, math.nan, True
        self.tried: list[tuple[float, float]] = []

    def run(self, first: float) -> float:
        """Return the lr that the trials speak for; the state of the best trial is in place."""
        owned = parameters_of(self.base)
        grads = [p.grad for p in owned]
        origin = best = Snapshot.take(self.base, self.modules)
        try:
            self.start = self._judge()
            lr: float | None = first
            while lr is not None:
                origin.put_back(self.base, self.modules)
                loss = self._trial(lr, owned)
                self.tried.append((lr, loss))
                if loss < self.start and policy.winner(self.tried) == lr:
                    best = Snapshot.take(self.base, self.modules)
                lr = policy.following(self.tried, first, self.start)
        except BaseException:
            best = origin
            raise
        finally:
            best.put_back(self.base, self.modules)
            for p, grad in zip(owned, grads, strict=True):
                p.grad = grad
        self.shown = policy.shows(self.tried, self.start)
        return (policy.vertex if self.shown else policy.unshown)(self.tried, self.start)

    def _trial(self, lr: float, owned: list[Tensor]) -> float:
        for step, (piece, share) in enumerate(self.parts):
            part = LossSource(self.source.loss_fn, piece, self.source.group)
            gradient = part.gradient(owned)
            self.spent += share * part.spent
            for p, g in zip(owned, gradient, strict=True):
                p.grad = g
            factor = policy.annealed(lr, step, len(self.parts)) / float(self.base.param_groups[0]["lr"])
            with effective(self.base, factor, self.momentum):
                self.base.step()
        return self._judge()

    def _judge(self) -> float:
        losses = []
        for batch in self.judges:
            judge = LossSource(self.source.loss_fn, batch, self.source.group)
            losses.append(judge.value())
            self.spent += judge.spent
        return sum(losses) / len(losses)
