"""Pictures: smoke as light passes through it, and the figures of the demo and of the recorded benchmarks.

Readable without colour: every method also has its own marker, line style or hatch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.solvers.files import check_writable, replacing
from scipy import ndimage

from ..measure.console import UsageError, seconds

# Okabe and Ito's palette, which colour-blind readers tell apart; ours first
LOOKS: dict[str, tuple[str, str, str, str]] = {
    "krylearn": ("#0072B2", "o", "-", ""),
    "pyamg-rs": ("#009E73", "s", "--", "//"),
    "pyamg-sa": ("#E69F00", "^", "-.", "\\\\"),
    "scipy-cg": ("#555555", "D", ":", "xx"),
}
LABELS = {
    "krylearn": "krylearn",
    "pyamg-rs": "PyAMG Ruge-Stuben",
    "pyamg-sa": "PyAMG smoothed aggr.",
    "scipy-cg": "SciPy CG",
}
NIGHT = np.array([0.05, 0.07, 0.12])
WARM = np.array([1.0, 0.96, 0.9])
STONE = np.array([0.93, 0.42, 0.22])


def save_figure(figure: Any, path: Path, *, dpi: int) -> None:
    """Write a figure of matplotlib, whole or not at all, as what the name ends in: png, svg, pdf ...

    Raises
    ------
    ValueError
        for a format that matplotlib does not write

    Examples
    --------
    >>> import tempfile
    >>> from matplotlib.figure import Figure
    >>> file = Path(tempfile.mkdtemp()) / "a.svg"
    >>> save_figure(Figure(), file, dpi=50)
    >>> file.read_bytes()[:5]
    b'<?xml'
    """
    with replacing(path) as stream:
        figure.savefig(stream, format=path.suffix[1:].lower() or "png", dpi=dpi)


def check_figure(path: Path) -> None:
    """Refuse the name of a figure that could not be written, before it is computed.

    Examples
    --------
    >>> import tempfile
    >>> check_figure(Path(tempfile.mkdtemp()) / "a.pdf")
    """
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in (*kinds, ""):
        raise UsageError(f"{path} ends in '{path.suffix}'; expected a picture: .{', .'.join(sorted(kinds))}")
    check_writable(path)


@dataclass(frozen=True)
class Curve:
    """Relative residuals of one method on one system, and when each was reached (seconds, set-up included)."""

    method: str
    times: np.ndarray
    residuals: np.ndarray


def render(smoke: np.ndarray, solid: np.ndarray, *, height: int = 320, density: float = 9.0) -> np.ndarray:
    """Look through the smoke along y: (height, width, 3) image of 8-bit colours, z up.

    Light falls from above and from the left and is absorbed on its way (self-shadow); what a cell scatters is absorbed
    on its way to the eye. With optical depth t, transmittance is exp(-t). The obstacle is shaded by its slope.

    Parameters
    ----------
    smoke : (nx, ny, nz) density in [0, 1];  solid : (nx, ny, nz) booleans
    height : pixels; density : optical depth of the full box width at density 1

    Examples
    --------
    >>> render(np.zeros((8, 8, 8)), np.zeros((8, 8, 8), dtype=bool), height=16).shape
    (16, 16, 3)
    """
    zoom = height / smoke.shape[2]
    depth = np.clip(smoke, 0, 1) * (density / smoke.shape[0])
    above = np.cumsum(depth[:, :, ::-1], axis=2)[:, :, ::-1] - depth
    beside = np.cumsum(depth, axis=0) - depth
    light = 0.15 + 0.45 * np.exp(-2.2 * above) + 0.45 * np.exp(-1.2 * beside)
    in_front = np.cumsum(depth, axis=1) - depth
    hit = np.where(solid.any(axis=1), solid.argmax(axis=1), smoke.shape[1])  # first solid cell along the ray
    seen = np.arange(smoke.shape[1])[None, :, None] < hit[:, None, :]
    glow = (np.exp(-in_front) * (1 - np.exp(-depth)) * light * seen).sum(axis=1)
    through = np.exp(-(depth * seen).sum(axis=1))
    glow, through = (np.clip(ndimage.zoom(layer, zoom, order=3), 0, 1) for layer in (glow, through))
    surface, cover = _obstacle(hit, smoke.shape[1], zoom)
    backdrop = NIGHT * np.linspace(0.6, 1.8, glow.shape[1])[None, :, None]
    behind = backdrop * (1 - cover[..., None]) + STONE * (surface * cover)[..., None]
    colours = behind * through[..., None] + 1.6 * glow[..., None] * WARM
    return (255 * np.clip(colours, 0, 1) ** 0.8).astype(np.uint8).transpose(1, 0, 2)[::-1]


def _obstacle(hit: np.ndarray, far: int, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Shade and cover of the obstacle, by the slope of its front: lit from above and from the eye."""
    cover = ndimage.zoom((hit < far).astype(float), zoom, order=1)
    if not (hit < far).any():
        return np.zeros_like(cover), np.zeros_like(cover)
    front = np.where(hit < far, hit, hit[hit < far].max() + 1).astype(float)
    smooth = ndimage.gaussian_filter(ndimage.zoom(front, zoom, order=1), 1.5 * zoom)
    across, up = (zoom * g for g in np.gradient(smooth))
    shade = (1.0 + 0.7 * up - 0.25 * across) / np.sqrt(1 + across**2 + up**2)
    return np.clip(shade, 0.12, 1.15), np.clip(ndimage.gaussian_filter(cover, 0.6 * zoom) * 2 - 0.5, 0, 1)


