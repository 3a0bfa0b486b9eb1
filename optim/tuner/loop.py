"""What a tuner knows and has in force; which of its measurements is due; the numbers live in `Facts`.

Idle → ramp at the first observation (`tuner_start.begin`: a line search along the optimizer's own first update sets the
first lr). Bases that divide by second moments: after a few steps, whose batches are kept, lrs are tried on these
batches (`gather`), twenty steps later once more where nothing has shown.
All others: the lr is ramped up until `policies.advance` says so; then back to the weights of three
times the lr that the policy decides on (`climb`). Then hold: for 120 steps the lr is raised where gradients ask for it
(`tuner_drift`), and (`tuner_hold`) every 20 steps (in the schedule's lower
half: as far as the budget reaches) a look at the loss of the batch at hand. When it is out of line, and the weights of
the last look do better on the same batch: back to them, and half the lr. Within the budget: the sharpness by two
warm-started products, at intervals that double, and the condition number by Lanczos, once.
"""

from __future__ import annotations

import math
import traceback
import warnings
from typing import Any

import torch
from torch import Tensor

from ..sharpness_meters.thresholds import momentum_threshold
from . import ramp as policies
from .groups import momentum_name
from .hold import hold
from .loss import LossSource
from .start import begin, climb, gather
from .state import LOOK, Facts, Snapshot, parameters_of

CHECK = 2  # steps between two looks while the ramp goes well, half of it while it does not


class TunerWarning(UserWarning):
    """Something could not be measured, or had to be undone; training goes on."""


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


class Loop:
    """All that changes while a tuner works; one object, so that copies of the optimizer's shell share it.

    Examples
    --------
    >>> Loop(torch.optim.SGD([torch.ones(1)], lr=0.1), budget=0.1, rng=0, own_momentum=True).facts.nominal
    0.1
    """

    def __init__(self, base: torch.optim.Optimizer, *, budget: float, rng: int, own_momentum: bool) -> None:
        self.base, self.budget, self.rng = base, budget, rng
        self.own_momentum = own_momentum and momentum_name(base) is not None
        self.heavy = "momentum" in base.param_groups[0]  # of the heavy-ball kind, where lr/(1-β) counts
        self.facts = Facts(nominal=float(base.param_groups[0]["lr"]))
        self.snapshots: list[tuple[int, float, Snapshot]] = []  # (step, lr, copies): one per doubling of the ramp
        self.control: Any = None  # the fixed batch of the ramp, or the batches kept for trials
        self.top: list[Tensor] | None = None  # last top eigenvector
        self.before: list[Tensor] | None = None  # parameters ahead of the step that a line search extends
        self.anchors: list[
            Tensor
        ] = []  # parameters, in one vector, ahead of the last two blocks of steps (`tuner_drift`)
        self.modules: list[torch.nn.Module] = []
        self.history: list[dict[str, Any]] = []

    # what is in force

    @property
    def factor(self) -> float:
        """Return what a scheduler has made of the first group's lr."""
        lr = float(self.base.param_groups[0]["lr"])
        return lr / self.facts.nominal if self.facts.nominal > 0 else 1.0

    @property
    def lr(self) -> float:
        """Return the lr of the first group's next step."""
        return float(self.base.param_groups[0]["lr"]) * self.facts.scale

    @property
    def learned_momentum(self) -> float:
        """Return what has been learned for the momentum (NaN: nothing, or it is not ours to change)."""
        return self.facts.momentum if self.own_momentum else math.nan

    @property
    def momentum(self) -> float:
        """Return the momentum of the next step, also of a base that calls it β₁."""
        group = self.base.param_groups[0]
        if math.isfinite(self.learned_momentum):
            return self.learned_momentum
        return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))

    def affords(self, cost: float) -> bool:
        """Say whether a cost in gradient-equivalents is within the budget now."""
        return self.facts.spent + cost <= self.budget * self.facts.steps

    def before_step(self) -> None:
        """Set the lr of a step of the ramp; remember where a step starts that a look will extend."""
        f = self.facts
        if f.phase == "ramp" and f.nominal > 0:
            f.scale = policies.ramp_lr(f.start, f.turn, policies.DOUBLING) / f.nominal
        if f.phase == "hold" and f.steps + 1 - f.last == LOOK:
            self.before = [p.detach().clone() for p in parameters_of(self.base)]

    def after_step(self) -> None:
        """Count; a ramp that nobody looks at does not go on."""
        f = self.facts
        f.steps += 1
        f.unseen += 1
        if f.phase == "ramp" and f.unseen <= CHECK and self.lr > 0:
            f.turn += 1

    # looks

    def look(self, source: LossSource) -> None:
        """Do what is due before the next step."""
        f = self.facts
        if f.nominal <= 0 or self.factor <= 0:
            return
        if f.phase == "idle":
            begin(self, source)
        elif f.phase == "ramp" and self.adaptive:
            gather(self, source)
        elif f.phase == "ramp" and f.unseen >= (CHECK if f.well else CHECK // 2):
            climb(self, source)
        elif f.phase == "hold":
            hold(self, source)
        f.spent += source.spent
        source.spent = 0.0

    @property
    def adaptive(self) -> bool:
        """Say whether the base divides by second moments: then trials set the lr, else the ramp."""
        group = self.base.param_groups[0]
        return "betas" in group or "alpha" in group or "lr_decay" in group

    def go_back(self, kept: tuple[int, float, Snapshot]) -> None:
        """Return to a snapshot; it and the one before are kept. The steps since were made in vain."""
        now = self.facts.steps
        kept[2].put_back(self.base, self.modules)
        self.facts.spent += now - kept[0]
        older = self.snapshots[0] if self.facts.phase == "hold" else kept
        self.snapshots = [(now - (kept[0] - older[0]), self.lr, older[2]), (now, self.lr, kept[2])]

    # curvature

    def threshold(self) -> float:
        """Return the sharpness at which a quadratic would diverge with lr and momentum in force."""
        group, beta = self.base.param_groups[0], self.momentum
        damp = beta if "betas" in group else float(group.get("dampening", 0.0))
        return momentum_threshold(self.lr, beta, damp, bool(group.get("nesterov", False)))

    def set_momentum(self, beta: float) -> None:
        """Change the momentum, keeping lr/(1-β), and the buffers so that the next step stays what it was."""
        f, old = self.facts, self.momentum
        f.scale *= (1 - beta) / (1 - old)
        for p in parameters_of(self.base):
            buffer = self.base.state.get(p, {}).get("momentum_buffer")
            if isinstance(buffer, Tensor):
                buffer.mul_((1 - old) / (1 - beta))
        f.momentum = beta

    def note(self, event: str, loss: float) -> None:
        """Add a row to the history."""
        row = {"step": self.facts.steps, "event": event, "lr": self.lr, "momentum": self.momentum, "loss": loss}
        if event == "sharpness":
            row |= {"sharpness": self.facts.sharpness, "threshold": self.threshold()}
        self.history.append(row)

    def warn(self, text: str) -> None:
        """Tell the user."""
        warnings.warn(text, TunerWarning, stacklevel=4)
