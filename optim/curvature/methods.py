"""Which method of products a model gets: measured once per model, the same on all ranks."""

from __future__ import annotations

import time
import warnings

import torch
from torch import Tensor

from .network import FrozenNetwork
from .products import METHODS, Product, product


class CurvatureWarning(UserWarning):
    """Products are made in another way than was asked for, or expected."""


def warn_of_asymmetry(net: FrozenNetwork, method: str) -> None:
    """Tell the user why a method is not taken."""
    text = (
        f"second derivatives of {type(net.model).__name__} by {method} are not symmetric (torch's weight_norm is "
        "such a case): other products are made, at worst differences of gradients, which are less exact"
    )
    warnings.warn(text, CurvatureWarning, stacklevel=6)


def measure_methods(net: FrozenNetwork, kind: str, *, keep: bool = True, repeats: int = 3) -> dict[str, float]:
    """Time one product by each exact method on the first chunk; methods that this model does not support are left out.

    One whose products are not those of a symmetric matrix is left out: torch's second derivatives of some operations
    (weight_norm) are wrong. The median of `repeats` after one warm-up, in seconds; with keep=False building the graph
    is part of the product. A method whose product differs from the first by more than √eps is left out too.

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
            if kind == "hessian" and not is_symmetric(made, net):
                warn_of_asymmetry(net, method)
                continue
            times = [_seconds(net, kind, method, made if keep else None, v) for _ in range(repeats)]
        except (RuntimeError, NotImplementedError):  # an operation without a second or a forward derivative
            continue
        truth = result if truth is None else truth
        limit = torch.finfo(net.dtype).eps ** 0.5 * float(truth.abs().max())
        if float((result - truth).abs().max()) <= limit:
            found[method] = sorted(times)[len(times) // 2]
    return found


def is_symmetric(apply: Product, net: FrozenNetwork) -> bool:
    """Say whether uᵀHv = vᵀHu for a random pair, to the cube root of the rounding unit; two products.

    The difference of a pair is compared with the size that rounding of random signs has there, |Hv||u|/√n.

    Examples
    --------
    >>> from torch import nn
    >>> batch = (torch.ones(2, 1), torch.ones(2, 1))
    >>> net = FrozenNetwork(nn.Linear(1, 1), lambda out, y: (out - y).square().mean(), batch)
    >>> skew = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    >>> is_symmetric(lambda V: V, net), is_symmetric(lambda V: V @ skew, net)
    (True, False)
    """
    generator = torch.Generator().manual_seed(2)
    u, v = torch.randn(2, net.size, generator=generator).to(net.device, net.dtype).double()
    images = torch.stack([apply(x.to(net.dtype)[None])[0].detach().double() for x in (u, v)])
    size = (torch.linalg.vector_norm(images[0]) * v.norm() + torch.linalg.vector_norm(images[1]) * u.norm()) / 2
    limit = torch.finfo(net.dtype).eps ** (1 / 3) * size / net.size**0.5
    return not float((u @ images[1] - v @ images[0]).abs()) > float(limit)


def _seconds(net: FrozenNetwork, kind: str, method: str, made: Product | None, v: Tensor) -> float:
    start = time.perf_counter()
    out = (made or product(net, net.chunks[0], kind, method))(v)
    float(out[0, 0])  # waits for the device
    return time.perf_counter() - start
