"""How noisy gradients and curvature of a batch are: what a batch size buys.

gₛ: gradient of a micro-batch of s samples, n of them, mean ḡ. With S = mean‖gₛ‖², B = ‖ḡ‖²

    tr Σ = s·n/(n-1)·(S - B),   ‖g‖² = (n·B - S)/(n-1),   noise scale B_n = tr Σ/‖g‖²       (samples)

are unbiased, their ratio is not: average both over time, then divide (McCandlish et al.,
arXiv 1812.06162). The same with products instead of gradients, z a random unit vector, gives the noise of the Hessian:

    Pσ² = s·n/(n-1)·(mean‖Hᵢz‖² - ‖mean Hᵢz‖²),     since E‖Az‖² = ‖A‖²_F/P
    q₁  = s·n/(n-1)·mean‖rᵢ - r̄‖²,  rᵢ = Hᵢv - (vᵀHᵢv)v:   the top eigenvalue of a batch is about λ + q₁/(Bλ)

(second-order perturbation, no random matrix theory). v must come from other samples than the Hᵢ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..curvature.network import FrozenNetwork
from ..curvature.operator import Curvature
from ..curvature.products import gradient


class NoiseScale(NamedTuple):
    """Gradient noise: scale = trace/signal in samples (infinite if no signal is seen), tr Σ, ‖g‖², samples used."""

    scale: float
    trace: float
    signal: float
    samples: int


class HessianNoise(NamedTuple):
    """Noise of one sample's Hessian: total = Pσ², along = q₁ or NaN, both samples·(loss/parameter²)², samples used."""

    total: float
    along: float
    samples: int


def noise_estimates(small: float, small_square: float, big: float, big_square: float) -> tuple[float, float]:
    """Return (‖g‖², tr Σ) from mean squared gradient norms at two batch sizes; unbiased, so either may be negative.

    Examples
    --------
    >>> noise_estimates(1, 10.0, 4, 4.0)                     # ‖g‖² + 8/1 = 10, ‖g‖² + 8/4 = 4
    (2.0, 8.0)
    """
    if not 0 < small < big:
        raise ValueError(f"got batch sizes {small} and {big}; expected 0 < small < big")
    signal = (big * big_square - small * small_square) / (big - small)
    return signal, (small_square - big_square) / (1 / small - 1 / big)


class GradientNoise:
    """Running noise scale during training: exponential means of ‖g‖² and tr Σ, divided only when asked for.

    Parameters
    ----------
    decay : of the means per update; both are corrected for their start

    Examples
    --------
    >>> noise = GradientNoise(decay=0.5)
    >>> for small_square in (9.0, 11.0):
    ...     noise.update(1, small_square, 4, 4.0)
    >>> round(noise.scale, 3)
    4.471
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"got decay={decay}; expected 0 <= decay < 1")
        self.decay, self.updates, self._signal, self._trace = decay, 0, 0.0, 0.0

    def update(self, small: float, small_square: float, big: float, big_square: float) -> None:
        """Take mean squared gradient norms at two batch sizes; what is not finite (skipped steps) is left out."""
        signal, trace = noise_estimates(small, small_square, big, big_square)
        if math.isfinite(signal) and math.isfinite(trace):
            self._signal = self.decay * self._signal + (1 - self.decay) * signal
            self._trace = self.decay * self._trace + (1 - self.decay) * trace
            self.updates += 1

    @property
    def signal(self) -> float:
        """Mean of ‖g‖², NaN before the first update."""
        return self._signal / (1 - self.decay**self.updates) if self.updates else math.nan

    @property
    def trace(self) -> float:
        """Mean of tr Σ, NaN before the first update."""
        return self._trace / (1 - self.decay**self.updates) if self.updates else math.nan

    @property
    def scale(self) -> float:
        """Noise scale in samples: NaN before the first update, infinite if no signal is left."""
        return _ratio(self.trace, self.signal)

    def state_dict(self) -> dict[str, float]:
        """Return plain numbers."""
        return {"decay": self.decay, "updates": self.updates, "signal": self._signal, "trace": self._trace}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue where `state_dict` was taken."""
        self.decay, self.updates = float(state["decay"]), int(state["updates"])
        self._signal, self._trace = float(state["signal"]), float(state["trace"])


def _ratio(trace: float, signal: float) -> float:
    if math.isnan(trace) or math.isnan(signal):
        return math.nan
    return max(trace, 0.0) / signal if signal > 0 else math.inf


