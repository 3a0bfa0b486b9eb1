"""The tuner's measurements and decisions, step by step: ramp, hold, rescue; the numbers live in `Facts`.

Idle → ramp at the first observation: the critical lr along the optimizer's own first update (a line search, forward
passes only) sets the first lr. Ramp → hold when `policies.advance` says so: back to the weights of three times the lr
that the policy decides on. While holding, every 20 steps (in the schedule's lower half: as far as the budget reaches),
a look at the loss of the batch at hand. When it has blown up, back to the weights of the last look; when it does so
again by the next look, to those right after the ramp; and half the lr. Within the budget: the sharpness by two
warm-started products, at intervals that double, and the condition number by Lanczos, once.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from . import policies
from .thresholds import momentum_threshold
from .tuner_search import critical_lr, proposed
from .tuner_sharpness import spectrum, top_curvature
from .tuner_source import GRADIENT, PRODUCT, VALUE, LossSource, modules_of, shifted
from .tuner_state import Facts, Snapshot, parameters_of

CHECK = 4  # steps between two looks while the ramp goes well, half of it while it does not
LOOK = 20  # steps between two looks at the loss while holding
REFRESH = 50  # steps between the first two measurements of the sharpness; the gap doubles each time
LANCZOS = 12  # products of the one spectrum that may resolve the condition number
CAP = 4.0  # times the threshold: a sharpness above it halves the lr


class TunerWarning(UserWarning):
    """Something could not be measured, or had to be undone; training goes on."""


class Loop:
    """All that changes while a tuner works; one object, so that copies of the optimizer's shell share it.

    Examples
    --------
    >>> Loop(torch.optim.SGD([torch.ones(1)], lr=0.1), budget=0.1, rng=0, own_momentum=True).facts.nominal
    0.1
    """

    def __init__(self, base: torch.optim.Optimizer, *, budget: float, rng: int, own_momentum: bool) -> None:
        self.base, self.budget, self.rng = base, budget, rng
        self.own_momentum = own_momentum and "momentum" in base.param_groups[0]
        self.facts = Facts(nominal=float(base.param_groups[0]["lr"]))
        self.snapshots: list[tuple[int, float, Snapshot]] = []  # (step, lr, copies): one per doubling of the ramp
        self.control: Any = None  # the fixed batch of the ramp
        self.top: list[Tensor] | None = None  # last top eigenvector
        self.before: list[Tensor] | None = None  # parameters ahead of the step that a line search extends
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
    def momentum(self) -> float:
        """Return the momentum of the next step, also of a base that calls it β₁."""
        group = self.base.param_groups[0]
        if self.own_momentum and math.isfinite(self.facts.momentum):
            return self.facts.momentum
        return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))

    def affords(self, cost: float) -> bool:
        """Say whether a cost in gradient-equivalents is within the budget now."""
        return self.facts.spent + cost <= self.budget * self.facts.steps

    def before_step(self) -> None:
        """Set the lr of a step of the ramp; remember where a step starts that a look will extend."""
        f = self.facts
        if f.phase == "ramp" and f.nominal > 0:
            f.scale = policies.ramp_lr(f.start, f.turn) / f.nominal
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
            self._begin(source)
        elif f.phase == "ramp" and f.unseen >= (CHECK if f.well else CHECK // 2):
            self._climb(source)
        elif f.phase == "hold":
            self._hold(source)
        f.spent += source.spent
        source.spent = 0.0

    def _begin(self, source: LossSource) -> None:
        f = self.facts
        loss = source.value()
        if not math.isfinite(loss):
            return self._warn("the loss is not finite at the first observation; the base optimizer goes on as it is")
        gradient = source.gradient(parameters_of(self.base))
        update = proposed(self.base, gradient)
        critical = critical_lr(source, parameters_of(self.base), update, loss)
        if not 0 < critical < math.inf:
            return self._warn("no lr along the first update lowers the loss; the base optimizer goes on as it is")
        if self.own_momentum:
            f.momentum = policies.MOMENTUM
        f.start = critical * policies.START * (1 - self.momentum if "momentum" in self.base.param_groups[0] else 1.0)
        f.first = f.best = loss
        f.scale = f.start / f.nominal
        f.best_lr, f.turn, f.unseen, f.well, f.blown = f.start, 0, 0, 1, 0
        self.modules, self.control, f.phase = modules_of(source.loss_fn, source.batch), source.batch, "ramp"
        f.spent += VALUE
        self.snapshots = []
        self._keep(f.start)
        self.note("start", loss)

    def _climb(self, source: LossSource) -> None:
        f = self.facts
        if not self.modules:
            self.modules = modules_of(source.loss_fn, source.batch)
        source.batch = self.control
        loss = source.value()
        f.unseen = 0
        ramp = policies.Ramp(f.first, f.best, f.best_lr, f.blown_lr, f.blown)
        ramp = policies.advance(ramp, self.lr, loss, self.rule)
        if ramp.over:
            return self._settle(ramp, loss)
        f.well = int(loss < f.best or self.rule is policies.ADAPTIVE)
        if f.steps - self.snapshots[-1][0] >= policies.DOUBLING:
            self._keep(self.lr)
        f.best, f.best_lr, f.blown_lr, f.blown = ramp.best, ramp.best_lr, ramp.blown_lr, ramp.blown
        self.note("ramp", loss)

    @property
    def rule(self) -> policies.Rule:
        """Return what ends the ramp and sets the lr: a rule for plain steps, one where second moments divide."""
        group = self.base.param_groups[0]
        adaptive = "betas" in group or "alpha" in group or "lr_decay" in group
        return policies.ADAPTIVE if adaptive else policies.PLAIN

    def _settle(self, ramp: policies.Ramp, loss: float) -> None:
        f = self.facts
        proposal = policies.edge(ramp, self.rule)
        before = [kept for kept in self.snapshots if kept[1] <= policies.RETURN * proposal.lr]
        self._go_back(before[-1] if before else self.snapshots[0])
        f.scale, f.phase, f.last, self.control = proposal.lr / f.nominal, "hold", f.steps, None
        f.refresh, f.settled, f.blown_lr, f.rescues = f.steps + REFRESH, f.steps, ramp.blown_lr, 0
        if self.own_momentum and proposal.momentum is not None:
            f.momentum = proposal.momentum
        self.note("settled", loss)

    def _keep(self, lr: float) -> None:
        """Take a snapshot; those too far below in lr to be gone back to are dropped."""
        far = lr / (4 * self.rule.divisor)
        self.snapshots = [kept for kept in self.snapshots if kept[1] >= far]
        self.snapshots.append((self.facts.steps, lr, Snapshot.take(self.base, self.modules)))

    def _go_back(self, kept: tuple[int, float, Snapshot]) -> None:
        """Return to a snapshot; only it and the oldest are kept. The steps since were made in vain."""
        kept[2].put_back(self.base, self.modules)
        self.facts.spent += self.facts.steps - kept[0]
        oldest = self.snapshots[0] if self.facts.phase == "hold" else kept
        self.snapshots = [(oldest[0], oldest[1], oldest[2]), (self.facts.steps, self.lr, kept[2])]

    def _hold(self, source: LossSource) -> None:
        f = self.facts
        high = self.factor >= 0.5
        if f.steps - f.last >= LOOK and (high or f.rescues or self.affords(VALUE)):
            loss = source.value()
            if self._alarming(loss) and self.snapshots:
                return self._rescue(loss)
            if high and self._may_double() and self._far_below(source, loss):
                f.scale *= 2.0
                self.note("doubled", loss)
            f.last, self.before = f.steps, None
            self.snapshots = [*self.snapshots[:1], (f.steps, self.lr, Snapshot.take(self.base, self.modules))]
            self.note("hold", loss)
        if f.steps >= f.refresh and self.affords(2 * (GRADIENT + 2 * PRODUCT)):
            self._refresh(source)
        if self.own_momentum and not f.resolved and self.affords(2 * (GRADIENT + LANCZOS * PRODUCT)):
            self._resolve(source)

    def _may_double(self) -> bool:
        """Say whether the lr may still be doubled: soon after the ramp, well below η_x, and before any rescue."""
        f = self.facts
        soon = f.steps - f.settled <= policies.WINDOW and f.rescues == 0
        below = 2 * f.scale * f.nominal <= f.blown_lr / policies.CEILING
        return soon and below and self.before is not None and f.steps - f.last == LOOK

    def _far_below(self, source: LossSource, loss: float) -> bool:
        """Say whether the last update, many times longer, still lowers the loss; longer where a schedule is low."""
        assert self.before is not None
        owned = parameters_of(self.base)
        update = [p.detach() - old for p, old in zip(owned, self.before, strict=True)]
        stretch = policies.STRETCH / min(self.factor, 1.0) - 1
        with shifted(owned, update, stretch):
            return source.value() < loss

    def _alarming(self, loss: float) -> bool:
        """Say whether a fresh batch's loss is out of line: blown, and six usual deviations from the mean."""
        f = self.facts
        if math.isnan(f.mean) and math.isfinite(loss):
            f.mean = loss
            f.first = loss if math.isnan(f.first) else f.first
            f.deviation = 0.1 * abs(loss)
            return False
        if policies.blown(f.first, f.mean, loss) and not loss - f.mean <= 6 * f.deviation:
            return True
        f.deviation += 0.2 * (abs(loss - f.mean) - f.deviation)
        f.mean += 0.2 * (loss - f.mean)
        return False

    def _rescue(self, loss: float) -> None:
        f = self.facts
        again = f.steps - f.trouble < 200
        bad = f.steps - f.trouble <= LOOK  # the snapshot was on its way already
        self._go_back(self.snapshots[0 if bad else -1])
        f.rescues, f.trouble, f.last = f.rescues + 1, f.steps, f.steps
        self.before = None
        f.scale *= 0.5 if again or math.isfinite(loss) else 1.0
        self.note("rescue", loss)
        self._warn(f"the loss had risen to {loss:.3g}; back to healthy weights, lr {self.lr:.3g}")

    # curvature

    def _refresh(self, source: LossSource) -> None:
        f = self.facts
        f.refresh = f.steps + max(REFRESH, f.steps)
        try:
            f.sharpness, self.top = top_curvature(source, self.base, self.top, self.rng)
        except (RuntimeError, ValueError) as error:
            return self._warn(f"the sharpness could not be measured ({error}); the lr stays")
        if f.sharpness > CAP * self.threshold():
            f.scale *= 0.5
        self.note("sharpness", math.nan)

    def threshold(self) -> float:
        """Return the sharpness at which a quadratic would diverge with lr and momentum in force."""
        group, beta = self.base.param_groups[0], self.momentum
        damp = beta if "betas" in group else float(group.get("dampening", 0.0))
        return momentum_threshold(self.lr, beta, damp, bool(group.get("nesterov", False)))

    def _resolve(self, source: LossSource) -> None:
        f = self.facts
        f.resolved = 1
        try:
            pairs = spectrum(source, self.base, LANCZOS, self.rng)
        except (RuntimeError, ValueError) as error:
            return self._warn(f"the spectrum could not be measured ({error}); the momentum stays")
        condition = policies.condition_of(pairs.values.tolist(), pairs.residuals.tolist())
        if condition is not None:
            self.set_momentum(policies.heavy_ball(condition))
        self.note("spectrum", math.nan)

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

    def _warn(self, text: str) -> None:
        warnings.warn(text, TunerWarning, stacklevel=4)
