"""The Lightning side of training on Ritz right-hand sides: what `dcdm_training` and `npsdo_training` share.

A batch is a function of the number of the step: epochs are seeded permutations of a fixed number of right-hand sides,
each of which is a function of its own number (`ritz`). So a run that was killed resumes where it was, and no data set
is stored. Validation right-hand sides come from another stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from torch import Tensor, nn

from ..training.loop import check_settings, describe_run, require_lightning, run
from .ritz import RitzBasis

Loss = Callable[[Poisson, Tensor], Tensor]
KERAS_EPSILON = 1e-7  # of Adam, in the framework of the published training; torch's is 1e-8
SCHEDULES = ("constant", "one-cycle")


@dataclass
class RitzStream:
    """Batches of right-hand sides, each for one operator.

    Attributes
    ----------
    operators, bases : as many of both, visited in turn
    count : right-hand sides per operator in an epoch;  batch : how many make a step; the last of an epoch may be fewer
    passes : epochs over one operator's right-hand sides before the next operator is visited
    chunk : how many are made at a time
    """

    operators: Sequence[Poisson]
    bases: Sequence[RitzBasis]
    count: int
    batch: int
    seed: int
    passes: int = 1
    chunk: int = 100
    _made: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @property
    def per_pass(self) -> int:
        """Steps in one epoch over one operator."""
        return -(-self.count // self.batch)

    def train(self, step: int) -> tuple[Poisson, Tensor]:
        """Return operator and right-hand sides (batch, *grid) of an optimiser step."""
        epoch, place = divmod(step, self.per_pass)
        which = (epoch // self.passes) % len(self.operators)
        first = place * self.batch
        last = min(first + self.batch, self.count)
        parts, at = [], first
        while at < last:  # a batch may straddle two chunks
            k = at // self.chunk
            end = min(last, (k + 1) * self.chunk)
            parts.append(self._chunk(epoch, which, k)[at - k * self.chunk : end - k * self.chunk])
            at = end
        return self.operators[which], torch.cat(parts)

    def _chunk(self, epoch: int, which: int, k: int) -> Tensor:
        """Make the k-th chunk of an epoch's permutation; the last two made are kept."""
        if (epoch, k) not in self._made:
            order = np.random.default_rng((self.seed, 7, epoch)).permutation(self.count)
            numbers = order[k * self.chunk : (k + 1) * self.chunk]
            while len(self._made) > 1:
                self._made.pop(next(iter(self._made)))
            self._made[epoch, k] = self.bases[which].right_hand_sides(numbers.tolist(), self.seed)
        return self._made[epoch, k]

    def validation(self, index: int, number: int = 16) -> tuple[Poisson, Tensor]:
        """Return an operator and right-hand sides that no step ever sees."""
        which, block = index % len(self.operators), index // len(self.operators)
        numbers = range(block * number, (block + 1) * number)
        return self.operators[which], self.bases[which].right_hand_sides(numbers, self.seed, "validation")


def fit_on_ritz(
    network: nn.Module,
    loss: Loss,
    stream: RitzStream,
    settings: dict[str, Any],
    *,
    output: Path,
    resume: bool,
    device: str,
    progress: bool,
    checks: int,
) -> dict[str, Any]:
    """Train the network in place and return what the card says of the run.

    Parameters
    ----------
    network, loss : loss(A, b) is the mean over the batch
    stream : where batches come from
    settings : at least steps, learning_rate, schedule, precision; a resumed run must have the same
    output, resume, device, progress, checks : as in `train_dcdm`; checks: validation batches

    Raises
    ------
    KeyboardInterrupt : after Ctrl-C, naming the checkpoint to continue from
    """
    require_lightning()
    trainer, module = run(
        lambda: _module(network, loss, stream, settings), output, settings["steps"],
        resume=resume, checks=checks, device=device, progress=progress, every=100, clip=None,
        precision="bf16-mixed" if settings["precision"] == "bfloat16" else "32-true",
    )  # fmt: skip
    return {
        **describe_run(module.seconds, device),
        "cpu_hours": round(module.cpu_seconds / 3600, 3),
        "validation_loss": round(float(trainer.callback_metrics["validation"]), 5),
    }


def _module(network: nn.Module, loss: Loss, stream: RitzStream, settings: dict[str, Any]) -> Any:
    """Make the LightningModule."""
    import lightning.pytorch as lightning

    class RitzTraining(lightning.LightningModule):
        """Adam on batches of Ritz right-hand sides."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.began, self.cpu_began = time.perf_counter(), time.process_time()
            self.before = self.cpu_before = 0.0

        @property
        def seconds(self) -> float:
            """Time trained so far, interrupted runs included; without the basis."""
            return self.before + time.perf_counter() - self.began

        @property
        def cpu_seconds(self) -> float:
            """The same in processor time: what a shared machine does not blur."""
            return self.cpu_before + time.process_time() - self.cpu_began

        def training_step(self, _batch: Any, _index: int) -> Tensor:
            A, b = stream.train(self.global_step)
            value = loss(A, b)
            self.log("loss", value, prog_bar=True)
            return value

        def validation_step(self, _batch: Any, index: int) -> None:
            A, b = stream.validation(index)
            self.log("validation", loss(A, b), prog_bar=True, batch_size=len(b))

        def configure_optimizers(self) -> Any:
            lr, steps = settings["learning_rate"], settings["steps"]
            optimizer = torch.optim.Adam(self.parameters(), lr, eps=KERAS_EPSILON)
            if settings["schedule"] == "constant":
                return optimizer
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["krylearn"] = {"settings": settings, "seconds": self.seconds, "cpu": self.cpu_seconds}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            saved = checkpoint["krylearn"]
            check_settings(saved["settings"], settings)
            self.before, self.cpu_before = saved["seconds"], saved["cpu"]

    return RitzTraining()
