"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


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
