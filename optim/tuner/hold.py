"""The lr is set: look for blow-ups and undo them, double an lr that is far too low, measure the curvature."""

from __future__ import annotations

import math

from .constants import TunerConstants
from .drift import Drift
from .loss import GRADIENT, PRODUCT, VALUE, LossSource, shifted
from .ramp import find_condition, heavy_ball_momentum, is_blown
from .session import Session, describe_error
from .spectral import find_spectrum, find_top_curvature
from .trials import repeat_trials


class Hold:
    """Every twenty steps a look at the loss of the batch at hand (in a schedule's lower half: if the budget allows).

    After 240 steps the distance is a twelfth of the steps made, up to a hundred: what has to be undone stays small
    beside what has been made. An alarm is a loss out of line on which the weights of the last good look do better; a
    second batch must confirm it, unless the loss is not finite. Then: back to those weights, and half the lr. Within
    the budget the sharpness is measured by two warm-started products, at intervals that double, and the condition
    number by Lanczos, once.
    """

    def __init__(self, drift: Drift) -> None:
        self.drift = drift

    def is_due(self, session: Session) -> bool:
        """Say whether a look, repeated trials or a measurement are due."""
        state = session.state
        hold, steps = state.hold, state.steps
        if hold.alarm_step >= 0 or 0 < hold.retry_trials_at <= steps or self._may_look(session):
            return True
        return self._may_measure(session) or (not state.curvature.spectrum_done and self._may_resolve(session))

    def look(self, session: Session, source: LossSource) -> None:
        """Do what is due."""
        state, high = session.state, session.is_high
        hold = state.hold
        if hold.alarm_step >= 0 or self._may_look(session):
            session.find_modules(source)
            if self._look_at_loss(session, source, high):
                return
        if 0 < hold.retry_trials_at <= state.steps:  # trials on a plateau have shown nothing
            session.find_modules(source)
            return repeat_trials(session)
        if self._may_measure(session):
            measure_sharpness(session, source)
        if not state.curvature.spectrum_done and self._may_resolve(session):
            resolve_momentum(session, source)

    def before_step(self, session: Session) -> None:
        """Remember where a step starts that a look will extend; watch the drift."""
        state = session.state
        if state.steps + 1 - state.hold.last_look_step == session.constants.look_every and self._may_double(session, 1):
            state.hold.before = [p.detach().clone() for p in session.base.trained()]
        self.drift.before_step(session)

    def after_step(self, session: Session) -> None:
        """Add what the step has shown of the drift; correct an lr that was found for another schedule."""
        self.drift.after_step(session)
        state = session.state
        if state.steps % session.constants.look_every == 0:
            correct_schedule(session)

    def _may_look(self, session: Session) -> bool:
        """Say whether a look at the loss is due, and allowed."""
        hold = session.state.hold
        late = session.state.steps - hold.last_look_step >= self._gap(session)
        return late and bool(session.is_high or hold.rescues or session.affords(VALUE))

    def _may_measure(self, session: Session) -> bool:
        """Say whether a measurement of the sharpness is due, and allowed."""
        cost = session.constants.refresh_share * (GRADIENT + 2 * PRODUCT)
        return session.state.steps >= session.state.curvature.next_measurement and session.affords(cost)

    def _gap(self, session: Session) -> int:
        steps, constants = session.state.steps, session.constants
        if steps - session.state.hold.last_rescue_step < constants.look_every:
            return constants.look_every // 4  # a blow-up that goes on is seen before it costs much
        return look_gap(steps, constants)

    def _look_at_loss(self, session: Session, source: LossSource, high: bool) -> bool:
        """Look at the loss; return whether a rescue was made, or an alarm awaits the next batch."""
        state, hold = session.state, session.state.hold
        loss = source.value()
        if math.isnan(hold.first_loss) and hold.kept and math.isfinite(loss):  # an lr of the user's: nothing known yet
            hold.first_loss = _loss_of_kept(session, source)
        if is_alarming(session, loss) and hold.kept and self._is_worse_than_kept(session, source, loss):
            if math.isfinite(loss) and hold.alarm_step != state.steps - 1 and not is_hopeless(session, loss):
                hold.alarm_step = state.steps
                return True
            hold.alarm_step = -1
            rescue(session, loss)
            return True
        hold.alarm_step = -1
        if high and self._may_double(session) and hold.before is not None and self._is_far_below(session, source, loss):
            state.scale *= 2.0
            state.drift.doublings += 1.0
            session.note("doubled", loss)
        hold.last_look_step, hold.before = state.steps, None
        track_loss(session, loss)
        if loss <= hold.first_loss:  # weights that have lost all that was gained are none to go back to
            hold.kept = [*hold.kept[-1:], (state.steps, session.lr, session.take_snapshot())]
        session.note("hold", loss)
        return False

    def _may_double(self, session: Session, ahead: int = 0) -> bool:
        """Say whether the lr may still be doubled: soon after a ramp, hardly raised yet, and before any rescue."""
        state, constants = session.state, session.constants
        soon = state.steps - state.hold.settled_step <= constants.stretch_window
        soon = soon and state.hold.rescues == 0 and not session.base.adaptive  # trials have looked upwards
        below = state.drift.doublings + 1 <= constants.drift_raise
        on_time = state.steps + ahead - state.hold.last_look_step == constants.look_every
        return soon and below and on_time

    def _is_far_below(self, session: Session, source: LossSource, loss: float) -> bool:
        """Say whether the last update, many times longer, still lowers the loss; longer where a schedule is low."""
        before, owned = session.state.hold.before, session.base.trained()
        assert before is not None
        if len(before) != len(owned):  # parameters were frozen or freed in between
            return False
        update = [p.detach() - old for p, old in zip(owned, before, strict=True)]
        stretch = session.constants.stretch / min(session.factor, 1.0) - 1
        with shifted(owned, update, stretch):
            return source.value() < loss

    def _is_worse_than_kept(self, session: Session, source: LossSource, loss: float) -> bool:
        """Say whether the weights of the last look do better on this very batch: an unusual batch is no alarm."""
        if not math.isfinite(loss):
            return True
        there = _loss_of_kept(session, source)
        return is_blown(session.state.hold.first_loss, there, loss) and not loss - there <= 0.5 * abs(there)

    def _may_resolve(self, session: Session) -> bool:
        constants = session.constants
        cost = constants.lanczos_share * (GRADIENT + constants.lanczos_steps * PRODUCT)
        return session.affords(cost) and session.base.learns_momentum and session.base.heavy


