"""Curvature operators on a network's parameters: Hessian, Gauss-Newton, empirical Fisher, preconditioned Hessian.

    H = ∇² loss,   G = Jᵀ L'' J (positive semi-definite for a convex loss),   F = 1/n Σ gᵢ gᵢᵀ,
    P^(-1/2) H P^(-1/2) with Adam's P = diag(√v̂ + ε), whose largest eigenvalue Adam's stability depends on.

An operator is a symmetric matrix that is never formed: apply it to flat vectors (..., n) or to dicts of tensors named
as the parameters. It is frozen (`network.FrozenNetwork`): changing the model afterwards does not change it. Entries are
in loss/parameter². Cost of a product: 2 to 4 gradients. `method="auto"` measures the exact methods once per model and
keeps the fastest; finite differences are taken only where both fail. `H.method` says which; pass it to fix it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .network import FrozenNetwork
from .operator import Curvature
from .preconditioner import inverse_root

__all__ = ["Curvature", "empirical_fisher", "ggn", "hessian", "preconditioned"]


def hessian(model: nn.Module, loss: Callable | None, batch: Any, **options: Any) -> Curvature:
    """Return the Hessian of a loss on a batch as an operator, in loss/parameter².

    Parameters
    ----------
    model : nn.Module; wrappers of torch.compile and DDP are taken off
    loss : callable (outputs, targets) -> scalar; or None if model(inputs) is the loss of the batch
    batch : (inputs, targets); inputs: a tensor, a tuple of arguments, or a dict of keywords. First dimension: samples.
        Or a `DataLoader` of such batches, each counted by its samples: all data, one batch in memory at a time
    parameters : names, keyword; default all that require a gradient
    method : "auto", "double-backward", "forward-over-reverse" or "finite-differences"
    batchnorm : "batch" (statistics of the batch, as in training), "running", "ghost" (per micro-batch); never updated
    dropout : "off", or "fixed": the mask of `dropout_seed`
    reduction : "mean" or "sum": how the loss joins samples
    micro_batch : samples at a time, None for all; ValueError where the parts' losses do not add up to the whole's
        (ignored targets, class weights, sums)
    apart : the parts are batches of their own, each with its own mean, and nothing need add up
    keep_graph : keep graphs between products (default: if one chunk)
    group : process group whose ranks each hold a part of the batch (`torch.distributed.group.WORLD`); None: this one
    block : vectors joined in one vmapped product (memory grows with it)

    Returns
    -------
    Curvature : apply with `H @ v`, `H(v)` or SciPy's `aslinearoperator(H)`

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> H = hessian(nn.Linear(1, 1), nn.functional.mse_loss, (x, x))        # 2 mean(x²), 2 mean(x), 2
    >>> [round(entry, 4) for entry in H.matrix().flatten().tolist()]
    [9.3333, 4.0, 4.0, 2.0]
    """
    return _operator("hessian", model, loss, batch, **options)


def ggn(model: nn.Module, loss: Callable, batch: Any, **options: Any) -> Curvature:
    """Return the generalised Gauss-Newton matrix Jᵀ L'' J; parameters as for `hessian`.

    Positive semi-definite for losses that are convex in the outputs; the Hessian without the model's own curvature.

    Examples
    --------
    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> G = ggn(nn.Linear(1, 1), nn.functional.mse_loss, (x, x))             # a linear model: equal to the Hessian
    >>> [round(entry, 4) for entry in G.matrix().flatten().tolist()]
    [9.3333, 4.0, 4.0, 2.0]
    """
    return _operator("ggn", model, loss, batch, **options)


def empirical_fisher(model: nn.Module, loss: Callable, batch: Any, **options: Any) -> Curvature:
    """Return 1/n Σ gᵢ gᵢᵀ over the gradients gᵢ of the samples (reduction="sum": without 1/n); as for `hessian`.

    In (loss/parameter)². No curvature in general, though often used as one (Kunstner et al., NeurIPS 2019).

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> x = torch.tensor([[1.0], [2.0]])                                      # gᵢ = -2xᵢ²: mean of 4 and 64
    >>> empirical_fisher(model, nn.functional.mse_loss, (x, x)).matrix().tolist()
    [[34.0]]
    """
    return _operator("fisher", model, loss, batch, **options)


def preconditioned(H: Curvature, optimizer: torch.optim.Optimizer) -> Curvature:
    """Return P^(-1/2) H P^(-1/2), P being what the optimizer divides by; symmetric, with the eigenvalues of P⁻¹H.

    Adam, AdamW, RMSprop and Adagrad give P from their state, SGD the identity. A group whose lr is c times the first
    group's counts with P/c, so that thresholds hold with the first group's lr; parameters that the optimizer does not
    own have 1/P = 0. Eigenvalues are in 1/lr (Adam: 1/parameter).

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> adam = torch.optim.Adam(model.parameters(), lr=0.0, eps=0.0)
    >>> x = torch.ones(2, 1)
    >>> nn.functional.mse_loss(model(x), x + 3).backward()
    >>> adam.step()
    >>> H = hessian(model, nn.functional.mse_loss, (x, x + 3))                # P = |g| after one step
    >>> round(float(preconditioned(H, adam).matrix() * model.weight.grad.abs()), 5)
    2.0
    """
    out = copy.copy(H)
    root = inverse_root(optimizer, H.net.tensors)
    flat = H.net.flatten(root).to(H.torch_dtype)
    out.scale = flat if H.scale is None else flat * H.scale
    return out


def _operator(
    kind: str,
    model: nn.Module,
    loss: Callable | None,
    batch: Any,
    *,
    method: str = "auto",
    group: Any = None,
    keep_graph: bool | None = None,
    block: int = 8,
    apart: bool = False,
    **options: Any,
) -> Curvature:
    if block < 1:
        raise ValueError(f"got block={block}; expected an integer >= 1")
    if loss is None and kind != "hessian":
        raise ValueError(f"{kind} splits loss and model; pass loss(outputs, targets) and batch=(inputs, targets)")
    net = FrozenNetwork(model, loss, batch, **options)
    if not apart and kind != "fisher":
        net.check_micro_batches()
    return Curvature(net, kind, method, group, keep_graph, block)
