"""Several learned scales: one per unit, that is per member of joined optimizers, or per group of one.

The start lets all units move their parameters by the same root mean square a step, if the size of their updates does
not hang on the gradient's (Adam, Muon); else each gets the critical lr of its own part of the first update, the others
standing still. So the ratios between the lrs that the user gave matter no more than the first one does. The trials then
find the common scale. Later only upwards: with up to three units the raises try each of them alone too. (Trials of the
ratios themselves, right after the start, were left out: a dozen steps always ask for a higher lr of Muon's.)
"""

from __future__ import annotations

import math

from torch import Tensor

from .base_optimizer import divides
from .loss import norm
from .session import Session

MOST_UNITS = 16
ALONE = 3  # units up to which raises try each alone


def is_normalized(update: list[Tensor], doubled: list[Tensor]) -> bool:
    """Say whether twice the gradient gives the same update, as Adam's signs and Muon's orthogonal matrices are.

    Examples
    --------
    >>> import torch
    >>> is_normalized([torch.ones(2)], [torch.ones(2)]), is_normalized([torch.ones(2)], [2 * torch.ones(2)])
    (True, False)
    """
    return norm([b - a for a, b in zip(update, doubled, strict=True)]) <= 0.05 * norm(update)


def match_sizes(session: Session, update: list[Tensor], units: list[int]) -> list[float]:
    """Return the ratios with which all units move their parameters by the same root mean square a step.

    For updates that are normalised, whose sizes the gradient does not set. Those that divide by second moments shrink
    after the first step, to a fifth or so, as signs that disagree average out.
    """
    base, count = session.base, max(session.base.units) + 1
    squares, numbers = [0.0] * count, [0] * count
    for unit, u in zip(units, update, strict=True):
        squares[unit] += norm([u]) ** 2
        numbers[unit] += u.numel()
    sizes = [math.sqrt(s / n) if n else 0.0 for s, n in zip(squares, numbers, strict=True)]
    groups = dict(zip(reversed(base.units), reversed(base.optimizer.param_groups), strict=True))  # each unit's first
    usual = [size * (session.constants.ratio_shrink if divides(groups[k]) else 1.0) for k, size in enumerate(sizes)]
    return [usual[0] / size if size > 0 and usual[0] > 0 else 1.0 for size in usual]


def list_raises(session: Session) -> list[list[float]]:
    """Return the ratios of the lines of a raise beside the first: all units together, then each alone."""
    ratios = session.state.ratios
    factor = session.constants.raise_factors[-1] / session.constants.raise_factors[0]
    if not session.learn_ratios or not 1 < len(ratios) <= ALONE:
        return []
    return [[ratio * (factor if k == unit else 1.0) for k, ratio in enumerate(ratios)] for unit in range(len(ratios))]
