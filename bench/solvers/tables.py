"""What the pages show of a full `krylearn bench solvers` run: tables of its contests, and three pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from krylearn.solvers.files import write_bytes

from ..measure.console import seconds
from ..show import figures
from ..show.markdown import markdown
from . import contest

Lines = Sequence[dict[str, Any]]
SHOWN = 3  # systems side by side in a picture


def contests(lines: Lines) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each system on which everybody was measured.

    Examples
    --------
    >>> contests([{"problem": "box", "more": {"part": "tolerance"}}, {"problem": "box", "more": {"part": "sizes"}}])
    {'box': [{'problem': 'box', 'more': {'part': 'tolerance'}}]}
    """
    found = [x for x in lines if x["more"].get("part") == "tolerance"]
    return {problem: [x for x in found if x["problem"] == problem] for problem in figures.names(found, "problem")}


def contest_tables(lines: Lines) -> str:
    """Write one table per system, and below them who is missing and why."""
    parts: list[str] = []
    missing: dict[str, str] = {}
    for found in contests(lines).values():
        there = [x for x in found if x["status"] not in ("ABSENT", "UNSUITED", "FAILED")]
        missing |= {x["method"]: x["more"].get("reason") or x["config"] for x in found if x not in there}
        if there:
            parts.append(f"**{contest.title(there)}**\n\n{markdown(contest.HEADER, contest.summary(there))}")
    if missing:
        listed = "\n".join(f"* {method}: {why}" for method, why in missing.items())
        parts.append(f"Not measured, or not on every system:\n\n{listed}")
    return "\n\n".join(parts)


def break_even_tables(lines: Lines) -> str:
    """Write from how many solves with one matrix on a rival is cheaper, one table per system."""
    timed = figures.timed_lines([x for found in contests(lines).values() for x in found])
    return "\n\n".join(
        f"**{table['caption']}**\n\n{markdown(table['header'], table['rows'])}" for table in break_even(timed)
    )


def break_even(lines: Lines) -> list[dict[str, Any]]:
    """From how many solves with one matrix on is a rival cheaper than ours, set-up included.

    Examples
    --------
    >>> facts = {"problem": "box", "shape": [2, 2], "unknowns": 4, "tolerance": 1e-6}
    >>> ours = facts | {"method": "krylearn", "setup_s": 1.0, "solve_s": 2.0}
    >>> fast = facts | {"method": "cholesky", "setup_s": 9.0, "solve_s": 1.0}
    >>> break_even([ours, fast])[0]["rows"]
    [('cholesky', '9 s', '1 s', 'from 9 solves on')]
    """
    tables = []
    for problem in figures.names(lines, "problem"):
        found = {x["method"]: x for x in lines if x["problem"] == problem}
        own = found.pop("krylearn", None)
        if own:
            rows = [
                (name, seconds(x["setup_s"]), seconds(x["solve_s"]), _crossing(own, x))
                for name, x in found.items() if not name.startswith("krylearn")
            ]  # fmt: skip
            header = ("method", "set-up", "solve", "cheaper than krylearn")
            tables.append({"caption": contest.title([own]), "header": header, "rows": rows})
    return tables


def pictures(lines: Lines) -> str:
    """Show in a page of docs/studies/ what `draw` leaves in docs/images.

    Examples
    --------
    >>> pictures([])
    ''
    """
    shown = ((name, text) for name, text, _, found in _drawings(lines) if figures.timed_lines(found))
    return "\n\n".join(f"![{text}](../images/{name}.png)" for name, text in shown)


def draw(lines: Lines, images: Path) -> None:
    """Draw time to tolerance, growth with size, and the heat map of iterations into a folder."""
    for name, _, drawing, found in _drawings(lines):
        if figures.timed_lines(found):
            write_bytes(images / f"{name}.png", drawing(found))


def _drawings(lines: Lines) -> list[tuple[str, str, Callable[[Lines], bytes], Lines]]:
    """Name, what it shows, how it is drawn, and of what."""
    shown = [x for found in list(contests(lines).values())[:SHOWN] for x in found]
    sizes, families = ([x for x in lines if x["more"].get("part") == part] for part in ("sizes", "families"))
    return [
        ("solvers-time", "Set-up and solve of every method on three systems", figures.time_to_tolerance, shown),
        ("solvers-sizes", "Nanoseconds per unknown against size, with the roofline", figures.nanoseconds, sizes),
        ("solvers-families", "Iterations of every method on every family", figures.heat_map, families),
    ]


def _crossing(own: dict[str, Any], other: dict[str, Any]) -> str:
    more = (other["setup_s"] or 0.0) - (own["setup_s"] or 0.0)
    gain = own["solve_s"] - other["solve_s"]
    if gain <= 0:
        first = more + other["solve_s"] < own["solve_s"]
        return "never" if not first else f"for up to {int(more / gain)} solve(s)" if gain < 0 else "always"
    return "always" if more < 0 else f"from {int(more / gain) + 1} solves on"
