"""What a tuner remembers: one `TunerState`, which is the checkpoint format; plain numbers and tensors, nothing else.

Every phase has its part. Numbers, strings and lists of numbers go with the groups of a checkpoint, copies of weights
apart from them (`checkpoint`). Neither batches nor objects of the user's are ever kept between two looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor

from .base_optimizer import Snapshot

VERSION = 2


TENSORS = {"tensors": True}  # marks the fields that stand apart from numbers in a checkpoint


@dataclass
class RampState:
    """The ramp: its first lr and loss, lowest loss and the lr there, its step, and what was lost.

    blown_lr, blown_looks : first lr and number of the looks in a row at which the gain was lost
    repaired : times that weights which were not finite were put back
    start : the weights it began with;  kept : (step, lr, weights), one per doubling
    """

    first_lr: float = 0.0
    first_loss: float = 0.0
    best_loss: float = 0.0
    best_lr: float = 0.0
    ramp_step: int = 0
    blown_lr: float = 0.0
    blown_looks: int = 0
    last_look_improved: int = 1
    repaired: int = 0
    start: Snapshot | None = field(default=None, metadata=TENSORS)
    kept: list[tuple[int, float, Snapshot]] = field(default_factory=list, metadata=TENSORS)


@dataclass
class RaceState:
    """Trials that run beside the training, each on pieces of the batches at hand, from one point.

    lrs : of the trials;  done, length : batches they have trained on, and will;  centre : what the lrs are centred on
    failures : attempts that raised an exception;  judged : losses on the first of two batches, origin first
    ratios : of each trial, where they differ from those in force
    lines : the weights of each trial;  origin : where they began
    """

    lrs: list[float] = field(default_factory=list)
    done: int = 0
    length: int = 0
    centre: float = 0.0
    failures: int = 0
    judged: list[float] = field(default_factory=list)
    ratios: list[list[float]] = field(default_factory=list)
    lines: list[Snapshot] = field(default_factory=list, metadata=TENSORS)
    origin: Snapshot | None = field(default=None, metadata=TENSORS)


@dataclass
class DriftState:
    """Inner products of gradients and ways: blocks of steps still to come, and the sums of the present one.

    doublings : of the lr so far, also those by the line search;  anchors : weights ahead of the last two blocks
    """

    blocks_left: int = 0
    steps_in_block: int = 0
    drift_slope_sum: float = 0.0
    step_slope_sum: float = 0.0
    doublings: float = 0.0
    anchors: list[Tensor] = field(default_factory=list, metadata=TENSORS)


@dataclass
class HoldState:
    """Looks at the loss, and what to go back to.

    settled_step, last_look_step, last_rescue_step, alarm_step : steps (alarm_step: of an alarm to be confirmed, or -1)
    first_loss : before training;  mean_loss, loss_deviation : running mean of the looks, and of the distance from it
    retry_trials_at : step from which trials are repeated (0: never)
    kept : (step, lr, weights) of the last two good looks;  before : weights ahead of the step that a look extends
    """

    settled_step: int = 0
    last_look_step: int = 0
    rescues: int = 0
    last_rescue_step: int = -1000
    alarm_step: int = -1
    first_loss: float = math.nan
    mean_loss: float = math.nan
    loss_deviation: float = 0.0
    retry_trials_at: int = 0
    kept: list[tuple[int, float, Snapshot]] = field(default_factory=list, metadata=TENSORS)
    before: list[Tensor] | None = field(default=None, metadata=TENSORS)


@dataclass
class CurvatureState:
    """Top eigenvalue (of the preconditioned Hessian where there is one), the step of its next measurement."""

    sharpness: float = math.nan
    next_measurement: int = 0
    spectrum_done: int = 0
    top_vector: list[Tensor] | None = field(default=None, metadata=TENSORS)


@dataclass
class RaiseState:
    """Later raises: round, step of the next one; held-out losses: lowest one, rises in a row, the step of the next.

    start_spent : gradient-equivalents that the start has cost
    """

    round: int = 0
    start_spent: float = 0.0
    next_step: int = 0
    held_out_best: float = math.inf
    held_out_mean: float = math.nan
    held_out_rises: int = 0
    held_out_next: int = 0
    held_out_kept: Snapshot | None = field(default=None, metadata=TENSORS)


@dataclass
class TunerState:
    """All that decisions come from.

    phase : "idle" (nothing observed yet), "ramp", "trials", "hold" or "spectral"
    scale : learned lr / first group's lr at construction (`nominal`);  momentum : learned one (NaN: left alone)
    ratios : factors of the units (members of joined optimizers, else groups) beside the scale; none: all are 1
    steps, spent : steps made, gradient-equivalents beside them;  unseen_steps : steps since the last look at the loss
    failures, blocked_until : looks in a row that raised an exception, and the step of the next one
    attempts, next_attempt : starts that have failed, and the step of the next one
    lowest_factor, highest_factor : what a scheduler has made of the lr so far
    believed : the schedule that the lr in force was found for

    Examples
    --------
    >>> numbers, tensors = TunerState(steps=3).split()
    >>> TunerState.join(numbers, tensors).steps, numbers["hold"]["rescues"]
    (3, 0)
    """

    version: int = VERSION
    phase: str = "idle"
    scale: float = 1.0
    ratios: list[float] = field(default_factory=list)
    nominal: float = 1.0
    momentum: float = math.nan
    steps: int = 0
    spent: float = 0.0
    unseen_steps: int = 0
    failures: int = 0
    blocked_until: int = 0
    attempts: int = 0
    next_attempt: int = 0
    lowest_factor: float = math.inf
    highest_factor: float = 0.0
    believed: str = ""
    ramp: RampState = field(default_factory=RampState)
    race: RaceState = field(default_factory=RaceState)
    drift: DriftState = field(default_factory=DriftState)
    hold: HoldState = field(default_factory=HoldState)
    curvature: CurvatureState = field(default_factory=CurvatureState)
    raises: RaiseState = field(default_factory=RaiseState)

    def split(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return numbers and tensors apart, in dictionaries that `torch.load(weights_only=True)` reads."""
        return _split(self)

    @classmethod
    def join(cls, numbers: dict[str, Any], tensors: dict[str, Any]) -> TunerState:
        """Make it again; what an older version did not know keeps its default."""
        return _join(cls, numbers, tensors)


