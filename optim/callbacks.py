"""Lightning callbacks: hyper-parameters that follow the batch size, the gradient noise scale, spectra in the logger.

They need `pip install "krylearn[train]"`. All work in automatic and manual optimization and in mixed precision, and
what they know is in the checkpoint, so a resumed run goes on as the uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError('the callbacks need Lightning: pip install "krylearn[train]"') from error

from .curvature import ggn, hessian
from .noise import GradientNoise
from .rescaling import scale_hyperparameters
from .spectrum import Edge, Spectrum, slq


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


class ScaleWithBatchSize(Callback):
    """Rescale all optimizers and their schedulers when the effective batch size is not the one they were tuned for.

    At the start of training, after a checkpoint is restored and after Lightning's BatchSizeFinder, and whenever the
    accumulation changes at an epoch's start. The batch size in force is saved: resuming on another number of devices,
    with another loader or accumulation, scales from there.

    Parameters
    ----------
    reference_batch : samples per step that lr and the rest were tuned for; None: the module's or data module's
        `batch_size` (what a BatchSizeFinder starts from), or else the first run's
    rule, noise_scale, sharpness : as for `scale_hyperparameters`; a `NoiseScaleMonitor` beside this callback is asked
        for the noise scale if none is given
    batch_size : function of the trainer, where the loader does not tell

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
        batch_size: Callable[[Trainer], int] = effective_batch_size,
    ) -> None:
        self.tuned_for, self.rule, self.noise_scale, self.sharpness = reference_batch, rule, noise_scale, sharpness
        self._batch_size = batch_size

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

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look again at an epoch's first batch: other callbacks may have changed the accumulation."""
        if batch_idx == 0:
            self._follow(trainer)

    def _follow(self, trainer: Trainer) -> None:
        now = self._batch_size(trainer)
        if self.tuned_for is not None and now != self.tuned_for:
            for optimizer in trainer.optimizers:
                configs = trainer.lr_scheduler_configs
                scale_hyperparameters(
                    optimizer, old_batch=self.tuned_for, new_batch=now, rule=self.rule, sharpness=self.sharpness,
                    noise_scale=self._noise(trainer),
                    scheduler=[c.scheduler for c in configs if getattr(c.scheduler, "optimizer", None) is optimizer],
                )  # fmt: skip
        self.tuned_for = now

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
        self._before: list[Tensor] | None = None
        self._squares: list[float] = []
        self._steps = self._micro = 0

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
            before = self._before or [torch.zeros_like(g) for g in now]
            self._squares.append(scale**2 * _square([g - b for g, b in zip(now, before, strict=True)]))
            self._before = [g.clone() for g in now]

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
                self.noise.update(small, mean, size, _square(now))
            self._squares, self._before, self._micro = [], None, 0
        elif self._before is not None:
            both = [(g + b) / 2 for g, b in zip(now, self._before, strict=True)]
            self.noise.update(size, (_square(now) + _square(self._before)) / 2, 2 * size, _square(both))
            self._before = None
        elif self._steps % max(self.every, 2) == 0:
            self._before = [g.clone() for g in now]
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


def _gradients(optimizer: Any) -> list[Tensor]:
    return [p.grad.detach() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


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


class SpectrumLogger(Callback):
    """Log sharpness with its interval, and figures of the spectrum, every so many steps.

    Parameters
    ----------
    loss : callable (outputs, targets) -> scalar
    every : optimizer steps between two spectra
    batch : fixed curvature batch (inputs, targets), which makes spectra comparable; None: the training batch at hand
    kind : "hessian" or "ggn";  steps, probes : as for `slq` (edges: 20 x 1, densities: 80 x 4)
    figures : draw the spectrum into the logger, or as PNG files into its folder
    rng : seed of the probes;  options : as for `hessian`

    Attributes
    ----------
    history : list of (step, sharpness, low, high), saved with the checkpoint

    Examples
    --------
    >>> SpectrumLogger(torch.nn.functional.cross_entropy, every=100).history
    []
    """

    def __init__(
        self,
        loss: Callable,
        *,
        every: int = 500,
        batch: Any = None,
        kind: str = "hessian",
        steps: int = 20,
        probes: int = 1,
        figures: bool = True,
        rng: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if kind not in ("hessian", "ggn") or every < 1:
            raise ValueError(f"got kind={kind!r}, every={every}; expected 'hessian' or 'ggn', and every >= 1")
        self.loss, self.every, self.batch, self.kind, self.figures, self.rng = loss, every, batch, kind, figures, rng
        self.steps, self.probes, self.options = steps, probes, dict(options or {})
        self.history: list[tuple[int, float, float, float]] = []
        self.spectrum: Spectrum | None = None
        self._last = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure once per `every` optimizer steps, whatever the accumulation."""
        step = trainer.global_step
        if step % self.every or step == self._last or step == 0:
            return
        self._last = step
        if trainer.world_size > 1:
            self.options["group"] = dist.group.WORLD
        here = batch if self.batch is None else trainer.strategy.batch_to_device(self.batch)
        with torch.inference_mode(False), torch.enable_grad():
            A = (hessian if self.kind == "hessian" else ggn)(pl_module, self.loss, here, **self.options)
        self.options["method"] = A.method  # measured once, then fixed, also after a resume
        self.spectrum = slq(A, steps=self.steps, probes=self.probes, rng=self.rng, progress=False)
        top = self.spectrum.extremes().top
        self.history.append((step, top.value, top.low, top.high))
        pl_module.log_dict({"sharpness": top.value, "sharpness_high": top.high})
        if self.figures and trainer.is_global_zero:
            self._draw(trainer, step, top)

    def _draw(self, trainer: Trainer, step: int, top: Edge) -> None:
        assert self.spectrum is not None
        for logger in trainer.loggers:
            figure = self.spectrum.plot().figure
            figure.axes[0].set_xlabel(f"eigenvalue at step {step}")
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_figure"):
                experiment.add_figure("spectrum", figure, step)
            elif logger.log_dir or logger.save_dir:
                folder = Path(logger.log_dir or logger.save_dir or ".") / "spectra"
                folder.mkdir(parents=True, exist_ok=True)
                figure.savefig(folder / f"step-{step:08d}.png", dpi=110)

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the method that was measured."""
        return {"history": self.history, "method": self.options.get("method"), "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.history, self._last = [tuple(row) for row in state_dict["history"]], state_dict["last"]
        if state_dict["method"] is not None:
            self.options["method"] = state_dict["method"]
