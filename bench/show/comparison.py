"""What differs between two runs: two record files, line by line, beyond the noise.

Counts (iterations, products, status) are exact: any difference counts. Times have a spread: a difference counts if the
ranges of the repeats do not overlap, and the medians differ by more than 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..measure.console import count, seconds

Lines = Sequence[dict[str, Any]]
KEY = ("experiment", "method", "problem", "shape", "seed", "tolerance", "dtype", "device", "threads")
THRESHOLD = 0.05
HEADER = ("system", "method", "what", "before", "after", "change")


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """Say what makes two lines comparable: everything but version, machine and date.

    Examples
    --------
    >>> key({"method": "cg", "shape": [2, 2]})[1:4]
    ('cg', None, (2, 2))
    """
    plain = tuple(tuple(v) if isinstance(v := line.get(name), list) else v for name in KEY)
    return (*plain, line.get("more", {}).get("part"))


def changes(before: Lines, after: Lines) -> list[tuple[str, ...]]:
    """List what changed beyond the noise, as rows under HEADER; of several runs in a file the last line counts.

    Examples
    --------
    >>> a = {"method": "cg", "problem": "box", "status": "CONVERGED", "iterations": 9.0, "solve_s": 1.0,
    ...      "spread_s": [0.9, 1.1]}
    >>> changes([a], [a | {"solve_s": 2.0, "spread_s": [1.9, 2.1]}])
    [('box', 'cg', 'solve', '1 s', '2 s', '2.00x')]
    >>> changes([a], [a | {"solve_s": 1.2, "spread_s": [1.0, 1.4]}])
    []
    """
    old, new = ({key(line): line for line in lines} for lines in (before, after))
    rows = []
    for found, line in new.items():
        if found in old:
            rows += [(_system(line), line["method"], *row) for row in _differences(old[found], line)]
    for missing, word in ((old.keys() - new.keys(), "only before"), (new.keys() - old.keys(), "only after")):
        lines = [old.get(k) or new[k] for k in missing]
        rows += sorted((_system(line), line["method"], word, "", "", "") for line in lines)
    return rows


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, ...]]:
    if a["status"] != b["status"]:
        return [("status", a["status"].lower(), b["status"].lower(), "")]
    rows: list[tuple[str, ...]] = []
    if a.get("products") != b.get("products"):
        rows.append(("products", str(a.get("products")), str(b.get("products")), ""))
    x, y = a.get("iterations"), b.get("iterations")
    if x and y and abs(x - y) > 0.05:
        rows.append(("iterations", count(x), count(y), f"{y - x:+.1f}"))
    if a.get("solve_s") and b.get("solve_s") and _apart(a, b):
        rows.append(("solve", seconds(a["solve_s"]), seconds(b["solve_s"]), f"{b['solve_s'] / a['solve_s']:.2f}x"))
    return rows


def _apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    low_a, high_a = a.get("spread_s") or (a["solve_s"],) * 2
    low_b, high_b = b.get("spread_s") or (b["solve_s"],) * 2
    far = abs(b["solve_s"] / a["solve_s"] - 1) > THRESHOLD
    return bool(far and (high_a < low_b or high_b < low_a))


def _system(line: dict[str, Any]) -> str:
    return f"{line['problem']} {' x '.join(map(str, line.get('shape', ())))}".strip()