def gradient_noise_scale(
    model: nn.Module, loss: Callable | None, batch: Any, *, micro_batch: int, group: Any = None, **options: Any
) -> NoiseScale:
    """Measure the noise scale on a batch that is cut into micro-batches; on one worker or several.

    Parameters
    ----------
    model, loss, batch : as for `hessian`, also its options (BatchNorm wants batchnorm="running" or "ghost")
    micro_batch : samples per micro-batch; an incomplete last one is left out. At least two are needed, over all ranks
    group : process group whose ranks hold different samples

    Returns
    -------
    NoiseScale : scale in samples, tr Σ, ‖g‖², samples

    Examples
    --------
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> x, y = torch.ones(4, 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]])           # gradients -2, -4, -6, -8
    >>> [round(value, 4) for value in gradient_noise_scale(model, nn.functional.mse_loss, (x, y), micro_batch=1)]
    [0.2857, 6.6667, 23.3333, 4]
    """
    net = FrozenNetwork(model, loss, batch, micro_batch=micro_batch, **options)
    total = torch.zeros(net.size, dtype=torch.float64, device=net.device)
    sums = torch.zeros(2, dtype=torch.float64, device=net.device)  # number, Σ‖gᵢ‖²
    for chunk in net.chunks:
        if chunk.samples == micro_batch:
            g = gradient(net, chunk)[1].double()
            total += g
            sums += torch.stack([torch.ones_like(sums[0]), g @ g])
    _reduce(group, total, sums)
    n, squares = float(sums[0]), float(sums[1])
    _at_least_two(n, micro_batch)
    signal, trace = noise_estimates(micro_batch, squares / n, n * micro_batch, float(total @ total) / n**2)
    return NoiseScale(_ratio(trace, signal), trace, signal, int(n) * micro_batch)


def hessian_noise(
    H: Curvature, *, direction: Tensor | None = None, probes: int = 2, rng: int | torch.Generator = 0
) -> HessianNoise:
    """Measure the noise of a curvature operator that was made with `micro_batch`; n products per probe and direction.

    Parameters
    ----------
    H : Curvature with at least two micro-batches (32 and more for 20 %); preconditioned ones too
    direction : unit eigenvector from other samples, for q₁
    probes : random directions for Pσ²;  rng : seed or generator

    Examples
    --------
    >>> from krylearn.optim import hessian
    >>> model, x = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    >>> H = hessian(model, nn.functional.mse_loss, (x, x), micro_batch=1)              # Hessians 2, 8, 18, 32
    >>> noise = hessian_noise(H)
    >>> round(noise.total, 2), noise.samples                                           # their variance
    (172.0, 4)
    """
    size, n = H.net.chunks[0].samples, H.shape[0]
    generator = rng if isinstance(rng, torch.Generator) else torch.Generator().manual_seed(rng)
    z = torch.randn(probes, n, generator=generator, dtype=torch.float64).to(H.device, H.torch_dtype)
    results = [_variance(H, row / torch.linalg.vector_norm(row), project=False) for row in z]
    along, count = math.nan, results[0][1]
    if direction is not None:
        along = _variance(H, direction.to(H.device, H.torch_dtype), project=True)[0]
    return HessianNoise(sum(value for value, _ in results) / probes, along, count * size)


def _variance(H: Curvature, v: Tensor, *, project: bool) -> tuple[float, int]:
    """Return s·n/(n-1)·mean‖Hᵢv - mean‖² over full micro-batches of all ranks, and n."""
    size = H.net.chunks[0].samples
    total = torch.zeros(H.shape[0], dtype=torch.float64, device=H.device)
    sums = torch.zeros(2, dtype=torch.float64, device=H.device)
    for chunk in H.net.chunks:
        if chunk.samples == size:
            w = H.chunk_product(chunk, v).double()
            if project:
                w = w - (w @ v.double()) * v.double()
            total += w
            sums += torch.stack([torch.ones_like(sums[0]), w @ w])
    _reduce(H.group, total, sums)
    n = float(sums[0])
    _at_least_two(n, size)
    return size * float(sums[1] - total @ total / n) / (n - 1), int(n)


def _reduce(group: Any, *values: Tensor) -> None:
    if group is not None:
        for value in values:
            dist.all_reduce(value, group=group)


def _at_least_two(n: float, size: int) -> None:
    if n < 2:
        raise ValueError(f"got {int(n)} full micro-batches of {size}; expected at least 2: pass a smaller micro_batch")
