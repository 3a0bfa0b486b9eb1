"""Lightning: feed a `CurvatureTuner` with the loss of the batch at hand, log what it decides."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

from ..tuner.optimizer import CurvatureTuner
from .lightning_names import Callback, LightningModule, Trainer


class TuneFromCurvature(Callback):
    """Let every `CurvatureTuner` among the trainer's optimizers observe the training loss.

    The loss is `module.curvature_step(batch) -> (outputs, loss)` if the module offers it (needed in manual
    optimization), else `training_step` with logging muted, in the trainer's precision. With several tuners (a GAN) it
    is `curvature_step(batch, index)`, index counting the tuners: each has a loss of its own. Works with accumulation,
    mixed precision, schedulers and several devices; on resume the optimizer's checkpoint holds all that decisions hang
    on. Where the trainer has a `LearningRateMonitor`, it logs the lr in force: the groups hold it from the start of a
    batch to the step, and monitors are called after this callback.

    Parameters
    ----------
    log : log `tuned_lr`, `tuned_momentum` and, where it is measured, `sharpness` of the first tuner

    Examples
    --------
    >>> TuneFromCurvature(log=False).state_dict()
    {'history': []}
    """

    def __init__(self, log: bool = True) -> None:
        self.log = log
        self._tuners: list[CurvatureTuner] = []
        self._monitored = False
        self._history: list[list[dict[str, Any]]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the tuners; after a checkpoint is restored, also what they had seen before.

        Raises
        ------
        ValueError : there is none, or the loss cannot be had
        """
        self._tuners = [each for each in trainer.optimizers if isinstance(each, CurvatureTuner)]
        if not self._tuners:
            kinds = [type(each).__name__ for each in trainer.optimizers]
            raise ValueError(f"got the optimizers {kinds}; expected configure_optimizers to return a CurvatureTuner")
        if not pl_module.automatic_optimization and not hasattr(pl_module, "curvature_step"):
            raise ValueError("with manual optimization the module must offer curvature_step(batch) -> (outputs, loss)")
        if len(self._tuners) > 1 and not _takes_index(pl_module):
            raise ValueError(
                f"got {len(self._tuners)} tuners and one loss; expected the module to offer curvature_step(batch, "
                "index) -> (outputs, loss) with the loss of the tuner of that index"
            )
        whole: Any = trainer
        monitors = [each for each in whole.callbacks if _is_monitor(each)]
        self._monitored = bool(monitors)
        whole.callbacks = [each for each in whole.callbacks if not _is_monitor(each)] + monitors
        for tuner, rows in zip(self._tuners, self._history, strict=False):
            tuner.history[:] = rows

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the tuners look, ahead of the step."""
        with muted(pl_module):
            for index, tuner in enumerate(self._tuners):
                several = index if len(self._tuners) > 1 else None
                tuner.observe(loss_of(trainer, pl_module, batch_idx, several), batch)
                if self._monitored:
                    tuner.show_in_force()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what is in force for the next step."""
        for each in self._tuners:
            each.hide_in_force()
        if self.log:
            tuner = self._tuners[0]
            values = {
                "tuned_lr": tuner.lr,
                "tuned_momentum": tuner.momentum,
                "sharpness": tuner.tuning.curvature.sharpness,
            }
            pl_module.log_dict({name: value for name, value in values.items() if math.isfinite(value)})

    def state_dict(self) -> dict[str, Any]:
        """Return the tuners' histories."""
        return {"history": [[dict(row) for row in tuner.history] for tuner in self._tuners]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the histories for the start of training."""
        self._history = state_dict["history"]


def _takes_index(module: Any) -> bool:
    """Say whether a module offers curvature_step(batch, index)."""
    step = getattr(module, "curvature_step", None)
    return step is not None and len(inspect.signature(step).parameters) > 1


def _is_monitor(callback: Any) -> bool:
    """Say whether a callback logs learning rates; checkpoints, which must come last, do not."""
    return any(kind.__name__ == "LearningRateMonitor" for kind in type(callback).__mro__)


def loss_of(
    trainer: Trainer, module: LightningModule, batch_idx: int, index: int | None = None
) -> Callable[[Any], Any]:
    """Return batch -> loss or (outputs, loss) of a module, in the trainer's precision.

    Examples
    --------
    >>> loss_of(None, None, 0).__name__
    'loss_fn'
    """

    def loss_fn(batch: Any) -> Any:
        with trainer.precision_plugin.train_step_context():
            step = getattr(module, "curvature_step", None)
            if step is not None:
                return step(batch) if index is None else step(batch, index)
            takes_index = len(inspect.signature(module.training_step).parameters) > 1
            out = module.training_step(batch, batch_idx) if takes_index else module.training_step(batch)
        return out

    return loss_fn


@contextlib.contextmanager
def muted(module: Any) -> Iterator[None]:
    """Make `log` and `log_dict` of a module do nothing for a while.

    Examples
    --------
    >>> class Loud:
    ...     def log(self, *values): print(*values)
    >>> loud = Loud()
    >>> with muted(loud):
    ...     loud.log("silence")
    >>> loud.log("sound")
    sound
    """
    names = ("log", "log_dict")
    kept = {name: module.__dict__[name] for name in names if name in module.__dict__}
    for name in names:
        object.__setattr__(module, name, lambda *arguments, **options: None)
    try:
        yield
    finally:
        for name in names:
            object.__delattr__(module, name)
        for name, value in kept.items():
            object.__setattr__(module, name, value)
