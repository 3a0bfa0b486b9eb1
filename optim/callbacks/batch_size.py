"""A Lightning callback that rescales hyper-parameters when the effective batch size changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..batch_size.rescaling import scale_hyperparameters, stretch_schedules
from ..batch_size.rule_choice import Change
from ..batch_size.schedules import length
from .lightning_names import Callback, LightningModule, Trainer
from .noise_scale import NoiseScaleMonitor, effective_batch_size


class ScaleWithBatchSize(Callback):
    """Rescale all optimizers and their schedulers when the effective batch size is not the one they were tuned for.

    At the start of training, after a checkpoint is restored and after Lightning's BatchSizeFinder, and whenever the
    accumulation changes at an epoch's start. The batch size in force is saved: resuming on another number of devices,
    with another loader or accumulation, scales from there.

    Schedulers with `interval="step"` keep their samples: what lies ahead of warm-up and decay takes fewer or more steps
    (`krylearn.optim.batch_size.schedules`). A schedule that ends where this run ends was made for it, from
    `trainer.estimated_stepping_batches` or `max_steps`, and stays as it is; so do those that count epochs.

    Parameters
    ----------
    reference_batch : samples per step that lr and the rest were tuned for; None: the module's or data module's
        `batch_size` (what a BatchSizeFinder starts from), or else the first run's
    rule, noise_scale, sharpness : as for `scale_hyperparameters`; a `NoiseScaleMonitor` beside this callback is asked
        for the noise scale if none is given
    schedules : "samples", or "steps": schedulers keep their numbers of steps
    batch_size : function of the trainer, where the loader does not tell

    Attributes
    ----------
    changes : list of `Change`, one per optimizer, of the last time that anything was scaled: print their `why`

    Examples
    --------
    >>> ScaleWithBatchSize(reference_batch=256, rule="linear").state_dict()
    {'batch_size': 256}
    """

    def __init__(
        self,
        reference_batch: int | None = None,
        *,
        rule: Any = "auto",
        noise_scale: float | None = None,
        sharpness: Any = None,
        schedules: str = "samples",
        batch_size: Callable[[Trainer], int] = effective_batch_size,
    ) -> None:
        self.tuned_for, self.rule, self.noise_scale, self.sharpness = reference_batch, rule, noise_scale, sharpness
        if schedules not in ("samples", "steps"):
            raise ValueError(f"got schedules={schedules!r}; expected 'samples' or 'steps': what schedulers keep")
        self.schedules, self._batch_size = schedules, batch_size
        self.changes: list[Change] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the batch size before a finder changes it."""
        owners = (pl_module, getattr(trainer, "datamodule", None))
        sizes: list[Any] = [getattr(owner, "batch_size", None) for owner in owners]
        own: int | None = next((size for size in sizes if isinstance(size, int)), None)
        if stage == "fit" and self.tuned_for is None and own is not None:
            self.tuned_for = own * trainer.accumulate_grad_batches * trainer.world_size

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scale from what is saved, or from the reference, to what is in force."""
        self._follow(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look again before a LearningRateMonitor logs the epoch's first step: the accumulation may have changed."""
        self._follow(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look again at the first batch: callbacks that come later in the list may have changed the accumulation."""
        if batch_idx == 0:
            self._follow(trainer)

    def _follow(self, trainer: Trainer) -> None:
        now = self._batch_size(trainer)
        if self.tuned_for is not None and now != self.tuned_for:
            configs, changes = trainer.lr_scheduler_configs, []
            for optimizer in trainer.optimizers:
                change = scale_hyperparameters(
                    optimizer, old_batch=self.tuned_for, new_batch=now, rule=self.rule, sharpness=self.sharpness,
                    noise_scale=self._noise(trainer),
                    scheduler=[c.scheduler for c in configs if getattr(c.scheduler, "optimizer", None) is optimizer],
                )  # fmt: skip
                changes.append(change)
                stretch_schedules(self._counting(trainer, optimizer), change, now / self.tuned_for)
            self.changes = changes
        self.tuned_for = now

    def _counting(self, trainer: Trainer, optimizer: Any) -> list[Any]:
        """Return the optimizer's schedulers that count steps and were not made for this very run."""
        if self.schedules == "steps":
            return []
        ends = _ends(trainer)
        found = [c.scheduler for c in trainer.lr_scheduler_configs if c.interval == "step"]
        return [s for s in found if getattr(s, "optimizer", None) is optimizer and length(s) not in ends]

    def _noise(self, trainer: Trainer) -> float | None:
        if self.noise_scale is not None:
            return self.noise_scale
        monitors = (c.noise.scale for c in trainer.callbacks if isinstance(c, NoiseScaleMonitor))  # type: ignore[attr-defined]
        return next((scale for scale in monitors if scale > 0), None)

    def state_dict(self) -> dict[str, Any]:
        """Return the batch size in force."""
        return {"batch_size": self.tuned_for}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Scale from this batch size on."""
        self.tuned_for = state_dict["batch_size"]


def _ends(trainer: Trainer) -> tuple[float, ...]:
    """Return the steps at which this run may end."""
    try:
        return trainer.max_steps, trainer.estimated_stepping_batches
    except Exception:  # Lightning's MisconfigurationException, where the accumulation differs between epochs
        return (trainer.max_steps,)
