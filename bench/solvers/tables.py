"""What the pages show of a full `krylearn bench solvers` run: tables of its contests, and three pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from krylearn.solvers.files import write_bytes

from ..measure.console import seconds
from ..rivals.table import RANKS
from ..show import figures, profiles
from ..show.markdown import markdown
from . import contest

Lines = Sequence[dict[str, Any]]
FACTOR_NAMES = ("fastest", "within 2", "within 10")  # of the fastest: profiles.FACTORS
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


def profile_table(lines: Lines) -> str:
    """Write what every rival takes over all systems: shares within factors of the best, and mean ratios to ours."""
    found = [x for each in contests(lines).values() for x in each]
    ratios = profiles.best_ratios(found)
    header = ("method", *FACTOR_NAMES, "solved", "both / ours", "solve / ours")
    rows = []
    for method, factors in ratios.items():
        shares = [f"{sum(r <= f * (1 + 1e-9) for r in factors)} of {len(factors)}" for f in (*profiles.FACTORS, 1e300)]
        means = [_mean_with_interval(profiles.ratios_to(found, "krylearn", method, setup=s)) for s in (True, False)]
        rows.append((method, *shares, *(("1", "1") if method == "krylearn" else means)))
    return markdown(header, rows)


def _mean_with_interval(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    mean, low, high = profiles.mean_ratio(ratios)
    return f"{mean:.1f} ({low:.1f}-{high:.1f})"


AGAINST = ("system", "krylearn", "fastest rival", "takes", "both / ours", "fastest solve", "solve / ours")


def races(lines: Lines) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of each system on which the fastest rivals were measured; in older runs, everybody.

    Examples
    --------
    >>> races([{"problem": "box", "more": {"part": "tolerance"}}])
    {'box': [{'problem': 'box', 'more': {'part': 'tolerance'}}]}
    """
    found = [x for x in lines if x["more"].get("part") == "rivals"]
    each = {problem: [x for x in found if x["problem"] == problem] for problem in figures.names(found, "problem")}
    return each or contests(lines)


def fastest_table(lines: Lines) -> str:
    """Write per system what set-up and solve of ours take, and the fastest of all rivals, as wide as they can run."""
    found = [x for each in races(lines).values() for x in each]
    grids = ", ".join(dict.fromkeys(" x ".join(map(str, x["shape"])) for x in found if x.get("shape")))
    rows = markdown(AGAINST, _races(races(lines), "krylearn", lambda x: True))
    return f"**Set-up plus solve, {grids}, true residual {found[0]['tolerance']:g}**\n\n{rows}" if found else rows


def means_table(lines: Lines) -> str:
    """Write the geometric mean over all systems of what each rival takes relative to ours, the fastest rival first."""
    each = races(lines)
    found = [x for group in each.values() for x in group]
    rows = []
    for method in figures.names(found):
        solved = [x for x in found if x["method"] == method and contest.total(x) is not None]
        both = profiles.ratios_to(found, "krylearn", method, setup=True)
        if method.startswith("krylearn") or len(both) < 2:
            continue
        alone = profiles.ratios_to(found, "krylearn", method, setup=False)
        means = (_mean_with_interval(both), _mean_with_interval(alone))
        rows.append((profiles.mean_ratio(both)[0], (_named(solved[0]), f"{len(solved)} of {len(each)}", *means)))
    header = ("rival", "systems solved", "set-up + solve / ours", "solve / ours")
    return markdown(header, [row for _, row in sorted(rows, key=lambda pair: pair[0])])


def equal_width_table(lines: Lines) -> str:
    """Write ours against the fastest rival on as many threads or ranks: first on one, then on all."""
    parts = []
    for own, alone in (("krylearn 1 thread", True), ("krylearn", False)):
        rows = _races(contests(lines), own, _on_one if alone else _on_more)
        if rows:
            words = "1 thread against 1 thread or rank" if alone else "all threads against as many threads or ranks"
            parts.append(f"**{words}**\n\n{markdown(AGAINST, rows)}")
    return "\n\n".join(parts)


