"""What a tuner remembers: plain numbers for checkpoints, and snapshots of weights and optimizer state to go back to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

LOOK = 20  # steps between two looks at the loss while holding


@dataclass
class Facts:
    """The numbers that decisions come from; floats, integers and strings only, so that a checkpoint holds them exactly.

    phase : "idle" (nothing observed yet), "ramp" or "hold";  scale : learned lr / first group's lr at construction
    nominal : that lr;  momentum, buffer : learned momentum (NaN: left alone), and the one the buffers were made with
    steps, spent : steps made, gradient-equivalents beside them;  unseen : steps since the last look at the loss
    start, first, best, best_lr, turn, blown_lr, blown, well : of the ramp: its first lr and loss, lowest loss and lr
        there, step of the ramp, first lr and number of blown looks, whether the last one improved
    settled, last, rescues, trouble : step at which the ramp ended, step of the last look, number of rescues, and the
        step of the last one
    mean, deviation : running mean of the looks while holding, and of their distance from it
    sharpness, refresh, resolved : top eigenvalue (of the preconditioned Hessian where there is one), step of its next
        measurement, whether the condition number has been asked for
    again : step from which on batches are kept for trials once more (0: never)
    blocks, watched, way, descent, raised : blocks of steps whose drift still counts, steps watched of the present one,
        its two sums (`policies_drift.drift`), doublings of the lr so far

    Examples
    --------
    >>> Facts.load(Facts(steps=3).plain()).steps
    3
    """

    phase: str = "idle"
    scale: float = 1.0
    nominal: float = 1.0
    momentum: float = math.nan
    steps: int = 0
    spent: float = 0.0
    unseen: int = 0
    start: float = 0.0
    first: float = 0.0
    best: float = 0.0
    best_lr: float = 0.0
    turn: int = 0
    blown_lr: float = 0.0
    blown: int = 0
    well: int = 1
    settled: int = 0
    last: int = 0
    rescues: int = 0
    trouble: int = -1000
    sharpness: float = math.nan
    refresh: int = 0
    mean: float = math.nan
    deviation: float = 0.0
    resolved: int = 0
    again: int = 0
    blocks: int = 0
    watched: int = 0
    way: float = 0.0
    descent: float = 0.0
    raised: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return a dictionary that `torch.load(weights_only=True)` reads."""
        return asdict(self)

    @classmethod
    def load(cls, state: dict[str, Any]) -> Facts:
        """Make it again; what an older version did not know keeps its default."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in state.items() if name in known})


class Snapshot:
    """Copies of parameters, of what the optimizer keeps for them, and of the buffers of modules, in host memory.

    Memory: as much as parameters and optimizer state together.

    Examples
    --------
    >>> w = nn.Parameter(torch.ones(1))
    >>> sgd = torch.optim.SGD([w], lr=0.1)
    >>> snapshot = Snapshot.take(sgd, [])
    >>> with torch.no_grad():
    ...     _ = w.mul_(5)
    >>> snapshot.put_back(sgd, [])
    >>> w.item()
    1.0
    """

    def __init__(self, values: list[Tensor], states: list[Any], buffers: list[Tensor]) -> None:
        self.values, self.states, self.buffers = values, states, buffers

    @classmethod
    def take(cls, optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module]) -> Snapshot:
        """Copy what is there now."""
        owned = parameters_of(optimizer)
        return cls(
            [p.detach().to("cpu", copy=True) for p in owned],
            [_copied(optimizer.state[p], "cpu") if p in optimizer.state else None for p in owned],
            [b.detach().to("cpu", copy=True) for b in _buffers(modules)],
        )

    def put_back(self, optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module]) -> None:
        """Write it into the optimizer, its parameters and the modules; the snapshot stays usable."""
        with torch.no_grad():
            for p, value, state in zip(parameters_of(optimizer), self.values, self.states, strict=True):
                p.copy_(value)
                if state is None:
                    optimizer.state.pop(p, None)
                else:
                    optimizer.state[p] = _back(state, p.device)
            for buffer, value in zip(_buffers(modules), self.buffers, strict=False):
                buffer.copy_(value)

    def plain(self) -> dict[str, Any]:
        """Return tensors, lists and dictionaries for a checkpoint."""
        return {"values": self.values, "states": self.states, "buffers": self.buffers}


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all parameters of an optimizer, in the order of its groups.

    Examples
    --------
    >>> len(parameters_of(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)))
    2
    """
    return [p for group in optimizer.param_groups for p in group["params"]]


def _buffers(modules: Sequence[nn.Module]) -> list[Tensor]:
    return [b for module in modules for b in module._buffers.values() if b is not None]


def _copied(value: Any, device: Any) -> Any:
    """Copy tensors in nested dictionaries and lists to a device; where each came from is kept as a pair."""
    if isinstance(value, Tensor):
        return {"was": str(value.device), "tensor": value.detach().to(device, copy=True)}
    if isinstance(value, dict):
        return {name: _copied(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(each, device) for each in value)
    return value


def _back(value: Any, device: Any) -> Any:
    """Undo `_copied`: step counters that were in host memory stay there, the rest goes to the parameter's device."""
    if isinstance(value, dict) and set(value) == {"was", "tensor"}:
        return value["tensor"].to("cpu" if value["was"] == "cpu" else device, copy=True)
    if isinstance(value, dict):
        return {name: _back(each, device) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_back(each, device) for each in value)
    return value
