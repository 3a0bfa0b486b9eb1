"""Curvature for the tuner: the largest eigenvalue by warm-started products, and a Lanczos spectrum, on one batch.

Where the base divides by second moments P, the operator is P^(-1/2) H P^(-1/2), times the ratios of the groups' lrs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from krylearn.solvers.lanczos import ritz_pairs, tridiagonalize
from torch import Tensor

from ..curvature.preconditioner import denominator
from .loss import LossSource, dot, norm
from .state import parameters_of


def top_curvature(
    source: LossSource, base: torch.optim.Optimizer, start: list[Tensor] | None, seed: int, products: int = 2
) -> tuple[float, list[Tensor]]:
    """Return a Rayleigh quotient after some steps of the power method, and the vector to go on with.

    A lower bound of the largest eigenvalue (in size) that tightens from call to call.

    Raises
    ------
    ValueError : the product vanishes or is not finite

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> source = LossSource(lambda batch: (torch.tensor([1.0, 5.0]) * w**2).sum(), None)
    >>> round(top_curvature(source, torch.optim.SGD([w], lr=0.1), None, 0, products=20)[0], 4)
    10.0
    """
    owned = parameters_of(base)
    roots, product = scaling(base), source.products(owned)
    v = start or random_like(owned, seed)
    value = math.nan
    for _ in range(products):
        size = norm(v)
        v = [x / size for x in v]
        w = [r * h for r, h in zip(roots, product([r * x for r, x in zip(roots, v, strict=True)]), strict=True)]
        value, v = dot(v, w), w
    if not math.isfinite(value) or norm(v) == 0:
        raise ValueError(f"got a Rayleigh quotient of {value}")
    return value, v


def scaling(base: torch.optim.Optimizer) -> list[Tensor]:
    """Return P^(-1/2) per parameter, times the root of its group's lr over the first group's.

    Examples
    --------
    >>> scaling(torch.optim.SGD([torch.ones(1)], lr=0.1))
    [tensor([1.])]
    """
    first = float(base.param_groups[0]["lr"])
    return [
        (float(group["lr"]) / first / denominator(group, base.state.get(p, {}), p).detach()).sqrt()
        for group in base.param_groups
        for p in group["params"]
    ]


def spectrum(source: LossSource, base: torch.optim.Optimizer, steps: int, seed: int) -> Any:
    """Return Ritz pairs of the Hessian on the batch: `steps` products from a start vector fixed by the seed.

    Examples
    --------
    >>> w = torch.nn.Parameter(torch.zeros(2))
    >>> source = LossSource(lambda batch: (torch.tensor([1.0, 5.0]) * w**2).sum(), None)
    >>> [round(v, 4) for v in spectrum(source, torch.optim.SGD([w], lr=0.1), 2, 0).values.tolist()]
    [2.0, 10.0]
    """
    owned = parameters_of(base)
    product, sizes = source.products(owned), [p.numel() for p in owned]

    def flat(v: Tensor) -> Tensor:
        parts = [x.reshape(p.shape) for x, p in zip(v.split(sizes), owned, strict=True)]
        return torch.cat([h.reshape(-1) for h in product(parts)])

    start = torch.cat([x.reshape(-1) for x in random_like(owned, seed)])
    return ritz_pairs(tridiagonalize(flat, start, steps))


def random_like(owned: list[Tensor], seed: int) -> list[Tensor]:
    """Return normal numbers shaped as the parameters, the same on every device.

    Examples
    --------
    >>> random_like([torch.zeros(2)], 0)[0].shape
    torch.Size([2])
    """
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator).to(p.device, p.dtype) for p in owned]
