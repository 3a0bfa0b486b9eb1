"""Curvature products on one chunk of a batch, by three methods that must agree.

Hessian:  H v = ∂(gᵀv)/∂θ  (double backward: the graph of g is kept, one backward per product),
          = d g(θ + t v)/dt (forward over reverse: one jvp of the gradient, nothing kept),
          ≈ (g(θ + h v) - g(θ - h v)) / 2h  (finite differences: two gradients, first-order memory).
Gauss-Newton:  Jᵀ L'' J v, where J is the Jacobian of f and L'' the Hessian of the outer loss at f. The GGN has f = the
outputs; the empirical Fisher 1/n Σ gᵢ gᵢᵀ has f = the losses of the samples and L'' = 1/n (sum: 1).

A product takes and gives (k, n): k vectors at once, joined by vmap (finite differences: one after another).
Pearlmutter, Neural Computation 6 (1994); Schraudolph, Neural Computation 14 (2002).
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .network import Chunk, FrozenNetwork, Parameters

Product = Callable[[Tensor], Tensor]
METHODS = ("double-backward", "forward-over-reverse", "finite-differences")
KINDS = ("hessian", "ggn", "fisher")


def product(net: FrozenNetwork, chunk: Chunk, kind: str, method: str) -> Product:
    """Return V (k, n) -> curvature of the chunk times V.

    Examples
    --------
    >>> net = FrozenNetwork(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, (torch.eye(2), torch.ones(2, 1)))
    >>> product(net, net.chunks[0], "hessian", "double-backward")(torch.eye(3)).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 2.0]]
    """
    if method == METHODS[1]:
        _load_forward_mode()
    if kind == "hessian":
        return _HESSIAN[method](net, chunk)
    inner = net.outputs if kind == "ggn" else net.sample_losses
    outer = _outer_hessian(net, chunk) if kind == "ggn" else _identity(chunk, net.reduction)
    return _JACOBIAN[method](net, chunk, inner, outer)


@functools.cache
def _load_forward_mode() -> None:
    """Let torch load its forward-mode rules; doing so it warns of its own TorchScript, from 2.15 on whoever calls."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.ones(1), torch.ones(1))


def gradient(net: FrozenNetwork, chunk: Chunk, values: Parameters | None = None) -> tuple[Tensor, Tensor]:
    """Return the loss of a chunk and its flat gradient, at other parameter values if they are given.

    Examples
    --------
    >>> net = FrozenNetwork(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss, (torch.ones(2, 1), torch.ones(2, 1)))
    >>> gradient(net, net.chunks[0])[1].shape
    torch.Size([2])
    """
    leaves = _leaves(net.values if values is None else values)
    with net.evaluation(differentiable_twice=False), torch.enable_grad():
        loss = net.loss(leaves, chunk)
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), _join(net, found, 1)[0]


def _leaves(values: Parameters) -> Parameters:
    return {name: p.detach().requires_grad_() for name, p in values.items()}


def _join(net: FrozenNetwork, parts: Any, k: int) -> Tensor:
    """Join gradients, None for parameters that do not matter, to (k, n)."""
    zeros = (torch.zeros(k, size, dtype=net.dtype, device=net.device) for size in net.sizes)
    return torch.cat([z if p is None else p.reshape(k, -1) for p, z in zip(parts, zeros, strict=True)], 1)


def _pull(outputs: list[Tensor], inputs: list[Tensor], weights: list[Tensor], k: int) -> Any:
    """Return weightsᵀ ∂outputs/∂inputs, graph kept; weights lead with k, joined by vmap if k > 1."""
    # an output without a graph is constant: its derivative is zero, and torch would refuse it
    alive = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    if not alive:
        return [None] * len(inputs)
    outs, ws = [o for o, _ in alive], [w if k > 1 else w[0] for _, w in alive]
    return torch.autograd.grad(outs, inputs, ws, retain_graph=True, allow_unused=True, is_grads_batched=k > 1)


