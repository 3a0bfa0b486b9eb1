"""The table of `krylearn study curvature`: one row per network and library, ours/theirs at equal error, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...measure.console import seconds

HEADER = (
    "network", "library", "one product", "top to 1 %", "top to 0.1 %", "density, 80 products: error",
    "theirs / ours at equal error: top 1 %", "top 0.1 %", "density", "why less than 1.5",
)  # fmt: skip


def rows(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Write records as rows under HEADER.

    Examples
    --------
    >>> line = {"method": "krylearn", "problem": "mlp", "unknowns": 10, "products": 5, "solve_s": 1.0,
    ...         "tolerance": 0.01, "status": "CONVERGED", "more": {"part": "top", "product_s": 0.1, "error": 0.001}}
    >>> rows([line])[0][:4]
    ['mlp, 10 parameters', 'krylearn', '0.1 s', '5: 1 s']
    """
    made = []
    for problem, method in dict.fromkeys((line["problem"], line["method"]) for line in lines):
        found = {_part(x): x for x in lines if (x["problem"], x["method"]) == (problem, method)}
        some = next(iter(found.values()))
        tops = [_top(found.get(("top", target))) for target in (1e-2, 1e-3)]
        density = found.get(("density", 0.0))
        error = f"{density['more']['error']:.1e} in {seconds(density['solve_s'])}" if density else "-"
        parts = [found.get(key) for key in (("top", 1e-2), ("top", 1e-3), ("density", 0.0))]
        ratios = ["" if method == "krylearn" else _ratio(x) for x in parts]
        name = f"{problem}, {some['unknowns']:,} parameters"
        why = "" if method == "krylearn" else _why(parts)
        made.append([name, method, seconds(some["more"]["product_s"]), *tops, error, *ratios, why])
    return made


def _part(line: dict[str, Any]) -> tuple[str, float]:
    return line["more"]["part"], line["tolerance"]


def _top(line: dict[str, Any] | None) -> str:
    if line is None:
        return "-"
    if line["status"] != "CONVERGED":
        return f"no: {100 * line['more']['error']:.2g} % off"
    return f"{line['products']}: {seconds(line['solve_s'])}"


def _ratio(line: dict[str, Any] | None) -> str:
    if line is None:
        return "-"
    if "ratio" not in line["more"]:
        return "never"
    middle, low, high = line["more"]["ratio"]
    return f"**{middle:.2g}** ({low:.2g} to {high:.2g})"


def _why(lines: Sequence[dict[str, Any] | None]) -> str:
    """Say what the factors of a ratio below 1.5 are; and if the products are not the Hessian's."""
    notes = []
    for line in lines:
        more = line["more"] if line else {}
        if "ratio" in more and more["ratio"][0] < 1.5 and line:
            notes.append(f"{_name(line)}: {line['products']} products against our {more['our_products']}")
    off = max((line["more"].get("product_error") or 0.0 for line in lines if line), default=0.0)
    if off > 1e-3:
        notes.append(f"its product is {100 * off:.1f} % off")
    return "; ".join(notes)


def _name(line: dict[str, Any]) -> str:
    return "density" if line["more"]["part"] == "density" else f"top {100 * line['tolerance']:g} %"
