"""Densities and quantiles of a spectrum, from the Gauss nodes of its probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import t as student

from .estimates import Density

Nodes = Sequence[tuple[np.ndarray, np.ndarray]]  # per probe: values, weights
Known = Sequence[np.ndarray]  # per probe: which values are eigenvalues
SAMPLES, LINEAR = 2000, 1e-3  # points that stand for what is not resolved; where decades begin


def linear_density(nodes: Nodes, points: np.ndarray | None, width: float | None, level: float) -> Density:
    """Return the density of λ; the default width is what m nodes resolve, 2/(m - 1)/√(8 ln 3) of half the range.

    Parameters
    ----------
    nodes : per probe (values, weights);  points : where, or None for 1024 between the ends;  width, level : as there

    Examples
    --------
    >>> d = linear_density([(np.array([0.0, 1.0]), np.array([0.5, 0.5]))], None, 0.1, 0.95)
    >>> round(float(np.trapezoid(d.values, d.points)), 3)
    1.0
    """
    low, high = (float(f([f(values) for values, _ in nodes])) for f in (np.min, np.max))
    steps = max(len(values) for values, _ in nodes)
    half = (high - low) / 2 or abs(high) or 1.0
    width = width or half * 2 / max(steps - 1, 1) / math.sqrt(8 * math.log(3))  # curvlinops' choice
    x = np.linspace(low - 5 * width, high + 5 * width, 1024) if points is None else np.asarray(points)
    return _smooth(nodes, x, lambda theta: theta, width, level)


def decade_density(nodes: Nodes, sign: int, width: float, decades: float, level: float) -> Density:
    """Return the density of log10|λ| of the eigenvalues of one sign, over so many decades below the largest |λ|.

    Examples
    --------
    >>> d = decade_density([(np.array([-1.0, 0.01, 1.0]), np.array([0.5, 0.25, 0.25]))], 1, 0.1, 4.0, 0.95)
    >>> round(float(np.trapezoid(d.values, d.points)), 3)
    0.5
    """
    top = math.log10(max(float(np.abs(values).max()) for values, _ in nodes) or 1.0)
    x = np.linspace(top - decades, top + 5 * width, 1024)

    def place(theta: np.ndarray) -> np.ndarray:
        return np.log10(np.where(sign * theta > 0, np.abs(theta), 1e-300))

    return _smooth(nodes, x, place, width, level)


def asinh_density(nodes: Nodes, resolved: Known, linear: float, x: np.ndarray, width: float = 0.15) -> Density:
    """Return the density of asinh(λ/linear) at x, unresolved parts spread: even over zero, by decades further out.

    Examples
    --------
    >>> x = np.linspace(-4, 4, 400)
    >>> d = asinh_density([(np.array([0.0, 1.0]), np.array([0.5, 0.5]))], [np.array([True, True])], 0.1, x)
    >>> round(float(np.trapezoid(d.values, d.points)), 3)
    1.0
    """
    spread = [_spread(*pair, known) for pair, known in zip(nodes, resolved, strict=True)]
    return _smooth(spread, x, lambda theta: np.arcsinh(theta / linear), width, 0.95)


def _smooth(nodes: Nodes, x: np.ndarray, place: Callable, width: float, level: float) -> Density:
    curves = []
    for values, weights in nodes:
        z = (x[:, None] - place(values)[None]) / width
        curves.append(np.exp(-z * z / 2) @ weights / (width * math.sqrt(2 * math.pi)))
    mean, k = np.mean(curves, 0), len(curves)
    if k == 1:
        return Density(x, mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan), width)
    half = student.ppf((1 + level) / 2, k - 1) * np.std(curves, 0, ddof=1) / math.sqrt(k)
    return Density(x, mean, np.maximum(mean - half, 0), mean + half, width)


def quantiles(nodes: Nodes, resolved: Known, q: np.ndarray) -> np.ndarray:
    """Return the eigenvalues below which the fractions q of all lie.

    Parameters
    ----------
    nodes, resolved : per probe (values, weights), and which values are eigenvalues;  q : fractions in [0, 1]

    Examples
    --------
    >>> values, weights = np.array([0.0, 1.0, 2.0]), np.array([0.25, 0.5, 0.25])
    >>> quantiles([(values, weights)], [np.array([True, True, True])], np.array([0.1, 0.5, 0.9])).tolist()
    [0.0, 1.0, 2.0]
    """
    spread = [_spread(*pair, known) for pair, known in zip(nodes, resolved, strict=True)]
    x, mass = (np.concatenate([pair[k] for pair in spread]) for k in (0, 1))
    order = np.argsort(x, kind="stable")
    passed = np.cumsum(mass[order])
    return x[order][np.minimum(np.searchsorted(passed, np.asarray(q) * passed[-1]), len(x) - 1)]


def _spread(values: np.ndarray, weights: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return many points and their masses: resolved values as they are, the others spread out.

    A measure with m nodes has a distribution function with m steps; that of a continuous spectrum passes somewhere
    through each of them (Chebyshev, Markov, Stieltjes), here taken to be the middle. So resolved values stay steps, and
    between the others the function is interpolated: linearly in asinh(λ/s), s being LINEAR times the largest |λ|, since
    spectra of networks are dense near zero and thin out by decades.
    """
    rest, share = values[~known], float(weights[~known].sum())
    if share <= 0:
        return values[known], weights[known]
    scale = LINEAR * max(float(np.abs(values).max()), 1e-300)
    passed = (np.cumsum(weights[~known]) - weights[~known] / 2) / share
    points = scale * np.sinh(np.interp((np.arange(SAMPLES) + 0.5) / SAMPLES, passed, np.arcsinh(rest / scale)))
    return np.append(values[known], points), np.append(weights[known], np.full(SAMPLES, share / SAMPLES))
