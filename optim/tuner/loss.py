"""What a tuner asks of a loss on a batch: its value, its gradient, products with its Hessian; nothing is left changed.

Costs in gradient-equivalents, which the budget counts: a value 1/3, a gradient 1, a product 3 (2 to 4 where measured).
Forward passes see the model as it trains (BatchNorm with the statistics of the batch, dropout with one fixed mask);
running statistics and torch's random generators are put back afterwards.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook

VALUE, GRADIENT, PRODUCT = 1 / 3, 1.0, 3.0
SEED = 20_060_909  # of the dropout mask
Direction = Sequence[Tensor]


class LossSource:
    """A loss on a batch, for one process or the mean over the processes of a group.

    Parameters
    ----------
    loss_fn : batch -> loss, or (outputs, loss); on the module itself, neither compiled nor wrapped by DDP
    batch : what it takes
    group : process group to average over; None: this process alone

    Attributes
    ----------
    spent : gradient-equivalents so far

    Examples
    --------
    >>> w = nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> source = LossSource(lambda batch: (batch * w**2).sum(), torch.tensor([1.0, 3.0]))
    >>> source.value(), [g.tolist() for g in source.gradient([w])], round(source.spent, 3)
    (13.0, [[2.0, 12.0]], 1.333)
    """

    def __init__(self, loss_fn: Callable[[Any], Any], batch: Any, group: Any = None) -> None:
        self.loss_fn, self.batch, self.group, self.spent = loss_fn, batch, group, 0.0

    def value(self) -> float:
        """Return the loss at the parameters as they are; NaN if it is not finite anywhere."""
        self.spent += VALUE
        with undisturbed(self.batch), torch.no_grad():
            loss = self._loss()
        return self._mean(float(loss))

    def gradient(self, parameters: Direction) -> list[Tensor]:
        """Return the gradient; zero where a parameter does not matter."""
        self.spent += GRADIENT
        with undisturbed(self.batch), torch.enable_grad():
            found = torch.autograd.grad(self._loss(), list(parameters), allow_unused=True)
        return self._shared([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)])

    def products(self, parameters: Direction) -> Callable[[Direction], list[Tensor]]:
        """Return v -> Hessian times v by double backward; where that fails, by central differences of gradients."""
        parameters = list(parameters)
        try:
            with undisturbed(self.batch), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                grads = torch.autograd.grad(self._loss(), parameters, create_graph=True, allow_unused=True)
            self.spent += GRADIENT
            alive = [g for g in grads if g is not None and g.requires_grad]
            if not alive:
                raise RuntimeError("the gradient has no graph")
            torch.autograd.grad(alive, parameters, [torch.zeros_like(g) for g in alive], retain_graph=True,
                                allow_unused=True)  # fmt: skip
        except (RuntimeError, NotImplementedError):
            return lambda v: self._difference(parameters, v)

        def product(v: Direction) -> list[Tensor]:
            self.spent += PRODUCT
            pairs = [(g, w) for g, w in zip(grads, v, strict=True) if g is not None and g.requires_grad]
            outs, weights = [g for g, _ in pairs], [w for _, w in pairs]
            found = torch.autograd.grad(outs, parameters, weights, retain_graph=True, allow_unused=True)
            return self._shared([torch.zeros_like(w) if h is None else h for w, h in zip(v, found, strict=True)])

        return product

    def _difference(self, parameters: list[Tensor], v: Direction) -> list[Tensor]:
        eps = torch.finfo(parameters[0].dtype).eps ** (1 / 3)
        h = eps * max(1.0, norm(parameters)) / max(norm(v), 1e-30)
        sides = []
        for sign in (1.0, -1.0):
            with shifted(parameters, v, sign * h):
                sides.append(self.gradient(parameters))
        return [(a - b) / (2 * h) for a, b in zip(*sides, strict=True)]

    def _loss(self) -> Tensor:
        out = self.loss_fn(self.batch)
        return out[1] if isinstance(out, tuple) else out

    def _mean(self, value: float) -> float:
        if self.group is None:
            return value if math.isfinite(value) else math.nan
        shared = torch.tensor([value], dtype=torch.float64, device=device_of(self.group))
        dist.all_reduce(shared, group=self.group)
        mean = float(shared) / dist.get_world_size(self.group)
        return mean if math.isfinite(mean) else math.nan

    def _shared(self, values: list[Tensor]) -> list[Tensor]:
        if self.group is not None:
            for value in values:
                dist.all_reduce(value, group=self.group)
                value /= dist.get_world_size(self.group)
        return values


def device_of(group: Any) -> str:
    """Return where a process group's reductions run."""
    return "cuda" if dist.get_backend(group) == "nccl" else "cpu"


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
    return float(torch.stack([part.cpu() for part in parts]).sum())


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


@contextlib.contextmanager
def undisturbed(batch: Any = None) -> Iterator[None]:
    """Put back, at the end, the buffers of every module that runs inside, and torch's random generators.

    Examples
    --------
    >>> norm_layer = nn.BatchNorm1d(2)
    >>> with undisturbed():
    ...     _ = norm_layer(torch.ones(3, 2))
    >>> norm_layer.running_mean.tolist(), int(norm_layer.num_batches_tracked)
    ([0.0, 0.0], 0)
    """
    kept: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: Any) -> None:
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in kept:
                kept[id(buffer)] = (buffer, buffer.detach().clone())

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    handle = register_module_forward_pre_hook(keep)
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(SEED)
            yield
    finally:
        handle.remove()
        with torch.no_grad():
            for buffer, old in kept.values():
                buffer.copy_(old)


def modules_of(loss_fn: Callable[[Any], Any], batch: Any) -> list[nn.Module]:
    """Return the modules that have buffers and run when the loss is computed; one forward pass.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> [type(m).__name__ for m in modules_of(lambda x: net(x).sum(), torch.ones(3, 2))]
    ['BatchNorm1d']
    """
    found: dict[int, nn.Module] = {}

    def note(module: nn.Module, inputs: Any) -> None:
        if any(b is not None for b in module._buffers.values()):
            found[id(module)] = module

    handle = register_module_forward_pre_hook(note)
    try:
        with undisturbed(batch), torch.no_grad():
            loss_fn(batch)
    finally:
        handle.remove()
    return list(found.values())
