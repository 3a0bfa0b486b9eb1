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
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .network import FrozenNetwork
from .preconditioner import inverse_root
from .products import METHODS, Product, gradient, product

_measured: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


class Curvature:
    """A symmetric n × n operator on parameters; make it with `hessian`, `ggn`, `empirical_fisher` or `preconditioned`.

    Attributes
    ----------
    shape : (n, n);  dtype : NumPy dtype (SciPy's protocol);  torch_dtype, device
    kind : "hessian", "ggn", "fisher";  method : how products are formed;  samples : batch size, all ranks together
    products : products made so far (one per vector);  seconds : what the measurement of methods found, or {}

    Examples
    --------
    >>> H = hessian(nn.Linear(1, 1), nn.functional.mse_loss, (torch.ones(2, 1), torch.ones(2, 1)))
    >>> H.shape, H.kind, (H @ torch.tensor([1.0, 0.0])).tolist()
    ((2, 2), 'hessian', [2.0, 2.0])
    >>> from scipy.sparse.linalg import aslinearoperator
    >>> (aslinearoperator(H) @ np.array([1.0, -1.0], dtype="float32")).tolist()
    [0.0, 0.0]
    """

    def __init__(self, net: FrozenNetwork, kind: str, method: str, group: Any, keep: bool | None, block: int):
        self.net, self.kind, self.group, self.block = net, kind, group, int(block)
        self._keep = len(net.chunks) == 1 if keep is None else keep
        self._kept: dict[int, Product] = {}
        self.scale: Tensor | None = None
        self.products = 0
        self.seconds: dict[str, float] = {}
        self.method = self._choose() if method == "auto" else method
        if self.method not in METHODS:
            raise ValueError(f"got method={method!r}; expected 'auto' or one of {METHODS}")
        self.samples = int(self._sum(torch.tensor(float(net.samples), dtype=torch.float64, device=net.device)))

    shape = property(lambda self: (self.net.size, self.net.size))
    torch_dtype = property(lambda self: self.net.dtype)
    device = property(lambda self: self.net.device)
    dtype = property(lambda self: np.dtype(str(self.net.dtype).removeprefix("torch.").replace("bfloat16", "float32")))

    def __repr__(self) -> str:
        name = f"preconditioned {self.kind}" if self.scale is not None else self.kind
        return f"Curvature({name}, n={self.shape[0]}, samples={self.samples}, method={self.method!r})"

    def __call__(self, v: Any) -> Any:
        """Apply to (..., n), NumPy or torch, or to a dict of (..., *shape of the parameter); gives the same kind."""
        if isinstance(v, Mapping):
            return self.net.unflatten(self(self.net.flatten(v)))
        if not isinstance(v, Tensor):
            out = self(torch.as_tensor(np.asarray(v), device=self.device))
            return out.cpu().numpy()
        if v.dim() == 0 or v.shape[-1] != self.shape[0]:
            raise ValueError(f"got a vector of shape {tuple(v.shape)}; expected (..., {self.shape[0]})")
        if v.device.type != self.device.type:
            raise ValueError(f"the vector is on {v.device}, the parameters are on {self.device}; move one of them")
        rows = v.detach().to(self.torch_dtype).reshape(-1, self.shape[0])
        rows = rows if self.scale is None else rows * self.scale
        out = torch.cat([self._apply(part) for part in rows.split(self.block)]) if len(rows) else rows
        out = out if self.scale is None else out * self.scale
        return out.reshape(v.shape).to(v.dtype)

    __matmul__ = __call__

    def matvec(self, v: Any) -> Any:
        """Apply to (n,) or SciPy's column (n, 1)."""
        return self(v.reshape(-1)).reshape(v.shape)

    def matmat(self, V: Any) -> Any:
        """Apply to the columns of (n, k), as SciPy does."""
        return self(V.T).T

    rmatvec, rmatmat = matvec, matmat

    def matrix(self) -> Tensor:
        """Form the dense matrix, n products; for small networks.

        Examples
        --------
        >>> H = hessian(nn.Linear(1, 1), nn.functional.mse_loss, (torch.ones(2, 1), torch.ones(2, 1)))
        >>> H.matrix().tolist()
        [[2.0, 2.0], [2.0, 2.0]]
        """
        return self(torch.eye(self.shape[0], dtype=self.torch_dtype, device=self.device))

    def gradient(self) -> Tensor:
        """Return the flat gradient (n,) of the loss of the batch; of a preconditioned operator, P^(-1/2) g."""
        g = self._sum(torch.stack([self._weight(c) * gradient(self.net, c)[1] for c in self.net.chunks]).sum(0))
        return g if self.scale is None else g * self.scale

    def chunk_product(self, chunk: Any, v: Tensor) -> Tensor:
        """Return one micro-batch's own curvature times v (n,), of this rank alone: what noise is estimated from."""
        self.products += 1
        rows = v.detach().to(self.torch_dtype)[None]
        w = self._product(chunk)(rows if self.scale is None else rows * self.scale)[0].detach()
        return w if self.scale is None else w * self.scale

    def chunk_gradient(self, chunk: Any) -> Tensor:
        """Return one micro-batch's own flat gradient, of this rank alone; preconditioned if the operator is."""
        g = gradient(self.net, chunk)[1]
        return g if self.scale is None else g * self.scale

    def state_dict(self) -> dict[str, Any]:
        """Return what fixes the operator beside model and batch; plain values, for checkpoints.

        Examples
        --------
        >>> batch = (torch.ones(2, 1), torch.ones(2, 1))
        >>> state = hessian(nn.Linear(1, 1), nn.functional.mse_loss, batch, method="double-backward").state_dict()
        >>> state["method"], state["batchnorm"], state["dropout"]
        ('double-backward', 'batch', 'off')
        """
        net = self.net
        return {
            "kind": self.kind, "method": self.method, "batchnorm": net.batchnorm, "dropout": net.dropout,
            "dropout_seed": net.dropout_seed, "reduction": net.reduction, "seconds": dict(self.seconds),
        }  # fmt: skip

    def _apply(self, rows: Tensor) -> Tensor:
        self.products += len(rows)
        out = torch.zeros_like(rows)
        for chunk in self.net.chunks:
            out += self._weight(chunk) * self._product(chunk)(rows).detach()
        return self._sum(out)

    def _weight(self, chunk: Any) -> float:
        """Return the chunk's share in the loss of all ranks; ranks may hold different numbers of samples."""
        share = self.net.samples / self.samples if self.net.reduction == "mean" and self.group is not None else 1.0
        return chunk.weight * share

    def _product(self, chunk: Any) -> Product:
        if chunk.index not in self._kept:
            made = product(self.net, chunk, self.kind, self.method)
            if not self._keep:
                return made
            self._kept[chunk.index] = made
        return self._kept[chunk.index]

    def _sum(self, value: Tensor) -> Tensor:
        if self.group is not None:
            dist.all_reduce(value, group=self.group)
        return value

    def _choose(self) -> str:
        """Return the fastest exact method that works, measured once per model, the same on all ranks."""
        key = (
            self.kind,
            self.torch_dtype,
            str(self.device),
            len(self.net.chunks),
            self.net.chunks[0].samples,
            self._keep,
        )
        known = _measured.setdefault(self.net.model, {})
        if key not in known:
            known[key] = measure_methods(self.net, self.kind, keep=self._keep)
        self.seconds = dict(known[key])
        best = [min(self.seconds, key=self.seconds.__getitem__) if self.seconds else METHODS[2]]
        if self.group is not None:
            dist.broadcast_object_list(best, src=dist.get_global_rank(self.group, 0), group=self.group)
        return best[0]


