"""The part of the command line about curvature: `krylearn bench curvature` and `krylearn spectrum`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., argparse.ArgumentParser]


def add_bench_curvature(experiments: Any, command: Command) -> None:
    """Describe `krylearn bench curvature`; `command` makes it.

    Examples
    --------
    >>> add_bench_curvature(argparse.ArgumentParser().add_subparsers(), lambda group, name, *_: group.add_parser(name))
    """
    text = "top eigenvalue and density of Hessians against PyHessian, curvlinops, hessian-eigenthings, at equal error"
    add = command(experiments, "curvature", _curvature, text).add_argument
    add("--quick", action="store_true", help="smaller networks, fewer seeds and pairs")
    add("--records", type=Path, help="file to append to (default: curvature.jsonl)")


def add_spectrum(commands: Any, command: Command) -> None:
    """Describe `krylearn spectrum`.

    Examples
    --------
    >>> add_spectrum(argparse.ArgumentParser().add_subparsers(), lambda group, name, *_: group.add_parser(name))
    """
    text = "the Hessian's spectrum at Lightning checkpoints: a picture, and the edges with their intervals"
    add = command(commands, "spectrum", _spectrum, text).add_argument
    add("checkpoints", type=Path, nargs="+", help="one or more of the same module, for instance through training")
    add("--module", required=True, metavar="WHERE:CLASS", help="LightningModule: package.module:Class or file.py:Class")
    add("--arguments", default="{}", metavar="JSON", help="of the module, where the checkpoint does not keep them")
    add("--data", metavar="WHERE:CLASS", help="LightningDataModule (default: the module's own train_dataloader)")
    add("--data-arguments", default="{}", metavar="JSON", help="of the data module")
    add("--loss", metavar="WHERE:NAME", help="loss(outputs, targets), as in torch.nn.functional:cross_entropy "
        "(default: what training_step returns)")  # fmt: skip
    add("--kind", choices=("hessian", "ggn"), default="hessian", help="ggn needs --loss")
    add("--samples", type=int, default=512, help="size of the curvature batch, from the first training batches")
    add("--micro-batch", type=int, help="samples at a time, where memory is short")
    add("--batchnorm", choices=("batch", "running", "ghost"), default="batch", help="statistics that BatchNorm uses")
    add("--steps", type=int, default=60, help="Lanczos steps of each probe")
    add("--probes", type=int, default=2, help="random probes; with one there is no error band")
    add("--seed", type=int, default=0, help="of the probes and of shuffled data")
    add("--device", default="cpu", help="torch device")
    add("--trust", action="store_true", help="unpickle everything in the checkpoint: only files that you made yourself")
    add("-o", "--output", type=Path, default=Path("spectrum.png"), help="picture to write")
    add("--records", type=Path, help="also append nodes and weights to this JSON-lines file")


def _curvature(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..studies.curvature.compare import run_curvature
    from .bench_command import HERE

    usual = HERE / "curvature.jsonl" if options.quick else records_of("curvature")
    run_curvature(quick=options.quick, output=options.records or usual)
    return 0


def _spectrum(options: argparse.Namespace) -> int:
    from .spectrum_command import run_spectrum

    run_spectrum(options)
    return 0
