"""Trials: several lrs run beside the training, on pieces of the batches at hand, from one point; the best one is taken.

Each trial has weights and optimizer state of its own and follows the rest of the schedule, compressed into it (annealed
to zero, mostly). The annealing is what makes so short a run tell anything: the noise floor of a high lr, which would
speak against it, is gone at its end, and a low lr has not moved. On the design workloads the winner of eight
half-batches was within a factor 1.4 (one deviation) of the best lr of whole runs, where an lr read off the onset of
divergence was off by a factor 2. No batch is kept: at every step all trials go on together, so a checkpoint holds
weights and numbers only.

At the start this sets the lr of bases that divide by second moments. Plain gradient steps need ten times longer trials
(they cross plateaus slowly): for them there is the ramp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .loss import LossSource
from .session import Session
from .state import RaceState

ATTEMPTS = 3  # of trials that raise an exception; then the low lr of the start stays
SMALLEST = 4  # samples that a piece of a batch must have
Tried = Sequence[tuple[float, float]]


# decisions


def find_winner(tried: Tried) -> float:
    """Return the lr with the lowest loss.

    Examples
    --------
    >>> find_winner([(0.1, 2.0), (0.2, float("nan"))])
    0.1
    """
    return min(tried, key=lambda pair: _finite(pair[1]))[0]


def shows_gain(tried: Tried, start: float, share: float = 0.05) -> bool:
    """Say whether the best trial has gained enough to tell lrs apart; on a plateau or a saddle none has.

    Examples
    --------
    >>> shows_gain([(0.1, 2.0), (0.2, 1.5)], 2.1), shows_gain([(0.1, 1.08), (0.2, 1.2)], 1.05)
    (True, False)
    """
    return min(_finite(loss) for _, loss in tried) <= start - share * abs(start)


def choose_without_gain(tried: Tried, start: float, centre: float, share: float = 0.05) -> float:
    """Return the lr to go on with where nothing shows: the highest up to the centre that does no harm.

    Examples
    --------
    >>> choose_without_gain([(0.05, 1.0), (0.1, 1.01), (0.2, 0.99)], 1.0, 0.1)
    0.1
    >>> choose_without_gain([(0.05, 1.1), (0.1, 2.0)], 1.0, 0.1)
    0.05
    """
    below = [(lr, loss) for lr, loss in tried if lr <= centre * 1.001] or [min(tried)]
    harmless = [lr for lr, loss in below if _finite(loss) <= start + share * abs(start)]
    return max(harmless) if harmless else min(below)[0]


def find_vertex(tried: Tried, start: float) -> float:
    """Return the lr at the vertex of the parabola, in log lr, through the winner and its neighbours.

    A loss above that of the start counts as the start's: how far a trial was thrown says nothing.

    Examples
    --------
    >>> round(find_vertex([(0.1, 2.0), (0.2, 1.5), (0.4, 1.9)], 2.5), 4)
    0.2079
    """
    ordered = sorted((lr, min(_finite(loss), start)) for lr, loss in tried)
    best = min(range(len(ordered)), key=lambda k: ordered[k][1])
    if not 0 < best < len(ordered) - 1:
        return ordered[best][0]
    (a, fa), (b, fb), (c, fc) = ((math.log(lr), loss) for lr, loss in ordered[best - 1 : best + 2])
    left, right = (fb - fa) / (b - a), (fc - fb) / (c - b)
    bend = (right - left) / (c - a)
    return math.exp((a + b) / 2 - left / (2 * bend)) if bend > 0 else math.exp(b)


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


# execution


def split_batch(batch: Any, count: int) -> list[Any]:
    """Split a batch (tensors in tuples, lists, mappings that agree in their first size) into interleaved pieces.

    A batch that is built in another way, or too small, is returned whole.

    Examples
    --------
    >>> import torch
    >>> [x.tolist() for x, y in split_batch((torch.arange(8), torch.zeros(8, 2)), 2)], len(split_batch("text", 2))
    ([[0, 2, 4, 6], [1, 3, 5, 7]], 1)
    """
    sizes = {len(x) if x.dim() else 0 for x in _tensors(batch)}
    if len(sizes) != 1 or min(sizes) < count * SMALLEST:
        return [batch]
    return [_take_rows(batch, slice(k, None, count)) for k in range(count)]


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return [x for part in parts for x in _tensors(part)]


def _take_rows(batch: Any, rows: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[rows]
    if isinstance(batch, Mapping):
        parts = {name: _take_rows(part, rows) for name, part in batch.items()}
        return parts if type(batch) is dict else type(batch)(parts)  # type: ignore[call-arg]
    if isinstance(batch, list | tuple):
        parts_ = [_take_rows(part, rows) for part in batch]
        return type(batch)(*parts_) if hasattr(batch, "_fields") else type(batch)(parts_)
    return batch


def advance_trials(session: Session, source: LossSource, parts: int, *, host: bool = True) -> None:
    """Let every trial of the race train on the pieces of a batch; the training's own weights are put back."""
    race, base = session.state.race, session.base
    pieces = split_batch(source.batch, parts)
    now = session.take_snapshot(host=False)
    try:
        for k, lr in enumerate(race.lrs):
            base.restore(race.lines[k], session.modules, hyper=True)
            for j, piece in enumerate(pieces):
                part = source.on(piece)
                gradient = part.gradient_or_none(base.parameters())
                session.state.spent += part.spent
                z = (race.done + j / len(pieces)) / race.length
                ratios = race.ratios[k] if race.ratios else session.state.ratios
                _train(session, gradient, lr * session.trial_factor(z), ratios)
            race.lines[k] = session.take_snapshot(host=host)
    finally:
        base.restore(now, session.modules, hyper=True)
    race.done += 1


