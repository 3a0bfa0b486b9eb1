"""A Lightning callback that logs sharpness with its interval, and pictures of the spectrum, during training."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..curvature.factories import Curvature, ggn, hessian
from ..spectra.quadrature import Edge, Spectrum, slq
from .lightning_names import Callback, LightningModule, Trainer
from .training_loss import TrainingLoss


class SpectrumLogger(Callback):
    """Log sharpness with its interval, and figures of the spectrum, every so many steps.

    Parameters
    ----------
    loss : callable (outputs, targets) -> scalar; None: what the module's training_step returns, with logging muted.
        That runs training_step several times more: where it updates metrics, or in manual optimization, let the
        module offer `curvature_step(batch) -> (outputs, loss)`
    every : optimizer steps between two spectra
    batch : fixed curvature batch, which makes spectra comparable; None: the training batch at hand; or a function of
        that. With a loss, (inputs, targets)
    kind : "hessian" or "ggn";  steps, probes : as for `slq` (edges: 20 x 1, densities: 80 x 4)
    figures : draw the spectrum into the logger, or as PNG files into its folder
    rng : seed of the probes;  options : as for `hessian`

    Attributes
    ----------
    history : list of (step, sharpness, low, high), saved with the checkpoint

    Examples
    --------
    >>> SpectrumLogger(every=100).history
    []
    """

    def __init__(
        self,
        loss: Callable | None = None,
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
        if loss is None and kind == "ggn":
            raise ValueError("got kind='ggn' without a loss; expected loss=callable(outputs, targets): it is split off")
        self.loss, self.every, self.batch, self.kind, self.figures, self.rng = loss, every, batch, kind, figures, rng
        self.steps, self.probes, self.options = steps, probes, dict(options or {})
        self.history: list[tuple[int, float, float, float]] = []
        self.spectrum: Spectrum | None = None
        self._last = -1

    @property
    def state_key(self) -> str:
        """Name of the state in checkpoints; several of these callbacks may stand side by side."""
        return self._generate_state_key(kind=self.kind, every=self.every, steps=self.steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that there is a loss."""
        if self.loss is None and not (pl_module.automatic_optimization or hasattr(pl_module, "curvature_step")):
            raise ValueError(
                "with manual optimization training_step takes steps by itself; pass loss=callable(outputs, targets), "
                "or let the module offer curvature_step(batch) -> (outputs, loss)"
            )

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
        here = self._batch(trainer, batch)
        model: torch.nn.Module = pl_module
        if self.loss is None:
            model = TrainingLoss(pl_module, is_sequence=isinstance(here, tuple | list), batch_idx=batch_idx)
        make: Callable[..., Curvature] = hessian if self.kind == "hessian" else ggn
        with torch.inference_mode(False), torch.enable_grad():
            A = make(model, self.loss, here, **self.options)
        self.options["method"] = A.method  # measured once, then fixed, also after a resume
        self.spectrum = slq(A, steps=self.steps, probes=self.probes, rng=self.rng, progress=False)
        top = self.spectrum.extremes().top
        self.history.append((step, top.value, top.low, top.high))
        pl_module.log_dict({"sharpness": top.value, "sharpness_high": top.high})
        if self.figures and trainer.is_global_zero:
            self._draw(trainer, step, top)

    def _batch(self, trainer: Trainer, batch: Any) -> Any:
        if callable(self.batch):
            return self.batch(batch)
        return batch if self.batch is None else trainer.strategy.batch_to_device(self.batch)

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
                _save(figure, folder / f"step-{step:08d}.png")

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the method that was measured."""
        return {"history": self.history, "method": self.options.get("method"), "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.history, self._last = [tuple(row) for row in state_dict["history"]], state_dict["last"]
        if state_dict["method"] is not None:
            self.options["method"] = state_dict["method"]


def _save(figure: Any, path: Path) -> None:
    """Write a picture beside its place and rename it; where that fails, training goes on without the picture.

    The other packages write through `solvers/files.py`, which this one may not import for one picture's sake.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(5)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as stream:  # x: a new file, never a link that somebody has left there
                figure.savefig(stream, format="png", dpi=110)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(f"{path} was not written: {error.strerror or error}", stacklevel=2)
