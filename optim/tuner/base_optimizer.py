"""The wrapped optimizer, and the one place that touches it: its parameters, its state, its groups' entries, its step.

Snapshots hold all three, so that what is restored is what was: some optimizers keep part of their state in the groups
(Schedule-Free its counter, Prodigy its estimate). Such entries are recognised by their changing in a step.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer

from .wrapper import JoinedOptimizer, list_members

LEARNED = ("lr", "momentum", "betas")  # entries whose outside values stand apart in a checkpoint
WATCHED = 64  # first steps whose group entries are compared with those before; later one in as many
MANY = 64  # groups
_BEFORE: Any = getattr(torch_optimizer, "_global_optimizer_pre_hooks", True)  # of all optimizers; unknown: as if any
_AFTER: Any = getattr(torch_optimizer, "_global_optimizer_post_hooks", True)
OUTSIDE = ("params", "lr", "initial_lr", "krylearn")  # entries that no step of an optimizer changes


class Snapshot:
    """Copies of parameters, of what the optimizer keeps for them and in its groups, and of buffers of modules.

    Memory: as much as parameters that are trained and optimizer state together.

    Examples
    --------
    >>> w = nn.Parameter(torch.ones(1))
    >>> base = BaseOptimizer(torch.optim.SGD([w], lr=0.1))
    >>> snapshot = base.take_snapshot([])
    >>> with torch.no_grad():
    ...     _ = w.mul_(5)
    >>> base.restore(snapshot, [])
    >>> w.item()
    1.0
    """

    def __init__(
        self, values: list[Any], states: list[Any], buffers: list[Tensor], entries: list[Any] | None = None
    ) -> None:
        self.values, self.states, self.buffers, self.entries = values, states, buffers, entries or []

    def plain(self) -> dict[str, Any]:
        """Return tensors, numbers, lists and dictionaries for a checkpoint."""
        return {"values": self.values, "states": self.states, "buffers": self.buffers, "entries": self.entries}


class BaseOptimizer:
    """A torch optimizer as the tuner's phases see it.

    Parameters
    ----------
    optimizer : what is wrapped;  learn_momentum : whether its momentum is ours to set, where it has one

    Attributes
    ----------
    sign : -1 if all groups maximise, else 1

    Examples
    --------
    >>> BaseOptimizer(torch.optim.AdamW([torch.ones(1)], lr=0.5)).first_lr
    0.5
    """

    def __init__(self, optimizer: torch.optim.Optimizer, learn_momentum: bool = False) -> None:
        self.optimizer = optimizer
        self.momentum_entry = find_momentum_entry(optimizer)
        self.learns_momentum = learn_momentum and self.momentum_entry is not None
        self.stepped_entries: set[str] = set()
        self._steps = 0
        self._shown: list[tuple[dict[str, Any], str, Any, Any]] = []
        self.sign = -1.0 if optimizer.param_groups[0].get("maximize", False) else 1.0

    # what it is

    @property
    def first_group(self) -> dict[str, Any]:
        """Return the first group, whose lr stands for all."""
        return self.optimizer.param_groups[0]

    @property
    def first_lr(self) -> float:
        """Return the first group's lr as the outside has set it."""
        if self._shown and self.first_group["lr"] is self._shown[0][3]:
            return float(self._shown[0][2])
        return float(self.first_group["lr"])

    @property
    def heavy(self) -> bool:
        """Say whether it is of the heavy-ball kind, where lr/(1-β) counts."""
        firsts = [each.param_groups[0] for each in list_members(self.optimizer)]
        return all("momentum" in group and "betas" not in group for group in firsts)

    @property
    def adaptive(self) -> bool:
        """Say whether it divides by second moments, or one of its members does."""
        firsts = [each.param_groups[0] for each in list_members(self.optimizer)]
        return any(divides(group) for group in firsts)

    @property
    def units(self) -> list[int]:
        """Return, per group, the number of the scale it shares where ratios are learned: a member's, else its own."""
        if isinstance(self.optimizer, JoinedOptimizer):
            return self.optimizer.members_of_groups
        return list(range(len(self.optimizer.param_groups)))

    def unit_of_parameters(self) -> list[int]:
        """Return the number of the scale of each parameter."""
        groups = self.optimizer.param_groups
        return [unit for unit, group in zip(self.units, groups, strict=True) for _ in group["params"]]

    def spread(self, ratios: Sequence[float]) -> list[float]:
        """Return the factor of each group, given those of the units (groups added since: 1); none if none is given."""
        return [ratios[unit] if unit < len(ratios) else 1.0 for unit in self.units] if ratios else []

    def parameters(self) -> list[Tensor]:
        """Return all parameters in the order of the groups."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def trained(self) -> list[Tensor]:
        """Return the parameters that are trained now: frozen ones are left alone."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def is_finite(self) -> bool:
        """Say whether all trained parameters are finite; one synchronisation."""
        sums = [get_local(p.detach()).sum() for p in self.trained()]
        if not sums:
            return True
        return bool(torch.isfinite(torch.stack([s.abs().double().cpu() for s in sums])).all())

    def fingerprint(self) -> float:
        """Return a number that changes with any parameter that is trained: the sum of all sizes, in float64."""
        sums = [p.detach().abs().sum(dtype=torch.float64) for p in self.trained()]
        sums = [s.full_tensor() if hasattr(s, "full_tensor") else s for s in sums]
        return float(torch.stack([s.cpu() for s in sums]).sum()) if sums else 0.0

    # its step

    def step(self, scale: float, momentum: float, ratios: Sequence[float] = ()) -> None:
        """Make a step with the groups' lrs multiplied and their momentum set (NaN: left alone); then all is back.

        Tensor lrs are changed in place: compiled steps hold them.
        """
        optimizer = self.optimizer
        groups = optimizer.param_groups
        self._steps += 1
        watched = self._steps <= WATCHED or self._steps % WATCHED == 0
        before = _entries_of(groups[0]) if watched else {}
        if scale == 1.0 and math.isnan(momentum) and not ratios:
            make_step(optimizer)
        else:
            with self.in_force(scale, momentum, ratios):
                make_step(optimizer)
        if before:
            group = optimizer.param_groups[0]
            for name, value in before.items():
                if group.get(name) is not value and not _same(group.get(name), value):
                    self.stepped_entries.add(name)

    def step_with(
        self, gradients: Sequence[Tensor | None], scale: float, momentum: float, ratios: Sequence[float] = ()
    ) -> None:
        """Make a step of a trial: with given gradients (None: untouched), and without hooks, which are the user's."""
        owned = self.parameters()
        kept = [p.grad for p in owned]
        try:
            for p, gradient in zip(owned, gradients, strict=True):
                p.grad = gradient
            before = _entries_of(self.first_group)
            with self.in_force(scale, momentum, ratios), torch.no_grad():
                for each in list_members(self.optimizer):
                    plain_step: Any = type(each).step
                    plain_step = plain_step.__wrapped__ if getattr(plain_step, "hooked", False) else plain_step
                    plain_step(each)
            for name, value in before.items():
                if not _same(self.first_group.get(name), value):
                    self.stepped_entries.add(name)
        finally:
            for p, gradient in zip(owned, kept, strict=True):
                p.grad = gradient

    @contextlib.contextmanager
    def in_force(self, scale: float, momentum: float, ratios: Sequence[float] = ()) -> Iterator[None]:
        """Multiply the groups' lrs (each unit's by its ratio too), set their momentum; at the end all is back.

        Examples
        --------
        >>> sgd = torch.optim.SGD([torch.ones(1)], lr=1.0)
        >>> with BaseOptimizer(sgd, True).in_force(0.25, 0.9):
        ...     print(sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"])
        0.25 0.9
        >>> sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]
        (1.0, 0)
        """
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        first = rates[0]
        equal = type(first) is float and not ratios and rates.count(first) == len(rates)  # thousands cost little
        tensors = [] if equal else [(k, rate.clone()) for k, rate in enumerate(rates) if isinstance(rate, Tensor)]
        name = self.momentum_entry if math.isfinite(momentum) else None
        momenta = [group[name] for group in groups] if name else []
        try:
            if equal:
                scaled = first * scale
                for group in groups:
                    group["lr"] = scaled
            else:
                factors = [scale * factor for factor in self.spread(ratios)] or [scale] * len(groups)
                for group, rate, factor in zip(groups, rates, factors, strict=True):
                    group["lr"] = rate.mul_(factor) if isinstance(rate, Tensor) else rate * factor
            if name:
                for group in groups:
                    group[name] = replace_momentum(group, name, momentum)
            yield
        finally:
            for k, rate in tensors:
                rates[k].copy_(rate)
            if equal:
                for group in groups:
                    group["lr"] = first
            else:
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = rate
            if name:
                for group, momentum_before in zip(groups, momenta, strict=True):
                    group[name] = momentum_before

    def show(self, scale: float, momentum: float, ratios: Sequence[float] = ()) -> None:
        """Write what is in force into the groups, until `hide`."""
        self.hide()
        groups = self.optimizer.param_groups
        for group, factor in zip(groups, self.spread(ratios) or [1.0] * len(groups), strict=True):
            shown = {"lr": group["lr"] * scale * factor}
            if self.momentum_entry and math.isfinite(momentum):
                shown[self.momentum_entry] = replace_momentum(group, self.momentum_entry, momentum)
            for name, value in shown.items():
                self._shown.append((group, name, group[name], value))
                group[name] = value

    def hide(self) -> None:
        """Put back what stood in the groups before `show`, unless somebody has written there since."""
        for group, name, before, shown in self._shown:
            if group[name] is shown:
                group[name] = before
        self._shown = []

    def rescale_buffers(self, factor: float) -> None:
        """Multiply momentum buffers, so that the next step stays what it was under another momentum."""
        for p in self.parameters():
            buffer = self.optimizer.state.get(p, {}).get("momentum_buffer")
            if isinstance(buffer, Tensor):
                buffer.mul_(factor)

    def multiply_lrs(self, factor: float) -> None:
        """Multiply every group's lr, and the one that schedulers begin from, for good."""
        for group in self.optimizer.param_groups:
            for name in ("lr", "initial_lr"):
                if name in group:
                    value = group[name]
                    group[name] = value.mul_(factor) if isinstance(value, Tensor) else value * factor

    # snapshots

    def take_snapshot(self, modules: Sequence[nn.Module], *, host: bool = True) -> Snapshot:
        """Copy what is there now, to host memory or to where it is."""
        owned, state = self.parameters(), self.optimizer.state
        device = "cpu" if host else None
        groups = [{k: v for k, v in g.items() if k not in OUTSIDE} for g in self._groups_with_entries()]
        with torch.no_grad():
            return Snapshot(
                [_copy(get_local(p), device) if p.requires_grad else None for p in owned],
                [_copied(state[p], device) if p in state else None for p in owned],
                [_copy(b, device) for b in _buffers(modules)],
                [_copied(group, device) for group in groups],
            )

    def _groups_with_entries(self) -> list[dict[str, Any]]:
        """Return the groups whose entries are worth keeping: none of thousands that no step changes."""
        groups = self.optimizer.param_groups
        return groups if len(groups) <= MANY or self.stepped_entries or not self._steps else []

    def restore(self, snapshot: Snapshot, modules: Sequence[nn.Module], *, hyper: bool = False) -> None:
        """Write a snapshot back; it stays usable. Parameters that were added or frozen since are left alone.

        Of the groups' entries only those that the optimizer's own steps change are restored, all of them if `hyper`:
        between the snapshot and now a scheduler may have written the others.
        """
        state = self.optimizer.state
        with torch.no_grad():
            for p, value, kept in zip(self.parameters(), snapshot.values, snapshot.states, strict=False):
                if value is not None:
                    get_local(p).copy_(value)
                if kept is None:
                    state.pop(p, None)
                else:
                    state[p] = _back(kept, p)
            for buffer, value in zip(_buffers(modules), snapshot.buffers, strict=False):
                buffer.copy_(value)
        for group, entries in zip(self.optimizer.param_groups, snapshot.entries, strict=False):
            for name, value in entries.items():
                if hyper or name in self.stepped_entries:
                    group[name] = _back(value, group["params"][0] if group["params"] else torch.zeros(()))


