"""The operator that curvature products are applied through: blocks of vectors, dicts, micro-batches, process groups."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .methods import is_symmetric, measure_methods, warn_of_asymmetry
from .network import FrozenNetwork
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
    >>> from krylearn.optim import hessian
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
        if method != "auto" and kind == "hessian" and method != METHODS[2] and not self._is_symmetric():
            self.method, self._kept = METHODS[2], {}
            warn_of_asymmetry(net, method)
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
        >>> from krylearn.optim import hessian
        >>> H = hessian(nn.Linear(1, 1), nn.functional.mse_loss, (torch.ones(2, 1), torch.ones(2, 1)))
        >>> H.matrix().tolist()
        [[2.0, 2.0], [2.0, 2.0]]
        """
        return self(torch.eye(self.shape[0], dtype=self.torch_dtype, device=self.device))

    def gradient(self) -> Tensor:
        """Return the flat gradient (n,) of the loss of the batch; of a preconditioned operator, P^(-1/2) g."""
        parts = (self._weight(c) * self._gradient(c) for c in self.net.chunks)
        g = self._sum(functools.reduce(torch.add, parts))  # one at a time: a data loader has many
        return g if self.scale is None else g * self.scale

    def _gradient(self, chunk: Any) -> Tensor:
        """Return the chunk's gradient; graphs that are kept for products hold it already."""
        kept = self._product(chunk) if self._keep and (self.kind, self.method) == ("hessian", METHODS[0]) else None
        return kept.gradient if kept is not None else gradient(self.net, chunk)[1]  # type: ignore[attr-defined]

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
        >>> from krylearn.optim import hessian
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

    def _is_symmetric(self) -> bool:
        """Probe the chosen method's symmetry on the first chunk, once per model."""
        known = _measured.setdefault(self.net.model, {})
        key = ("symmetric", self.method, self.torch_dtype, self.net.size)
        if key not in known:
            known[key] = is_symmetric(self._product(self.net.chunks[0]), self.net)  # type: ignore[assignment]
        return bool(known[key])

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
