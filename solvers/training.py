"""Training of the coefficient network through the iteration that uses it: differentiate k steps of preconditioned CG.

    loss = log( k / decades ),   decades = log10 ‖b‖ / ‖r_k‖ in the norm of D^(-1/2)

that is, the logarithm of the number of steps that one decade costs: a tenth fewer iterations counts the same on an easy and on a hard
family. No Lanczos basis, no solutions, no labels. One command (``krylearn train``), one seed, resumable, CPU or CUDA.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .coefficients import CoefficientNetwork
from .hierarchy import Rule, build, v_cycle
from .kernels.reference import Stencil, apply
from .storage import load_weights, save_weights
from .training_data import VALIDATION, Builder, Systems, builders

LICENCE = "BSD-3-Clause"


def grid_dot(u: Tensor, v: Tensor) -> Tensor:
    """Inner product per system, kept broadcastable."""
    return (u * v).sum((-1, -2, -3), keepdim=True)


def decades(op: Stencil, rule: Rule, b: Tensor, steps: int) -> Tensor:
    """log10 of the reduction of the scaled residual per system after k = steps/2 and k = steps steps of PCG, as rows."""
    h = build(op, rule)
    x_dot = grid_dot(b * op.inv, b)
    r, z = b, v_cycle(h, b)
    p, rz = z, grid_dot(b, z)
    rows = []
    for k in range(1, steps + 1):
        q = apply(op, p)
        alpha = rz / grid_dot(p, q)
        r = r - alpha * q
        if k in (steps // 2, steps):
            rows.append(-0.5 * torch.log10((grid_dot(r * op.inv, r) / x_dot).flatten()))
        if k < steps:
            z = v_cycle(h, r)
            rz, old = grid_dot(r, z), rz
            p = z + rz / old * p
    return torch.stack(rows)


def cost(reduction: Tensor, steps: int) -> Tensor:
    """log of the steps per decade, finite also where the residual grew."""
    rate = reduction / torch.tensor([[steps // 2], [steps]], device=reduction.device)
    return -torch.log(torch.nn.functional.softplus(rate * 20) / 20).mean()


def training_module(network: CoefficientNetwork, systems: Systems, steps: int, lr: float, cg_steps: int):  # noqa: ANN201
    """A LightningModule around the network (Lightning is an extra, hence the local class)."""
    lightning = import_lightning()

    class CoefficientTraining(lightning.LightningModule):
        """Adam with one cycle; the batch of a step is a function of the global step, so that resuming is exact."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, _batch: Any, _index: int) -> Tensor:
            name, op, b = systems.batch(self.global_step)
            op, b = to_device(op, self.device), b.to(self.device)
            loss = cost(decades(op, self.network, b, cg_steps), cg_steps)
            self.log("loss", loss, prog_bar=True)
            self.log(f"loss/{name}", loss)
            return loss

        def validation_step(self, _batch: Any, index: int) -> None:
            name = list(systems.builds)[index % len(systems.builds)]
            shape = (32,) * systems.dimension if systems.dimension == 3 else (96, 96)
            op, b = systems.assemble(name, shape, [VALIDATION + index], np.random.default_rng((5, index)))
            value = decades(to_device(op, self.device), self.network, b.to(self.device), 8)[-1].mean()
            self.log(f"validation/{name}", 8 / value.clamp_min(1e-3), batch_size=1)
            self.log("steps_per_decade", 8 / value.clamp_min(1e-3), prog_bar=True, batch_size=1)

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = torch.optim.Adam(self.parameters(), lr)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return CoefficientTraining()


def to_device(op: Stencil, device: torch.device) -> Stencil:
    """The stencil on the device of the module."""
    if op.shift.device == device:
        return op
    return Stencil([w.to(device) for w in op.links], [g.to(device) for g in op.ground], op.shift.to(device), op.periodic)


def import_lightning() -> Any:
    """Lightning, or an ImportError that names the extra."""
    try:
        import lightning.pytorch as lightning
    except ImportError as error:
        raise ImportError('training needs Lightning: pip install "krylearn[train]"') from error
    return lightning


