"""The nineteen conventions of Lightning, as checks on a small module; see `testing`."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise ImportError('the Lightning conventions need Lightning: pip install "krylearn[train]"') from error

from .lightning_fit import BATCHES, finite, fit, module_of, weights
from .subject import Convention, Subject, adder

LIGHTNING: list[Convention] = []
_convention = adder(LIGHTNING)


@_convention(
    "L1", "protocol Optimizable: step, param_groups, defaults, state and its dicts (fabric/utilities/types.py)"
)
def optimizable(subject: Subject) -> None:
    """Ask Lightning itself."""
    from lightning.fabric.utilities.types import Optimizable

    assert isinstance(subject.make([nn.Parameter(torch.ones(1))]), Optimizable), "Lightning would not take it"


@_convention("L2", "configure_optimizers may return an optimizer, lists, a dict, dicts (pytorch/core/optimizer.py)")
def return_forms(subject: Subject) -> None:
    """Train with each form."""
    for form in ("optimizer", "list", "lists", "dict", "dicts"):
        module = module_of(subject, form)
        fit(subject, module, max_epochs=1)
        finite(module)


@_convention("L3", "a scheduler's optimizer must be one of those returned (pytorch/core/optimizer.py)")
def scheduler_belongs(subject: Subject) -> None:
    """Schedule the wrapper; its groups follow the schedule."""
    module = module_of(subject, "lists")
    trainer = fit(subject, module, max_epochs=1)
    lr = float(trainer.optimizers[0].param_groups[0]["lr"])
    wanted = 0.05 / (1 + 0.1 * BATCHES)
    assert abs(lr - wanted) < 1e-9, f"after {BATCHES} steps lr is {lr}, the schedule says {wanted}"


@_convention("L4", "LightningOptimizer is a shell made without __init__ (pytorch/core/optimizer.py)")
def shell(subject: Subject) -> None:
    """Read through the shell what the real one has; a step through it counts there."""
    from lightning.pytorch.core.optimizer import LightningOptimizer

    p = nn.Parameter(torch.ones(2))
    optimizer = subject.make([p])
    wrapped = LightningOptimizer(optimizer)
    assert wrapped.param_groups[0]["params"][0] is p, "the shell shows other groups"
    assert wrapped.state_dict().keys() == optimizer.state_dict().keys(), "the shell has another state"
    assert wrapped.defaults is optimizer.defaults, "the shell has other defaults"


@_convention("L5", "gradients are ready in on_before_optimizer_step, before clipping (loops/optimization/automatic.py)")
def gradients_before_the_step(subject: Subject) -> None:
    """Look at them there, with clipping on."""
    seen = []

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            seen.append(all(p.grad is not None for p in pl_module.parameters()))

    fit(subject, module_of(subject), (Look(),), max_epochs=1, gradient_clip_val=0.5)
    assert seen == [True] * BATCHES, f"gradients were ready in {sum(seen)} of {len(seen)} steps, wanted {BATCHES}"


@_convention("L6", "the closure must run, once (loops/optimization/closure.py): twice repeats training_step")
def training_step_once(subject: Subject) -> None:
    """Count calls of training_step; what observes takes curvature_step."""
    module = module_of(subject)
    fit(subject, module, max_epochs=1)
    assert module.calls == BATCHES, f"training_step ran {module.calls} times in {BATCHES} batches"


@_convention("L7", "16-mixed runs the closure first, then scaler.step without it (plugins/precision/amp.py)")
def mixed_precision(subject: Subject) -> None:
    """Train with a scaler on the CPU, and in bf16."""
    from lightning.pytorch.plugins import MixedPrecision

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))
    for options in ({"plugins": [plugin]}, {"precision": "bf16-mixed"}):
        module = module_of(subject)
        fit(subject, module, **options)
        finite(module)


@_convention("L8", "accumulation: one step per so many batches, losses divided by their number (automatic.py)")
def accumulation(subject: Subject) -> None:
    """Count the steps."""
    module = module_of(subject)
    trainer = fit(subject, module, accumulate_grad_batches=3)
    assert trainer.global_step == 2 * BATCHES // 3, f"{trainer.global_step} steps in two epochs of {BATCHES} batches"
    finite(module)


@_convention("L9", "manual optimization: step gets an empty closure (pytorch/core/optimizer.py)")
def manual_optimization(subject: Subject) -> None:
    """Train by hand."""
    module = module_of(subject, manual=True)
    trainer = fit(subject, module)
    assert trainer.global_step == 2 * BATCHES, f"{trainer.global_step} steps, wanted {2 * BATCHES}"


@_convention(
    "L10", "step schedulers run after the batch; lr in on_train_batch_start is the next step's (training_epoch_loop.py)"
)
def lr_at_the_batch_start(subject: Subject) -> None:
    """Compare with the schedule, step by step."""
    lrs = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            lrs.append(float(trainer.optimizers[0].param_groups[0]["lr"]))

    fit(subject, module_of(subject, "lists"), (Look(),), max_epochs=1)
    wanted = [0.05 / (1 + 0.1 * k) for k in range(BATCHES)]
    assert all(abs(a - b) < 1e-9 for a, b in zip(lrs, wanted, strict=True)), f"lrs {lrs}, the schedule says {wanted}"


@_convention(
    "L11", "a checkpoint is restored after on_fit_start (trainer.py): a resumed run equals an uninterrupted one"
)
def resume(subject: Subject) -> None:
    """Stop after one epoch, resume, compare bit for bit."""
    whole, half, rest = (module_of(subject, "lists") for _ in range(3))
    fit(subject, whole, max_epochs=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "half.ckpt"
        fit(subject, half, use=lambda trainer, module: (trainer.fit(module), trainer.save_checkpoint(path))[0],
             max_epochs=1)  # fmt: skip
        fit(subject, rest, resume=path, max_epochs=2)
    difference = float((weights(whole) - weights(rest)).abs().max())
    assert difference == 0, f"resumed weights differ by {difference:.3g}"


@_convention(
    "L12", "checkpoints are loaded with weights_only; callbacks have unique state_keys (callbacks/callback.py)"
)
def checkpoint_is_plain(subject: Subject) -> None:
    """Load a checkpoint without unpickling; all callbacks can be told apart."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        trainer = fit(subject, module_of(subject),
                       use=lambda trainer, module: (trainer.fit(module), trainer.save_checkpoint(path))[0])  # fmt: skip
        state = torch.load(path, weights_only=True)
    assert state["optimizer_states"], "the checkpoint has no optimizer state"
    keys = [callback.state_key for callback in trainer.callbacks]
    assert len(set(keys)) == len(keys), f"state_keys repeat: {keys}"


