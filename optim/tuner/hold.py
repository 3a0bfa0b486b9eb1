"""What a tuner does once its lr is set: look for blow-ups and undo them, double the lr, measure the curvature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import drift as policies_drift, ramp as policies
from .loss import GRADIENT, PRODUCT, VALUE, LossSource, shifted
from .spectral import spectrum, top_curvature
from .start import REFRESH, gather
from .state import LOOK, Snapshot, parameters_of

if TYPE_CHECKING:
    from .loop import Loop

LANCZOS = 12  # products of the one spectrum that may resolve the condition number
RARE = 4  # times its cost must be left of the budget for the sharpness to be measured
CAP = 4.0  # times the threshold: a sharpness above it halves the lr


def hold(loop: Loop, source: LossSource) -> None:
    """Look at the loss of the batch at hand if it is time to, and at the curvature if that is affordable."""
    f = loop.facts
    high = loop.factor >= 0.5
    gap = LOOK // 4 if f.steps - f.trouble < LOOK else LOOK  # a blow-up that goes on is seen before it costs much
    if f.steps - f.last >= gap and (high or f.rescues or loop.affords(VALUE)):
        loss = source.value()
        if _alarming(loop, loss) and loop.snapshots and _worse_than_kept(loop, source, loss):
            return _rescue(loop, loss)
        if high and _may_double(loop) and _far_below(loop, source, loss):
            f.scale *= 2.0
            f.raised += 1.0
            loop.note("doubled", loss)
        f.last, loop.before = f.steps, None
        if loss <= f.first:  # weights that have lost all that was gained are none to go back to
            loop.snapshots = [*loop.snapshots[-1:], (f.steps, loop.lr, Snapshot.take(loop.base, loop.modules))]
        loop.note("hold", loss)
    if 0 < f.again <= f.steps:  # trials on a plateau have shown nothing
        return gather(loop, source)
    if f.steps >= f.refresh and loop.affords(RARE * (GRADIENT + 2 * PRODUCT)):
        refresh(loop, source)
    if loop.own_momentum and loop.heavy and not f.resolved and loop.affords(2 * (GRADIENT + LANCZOS * PRODUCT)):
        resolve(loop, source)


def _may_double(loop: Loop) -> bool:
    """Say whether the lr may still be doubled: soon after a ramp, hardly raised yet, and before any rescue."""
    f = loop.facts
    soon = f.steps - f.settled <= policies.WINDOW and f.rescues == 0 and not loop.adaptive  # trials have looked upwards
    below = f.raised + 1 <= policies_drift.RAISE
    return soon and below and loop.before is not None and f.steps - f.last == LOOK


def _far_below(loop: Loop, source: LossSource, loss: float) -> bool:
    """Say whether the last update, many times longer, still lowers the loss; longer where a schedule is low."""
    assert loop.before is not None
    owned = parameters_of(loop.base)
    update = [p.detach() - old for p, old in zip(owned, loop.before, strict=True)]
    stretch = policies.STRETCH / min(loop.factor, 1.0) - 1
    with shifted(owned, update, stretch):
        return source.value() < loss


def _alarming(loop: Loop, loss: float) -> bool:
    """Say whether a fresh batch's loss is out of line: blown, and six usual deviations from the mean or hopeless."""
    f = loop.facts
    if math.isnan(f.mean) and math.isfinite(loss):
        f.mean = loss
        f.first = loss if math.isnan(f.first) else f.first
        f.deviation = 0.1 * abs(loss)
        return False
    unusual = not loss - f.mean <= 6 * f.deviation
    if policies.blown(f.first, f.mean, loss) and (unusual or _hopeless(loop, loss)):
        return True
    f.deviation += 0.2 * (abs(loss - f.mean) - f.deviation)
    f.mean += 0.2 * (loss - f.mean)
    return False


def _hopeless(loop: Loop, loss: float) -> bool:
    """Say whether a loss is beyond twice the first one."""
    return not loss <= loop.facts.first + abs(loop.facts.first)


def _worse_than_kept(loop: Loop, source: LossSource, loss: float) -> bool:
    """Say whether the weights of the last look do better on this very batch: an unusual batch is no alarm."""
    if not math.isfinite(loss):
        return True
    now = Snapshot.take(loop.base, loop.modules)
    loop.snapshots[-1][2].put_back(loop.base, loop.modules)
    try:
        there = source.value()
    finally:
        now.put_back(loop.base, loop.modules)
    return policies.blown(loop.facts.first, there, loss) and not loss - there <= 0.5 * abs(there)


def _rescue(loop: Loop, loss: float) -> None:
    """Lower the lr; and go back if that is affordable, the first time, or if the loss is beyond all hope."""
    f = loop.facts
    soon = f.steps - f.trouble < 200
    bad = f.steps - f.trouble <= LOOK  # the snapshot was on its way already
    kept = loop.snapshots[0 if bad else -1]
    if f.rescues == 0 or _hopeless(loop, loss) or loop.affords(f.steps - kept[0]):
        loop.go_back(kept)
    f.rescues, f.trouble, f.last = f.rescues + 1, f.steps, f.steps
    loop.before = None
    f.scale *= (0.25 if bad else 0.5) if soon or math.isfinite(loss) else 1.0
    loop.note("rescue", loss)
    loop.warn(f"the loss had risen to {loss:.3g}; lr {loop.lr:.3g} from now on")


def refresh(loop: Loop, source: LossSource) -> None:
    """Measure the sharpness by two warm-started products; far beyond the threshold it halves the lr."""
    f = loop.facts
    f.refresh = f.steps + max(REFRESH, f.steps)
    try:
        f.sharpness, loop.top = top_curvature(source, loop.base, loop.top, loop.rng)
    except Exception as error:
        return loop.warn(f"the sharpness could not be measured ({error}); the lr stays")
    if f.sharpness > CAP * loop.threshold():
        f.scale *= 0.5
    loop.note("sharpness", math.nan)


def resolve(loop: Loop, source: LossSource) -> None:
    """Ask a spectrum, once, for the condition number, and set the momentum where it is resolved."""
    f = loop.facts
    f.resolved = 1
    try:
        pairs = spectrum(source, loop.base, LANCZOS, loop.rng)
    except Exception as error:
        return loop.warn(f"the spectrum could not be measured ({error}); the momentum stays")
    condition = policies.condition_of(pairs.values.tolist(), pairs.bounds.tolist())
    if condition is not None:
        loop.set_momentum(policies.heavy_ball(condition))
    loop.note("spectrum", math.nan)