class GradientGraph:
    """The gradient of a loss with its graph: what Hessian products by double backward are made of.

    Parameters
    ----------
    loss : a scalar with its graph;  leaves : parameters that it hangs on, or not

    Attributes
    ----------
    gradient : with respect to the leaves, None where the loss does not hang on one
    is_constant : the gradient has no graph: every product would be zero

    Raises
    ------
    RuntimeError : an operation that is only once differentiable, which torch would take as constant

    Examples
    --------
    >>> w = torch.ones(2, requires_grad=True)
    >>> [h.tolist() for h in GradientGraph((w**3).sum(), [w]).pull([torch.tensor([1.0, 0.0])])]
    [[6.0, 0.0]]
    """

    def __init__(self, loss: Tensor, leaves: list[Tensor]) -> None:
        self._leaves = leaves
        found = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
        self.gradient = [None if g is None else g.detach() for g in found]
        self._used = [g is not None for g in found]
        self._outputs = [g for g in found if g is not None]
        self.is_constant = not any(g.requires_grad for g in self._outputs)
        _refuse_dead_ends(self._outputs)

    def pull(self, weights: Sequence[Tensor], k: int = 1) -> list[Tensor | None]:
        """Return the Hessian times weights (one per leaf; led by k if k > 1); None for leaves that do not matter."""
        mine = [w for w, used in zip(weights, self._used, strict=True) if used]
        return list(_pull(self._outputs, self._leaves, mine if k > 1 else [w[None] for w in mine], k))


def _refuse_dead_ends(tensors: list[Tensor]) -> None:
    """Raise where a graph ends in a backward that is marked as once differentiable: torch would take it as constant."""
    stack, seen = [t.grad_fn for t in tensors], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("Error"):
            raise RuntimeError("an operation of the model is only once differentiable; use finite differences")
        seen.add(node)
        stack.extend(following for following, _ in node.next_functions)


class _DoubleBackward:
    """Keeps the graph of the gradient; the gradient itself comes with it."""

    def __init__(self, net: FrozenNetwork, chunk: Chunk) -> None:
        self._net, named = net, _leaves(net.values)
        with net.evaluation(), torch.enable_grad():
            self._graph = GradientGraph(net.loss(named, chunk), list(named.values()))
        self.gradient = _join(net, self._graph.gradient, 1)[0]

    def __call__(self, V: Tensor) -> Tensor:
        # gᵀv once more through the graph of g: by symmetry that is H v
        k = len(V)
        weights = list(self._net.unflatten(V if k > 1 else V[0]).values())
        return _join(self._net, self._graph.pull(weights, k), k)


def _forward_over_reverse(net: FrozenNetwork, chunk: Chunk) -> Product:
    derivative = torch.func.grad(lambda p: net.loss(p, chunk))

    def one(v: Parameters) -> Parameters:
        return torch.func.jvp(derivative, (net.values,), (v,))[1]

    def apply(V: Tensor) -> Tensor:
        with net.evaluation():
            if len(V) == 1:  # vmap of one vector costs more than it saves
                return net.flatten(one(net.unflatten(V[0])))[None].detach()
            return net.flatten(torch.func.vmap(one, randomness="same")(net.unflatten(V))).detach()

    return apply


def difference_step(theta: float, v: float, dtype: torch.dtype) -> float:
    """Return h so that h·v is a shift of eps^(1/3)·max(1, ‖θ‖): there truncation and rounding balance; 0 for v = 0.

    Parameters
    ----------
    theta, v : norms of the parameters and of the direction

    Examples
    --------
    >>> difference_step(1.0, 0.0, torch.float32), round(difference_step(1.0, 2.0, torch.float64) * 1e6, 2)
    (0.0, 3.03)
    """
    return torch.finfo(dtype).eps ** (1 / 3) * max(1.0, theta) / v if v > 0 else 0.0


def central_difference(value_at: Callable[[float], Any], h: float) -> Any:
    """Return (f(h) - f(-h)) / 2h, f giving a tensor or a list of them.

    Examples
    --------
    >>> central_difference(lambda t: torch.tensor(3.0 + 2.0 * t), 0.5).item()
    2.0
    """
    ahead, behind = value_at(h), value_at(-h)
    if isinstance(ahead, Tensor):
        return (ahead - behind) / (2 * h)
    return [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]


def _step_of(net: FrozenNetwork, v: Tensor) -> float:
    theta = math.sqrt(sum(float(p.double().square().sum()) for p in net.values.values()))
    return difference_step(theta, float(torch.linalg.vector_norm(v.double())), net.dtype)


def _shifted(net: FrozenNetwork, v: Tensor, h: float) -> Parameters:
    return {name: net.values[name] + h * part for name, part in net.unflatten(v).items()}


