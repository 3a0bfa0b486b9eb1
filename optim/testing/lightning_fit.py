"""A small Lightning module and a quiet trainer for the conventions; see `lightning`."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

try:
    import lightning.pytorch as pl
except ImportError as error:
    raise ImportError('the Lightning conventions need Lightning: pip install "krylearn[train]"') from error

from .subject import Subject

BATCHES = 6


def module_of(subject: Subject, form: str = "optimizer", manual: bool = False, root: Any = pl) -> Any:
    """Return a small classifier that configures its optimizer in one of Lightning's forms."""

    class Net(root.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.batch_size, self.lr, self.calls = 8, 0.05, 0
            self.automatic_optimization = not manual
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(17)
                self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

        def curvature_step(self, batch: Any) -> tuple[Tensor, Tensor]:
            out = self.net(batch[0])
            return out, nn.functional.cross_entropy(out, batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.calls += 1
            loss = self.curvature_step(batch)[1]
            self.log("loss", loss)
            if not manual:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None

        def configure_optimizers(self) -> Any:
            optimizer = subject.make(self.parameters(), lr=self.lr)
            scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step))
            full = {"scheduler": scheduler, "interval": "step", "frequency": 1, "name": "decay"}
            return {
                "optimizer": optimizer, "list": [optimizer], "lists": ([optimizer], [full]),
                "dict": {"optimizer": optimizer, "lr_scheduler": full},
                "dicts": ({"optimizer": optimizer, "lr_scheduler": full},),
            }[form]  # fmt: skip

        def train_dataloader(self) -> Any:
            generator = torch.Generator().manual_seed(3)
            x = torch.randn(8 * BATCHES, 4, generator=generator)
            return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=self.batch_size)

    return Net()


def fit(
    subject: Subject,
    module: Any,
    callbacks: tuple = (),
    root: Any = pl,
    resume: Any = None,
    use: Callable[[Any, Any], Any] | None = None,
    **options: Any,
) -> Any:
    """Train quietly in a folder of its own; returns the trainer."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    quiet |= {"logger": False, "enable_checkpointing": False, "max_epochs": 2}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = subject.callbacks() if root is pl else []
        trainer = root.Trainer(**quiet | {"default_root_dir": folder} | options, callbacks=[*own, *callbacks])
        if use is not None:
            use(trainer, module)
        else:
            trainer.fit(module, ckpt_path=resume)
    return trainer


def finite(module: Any) -> None:
    """Ask for finite weights."""
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters()), "weights are not finite"


def weights(module: Any) -> Tensor:
    """Return all parameters in one vector."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])
