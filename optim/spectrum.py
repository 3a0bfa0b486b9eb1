"""The spectrum of a symmetric operator by stochastic Lanczos quadrature, with error bars.

    μ = 1/n Σᵢ δ(λᵢ)  ≈  1/k Σᵥ Σⱼ wᵥⱼ δ(θᵥⱼ)

θ, w are the Gauss nodes and weights of probe v: exact for polynomials up to degree 2·steps - 1 of the probe's own
measure, whose mean over probes is μ. Three kinds of error, kept apart: residual bounds (Lanczos stopped early), spread
over probes (few random vectors), and intervals for the edges that hold with a stated probability (`intervals`). What
another batch would give is a fourth one: see `noise`.

Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38 (2017); Chen, Trogdon and Ubaru, arXiv 2105.06595.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from krylearn.solvers.lanczos import Tridiagonal, ritz_pairs
from scipy.stats import t as student
from torch import Tensor

from .intervals import upper_end
from .probes import Storage, tridiagonalize_probes
from .progress import watch


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
    def probe(self) -> np.ndarray:
        """Number of the probe that each node belongs to."""
        return np.repeat(np.arange(self.probes), [len(pair.values) for pair in self._pairs])

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

    def expectation(self, f: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Return 1/n tr f(A) with its standard error over probes.

        Examples
        --------
        >>> A = 2 * torch.eye(50, dtype=torch.float64)
        >>> round(slq(A, steps=3, probes=2, rng=1).expectation(np.log2).value, 12)
        1.0
        """
        each = [float(pair.weights.numpy() @ f(pair.values.numpy())) for pair in self._pairs]
        error = float(np.std(each, ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else math.nan
        return Estimate(float(np.mean(each)), error)

    def moment(self, k: int) -> Estimate:
        """Return 1/n tr A^k; for one probe exact in the probe's measure up to k = 2·steps - 1.

        Examples
        --------
        >>> slq(3 * torch.eye(40, dtype=torch.float64), steps=2, probes=1, rng=1).moment(2).value
        9.0
        """
        return self.expectation(lambda x: x**k)

    def trace(self) -> Estimate:
        """Return tr A.

        Examples
        --------
        >>> slq(3 * torch.eye(40, dtype=torch.float64), steps=2, probes=2, rng=1).trace().value
        120.0
        """
        return Estimate(*(self.size * x for x in self.moment(1)))

    def extremes(self, *, level: float = 0.99, tolerance: float = 0.01) -> Extremes:
        """Return the smallest and the largest eigenvalue, each in an interval that holds it with probability `level`.

        Parameters
        ----------
        level : of each interval by itself, over the random probes
        tolerance : an edge counts as converged if its interval is at most this fraction of its value

        Examples
        --------
        >>> A = torch.diag(torch.cat([torch.ones(60), torch.tensor([9.0])])).double()
        >>> slq(A, steps=5, probes=1, rng=3).extremes().top.converged
        True
        """
        negated = tuple((-a, b, size, end) for a, b, size, end in self.runs)
        # products of saturated networks lose digits: 2000 eps against ARPACK at a loss of 1e-4
        slack = 4096 * self.rounding * max(abs(self.max), abs(self.min))
        made = []
        for runs, sign, index, value in ((negated, -1, 0, self.min), (self.runs, 1, -1, self.max)):
            end = sign * upper_end(runs, level) + sign * slack
            low, high = sorted((value - sign * slack, end))
            best = self._pairs[int(np.argmax([sign * float(pair.values[index]) for pair in self._pairs]))]
            done = high - low <= tolerance * max(abs(low), abs(high))
            made.append(Edge(value, low, high, float(best.bounds[index]), done, level))
        return Extremes(*made)

    def density(self, points: Any = None, *, width: float | None = None, level: float = 0.95) -> Density:
        """Return the density smoothed with Gaussians, and its band over probes.

        The default width is what `steps` nodes can resolve, 2/(m - 1)/√(8 ln 3) of half the range (curvlinops).

        Examples
        --------
        >>> s = slq(torch.diag(torch.linspace(0, 1, 300)).double(), steps=30, probes=4, rng=2)
        >>> d = s.density()
        >>> round(float(np.trapezoid(d.values, d.points)), 2)
        1.0
        """
        steps = max(len(a) for a, *_ in self.runs)
        half = (self.max - self.min) / 2 or abs(self.max) or 1.0
        width = width or half * 2 / max(steps - 1, 1) / math.sqrt(8 * math.log(3))
        x = np.linspace(self.min - 5 * width, self.max + 5 * width, 1024) if points is None else np.asarray(points)
        return self._smooth(x, lambda theta: theta, width, level)

    def log_density(self, sign: int = 1, *, width: float = 0.12, decades: float = 8.0, level: float = 0.95) -> Density:
        """Return the density of log10|λ| of the positive (1) or negative (-1) eigenvalues; its integral is their share.

        Parameters
        ----------
        width : of the Gaussians, in decades;  decades : shown below the largest |λ|; what is smaller is left out

        Examples
        --------
        >>> s = slq(torch.diag(torch.logspace(-4, 0, 200)).double(), steps=60, probes=4, rng=2)
        >>> d = s.log_density()
        >>> round(float(np.trapezoid(d.values, d.points)), 2)
        1.0
        """
        top = math.log10(max(abs(self.max), abs(self.min)) or 1.0)
        x = np.linspace(top - decades, top + 5 * width, 1024)

        def place(theta: np.ndarray) -> np.ndarray:
            return np.log10(np.where(sign * theta > 0, np.abs(theta), 1e-300))

        return self._smooth(x, place, width, level)

    def _smooth(self, x: np.ndarray, place: Callable, width: float, level: float) -> Density:
        curves = []
        for pair in self._pairs:
            z = (x[:, None] - place(pair.values.numpy())[None]) / width
            curves.append(np.exp(-z * z / 2) @ pair.weights.numpy() / (width * math.sqrt(2 * math.pi)))
        mean, k = np.mean(curves, 0), len(curves)
        if k == 1:
            return Density(x, mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan), width)
        half = student.ppf((1 + level) / 2, k - 1) * np.std(curves, 0, ddof=1) / math.sqrt(k)
        return Density(x, mean, np.maximum(mean - half, 0), mean + half, width)

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


def slq(
    A: Any,
    *,
    steps: int = 80,
    probes: int = 4,
    rng: int | torch.Generator | None = None,
    size: int | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    vectors: bool = False,
    storage: Storage = None,
    progress: bool | None = None,
) -> Spectrum:
    """Estimate the spectrum of a symmetric operator by stochastic Lanczos quadrature; steps · probes products.

    Memory: steps · probes · n numbers for the bases. Densities want 80 x 4 and more, edges 30 x 1.

    Parameters
    ----------
    A : a `Curvature`, a dense tensor, or a callable or operator with `@` on vectors (then pass size)
    steps, probes : int >= 1; Lanczos steps of each probe; random Gaussian probes, all advanced together
    rng : seed, generator (one number is drawn) or None for a fresh seed; the result keeps it. With several ranks the
        first one's seed holds on all
    size, dtype, device : of the vectors, where A does not tell
    vectors : also return the Ritz vectors of both extremes
    storage : dtype ("bf16") or device ("cpu") of the bases, for large models
    progress : bar on standard error: always, never, or (None) if it takes long on a terminal

    Returns
    -------
    Spectrum : nodes, weights, residual bounds, spread over probes, extremes with intervals

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 10.0], dtype=torch.float64))
    >>> round(slq(A, steps=3, probes=1).max, 6)
    10.0
    """
    if steps < 1 or probes < 1:
        raise ValueError(f"got steps={steps}, probes={probes}; expected integers >= 1")
    n, dtype, device = _face(A, size, dtype, device)
    seed = _seed(rng, getattr(A, "group", None), device)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same probes on every device
    starts = torch.randn(probes, n, generator=generator, dtype=torch.float64).to(device, dtype)
    runs = tridiagonalize_probes(_rows(A), starts, steps, storage=storage, watch=watch("Lanczos", progress))
    facts = {key: getattr(A, key) for key in ("kind", "samples", "method") if hasattr(A, key)}
    plain = tuple((T.alpha.numpy(), T.beta.numpy(), T.start_norm, T.complete) for T in runs)
    bottom, top = _extreme_vectors(runs) if vectors else (None, None)
    return Spectrum(plain, n, sum(len(a) for a, *_ in plain), seed, _rounding(A, dtype), facts, top, bottom)


def _face(A: Any, size: int | None, dtype: torch.dtype | None, device: Any) -> tuple[int, torch.dtype, Any]:
    """Return n, dtype and device of the vectors that A takes."""
    n = size if size is not None else (A.shape[0] if hasattr(A, "shape") else None)
    if n is None:
        raise ValueError(f"{type(A).__name__} does not tell its size; pass size=n (and dtype, device if they matter)")
    own = getattr(A, "torch_dtype", getattr(A, "dtype", None))
    dtype = dtype or (own if isinstance(own, torch.dtype) else torch.float64)
    return int(n), dtype, device or getattr(A, "device", torch.device("cpu"))


def _rows(A: Any) -> Callable[[Tensor], Tensor]:
    """Return A as a map of rows (k, n)."""
    if isinstance(A, Tensor):
        return lambda q: q @ A
    if hasattr(A, "chunk_product"):
        return A
    apply = A if callable(A) else A.__matmul__
    return lambda q: torch.stack([torch.as_tensor(apply(v)) for v in q])


def _seed(rng: int | torch.Generator | None, group: Any, device: Any) -> int:
    if rng is None:
        seed = torch.Generator().seed() % 2**63
    else:
        seed = int(torch.randint(2**62, (), generator=rng)) if isinstance(rng, torch.Generator) else int(rng)
    if group is not None:
        shared = torch.tensor(seed, dtype=torch.int64, device=device)
        dist.broadcast(shared, src=dist.get_global_rank(group, 0), group=group)
        seed = int(shared)
    return seed


def _rounding(A: Any, dtype: torch.dtype) -> float:
    """Return the relative error of a product: differences lose a third of the digits."""
    eps = float(torch.finfo(dtype).eps)
    return eps ** (2 / 3) if getattr(A, "method", None) == "finite-differences" else eps


def _extreme_vectors(runs: list[Tridiagonal]) -> tuple[Tensor, Tensor]:
    """Return the unit Ritz vectors of the smallest and the largest Ritz value of all probes."""
    found = []
    for sign in (-1, 1):
        solved = [torch.linalg.eigh(sign * T.matrix()) for T in runs]
        i = int(np.argmax([float(values[-1]) for values, _ in solved]))
        basis, s = runs[i].basis, solved[i][1][:, -1]
        y = sum(float(c) * row.to(torch.float64) for c, row in zip(s, basis, strict=True))
        found.append((y / torch.linalg.vector_norm(y)).to(basis.dtype))
    return found[0], found[1]