def _differences(net: FrozenNetwork, chunk: Chunk) -> Product:
    def one(v: Tensor) -> Tensor:
        h = _step_of(net, v)
        return central_difference(lambda t: gradient(net, chunk, _shifted(net, v, t))[1], h) if h else v * 0

    return lambda V: torch.stack([one(v) for v in V])


def _outer_hessian(net: FrozenNetwork, chunk: Chunk) -> Callable[[Tensor, Tensor], Tensor]:
    """Return (z, w) -> L''(z) w for the loss as a function of the outputs z."""
    assert net.loss_function is not None  # the GGN without it is refused where operators are made
    loss, targets = net.loss_function, chunk.data[1]
    slope = torch.func.grad(lambda z: loss(z, targets))
    return lambda z, w: torch.func.vjp(slope, z)[1](w)[0]  # symmetric; reverse mode knows more losses than forward mode


def _identity(chunk: Chunk, reduction: str) -> Callable[[Tensor, Tensor], Tensor]:
    scale = 1 / chunk.samples if reduction == "mean" else 1.0
    return lambda z, w: scale * w


def _one_tensor(z: Any) -> Tensor:
    if not isinstance(z, Tensor):
        raise TypeError(f"the model returned {type(z).__name__}; expected one tensor of outputs: wrap the model")
    return z


def _jacobian_double_backward(net: FrozenNetwork, chunk: Chunk, inner: Callable, outer: Callable) -> Product:
    """J v as the derivative of Jᵀu with respect to u: reverse mode alone, with both graphs kept."""
    leaves = list((named := _leaves(net.values)).values())
    with net.evaluation(), torch.enable_grad():
        z = _one_tensor(inner(named, chunk))
        u = torch.zeros_like(z, requires_grad=True)
        transposed = torch.autograd.grad(z, leaves, u, create_graph=True, allow_unused=True)
    used = [t is not None for t in transposed]
    outputs, at = [t for t in transposed if t is not None], z.detach()
    _refuse_dead_ends(outputs)

    def apply(V: Tensor) -> Tensor:
        k = len(V)
        weights = [v for v, use in zip(net.unflatten(V).values(), used, strict=True) if use]
        (pushed,) = _pull(outputs, [u], weights, k)  # J v
        if pushed is None:
            return torch.zeros_like(V)
        bent = torch.stack([outer(at, w) for w in pushed.reshape(k, *z.shape)])  # L'' J v
        return _join(net, _pull([z], leaves, [bent], k), k)

    return apply


def _jacobian_forward(net: FrozenNetwork, chunk: Chunk, inner: Callable, outer: Callable) -> Product:
    def f(p: Parameters) -> Tensor:
        return _one_tensor(inner(p, chunk))

    with net.evaluation():
        z, pull = torch.func.vjp(f, net.values)[:2]

    def one(v: Parameters) -> Parameters:
        return pull(outer(z, torch.func.jvp(f, (net.values,), (v,))[1]))[0]

    def apply(V: Tensor) -> Tensor:
        with net.evaluation():
            if len(V) == 1:
                return net.flatten(one(net.unflatten(V[0])))[None].detach()
            return net.flatten(torch.func.vmap(one, randomness="same")(net.unflatten(V))).detach()

    return apply


def _jacobian_differences(net: FrozenNetwork, chunk: Chunk, inner: Callable, outer: Callable) -> Product:
    named = _leaves(net.values)
    with net.evaluation(differentiable_twice=False), torch.enable_grad():
        z = _one_tensor(inner(named, chunk))
    at = z.detach()

    def values(v: Tensor, h: float) -> Tensor:
        with net.evaluation(differentiable_twice=False), torch.no_grad():
            return inner(_shifted(net, v, h), chunk)

    def one(v: Tensor) -> Tensor:
        h = _step_of(net, v)
        if h == 0:
            return torch.zeros_like(v)
        pushed = central_difference(lambda t: values(v, t), h)  # J v
        return _join(net, _pull([z], list(named.values()), [outer(at, pushed)[None]], 1), 1)[0]

    return lambda V: torch.stack([one(v) for v in V])


_HESSIAN: dict[str, Callable[[FrozenNetwork, Chunk], Product]] = dict(
    zip(METHODS, (_DoubleBackward, _forward_over_reverse, _differences), strict=True)
)
_JACOBIAN = dict(zip(METHODS, (_jacobian_double_backward, _jacobian_forward, _jacobian_differences), strict=True))