def look_gap(steps: int, constants: TunerConstants) -> int:
    """Return the steps between two looks: a share of those made, so that undoing a blow-up costs no more than that.

    Examples
    --------
    >>> look_gap(100, TunerConstants()), look_gap(600, TunerConstants()), look_gap(10_000, TunerConstants())
    (20, 50, 100)
    """
    return min(max(constants.look_every, int(constants.look_share * steps)), constants.look_most)


def count_looks(start: int, end: int, constants: TunerConstants) -> float:
    """Return about how many looks are made between two steps.

    Examples
    --------
    >>> [round(count_looks(0, end, TunerConstants())) for end in (200, 1000, 10_000)]
    [10, 29, 119]
    """
    if end <= start:
        return 0.0
    few, many = constants.look_every / constants.look_share, constants.look_most / constants.look_share
    growing = math.log(min(max(end, few), many) / min(max(start, few), many)) / constants.look_share
    first, last = max(min(end, few) - start, 0), max(end - max(start, many), 0)
    return first / constants.look_every + growing + last / constants.look_most


def _loss_of_kept(session: Session, source: LossSource) -> float:
    """Return the loss of the weights of the last good look, on this batch."""
    now = session.take_snapshot(host=False)
    session.base.restore(session.state.hold.kept[-1][2], session.modules)
    try:
        return source.value()
    finally:
        session.base.restore(now, session.modules, hyper=True)


def is_hopeless(session: Session, loss: float) -> bool:
    """Say whether a loss is beyond twice the first one, or not finite."""
    first = session.state.hold.first_loss
    return not loss <= first + abs(first)


