"""Several learned scales: one per unit, that is per member of joined optimizers, or per group of one.

The start gives each unit the critical lr of its own part of the first update, the others standing still, so the ratios
between the lrs that the user gave do not matter any more than the first one does. Once the common scale is found, the
units are taken in turn: a third, once and three times its ratio run beside the training, and the vertex of the parabola
through their losses is taken. Later only upwards: with up to three units the raises try each of them alone too.
"""

from __future__ import annotations

import math

from .loss import VALUE
from .session import Session
from .state import RaceState
from .trials import find_vertex, find_winner

MOST_UNITS = 16
ALONE = 3  # units up to which raises try each alone


def may_begin(session: Session) -> bool:
    """Say whether the ratio of a unit is still to be tried, and the budget allows it by the end of the run."""
    state, constants = session.state, session.constants
    if state.raises.units_left <= 0:
        return False
    lines = len(constants.ratio_factors)
    cost = lines * constants.ratio_batches + 2 * VALUE * (lines + 1)
    return state.spent + cost <= session.budget * (session.total_steps or state.steps)


def begin_ratio_race(session: Session) -> None:
    """Begin to try the next unit's ratio."""
    state, constants = session.state, session.constants
    unit = len(state.ratios) - state.raises.units_left
    state.raises.units_left -= 1
    origin, lr = session.take_snapshot(host=False), state.scale * state.nominal
    ratios = [
        [ratio * (factor if k == unit else 1.0) for k, ratio in enumerate(state.ratios)]
        for factor in constants.ratio_factors
    ]
    count = len(ratios)
    state.race = RaceState(lrs=[lr] * count, ratios=ratios, unit=unit, length=constants.ratio_batches, centre=lr,
                           lines=[origin] * count, origin=origin)  # fmt: skip


def decide_ratio(factors: tuple[float, ...], losses: list[float], start: float, gain: float = 0.001) -> float:
    """Return the factor of a unit's ratio: the vertex of the parabola, or 1 where no trial beats the present ratio.

    Examples
    --------
    >>> factors = (1 / 3, 1.0, 3.0)
    >>> round(decide_ratio(factors, [2.0, 1.5, 1.6], 2.5), 2), decide_ratio(factors, [3.0, 3.0, 3.0], 2.5)
    (1.44, 1)
    """
    tried = list(zip(factors, losses, strict=True))
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite or min(finite) >= start - gain * abs(start):
        return 1
    return find_vertex(tried, start) if math.isfinite(dict(tried)[find_winner(tried)]) else 1


def list_raises(session: Session) -> list[list[float]]:
    """Return the ratios of the lines of a raise beside the first: all units together, then each alone."""
    ratios = session.state.ratios
    factor = session.constants.raise_factors[-1] / session.constants.raise_factors[0]
    if not session.learn_ratios or not 1 < len(ratios) <= ALONE:
        return []
    return [[ratio * (factor if k == unit else 1.0) for k, ratio in enumerate(ratios)] for unit in range(len(ratios))]