def _races(
    systems: dict[str, list[dict[str, Any]]], method: str, takes_part: Callable[[dict[str, Any]], bool]
) -> list[tuple[str, ...]]:
    """Find per system the rival with the least set-up plus solve, and the one with the fastest solve; rows of AGAINST.

    The last row has geometric means over the systems that both have solved.
    """
    rows, ratios = [], []
    for problem, found in systems.items():
        own = next((x for x in found if x["method"] == method), None)
        others = [x for x in found if x["status"] not in ("ABSENT", "UNSUITED") and takes_part(x)]
        others = [x for x in others if not x["method"].startswith("krylearn")]
        rivals = [(total, x) for x in others if (total := contest.total(x)) is not None]
        if own is None or not others:
            continue
        ours = contest.total(own)
        both, fastest = min(rivals, key=lambda pair: pair[0], default=(None, None))
        quickest = min((x for _, x in rivals), key=lambda x: x["solve_s"], default=None)
        cells = [_named(fastest), seconds(both), "-", _named(quickest), "-"]
        if ours and both and quickest:
            # pairs, timed in turns, are with krylearn on all its threads
            paired = quickest["more"].get("ratio", [None])[0] if method == "krylearn" else None
            ratios.append((both / ours, paired or quickest["solve_s"] / own["solve_s"]))
            cells[2], cells[4] = (f"{ratio:.1f}" for ratio in ratios[-1])
        rows.append((problem, seconds(ours) if ours else own["status"].lower(), *cells))
    if len(ratios) > 1:
        means = [f"{math.exp(sum(map(math.log, each)) / len(each)):.1f}" for each in zip(*ratios, strict=True)]
        rows.append((f"geometric mean of {len(ratios)}", "", "", "", means[0], "", means[1]))
    return rows


def _on_one(line: dict[str, Any]) -> bool:
    return contest.width(line).startswith("1 ")


def _on_more(line: dict[str, Any]) -> bool:
    return contest.width(line)[0].isdigit() and not _on_one(line)


def _named(line: dict[str, Any] | None) -> str:
    return f"{line['method'].removesuffix(RANKS)}, {contest.width(line)}" if line else "none converged"


def training_table(lines: Lines) -> str:
    """Write what training the network costs, and after how many systems that pays against the best untrained rule."""
    hours = trained_hours()
    rows = []
    for problem, found in contests(lines).items():
        totals = {x["method"]: contest.total(x) for x in found}
        learned = totals.get("krylearn")
        untrained = [t for m in ("krylearn resistor", "krylearn geometric") if (t := totals.get(m)) is not None]
        if learned is None or not untrained:
            continue
        gain = min(untrained) - learned
        pays = f"{math.ceil(3600 * hours / gain):,} systems" if gain > 0 else "never"
        rows.append((problem, seconds(learned), seconds(min(untrained)), seconds(abs(gain)), pays))
    header = ("system", "krylearn, both", "best untrained rule", "difference", "training pays after")
    return f"Training took {hours:.2f} hours of one thread, once for all systems.\n\n{markdown(header, rows)}"


def trained_hours(name: str = "3d-network-v1") -> float:
    """Read from the card of shipped weights how long training took.

    Examples
    --------
    >>> 0 < trained_hours() < 24
    True
    """
    card = resources.files("krylearn.solvers.multigrid") / "weights" / f"{name}.json"
    return float(json.loads(card.read_text(encoding="utf-8"))["hours"])


def pictures(lines: Lines) -> str:
    """Show in a page of docs/studies/ what `draw` leaves in docs/images.

    Examples
    --------
    >>> pictures([])
    ''
    """
    shown = ((name, text) for name, text, _, found in _drawings(lines) if _has_data(name, found))
    return "\n\n".join(f"![{text}](../images/{name}.png)" for name, text in shown)


def draw(lines: Lines, images: Path) -> None:
    """Draw time to tolerance, profiles, growth with size and digits, memory, and iterations into a folder."""
    for name, _, drawing, found in _drawings(lines):
        if _has_data(name, found):
            write_bytes(images / f"{name}.png", drawing(found))


def _has_data(name: str, lines: Lines) -> bool:
    timed = figures.timed_lines(lines)
    return any(x.get("peak_bytes") for x in timed) if name == "solvers-memory" else bool(timed)


def _drawings(lines: Lines) -> list[tuple[str, str, Callable[[Lines], bytes], Lines]]:
    """Name, what it shows, how it is drawn, and of what."""
    shown = [x for found in list(contests(lines).values())[:SHOWN] for x in found]
    parts = ("sizes", "families", "accuracy", "tolerance")
    sizes, families, digits, everything = ([x for x in lines if x["more"].get("part") == part] for part in parts)
    return [
        ("solvers-profiles", "Share of systems within a factor of the fastest", profiles.draw_profiles, everything),
        ("solvers-time", "Set-up and solve of every method on three systems", figures.time_to_tolerance, shown),
        ("solvers-accuracy", "Seconds against the tolerance of the true residual", profiles.draw_accuracy, digits),
        ("solvers-memory", "Bytes per unknown of every method on three systems", figures.memory, shown),
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
