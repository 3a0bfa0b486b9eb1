"""`krylearn warmup`: its options."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_command


def add_to(commands: Any) -> None:
    """Describe `krylearn warmup`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    add_command(commands, "warmup", run_warmup, "compile the kernels now, so that the first solve need not")


def run_warmup(options: argparse.Namespace) -> int:
    """Compile every kernel; 1 if there is no place to keep them."""
    from ..solvers.warmup import warmup

    return 0 if warmup() else 1
