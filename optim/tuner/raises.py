"""A search that is not over after the start: later raises of the lr without a cap, and a guard on held-out losses.

On plateaus (physics-informed networks, saddles) short trials at the start say little, and a higher lr pays later only.
So, at 2, 5, 10, 20 and 35 % of the steps, or at distances that double where the horizon is unknown, the lr in force and
three times it are run beside the training, with the rest of the schedule compressed into the run, as long as the budget
allows (in short runs fewer rounds, those near a tenth of the steps); where the higher one ends lower, it is taken. Only
upwards: short trials always speak for less. Where three times the lr wins it is tried again at the next round, so that
nothing caps it.

With `validation=` held-out losses judge all trials; and if the held-out loss rises twice in a row by 5 % while the
training loss falls, the weights of its minimum come back with a third of the lr; at the last step of a known horizon
they come back at once.
"""

from __future__ import annotations

import math

from .hold import Hold, count_looks
from .loss import VALUE, LossSource
from .ratios import list_raises
from .session import Session
from .state import RaceState
from .trials import advance_trials, judge_trials


def count_rounds(rounds: list[float], favourite: float, affordable: float) -> int:
    """Return how many rounds share the budget; 0 where the first of them is better left to later ones.

    Parameters
    ----------
    rounds : steps of those still to come;  favourite : step that they are best near;  affordable : how many

    Examples
    --------
    >>> count_rounds([10.0, 50.0, 100.0], 50.0, 5.0), count_rounds([10.0, 50.0, 100.0], 50.0, 1.9)
    (3, 0)
    >>> count_rounds([50.0, 100.0], 50.0, 1.9), count_rounds([50.0, 100.0], 50.0, 0.9)
    (1, 0)
    """
    count = min(len(rounds), max(int(affordable), 0))
    chosen = sorted(rounds, key=lambda step: abs(math.log(step / favourite)))[:count]
    return count if rounds[0] in chosen else 0