def animate(path: Path, images: Sequence[np.ndarray], *, milliseconds: int = 60) -> None:
    """Write images as an endless GIF.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.gif"
    >>> animate(file, [np.zeros((4, 4, 3), dtype=np.uint8)] * 2)
    >>> file.exists()
    True
    """
    from PIL import Image

    frames = [Image.fromarray(image).quantize(96, dither=Image.Dither.NONE) for image in images]
    look = {"duration": milliseconds, "loop": 0, "optimize": True}
    with replacing(path) as stream:
        frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:], **look)


def demo_summary(
    path: Path,
    images: Sequence[tuple[str, np.ndarray]],
    curves: Sequence[Curve],
    lines: Sequence[dict[str, Any]],
    steps: dict[str, np.ndarray],
    title: str,
) -> None:
    """Draw the demo's slide: smoke above; convergence, time per projection and time through the simulation below.

    Parameters
    ----------
    images : captions and pictures of `render`
    curves : convergence of each method on one frame
    lines : records of the compared frames (several per method are averaged)
    steps : "setup" and "solve" seconds of every step of the simulation
    """
    plt = _pyplot()
    figure = plt.figure(figsize=(13.33, 7.5), layout="constrained")
    figure.suptitle(title, fontsize=15, fontweight="bold")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.05, 1))
    for axes, (caption, image) in zip(np.atleast_1d(top.subplots(1, len(images))), images, strict=True):
        axes.imshow(image, interpolation="bilinear")
        axes.set_title(caption, fontsize=10)
        axes.axis("off")
    left, middle, right = bottom.subplots(1, 3)
    _convergence(left, curves)
    _bars(middle, lines)
    _through_time(right, steps, lines)
    save_figure(figure, path, dpi=110)
    plt.close(figure)


