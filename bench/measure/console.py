"""What the commands print: one console, one kind of table, one way to write a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .safe_output import drop_output, lose_output, printable


class SafeConsole(Console):
    """A console that shows text as it is and never ends a command: results are in files before they are printed.

    Names of files are no markup, and their control characters are shown as escapes. Where nobody reads any more
    (`krylearn ... | head`) or nothing can be written (a full disk; exit code 1), the rest is dropped.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; texts are made printable first."""
        try:
            super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **options)
        except OSError as error:
            self.quiet = True
            lose_output(error)

    def on_broken_pipe(self) -> None:
        """Go on without a reader."""
        self.quiet = True
        drop_output()


console = SafeConsole(markup=False, emoji=False)


class UsageError(Exception):
    """Input that a command cannot use: the command line prints the message and exits with 2."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str | None = None) -> Table:
    """Make a table: the first column is names, the others are numbers.

    Examples
    --------
    >>> table("t", ["name", "s"], [["cg", 1.0]]).row_count
    1
    """
    caption = caption and printable(caption)
    made = Table(title=printable(title), caption=caption, title_justify="left", caption_justify="left")
    for k, column in enumerate(columns):
        made.add_column(printable(column), justify="right" if k else "left", no_wrap=not k)
    for row in rows:
        made.add_row(*[printable(str(cell)) for cell in row])
    return made


def progress() -> Progress:
    """Make the progress bar of the long commands: what, bar, count, elapsed, remaining, and one free text.

    Examples
    --------
    >>> with progress() as bar:                                    # doctest: +SKIP
    ...     task = bar.add_task("frames", total=3, note="")
    """
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False), console=console,
    )  # fmt: skip


def seconds(value: float | None) -> str:
    """Write a time with three significant digits; "-" where there is none.

    Examples
    --------
    >>> seconds(0.01234), seconds(12.345), seconds(None)
    ('12.3 ms', '12.3 s', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    if value >= 0.1:
        return f"{value:.3g} s"
    return f"{1e3 * value:.3g} ms" if value >= 1e-4 else f"{1e6 * value:.3g} us"


def count(value: float | None) -> str:
    """Write a number of iterations with one decimal; "-" where there is none.

    Examples
    --------
    >>> count(7.25), count(None)
    ('7.2', '-')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"
