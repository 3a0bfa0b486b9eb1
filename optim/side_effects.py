"""Looking at a loss without leaving a trace: what a forward pass changes is put back.

Buffers (also those that a forward pass replaces), plain attributes of modules (which is where metrics keep what they
count), parameters of embeddings with a `max_norm`, the random generators of torch, NumPy and Python, and the batch, of
which every look gets a copy. Modules are found where the loss function holds them, and as they run.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import functools
import operator
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

SEED = 20_060_909  # of the dropout mask
_INTERNAL = ("_parameters", "_buffers", "_modules")
_IMMUTABLE = frozenset({bool, int, float, str, bytes, type(None), complex})
_CONTAINERS = frozenset({dict, list, set, OrderedDict})
_WATCHED = 20  # looks in which the whole state of NumPy's generator is compared
_MERSENNE = 625 * 4  # bytes of that state: 624 words and a position
_DEPTH = 3  # functions within functions that are searched for modules


@contextlib.contextmanager
def undisturbed(function: Any = None) -> Iterator[None]:
    """Put back, at the end, what modules keep and the random generators; inside, dropout has one fixed mask.

    Parameters
    ----------
    function : what will be called; modules that it holds are watched from the beginning, others when they run

    Examples
    --------
    >>> norm_layer = nn.BatchNorm1d(2)
    >>> with undisturbed():
    ...     _ = norm_layer(torch.ones(3, 2))
    >>> norm_layer.running_mean.tolist(), int(norm_layer.num_batches_tracked)
    ([0.0, 0.0], 0)
    """
    kept: dict[int, _Kept] = {}

    def keep(module: nn.Module, inputs: Any = None) -> None:
        for each in module.modules() if id(module) not in kept else ():
            if id(each) not in kept:
                kept[id(each)] = _Kept(each)

    for module in find_modules(function):
        keep(module)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    handle = register_module_forward_pre_hook(keep)
    python, numpy = random.getstate(), _NUMPY.keep()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(SEED)  # torch.manual_seed queues a call for CUDA, with a stack trace
            if devices:
                torch.cuda.manual_seed_all(SEED)
            yield
    finally:
        handle.remove()
        random.setstate(python)
        _NUMPY.put_back(numpy)
        with torch.no_grad():
            for each in kept.values():
                each.put_back()


class _NumpyGenerator:
    """The generator behind `np.random.normal` and its siblings, watched at a price that fits into every look.

    NumPy hands its state out number by number, which takes as long as the forward pass of a small network. So after
    some looks in which nothing was drawn, only the memory of the state is compared; a first draw later is undone all
    the same, and the whole state is kept from then on.
    """

    def __init__(self) -> None:
        self.looks, self.drawn = 0, False

    def keep(self) -> Any:
        if self.drawn or self.looks < _WATCHED:
            return np.random.get_state()  # noqa: NPY002 -- what users draw from
        return self._memory() or np.random.get_state()  # noqa: NPY002

    def put_back(self, kept: Any) -> None:
        self.looks += 1
        now: Any
        if isinstance(kept, bytes):
            if self._memory() == kept:
                return
            self.drawn = True
            address = self._address()
            if address:
                ctypes.memmove(address, kept, len(kept))
                now = np.random.get_state()  # noqa: NPY002 -- normals come in pairs: the second of the look's last one
                np.random.set_state((*now[:3], 0, 0.0))  # noqa: NPY002
            return
        now = np.random.get_state()  # noqa: NPY002
        if now[0] != kept[0] or now[2:] != kept[2:] or not np.array_equal(now[1], kept[1]):
            self.drawn = True
            np.random.set_state(kept)  # noqa: NPY002

    def _memory(self) -> bytes | None:
        address = self._address()
        return ctypes.string_at(address, _MERSENNE) if address else None

    @staticmethod
    def _address() -> int | None:
        generator: Any = getattr(getattr(np.random, "mtrand", None), "_rand", None)
        generator = getattr(generator, "_bit_generator", None)  # a user may have set another one
        return generator.ctypes.state_address if type(generator) is np.random.MT19937 else None


_NUMPY = _NumpyGenerator()


class _Kept:
    """What a module held besides its parameters and submodules.

    Every look makes one per module, so what cannot change inside is compared by identity in one pass, and of the many
    containers that are empty (hooks mostly) only that they are.
    """

    __slots__ = ("attributes", "buffers", "contents", "empty", "module", "names", "rows", "weight")

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        here = module.__dict__
        self.names, self.attributes = list(here), list(here.values())
        self.buffers: dict[str, tuple[Any, Any]] = {
            name: (b, None if b is None else b.detach().clone()) for name, b in here["_buffers"].items()
        }
        self.empty, self.contents = [], []
        for name, value in here.items():
            kind = type(value)
            if kind in _IMMUTABLE or name in _INTERNAL:
                continue
            if kind in _CONTAINERS and not value:
                self.empty.append(value)
            else:
                content = _content(value)
                if content is not None:
                    self.contents.append((value, content))
        weight: Any = getattr(module, "weight", None) if here.get("max_norm") is not None else None
        self.weight, self.rows = weight, None if weight is None else weight.detach().clone()

    def put_back(self) -> None:
        module = self.module
        for name, (buffer, value) in self.buffers.items():
            if buffer is not None:
                buffer.copy_(value)
            module._buffers[name] = buffer
        if len(module._buffers) > len(self.buffers):
            for name in [name for name in module._buffers if name not in self.buffers]:
                del module._buffers[name]
        here = module.__dict__
        if list(here) != self.names or not all(map(operator.is_, here.values(), self.attributes)):
            kept = dict(zip(self.names, self.attributes, strict=True))
            for name in [name for name in here if name not in kept and name not in _INTERNAL]:
                del here[name]
            here.update({name: value for name, value in kept.items() if name not in _INTERNAL})
        if any(self.empty):
            for value in self.empty:
                value.clear()
        for value, content in self.contents:
            _restore_content(value, content)
        if self.rows is not None:
            self.weight.copy_(self.rows)


def _content(value: Any) -> Any:
    """Return what is needed to undo a change inside a value; None where nothing can change."""
    if isinstance(value, Tensor):
        return value.detach().clone() if not value.requires_grad else None
    if isinstance(value, list | dict | set) and not any(isinstance(x, nn.Module) for x in value):
        return copy.copy(value)
    return None


def _restore_content(value: Any, content: Any) -> None:
    if isinstance(value, Tensor):
        value.copy_(content)
    elif isinstance(value, list):
        if len(value) != len(content) or not all(map(operator.is_, value, content)):
            value[:] = content
    elif (
        len(value) != len(content)
        or (isinstance(value, dict) and any(value.get(k) is not v for k, v in content.items()))
        or (isinstance(value, set) and value != content)
    ):
        value.clear()
        value.update(content)


def find_modules(function: Any, depth: int = _DEPTH) -> list[nn.Module]:
    """Return the modules that a function holds: as itself, its object, its closure, defaults or the globals it names.

    Examples
    --------
    >>> net = nn.Linear(2, 1)
    >>> find_modules(lambda x: net(x)) == [net], find_modules(net.forward) == [net], find_modules(None)
    (True, True, [])
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()

    def visit(value: Any, left: int) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found[id(value)] = value
        elif left == 0 or isinstance(value, type | Tensor | str | bytes | int | float):
            return
        elif isinstance(value, functools.partial):
            for each in (value.func, *value.args, *value.keywords.values()):
                visit(each, left - 1)
        elif hasattr(value, "__self__") and hasattr(value, "__func__"):
            visit(value.__self__, left)
            visit(value.__func__, left)
        elif hasattr(value, "__code__"):
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # a cell that is empty yet
                    visit(cell.cell_contents, left - 1)
            for name in value.__code__.co_names:
                if name in value.__globals__ and not isinstance(value.__globals__[name], type(contextlib)):
                    visit(value.__globals__[name], left - 1)
            for each in value.__defaults__ or ():
                visit(each, left - 1)
        elif isinstance(value, list | tuple):
            for each in value[:100]:
                visit(each, left - 1)
        elif hasattr(value, "__dict__") and not isinstance(value, type(contextlib)):
            for each in list(vars(value).values())[:200]:
                if isinstance(each, nn.Module):
                    visit(each, left)

    visit(function, depth)
    return list(found.values())


