"""How a base that divides by second moments finds its lr: a few short runs, each annealed to zero, from one point.

Several lrs are tried for the same few batches from the same weights, each with a cosine that ends at zero, and the one
with the lowest loss on other batches wins. The annealing is what makes so short a run tell anything: the noise floor
of a high lr, which would speak against it, is gone at its end, and a low lr has not moved. On the design workloads of
`krylearn study training` the winner of eight half-batches was within a factor 1.4 (one deviation) of the best lr of
whole runs, where an lr read off the onset of divergence was off by a factor 2.

Plain gradient steps need ten times longer trials (they cross plateaus slowly): for them `policies.edge` stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BETA = 0.5  # β₁ of Adam's family; of 0, 0.5, 0.8 and 0.9 the best, or within 3 % of it, on all design workloads
CENTRE = 0.2  # times the critical lr of the first update: the first lr tried
LENGTH = 8  # steps of a trial
PARTS = 2  # pieces of a batch, each of them a trial's step
JUDGES = 1  # batches on which trials are compared
MOST = 5  # trials at most
SHOWN = 0.05  # of the loss before: what the best trial must have gained for the trials to count
FEW = 3  # trials after which those that show nothing are given up
AGAIN = 20  # steps after which they are repeated, once


def batches() -> int:
    """Return how many batches trials need: those that they train on, then those of the judges.

    Examples
    --------
    >>> batches()
    5
    """
    return LENGTH // PARTS + JUDGES


def following(tried: Sequence[tuple[float, float]], first: float, start: float = math.inf) -> float | None:
    """Return the next lr to try: twice or half the best one until both its neighbours are known to be worse.

    Parameters
    ----------
    tried : pairs of lr and final loss (NaN counts as the worst), in any order;  first : where to begin
    start : loss before the trials, which end early where nothing shows (`shows`); infinite: they do not

    Examples
    --------
    >>> following([], 0.1), following([(0.1, 2.0)], 0.1), following([(0.1, 2.0), (0.2, 1.5)], 0.1)
    (0.1, 0.2, 0.4)
    >>> following([(0.1, 2.0), (0.2, 3.0)], 0.1), following([(0.1, 2.0), (0.2, 3.0), (0.05, 2.5)], 0.1)
    (0.05, None)
    """
    if not tried:
        return first
    if len(tried) >= (MOST if shows(tried, start) else FEW):
        return None
    best = winner(tried)
    known = dict(tried)
    return next((lr for lr in (2 * best, best / 2) if _at(known, lr) is None), None)


def winner(tried: Sequence[tuple[float, float]]) -> float:
    """Return the lr with the lowest loss.

    Examples
    --------
    >>> winner([(0.1, 2.0), (0.2, float("nan"))])
    0.1
    """
    return min(tried, key=lambda pair: _finite(pair[1]))[0]


def shows(tried: Sequence[tuple[float, float]], start: float) -> bool:
    """Say whether the best trial has gained enough to tell lrs apart; on a plateau or a saddle none has.

    Examples
    --------
    >>> shows([(0.1, 2.0), (0.2, 1.5)], 2.1), shows([(0.1, 1.08), (0.2, 1.2)], 1.05)
    (True, False)
    """
    return start == math.inf or min(_finite(loss) for _, loss in tried) <= start - SHOWN * abs(start)


def unshown(tried: Sequence[tuple[float, float]], start: float) -> float:
    """Return the lr to go on with where nothing shows: the first one tried, or below it if that one does harm.

    Examples
    --------
    >>> unshown([(0.1, 1.05), (0.2, 1.04)], 1.05), unshown([(0.1, 1.5), (0.2, 3.0), (0.05, 1.1)], 1.05)
    (0.1, 0.05)
    """
    first, loss = tried[0]
    return first if loss <= start + 0.5 * SHOWN * abs(start) else min(first, winner(tried))


def vertex(tried: Sequence[tuple[float, float]], start: float) -> float:
    """Return the lr at the vertex of a parabola in log lr through the best trial and its neighbours.

    Losses above `start`, the loss before any trial, count as that. Scaling the losses changes nothing.

    Examples
    --------
    >>> vertex([(0.1, 1.0), (0.2, 0.5), (0.4, 1.0)], 2.0), round(vertex([(0.1, 0.6), (0.2, 0.5), (0.4, 9.0)], 2.0), 4)
    (0.2, 0.1477)
    """
    best = winner(tried)
    losses = {lr: min(_finite(loss), start) for lr, loss in tried}
    low, high = (_at(losses, near) for near in (best / 2, 2 * best))
    if low is None or high is None:
        return best
    bend = low - 2 * losses[best] + high
    return best * 2 ** (0.5 * (low - high) / bend) if bend > 0 else best


def annealed(lr: float, step: int, length: int = LENGTH) -> float:
    """Return the lr of a step of a trial.

    Examples
    --------
    >>> annealed(0.2, 0), round(annealed(0.2, 4), 6)
    (0.2, 0.1)
    """
    return lr * 0.5 * (1 + math.cos(math.pi * step / length))


def _at(losses: dict[float, float], lr: float) -> float | None:
    """Return the loss of a trial, up to rounding of the lr."""
    return next((loss for known, loss in losses.items() if math.isclose(known, lr, rel_tol=1e-6)), None)


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
