"""What several commands share: how one is described, and options that mean the same everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path("krylearn-records")  # of quick runs and of systems out of files: not what a release is judged by
RULES = ("geometric", "resistor", "tuned", "pieces")
WEIGHTS = "of the preconditioner: a file, geometric, resistor, tuned or pieces (default: the shipped network)"

Run = Callable[[argparse.Namespace], int]


def add_command(commands: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """Describe one command of a group of sub-commands; `run` takes the parsed options and returns the exit code.

    Examples
    --------
    >>> commands = argparse.ArgumentParser().add_subparsers()
    >>> add_command(commands, "warmup", lambda options: 0, "compile the kernels now").get_default("command")
    'warmup'
    """
    made = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.set_defaults(run=run, command=name)
    return made


def check_weights(value: str) -> str:
    """Accept the name of a rule, or a file of weights that can be read: found out before any work is done.

    Examples
    --------
    >>> check_weights("resistor")
    'resistor'
    """
    if value in RULES:
        return value
    from krylearn.solvers.multigrid.weight_files import load_weights

    try:
        load_weights(value)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{error}; or one of {', '.join(RULES)}") from error
    return value


def check_device(name: str) -> str:
    """Accept a device that torch sees here.

    Examples
    --------
    >>> check_device("cpu")
    'cpu'
    """
    import torch

    from ..measure.console import UsageError

    if name != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"got device {name}, but torch sees no CUDA device; expected cpu on this machine")
    return name
