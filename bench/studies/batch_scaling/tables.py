"""The batch-scaling study as tables: measured optima, how far each rule is from them, where `auto` may be believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from krylearn.optim.batch_size.rule_choice import RULES

from ...measure.console import console, table
from ...measure.record import latest, read
from ...show.markdown import markdown
from .facts import run_facts
from .grid import BASE, run_study
from .rules import CLOSE, SHOWN, Lines, distances, excess, facts_at_base, optima, valid_sizes, worst


def optima_rows(lines: Lines) -> list[list[str]]:
    """Write the measured optima: one row per task and method, one column per batch size.

    Examples
    --------
    >>> optima_rows([])
    []
    """
    rows = []
    for (task, method), best in optima(lines, draws=200).items():
        cells = {b: f"{each.lr:.3g} ± {100 * each.error:.0f} %" for b, each in best.items()}
        rows.append([f"{method}, {task}", *(cells.get(b, "-") for b in _measured(lines))])
    return rows


def rule_rows(lines: Lines) -> list[list[str]]:
    """Write how far rules are off: for every task the worst factor over all sizes, and at how many it is within 1.5.

    Examples
    --------
    >>> rule_rows([])
    []
    """
    rows = []
    for method, rules in SHOWN.items():
        found = optima(lines)
        for rule in rules if any(m == method for _, m in found) else ():
            row = [f"{method}, {rule}"]
            for task in _tasks(lines):
                best = found.get((task, method))
                off = distances(lines, task, method, rule, best) if best else {}
                count = sum(worst([r]) <= CLOSE for r in off.values())
                row.append(f"{worst(list(off.values())):.2f} ({count} of {len(off)})" if off else "-")
            rows.append(row)
    return rows


def auto_rows(lines: Lines) -> list[list[str]]:
    """Write `auto`'s lr over the optimum at every size, in brackets where it is not declared valid; then the verdict.

    Examples
    --------
    >>> auto_rows([])
    []
    """
    rows = []
    for (task, method), best in optima(lines).items():
        off = distances(lines, task, method, "auto", best)
        valid = valid_sizes(lines, task, method, list(best))
        right = sum(worst([off[b]]) <= CLOSE for b in valid)
        cells = {b: f"{r:.2f}" if b in valid else f"({r:.2f})" for b, r in off.items()}
        noise = facts_at_base(lines, task, method, BASE).noise_scale
        scale = "?" if noise is None else f"{noise:.3g}"
        row = [f"{method}, {task}", scale, *(cells.get(b, "-") for b in _measured(lines))]
        rows.append([*row, f"{right} of {len(valid)}"])
    return rows


def cost_rows(lines: Lines) -> list[list[str]]:
    """Write what `auto`'s lr costs: held-out loss above the lowest, in percent.

    Examples
    --------
    >>> cost_rows([])
    []
    """
    rows = []
    for (task, method), best in optima(lines).items():
        off = distances(lines, task, method, "auto", best)
        costs = {b: excess(lines, task, method, b, off[b] * best[b].lr) for b in best}
        cells = {b: "off the grid" if cost is None else f"{100 * cost:.1f} %" for b, cost in costs.items()}
        rows.append([f"{method}, {task}", *(cells.get(b, "-") for b in _measured(lines))])
    return rows


def pair_rows(lines: Lines) -> list[list[str]]:
    """Write how `auto` does from every other base: pairs of sizes it vouches for, within 1.5, the worst factor.

    The noise scale is the one measured at the base of the study.

    Examples
    --------
    >>> pair_rows([])
    []
    """
    rows = []
    for (task, method), best in optima(lines).items():
        told = facts_at_base(lines, task, method, BASE)
        off = []
        for old in best:
            for new in best:
                change = RULES["auto"](replace(told, old_batch=old, new_batch=new))
                if change.valid and new != old:
                    off.append(best[old].lr * change.lr / best[new].lr)
        if off:
            count = sum(worst([r]) <= CLOSE for r in off)
            rows.append([f"{method}, {task}", str(len(off)), str(count), f"{worst(off):.2f}"])
    return rows


def _measured(lines: Lines) -> list[int]:
    return sorted({line["more"]["batch"] for line in lines if line["more"]["kind"] == "grid"})


def _sizes(lines: Lines) -> list[str]:
    return [f"B = {b}" for b in _measured(lines)]


def _tasks(lines: Lines) -> list[str]:
    return list(dict.fromkeys(line["problem"] for line in lines if line["more"]["kind"] == "grid"))


# name -> (title, first columns, rows); what `krylearn report` and the terminal show
VIEWS: dict[str, tuple[str, Callable[[Lines], list[str]], Callable[[Lines], list[list[str]]]]] = {
    "optima": (
        "lr with the lowest held-out loss after the same samples, and its standard deviation over seeds",
        lambda lines: ["", *_sizes(lines)],
        optima_rows,
    ),
    "rules": (
        f"Largest factor between a rule's lr (from B = {BASE}) and the optimum, over all batch sizes; in brackets at "
        f"how many it is within {CLOSE}",
        lambda lines: ["", *_tasks(lines)],
        rule_rows,
    ),
    "auto": (
        f"`auto` from B = {BASE}: its lr over the measured optimum; in brackets where it does not vouch; how many of "
        f"those it vouches for are within {CLOSE}",
        lambda lines: ["", "B_n", *_sizes(lines), "right"],
        auto_rows,
    ),
    "cost": (
        f"`auto` from B = {BASE}: held-out loss at its lr above that at the best lr of the same batch size",
        lambda lines: ["", *_sizes(lines)],
        cost_rows,
    ),
    "pairs": (
        f"`auto` from every batch size to every other that it vouches for: pairs, within {CLOSE}, largest factor",
        lambda lines: ["", "pairs", "within", "worst"],
        pair_rows,
    ),
}


def table_of(view: str) -> Callable[[Lines], str]:
    """Return what writes one of VIEWS as Markdown.

    Examples
    --------
    >>> print(table_of("pairs")([]).splitlines()[2])
    |  | pairs | within | worst |
    """
    title, header, rows = VIEWS[view]

    def write(lines: Lines) -> str:
        return f"**{title}**\n\n{markdown(header(lines), rows(lines))}"

    return write


def run_batch_scaling(*, output: Path, png: Path | None = None, **given: Any) -> None:
    """Measure optima and facts, where they are not yet recorded, and print the tables; `given` goes to `run_study`.

    Examples
    --------
    >>> run_batch_scaling(output=Path("batch_scaling.jsonl"), tasks=["digits"])         # doctest: +SKIP
    """
    run_study(output=output, **given)
    run_facts(given.get("tasks"), given.get("methods"), output=output)
    lines = latest(read(output))
    for title, header, rows in VIEWS.values():
        console.print(table(title, header(lines), rows(lines)))
    if png is not None:
        from .figure import scaling_figure

        scaling_figure(lines, png)
        console.print(f"picture: {png}")
