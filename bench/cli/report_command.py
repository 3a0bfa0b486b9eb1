"""`krylearn report`: README, pages and the HTML report, written again from records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_command


def add_to(commands: Any) -> None:
    """Describe `krylearn report`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    text = "write the tables of README and docs, and docs/images, again from the committed records"
    add = add_command(commands, "report", run_report, text).add_argument
    add("--check", action="store_true", help="change nothing; exit with 1 if a page differs from the records")
    add("--html", type=Path, help="instead: write a self-contained page about the last run of a record file")
    add(
        "--records",
        type=Path,
        default=Path("krylearn-records/solvers.jsonl"),
        help="of the page; a folder: the last runs of several machines together",
    )
    add("--before", type=Path, help="older records: the page says what changed beyond the noise")
    add("--png", type=Path, help="folder that gets the page's figures as files too")


def run_report(options: argparse.Namespace) -> int:
    """Write the HTML report, or README, pages and pictures."""
    if options.html or options.records.is_dir():
        from ..report.html import write_page

        write_page(
            options.html or Path("krylearn-report.html"), options.records, before=options.before, pictures=options.png
        )
        return 0
    from ..report.readme import write_report

    return write_report(check=options.check)
