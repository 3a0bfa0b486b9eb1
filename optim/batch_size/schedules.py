"""Let schedulers that count optimizer steps take another number of steps for what lies ahead: the same samples.

A schedule is a function of how far the training is. When the batch size grows by κ, what remains of it should pass κ
times as fast: step k after the change has the lr that step κ·k would have had. torch's schedulers hold a position
(`last_epoch`) and lengths. Both are written so that lr is the same now, and everything ahead is stretched by `factor`,
rounded to whole steps; it lies in the schedulers' state, so checkpoints carry it and the change can be undone.

scheduler                        how
LinearLR                         total_iters, and the start_factor of the line through the present lr
ConstantLR, PolynomialLR         total_iters
CosineAnnealingLR, -WarmRestarts T_max or T_i, and the position within (a fraction, where needed)
OneCycleLR                       all phases and the position; past its end it stays at its last lr instead of raising,
                                 as incomplete last batches of epochs can add steps
CyclicLR                         the cycle and the position
StepLR, MultiStepLR              the next and all later drops
ExponentialLR                    gamma to the power 1/factor
SequentialLR, ChainedScheduler   milestones and what they are made of
ReduceLROnPlateau                counts what it is shown: untouched
LambdaLR and others              unknown functions of the step: untouched, and named
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers


def stretch(scheduler: Any, factor: float, *, warmup: float = 1.0) -> list[str]:
    """Let what lies ahead of a scheduler take `factor` times as many steps; rising parts, times `warmup` as well.

    Parameters
    ----------
    scheduler : of torch, or a `SequentialLR` or `ChainedScheduler` of such
    factor, warmup : positive

    Returns
    -------
    list of str : classes of schedulers that could not be converted, each once

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    >>> linear = torch_schedulers.LinearLR(optimizer, 0.1, total_iters=100)
    >>> stretch(linear, 1 / 4), linear.total_iters
    ([], 25)
    """
    if not (factor > 0 and warmup > 0):
        raise ValueError(f"got factor={factor}, warmup={warmup}; expected positive numbers")
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        left = _sequential(scheduler, factor, warmup)
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        left = [name for each in scheduler._schedulers for name in stretch(each, factor, warmup=warmup)]
    elif isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
        left = []
    else:
        kind = next((cls for cls in _STRETCHES if type(scheduler) is cls), None)  # a subclass may mean another thing
        if kind is not None:
            _STRETCHES[kind](scheduler, factor * (warmup if _rises(scheduler) else 1.0))
        left = [] if kind is not None else [type(scheduler).__name__]
    return list(dict.fromkeys(left))


def length(scheduler: Any) -> int | None:
    """Return the number of steps after which a schedule is over; None where it has no end or does not tell.

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    >>> warm = torch_schedulers.LinearLR(optimizer, 0.1, total_iters=10)
    >>> rest = torch_schedulers.CosineAnnealingLR(optimizer, 90)
    >>> length(torch_schedulers.SequentialLR(optimizer, [warm, rest], [10]))
    100
    """
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        last = length(scheduler._schedulers[-1])
        return None if last is None else last + (scheduler._milestones or [0])[-1]
    if isinstance(scheduler, torch_schedulers.ChainedScheduler):
        return max((n for n in map(length, scheduler._schedulers) if n is not None), default=None)
    return next((getattr(scheduler, n) for n in ("total_steps", "T_max", "total_iters") if hasattr(scheduler, n)), None)


def _ahead(rest: float, factor: float) -> int:
    return max(1, round(rest * factor))


def _rises(scheduler: Any) -> bool:
    if isinstance(scheduler, torch_schedulers.LinearLR):
        return scheduler.start_factor < scheduler.end_factor
    return isinstance(scheduler, torch_schedulers.ConstantLR) and scheduler.factor < 1


def _sequential(scheduler: Any, factor: float, warmup: float) -> list[str]:
    now, old = scheduler.last_epoch, list(scheduler._milestones)
    active = bisect_right(old, now)
    left, begin = [], now
    for i, child in enumerate(scheduler._schedulers[active:], active):
        own = factor * (warmup if _rises(child) else 1.0)
        left += stretch(child, factor, warmup=warmup)
        if i < len(old):
            begin += _ahead(old[i] - (now if i == active else old[i - 1]), own)
            scheduler._milestones[i] = begin
    return left


def _linear(s: Any, factor: float) -> None:
    now = max(s.last_epoch, 0)
    if now < s.total_iters:
        here = s.start_factor + (s.end_factor - s.start_factor) * now / s.total_iters
        rest = _ahead(s.total_iters - now, factor)
        s.total_iters = now + rest
        s.start_factor = (here * s.total_iters - s.end_factor * now) / rest


def _until_total(s: Any, factor: float) -> None:
    now = max(s.last_epoch, 0)
    if now < s.total_iters:
        s.total_iters = now + _ahead(s.total_iters - now, factor)


def _fine(value: float) -> float:
    """Round to 2⁻²⁰, so that adding ones is exact: schedulers ask whether a position equals a length."""
    return math.floor(value * 2**20) / 2**20


def _cosine(s: Any, factor: float) -> None:
    now = max(s.last_epoch, 0)
    half = now // s.T_max  # half cycles that are over; later ones mirror the first
    rest = (half + 1) * s.T_max - now
    exact = _ahead(rest, factor) / rest
    turned = _fine(s.T_max * exact)
    if now > 0:
        s.last_epoch = (half + 1) * turned - round(rest * exact)
    s.T_max = int(turned) if turned.is_integer() else turned


def _restarts(s: Any, factor: float) -> None:
    s.T_i, s.T_cur = _fine(max(s.T_i * factor, 1.0)), _fine(s.T_cur * factor) if s.T_cur > 0 else s.T_cur
    s.T_0 = max(s.T_0 * factor, 1.0)


def _one_cycle(s: Any, factor: float) -> None:
    now = max(s.last_epoch, 0)
    phases = [p for p in s._schedule_phases if p["start_lr"] != p["end_lr"]]
    end = phases[-1]["end_step"]
    exact = _ahead(end - now, factor) / (end - now) if now < end else factor
    for phase in phases:
        phase["end_step"] *= exact
    if now > 0:
        s.last_epoch = now * exact
    end = phases[-1]["end_step"]
    s.total_steps = 2 * math.ceil(end) + 10
    lr, momentum = phases[-1]["end_lr"], phases[-1]["end_momentum"]
    flat = {"start_lr": lr, "end_lr": lr, "start_momentum": momentum, "end_momentum": momentum}
    s._schedule_phases = [*phases, flat | {"end_step": float(s.total_steps)}]


def _cyclic(s: Any, factor: float) -> None:
    s.total_size *= factor
    if s.last_epoch > 0:
        s.last_epoch *= factor
    s.gamma **= 1 / factor
    s._init_scale_fn()


def _step(s: Any, factor: float) -> None:
    now = max(s.last_epoch, 0)
    drops, size = now // s.step_size + 1, _ahead(s.step_size, factor)
    rest = min(_ahead(drops * s.step_size - now, factor), size)
    if now > 0:
        s.last_epoch = drops * size - rest
    s.step_size = size


def _multi_step(s: Any, factor: float) -> None:
    now = max(s.last_epoch, 0)
    moved: Counter[int] = Counter()
    for at, count in s.milestones.items():
        moved[at if at <= now else now + _ahead(at - now, factor)] += count
    s.milestones = moved


def _exponential(s: Any, factor: float) -> None:
    s.gamma **= 1 / factor


_STRETCHES: dict[type, Callable[[Any, float], None]] = {
    torch_schedulers.LinearLR: _linear,
    torch_schedulers.ConstantLR: _until_total,
    torch_schedulers.PolynomialLR: _until_total,
    torch_schedulers.CosineAnnealingLR: _cosine,
    torch_schedulers.CosineAnnealingWarmRestarts: _restarts,
    torch_schedulers.OneCycleLR: _one_cycle,
    torch_schedulers.CyclicLR: _cyclic,
    torch_schedulers.StepLR: _step,
    torch_schedulers.MultiStepLR: _multi_step,
    torch_schedulers.ExponentialLR: _exponential,
}
