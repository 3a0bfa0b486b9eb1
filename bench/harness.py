"""Measure from outside: the timer, paired ratios, iterations to a tolerance, the true residual.

Solvers hold no clock; everything is timed here, after warm-up. `record.py` writes down what was measured,
`machine.py` on what.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


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
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Timing, Any]:
    """Time a call from outside, after warm-up.

    Parameters
    ----------
    run : callable without arguments
    repeats, warmup : int
        Timed and untimed runs. Compilation belongs into the untimed ones.
    clock : callable
        Seconds. A device needs one that synchronises before it reads.

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
    >>> timing, answer = timed(lambda: 42, repeats=2, warmup=0, clock=lambda: next(ticks))
    >>> timing.median, answer
    (1.5, 42)
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"got repeats={repeats}, warmup={warmup}; expected repeats >= 1 and warmup >= 0")
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        start = clock()
        result = run()
        seconds.append(clock() - start)
    return Timing(tuple(seconds)), result


@dataclass(frozen=True)
class Pair:
    """Two calls timed in turns; `ratio` is theirs / ours per pair: (median, lowest, highest)."""

    ours: Timing
    theirs: Timing

    @property
    def ratio(self) -> tuple[float, float, float]:
        """How many times longer theirs takes."""
        ratios = [b / a for a, b in zip(self.ours.seconds, self.theirs.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def paired(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    pairs: int = 3,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Pair:
    """Time two calls A B A B in one run.

    Load that comes and goes on the machine hits both members of a pair: their ratio is steadier than two medians.

    Examples
    --------
    >>> ticks = iter([0, 1, 1, 5, 10, 12, 12, 20])
    >>> paired(lambda: None, lambda: None, pairs=2, warmup=0, clock=lambda: next(ticks)).ratio
    (4.0, 4.0, 4.0)
    """
    for _ in range(warmup):
        ours()
        theirs()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for call, found in zip((ours, theirs), seconds, strict=True):
            found += timed(call, repeats=1, warmup=0, clock=clock)[0].seconds
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
    scale = float(np.linalg.norm(b))
    return float(np.linalg.norm(b - A @ x)) / (scale if scale > 0 else 1.0)
