"""How sharp the loss is: the largest eigenvalue, batch sharpness, critical sharpness.

Batch sharpness: mean of gᵀHg/‖g‖² over batches, g and H of the same one (arXiv 2412.20553). Critical sharpness: 2/η_c,
η_c being the smallest lr along the update that raises the loss (arXiv 2601.16979).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..curvature.factories import hessian
from ..curvature.network import FrozenNetwork, Parameters
from ..curvature.operator import Curvature
from ..curvature.products import gradient
from ..spectra.quadrature import Edge, Estimate, leaning_spectrum


def sharpness(A: Any, *, steps: int = 20, rng: int | torch.Generator | None = None, level: float = 0.99) -> Edge:
    """Return the largest eigenvalue in an interval that holds it with probability `level`; `steps` products.

    Lanczos from a random vector that leans to the gradient, where A has one (`spectrum.leaning_spectrum`). With
    `preconditioned(H, optimizer)` this is preconditioned sharpness.

    Examples
    --------
    >>> round(sharpness(torch.diag(torch.tensor([1.0, 5.0], dtype=torch.float64)), rng=1).value, 9)
    5.0
    """
    if steps < 1:
        raise ValueError(f"got steps={steps}; expected an integer >= 1")
    return leaning_spectrum(A, steps, rng).extremes(level=level).top


def batch_sharpness(
    model: nn.Module, loss: Callable | None, batch: Any, *, batch_size: int | None = None, **options: Any
) -> Estimate:
    """Return the mean of gᵀHg/‖g‖² over batches, g and H of the same batch, with its standard error.

    It settles near 2/lr in SGD (arXiv 2412.20553). One product per batch.

    Parameters
    ----------
    model, loss, batch, options : as for `hessian`
    batch_size : cut the batch into training batches of this size (an incomplete last one is left out); None: it is one

    Examples
    --------
    >>> model, x = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [2.0]])
    >>> estimate = batch_sharpness(model, nn.functional.mse_loss, (x, x + 1), batch_size=1)   # Hessians 2 and 8
    >>> round(estimate.value, 4), round(estimate.error, 4)
    (5.0, 3.0)
    """
    return rayleigh_quotients(hessian(model, loss, batch, micro_batch=batch_size, apart=True, **options))


def rayleigh_quotients(H: Curvature) -> Estimate:
    """Return the mean of gᵀHg/‖g‖² over full micro-batches of an operator, with its standard error."""
    values = []
    for chunk in H.net.chunks:
        g = H.chunk_gradient(chunk)
        square = float(g.double() @ g.double())
        if chunk.samples == H.net.chunks[0].samples and square > 0:
            values.append(float(g.double() @ H.chunk_product(chunk, g).double()) / square)
    if not values:
        return Estimate(math.nan, math.nan)
    spread = torch.tensor(values, dtype=torch.float64)
    error = float(spread.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(spread.mean()), error)


def critical_sharpness(
    model: nn.Module,
    loss: Callable | None,
    batch: Any,
    *,
    update: Tensor | None = None,
    lr: float = 1e-2,
    accuracy: float = 0.05,
    **options: Any,
) -> Edge:
    """Return 2/η_c, η_c being the smallest lr along an update that raises the loss; forward passes only.

    For a quadratic and update = gradient this is gᵀHg/‖g‖²; see arXiv 2601.16979. The interval brackets 2/η_c.

    Parameters
    ----------
    model, loss, batch, options : as for `hessian`
    update : flat (n,), parameters ← parameters - lr·update; None: the gradient
    lr : where the search begins;  accuracy : relative width of the bracket

    Examples
    --------
    >>> model, x = nn.Linear(1, 1, bias=False), torch.ones(2, 1)
    >>> edge = critical_sharpness(model, nn.functional.mse_loss, (x, x + 1))
    >>> edge.low <= 2 <= edge.high
    True
    """
    net = FrozenNetwork(model, loss, batch, **options)
    if update is None:
        update = torch.stack([c.weight * gradient(net, c)[1] for c in net.chunks]).sum(0)
    start, direction = _loss_at(net, net.values), net.unflatten(update)

    def rises(eta: float) -> bool:
        value = _loss_at(net, {name: p - eta * direction[name] for name, p in net.values.items()})
        return not value <= start  # NaN and infinity rise

    low, high = bracket_rise(rises, lr)
    while low > 0 and high < math.inf and high / low > 1 + accuracy:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rises(middle) else (middle, high)
    ends = (2 / high, 2 / low if low > 0 else math.inf)
    done = ends[1] <= (1 + 2 * accuracy) * ends[0]
    return Edge(2 / math.sqrt(low * high) if done else ends[0], *ends, ends[1] - ends[0], done, 1.0)


def bracket_rise(
    rises: Callable[[float], bool], eta: float, *, factor: float = 2.0, limit: int = 60
) -> tuple[float, float]:
    """Return (largest lr seen not to raise the loss, smallest seen to), a factor apart; 0 or infinity if none.

    Examples
    --------
    >>> bracket_rise(lambda lr: lr > 3, 1.0), bracket_rise(lambda lr: True, 1.0, limit=3)
    ((2.0, 4.0), (0.0, 0.125))
    """
    if rises(eta):
        for _ in range(limit):
            if not rises(eta / factor):
                return eta / factor, eta
            eta /= factor
        return 0.0, eta
    for _ in range(limit):
        if rises(factor * eta):
            return eta, factor * eta
        eta *= factor
    return eta, math.inf


def _loss_at(net: FrozenNetwork, values: Parameters) -> float:
    with net.evaluation(differentiable_twice=False), torch.no_grad():
        return sum(chunk.weight * float(net.loss(values, chunk)) for chunk in net.chunks)
