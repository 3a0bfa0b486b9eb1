"""Gauss nodes and weights of random probes, and what follows from them: moments, edges, densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from krylearn.solvers.lanczos import Tridiagonal, ritz_pairs
from torch import Tensor

from .deflation import deflated_weights, resolved
from .densities import asinh_density, decade_density, linear_density, quantiles
from .estimates import Density, Edge, Estimate, Extremes
from .intervals import upper_end


@dataclass(frozen=True)
class Spectrum:
    """Gauss nodes and weights of random probes; make it with `slq`. Eigenvalues have the operator's unit.

    Attributes
    ----------
    runs : per probe (alpha, beta, norm of the start, invariant), what everything else follows from; plain arrays
    size : n;  products : products made;  seed : of the probes;  rounding : relative error of a product
    facts : about the operator (kind, samples, method), as far as it tells
    top_vector, bottom_vector : unit Ritz vectors of the extremes, or None

    Examples
    --------
    >>> from krylearn.optim import slq
    >>> s = slq(torch.diag(torch.arange(1.0, 101.0, dtype=torch.float64)), steps=20, probes=4, rng=5)
    >>> s
    Spectrum(n=100, 4 probes x 20 steps, 1.0... to 99.9...)
    >>> top = s.extremes().top
    >>> top.low <= 100 <= top.high
    True
    """

    runs: tuple[tuple[np.ndarray, np.ndarray, float, bool], ...]
    size: int
    products: int
    seed: int
    rounding: float
    facts: dict[str, Any] = field(default_factory=dict)
    top_vector: Tensor | None = field(default=None, repr=False)
    bottom_vector: Tensor | None = field(default=None, repr=False)

    @cached_property
    def _pairs(self) -> list[Any]:
        empty = torch.empty(0)
        return [
            ritz_pairs(Tridiagonal(torch.from_numpy(a), torch.from_numpy(b), empty, size, end))
            for a, b, size, end in self.runs
        ]

    @property
    def probes(self) -> int:
        """Number of probes."""
        return len(self.runs)

    @property
    def nodes(self) -> np.ndarray:
        """Ritz values of all probes, one after another."""
        return np.concatenate([pair.values.numpy() for pair in self._pairs])

    @property
    def weights(self) -> np.ndarray:
        """Quadrature weights of all probes; they sum to 1."""
        return np.concatenate([pair.weights.numpy() for pair in self._pairs]) / self.probes

    @property
    def bounds(self) -> np.ndarray:
        """Residual bound of each node: some eigenvalue lies within it."""
        return np.concatenate([pair.bounds.numpy() for pair in self._pairs])

    @property
    def max(self) -> float:
        """The largest Ritz value: a lower bound of the largest eigenvalue."""
        return float(self.nodes.max())

    @property
    def min(self) -> float:
        """The smallest Ritz value: an upper bound of the smallest eigenvalue."""
        return float(self.nodes.min())

    def __repr__(self) -> str:
        steps = max(len(a) for a, *_ in self.runs)
        return f"Spectrum(n={self.size}, {self.probes} probes x {steps} steps, {self.min:.6g} to {self.max:.6g})"

    @cached_property
    def deflated_weights(self) -> np.ndarray:
        """Weights in which eigenvalues that were found one by one have their exact share 1/n (`deflation`); sum 1."""
        return np.concatenate(self._deflated) / self.probes

    @cached_property
    def _deflated(self) -> list[np.ndarray]:
        return deflated_weights(self._pairs, self.size)

    @cached_property
    def _resolved(self) -> list[np.ndarray]:
        return [resolved(pair) for pair in self._pairs]

    def _measures(self, deflate: bool) -> list[tuple[np.ndarray, np.ndarray]]:
        plain = [pair.weights.numpy() for pair in self._pairs]
        pairs = zip(self._pairs, self._deflated if deflate else plain, strict=True)
        return [(pair.values.numpy(), w) for pair, w in pairs]

    def expectation(self, f: Callable[[np.ndarray], np.ndarray], *, deflate: bool = True) -> Estimate:
        """Return 1/n tr f(A) with its standard error over probes.

        deflate: count the eigenvalues that were found one by one (see `deflated_weights`), which takes their noise
        away; False gives the plain Gauss quadrature of the probes.

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> A = 2 * torch.eye(50, dtype=torch.float64)
        >>> round(slq(A, steps=3, probes=2, rng=1).expectation(np.log2).value, 12)
        1.0
        """
        each = [float(w @ f(values)) for values, w in self._measures(deflate)]
        error = float(np.std(each, ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else math.nan
        return Estimate(float(np.mean(each)), error)

    def moment(self, k: int, *, deflate: bool = True) -> Estimate:
        """Return 1/n tr A^k; without deflation exact in each probe's own measure up to k = 2·steps - 1.

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> slq(3 * torch.eye(40, dtype=torch.float64), steps=2, probes=1, rng=1).moment(2).value
        9.0
        """
        return self.expectation(lambda x: x**k, deflate=deflate)

    def trace(self, *, deflate: bool = True) -> Estimate:
        """Return tr A.

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> slq(3 * torch.eye(40, dtype=torch.float64), steps=2, probes=2, rng=1).trace().value
        120.0
        """
        return Estimate(*(self.size * x for x in self.moment(1, deflate=deflate)))

    def extremes(self, *, level: float = 0.99, tolerance: float = 0.01) -> Extremes:
        """Return the smallest and the largest eigenvalue, each in an interval that holds it with probability `level`.

        Parameters
        ----------
        level : of each interval by itself, over the random probes
        tolerance : an edge counts as converged if its interval is at most this fraction of its value

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> A = torch.diag(torch.cat([torch.ones(60), torch.tensor([9.0])])).double()
        >>> slq(A, steps=5, probes=1, rng=3).extremes().top.converged
        True
        """
        negated = tuple((-a, b, size, end) for a, b, size, end in self.runs)
        # products of saturated networks lose digits: 2000 eps against ARPACK at a loss of 1e-4
        tiny = torch.finfo(torch.float64).tiny  # a zero operator has no interval of zero width either
        slack = max(4096 * self.rounding * max(abs(self.max), abs(self.min)), tiny)
        made = []
        for runs, sign, index, value in ((negated, -1, 0, self.min), (self.runs, 1, -1, self.max)):
            end = sign * upper_end(runs, level) + sign * slack
            low, high = sorted((value - sign * slack, end))
            best = self._pairs[int(np.argmax([sign * float(pair.values[index]) for pair in self._pairs]))]
            done = high - low <= max(tolerance * max(abs(low), abs(high)), 4 * tiny)
            made.append(Edge(value, low, high, float(best.bounds[index]), done, level))
        return Extremes(*made)

    def density(
        self, points: Any = None, *, width: float | None = None, level: float = 0.95, deflate: bool = True
    ) -> Density:
        """Return the density smoothed with Gaussians, and its band over probes.

        The default width is what `steps` nodes can resolve, 2/(m - 1)/√(8 ln 3) of half the range (curvlinops).
        deflate: as for `expectation`.

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> s = slq(torch.diag(torch.linspace(0, 1, 300)).double(), steps=30, probes=4, rng=2)
        >>> d = s.density()
        >>> round(float(np.trapezoid(d.values, d.points)), 2)
        1.0
        """
        return linear_density(self._measures(deflate), points, width, level)

    def log_density(
        self, sign: int = 1, *, width: float = 0.12, decades: float = 8.0, level: float = 0.95, deflate: bool = True
    ) -> Density:
        """Return the density of log10|λ| of the positive (1) or negative (-1) eigenvalues; its integral is their share.

        Parameters
        ----------
        width : of the Gaussians, in decades;  decades : shown below the largest |λ|; what is smaller is left out

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> s = slq(torch.diag(torch.logspace(-4, 0, 200)).double(), steps=60, probes=4, rng=2)
        >>> d = s.log_density()
        >>> round(float(np.trapezoid(d.values, d.points)), 2)
        1.0
        """
        return decade_density(self._measures(deflate), sign, width, decades, level)

    def scaled_density(self, linear: float, points: Any) -> Density:
        """Return the density of asinh(λ/linear) at points: linear around zero, by decades further out."""
        return asinh_density(self._measures(True), self._resolved, linear, np.asarray(points))

    def quantile(self, q: Any) -> np.ndarray:
        """Return the eigenvalues below which the fractions q of all lie: the whole spectrum as a function.

        Eigenvalues that were found one by one stay where they are, the rest is interpolated (`densities`):
        nearer to the true spectrum, in the Wasserstein distance, than the nodes are (`krylearn study curvature`).

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> s = slq(torch.diag(torch.linspace(0, 1, 1001)).double(), steps=30, probes=2, rng=2)
        >>> round(float(s.quantile(0.5)), 1)
        0.5
        """
        return quantiles(self._measures(True), self._resolved, np.asarray(q))

    def plot(self, ax: Any = None, *, log: bool = False) -> Any:
        """Draw the density with its band, the converged edges marked; needs Matplotlib. Returns the Axes.

        log=True draws density per decade of |λ|, negative eigenvalues apart.
        """
        from .plots import plot_spectrum

        return plot_spectrum(self, ax, log=log)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors that `torch.save` keeps and `Spectrum.from_state_dict` reads.

        Examples
        --------
        >>> from krylearn.optim import slq
        >>> s = slq(torch.eye(5, dtype=torch.float64), steps=2, probes=1, rng=1)
        >>> Spectrum.from_state_dict(s.state_dict()).max == s.max
        True
        """
        runs = [[torch.from_numpy(a), torch.from_numpy(b), size, end] for a, b, size, end in self.runs]
        keys = ("size", "products", "seed", "rounding", "facts", "top_vector", "bottom_vector")
        return {"runs": runs, **{key: getattr(self, key) for key in keys}}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Spectrum:
        """Return the spectrum that `state_dict` described."""
        runs = tuple((a.numpy(), b.numpy(), float(size), bool(end)) for a, b, size, end in state["runs"])
        return cls(**{**state, "runs": runs})
