"""Where the largest eigenvalue can be, given what Lanczos saw from random start vectors.

A Ritz value is never above λ₁, which is the lower end. The upper end: let x be the start vector, a Gaussian, and
p₀, p₁, …, pₘ the orthonormal polynomials of its Lanczos run (three-term recurrence with α, β). Every spectral measure
that agrees with the run has at a point μ at most the mass 1/Σⱼ pⱼ(μ)² (the Christoffel function: the least ∫q² of a
polynomial q of degree m with q(μ) = 1). The eigenvector of λ₁ has mass (x·v₁)²/‖x‖², and (x·v₁)² is chi-square with one
degree of freedom. So with k probes, with probability `level`,

    Σᵢ ‖xᵢ‖² / Σⱼ pᵢⱼ(λ₁)²  >=  the (1 - level) quantile of chi-square with k degrees of freedom,

and the left side falls as λ₁ moves away from the Ritz values: the largest μ that satisfies this is the upper end. No
gap is assumed, no constant is fitted; it holds at every step for every spectrum. Christoffel function: Szegő,
Orthogonal Polynomials (1939), section 3.4; probabilistic bounds of this kind: Kuczyński and Woźniakowski, SIAM J.
Matrix Anal. Appl. 13 (1992), van Dorsselaer, Hochstenbach and van der Vorst, SIAM J. Matrix Anal. Appl. 22 (2001).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2


def christoffel(alpha: np.ndarray, beta: np.ndarray, mu: float) -> float:
    """Return 1/Σⱼ pⱼ(μ)², j = 0 … m: the most mass that the measure of the run can have at μ.

    Examples
    --------
    >>> round(christoffel(np.array([0.0]), np.array([1.0]), 1.0), 6)       # weights 1/2 at ±1
    0.5
    """
    total, before, p, last = 1.0, 0.0, 1.0, 0.0
    for a, b in zip(alpha, beta, strict=True):
        before, p, last = p, ((mu - a) * p - last * before) / b, b
        total += p * p
        if total > 1e60:
            return 0.0
    return float(1.0 / total)


def upper_end(runs: Sequence[tuple[np.ndarray, np.ndarray, float, bool]], level: float) -> float:
    """Return the largest μ at which an eigenvalue could have been missed so far, with probability `level`.

    Parameters
    ----------
    runs : per probe (alpha, beta, norm of the Gaussian start, invariant); an invariant subspace misses nothing
    level : probability in (0, 1)

    Examples
    --------
    >>> upper_end([(np.array([2.0]), np.array([0.0]), 1.0, True)], 0.95)
    2.0
    """
    if not 0 < level < 1:
        raise ValueError(f"got level={level}; expected a probability between 0 and 1")
    top = max(_largest(alpha, beta) for alpha, beta, *_ in runs)
    open_runs = [run for run in runs if not run[3]]
    quantile = chi2.ppf(1 - level, len(runs))

    def possible(mu: float) -> bool:
        return sum(size**2 * christoffel(a, b, mu) for a, b, size, _ in open_runs) >= quantile

    scale = max(float(np.abs(a).max() + b.max()) for a, b, *_ in runs)
    if not open_runs or scale == 0 or not possible(top):
        return top
    step = 1e-12 * scale
    while possible(top + step):
        step *= 2
    low, high = top + step / 2 if step > 1e-12 * scale else top, top + step
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if possible(middle) else (low, middle)
    return high


def _largest(alpha: np.ndarray, beta: np.ndarray) -> float:
    off = beta[:-1]
    return float(np.linalg.eigvalsh(np.diag(alpha) + np.diag(off, 1) + np.diag(off, -1))[-1])
