"""Which law the sharpness of batches follows, from measurements at two or more batch sizes.

    additive:      λ'(B) = λ + N/(Bλ) while λ² > N/B, else 2√(N/B)       N = Pσ²
    Gauss-Newton:  λ'(B) = λ + T/B                                       T ≈ trace of the bulk

Both are fitted in log λ'; the smaller residual names the law, its branch at the smaller batch the regime. Plain SGD can
then use lr up to 2/λ'(B): at most a square root in the additive model (the outlier's own branch gains at most a factor
2), linear in the Gauss-Newton model until B ≈ T/λ. The published linear rule needs the second; see the reference to
Granziol, Zohren and Roberts, JMLR 23 (2022), in `random_matrix`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from .random_matrix import wigner_edge

REGIMES = ("saturated", "spike", "additive bulk", "Gauss-Newton bulk", "undecided")


@dataclass(frozen=True)
class SharpnessLaw:
    """Sharpness of a batch as a function of its size.

    Attributes
    ----------
    model : "additive" or "Gauss-Newton";  top : λ of the full data;  noise : N or T
    residual : root mean square error of log λ';  other : that of the other model
    sizes : smallest and largest measured batch size
    """

    model: str
    top: float
    noise: float
    residual: float
    other: float
    sizes: tuple[float, float]

    def __call__(self, batch_size: float) -> float:
        """Return λ'(B)."""
        return _MODELS[self.model](self.top, self.noise, batch_size)

    def regime(self, batch_size: float) -> str:
        """Return the regime at a batch size: one of REGIMES, "undecided" if neither model fits within 20 %."""
        if self.residual > 0.2:
            return "undecided"
        push = self(batch_size) / self.top - 1 if self.top > 0 else math.inf
        if push <= 0.05:
            return "saturated"
        if self.model == "additive":
            return "spike" if self.top**2 > self.noise / batch_size else "additive bulk"
        return "spike" if push < 1 else "Gauss-Newton bulk"

    def inside(self, batch_size: float) -> bool:
        """Whether a size lies within the measured ones or at most a factor 4 outside them."""
        return self.sizes[0] / 4 <= batch_size <= self.sizes[1] * 4


def _additive(top: float, noise: float, size: float) -> float:
    return wigner_edge(top, math.sqrt(noise / size)).value


def _gauss_newton(top: float, noise: float, size: float) -> float:
    return top + noise / size


_MODELS: dict[str, Callable[[float, float, float], float]] = {"additive": _additive, "Gauss-Newton": _gauss_newton}


def fit_sharpness(measured: Mapping[float, float]) -> SharpnessLaw:
    """Fit both models to λ' measured at two or more batch sizes that span a factor 2 at least (8 is advised).

    Parameters
    ----------
    measured : batch size -> mean top eigenvalue of the Hessian of batches of that size

    Examples
    --------
    >>> law = fit_sharpness({8: 12.5, 32: 5.0, 128: 3.125})               # 2.5 + 80/B
    >>> law.model, round(law.top, 3), round(law.noise, 2), law.regime(8), law.regime(4096)
    ('Gauss-Newton', 2.5, 80.0, 'Gauss-Newton bulk', 'saturated')
    """
    sizes, values = np.array(sorted(measured), float), np.array([measured[b] for b in sorted(measured)], float)
    if len(sizes) < 2 or sizes[-1] < 2 * sizes[0] or not (values > 0).all():
        raise ValueError(f"got {dict(measured)}; expected positive sharpness at batch sizes that span a factor 2")
    fits = {name: _fit(model, sizes, values) for name, model in _MODELS.items()}
    best = min(fits, key=lambda name: fits[name][2])
    (other,) = (name for name in fits if name != best)
    return SharpnessLaw(best, *fits[best], fits[other][2], (float(sizes[0]), float(sizes[-1])))


def _fit(model: Callable, sizes: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Return (λ, noise, rms residual) of the best of several starts."""

    def residuals(logs: np.ndarray) -> list[float]:
        top, noise = np.exp(logs)
        return [math.log(model(top, noise, b) / v) for b, v in zip(sizes, values, strict=True)]

    found = []
    for share in (0.05, 0.3, 0.8, 1.0):  # of the sharpness at the largest batch that is not noise
        top = share * values[-1]
        for noise in (values[0] * sizes[0], values[0] ** 2 * sizes[0] / 4, values[0] * top * sizes[0] / 10):
            found.append(least_squares(residuals, np.log([top, noise]), bounds=(-80, 80)))
    best = min(found, key=lambda fit: fit.cost)
    top, noise = np.exp(best.x)
    return float(top), float(noise), float(np.sqrt(2 * best.cost / len(sizes)))
