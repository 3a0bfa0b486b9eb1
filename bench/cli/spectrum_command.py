"""`krylearn spectrum`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_command, check_count


def add_to(commands: Any) -> None:
    """Describe `krylearn spectrum`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    text = "the Hessian's spectrum at Lightning checkpoints: a picture, and the edges with their intervals"
    add = add_command(commands, "spectrum", run_spectrum, text).add_argument
    add("checkpoints", type=Path, nargs="+", help="one or more of the same module, for instance through training")
    add("--module", required=True, metavar="WHERE:CLASS", help="LightningModule: package.module:Class or file.py:Class")
    add("--arguments", default="{}", metavar="JSON", help="of the module, where the checkpoint does not keep them")
    add("--data", metavar="WHERE:CLASS", help="LightningDataModule (default: the module's own train_dataloader)")
    add("--data-arguments", default="{}", metavar="JSON", help="of the data module")
    add("--loss", metavar="WHERE:NAME", help="loss(outputs, targets), as in torch.nn.functional:cross_entropy "
        "(default: what training_step returns)")  # fmt: skip
    add("--kind", choices=("hessian", "ggn"), default="hessian", help="ggn needs --loss")
    add("--samples", type=check_count, default=512, help="size of the curvature batch, from the first training batches")
    add("--micro-batch", type=check_count, help="samples at a time, where memory is short")
    add("--batchnorm", choices=("batch", "running", "ghost"), default="batch", help="statistics that BatchNorm uses")
    add("--steps", type=check_count, default=60, help="Lanczos steps of each probe")
    add("--probes", type=check_count, default=2, help="random probes; with one there is no error band")
    add("--seed", type=int, default=0, help="of the probes and of shuffled data")
    add("--device", default="cpu", help="torch device")
    add("--trust", action="store_true", help="unpickle everything in the checkpoint: only files that you made yourself")
    add("-o", "--output", type=Path, default=Path("spectrum.png"), help="picture to write")
    add("--records", type=Path, help="also append nodes and weights to this JSON-lines file")


def run_spectrum(options: argparse.Namespace) -> int:
    """Measure the spectra of the checkpoints."""
    from ..optim.checkpoint_spectra import run_spectrum as measure

    measure(options)
    return 0
