"""The table of `krylearn study published`: what each method costs, and after how many solves its training has paid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from ...measure.console import count, seconds

HEADER = (
    "method",
    "iterations",
    "set-up",
    "solve",
    "memory",
    "training (core hours)",
    "pays after, against CG",
    "against the best untrained",
)
BASELINE = "krylearn CG"
Lines = Sequence[dict]


def rows(lines: Lines) -> list[list[str]]:
    """Rows of text for the records of one size: means of iterations, medians of the rest over scenes.

    Examples
    --------
    >>> facts = {"status": "CONVERGED", "setup_s": 0.0, "iterations": 9.0, "peak_bytes": 10**6}
    >>> trained = {"method": "learned", "solve_s": 1.0, "more": {"training_hours": 1.0}}
    >>> rows([{"method": BASELINE, "solve_s": 2.0, "more": {}} | facts, trained | facts])[1][-3:]
    ['1', '3,600 solves', '3,600 solves']
    """
    methods = {name: [x for x in lines if x["method"] == name] for name in dict.fromkeys(x["method"] for x in lines)}
    untrained = [total(found) for found in methods.values() if "training_hours" not in found[0]["more"]]
    best = min((t for t in untrained if t is not None), default=None)
    plain = total(methods.get(BASELINE, []))
    return [row(name, found, plain, best) for name, found in methods.items()]


def row(name: str, found: Lines, plain: float | None, best: float | None) -> list[str]:
    """Write one method's row."""
    failed = next((x["status"].lower() for x in found if x["status"] != "CONVERGED"), None)
    hours = found[0]["more"].get("training_hours")
    if failed:
        empty = ["-"] * (len(HEADER) - 2)
        return [name, failed, *empty]
    trained = "-" if hours is None else f"{hours:.2g}"
    return [
        name,
        count(statistics.fmean(x["iterations"] for x in found)),
        seconds(middle(found, "setup_s")),
        seconds(middle(found, "solve_s")),
        megabytes(middle(found, "peak_bytes")),
        trained,
        break_even(hours, total(found), plain),
        break_even(hours, total(found), best),
    ]


def total(found: Lines) -> float | None:
    """Median of set-up plus solve over the scenes; None if one failed or nothing was timed."""
    times = [(x["setup_s"], x["solve_s"]) for x in found]
    if not times or any(part is None for pair in times for part in pair):
        return None
    return statistics.median(a + b for a, b in times)


def middle(found: Lines, name: str) -> float | None:
    """Median of what was measured."""
    values = [x[name] for x in found if x.get(name) is not None]
    return statistics.median(values) if values else None


def megabytes(value: float | None) -> str:
    """Write bytes as megabytes.

    >>> megabytes(2_560_000), megabytes(None)
    ('2.6 MB', '-')
    """
    return "-" if value is None else f"{value / 1e6:.1f} MB" if value < 1e8 else f"{value / 1e6:.0f} MB"


def break_even(hours: float | None, own: float | None, other: float | None) -> str:
    """Count the solves after which the training has paid against another method; "never" where each is slower.

    >>> break_even(1.0, 0.5, 1.0), break_even(1.0, 2.0, 1.0), break_even(None, 1.0, 1.0)
    ('7,200 solves', 'never', '-')
    """
    if hours is None or own is None or other is None:
        return "-"
    return "never" if own >= other else f"{math.ceil(3600 * hours / (other - own)):,} solves"


def title(lines: Lines) -> str:
    """Name the systems of one size.

    >>> title([{"problem": "neumann", "shape": [8, 8, 8], "tolerance": 1e-4, "seed": 0, "more": {"rhs": "white"}}])
    'neumann, 8 x 8 x 8, 1 scene, white right-hand side, true relative residual 0.0001'
    """
    first, scenes = lines[0], len({line["seed"] for line in lines})
    grid = " x ".join(map(str, first["shape"]))
    several = f"{scenes} scene{'s' if scenes > 1 else ''}"
    rhs = first["more"]["rhs"]
    return (
        f"{first['problem']}, {grid}, {several}, {rhs} right-hand side, true relative residual {first['tolerance']:g}"
    )


def groups(lines: Lines) -> list[list[dict]]:
    """Part records by family, right-hand side and size."""

    def key(line: dict) -> tuple[str, str, int]:
        return line["problem"], line["more"]["rhs"], line["shape"][0]

    return [[x for x in lines if key(x) == k] for k in dict.fromkeys(map(key, lines))]


def blocks(lines: Lines, markdown: Callable[[Sequence[str], Sequence[Sequence[str]]], str]) -> str:
    """Write one table per family, right-hand side and size for a page."""
    return "\n\n".join(f"**{title(found)}**\n\n{markdown(HEADER, rows(found))}" for found in groups(lines))


COUNTS = ("scenes, right-hand side", "cells per axis", "method", "iterations", "of plain CG's", "of those at half size")


def counted(lines: Lines) -> list[list[str]]:
    """Mean iterations over scenes, as a part of plain CG's, and against the grid of half the size.

    Examples
    --------
    >>> base = {"problem": "neumann", "status": "CONVERGED", "seed": 0, "more": {"rhs": "white"}}
    >>> facts = ((32, BASELINE, 100.0), (32, "DCDM", 10.0), (64, BASELINE, 200.0), (64, "DCDM", 15.0))
    >>> counted([base | {"shape": [n], "method": m, "iterations": k} for n, m, k in facts])[-1]
    ['neumann, white', '64', 'DCDM', '15.0', '0.07', '1.50']
    """
    means = {}
    for found in groups(lines):
        for name in dict.fromkeys(x["method"] for x in found):
            own = [x for x in found if x["method"] == name]
            good = all(x["status"] == "CONVERGED" for x in own)
            place = found[0]["problem"], found[0]["more"]["rhs"], found[0]["shape"][0]
            means[place, name] = statistics.fmean(x["iterations"] for x in own) if good else None
    table = []
    for ((family, kind, size), name), mean in means.items():
        plain = means.get(((family, kind, size), BASELINE))
        half = means.get(((family, kind, size // 2), name))
        row = [f"{family}, {kind}", str(size), name]
        row.append("not converged" if mean is None else count(mean))
        row += ["-" if not mean or not other else f"{mean / other:.2f}" for other in (plain, half)]
        table.append(row)
    return table