def copy_batch(batch: Any) -> Any:
    """Return a copy of a batch: containers and tensors, whatever classes they are of; graphs are kept.

    A loss that pops from its batch, or writes into it, does so in the copy.

    Examples
    --------
    >>> batch = {"x": torch.ones(2), "names": ["a", "b"]}
    >>> copied = copy_batch(batch)
    >>> copied.pop("x").zero_().tolist(), batch["x"].tolist(), copied["names"] is batch["names"]
    ([0.0, 0.0], [1.0, 1.0], False)
    """
    if isinstance(batch, Tensor):
        return batch.detach().clone().requires_grad_(batch.requires_grad) if batch.is_leaf else batch
    if isinstance(batch, np.ndarray):
        return batch.copy()
    if isinstance(batch, tuple):
        parts = [copy_batch(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else _remade(batch, parts)
    if isinstance(batch, list | set):
        return _remade(batch, [copy_batch(part) for part in batch])
    if isinstance(batch, dict) and type(batch) is dict:
        return {name: copy_batch(part) for name, part in batch.items()}
    if isinstance(batch, str | bytes | int | float | complex | bool | type(None)):
        return batch
    try:
        shallow = copy.copy(batch)
        if isinstance(shallow, Mapping):
            for name in list(shallow):
                shallow[name] = copy_batch(shallow[name])  # type: ignore[index]
        elif dataclasses.is_dataclass(shallow) or (
            hasattr(shallow, "__dict__") and not isinstance(shallow, nn.Module | Callable)
        ):
            for name, part in list(vars(shallow).items()):
                object.__setattr__(shallow, name, copy_batch(part))
    except Exception:  # a class of its own that cannot be copied: the look gets what there is
        return batch
    return shallow


def _remade(batch: Any, parts: list[Any]) -> Any:
    try:
        return type(batch)(parts)
    except TypeError:  # a subclass with another constructor
        return copy.copy(batch)