@_convention(
    "L13", "LearningRateMonitor reads lr, momentum or betas, weight_decay from groups (callbacks/lr_monitor.py)"
)
def lr_monitor(subject: Subject) -> None:
    """Let it log."""
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import CSVLogger

    with tempfile.TemporaryDirectory() as folder:
        monitor = LearningRateMonitor("step", log_momentum=True, log_weight_decay=True)
        fit(subject, module_of(subject, "lists"), (monitor,), logger=CSVLogger(folder), log_every_n_steps=1)
        assert monitor.lrs, "nothing was logged"


@_convention("L14", "lr_find round-trips a checkpoint and writes one lr into every group (tuner/lr_finder.py)")
def lr_find(subject: Subject) -> None:
    """Search, then train with what was found."""
    from lightning.pytorch.tuner import Tuner

    module = module_of(subject)
    before = weights(module)
    fit(subject, module, use=lambda trainer, m: Tuner(trainer).lr_find(m, num_training=20, update_attr=False),
         enable_checkpointing=True)  # fmt: skip
    assert torch.equal(weights(module), before), "lr_find has moved the weights"
    fit(subject, module, max_epochs=1)
    finite(module)


@_convention("L15", "BatchSizeFinder changes module.batch_size and nothing else (callbacks/batch_size_finder.py)")
def batch_size_finder(subject: Subject) -> None:
    """Let it try two sizes."""
    from lightning.pytorch.callbacks import BatchSizeFinder

    module = module_of(subject)
    fit(subject, module, (BatchSizeFinder(steps_per_trial=1, max_trials=2, init_val=4),), enable_checkpointing=True)
    finite(module)


@_convention("L16", "GradientAccumulationScheduler changes the accumulation at an epoch's start (its file)")
def accumulation_schedule(subject: Subject) -> None:
    """Two from the second epoch on."""
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    trainer = fit(subject, module_of(subject), (GradientAccumulationScheduler({1: 2}),))
    assert trainer.global_step == BATCHES + BATCHES // 2, f"{trainer.global_step} steps"


@_convention("L17", "loaders may be made anew every epoch (loops/fit_loop.py)")
def reloaded_data(subject: Subject) -> None:
    """Reload each epoch."""
    module = module_of(subject)
    fit(subject, module, reload_dataloaders_every_n_epochs=1)
    finite(module)


@_convention("L18", "a module may override optimizer_step, optimizer_zero_grad and the rest (pytorch/core/module.py)")
def overridden_hooks(subject: Subject) -> None:
    """Override them with the documented bodies."""
    module = module_of(subject)
    steps = []

    def optimizer_step(epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        steps.append(batch_idx)
        optimizer.step(closure=optimizer_closure)

    module.optimizer_step = optimizer_step
    module.optimizer_zero_grad = lambda epoch, batch_idx, optimizer: optimizer.zero_grad(set_to_none=False)
    fit(subject, module, max_epochs=1)
    assert len(steps) == BATCHES, f"{len(steps)} steps through the override"


@_convention("L19", "lightning.pytorch and pytorch_lightning are two class trees (package roots)")
def other_root(subject: Subject) -> None:
    """Train under pytorch_lightning too, where it is installed; the wrapper itself must not care."""
    if importlib.util.find_spec("pytorch_lightning") is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning as other

    module = module_of(subject, "lists", root=other)
    fit(subject, module, root=other, max_epochs=1)
    finite(module)
