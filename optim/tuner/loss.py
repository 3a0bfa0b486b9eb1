"""The user's loss, and the one place that calls it: its value, its gradient, products with its Hessian.

Costs in gradient-equivalents, which the budget counts: a value 1/2, a gradient 1, a product 3 (2 to 4 where measured).
They are those of a network whose step takes half a millisecond: there a value costs a third of a step and as much again
for leaving no trace, and half a batch costs as much as a whole one. Larger networks pay less than is counted.
Forward passes see the model as it trains (BatchNorm with the statistics of the batch, dropout with one fixed mask);
`side_effects.undisturbed` undoes what they leave. Where the optimizer maximises, values and products change sign here,
and nobody else needs to know; gradients are the loss's own, as the optimizer wants them.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook

from ..curvature.network import find_loss
from ..curvature.products import GradientGraph, central_difference, difference_step
from ..side_effects import copy_batch, undisturbed

VALUE, GRADIENT, PRODUCT = 1 / 2, 1.0, 3.0
Direction = Sequence[Tensor]


class LossSource:
    """A loss on a batch, for one process or the mean over the processes of a group.

    Parameters
    ----------
    loss_fn : batch -> loss, (outputs, loss), a mapping or an object with "loss"; on the module itself, neither compiled
        nor wrapped by DDP
    batch : what it takes; each call gets a copy
    group : process group to average over; None: this process alone
    sign : -1 where the loss is maximised

    Attributes
    ----------
    spent : gradient-equivalents so far

    Examples
    --------
    >>> w = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> source = LossSource(lambda batch: (batch * w**2).sum(), torch.tensor([1.0, 3.0]))
    >>> source.value(), [g.tolist() for g in source.gradient([w])], round(source.spent, 3)
    (13.0, [[2.0, 12.0]], 1.5)
    """

    def __init__(self, loss_fn: Callable[[Any], Any], batch: Any, group: Any = None, sign: float = 1.0) -> None:
        self.loss_fn, self.batch, self.group, self.sign, self.spent = loss_fn, batch, group, sign, 0.0
        self.by_differences = False  # where second derivatives have turned out to be wrong

    def on(self, batch: Any) -> LossSource:
        """Return the same loss on another batch; what it spends is its own."""
        return LossSource(self.loss_fn, batch, self.group, self.sign)

    def value(self) -> float:
        """Return the loss at the parameters as they are; NaN if it is not finite anywhere."""
        self.spent += VALUE
        with undisturbed(self.loss_fn), torch.no_grad():
            loss = self._loss()
        return self.sign * self._mean(float(loss))

    def gradient(self, parameters: Direction) -> list[Tensor]:
        """Return the gradient; zero where a parameter does not matter."""
        found = self.gradient_or_none(parameters)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def gradient_or_none(self, parameters: Direction) -> list[Tensor | None]:
        """Return the gradient; None where a parameter is frozen or does not matter."""
        self.spent += GRADIENT
        trained = [p for p in parameters if p.requires_grad]
        found: Sequence[Tensor | None]
        with undisturbed(self.loss_fn), torch.enable_grad():
            if any(hasattr(p, "to_local") for p in trained):
                found = _gradient_of_sharded(self._loss(), trained)
            else:
                found = torch.autograd.grad(self._loss(), trained, allow_unused=True)
        self._share([g for g in found if g is not None])
        rest = iter(found)
        return [next(rest) if p.requires_grad else None for p in parameters]

    def products(self, parameters: Direction) -> Callable[[Direction], list[Tensor]]:
        """Return v -> Hessian times v by double backward; where that fails or is wrong, by differences of gradients."""
        parameters = list(parameters)
        if self.by_differences:
            return lambda v: self.difference(parameters, v)
        try:
            with undisturbed(self.loss_fn), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                graph = GradientGraph(self._loss(), parameters)
            self.spent += GRADIENT
            if graph.is_constant:  # as of a closure that has run backward itself
                raise RuntimeError("the gradient has no graph")
            graph.pull([torch.zeros_like(p) for p in parameters])
        except (RuntimeError, NotImplementedError):
            return lambda v: self.difference(parameters, v)

        def product(v: Direction) -> list[Tensor]:
            self.spent += PRODUCT
            found = graph.pull(v)
            values = [torch.zeros_like(w) if h is None else self.sign * h for w, h in zip(v, found, strict=True)]
            self._share(values)
            return values

        return product

    def difference(self, parameters: list[Tensor], v: Direction) -> list[Tensor]:
        """Return Hessian times v as the central difference of two gradients."""
        h = difference_step(norm(parameters), norm(v), parameters[0].dtype)
        if h == 0:
            return [torch.zeros_like(p) for p in parameters]

        def gradient_at(t: float) -> list[Tensor]:
            with shifted(parameters, v, t):
                return self.gradient(parameters)

        return [self.sign * each for each in central_difference(gradient_at, h)]

    def modules(self) -> list[nn.Module]:
        """Return the modules with buffers that run when the loss is computed; one forward pass, not counted."""
        found: dict[int, nn.Module] = {}

        def note(module: nn.Module, inputs: Any) -> None:
            if any(b is not None for b in module._buffers.values()):
                found[id(module)] = module

        handle = register_module_forward_pre_hook(note)
        try:
            with undisturbed(self.loss_fn), torch.no_grad():
                self._loss()
        finally:
            handle.remove()
        return list(found.values())

    def _loss(self) -> Tensor:
        return find_loss(self.loss_fn(copy_batch(self.batch)))

    def _mean(self, value: float) -> float:
        if self.group is not None:
            value = mean_over_ranks([value], self.group)[0]
        return value if math.isfinite(value) else math.nan

    def _share(self, values: Sequence[Tensor]) -> None:
        if self.group is not None:
            for value in values:
                if hasattr(value, "to_local"):
                    continue  # a shard: FSDP has averaged it already
                dist.all_reduce(value, group=self.group)
                value /= dist.get_world_size(self.group)


def _gradient_of_sharded(loss: Tensor, trained: list[Tensor]) -> list[Tensor | None]:
    """Return the gradient where the graph ends at gathered copies (FSDP), by backward; `.grad` is put back."""
    kept = [p.grad for p in trained]
    try:
        for p in trained:
            p.grad = None
        loss.backward()
        return [p.grad for p in trained]
    finally:
        for p, g in zip(trained, kept, strict=True):
            p.grad = g


def mean_over_ranks(values: list[float], group: Any) -> list[float]:
    """Average numbers over the ranks of a group, so that all decide alike; None: this process alone.

    Examples
    --------
    >>> mean_over_ranks([1.0, 2.0], None)
    [1.0, 2.0]
    """
    if group is None:
        return values
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(shared, group=group)
    return [float(value) / dist.get_world_size(group) for value in shared]


def norm(values: Direction) -> float:
    """Return the Euclidean norm of a list of tensors, summed in float64.

    Examples
    --------
    >>> norm([torch.tensor([3.0]), torch.tensor([4.0])])
    5.0
    """
    return math.sqrt(dot(values, values))


def dot(a: Direction, b: Direction) -> float:
    """Return the inner product of two lists of tensors, summed in float64.

    Examples
    --------
    >>> dot([torch.ones(2), torch.ones(1)], [torch.ones(2), 2 * torch.ones(1)])
    4.0
    """
    parts = [(x.detach().double() * y.detach().double()).sum() for x, y in zip(a, b, strict=True)]
    parts = [part.full_tensor() if hasattr(part, "full_tensor") else part for part in parts]
    return float(torch.stack([part.cpu() for part in parts]).sum()) if parts else 0.0


@contextlib.contextmanager
def shifted(parameters: Direction, direction: Direction, factor: float) -> Iterator[None]:
    """Move parameters by factor · direction, and exactly back.

    Examples
    --------
    >>> w = torch.tensor([1.0])
    >>> with shifted([w], [torch.tensor([2.0])], 3.0):
    ...     print(w.item())
    7.0
    >>> w.item()
    1.0
    """
    before = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=factor)
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)


class ClosureLoss:
    """The opt-in: a loss function made of the closure of `step`, which zeroes gradients and runs backward itself.

    Every call counts as a gradient. What the closure leaves in `.grad` becomes the gradient of what is returned, a
    linear function with the loss's value: its own graph is gone, so products fall back to differences of gradients.

    Examples
    --------
    >>> w = nn.Parameter(torch.ones(1))
    >>> def closure():
    ...     w.grad = None
    ...     loss = (w**2).sum()
    ...     loss.backward()
    ...     return loss
    >>> loss_fn = ClosureLoss(closure, [w])
    >>> float(loss_fn(None).detach()), loss_fn.calls
    (1.0, 1)
    """

    def __init__(self, closure: Callable[[], Any], owned: list[Tensor]) -> None:
        self.closure, self.owned, self.calls = closure, owned, 0
        functools.update_wrapper(self, closure, updated=())

    def __call__(self, batch: Any) -> Tensor:
        """Return the loss."""
        self.calls += 1
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            loss = find_loss(self.closure())
        if not wanted:
            return loss.detach()
        parts = [(p * p.grad.detach()).sum() for p in self.owned if p.grad is not None and p.requires_grad]
        linear = torch.stack(parts).sum()
        return loss.detach() + linear - linear.detach()
