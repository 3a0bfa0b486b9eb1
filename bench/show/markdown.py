"""Tables as Markdown, and the line below a table that says where its numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table as Markdown, numbers to the right.

    Examples
    --------
    >>> print(markdown(["name", "s"], [["cg", "1"]]))
    | name | s |
    |---|---:|
    | cg | 1 |
    """
    rule = "|---" + "|---:" * (len(header) - 1) + "|"
    return "\n".join(["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)])


def provenance(lines: Sequence[dict[str, Any]]) -> str:
    """Say where a run comes from: machine, threads, versions, commit, date.

    Examples
    --------
    >>> machine = {"cpu": "X", "cores": 2, "python": "3.11", "versions": {"numpy": "2.0", "pyamg": None}}
    >>> provenance([{"machine": machine, "threads": 2, "commit": "abc", "date": "2026-01-01"}])
    'X, 2 threads of 2 cores; Python 3.11, numpy 2.0; commit abc, 2026-01-01'
    """
    line = lines[-1]
    machine = line["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    threads = max(each["threads"] for each in lines)  # rivals on one thread say 1
    where = f"{machine['cpu']}, {threads} threads of {machine['cores']} cores"
    return f"{where}; Python {machine['python']}, {versions}; commit {line['commit'] or 'unknown'}, {line['date']}"
