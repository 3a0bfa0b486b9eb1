"""Which method of products a model gets: measured once per model, the same on all ranks."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from .network import FrozenNetwork
from .products import METHODS, Product, product


def measure_methods(net: FrozenNetwork, kind: str, *, keep: bool = True, repeats: int = 3) -> dict[str, float]:
    """Time one product by each exact method on the first chunk; methods that this model does not support are left out.

    The median of `repeats` after one warm-up, in seconds; with keep=False building the graph is part of the product. A
    method whose product differs from the first by more than √eps is left out too.

    Examples
    --------
    >>> from torch import nn
    >>> batch = (torch.ones(2, 1), torch.ones(2, 1))
    >>> net = FrozenNetwork(nn.Linear(1, 1), lambda out, y: (out - y).square().mean(), batch)
    >>> sorted(measure_methods(net, "hessian"))
    ['double-backward', 'forward-over-reverse']
    """
    v = torch.randn(1, net.size, generator=torch.Generator().manual_seed(1)).to(net.device, net.dtype)
    found, truth = {}, None
    for method in METHODS[:2]:
        try:
            made = product(net, net.chunks[0], kind, method)
            result = made(v)
            times = [_seconds(net, kind, method, made if keep else None, v) for _ in range(repeats)]
        except (RuntimeError, NotImplementedError):  # an operation without a second or a forward derivative
            continue
        truth = result if truth is None else truth
        limit = torch.finfo(net.dtype).eps ** 0.5 * float(truth.abs().max())
        if float((result - truth).abs().max()) <= limit:
            found[method] = sorted(times)[len(times) // 2]
    return found


def _seconds(net: FrozenNetwork, kind: str, method: str, made: Product | None, v: Tensor) -> float:
    start = time.perf_counter()
    out = (made or product(net, net.chunks[0], kind, method))(v)
    float(out[0, 0])  # waits for the device
    return time.perf_counter() - start
