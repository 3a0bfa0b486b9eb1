"""The figures of the HTML report, from record lines to PNG bytes; readable without colour."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..measure.console import seconds
from .pictures import _plain_ticks, _pyplot, _quiet

Lines = Sequence[dict[str, Any]]
COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#555555", "#D55E00", "#56B4E9", "#8C6D00", "#7030A0", "#A52A2A",
    "#006400", "#000000",
)  # fmt: skip
MARKERS, STYLES, HATCHES = "os^Dv<>PX*", ("-", "--", "-.", ":"), ("", "//", "\\\\", "xx", "..", "--", "++", "oo")


def look(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Colour, marker, line style and hatch of a method, by its place among the methods.

    Examples
    --------
    >>> look("b", ["a", "b"])["marker"]
    's'
    """
    k = list(methods).index(method)
    return {
        "color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "linestyle": STYLES[k % len(STYLES)],
        "hatch": HATCHES[k % len(HATCHES)],
    }  # fmt: skip


def png(figure: Any) -> bytes:
    """Draw and close a figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    _pyplot().close(figure)
    return stream.getvalue()


def timed_lines(lines: Lines) -> list[dict[str, Any]]:
    """Lines that have a time.

    Examples
    --------
    >>> timed_lines([{"solve_s": None}, {"solve_s": 1.0}])
    [{'solve_s': 1.0}]
    """
    return [line for line in lines if line.get("solve_s")]


def names(lines: Lines, key: str = "method") -> list[str]:
    """List the different values of a key, in order of appearance.

    Examples
    --------
    >>> names([{"method": "b"}, {"method": "a"}, {"method": "b"}])
    ['b', 'a']
    """
    return list(dict.fromkeys(line[key] for line in lines))


def _panels(lines: Lines, height: float) -> tuple[Any, Any, list[str]]:
    problems = names(lines, "problem")
    plt = _pyplot()
    figure, axes = plt.subplots(
        1, len(problems), figsize=(max(6.5, 4.4 * len(problems)), height), layout="constrained", squeeze=False
    )
    return figure, axes[0], problems


def time_to_tolerance(lines: Lines) -> bytes:
    """Bars per system: set-up pale, solve hatched; the fastest total first, logarithmic."""
    found = timed_lines(lines)
    methods = names(found)
    figure, panels, problems = _panels(found, 0.34 * len(methods) + 1.3)
    for axes, problem in zip(panels, problems, strict=True):
        rows = sorted((x for x in found if x["problem"] == problem), key=lambda x: (x["setup_s"] or 0) + x["solve_s"])
        for row, line in enumerate(rows):
            style, setup = look(line["method"], methods), line["setup_s"] or 0.0
            axes.barh(row, setup + line["solve_s"], color=style["color"], alpha=0.3, edgecolor=style["color"])
            axes.barh(row, line["solve_s"], height=0.45, color=style["color"], hatch=style["hatch"], edgecolor="white")
            axes.text(setup + line["solve_s"], row, f" {seconds(setup + line['solve_s'])}", va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [x["method"] for x in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(right=4 * max((x["setup_s"] or 0) + x["solve_s"] for x in rows))
        axes.set(xlabel="seconds (inner bar: solve)")
        axes.set_title(_where(rows[0]), fontsize=10)
        _quiet(axes)
    return png(figure)


def convergence(lines: Lines) -> bytes:
    """Residual histories per system, those that tell one."""
    found = [x for x in lines if len(x["more"].get("residuals", ())) > 1 and x["status"] == "CONVERGED"]
    methods = names(found)
    figure, panels, problems = _panels(found, 3.8)
    for axes, problem in zip(panels, problems, strict=True):
        for line in (x for x in found if x["problem"] == problem):
            style, history = look(line["method"], methods), line["more"]["residuals"]
            style.pop("hatch")
            every = max(1, len(history) // 8)
            axes.loglog(
                np.arange(len(history)) + 1, history, markevery=every, ms=4, lw=1.5, label=line["method"], **style
            )
        axes.axhline(found[0]["tolerance"], color="black", lw=0.8, ls=(0, (1, 2)))
        axes.set(xlabel="iteration + 1", ylabel="relative residual", ylim=(0.05 * found[0]["tolerance"], None))
        axes.set_title(problem, fontsize=10)
        _quiet(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=min(5, len(labels)))
    return png(figure)


def nanoseconds(lines: Lines) -> bytes:
    """Nanoseconds per unknown of a solve against size, with what the bytes of ours would take at copy bandwidth."""
    found, plt = timed_lines(lines), _pyplot()
    methods = names(found)
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for method in methods:
        rows = sorted((x for x in found if x["method"] == method), key=lambda x: x["unknowns"])
        style = look(method, methods)
        style.pop("hatch")
        values = [1e9 * x["solve_s"] / x["unknowns"] for x in rows]
        axes.loglog([x["unknowns"] for x in rows], values, lw=1.8, label=method, **style)
    roof = sorted((x for x in found if "bytes" in x["more"]), key=lambda x: x["unknowns"])
    if roof:
        best = [x["more"]["bytes"] / x["more"]["ceilings"]["copy_gbs"] / x["unknowns"] for x in roof]
        axes.loglog(
            [x["unknowns"] for x in roof], best, color="black", lw=1, ls=(0, (1, 1)), label="roofline of krylearn"
        )
    axes.set(xlabel="unknowns", ylabel="ns per unknown, one solve")
    figure.legend(fontsize=8, ncols=3, loc="outside upper center")
    _plain_ticks(axes.yaxis)
    _plain_ticks(axes.xaxis)
    _quiet(axes)
    return png(figure)


def setup_against_solve(lines: Lines) -> bytes:
    """Compare set-up with solve, one point per method and system; on the dotted line both take the same time."""
    found = [x for x in timed_lines(lines) if x["setup_s"]]
    methods = names(found)
    figure, panels, problems = _panels(found, 3.8)
    for axes, problem in zip(panels, problems, strict=True):
        for line in (x for x in found if x["problem"] == problem):
            style = look(line["method"], methods)
            axes.plot(
                line["setup_s"], line["solve_s"], style["marker"], color=style["color"], ms=8, label=line["method"]
            )
        axes.set(xscale="log", yscale="log", xlabel="set-up, seconds", ylabel="solve, seconds")
        axes.set_title(problem, fontsize=10)
        span = [0.5 * min(min(x["setup_s"], x["solve_s"]) for x in found), 2 * max(x["solve_s"] for x in found)]
        axes.plot(span, span, color="black", lw=0.8, ls=(0, (1, 2)))
        _quiet(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=min(5, len(labels)))
    return png(figure)


def heat_map(lines: Lines) -> bytes:
    """Show iterations by family and method: darker is more, and every field states its number."""
    families, methods, plt = names(lines, "problem"), names(lines), _pyplot()
    values = np.full((len(families), len(methods)), np.nan)
    for line in lines:
        if line["status"] == "CONVERGED" and line["iterations"]:
            values[families.index(line["problem"]), methods.index(line["method"])] = line["iterations"]
    figure, axes = plt.subplots(figsize=(1.15 * len(methods) + 2, 0.36 * len(families) + 1.6), layout="constrained")
    shade = np.log10(np.where(np.isnan(values), 1, values))
    axes.imshow(shade, cmap="Greys", vmin=0, vmax=1.6 * max(1.0, float(shade.max())), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "failed" if np.isnan(value) else f"{value:.0f}" if value >= 99.5 else f"{value:.1f}"
        best = np.isfinite(values[row]).any() and value == np.nanmin(values[row])
        axes.text(column, row, text, ha="center", va="center", fontsize=9, fontweight="bold" if best else "normal")
    axes.set_xticks(range(len(methods)), [m.replace(" ", "\n") for m in methods], fontsize=8)
    axes.set_yticks(range(len(families)), families, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return png(figure)


def memory(lines: Lines) -> bytes:
    """Bytes per unknown at the peak, beyond the system itself."""
    found = [x for x in lines if x.get("peak_bytes") and x.get("solve_s")]
    methods = names(found)
    figure, panels, problems = _panels(found, 0.3 * len(methods) + 1.3)
    for axes, problem in zip(panels, problems, strict=True):
        rows = sorted((x for x in found if x["problem"] == problem), key=lambda x: x["peak_bytes"])
        for row, line in enumerate(rows):
            style, value = look(line["method"], methods), line["peak_bytes"] / line["unknowns"]
            axes.barh(row, value, color=style["color"], hatch=style["hatch"], edgecolor="white")
            axes.text(value, row, f" {value:.0f}", va="center", fontsize=8)
        axes.set_yticks(range(len(rows)), [x["method"] for x in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(right=1.2 * max(x["peak_bytes"] / x["unknowns"] for x in rows))
        axes.set(xlabel="bytes per unknown")
        axes.set_title(problem, fontsize=10)
        _quiet(axes)
    return png(figure)


def _where(line: dict[str, Any]) -> str:
    return f"{line['problem']}, {' x '.join(map(str, line['shape']))}"
