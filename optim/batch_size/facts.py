"""What a scaling rule is told and what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..batch_noise.sharpness_laws import SharpnessLaw


@dataclass(frozen=True)
class Facts:
    """What a rule may know.

    Attributes
    ----------
    old_batch, new_batch : samples per optimizer step, all devices and accumulated micro-batches together
    noise_scale : gradient noise scale in samples, or None;  sharpness : a fitted law (`fit_sharpness`), or None
    adaptive : the optimizer divides by second moments;  decoupled : weight decay is not part of the gradient
    measured : whether the study behind `auto` has measured this kind of optimizer (SGD, Adam, AdamW)
    betas, eps_rules : its betas;  whether ε exceeds √v̂ for most parameters (None: unknown)

    Examples
    --------
    >>> Facts(128, 512).ratio
    4.0
    """

    old_batch: float
    new_batch: float
    noise_scale: float | None = None
    sharpness: SharpnessLaw | None = None
    adaptive: bool = False
    decoupled: bool = False
    betas: tuple[float, float] | None = None
    eps_rules: bool | None = None
    measured: bool = True

    def __post_init__(self) -> None:
        if not (self.old_batch > 0 and self.new_batch > 0):
            raise ValueError(f"got batch sizes {self.old_batch} and {self.new_batch}; expected positive numbers")
        if self.noise_scale is not None and not self.noise_scale > 0:
            raise ValueError(f"got noise_scale={self.noise_scale}; expected a positive number of samples or None")

    @property
    def ratio(self) -> float:
        """κ."""
        return self.new_batch / self.old_batch

    @property
    def gain(self) -> float | None:
        """(1 + B_n/B₀)/(1 + B_n/B), κ for an infinite noise scale, or None if that is not known."""
        if self.noise_scale is None:
            return None
        if math.isinf(self.noise_scale):
            return self.ratio
        return (1 + self.noise_scale / self.old_batch) / (1 + self.noise_scale / self.new_batch)


@dataclass(frozen=True)
class Change:
    """Factors: lr, 1-β₁ (SGD: 1 - momentum), 1-β₂, ε, weight decay; the power of β₂; samples of warm-up and schedule.

    valid : True, False, or None if that cannot be told;  why : in words
    """

    lr: float = 1.0
    one_minus_beta1: float = 1.0
    one_minus_beta2: float = 1.0
    beta2_power: float = 1.0
    eps: float = 1.0
    weight_decay: float = 1.0
    warmup: float = 1.0
    schedule: float = 1.0
    valid: bool | None = None
    why: str = ""


Rule = Callable[[Facts], Change]