def measure_methods(net: FrozenNetwork, kind: str, *, keep: bool = True, repeats: int = 3) -> dict[str, float]:
    """Time one product by each exact method on the first chunk; methods that this model does not support are left out.

    The median of `repeats` after one warm-up, in seconds; with keep=False building the graph is part of the product. A
    method whose product differs from the first by more than √eps is left out too.

    Examples
    --------
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


def hessian(model: nn.Module, loss: Callable | None, batch: Any, **options: Any) -> Curvature:
    """Return the Hessian of a loss on a batch as an operator, in loss/parameter².

    Parameters
    ----------
    model : nn.Module; wrappers of torch.compile and DDP are taken off
    loss : callable (outputs, targets) -> scalar; or None if model(inputs) is the loss of the batch
    batch : (inputs, targets); inputs: a tensor, a tuple of arguments, or a dict of keywords. First dimension: samples
    parameters : names, keyword; default all that require a gradient
    method : "auto", "double-backward", "forward-over-reverse" or "finite-differences"
    batchnorm : "batch" (statistics of the batch, as in training), "running", "ghost" (per micro-batch); never updated
    dropout : "off", or "fixed": the mask of `dropout_seed`
    reduction : "mean" or "sum": how the loss joins samples
    micro_batch : samples at a time, None for all;  keep_graph : keep graphs between products (default: if one chunk)
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
    **options: Any,
) -> Curvature:
    if block < 1:
        raise ValueError(f"got block={block}; expected an integer >= 1")
    if loss is None and kind != "hessian":
        raise ValueError(f"{kind} splits loss and model; pass loss(outputs, targets) and batch=(inputs, targets)")
    return Curvature(FrozenNetwork(model, loss, batch, **options), kind, method, group, keep_graph, block)
