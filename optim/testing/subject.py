"""What is tested (`Subject`), what a check is (`Convention`), and the small regression that most checks train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def _observe_nothing(optimizer: Any, loss_fn: Callable[[Any], Tensor], batch: Any) -> None:
    """Most wrappers look at nothing but gradients."""


@dataclass(frozen=True)
class Subject:
    """What is tested.

    wrap : base optimizer -> wrapper;  base : (params, **options) -> a fresh base optimizer
    observe : (wrapper, loss_fn, batch), called before each step, for wrappers that evaluate the loss themselves
    callbacks : makes the Lightning callbacks that the wrapper needs
    same_as_base : whether a wrapper that has observed nothing steps exactly as its base

    Examples
    --------
    >>> Subject(wrap=lambda base: base, base=lambda params, **options: torch.optim.SGD(params, lr=0.1)).same_as_base
    True
    """

    wrap: Callable[[torch.optim.Optimizer], Any]
    base: Callable[..., torch.optim.Optimizer]
    observe: Callable[[Any, Callable[[Any], Tensor], Any], None] = _observe_nothing
    callbacks: Callable[[], list[Any]] = list
    same_as_base: bool = True

    def make(self, params: Any, **options: Any) -> Any:
        """Return a wrapper around a fresh base."""
        return self.wrap(self.base(params, **options))


Check = Callable[[Subject], None]


@dataclass(frozen=True)
class Convention:
    """One convention: its number, what it wants, and the check (subject -> None, or AssertionError)."""

    number: str
    text: str
    check: Check

    def __str__(self) -> str:
        return f"{self.number}-{self.check.__name__}"


def adder(found: list[Convention]) -> Callable[[str, str], Callable[[Check], Check]]:
    """Return a decorator (number, text) that puts a check into a list.

    Examples
    --------
    >>> found: list[Convention] = []
    >>> @adder(found)("T0", "there is a step")
    ... def has_a_step(subject):
    ...     assert callable(subject.make([]).step)
    >>> str(found[0])
    'T0-has_a_step'
    """

    def convention(number: str, text: str) -> Callable[[Check], Check]:
        def add(check: Check) -> Check:
            found.append(Convention(number, text, check))
            return check

        return add

    return convention


class Problem:
    """A small regression whose loss falls under any sensible optimizer; double precision, seeded.

    Examples
    --------
    >>> problem = Problem()
    >>> float(problem.loss(problem.batch).detach()) > 0.5
    True
    """

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        x = torch.randn(16, 3, generator=generator, dtype=torch.float64)
        self.batch = (x, x.sum(1, keepdim=True).sin() + 1)

    def loss(self, batch: Any) -> Tensor:
        """Return the mean squared error."""
        return (self.model(batch[0]) - batch[1]).square().mean()

    def train(
        self, subject: Subject, optimizer: Any, steps: int, after: Callable[[], Any] | None = None
    ) -> list[float]:
        """Train for some steps; `after` is called behind each. Returns the losses."""
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            subject.observe(optimizer, self.loss, self.batch)
            loss = self.loss(self.batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if after is not None:
                after()
        return losses

    def weights(self) -> Tensor:
        """Return all parameters in one vector."""
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])
