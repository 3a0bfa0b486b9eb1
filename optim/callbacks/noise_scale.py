"""A Lightning callback that logs the gradient noise scale, and what the batch size of a Trainer's step is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..batch_noise.noise import GradientNoise
from .lightning_names import Callback, LightningModule, Trainer


def effective_batch_size(trainer: Trainer) -> int:
    """Return samples per optimizer step: of the training loader, times accumulated batches, times devices.

    Examples
    --------
    >>> from types import SimpleNamespace as Fake
    >>> loader = torch.utils.data.DataLoader(range(8), batch_size=4)
    >>> effective_batch_size(Fake(train_dataloader=loader, accumulate_grad_batches=2, world_size=3))
    24
    """
    loader = trainer.train_dataloader
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not isinstance(size, int):
        raise ValueError(f"{type(loader).__name__} does not tell its batch size; pass batch_size=callable(trainer)")
    return size * trainer.accumulate_grad_batches * trainer.world_size


class NoiseScaleMonitor(Callback):
    """Log the gradient noise scale, in samples, without extra gradients; on one device or several.

    With accumulation the gradients of micro-batches are compared with the step's; without, the gradients of two
    consecutive steps with their mean, which takes the motion of the parameters for noise (small at small lr). Memory:
    one copy of the gradients. Gradients are read unscaled and before clipping.

    Parameters
    ----------
    decay : of the running means;  every : steps between two measurements, each a synchronisation on a GPU
    name : under which it is logged;  batch_size : function of the trainer, where the loader does not tell

    Examples
    --------
    >>> NoiseScaleMonitor(decay=0.9).state_dict()["noise"]["updates"]
    0
    """

    def __init__(
        self,
        decay: float = 0.99,
        *,
        every: int = 1,
        name: str = "noise_scale",
        batch_size: Callable[[Trainer], int] = effective_batch_size,
    ) -> None:
        self.noise, self.every, self.name, self._batch_size = GradientNoise(decay), every, name, batch_size
        self._before: list[Tensor | None] | None = None
        self._squares: list[float] = []
        self._steps = self._micro = 0

    @property
    def state_key(self) -> str:
        """Name of the state in checkpoints."""
        return self._generate_state_key(name=self.name)

    @property
    def scale(self) -> float:
        """The noise scale so far."""
        return self.noise.scale

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the gradient of a micro-batch that is not the step's last: devices have not yet averaged it."""
        count = trainer.accumulate_grad_batches
        if count < 2 or not pl_module.automatic_optimization or self._steps % self.every:
            return
        now = _gradients(trainer.optimizers[0])
        scale = count / _loss_scale(trainer)  # accumulated losses are divided by their number
        self._micro += 1
        if self._micro < count:
            before = self._before or [None] * len(now)
            new = [g if b is None else g - b for g, b in zip(now, before, strict=False) if g is not None]
            self._squares.append(scale**2 * _square(new))
            self._before = _copies(now)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Compare with the step's gradient."""
        if (
            optimizer is not trainer.optimizers[0]
            and getattr(optimizer, "optimizer", None) is not trainer.optimizers[0]
        ):
            return
        now, size = _gradients(optimizer), self._batch_size(trainer)
        accumulated = trainer.accumulate_grad_batches > 1 and pl_module.automatic_optimization
        if accumulated:
            if self._micro == trainer.accumulate_grad_batches:  # an epoch's last step may have fewer
                small = size / trainer.accumulate_grad_batches / trainer.world_size
                mean = _mean_over_ranks(sum(self._squares) / len(self._squares), pl_module.device)
                self.noise.update(small, mean, size, _square([g for g in now if g is not None]))
            self._squares, self._before, self._micro = [], None, 0
        elif self._before is not None:
            pairs = [(g, b) for g, b in zip(now, self._before, strict=False) if g is not None and b is not None]
            self._before = None  # parameters that had a gradient in one of the two steps only tell nothing
            if pairs:
                one, other = ([pair[k] for pair in pairs] for k in (0, 1))
                both = [(g + b) / 2 for g, b in pairs]
                self.noise.update(size, (_square(one) + _square(other)) / 2, 2 * size, _square(both))
        elif self._steps % max(self.every, 2) == 0:
            self._before = _copies(now)
        self._steps += 1
        if math.isfinite(self.noise.scale):
            pl_module.log(self.name, self.noise.scale)

    def state_dict(self) -> dict[str, Any]:
        """Return the running means, and the last gradient if the next step needs it."""
        return {"noise": self.noise.state_dict(), "steps": self._steps, "before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.noise.load_state_dict(state_dict["noise"])
        self._steps, self._before = state_dict["steps"], state_dict["before"]


def _gradients(optimizer: Any) -> list[Tensor | None]:
    """Return the gradient of every parameter, None where it has none now: frozen, skipped, not yet thawed."""
    owned = (p for group in optimizer.param_groups for p in group["params"])
    return [None if p.grad is None else p.grad.detach() for p in owned]


def _copies(gradients: list[Tensor | None]) -> list[Tensor | None]:
    return [None if g is None else g.clone() for g in gradients]


def _square(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum()) if tensors else 0.0


def _loss_scale(trainer: Trainer) -> float:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def _mean_over_ranks(value: float, device: Any) -> float:
    if not (dist.is_available() and dist.is_initialized()):
        return value
    shared = torch.tensor(value, dtype=torch.float32, device=device)
    dist.all_reduce(shared)
    return float(shared) / dist.get_world_size()
