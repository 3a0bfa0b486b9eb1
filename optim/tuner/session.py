"""What the phases of a tuner share: the base, the state, the constants, the budget, the history.

A step passes through at most four files: `optimizer` (torch's protocol), this one, `base_optimizer` (the step itself),
and that of the phase it is in. A phase is an object without state of its own: what it knows stands in `TunerState`.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from ..sharpness_meters.thresholds import momentum_threshold
from .base_optimizer import BaseOptimizer, Snapshot
from .constants import TunerConstants
from .loss import LossSource
from .state import DriftState, HoldState, RaceState, RaiseState, RampState, TunerState


class TunerWarning(UserWarning):
    """Something could not be measured, or had to be undone; training goes on."""


class Phase(Protocol):
    """One phase: whether a look is due, the look, and what it does around a step."""

    def is_due(self, session: Session) -> bool:
        """Say whether `look` has anything to do now; called ahead of every step, so it costs next to nothing."""

    def look(self, session: Session, source: LossSource) -> None:
        """Look at the loss, ahead of a step."""

    def before_step(self, session: Session) -> None:
        """Prepare a step of the base."""

    def after_step(self, session: Session) -> None:
        """Take note of a step of the base."""


class Session:
    """All that changes while a tuner works; one object, so that copies of the optimizer's shell share it.

    Parameters
    ----------
    base : the optimizer;  phases : by name;  budget : extra work as a share of the steps;  rng : seed of start vectors
    total_steps : horizon, or None;  schedule : "auto", "constant" or "annealed"
    validation : () -> loss on held-out batches, or None;  learn_ratios : whether each unit gets a scale of its own

    Examples
    --------
    >>> import torch
    >>> Session(BaseOptimizer(torch.optim.SGD([torch.ones(1)], lr=0.1)), {}).lr
    0.1
    """

    def __init__(
        self,
        base: BaseOptimizer,
        phases: Mapping[str, Phase],
        *,
        constants: TunerConstants | None = None,
        budget: float = 0.1,
        rng: int = 0,
        total_steps: int | None = None,
        schedule: str = "auto",
        validation: Callable[[], Any] | None = None,
        learn_ratios: bool = False,
    ) -> None:
        self.learn_ratios = learn_ratios
        self.base, self.phases, self.budget, self.rng = base, phases, budget, rng
        self.constants = constants or TunerConstants()
        self.total_steps, self.schedule, self.validation = total_steps, schedule, validation
        self.state = TunerState(nominal=base.first_lr)
        self.modules: list[nn.Module] = []  # those with buffers that run in the loss
        self.modules_known = False  # there may be none
        self.history: list[dict[str, Any]] = []
        self.scheduler_attached = False
        self.find_group: Callable[[], Any] = lambda: None  # the process group whose ranks hold different samples
        self.plain_values: list[dict[str, Any]] = []  # what stood in the groups of the checkpoint that was loaded
        self.expected: float | None = None  # fingerprint of the parameters that a checkpoint was written with

    # what is in force

    @property
    def factor(self) -> float:
        """Return what a scheduler has made of the first group's lr."""
        nominal = self.state.nominal
        return self.base.first_lr / nominal if nominal > 0 else 1.0

    @property
    def is_high(self) -> bool:
        """Say whether a scheduler leaves the lr in the upper half of its range, up to rounding."""
        return self.factor >= 0.4999 * self.state.highest_factor

    @property
    def scale(self) -> float:
        """Return what the groups' lrs are multiplied by in the next step."""
        return self.state.scale * self.own_decay()

    @property
    def lr(self) -> float:
        """Return the lr of the first group's next step; the first unit's ratio is 1."""
        return self.base.first_lr * self.scale

    def set_ratios(self, ratios: list[float]) -> None:
        """Set the units' factors, normed so that the first one's is 1: the scale takes what that one was."""
        self.state.scale *= ratios[0]
        self.state.ratios = [ratio / ratios[0] for ratio in ratios]

    @property
    def learned_momentum(self) -> float:
        """Return what has been learned for the momentum (NaN: nothing, or it is not ours to change)."""
        return self.state.momentum if self.base.learns_momentum else math.nan

    @property
    def momentum(self) -> float:
        """Return the momentum of the next step, also of a base that calls it β₁."""
        group = self.base.first_group
        if math.isfinite(self.learned_momentum):
            return self.learned_momentum
        return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))

    @property
    def phase(self) -> Phase:
        """Return the phase that the tuner is in."""
        return self.phases[self.state.phase]

    def affords(self, cost: float) -> bool:
        """Say whether a cost in gradient-equivalents is within the budget now."""
        return self.state.spent + cost <= self.budget * self.state.steps

    # the schedule

    def find_schedule(self) -> str:
        """Return "constant" or "annealed": what the user said, or what has been seen of the lr so far.

        A scheduler that is attached counts as annealing until the lr has stood still for long.
        """
        if self.schedule != "auto":
            return self.schedule
        state = self.state
        if state.lowest_factor < 0.99 * state.highest_factor:
            return "annealed"
        patience = 0.1 * self.total_steps if self.total_steps else 100
        return "annealed" if self.scheduler_attached and state.steps < patience else "constant"

    def own_decay(self) -> float:
        """Return the tuner's own final decay, where the user's lr is constant and the horizon known; else 1."""
        if not self.total_steps or self.state.phase == "idle" or self.find_schedule() != "constant":
            return 1.0
        left = max(self.total_steps - self.state.steps, 1) / self.total_steps
        return min(1.0, left / self.constants.own_decay)

    def trial_factor(self, z: float) -> float:
        """Return the lr's factor at the share z of a trial: the rest of the schedule, compressed into it.

        Trials at the start are annealed even if nothing else will be: else noise hides what the lrs are worth.
        """
        if self.find_schedule() == "annealed":
            return 0.5 * (1 + math.cos(math.pi * z))
        return min(1.0, 2 * (1 - z)) if self.total_steps or self.state.phase == "trials" else 1.0

    # what happens

    def before_step(self) -> None:
        """Let the phase prepare a step."""
        self.phase.before_step(self)

    def after_step(self) -> None:
        """Count a step, and let the phase take note of it."""
        state = self.state
        state.steps += 1
        state.unseen_steps += 1
        factor = self.factor
        if factor > 0:
            state.lowest_factor = min(state.lowest_factor, factor)
            state.highest_factor = max(state.highest_factor, factor)
        self.phase.after_step(self)

    def look(self, source: LossSource) -> None:
        """Do what is due before the next step; what it costs is counted, also if it fails."""
        try:
            self.phase.look(self, source)
        finally:
            self.state.spent += source.spent
            source.spent = 0.0

    def measure(self, source: LossSource) -> float:
        """Return the loss that decides: on held-out batches where the user gives one, else on the batch at hand."""
        validation = self.validation
        if validation is None:
            return source.value()
        held_out = LossSource(lambda batch: validation(), None, source.group, source.sign)
        value = held_out.value()
        self.state.spent += held_out.spent
        return value

    def find_modules(self, source: LossSource) -> list[nn.Module]:
        """Return the modules with buffers, found once."""
        if not self.modules_known:
            self.modules, self.modules_known = source.modules(), True
        return self.modules

    def take_snapshot(self, *, host: bool = True) -> Snapshot:
        """Copy parameters, optimizer state and buffers."""
        return self.base.take_snapshot(self.modules, host=host)

    def go_back(self, kept: tuple[int, float, Snapshot]) -> None:
        """Return to a snapshot; the steps since were made in vain, and count as extra work."""
        self.base.restore(kept[2], self.modules)
        self.state.spent += self.state.steps - kept[0]

    def settle(self, lr: float, first_loss: float) -> None:
        """Hold an lr from here on: what is in place now is what one goes back to."""
        state, constants = self.state, self.constants
        state.scale, state.phase = lr / state.nominal, "hold"
        now = (state.steps, lr, self.take_snapshot())
        state.hold = HoldState(
            settled_step=state.steps, last_look_step=state.steps, first_loss=first_loss, kept=[now, now]
        )
        state.drift = DriftState(blocks_left=len(constants.drift_targets))
        state.ramp, state.race = RampState(), RaceState()
        state.raises = RaiseState(next_step=constants.raise_first, held_out_next=state.steps, start_spent=state.spent)
        state.curvature.next_measurement = state.steps + constants.refresh_first
        state.believed = self.find_schedule()

    def restart(self) -> None:
        """Begin again at the next observation; what was learned stays in force until then."""
        state = self.state
        state.phase, state.attempts, state.next_attempt = "idle", 0, 0
        state.ramp, state.race, state.drift = RampState(), RaceState(), DriftState()
        state.hold.kept, state.hold.before, state.raises.held_out_kept = [], None, None

    def threshold(self) -> float:
        """Return the sharpness at which a quadratic would diverge with lr and momentum in force."""
        group, beta = self.base.first_group, self.momentum
        damp = beta if "betas" in group else float(group.get("dampening", 0.0))
        return momentum_threshold(self.lr, beta, damp, bool(group.get("nesterov", False)))

    def set_momentum(self, beta: float) -> None:
        """Change the momentum, keeping lr/(1-β), and the buffers so that the next step stays what it was."""
        old = self.momentum
        self.state.scale *= (1 - beta) / (1 - old)
        self.base.rescale_buffers((1 - old) / (1 - beta))
        self.state.momentum = beta

    def note(self, event: str, loss: float) -> None:
        """Add a row to the history; a loss that is maximised stands there with the user's sign."""
        row = {"step": self.state.steps, "event": event, "lr": self.lr, "momentum": self.momentum,
               "loss": self.base.sign * loss}  # fmt: skip
        if event == "sharpness":
            row |= {"sharpness": self.state.curvature.sharpness, "threshold": self.threshold()}
        self.history.append(row)

    def warn(self, text: str) -> None:
        """Tell the user."""
        warnings.warn(text, TunerWarning, stacklevel=5)


def describe_error(error: BaseException) -> str:
    """Return the last line of an exception's traceback, and where it was raised.

    Examples
    --------
    >>> try:
    ...     {}["loss"]
    ... except KeyError as error:
    ...     print(describe_error(error).split(", in ")[0])
    KeyError: 'loss'
    """
    kind = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    return f"{kind}, in {frames[-1].name}, line {frames[-1].lineno} of {frames[-1].filename}" if frames else kind
