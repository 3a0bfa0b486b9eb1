"""Extreme eigenvalues of a batch's curvature from those of the full data: two laws of random matrix theory.

Additive (deformed Wigner), s² = Pσ²/b:   λ' = λ + s²/λ if λ > s (the spike survives), else 2s (the bulk's edge).
Gauss-Newton (spiked covariance), γ = P_eff/B:   λ' = λ(1 + γ s²/(λ - s²)) if λ > s²(1 + √γ), else s²(1 + √γ)².

Both are continuous at their thresholds, and neither branch is used beyond its own. Squared overlap of the batch's and
the true eigenvector: 1 - s²/λ², and (1 - γ/(ℓ-1)²)/(1 + γ/(ℓ-1)) with ℓ = λ/s²; 0 below the threshold.

Benaych-Georges and Nadakuditi, Adv. Math. 227 (2011); Baik and Silverstein, J. Multivariate Anal. 97 (2006); Paul,
Statistica Sinica 17 (2007). Use for batch size: Granziol, Zohren and Roberts, JMLR 23 (2022). Both need many parameters
and noise of one size in all directions; measured spectra depart from them, so prefer a measurement where there is one.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple


class Regime(Enum):
    """What sets the extreme eigenvalue of a batch."""

    SATURATED = "the full data's eigenvalue, noise changes it by less than 5 %"
    SPIKE = "the full data's eigenvalue, pushed outwards by noise"
    BULK = "the edge of the noise; the full data's eigenvalue has drowned in it"


class BatchEdge(NamedTuple):
    """An extreme eigenvalue of a batch, its regime, and the squared overlap with the full data's eigenvector."""

    value: float
    regime: Regime
    overlap: float


def effective_batch(batch_size: float, population: float | None = None) -> float:
    """Return b = B/(1 - B/N) for batches drawn without replacement from N samples; infinite for the whole set.

    Examples
    --------
    >>> effective_batch(50, 100), effective_batch(50)
    (100.0, 50.0)
    """
    if batch_size <= 0 or (population is not None and batch_size > population):
        raise ValueError(f"got batch_size={batch_size} of {population}; expected 0 < batch_size <= population")
    if population is None:
        return float(batch_size)
    return math.inf if batch_size == population else batch_size / (1 - batch_size / population)


def wigner_edge(eigenvalue: float, noise: float) -> BatchEdge:
    """Return where additive noise of half-radius `noise` = √(Pσ²/b) puts an extreme eigenvalue; negative: the bottom.

    Examples
    --------
    >>> wigner_edge(2.0, 1.0)[0], wigner_edge(-2.0, 1.0)[0], wigner_edge(0.5, 1.0)[0]
    (2.5, -2.5, 2.0)
    """
    if noise < 0:
        raise ValueError(f"got noise={noise}; expected >= 0")
    sign, size = (1.0, eigenvalue) if eigenvalue >= 0 else (-1.0, -eigenvalue)
    if size <= noise:
        return BatchEdge(sign * 2 * noise, Regime.BULK, 0.0)
    shift = noise**2 / size
    regime = Regime.SATURATED if shift <= 0.05 * size else Regime.SPIKE
    return BatchEdge(sign * (size + shift), regime, 1 - shift / size)


def wishart_edge(eigenvalue: float, bulk: float, gamma: float) -> BatchEdge:
    """Return a batch's top Gauss-Newton eigenvalue; bulk = s_g², gamma = effective bulk directions / samples.

    Examples
    --------
    >>> wishart_edge(3.0, 1.0, 1.0)[0], wishart_edge(1.5, 1.0, 1.0)[0]
    (4.5, 4.0)
    """
    if bulk < 0 or gamma < 0 or eigenvalue < 0:
        raise ValueError(f"got eigenvalue={eigenvalue}, bulk={bulk}, gamma={gamma}; expected >= 0")
    if eigenvalue <= bulk * (1 + math.sqrt(gamma)):
        return BatchEdge(bulk * (1 + math.sqrt(gamma)) ** 2, Regime.BULK, 0.0)
    above = eigenvalue - bulk
    push = gamma * bulk / above
    regime = Regime.SATURATED if push <= 0.05 else Regime.SPIKE
    return BatchEdge(eigenvalue * (1 + push), regime, (1 - gamma * (bulk / above) ** 2) / (1 + push))


def deconvolve(batch_eigenvalue: float, noise: float) -> float:
    """Return the full data's eigenvalue behind a batch's one, as `wigner_edge` inverted; NaN: drowned, raise the batch.

    λ = (λ' + √(λ'² - 4s²))/2 for |λ'| > 2s. With s² = q₁/b, q₁ the noise along the eigenvector, isotropy is not needed.

    Examples
    --------
    >>> deconvolve(2.5, 1.0), deconvolve(-2.5, 1.0), deconvolve(1.9, 1.0)
    (2.0, -2.0, nan)
    """
    inside = batch_eigenvalue**2 - 4 * noise**2
    if inside <= 0:
        return math.nan
    return math.copysign((abs(batch_eigenvalue) + math.sqrt(inside)) / 2, batch_eigenvalue)


def batch_extremes(
    bottom: float, top: float, noise: float, batch_size: float, *, population: float | None = None
) -> tuple[BatchEdge, BatchEdge]:
    """Return smallest and largest eigenvalue of the Hessian of a batch of any size, each with its regime.

    Parameters
    ----------
    bottom, top : extreme eigenvalues of the full data's Hessian (`deconvolve` gives them from a batch's)
    noise : Pσ², total noise per sample (`hessian_noise`)
    batch_size, population : B, and N if batches are drawn without replacement from a finite set

    Examples
    --------
    >>> low, high = batch_extremes(-0.1, 5.0, 64.0, 16)
    >>> low.value, low.regime.name, high.value, high.regime.name
    (-4.0, 'BULK', 5.8, 'SPIKE')
    """
    s = math.sqrt(noise / effective_batch(batch_size, population))
    low = wigner_edge(min(bottom, -0.0), s) if bottom < 0 else BatchEdge(-2 * s, Regime.BULK, 0.0)
    high = wigner_edge(max(top, 0.0), s)
    return low, high
