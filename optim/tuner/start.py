"""How a tuner starts: the first lr, then trials (bases that divide by second moments) or a ramp (all others).

Each function is called by `Loop.look` ahead of a step and leaves what it decides in the loop's facts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import drift as policies_drift, ramp as policies, trials as policies_trials
from .first_lr import critical_lr, proposed
from .loss import VALUE, LossSource, modules_of
from .state import Snapshot, parameters_of
from .trial_runs import Trials

if TYPE_CHECKING:
    from .loop import Loop

REFRESH = 50  # steps between the first two measurements of the sharpness; the gap doubles each time


def begin(loop: Loop, source: LossSource) -> None:
    """Find the first lr: the critical one along the base's own first update, by a line search of forward passes."""
    f = loop.facts
    loss = source.value()
    if not math.isfinite(loss):
        return loop.warn("the loss is not finite at the first observation; the base optimizer goes on as it is")
    gradient = source.gradient(parameters_of(loop.base))
    update = proposed(loop.base, gradient)
    critical = critical_lr(source, parameters_of(loop.base), update, loss)
    if not 0 < critical < math.inf:
        return loop.warn("no lr along the first update lowers the loss; the base optimizer goes on as it is")
    if loop.own_momentum:
        f.momentum = policies.MOMENTUM if loop.heavy else policies_trials.BETA
    f.start = critical * policies.START * (1 - loop.momentum if loop.heavy else 1.0)
    f.first = f.best = loss
    f.scale = f.start / f.nominal
    f.best_lr, f.turn, f.unseen, f.well, f.blown, f.again = f.start, 0, 0, 1, 0, 0
    loop.modules, loop.control, f.phase = modules_of(source.loss_fn, source.batch), source.batch, "ramp"
    f.spent += VALUE
    loop.snapshots = []
    if loop.adaptive:
        loop.control = [source.batch]
    else:
        _keep(loop, f.start)
    loop.note("start", loss)


def gather(loop: Loop, source: LossSource) -> None:
    """Keep the batches of some steps; when they are enough, try lrs on them."""
    f = loop.facts
    if f.unseen == 0:
        return
    f.unseen = 0
    loop.control = [*(loop.control or []), source.batch]
    if len(loop.control) < policies_trials.batches():
        return
    if not loop.modules:
        loop.modules = modules_of(source.loss_fn, source.batch)
    trials = Trials(loop.base, f.nominal, loop.learned_momentum, source, loop.control, loop.modules)
    early = f.phase == "ramp"
    lr = f.start if early else f.scale * f.nominal
    try:
        lr = trials.run(f.start / policies.START * policies_trials.CENTRE if early else lr)
    except Exception as error:
        loop.warn(f"lrs could not be tried ({error}); lr {lr:.3g} stays")
    f.spent += trials.spent
    loop.snapshots = [(f.steps, lr, Snapshot.take(loop.base, loop.modules))] * 2
    for tried, loss in trials.tried:
        f.scale = tried / f.nominal
        loop.note("trial", loss)
    _hold_from_here(loop, lr)
    f.again = f.steps + policies_trials.AGAIN if early and not trials.shown else 0
    loop.note("settled", trials.start)


def climb(loop: Loop, source: LossSource) -> None:
    """Look at the loss of the ramp's fixed batch, and settle when the ramp is over."""
    f = loop.facts
    if not loop.modules:
        loop.modules = modules_of(source.loss_fn, source.batch)
    source.batch = loop.control
    loss = source.value()
    f.unseen = 0
    ramp = policies.Ramp(f.first, f.best, f.best_lr, f.blown_lr, f.blown)
    ramp = policies.advance(ramp, loop.lr, loss, policies.PLAIN)
    if ramp.over:
        return _settle(loop, ramp, loss)
    f.well = int(loss < f.best)
    if f.steps - loop.snapshots[-1][0] >= policies.DOUBLING:
        _keep(loop, loop.lr)
    f.best, f.best_lr, f.blown_lr, f.blown = ramp.best, ramp.best_lr, ramp.blown_lr, ramp.blown
    loop.note("ramp", loss)


def _settle(loop: Loop, ramp: policies.Ramp, loss: float) -> None:
    """Take the lr that the policy decides on, from the weights of `policies.RETURN` times it."""
    f = loop.facts
    proposal = policies.edge(ramp, policies.PLAIN)
    before = [kept for kept in loop.snapshots if kept[1] <= policies.RETURN * proposal.lr]
    loop.go_back(before[-1] if before else loop.snapshots[0])
    _hold_from_here(loop, proposal.lr)
    if loop.own_momentum and proposal.momentum is not None:
        f.momentum = proposal.momentum
    loop.note("settled", loss)


def _keep(loop: Loop, lr: float) -> None:
    """Take a snapshot of the ramp; those too far below in lr to be gone back to are dropped."""
    far = lr / (4 * policies.PLAIN.divisor)
    loop.snapshots = [kept for kept in loop.snapshots if kept[1] >= far]
    loop.snapshots.append((loop.facts.steps, lr, Snapshot.take(loop.base, loop.modules)))


def _hold_from_here(loop: Loop, lr: float) -> None:
    f = loop.facts
    f.scale, f.phase, loop.control = lr / f.nominal, "hold", None
    f.last, f.settled, f.refresh, f.rescues = f.steps, f.steps, f.steps + REFRESH, 0
    f.blocks, f.raised, loop.anchors = policies_drift.BLOCKS, 0.0, []
