"""All stability meters of a training run in one call, each with its threshold and the distance to the edge."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..curvature.factories import hessian, preconditioned
from ..curvature.preconditioner import propose_update
from .edges import critical_sharpness, rayleigh_quotients, sharpness
from .thresholds import threshold_of


@dataclass(frozen=True)
class Meter:
    """A sharpness in [low, high] and the threshold above which the optimizer is unstable; unit 1/lr.

    ratio = value/threshold: 1 is the edge. headroom: factor by which lr could grow before this meter reaches it.
    """

    name: str
    value: float
    low: float
    high: float
    threshold: float
    note: str

    @property
    def ratio(self) -> float:
        """Value over threshold; what is negative (a maximum, a saddle) is not near this edge."""
        return self.value / self.threshold

    @property
    def headroom(self) -> float:
        """1/ratio, infinite where the curvature is not positive."""
        return self.threshold / self.value if self.value > 0 else math.inf


@dataclass(frozen=True)
class Stability:
    """Meters by name; `str` gives a table.

    Attributes
    ----------
    meters : tuple of Meter;  batch_size : at which batch sharpness was taken;  samples : at which the others were
    """

    meters: tuple[Meter, ...]
    batch_size: int
    samples: int

    def __getitem__(self, name: str) -> Meter:
        for meter in self.meters:
            if meter.name == name:
                return meter
        raise KeyError(f"no meter {name!r}; there are {[m.name for m in self.meters]}")

    @property
    def nearest(self) -> Meter:
        """The meter nearest to, or furthest beyond, its threshold."""
        return max(self.meters, key=lambda meter: -math.inf if math.isnan(meter.ratio) else meter.ratio)

    def __str__(self) -> str:
        lines = [f"{'meter':<34}{'value':>11}{'threshold':>11}{'of edge':>9}  note"]
        for m in self.meters:
            lines.append(f"{m.name:<34}{m.value:>11.4g}{m.threshold:>11.4g}{100 * m.ratio:>8.0f}%  {m.note}")
        return "\n".join([*lines, f"measured on {self.samples} samples, batches of {self.batch_size}"])


def stability(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    *,
    loss: Callable | None = None,
    batch_size: int | None = None,
    steps: int = 20,
    rng: int | torch.Generator | None = None,
    **options: Any,
) -> Stability:
    """Measure sharpness, batch, critical and (for Adam and its like) preconditioned sharpness, each with its threshold.

    Thresholds follow the optimizer's own lr, momentum, dampening, Nesterov and coupled weight decay, as they are now,
    and are exact for quadratics (`thresholds`). Cost: 2 · steps products, one per training batch, some forward passes.

    Parameters
    ----------
    model, loss, batch, options : as for `hessian`; loss=None means that model(batch) is the loss
    optimizer : torch optimizer whose groups hold the model's parameters; Adam must have taken a step. Of a
        `CurvatureTuner` the lr and momentum in force count
    batch_size : size of training batches, if the batch given holds several of them
    steps : Lanczos steps;  rng : seed of the probes

    Examples
    --------
    >>> model, x = nn.Linear(1, 1, bias=False), torch.ones(2, 1)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> report = stability(model, sgd, (x, x + 1), loss=nn.functional.mse_loss, rng=1)
    >>> sharp = report["sharpness"]
    >>> round(sharp.value, 4), sharp.threshold, round(sharp.headroom, 2)
    (2.0, 4.0, 2.0)
    """
    with getattr(optimizer, "in_force", lambda: contextlib.nullcontext(optimizer))() as plain:
        return _measure(model, plain, batch, loss, batch_size, steps, rng, options)


def _measure(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, loss: Callable | None, batch_size: int | None,
    steps: int, rng: int | torch.Generator | None, options: dict[str, Any],
) -> Stability:  # fmt: skip
    limits, lr = threshold_of(optimizer), float(optimizer.param_groups[0]["lr"])
    seed = int(torch.randint(2**62, (), generator=rng)) if isinstance(rng, torch.Generator) else rng
    H = hessian(model, loss, batch, **options)
    parts = H if batch_size is None else hessian(model, loss, batch, micro_batch=batch_size, apart=True, **options)
    meters = []
    if limits.preconditioned:
        edge = sharpness(preconditioned(H, optimizer), steps=steps, rng=seed)
        meters.append(_meter("preconditioned sharpness", edge, limits.sharpness, limits.rule))
        parts = preconditioned(parts, optimizer)
    edge = sharpness(H, steps=steps, rng=seed)
    if limits.preconditioned:  # the plain Hessian of such a run has no threshold of its own
        meters.append(_meter("sharpness", edge, math.nan, "no threshold"))
    else:
        meters.append(_meter("sharpness", edge, limits.sharpness, limits.rule, limits.weight_decay))
    mean, error = rayleigh_quotients(parts)
    wide = (mean, mean - 2 * error, mean + 2 * error)
    name, decay = "batch sharpness, small batches", limits.weight_decay
    meters.append(_meter(name, wide, limits.small_batch, "if gradient noise rules", decay))
    if limits.large_batch != limits.small_batch:
        name = "batch sharpness, large batches"
        meters.append(_meter(name, wide, limits.large_batch, "if there is little noise", decay))
    g = H.gradient()
    update, limit = find_update(optimizer, H.net.tensors, g), 2 / lr if lr > 0 else math.inf
    if float(update.double() @ g.double()) > 0:
        edge = critical_sharpness(model, loss, batch, update=update, lr=lr or 1e-3, **_evaluation(options))
        meters.append(_meter("critical sharpness", edge, limit, "at the edge the next step raises the loss"))
    else:  # momentum carries uphill, as it may: there is no lr that lowers the loss
        nothing = (math.nan, math.nan, math.nan)
        meters.append(_meter("critical sharpness", nothing, limit, "the next step goes uphill at any lr"))
    return Stability(tuple(meters), batch_size or H.samples, H.samples)


def _evaluation(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that concern the network, not the products."""
    return {k: v for k, v in options.items() if k not in ("method", "group", "keep_graph", "block")}


def _meter(name: str, edge: Any, threshold: float, note: str, decay: float = 0.0) -> Meter:
    value, low, high = (float(x) + decay for x in edge[:3])
    return Meter(name, value, low, high, threshold, note)


def find_update(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], gradient: Tensor) -> Tensor:
    """Return u of the step θ - lr·u that a copy of the optimizer takes with this flat gradient; nothing changes.

    lr is the first group's; with lr 0 the gradient itself is returned. Zero where the optimizer does not own a tensor.

    Examples
    --------
    >>> p = nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> adam = torch.optim.Adam([p], lr=0.01, eps=0.0)
    >>> [round(u, 4) for u in find_update(adam, {"p": p}, torch.tensor([3.0, -5.0])).tolist()]
    [1.0, -1.0]
    """
    if float(optimizer.param_groups[0]["lr"]) <= 0:
        return gradient.clone()
    pieces = gradient.split([p.numel() for p in tensors.values()])
    given = {id(p): g.reshape(p.shape) for p, g in zip(tensors.values(), pieces, strict=True)}
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    moved = propose_update(optimizer, [given.get(id(p)) for p in owned])
    found = {id(p): u for p, u in zip(owned, moved, strict=True)}
    parts = [found[id(p)] if id(p) in found else torch.zeros_like(p) for p in tensors.values()]
    return torch.cat([part.reshape(-1) for part in parts]).detach()