def make_step(optimizer: torch.optim.Optimizer) -> None:
    """Make a step; without torch's recording around it where no hook is there: the tuner's own step has one already.

    Examples
    --------
    >>> w = nn.Parameter(torch.ones(1))
    >>> (2 * w).backward()
    >>> make_step(torch.optim.SGD([w], lr=0.25))
    >>> w.item()
    0.5
    """
    step: Any = type(optimizer).step
    bare = getattr(step, "hooked", False) and "step" not in optimizer.__dict__
    if bare and not (_BEFORE or _AFTER or optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks):
        step.__wrapped__(optimizer)
    else:
        optimizer.step()


def divides(group: dict[str, Any]) -> bool:
    """Say whether a group's optimizer divides by second moments.

    Examples
    --------
    >>> divides({"lr": 0.1, "betas": (0.9, 0.999)}), divides({"lr": 0.1, "momentum": 0.9})
    (True, False)
    """
    return "betas" in group or "alpha" in group or "lr_decay" in group


def find_momentum_entry(base: torch.optim.Optimizer) -> str | None:
    """Return where a base keeps the momentum that may be learned: "momentum", "betas" of Adam's family, or None.

    Other optimizers with `betas` may mean something else by the first one, so they keep theirs.

    Examples
    --------
    >>> find_momentum_entry(torch.optim.SGD([torch.ones(1)])), find_momentum_entry(torch.optim.AdamW([torch.ones(1)]))
    ('momentum', 'betas')
    """
    groups = base.param_groups
    if isinstance(base, JoinedOptimizer):
        return None
    if "momentum" in groups[0] and "betas" not in groups[0]:
        return "momentum"
    optim = torch.optim
    family = isinstance(base, optim.Adam | optim.AdamW | optim.NAdam | optim.RAdam | optim.Adamax)
    return "betas" if family and isinstance(groups[0]["betas"][0], float | int) else None