def _convergence(axes: Any, curves: Sequence[Curve]) -> None:
    for curve in curves:
        colour, marker, style, _ = LOOKS[curve.method]
        every = max(1, len(curve.times) // 8)
        axes.loglog(
            curve.times, curve.residuals, style, color=colour, marker=marker, markevery=every, ms=5, lw=2,
            label=LABELS[curve.method],
        )  # fmt: skip
    axes.set_xlim(left=0.2 * min(curve.times[-1] for curve in curves))
    axes.set(xlabel="seconds since the system arrived (set-up included)", ylabel="true relative residual")
    axes.set_title("one pressure projection", fontsize=11)
    _plain_ticks(axes.xaxis)
    axes.set_ylim(bottom=1e-3 * min(curve.residuals.min() for curve in curves))  # room for the legend
    axes.legend(fontsize=8, ncols=2, loc="lower center")
    _quiet(axes)


def _bars(axes: Any, lines: Sequence[dict[str, Any]]) -> None:
    names = [name for name in LOOKS if any(line["method"] == name and line.get("solve_s") for line in lines)]
    setup = [np.mean([x["setup_s"] for x in lines if x["method"] == name]) for name in names]
    solve = [np.mean([x["solve_s"] for x in lines if x["method"] == name and x.get("solve_s")]) for name in names]
    for row, (name, a, b) in enumerate(zip(names, setup, solve, strict=True)):
        colour, _, _, hatch = LOOKS[name]
        axes.barh(row, a, color=colour, alpha=0.35, edgecolor=colour)
        axes.barh(row, b, left=a, color=colour, hatch=hatch, edgecolor="white")
        axes.text(a + b, row, f"  {seconds(a)} + {seconds(b)}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [LABELS[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(np.add(setup, solve), default=1.0))
    axes.set(xlabel="seconds: set-up (pale) + solve")
    axes.set_title("time per projection, mean of the compared frames", fontsize=11)
    _quiet(axes)


def _through_time(axes: Any, steps: dict[str, np.ndarray], lines: Sequence[dict[str, Any]]) -> None:
    index = np.arange(1, len(steps["solve"]) + 1)
    colour = LOOKS["krylearn"][0]
    axes.fill_between(index, 0, steps["setup"], color=colour, alpha=0.35, lw=0)
    axes.plot(index, steps["setup"] + steps["solve"], color=colour, lw=2, label="krylearn, every step")
    for name in list(LOOKS)[1:]:
        found = [x for x in lines if x["method"] == name and x.get("solve_s")]
        at = [x["more"]["frame"] for x in found]
        total = [x["setup_s"] + x["solve_s"] for x in found]
        axes.plot(at, total, LOOKS[name][1], color=LOOKS[name][0], ms=8, label=f"{LABELS[name]}, compared frames")
    axes.set_yscale("log")
    axes.set_ylim(top=30 * axes.get_ylim()[1])  # room for the legend
    _plain_ticks(axes.yaxis)
    axes.set(xlabel="step of the simulation", ylabel="seconds per projection")
    axes.set_title("through the simulation", fontsize=11)
    axes.legend(fontsize=8, loc="upper left")
    _quiet(axes)


def families_figure(path: Path, means: dict[str, dict[str, float | None]], caption: str) -> None:
    """Draw mean iterations per family and set of weights as points in rows; what failed has no point.

    Examples
    --------
    >>> families_figure(Path("families.png"), {"mazes": {"learned": 9.0}}, "")        # doctest: +SKIP
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 0.34 * len(means) + 1.4), layout="constrained")
    looks = zip(("geometric", "resistor", "tuned", "learned"), ("^", "s", "D", "o"), LOOKS.values(), strict=True)
    colours = {"learned": LOOKS["krylearn"][0], "geometric": "#E69F00", "resistor": "#009E73", "tuned": "#555555"}
    for weights, marker, _ in looks:
        rows = [(row, found[weights]) for row, found in enumerate(means.values()) if found.get(weights) is not None]
        filled = colours[weights] if weights == "learned" else "none"
        axes.scatter(
            [x for _, x in rows], [row for row, _ in rows], marker=marker, s=55, label=weights, zorder=3,
            edgecolors=colours[weights], facecolors=filled, linewidths=1.6,
        )  # fmt: skip
    axes.set_yticks(range(len(means)), list(means))
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set(xlabel=caption)
    axes.legend(fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    _quiet(axes)
    save_figure(figure, path, dpi=110)
    plt.close(figure)


def _plain_ticks(axis: Any) -> None:
    """Ticks at 1, 2, 5 per decade of a logarithmic axis, written as plain numbers."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _quiet(axes: Any) -> None:
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('pictures need matplotlib and pillow: pip install "krylearn[bench]"') from error
    matplotlib.use("Agg")  # a figure is a file here; no display is needed
    import matplotlib.pyplot as plt

    return plt
