"""Figures of spectra; Matplotlib is imported here only, when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .spectrum import Spectrum

POSITIVE, NEGATIVE = "#0072B2", "#D55E00"  # Okabe and Ito: told apart by colour-blind readers


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


def plot_spectrum(spectrum: Spectrum, ax: Any = None, *, log: bool = False) -> Any:
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
            _curve(ax, spectrum.log_density(sign), color, name, power=True)
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
    ax.set_ylim(bottom=1 / (10 * spectrum.size), top=None)
    return ax


def _curve(ax: Any, density: Any, color: str, label: str | None, *, power: bool = False) -> None:
    x = 10**density.points if power else density.points
    if not np.isnan(density.low).all():
        floor = max(float(density.values.max()), 1e-12) * 1e-9
        ax.fill_between(
            x, np.maximum(density.low, floor), np.maximum(density.high, floor), color=color, alpha=0.25, lw=0
        )
    ax.plot(x, np.maximum(density.values, 1e-300), color=color, label=label, lw=1.3)


def _interval(edge: Any) -> str:
    mark = "" if edge.converged else " (not converged)"
    return f"{edge.low:.4g} to {edge.high:.4g}{mark}"
