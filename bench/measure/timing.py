"""Measure from outside: the timer, paired ratios, iterations to a tolerance, the true residual.

Solvers hold no clock; everything is timed from outside, after warm-up, by the clocks of `timers.py`. `record.py` writes
down what was measured, `machine.py` on what.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .timers import HostTimer, Timer


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs: the median, and the spread that it may be trusted to.

    Examples
    --------
    >>> Timing((0.2, 0.1, 0.3)).median
    0.2
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The fastest run."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """The slowest run."""
        return max(self.seconds)


def timed(
    run: Callable[[], Any],
    *,
    repeats: int = 3,
    warmup: int = 1,
    timer: Timer | None = None,
) -> tuple[Timing, Any]:
    """Time a call from outside, after warm-up.

    Parameters
    ----------
    run : callable without arguments
    repeats, warmup : int
        Timed and untimed runs. Compilation belongs into the untimed ones.
    timer : callable
        run -> (seconds, result): `timers.timer_for(device)`; the host's by default.

    Returns
    -------
    Timing, result of the last run

    Raises
    ------
    ValueError
        If repeats < 1 or warmup < 0.

    Examples
    --------
    >>> ticks = iter([0.0, 2.0, 10.0, 11.0])
    >>> timing, answer = timed(lambda: 42, repeats=2, warmup=0, timer=HostTimer(lambda: next(ticks)))
    >>> timing.median, answer
    (1.5, 42)
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"got repeats={repeats}, warmup={warmup}; expected repeats >= 1 and warmup >= 0")
    timer = timer or HostTimer()
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        took, result = timer(run)
        seconds.append(took)
    return Timing(tuple(seconds)), result


@dataclass(frozen=True)
class Pair:
    """Two calls timed in turns; `ratio` is theirs / ours per pair: (median, lowest, highest).

    Examples
    --------
    >>> Pair(Timing((1.0, 2.0, 4.0)), Timing((3.0, 6.0, 8.0))).ratio
    (3.0, 2.0, 3.0)
    """

    ours: Timing
    theirs: Timing

    @property
    def ratios(self) -> list[float]:
        """How many times longer theirs takes, pair by pair."""
        return [b / a for a, b in zip(self.ours.seconds, self.theirs.seconds, strict=True)]

    @property
    def ratio(self) -> tuple[float, float, float]:
        """How many times longer theirs takes: median, lowest, highest."""
        return statistics.median(self.ratios), min(self.ratios), max(self.ratios)

    def interval(self, level: float = 0.95, *, resamples: int = 4000, seed: int = 31415) -> tuple[float, float]:
        """Bootstrap the median ratio (percentile interval; the pairs are drawn again, so their noise needs no model).

        Parameters
        ----------
        level : float; confidence
        resamples, seed : int; redrawn samples, and where the drawing starts: the same pairs give the same interval

        Examples
        --------
        >>> Pair(Timing((1.0,) * 5), Timing((3.0,) * 5)).interval()
        (3.0, 3.0)
        """
        ratios = np.array(self.ratios)
        drawn = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
        low, high = np.quantile(np.median(ratios[drawn], axis=1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def paired(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    pairs: int = 3,
    warmup: int = 1,
    timer: Timer | None = None,
    their_timer: Timer | None = None,
) -> Pair:
    """Time two calls A B A B in one run.

    Load that comes and goes on the machine hits both members of a pair: their ratio is steadier than two medians.
    `their_timer` is `timer` unless theirs runs where another one is needed.

    Examples
    --------
    >>> ticks = iter([0, 1, 1, 5, 10, 12, 12, 20])
    >>> paired(lambda: None, lambda: None, pairs=2, warmup=0, timer=HostTimer(lambda: next(ticks))).ratio
    (4.0, 4.0, 4.0)
    """
    for _ in range(warmup):
        ours()
        theirs()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for call, found, clock in zip((ours, theirs), seconds, (timer, their_timer or timer), strict=True):
            found += timed(call, repeats=1, warmup=0, timer=clock)[0].seconds
    return Pair(Timing(tuple(seconds[0])), Timing(tuple(seconds[1])))


def iterations_to(residuals: Sequence[float], rtol: float) -> float:
    """Count iterations until residual norms fall below rtol times the first, interpolated on the logarithm.

    Whole iterations hide progress: 6.1 and 6.9 both count as 7. Infinite if the tolerance is not met.

    Examples
    --------
    >>> iterations_to([1.0, 1e-2, 1e-4], 1e-3)
    1.5
    """
    limit = rtol * residuals[0]
    for k, r in enumerate(residuals):
        if r <= limit:
            if k == 0 or r <= 0:
                return float(k)
            before = residuals[k - 1]
            return round(k - 1 + math.log(before / limit) / math.log(before / r), 9)
    return math.inf


def true_relative_residual(A: Any, x: Any, b: Any) -> float:
    """Relative residual ‖b - Ax‖/‖b‖ in double precision, whatever the solver computed in.

    Examples
    --------
    >>> true_relative_residual(np.diag([2.0, 4.0]), np.array([1.0, 1.0]), np.array([2.0, 3.0]))
    0.2773500981126146
    """
    x, b = (np.asarray(v, dtype=np.float64).reshape(-1) for v in (x, b))
    exponent = int(np.frexp(np.abs(b).max(initial=0.0))[1])
    x, b = np.ldexp(x, -exponent), np.ldexp(b, -exponent)  # squares neither overflow nor vanish
    scale = float(np.linalg.norm(b))
    return float(np.linalg.norm(b - A @ x)) / (scale if scale > 0 else 1.0)
