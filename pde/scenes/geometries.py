"""Cell arrays (SOLID, FLUID, OPEN) for the scene families: boxes, obstacles, walls, mazes, pores, free surfaces.

Lengths are fractions of the box as in `media`; walls are one or two cells thick at every resolution, because that is
what makes them hard.  The last axis points up.  Each function returns an array of the given shape with at least one
FLUID cell, for every size >= 4 per axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..poisson.grid import Cell
from .media import Range, ball, box_extents, cell_centres, draw_between, draw_integer, smooth_noise

Cells = NDArray[np.uint8]
SOLID, FLUID, OPEN = int(Cell.SOLID), int(Cell.FLUID), int(Cell.OPEN)


def _fill_box(shape: tuple[int, ...]) -> Cells:
    return np.full(shape, FLUID, np.uint8)


def _ensure_fluid(cells: Cells) -> Cells:
    """Put one FLUID cell in the middle of the floor if tiny grids left none."""
    if not (cells == FLUID).any():
        cells[(*(n // 2 for n in cells.shape[:-1]), 0)] = FLUID
    return cells


def _add_spheres(cells: Cells, rng: np.random.Generator, count: int, radius: Range, periodic: bool = False) -> None:
    for _ in range(count):
        centre, r = rng.random(cells.ndim) * box_extents(cells.shape), draw_between(rng, radius)
        cells[ball(cells.shape, centre, r, periodic)] = SOLID


def _add_bricks(cells: Cells, rng: np.random.Generator, count: int, side: Range) -> None:
    for _ in range(count):
        low, length = rng.random(cells.ndim), [draw_between(rng, side) for _ in range(cells.ndim)]
        start = [int(n * a) for n, a in zip(cells.shape, low, strict=True)]
        stop = [max(int(n * (a + s)), i + 1) for n, a, s, i in zip(cells.shape, low, length, start, strict=True)]
        cells[tuple(slice(i, j) for i, j in zip(start, stop, strict=True))] = SOLID


def _cut_free_surface(cells: Cells, rng: np.random.Generator, height: float, wave: float) -> None:
    """OPEN above height + wave·sin·cos (fractions of the box height), and at least in the top layer."""
    x = [c / e for c, e in zip(cell_centres(cells.shape), box_extents(cells.shape), strict=True)]
    phases = rng.random(2)
    ripple = np.sin(2 * np.pi * (2 * x[0] + phases[0]))
    if cells.ndim == 3:
        ripple = ripple * np.cos(2 * np.pi * (x[1] + phases[1]))
    cells[np.broadcast_to(x[-1] > height + wave * ripple, cells.shape)] = OPEN
    cells[..., -1] = OPEN


def open_box(shape: tuple[int, ...], rng: np.random.Generator) -> Cells:
    """Fluid everywhere, open on top.

    Examples
    --------
    >>> open_box((4, 4), np.random.default_rng(31415))[0].tolist()
    [1, 1, 1, 2]
    """
    cells = _fill_box(shape)
    cells[..., -1] = OPEN
    return cells


def obstacles(shape: tuple[int, ...], rng: np.random.Generator, **sizes: Any) -> Cells:
    """Solid spheres and boxes in a box with a flat open top; sizes : spheres, radius, bricks, side as of `closed`.

    Examples
    --------
    >>> sorted(np.unique(obstacles((16, 16), np.random.default_rng(31415))).tolist())
    [0, 1, 2]
    """
    cells = closed(shape, rng, **sizes)
    cells[..., -1] = OPEN
    return _ensure_fluid(cells)


def closed(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    spheres: tuple[int, int] = (4, 10),
    radius: Range = (0.04, 0.16),
    bricks: tuple[int, int] = (2, 8),
    side: Range = (0.04, 0.3),
) -> Cells:
    """Solid spheres and boxes in a closed box: pure Neumann, singular.

    Examples
    --------
    >>> sorted(np.unique(closed((16, 16), np.random.default_rng(31415))).tolist())
    [0, 1]
    """
    cells = _fill_box(shape)
    _add_spheres(cells, rng, draw_integer(rng, spheres), radius)
    _add_bricks(cells, rng, draw_integer(rng, bricks), side)
    return _ensure_fluid(cells)


def free_surface(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    spheres: int = 12,
    radius: Range = (0.04, 0.16),
    height: float = 0.75,
    wave: float = 0.15,
) -> Cells:
    """Liquid with a wavy surface over (and around) a dozen solid spheres.

    Examples
    --------
    >>> cells = free_surface((16, 16, 16), np.random.default_rng(31415))
    >>> bool((cells[..., -1] == 1).any())
    False
    """
    cells = _fill_box(shape)
    _cut_free_surface(cells, rng, height, wave)
    _add_spheres(cells, rng, spheres, radius)
    return _ensure_fluid(cells)


def thin_walls(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    plates: tuple[int, int] = (4, 8),
    thickness: tuple[int, int] = (1, 2),
    side: Range = (0.4, 0.8),
    slotted: float = 0.5,
    slots: tuple[int, int] = (2, 6),
    spheres: tuple[int, int] = (0, 6),
    radius: Range = (0.04, 0.12),
) -> Cells:
    """Plates one or two cells thick, half of them slotted, and a few spheres under a wavy free surface.

    Examples
    --------
    >>> sorted(np.unique(thin_walls((16, 16), np.random.default_rng(31415))).tolist())
    [0, 1, 2]
    """
    cells = _fill_box(shape)
    _cut_free_surface(cells, rng, draw_between(rng, (0.75, 0.9)), draw_between(rng, (0.0, 0.1)))
    for _ in range(draw_integer(rng, plates)):
        axis, thick = draw_integer(rng, (0, cells.ndim - 1)), draw_integer(rng, thickness)
        place, low = draw_between(rng, (0.12, 0.88)), rng.random(cells.ndim)
        length, comb, slot_count = draw_between(rng, side), rng.random() < slotted, draw_integer(rng, slots)
        start = [int(n * a * (1 - length)) for n, a in zip(shape, low, strict=True)]
        window = [slice(i, i + max(1, round(n * length))) for i, n in zip(start, shape, strict=True)]
        window[axis] = slice(int(shape[axis] * place), int(shape[axis] * place) + thick)
        wall = np.ones([len(range(*w.indices(n))) for w, n in zip(window, shape, strict=True)], bool)
        if comb:  # slots run across the plate along one of its axes; they and the bars between have equal width
            along = (axis + 1) % cells.ndim
            bars = (np.arange(wall.shape[along]) * (2 * slot_count + 1) // max(wall.shape[along], 1)) % 2 == 0
            wall &= bars.reshape([-1 if a == along else 1 for a in range(cells.ndim)])
        cells[tuple(window)][wall] = SOLID
    _add_spheres(cells, rng, draw_integer(rng, spheres), radius)
    return _ensure_fluid(cells)


def porous(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    solid: Range = (0.3, 0.6),
    waves: Range = (4.0, 12.0),
) -> Cells:
    """Voxelised porous medium: smooth noise cut at the quantile that makes the given fraction solid.

    Isolated pores are kept: each is a singular component of its own.

    Examples
    --------
    >>> cells = porous((32, 32), np.random.default_rng(31415), solid=(0.5, 0.5))
    >>> float((cells == 0).mean())
    0.5
    """
    fraction, frequency = draw_between(rng, solid), draw_between(rng, waves)
    noise = smooth_noise(shape, rng, frequency)
    return _ensure_fluid(np.where(noise < np.quantile(noise, fraction), SOLID, FLUID).astype(np.uint8))


def periodic_obstacles(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    spheres: tuple[int, int] = (6, 16),
    radius: Range = (0.04, 0.16),
) -> Cells:
    """Solid spheres that wrap round a periodic box.

    Examples
    --------
    >>> sorted(np.unique(periodic_obstacles((16, 16), np.random.default_rng(31415))).tolist())
    [0, 1]
    """
    cells = _fill_box(shape)
    _add_spheres(cells, rng, draw_integer(rng, spheres), radius, periodic=True)
    return _ensure_fluid(cells)