class HoldAndRaise(Hold):
    """Hold the lr, look for blow-ups; now and then try a higher lr."""

    def is_due(self, session: Session) -> bool:
        """Say whether a race is on, a round begins, or anything of `Hold` is due."""
        state = session.state
        if state.race.lrs or state.steps >= state.raises.next_step:
            return True
        return (session.validation is not None and state.steps >= state.raises.held_out_next) or super().is_due(session)

    def look(self, session: Session, source: LossSource) -> None:
        """Do what is due."""
        state = session.state
        super().look(session, source)
        if state.phase != "hold":
            return
        if session.validation is not None and state.steps >= state.raises.held_out_next:
            self._compare_held_out(session, source)
        if state.race.lrs:
            self._race(session, source)
        elif state.steps >= state.raises.next_step:
            self._begin(session, source)

    def _begin(self, session: Session, source: LossSource) -> None:
        """Begin a round if the budget allows a race that is long enough to tell."""
        state, constants, raises = session.state, session.constants, session.state.raises
        later = self._plan_next(session)
        horizon = session.total_steps or state.steps  # unknown: what has been earned so far
        left = constants.raise_budget * session.budget * horizon - (state.spent - raises.start_spent)
        left -= VALUE * count_looks(state.steps, horizon, constants)
        if raises.round == 0 and session.total_steps:  # one race is worth more than its price, on plateaus at least
            left = max(left, constants.raise_once * horizon * min(1.0, 10 * session.budget))
        alone = list_raises(session)
        lines = len(constants.raise_factors) + len(alone)
        steps, judging = lines * constants.raise_parts, 2 * VALUE * (lines + 1)
        rounds = count_rounds(later, 0.1 * horizon, left / (steps * constants.raise_fewest + judging))
        if not rounds:
            return
        share = left / rounds
        length = int(min(constants.raise_batches, (share - judging) / steps))
        calm = state.hold.rescues == 0 or state.steps - state.hold.last_rescue_step > constants.raise_first
        if length < constants.raise_fewest or not calm or session.factor < 0.3 * state.highest_factor:
            return
        session.find_modules(source)
        origin = session.take_snapshot(host=False)
        lr = state.scale * state.nominal
        lrs = [lr * f for f in constants.raise_factors] + [lr * constants.raise_factors[0]] * len(alone)
        ratios = [state.ratios] * len(constants.raise_factors) + alone if alone else []
        state.race = RaceState(lrs=lrs, ratios=ratios, length=length, centre=lr, lines=[origin] * lines, origin=origin)
        raises.round += 1
        self._race(session, source)

    def _plan_next(self, session: Session) -> list[float]:
        """Set the step of the next round; return the rounds that share the rest of the budget, this one first.

        In steps of the whole run; one of no round where the horizon is unknown.
        """
        state, constants = session.state, session.constants
        if session.total_steps:
            later = [share * session.total_steps for share in constants.raise_rounds]
            later = [step for step in later if step > state.steps]
            state.raises.next_step = math.ceil(later[0]) if later else 2**62
            return [float(state.steps), *later]
        state.raises.next_step = 2 * max(state.steps, constants.raise_first)
        return [float(state.steps)]

    def _race(self, session: Session, source: LossSource) -> None:
        state, race = session.state, session.state.race
        if state.scale * state.nominal < 0.9 * race.centre:  # a rescue came in between
            state.race = RaceState()
            return
        if race.done < race.length:
            return advance_trials(session, source, session.constants.raise_parts, host=False)
        start, tried = judge_trials(session, source)
        losses = [start, *(loss for _, loss in tried)]
        if not race.judged:  # single losses are too noisy to raise an lr for
            race.judged = losses
            return
        start, *ends = (a + b for a, b in zip(race.judged, losses, strict=True))
        self._take_raise(session, start, ends)
        state.race = RaceState()

    def _take_raise(self, session: Session, start: float, ends: list[float]) -> None:
        """Take the best of the higher lrs, if it ends lower than the lr in force."""
        state, race, constants = session.state, session.state.race, session.constants
        same = ends[0]
        best = min(range(1, len(ends)), key=lambda k: ends[k] if math.isfinite(ends[k]) else math.inf)
        higher = ends[best]
        if not (math.isfinite(higher) and higher < same - constants.raise_gain * abs(same) and higher < start):
            return session.note("not raised", higher / 2)
        state.scale *= race.lrs[best] / race.lrs[0]
        if race.ratios:
            session.set_ratios(race.ratios[best])
        state.drift.blocks_left = 0
        session.note("raised by trial", higher / 2)

    def _compare_held_out(self, session: Session, source: LossSource) -> None:
        """Go back to the minimum of the held-out loss where it has risen twice while the training loss fell."""
        state, raises, constants = session.state, session.state.raises, session.constants
        gap = (session.total_steps or 10 * max(state.steps, 50)) // constants.held_out_checks
        raises.held_out_next = state.steps + max(10, gap)
        end = session.total_steps - 1 if session.total_steps else 2**62
        last = state.steps >= end
        if not last:
            raises.held_out_next = min(raises.held_out_next, end)
        session.find_modules(source)
        value = session.measure(source)
        mean = state.hold.mean_loss
        session.note("held out", value)
        if not math.isfinite(value):
            return
        if value < raises.held_out_best:
            raises.held_out_best, raises.held_out_mean, raises.held_out_rises = value, mean, 0
            raises.held_out_kept = session.take_snapshot()
            return
        rise = value - raises.held_out_best > (constants.held_out_rise - 1) * abs(raises.held_out_best)
        falls = not math.isfinite(raises.held_out_mean) or mean < raises.held_out_mean
        raises.held_out_rises = raises.held_out_rises + 1 if rise and falls else 0
        if (raises.held_out_rises >= 2 or (last and rise)) and raises.held_out_kept is not None:
            session.base.restore(raises.held_out_kept, session.modules)
            state.scale /= 3
            raises.held_out_rises, state.hold.mean_loss = 0, raises.held_out_mean
            now = (state.steps, session.lr, raises.held_out_kept)
            state.hold.kept = [now, now]
            session.note("overfitted", value)
