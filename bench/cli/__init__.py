"""The command line: `krylearn demo | solve | train | bench | study | report | spectrum | warmup`.

One module per command describes its options and runs it; each imports what it needs when it runs, so that
`krylearn --help` is quick. Exit codes: 0 done (a solve converged), 1 done but not converged, not written, or a check
failed, 2 input that cannot be used, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import os
import traceback
from collections.abc import Sequence
from typing import NoReturn

from ..measure.console import UsageError
from ..measure.safe_output import printable, safe_output, say_error, true_code
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

NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)  # out of what others write for us
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
    with safe_output():
        return true_code(run_guarded(parser().parse_args(arguments)))


def run_guarded(options: argparse.Namespace) -> int:
    """Run a command; whatever goes wrong is one sentence and an exit code, with KRYLEARN_TRACEBACK=1 the traceback too.

    Examples
    --------
    >>> run_guarded(argparse.Namespace(run=lambda options: 0, command="solve"))
    0
    """
    from krylearn.solvers.files import NotWrittenError

    if options.command != "solve":  # what is measured, drawn or kept is to be the compiled kernels' work
        os.environ.setdefault("KRYLEARN_WAIT_FOR_KERNELS", "1")
    try:
        return options.run(options)
    except NotWrittenError as error:
        code, text = 1, str(error)
    except (UsageError, ImportError, ValueError, OSError) as error:  # ours say: got, expected, remedy
        code, text = 1 if getattr(error, "errno", None) in NO_ROOM else 2, str(error)
    except MemoryError:
        code, text = 1, "there is not enough memory for this"
    except KeyboardInterrupt as error:
        code, text = 130, str(error) or "stopped"
    except Exception as error:
        remedy = "please report it; KRYLEARN_TRACEBACK=1 shows where it comes from"
        code, text = 1, f"{type(error).__name__}: {error}; {remedy}"
    if os.environ.get("KRYLEARN_TRACEBACK"):
        traceback.print_exc()
    say_error(f"krylearn {options.command}: {text}")
    return code


class Parser(argparse.ArgumentParser):
    """A parser whose messages hold no control characters of what was typed."""

    def error(self, message: str) -> NoReturn:
        """Print the message and end with 2."""
        super().error(printable(message))


def parser() -> argparse.ArgumentParser:
    """Describe all commands.

    Examples
    --------
    >>> parser().parse_args(["demo", "--quick"]).quick
    True
    """
    top = Parser(prog="krylearn", description="Learned components for Krylov methods.")
    top.set_defaults(command="")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return top
