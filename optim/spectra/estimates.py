"""What a spectrum gives: estimates with their errors, edges with their intervals, smoothed densities with a band."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over probes and its standard error (NaN with one probe)."""

    value: float
    error: float


class Edge(NamedTuple):
    """An extreme eigenvalue: `value` is its Ritz value, and it lies in [low, high] with probability `level`.

    residual bounds the distance of `value` to some eigenvalue; converged: the interval is narrower than the tolerance.
    """

    value: float
    low: float
    high: float
    residual: float
    converged: bool
    level: float


class Extremes(NamedTuple):
    """Smallest and largest eigenvalue."""

    bottom: Edge
    top: Edge


class Density(NamedTuple):
    """A smoothed density with its band over probes (NaN with one probe); the integral over points is 1."""

    points: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    width: float