def is_alarming(session: Session, loss: float) -> bool:
    """Say whether a fresh batch's loss is out of line.

    Half of the gain is lost, and it is more than six deviations above the running mean or beyond twice the first loss;
    the first look after the start has only that first loss to be compared with.
    """
    hold = session.state.hold
    if math.isnan(hold.mean_loss):
        return is_hopeless(session, loss)
    unusual = not loss - hold.mean_loss <= 6 * hold.loss_deviation
    return is_blown(hold.first_loss, hold.mean_loss, loss) and (unusual or is_hopeless(session, loss))


def track_loss(session: Session, loss: float) -> None:
    """Take a look's loss into the running mean and deviation."""
    hold = session.state.hold
    if not math.isfinite(loss):
        return
    if math.isnan(hold.mean_loss):
        hold.mean_loss, hold.loss_deviation = loss, 0.1 * abs(loss)
        return
    hold.loss_deviation += 0.2 * (abs(loss - hold.mean_loss) - hold.loss_deviation)
    hold.mean_loss += 0.2 * (loss - hold.mean_loss)


def rescue(session: Session, loss: float) -> None:
    """Lower the lr; and go back if that is affordable, the first time, or if the loss is beyond all hope."""
    state, hold = session.state, session.state.hold
    every = session.constants.look_every
    soon = state.steps - hold.last_rescue_step < 10 * every
    again = state.steps - hold.last_rescue_step <= every  # the snapshot was on its way already
    kept = hold.kept[0 if again else -1]
    if hold.rescues == 0 or is_hopeless(session, loss) or session.affords(state.steps - kept[0]):
        older, now = hold.kept[0], state.steps
        session.go_back(kept)
        hold.kept = [(now - (kept[0] - older[0]), session.lr, older[2]), (now, session.lr, kept[2])]
    hold.rescues, hold.last_rescue_step, hold.last_look_step = hold.rescues + 1, state.steps, state.steps
    hold.before = None
    state.scale *= (0.25 if again else 0.5) if soon or math.isfinite(loss) else 1.0
    session.note("rescue", loss)
    session.warn(f"the loss had risen to {session.base.sign * loss:.3g}; lr {session.lr:.3g} from now on")


def measure_sharpness(session: Session, source: LossSource) -> None:
    """Measure the sharpness by two warm-started products; far beyond the threshold it halves the lr."""
    state, curvature = session.state, session.state.curvature
    curvature.next_measurement = state.steps + max(session.constants.refresh_first, state.steps)
    try:
        with session.base.in_force(1.0, math.nan, state.ratios):
            found = find_top_curvature(source, session.base.optimizer, curvature.top_vector, session.rng)
    except Exception as error:  # whatever fails in a look, the training that is looked at goes on
        return session.warn(f"the sharpness could not be measured ({describe_error(error)}); the lr stays")
    curvature.sharpness, curvature.top_vector = found
    if curvature.sharpness > session.constants.sharpness_cap * session.threshold():
        state.scale *= 0.5
    session.note("sharpness", math.nan)


def resolve_momentum(session: Session, source: LossSource) -> None:
    """Ask a spectrum, once, for the condition number, and set the momentum where it is resolved."""
    session.state.curvature.spectrum_done = 1
    try:
        pairs = find_spectrum(source, session.base.optimizer, session.constants.lanczos_steps, session.rng)
    except Exception as error:  # as above
        return session.warn(f"the spectrum could not be measured ({describe_error(error)}); the momentum stays")
    condition = find_condition(pairs.values.tolist(), pairs.bounds.tolist())
    if condition is not None:
        session.set_momentum(heavy_ball_momentum(condition))
    session.note("spectrum", math.nan)


def correct_schedule(session: Session) -> None:
    """Halve an lr that was found for an annealed schedule when the lr turns out to be constant."""
    state = session.state
    now = session.find_schedule()
    if state.believed == "annealed" and now == "constant" and not session.total_steps:
        state.scale *= 0.5
        session.note("corrected", math.nan)
    state.believed = now