def _train(session: Session, gradient: list[Tensor | None], lr: float, ratios: list[float]) -> None:
    base = session.base
    base.step_with(gradient, lr / base.first_lr, session.learned_momentum, ratios)


def judge_trials(session: Session, source: LossSource) -> tuple[float, list[tuple[float, float]]]:
    """Return the loss where the trials began, and pairs of lr and loss at their ends: on this batch, or held out."""
    race, base = session.state.race, session.base
    now = session.take_snapshot(host=False)
    losses = []
    try:
        for line in [race.origin, *race.lines]:
            assert line is not None
            base.restore(line, session.modules, hyper=True)
            losses.append(session.measure(source))
    finally:
        base.restore(now, session.modules, hyper=True)
    return losses[0], list(zip(race.lrs, losses[1:], strict=True))


class Trials:
    """The start of a base that divides by second moments, and its repetition on a plateau."""

    def is_due(self, session: Session) -> bool:
        """Say whether a step was made since the last batch."""
        return session.state.unseen_steps > 0

    def look(self, session: Session, source: LossSource) -> None:
        """Train the trials on this batch, or compare them and take the best."""
        state, race = session.state, session.state.race
        session.find_modules(source)
        state.unseen_steps = 0
        if race.origin is not None and not session.base.is_finite():
            session.base.restore(race.origin, session.modules)
            session.note("repaired", math.nan)
            session.warn("the parameters were not finite any more; those of the beginning are back")
        if race.done < 0:
            race.done += 1
            return
        if race.done == 0:
            race.origin = session.take_snapshot()
            race.lines = [race.origin] * len(race.lrs)
        try:
            if race.done < race.length:
                advance_trials(session, source, session.constants.trial_parts)
            else:
                self._decide(session, source)
        except Exception:
            race.failures, race.done = race.failures + 1, 0
            if race.failures == ATTEMPTS:
                session.settle(state.scale * state.nominal, state.hold.first_loss)
            raise

    def before_step(self, session: Session) -> None:
        """Go on at the low lr of the start."""

    def after_step(self, session: Session) -> None:
        """Nothing but steps is counted."""

    def _decide(self, session: Session, source: LossSource) -> None:
        state, race, constants = session.state, session.state.race, session.constants
        repeated = state.hold.settled_step > 0
        first_loss = state.hold.first_loss
        start, tried = judge_trials(session, source)
        shown = shows_gain(tried, start, constants.trial_shown)
        if shown:
            share = constants.ratio_share if state.ratios else constants.trial_share
            lr = share * find_vertex(tried, start)
            best = race.lines[race.lrs.index(find_winner(tried))]
            state.spent += race.length  # the steps made meanwhile are given up
            session.base.restore(best, [])  # running statistics stay those of the training
        else:
            lr = choose_without_gain(tried, start, race.centre, constants.trial_shown)
        for each, loss in tried:
            state.scale = each / state.nominal
            session.note("trial", loss)
        session.settle(lr, first_loss)
        if not shown and not repeated:
            state.hold.retry_trials_at = state.steps + constants.trial_again
            state.race.centre = race.centre
        session.note("settled", start)


def repeat_trials(session: Session) -> None:
    """Begin trials anew around the lr in force, from here."""
    state, constants = session.state, session.constants
    lr = state.scale * state.nominal
    state.race = RaceState(lrs=[lr * factor for factor in constants.trial_factors], length=constants.trial_batches,
                           centre=lr)  # fmt: skip
    state.phase, state.unseen_steps, state.hold.retry_trials_at = "trials", 0, 0
