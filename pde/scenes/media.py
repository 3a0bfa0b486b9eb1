"""Coefficient fields κ (one value per cell) for the scene families: lognormal, inclusions, blocks, cellwise, channels.

Lengths are fractions of the box: along an axis the cell centres run over (0, extentₐ), where the extents are the axis
lengths divided by their geometric mean, so spheres are round in every box and the same draws give the same picture at
every resolution.  Everything random is drawn from the `rng` that is passed in, in an order that does not depend on the
resolution (blocks and cellwise noise, which have no continuous limit, excepted).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MODES = 48  # waves per axis of the smooth noise; the filters used here have decayed to 1 % before half of it
Range = tuple[float, float]


def box_extents(shape: tuple[int, ...]) -> Array:
    """Box lengths in units of their geometric mean.

    Examples
    --------
    >>> box_extents((4, 16)).round(12).tolist()
    [0.5, 2.0]
    """
    return np.array(shape) / math.exp(sum(math.log(n) for n in shape) / len(shape))


def cell_centres(shape: tuple[int, ...]) -> list[Array]:
    """Return cell centres per axis, shaped to broadcast, in units of the mean box length.

    Examples
    --------
    >>> [x.shape for x in cell_centres((4, 5))]
    [(4, 1), (1, 5)]
    """
    axes = [(np.arange(n) + 0.5) / n * e for n, e in zip(shape, box_extents(shape), strict=True)]
    return list(np.ix_(*axes))


def draw_between(rng: np.random.Generator, limits: Range) -> float:
    """One uniform draw; only `random()` is used, the most stable of NumPy's streams.

    Examples
    --------
    >>> draw_between(np.random.default_rng(31415), (2.0, 2.0))
    2.0
    """
    return limits[0] + (limits[1] - limits[0]) * float(rng.random())


def draw_integer(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    """One uniform integer, both limits included.

    Examples
    --------
    >>> draw_integer(np.random.default_rng(31415), (3, 3))
    3
    """
    return min(limits[0] + int((limits[1] - limits[0] + 1) * rng.random()), limits[1])


def ball(shape: tuple[int, ...], centre: Array, radius: float, periodic: bool = False) -> NDArray[np.bool_]:
    """Cells whose centre lies in a ball (disc in 2D); lengths in units of the mean box length.

    Examples
    --------
    >>> int(ball((4, 4), np.array([0.5, 0.5]), 0.3).sum())
    4
    """
    squares = []
    for x, c, e in zip(cell_centres(shape), centre, box_extents(shape), strict=True):
        distance = np.abs(x - c)
        squares.append((np.minimum(distance, e - distance) if periodic else distance) ** 2)
    return np.asarray(sum(squares) < radius * radius)


def smooth_noise(shape: tuple[int, ...], rng: np.random.Generator, waves: float) -> Array:
    """Periodic Gaussian noise of unit variance with spectrum exp(-K²/waves²), K in waves per mean box length.

    White noise on a fixed 48-per-axis grid is filtered and resampled by FFT, so one seed is one field at every
    resolution (up to the waves that the grid cannot carry).

    Examples
    --------
    >>> f = smooth_noise((16, 12), np.random.default_rng(31415), 4.0)
    >>> f.shape, round(float(f.std()), 6)
    ((16, 12), 1.0)
    """
    from scipy import fft  # here, not above: scipy.fft takes a while to import and few scenes need it

    modes = np.asarray(fft.fftn(rng.standard_normal((MODES,) * len(shape))))
    spectrum = np.zeros(shape, complex)
    keep = []
    for axis, (n, extent) in enumerate(zip(shape, box_extents(shape), strict=True)):
        k = np.arange(-((min(n, MODES) - 1) // 2), (min(n, MODES) - 1) // 2 + 1)  # Nyquist dropped: real field, any n
        keep.append(k)
        modes = modes * np.exp(-((fft.fftfreq(MODES, 1 / MODES) / extent / waves) ** 2)).reshape(
            [-1 if a == axis else 1 for a in range(len(shape))]
        )
    spectrum[np.ix_(*[k % n for k, n in zip(keep, shape, strict=True)])] = modes[np.ix_(*[k % MODES for k in keep])]
    spectrum.flat[0] = 0.0
    field = np.asarray(fft.ifftn(spectrum, overwrite_x=True)).real
    return field / field.std()


def lognormal(
    shape: tuple[int, ...], rng: np.random.Generator, *, waves: float = math.sqrt(128), sd: float = 2.0
) -> Array:
    """κ = exp(sd · smooth noise): about five decades at sd = 2, correlated over a tenth of the box.

    Examples
    --------
    >>> bool((lognormal((8, 8), np.random.default_rng(31415)) > 0).all())
    True
    """
    return np.exp(sd * smooth_noise(shape, rng, waves))


def inclusions(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    count: int = 25,
    radius: Range = (0.03, 0.13),
    decades: float = 3.0,
) -> Array:
    """Balls of κ = 10^±decades in a medium of κ = 1: contrast 1e6.

    Examples
    --------
    >>> sorted({float(k) for k in inclusions((16, 16), np.random.default_rng(31415)).ravel()})
    [0.001, 1.0, 1000.0]
    """
    kappa = np.ones(shape)
    for _ in range(count):
        centre, r = rng.random(len(shape)) * box_extents(shape), draw_between(rng, radius)
        kappa[ball(shape, centre, r)] = 10.0 ** (decades if rng.random() < 0.5 else -decades)
    return kappa


def blocks(shape: tuple[int, ...], rng: np.random.Generator, *, cells: int = 4, decades: Range = (-2.0, 2.0)) -> Array:
    """One κ per block of cells^d cells, log-uniform over the decades.

    Examples
    --------
    >>> len(np.unique(blocks((8, 8), np.random.default_rng(31415))))
    4
    """
    kappa = cellwise(tuple(-(-n // cells) for n in shape), rng, decades=decades)
    for axis in range(len(shape)):
        kappa = kappa.repeat(cells, axis)
    return np.ascontiguousarray(kappa[tuple(slice(n) for n in shape)])


def cellwise(shape: tuple[int, ...], rng: np.random.Generator, *, decades: Range = (-2.0, 2.0)) -> Array:
    """One κ per cell, log-uniform over the decades.

    Examples
    --------
    >>> k = cellwise((8, 8), np.random.default_rng(31415))
    >>> bool((k >= 0.01).all() and (k <= 100).all())
    True
    """
    return 10.0 ** (decades[0] + (decades[1] - decades[0]) * rng.random(shape))


def channels(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    count: tuple[int, int] = (3, 6),
    thickness: Range = (0.02, 0.08),
    amplitude: Range = (0.02, 0.15),
    width: Range = (0.1, 0.4),
    decades: Range = (3.0, 4.0),
) -> Array:
    """Winding layers (in 3D also winding channels of finite width) 10^3 to 10^4 more permeable than the medium, κ = 1.

    Every layer is at least one cell thick, whatever the resolution.

    Examples
    --------
    >>> k = channels((16, 16), np.random.default_rng(31415))
    >>> float(k.min()), bool(k.max() >= 1e3)
    (1.0, True)
    """
    kappa, x, extent = np.ones(shape), cell_centres(shape), box_extents(shape)
    cell = float(extent[0] / shape[0])
    for _ in range(draw_integer(rng, count)):
        axis = draw_integer(rng, (0, len(shape) - 1))
        winding, strength = draw_between(rng, amplitude), 10.0 ** draw_between(rng, decades)
        half = max(draw_between(rng, thickness), cell) / 2
        middle = draw_between(rng, (0.1, 0.9)) * extent[axis]
        others = [a for a in range(len(shape)) if a != axis]
        for a in others:
            middle = middle + winding * np.sin(
                2 * np.pi * (x[a] / extent[a] * draw_integer(rng, (1, 3)) + rng.random())
            )
        inside = np.abs(x[axis] - middle) <= half
        tube, across, w = rng.random() < 0.5, rng.random(), draw_between(rng, width)
        if len(shape) == 3 and tube:  # a channel along others[0], winding in others[1]
            line = across * extent[others[1]] + 2 * winding * np.sin(2 * np.pi * x[others[0]] / extent[others[0]])
            inside = inside & (np.abs(x[others[1]] - line) <= max(w, 2 * cell) / 2)
        kappa[np.broadcast_to(inside, shape)] = strength
    return kappa