def _split(part: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    numbers: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for each in fields(part):
        value = getattr(part, each.name)
        if is_dataclass(value):
            numbers[each.name], inner = _split(value)
            if inner:
                tensors[each.name] = inner
        elif not each.metadata.get("tensors"):
            numbers[each.name] = list(value) if isinstance(value, list) else value
        elif value is not None and value != []:
            tensors[each.name] = _pack(value)
    return numbers, tensors


def _join(cls: Any, numbers: dict[str, Any], tensors: dict[str, Any]) -> Any:
    made = cls()
    for each in fields(made):
        value = getattr(made, each.name)
        if is_dataclass(value):
            joined = _join(type(value), numbers.get(each.name, {}), tensors.get(each.name, {}))
            setattr(made, each.name, joined)
        elif each.metadata.get("tensors"):
            if each.name in tensors:
                setattr(made, each.name, _unpack(tensors[each.name]))
        elif each.name in numbers:
            setattr(made, each.name, numbers[each.name])
    return made


def _pack(value: Any) -> Any:
    if isinstance(value, Snapshot):
        return {"snapshot": value.plain()}
    if isinstance(value, list | tuple):
        return [_pack(each) for each in value]
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict) and "snapshot" in value:
        return Snapshot(**value["snapshot"])
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], int):
        return (value[0], value[1], _unpack(value[2]))
    return [_unpack(each) for each in value] if isinstance(value, list) else value
