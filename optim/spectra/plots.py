"""Figures of spectra; Matplotlib is imported here only, when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .estimates import Density, Extremes

POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # Okabe and Ito: told apart by colour-blind readers


class Drawable(Protocol):
    """What is drawn of a `Spectrum`; said here, since `Spectrum` knows how to draw itself and stands above."""

    @property
    def size(self) -> int:
        """Number of eigenvalues."""

    @property
    def min(self) -> float:
        """Smallest Ritz value."""

    @property
    def max(self) -> float:
        """Largest Ritz value."""

    def scaled_density(self, linear: float, points: Any) -> Density:
        """Return the density of asinh(λ/linear)."""

    def density(self) -> Density:
        """Return the density over the eigenvalues."""

    def log_density(self, sign: int) -> Density:
        """Return the density over log10 of the eigenvalues of one sign."""

    def extremes(self) -> Extremes:
        """Return both ends with their intervals."""


def new_axes() -> Any:
    """Return the Axes of a new figure that no graphical window is needed for.

    Examples
    --------
    >>> type(new_axes()).__name__
    'Axes'
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need Matplotlib: pip install "krylearn[bench]"') from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def plot_spectrum(spectrum: Drawable, ax: Any = None, *, log: bool = False) -> Any:
    """Draw a spectrum: density on a logarithmic axis, band over probes, edges with their intervals.

    Parameters
    ----------
    spectrum : Spectrum;  ax : Axes or None for a new figure;  log : density per decade of |λ|, by sign

    Returns
    -------
    Axes

    Examples
    --------
    >>> import torch
    >>> from krylearn.optim import slq
    >>> ax = plot_spectrum(slq(torch.diag(torch.linspace(0.1, 1, 40)), steps=10, probes=2, rng=1))
    >>> ax.get_xlabel()
    'eigenvalue'
    """
    ax = new_axes() if ax is None else ax
    if log:
        for sign, color, name in ((1, POSITIVE, "positive"), (-1, NEGATIVE, "negative")):
            _curve(ax, spectrum.log_density(sign), color, name, power=True, style="-" if sign > 0 else "--")
        ax.set_xscale("log")
        ax.set_xlabel("|eigenvalue|")
        ax.set_ylabel("density per decade")
        ax.legend(frameon=False)
    else:
        _curve(ax, spectrum.density(), POSITIVE, None)
        ax.set_xlabel("eigenvalue")
        ax.set_ylabel("density")
        edges = spectrum.extremes()
        for edge in edges:
            ax.axvspan(edge.low, edge.high, color=NEGATIVE, alpha=0.4, lw=1)
        ax.set_title(f"{_interval(edges.bottom)}  …  {_interval(edges.top)}", fontsize="medium")
    ax.set_yscale("log")
    highest = max(float(np.nanmax(line.get_ydata())) for line in ax.lines if len(line.get_ydata()) > 2)
    ax.set_ylim(bottom=1 / (10 * spectrum.size), top=4 * highest)
    return ax


def draw_spectra(spectra: Sequence[tuple[int, Drawable]]) -> Any:
    """Draw spectra through training: their densities one above the other, and their edges over the steps.

    Parameters
    ----------
    spectra : (step, Spectrum), one or more;  one alone is drawn with a linear and a logarithmic axis

    Returns
    -------
    Figure

    Examples
    --------
    >>> import torch
    >>> from krylearn.optim import slq
    >>> s = slq(torch.diag(torch.linspace(0.1, 1, 40)), steps=10, probes=2, rng=1)
    >>> len(draw_spectra([(0, s), (100, s)]).axes)
    2
    """
    figure = new_axes().figure
    figure.clear()
    figure.set_size_inches(11, 4.2)
    left, right = figure.subplots(1, 2)
    if len(spectra) == 1:
        plot_spectrum(spectra[0][1], left)
        plot_spectrum(spectra[0][1], right, log=True)
        return figure
    _ridges(left, spectra)
    _edges(right, spectra)
    return figure


def _ridges(ax: Any, spectra: Sequence[tuple[int, Drawable]]) -> None:
    """One curve per spectrum over asinh(λ/s), each on its own base line; the height is log10 of the density."""
    size = max(max(abs(s.min), abs(s.max)) for _, s in spectra)
    linear = 1e-3 * size
    x = np.linspace(-1, 1, 1200) * (np.arcsinh(size / linear) + 0.5)
    for k, (_, s) in enumerate(spectra):
        floor = 1 / (20 * s.size)
        height = np.log10(np.maximum(s.scaled_density(linear, x).values, floor) / floor)
        height *= 1.6 / np.log10(20 * s.size)
        ax.fill_between(x, k, k + height, color="white", zorder=2 * (len(spectra) - k), lw=0)
        ax.plot(x, k + height, color=POSITIVE, lw=1.2, zorder=2 * (len(spectra) - k) + 1)
    ticks = (-1.0, -0.1, -0.01, 0.0, 0.01, 0.1, 1.0)
    ax.set_xticks([np.arcsinh(t * size / linear) for t in ticks], [f"{t * size:.2g}" for t in ticks])
    ax.set_yticks(range(len(spectra)), [str(step) for step, _ in spectra])
    ax.set_xlabel("eigenvalue (linear near zero, logarithmic further out)")
    ax.set_ylabel("step; height: log of the density")


def _edges(ax: Any, spectra: Sequence[tuple[int, Drawable]]) -> None:
    steps = [step for step, _ in spectra]
    ends = [s.extremes() for _, s in spectra]
    for name, marker, color in (("top", "o", POSITIVE), ("bottom", "s", NEGATIVE)):
        edges = [getattr(end, name) for end in ends]
        values = np.array([edge.value for edge in edges])
        bars = [np.abs([edge.low for edge in edges] - values), np.abs([edge.high for edge in edges] - values)]
        ax.errorbar(steps, values, yerr=bars, marker=marker, color=color, lw=1.2, capsize=2, label=f"{name} eigenvalue")
    ax.axhline(0, color="0.6", lw=0.8)
    ax.set_xlabel("step")
    ax.set_ylabel("eigenvalue")
    ax.legend(frameon=False)


def _curve(ax: Any, density: Any, color: str, label: str | None, *, power: bool = False, style: str = "-") -> None:
    x = 10**density.points if power else density.points
    if not np.isnan(density.low).all():
        floor = max(float(density.values.max()), 1e-12) * 1e-9
        ax.fill_between(
            x, np.maximum(density.low, floor), np.maximum(density.high, floor), color=color, alpha=0.25, lw=0
        )
    ax.plot(x, np.maximum(density.values, 1e-300), color=color, label=label, lw=1.3, ls=style)


def _interval(edge: Any) -> str:
    mark = "" if edge.converged else " (not converged)"
    return f"{edge.low:.4g} to {edge.high:.4g}{mark}"
