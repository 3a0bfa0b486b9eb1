"""A network at fixed parameters on a fixed batch: what every curvature product is a product of.

Frozen means: parameters and buffers are copied when it is made, running statistics are never updated, dropout is off or
has a mask that a seed fixes. So an operator stays the same matrix whatever the training loop does meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader

BATCHNORM = ("batch", "running", "ghost")
DROPOUT = ("off", "fixed")
Parameters = dict[str, Tensor]


def unwrap(model: nn.Module) -> nn.Module:
    """Return the plain module inside torch.compile's and DistributedDataParallel's wrappers.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> unwrap(layer) is layer
    True
    """
    while True:
        wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
        inner = model.module if wrapped else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def gather_shards(t: Tensor) -> Tensor:
    """Return the whole of a parameter that FSDP2 shards over ranks, else the tensor itself; collective where sharded.

    Examples
    --------
    >>> t = torch.ones(2)
    >>> gather_shards(t) is t
    True
    """
    return t.full_tensor() if hasattr(t, "full_tensor") else t


@contextmanager
def without_sharding(model: nn.Module) -> Iterator[None]:
    """Take the hooks off by which FSDP2 puts its own parameters into modules: a pass brings them along as values."""
    taken = []
    for module in model.modules():
        get_state: Any = getattr(module, "_get_fsdp_state", None)
        state = None if get_state is None else get_state()
        for name, hooks in (
            ("_pre_forward_hook_handle", module._forward_pre_hooks),
            ("_post_forward_hook_handle", module._forward_hooks),
        ):
            key = getattr(getattr(state, name, None), "id", None)
            if key in hooks:
                taken.append((hooks, dict(hooks)))
                del hooks[key]
    try:
        yield
    finally:
        for hooks, before in taken:
            hooks.clear()
            hooks.update(before)


class FrozenNetwork:
    """Loss and outputs as functions of a dict of parameters.

    Parameters
    ----------
    model : nn.Module; wrappers of torch.compile and DDP are taken off. Parameters that FSDP2 (`fully_shard`) shards are
        gathered, all of them on every rank: vectors of this length are what Lanczos keeps anyway
    loss : callable (outputs, targets) -> scalar, or None: the model itself returns the loss of the batch
    batch : (inputs, targets), or with loss None the inputs; inputs: tensor, tuple of arguments or dict of keywords
    parameters : names, or None for all that require a gradient
    batchnorm : "batch" (statistics of the batch, as in training), "running", or "ghost" (statistics per micro-batch)
    dropout : "off", or "fixed": in training mode with the mask of `dropout_seed`
    reduction : "mean" or "sum": how the loss joins its samples
    micro_batch : int or None; samples per chunk

    Examples
    --------
    >>> batch = (torch.ones(6, 2), torch.ones(6, 1))
    >>> net = FrozenNetwork(nn.Linear(2, 1), nn.functional.mse_loss, batch, micro_batch=4)
    >>> net.size, net.samples, [chunk.weight for chunk in net.chunks]
    (3, 6, [0.6666666666666666, 0.3333333333333333])
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable | None,
        batch: Any,
        *,
        parameters: Iterable[str] | None = None,
        batchnorm: str = "batch",
        dropout: str = "off",
        dropout_seed: int = 0,
        reduction: str = "mean",
        micro_batch: int | None = None,
    ) -> None:
        _check(batchnorm, BATCHNORM, "batchnorm")
        _check(dropout, DROPOUT, "dropout")
        _check(reduction, ("mean", "sum"), "reduction")
        self.model, self.loss_function, self.reduction = unwrap(model), loss, reduction
        if not isinstance(batch, DataLoader):
            _check_pair(batch, loss)
        self.batchnorm, self.dropout, self.dropout_seed = batchnorm, dropout, int(dropout_seed)
        self.tensors = _select(self.model, parameters)
        self.values: Parameters = {name: gather_shards(p.detach()).clone() for name, p in self.tensors.items()}
        # what is not differentiated is frozen too: other parameters and all buffers
        self._others = {
            name: gather_shards(t.detach()).clone()
            for name, t in (*self.model.named_parameters(), *self.model.named_buffers())
            if name not in self.values
        }
        self.shapes = {name: p.shape for name, p in self.values.items()}
        self.sizes = [p.numel() for p in self.values.values()]
        self.size = sum(self.sizes)
        first = next(iter(self.values.values()))
        self.dtype, self.device = first.dtype, first.device
        self._whole = batch
        self.chunks: Sequence[Chunk]
        if isinstance(batch, DataLoader):
            if micro_batch is not None:
                raise ValueError("got micro_batch= with a DataLoader; expected one of them: its batches are the parts")
            self.chunks = LoaderChunks(batch, self.device, reduction)
        else:
            self._whole = batch = to_plain(batch)
            self.chunks = list(_split(batch, micro_batch, reduction))
        self.samples = sum(chunk.samples for chunk in self.chunks)
        self._check_statistics()

    def _check_statistics(self) -> None:
        """Micro-batches change what BatchNorm computes, and so the Hessian: only if that is asked for."""
        norms = any(isinstance(m, _NormBase) for m in self.model.modules())
        if norms and len(self.chunks) > 1 and self.batchnorm == "batch":
            raise ValueError(
                "batchnorm='batch' with micro_batch or a data loader: statistics of parts make another function; "
                "pass batchnorm='running', or 'ghost' if statistics per micro-batch are what you train with"
            )

    def check_micro_batches(self) -> None:
        """Compare the weighted losses of the micro-batches with the loss of the whole batch; one forward pass each.

        Raises
        ------
        ValueError : they differ, so the weighted Hessians would not be that of the loss

        Examples
        --------
        >>> batch = (torch.ones(6, 2), torch.tensor([0, 1, 0, -100, -100, -100]))      # -100: ignored by the mean
        >>> net = FrozenNetwork(nn.Linear(2, 2), nn.functional.cross_entropy, batch, micro_batch=2)
        >>> net.check_micro_batches()
        Traceback (most recent call last):
        ...
        ValueError: the losses of 3 micro-batches add up to nan, that of the whole batch is ...
        """
        norms = any(isinstance(m, _NormBase) for m in self.model.modules()) and self.batchnorm == "ghost"
        if len(self.chunks) == 1 or norms or isinstance(self._whole, DataLoader):
            return
        whole, dropout = Chunk(self._whole, self.samples, 0, 1.0), self.dropout
        try:
            self.dropout = "off"  # masks differ from chunk to chunk
            with self.evaluation(differentiable_twice=False), torch.no_grad():
                parts = [float(self.loss(self.values, chunk)) for chunk in self.chunks]
                wanted = float(self.loss(self.values, whole))
        finally:
            self.dropout = dropout
        summed = sum(chunk.weight * part for chunk, part in zip(self.chunks, parts, strict=True))
        size = max(abs(wanted), *(chunk.weight * abs(part) for chunk, part in zip(self.chunks, parts, strict=True)))
        if not abs(summed - wanted) <= 1e-6 * size + 100 * torch.finfo(self.dtype).eps * size:
            # did the parts simply add up? Then the loss is a sum, which the caller has called a mean
            plain = abs(sum(parts) - wanted) <= 1e-3 * abs(wanted)
            remedy = (
                "pass reduction='sum': the loss sums over samples" if plain and self.reduction == "mean" else
                "leave micro_batch out, or pass a loss that sums and reduction='sum' (class weights and ignored "
                "targets make means over different totals)"
            )  # fmt: skip
            raise ValueError(
                f"the losses of {len(self.chunks)} micro-batches add up to {summed:.6g}, that of the whole batch is "
                f"{wanted:.6g}; expected the same with reduction={self.reduction!r}: {remedy}"
            )

    def outputs(self, parameters: Parameters, chunk: Chunk) -> Any:
        """Return the model's outputs on a chunk; to be called inside `evaluation()`."""
        inputs = chunk.data if self.loss_function is None else chunk.data[0]
        args, kwargs = (), {}
        if isinstance(inputs, Mapping):
            kwargs = dict(inputs)
        else:
            args = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        # functional_call reads every tensor from here, so the live model is neither read nor written
        state = {**self._others, **parameters}
        if self.dropout == "off":
            return torch.func.functional_call(self.model, state, args, kwargs)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.dropout_seed + chunk.index)
            return torch.func.functional_call(self.model, state, args, kwargs)

    def loss(self, parameters: Parameters, chunk: Chunk) -> Tensor:
        """Return the loss of a chunk; to be called inside `evaluation()`."""
        out = self.outputs(parameters, chunk)
        return find_loss(out if self.loss_function is None else self.loss_function(out, chunk.data[1]))

    def sample_losses(self, parameters: Parameters, chunk: Chunk) -> Tensor:
        """Return the loss of each sample, (samples,); to be called inside `evaluation()`."""
        assert self.loss_function is not None  # the Fisher without it is refused where operators are made
        loss = self.loss_function

        def alone(out: Tensor, target: Any) -> Tensor:
            return loss(out[None], tree_map(lambda t: t[None], target))

        return torch.func.vmap(alone)(self.outputs(parameters, chunk), chunk.data[1])

    @contextmanager
    def evaluation(self, *, differentiable_twice: bool = True) -> Iterator[None]:
        """Set modes and kernels for a pass, and restore all of them.

        Attention runs as plain mathematics and cuDNN's RNNs are off where second derivatives are needed.
        """
        modules = list(self.model.modules())
        saved = [(m, m.training, m.__dict__.get("_compiled_call_impl")) for m in modules]
        tracking = [(m, m.track_running_stats) for m in modules if isinstance(m, _NormBase)]
        with ExitStack() as stack:
            stack.enter_context(without_sharding(self.model))
            if differentiable_twice:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
                stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
                torch.backends.mha.set_fastpath_enabled(False)
                if any(isinstance(m, nn.RNNBase) for m in modules) and self.device.type == "cuda":
                    stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            try:
                for m in modules:
                    m.training = self.batchnorm != "running" if isinstance(m, _NormBase) else self.dropout == "fixed"
                    # a compiled module would trace again for every new kind of derivative
                    m._compiled_call_impl = None
                    if isinstance(m, _NormBase) and m.training:
                        m.track_running_stats = False  # batch statistics, and nothing is written
                yield
            finally:
                for m, training, compiled in saved:
                    m.training, m._compiled_call_impl = training, compiled
                for m, track in tracking:
                    m.track_running_stats = track

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """Join a dict of (..., *shape) into (..., n); names that are missing or foreign are refused."""
        if set(values) != set(self.shapes):
            missing, foreign = set(self.shapes) - set(values), set(values) - set(self.shapes)
            raise ValueError(
                f"missing {sorted(missing)[:3]}, foreign {sorted(foreign)[:3]}; expected one per parameter"
            )
        parts = []
        for name, shape in self.shapes.items():
            v = values[name]
            if tuple(v.shape[v.dim() - len(shape) :]) != tuple(shape):
                raise ValueError(f"{name} has shape {tuple(v.shape)}; expected (..., {', '.join(map(str, shape))})")
            parts.append(v.reshape(*v.shape[: v.dim() - len(shape)], -1))
        return torch.cat(parts, -1)

    def unflatten(self, v: Tensor) -> Parameters:
        """Cut (..., n) into a dict of (..., *shape)."""
        parts = torch.split(v, self.sizes, -1)
        return {
            name: part.reshape(*v.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def to_plain(batch: Any) -> Any:
    """Return a batch with mappings of any class (as tokenizers return them) as plain dicts; the rest as it is.

    Examples
    --------
    >>> from collections import UserDict
    >>> to_plain((UserDict(x=1), [UserDict(y=2)]))
    ({'x': 1}, [{'y': 2}])
    """
    if isinstance(batch, Mapping):
        return {name: to_plain(part) for name, part in batch.items()}
    if isinstance(batch, tuple) and not hasattr(batch, "_fields"):
        return tuple(to_plain(part) for part in batch)
    return [to_plain(part) for part in batch] if type(batch) is list else batch


def find_loss(out: Any) -> Tensor:
    """Return the loss in what a loss function has returned: a scalar, (outputs, loss), or something with "loss".

    Raises
    ------
    ValueError : there is none, or it is not a scalar

    Examples
    --------
    >>> loss = torch.tensor(2.0)
    >>> [float(find_loss(out)) for out in (loss, ("outputs", loss), {"loss": loss}, (loss, torch.ones(3)))]
    [2.0, 2.0, 2.0, 2.0]
    """
    if isinstance(out, Mapping):
        out = out.get("loss")
    elif isinstance(out, tuple):
        scalars = [part for part in reversed(out[:2]) if isinstance(part, Tensor) and part.numel() == 1]
        out = scalars[0] if scalars else None
    elif not isinstance(out, Tensor | int | float) and hasattr(out, "loss"):
        out = out.loss
    if isinstance(out, int | float):
        out = torch.tensor(float(out))
    if not isinstance(out, Tensor) or out.numel() != 1:
        kind = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f'the loss function gave {kind}; expected a scalar loss, (outputs, loss) or {{"loss": loss}}')
    return out.reshape(())


class Chunk:
    """Some samples of the batch: their data, number, place and share in the loss."""

    def __init__(self, data: Any, samples: int, index: int, weight: float) -> None:
        self.data, self.samples, self.index, self.weight = data, samples, index, weight


class LoaderChunks(Sequence):
    """The batches of a data loader as parts of one batch, read anew at every pass: only one is in memory.

    Each is brought to the device of the parameters. With `reduction="mean"` a batch counts by its samples.

    Parameters
    ----------
    loader : gives the same batches at every pass, in any order: no random augmentation

    Examples
    --------
    >>> data = torch.utils.data.TensorDataset(torch.ones(5, 2), torch.ones(5, 1))
    >>> chunks = LoaderChunks(DataLoader(data, 2), torch.device("cpu"), "mean")
    >>> len(chunks), [chunk.weight for chunk in chunks]
    (3, [0.4, 0.4, 0.2])
    """

    def __init__(self, loader: DataLoader, device: torch.device, reduction: str) -> None:
        self._loader, self._device, self._mean = loader, device, reduction == "mean"
        self._sizes = [part.samples for part in self._read()]
        self._samples = sum(self._sizes)
        if not self._sizes:
            raise ValueError("the data loader gives no batches; expected at least one")

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Chunk]:
        for part in self._read():
            part.weight = part.samples / self._samples if self._mean else 1.0
            yield part

    def __getitem__(self, index: Any) -> Any:
        return next(itertools.islice(self, range(len(self))[index], None))

    def _read(self) -> Iterator[Chunk]:
        for index, batch in enumerate(self._loader):
            batch = to_plain(tuple(batch) if isinstance(batch, list) else batch)
            moved = tree_map(lambda x: x.to(self._device) if isinstance(x, Tensor) else x, batch)
            (part,) = _split(moved, None, "mean")
            part.index = index
            yield part