def train(
    dimension: int = 3,
    *,
    families: Sequence[str] | Mapping[str, Builder] | None = None,
    sizes: Sequence[int] | None = None,
    steps: int = 4000,
    seed: int = 20261,
    output: str | Path = "checkpoints",
    resume: bool = False,
    device: str = "cpu",
    architecture: str = "network",
    hidden: int = 16,
    start: str | Path | None = None,
    lr: float | None = None,
    cg_steps: int = 8,
    progress: bool = True,
) -> Path:
    """Train a rule for `NeuralMultigrid` and write it with its card; resumable.

    Parameters
    ----------
    dimension : 2 or 3
    families : None (all), names out of `krylearn.pde.FAMILIES`, or your own: name -> ``build(shape, seed) -> Poisson``
    sizes : grid sizes to train on, cells per axis; default (16, 32, 48) in 3D and (32, 64, 128) in 2D
    steps : optimiser steps; 4000 take about half an hour on two cores in 3D
    seed : of initial weights and of the stream of systems
    output : directory for checkpoints, curves (``metrics.csv``) and the result
    resume : continue from the last checkpoint in `output`; bit for bit the same result as an uninterrupted run on a CPU
    device : "cpu" or "cuda"
    architecture : "network", or "constants" for the best tuned constants (six numbers)
    hidden : width of the perceptrons
    start : safetensors file to fine-tune from
    lr : peak learning rate of Adam's one-cycle schedule; default 5e-3 (constants 3e-2)
    cg_steps : steps of PCG that are differentiated through

    Returns
    -------
    Path
        of the .safetensors file; load it with ``NeuralMultigrid(A, weights=path)``

    Raises
    ------
    ImportError
        without Lightning: ``pip install "krylearn[train]"``
    ValueError
        for unknown names or values

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = train(2, families=["blocks"], sizes=(16,), steps=2, output=folder, progress=False)
    ...     path.name
    '2d-network.safetensors'
    """
    if dimension not in (2, 3) or architecture not in ("network", "constants") or steps < 1:
        raise ValueError(
            f"got dimension={dimension}, architecture={architecture!r}, steps={steps}; "
            "expected 2 or 3, 'network' or 'constants', steps >= 1"
        )
    lightning = import_lightning()
    began, output = time.perf_counter(), Path(output)
    sizes = tuple(sizes) if sizes else ((16, 32, 48) if dimension == 3 else (32, 64, 128))
    systems = Systems(builders(families), dimension, sizes, seed, cells=2 * 32**3 if dimension == 3 else 2 * 128**2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = load_weights(start) if start else CoefficientNetwork(hidden if architecture == "network" else 0)
    network.train().requires_grad_(True)
    lr = lr or (5e-3 if architecture == "network" else 3e-2)
    trainer, last = make_trainer(lightning, output, steps, device, progress, len(systems.builds))
    if resume and not last.exists():
        raise ValueError(f"got resume=True, but there is no {last}; expected the checkpoint of an earlier run: check output")
    module = training_module(network, systems, steps, lr, cg_steps)
    rounds = torch.utils.data.DataLoader(range(steps), batch_size=1)
    checks = torch.utils.data.DataLoader(range(len(systems.builds)), batch_size=1)
    trainer.fit(module, rounds, checks, ckpt_path=str(last) if resume else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt(f"training stopped; the last checkpoint is {last}: continue with resume=True")
    card = {
        "name": f"{dimension}d-{architecture}",
        "dimension": dimension,
        "families": list(systems.builds),
        "sizes": list(sizes),
        "steps": steps,
        "seed": seed,
        "cg_steps": cg_steps,
        "learning_rate": lr,
        "parameters": sum(p.numel() for p in network.parameters()),
        "scenes": f"train stream, seeds 0 to {systems.pool - 1} per family and size; validation from {VALIDATION}",
        "hours": round((time.perf_counter() - began) / 3600, 3),
        "hardware": f"{device}, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "final_steps_per_decade": {
            k.split("/")[1]: round(float(v), 3) for k, v in trainer.callback_metrics.items() if k.startswith("validation/")
        },
        "started_from": Path(start).name if start else None,
        "licence": LICENCE,
    }
    return save_weights(network, output / f"{dimension}d-{architecture}", card)


def make_trainer(lightning: Any, output: Path, steps: int, device: str, progress: bool, checks: int) -> tuple[Any, Path]:
    """A Trainer with a checkpoint every 250 steps (written aside, then moved into place) and curves in a CSV file."""
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
    from lightning.pytorch.loggers import CSVLogger

    every = max(1, min(250, steps // 4))
    keep = ModelCheckpoint(output, filename="{step}", every_n_train_steps=every, save_top_k=1, save_last=True, monitor=None)
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="gpu" if device.startswith("cuda") else device,
        devices=1,
        logger=CSVLogger(output, name="", version=""),
        callbacks=[keep, *([RichProgressBar()] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        gradient_clip_val=0.5,
        log_every_n_steps=max(1, min(10, steps)),
        val_check_interval=every,
        num_sanity_val_steps=0,
        limit_val_batches=checks,
        default_root_dir=output,
    )
    return trainer, output / "last.ckpt"
