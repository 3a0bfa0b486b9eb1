"""The command line: `krylearn demo | solve | train | bench | study | report | spectrum | warmup`.

One module per command describes its options and runs it; each imports what it needs when it runs, so that
`krylearn --help` is quick. Exit codes: 0 done (a solve converged), 1 done but not converged, or a check failed, 2 input
that cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..measure.console import UsageError
from . import (
    bench_command,
    demo_command,
    report_command,
    solve_command,
    spectrum_command,
    study_command,
    train_command,
    warmup_command,
)

COMMANDS = (
    demo_command, solve_command, train_command, bench_command, study_command, report_command, spectrum_command,
    warmup_command,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str; those of the process by default

    Returns
    -------
    int : the exit code

    Examples
    --------
    >>> main(["solve", "no-such-file.mtx", "b.txt", "--shape", "4", "4"])
    2
    """
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except (UsageError, ImportError) as error:
        print(f"krylearn {options.command}: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Describe all commands.

    Examples
    --------
    >>> parser().parse_args(["demo", "--quick"]).quick
    True
    """
    top = argparse.ArgumentParser(prog="krylearn", description="Learned components for Krylov methods.")
    top.set_defaults(command="")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return top