def replace_momentum(group: dict[str, Any], name: str, momentum: float) -> Any:
    """Return what a group's entry becomes with a learned momentum.

    Examples
    --------
    >>> replace_momentum({"betas": (0.9, 0.999)}, "betas", 0.5)
    (0.5, 0.999)
    """
    return (momentum, *group["betas"][1:]) if name == "betas" else momentum


def _entries_of(group: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in group.items() if k not in OUTSIDE}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool((a == b).all())
    return a is b or a == b


def _buffers(modules: Sequence[nn.Module]) -> list[Tensor]:
    return [b for module in modules for b in module._buffers.values() if b is not None]


def get_local(value: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, any other tensor itself.

    Examples
    --------
    >>> get_local(torch.ones(1)).tolist()
    [1.0]
    """
    return value.to_local() if hasattr(value, "to_local") else value


def share_of(local: Tensor, owner: Any) -> Tensor:
    """Return the sharded tensor of which `local` is this rank's part, sharded as the parameter `owner` is, if it is.

    Parts may be of different sizes: where they are, the size of the whole cannot be told from one of them.

    Examples
    --------
    >>> share_of(torch.ones(1), torch.zeros(1)).tolist()
    [1.0]
    """
    if not hasattr(owner, "to_local"):
        return local
    from torch.distributed.tensor import DTensor

    same = local.shape == owner.to_local().shape
    whole = {"shape": owner.shape, "stride": owner.stride()} if same else {}
    return DTensor.from_local(local, owner.device_mesh, owner.placements, **whole)


def _copy(value: Tensor, device: Any) -> Tensor:
    """Copy under `no_grad`."""
    return value.clone() if device is None or (value.is_cpu and device == "cpu") else value.to(device, copy=True)


def _copied(value: Any, device: Any) -> Any:
    """Copy tensors in nested dictionaries and lists to a device; where each came from is kept beside it."""
    if isinstance(value, Tensor):
        was = "cpu" if value.is_cpu else str(value.device)
        if hasattr(value, "to_local"):
            return {"was": was, "tensor": _copy(get_local(value), device), "sharded": True}
        return {"was": was, "tensor": _copy(value, device)}
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, dict):
        return {name: _copied(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(each, device) for each in value)
    return copy.copy(value)


def _back(value: Any, owner: Tensor) -> Any:
    """Undo `_copied`: step counters that were in host memory stay there, the rest goes to the parameter's device."""
    if isinstance(value, dict) and "was" in value and "tensor" in value:
        tensor, there = value["tensor"], value["was"] == "cpu" or owner.is_cpu
        tensor = tensor.clone() if tensor.is_cpu and there else tensor.to("cpu" if there else owner.device, copy=True)
        return share_of(tensor, owner) if value.get("sharded") else tensor
    if isinstance(value, dict):
        return {name: _back(each, owner) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_back(each, owner) for each in value)
    return value
