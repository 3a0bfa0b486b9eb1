"""What trainings share: inner products, what a card says, and Lightning: module, trainer, output, Ctrl-C, resuming.

Lightning is an extra, so it is imported inside the functions.
"""

from __future__ import annotations

import logging
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import LAST, keep_curves, whole_checkpoints, whole_curves

NOISE = (
    ".isinstance.treespec, LeafSpec.. is deprecated",  # Lightning 2.6 with torch 2.13
    ".*does not have many workers",  # the data loader only counts steps
    ".*your dataloader is not resumable",  # a batch depends on the step alone
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed",  # a run may be moved; its last checkpoint is all that is needed
    "Experiment logs directory .* exists and is not empty",  # earlier curves are kept under another name
)
"""Warnings of Lightning that do not apply to this training."""


LICENCE = "BSD-3-Clause"  # of shipped weights


def grid_dot(u: Tensor, v: Tensor) -> Tensor:
    """Inner product per system, kept broadcastable."""
    return (u * v).sum((-1, -2, -3), keepdim=True)


def describe_run(seconds: float, device: str) -> dict[str, Any]:
    """Return what every card says of a training: hours, hardware, version of torch."""
    return {
        "hours": round(seconds / 3600, 3),
        "hardware": f"{device}, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
    }


def require_lightning() -> None:
    """Raise an ImportError that names the extra where Lightning is missing."""
    try:
        import lightning.pytorch  # noqa: F401
    except ImportError as error:
        raise ImportError('training needs Lightning: pip install "krylearn[train]"') from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide hardware lists, tips and the warnings of `NOISE`; whatever else is said gets through."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        log.setLevel(level)


def training_module(
    network: nn.Module,
    loss_of: Callable[[int, torch.device], tuple[str, Tensor]],
    check: Callable[[int, torch.device], tuple[str, Tensor]],
    settings: dict[str, Any],
) -> Any:
    """Make the LightningModule.

    Parameters
    ----------
    network : what is trained
    loss_of : (step, device) -> family and loss of that step
    check : (index, device) -> family and steps per decade on held-out systems
    settings : ``steps``, ``learning_rate`` and whatever else a resumed run must share with the interrupted one
    """
    import lightning.pytorch as lightning

    class CoefficientTraining(lightning.LightningModule):
        """Adam with one cycle; the batch of a step is a function of the global step, so that resuming is exact."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.began, self.seconds_before = time.perf_counter(), 0.0

        @property
        def seconds(self) -> float:
            """Time trained so far, interrupted runs included."""
            return self.seconds_before + time.perf_counter() - self.began

        def training_step(self, _batch: Any, _index: int) -> Tensor:
            name, loss = loss_of(self.global_step, self.device)
            self.log("loss", loss, prog_bar=True)
            self.log(f"loss/{name}", loss)
            return loss

        def validation_step(self, _batch: Any, index: int) -> None:
            name, steps_per_decade = check(index, self.device)
            self.log(f"validation/{name}", steps_per_decade, batch_size=1)
            self.log("steps_per_decade", steps_per_decade, prog_bar=True, batch_size=1)

        def configure_optimizers(self) -> Any:
            lr, steps = settings["learning_rate"], settings["steps"]
            optimizer = torch.optim.Adam(self.parameters(), lr)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["krylearn"] = {"settings": settings, "seconds": self.seconds}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            saved = checkpoint.get("krylearn", {"settings": settings, "seconds": 0.0})
            check_settings(saved["settings"], settings)
            self.seconds_before = saved["seconds"]

    return CoefficientTraining()


class Listener:
    """Standard output for a progress bar: a run of hours does not end because nobody reads it any more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)

    def write(self, text: str) -> int:
        """Write, if anybody is there."""
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody is there."""
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()


def check_settings(saved: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse to resume a run with other settings: it would be neither run."""
    different = [name for name in settings if saved.get(name) != settings[name]]
    if different:
        got = ", ".join(f"{name}={settings[name]!r}" for name in different)
        expected = ", ".join(f"{name}={saved.get(name)!r}" for name in different)
        raise ValueError(
            f"got {got}; expected {expected} as in the checkpoint to resume: "
            "repeat the arguments of the interrupted run, or fine-tune its weights with start="
        )


def run(
    make_module: Callable[[], Any], output: Path, steps: int, *, resume: bool, checks: int, **options: Any
) -> tuple[Any, Any]:
    """Train a module, from its checkpoint if asked; return the Trainer and the module.

    Parameters
    ----------
    make_module : makes the LightningModule, when everything else is ready: its clock starts then
    output, steps, checks, options : as in `make_trainer`
    resume : continue from the last checkpoint in `output`, which `check_place` has seen

    Raises
    ------
    KeyboardInterrupt : after Ctrl-C, naming the checkpoint to continue from
    """
    with quiet():
        last = output / LAST
        keep_curves(output)  # before the logger is made: it deletes what it finds
        trainer = make_trainer(output, steps, checks=checks, **options)
        module = make_module()
        try:
            fit(trainer, module, steps, checks, last if resume else None)
        except KeyboardInterrupt:
            kept = f"the last checkpoint is {last}: continue with resume=True" if last.exists() else "no checkpoint yet"
            raise KeyboardInterrupt(f"training stopped; {kept}") from None
    return trainer, module


def make_trainer(
    output: Path,
    steps: int,
    *,
    device: str,
    progress: bool,
    checks: int,
    every: int = 250,
    precision: str = "32-true",
    clip: float | None = 0.5,
) -> Any:
    """Make a Trainer with a checkpoint every so many steps, written whole, and a CSV of curves."""
    import lightning.pytorch as lightning
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar

    every = max(1, min(every, steps // 4))
    keep = ModelCheckpoint(
        output,
        filename="{step}",
        every_n_train_steps=every,
        save_top_k=1,
        save_last=True,
        enable_version_counter=False,  # last.ckpt is the last one also where an earlier run left its own
    )
    return lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="gpu" if device.startswith("cuda") else device,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        logger=whole_curves(output),
        plugins=[whole_checkpoints()],
        callbacks=[keep, *([RichProgressBar(console_kwargs={"file": Listener()})] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        gradient_clip_val=clip,
        log_every_n_steps=max(1, min(10, steps)),
        val_check_interval=every,
        num_sanity_val_steps=0,
        limit_val_batches=checks,
        default_root_dir=output,
    )


def fit(trainer: Any, module: Any, steps: int, checks: int, checkpoint: Path | None) -> None:
    """Train; Ctrl-C leaves by KeyboardInterrupt (Lightning would end the interpreter).

    The data loaders only count: batches are made in the module from the number of the step.
    """
    rounds: Any = torch.utils.data.DataLoader(range(steps), batch_size=1)  # type: ignore[arg-type, var-annotated]
    validation: Any = torch.utils.data.DataLoader(range(checks), batch_size=1)  # type: ignore[arg-type, var-annotated]
    try:
        trainer.fit(module, rounds, validation, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
    except SystemExit:
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not trainer.callback_metrics:  # resumed at its end: the run was killed before its result was written
        trainer.validate(module, validation, verbose=False)
