"""What several commands share: how one is described, and options that mean the same everywhere."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path("krylearn-records")  # of quick runs and of systems out of files: not what a release is judged by
RULES = ("geometric", "resistor", "tuned", "pieces", "untrained pieces")
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


def add_group(commands: Any, name: str, help: str, text: str, title: str, metavar: str) -> Any:
    """Describe a command that has commands of its own, and lists them where none is given; return where they go.

    Examples
    --------
    >>> groups = argparse.ArgumentParser().add_subparsers()
    >>> made = add_group(groups, "bench", "measure", "Measure.", "experiments", "EXPERIMENT")
    >>> made.add_parser("noise").prog.split()[-2:]
    ['bench', 'noise']
    """
    group = commands.add_parser(name, help=help, description=text)

    def print_help(options: argparse.Namespace) -> int:
        group.print_help()
        return 0

    group.set_defaults(run=print_help, command=name)
    return group.add_subparsers(title=title, metavar=metavar)


def check_weights(value: str) -> str:
    """Accept the name of a rule, or a file of weights that can be read: found out before any work is done.

    Examples
    --------
    >>> check_weights("resistor")
    'resistor'
    """
    if value in RULES:
        return value
    from krylearn.solvers.multigrid.step_sizes import ARCHITECTURE, load_steps
    from krylearn.solvers.multigrid.weight_files import architecture_of, load_weights

    try:
        (load_steps if architecture_of(value) == ARCHITECTURE else load_weights)(value)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{error}; or one of {', '.join(RULES)}") from error
    return value


def check_count(text: str) -> int:
    """Accept a whole number of at least 1.

    Examples
    --------
    >>> check_count("64")
    64
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of at least 1")
    return value


def check_tolerance(text: str) -> float:
    """Accept a tolerance: finite, and not negative.

    Examples
    --------
    >>> check_tolerance("1e-8")
    1e-08
    """
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number of at least 0, such as 1e-6")
    return value


def check_rate(text: str) -> float:
    """Accept a learning rate: finite and positive.

    Examples
    --------
    >>> check_rate("0.01")
    0.01
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a positive number, such as 1e-3")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


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