def _split(batch: Any, size: int | None, reduction: str) -> Iterator[Chunk]:
    tensors = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.dim()]
    if not tensors:
        raise ValueError(f"the batch {type(batch).__name__} holds no tensor with samples; expected (inputs, targets)")
    n = len(tensors[0])
    if n == 0 or any(len(t) != n for t in tensors):
        if n and size is None:  # graphs, joined targets, time first: nothing is split, so nothing need agree
            yield Chunk(batch, len(tensors[-1]) or n, 0, 1.0)
            return
        raise ValueError(
            f"first dimensions of the batch are {[len(t) for t in tensors]}; expected one size > 0 to split into "
            "micro-batches: leave micro_batch out"
        )
    if size is not None and size < 1:
        raise ValueError(f"got micro_batch={size}; expected an integer >= 1 or None")
    size = min(size or n, n)
    for index, start in enumerate(range(0, n, size)):
        count = min(size, n - start)
        part = batch if count == n else tree_map(lambda t, a=start, b=start + count: _cut(t, a, b), batch)
        yield Chunk(part, count, index, count / n if reduction == "mean" else 1.0)


def _cut(leaf: Any, start: int, stop: int) -> Any:
    return leaf[start:stop] if isinstance(leaf, Tensor) and leaf.dim() else leaf


def _select(model: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Parameter]:
    have = dict(model.named_parameters())
    if isinstance(names, str):
        names = (names,)
    chosen = [n for n, p in have.items() if p.requires_grad] if names is None else list(names)
    unknown = [n for n in chosen if n not in have]
    if unknown or not chosen:
        raise ValueError(f"parameters {unknown or chosen}; expected at least one of {list(have)[:6]} ...")
    kinds = {(have[n].dtype, have[n].device) for n in chosen}
    if len(kinds) > 1:
        raise ValueError(f"parameters of {len(kinds)} dtypes or devices; expected one: choose with parameters=[names]")
    return {n: have[n] for n in chosen}


def _check_pair(batch: Any, loss: Callable | None) -> None:
    """More parts than two would be ignored in silence."""
    if loss is not None and not (isinstance(batch, tuple | list) and len(batch) == 2):
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise ValueError(
            f"got a batch of {what}; expected (inputs, targets), as in (batch[0], batch[1:]): tuples of inputs are "
            "arguments of the model, and targets are given to the loss as they are"
        )


def _check(value: str, allowed: tuple[str, ...], name: str) -> None:
    if value not in allowed:
        raise ValueError(f"got {name}={value!r}; expected one of {allowed}")
