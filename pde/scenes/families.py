"""Seeded scene families: the systems on which solvers are trained and judged, and their right-hand sides.

`FAMILIES` is the manifest: name, one sentence, whether the family is hard, and the parameter ranges, read off the
builders themselves so that the manifest cannot disagree with the code.  A scene is a function of (family, shape, seed,
stream); sizes are fractions of the box, so the same seed at another shape is the same scene refined (per-cell and
per-block noise excepted).  The streams "train" and "test" have different spawn keys of NumPy's SeedSequence and
therefore share no draw; a test compares them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..poisson.operator import Poisson
from . import geometries, media
from .mazes import maze
from .right_hand_sides import KINDS, Stream, generator, right_hand_side

__all__ = ["FAMILIES", "KINDS", "Family", "generator", "right_hand_side", "scene"]

NAMES = "xyz"


@dataclass(frozen=True)
class Family:
    """One kind of scene.

    `build(shape, rng, stream)` returns the operator; `source` is the function that draws the cells or coefficients.

    Examples
    --------
    >>> FAMILIES["inclusions"].parameters["count"], FAMILIES["inclusions"].hard
    (25, True)
    """

    name: str
    description: str
    hard: bool
    source: Callable[..., Any]
    build: Callable[[tuple[int, ...], np.random.Generator, str], Poisson]

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameter ranges: the keyword-only defaults of `source`."""
        found = inspect.signature(self.source).parameters.values()
        return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY}


def anisotropic_spacing(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    train_ratio: tuple[float, float] = (1.0, 100.0),
    test_ratio: float = 10.0,
    stream: str = "test",
) -> tuple[float, ...]:
    """Spacings that make the conductances along one random axis `ratio` times those along the others.

    With spacing h on that axis and 1 elsewhere, area/distance is 1/h along it and h across: ratio = 1/h².

    Examples
    --------
    >>> h = anisotropic_spacing((8, 8), np.random.default_rng(31415))
    >>> [round(x ** -2, 6) for x in sorted(h)]
    [10.0, 1.0]
    """
    axis, log_ratio = media.draw_integer(rng, (0, len(shape) - 1)), media.draw_between(rng, tuple(np.log(train_ratio)))
    ratio = float(np.exp(log_ratio)) if stream == "train" else test_ratio
    return tuple(ratio**-0.5 if a == axis else 1.0 for a in range(len(shape)))


def _build_cells(source: Callable[..., Any], boundary: str = "neumann") -> Callable[..., Poisson]:
    return lambda shape, rng, stream: Poisson.from_cells(source(shape, rng), boundary=boundary)


def _build_coefficients(source: Callable[..., Any]) -> Callable[..., Poisson]:
    return lambda shape, rng, stream: Poisson.from_coefficients(source(shape, rng), boundary="dirichlet")


def _build_porous(shape: tuple[int, ...], rng: np.random.Generator, stream: str) -> Poisson:
    axis, layers = media.draw_integer(rng, (0, len(shape) - 1)), rng.random() < 0.5
    cells = geometries.porous(shape, rng)
    if not layers:
        return Poisson.from_cells(cells, boundary={NAMES[axis]: "dirichlet"})
    slabs = np.moveaxis(cells, axis, 0)  # a view: the two ends become open layers
    slabs[0] = slabs[-1] = geometries.OPEN
    cells[tuple(n // 2 for n in shape)] = geometries.FLUID  # tiny grids may have no other
    return Poisson.from_cells(cells)


def _build_anisotropic(shape: tuple[int, ...], rng: np.random.Generator, stream: str) -> Poisson:
    spacing = anisotropic_spacing(shape, rng, stream=stream)
    return Poisson.from_coefficients(np.ones(shape), spacing=spacing, boundary="dirichlet")


def periodic_medium(shape: tuple[int, ...], rng: np.random.Generator, *, sd: float = 0.7) -> np.ndarray:
    """Mild periodic lognormal coefficients.

    Examples
    --------
    >>> periodic_medium((8, 8), np.random.default_rng(31415)).shape
    (8, 8)
    """
    return media.lognormal(shape, rng, sd=sd)


def _build_periodic(shape: tuple[int, ...], rng: np.random.Generator, stream: str) -> Poisson:
    if rng.random() < 0.5:
        return Poisson.from_coefficients(periodic_medium(shape, rng), boundary="periodic")
    return Poisson.from_cells(geometries.periodic_obstacles(shape, rng), boundary="periodic")


def _list_families() -> dict[str, Family]:
    g, m = geometries, media
    rows: list[tuple[str, bool, Callable[..., Any], Callable[..., Poisson], str]] = [
        ("open_box", False, g.open_box, _build_cells(g.open_box), "Fluid box, open on top."),
        ("obstacles", False, g.obstacles, _build_cells(g.obstacles), "Solid spheres and boxes, flat open top."),
        ("thin_walls", True, g.thin_walls, _build_cells(g.thin_walls), "Plates, some slotted, one or two cells thick."),
        ("mazes", True, maze, _build_cells(maze), "Corridors between walls one cell thick, one exit or open top."),
        ("porous", True, g.porous, _build_porous, "Porous medium with isolated pores, drained at two opposite sides."),
        (
            "free_surface",
            False,
            g.free_surface,
            _build_cells(g.free_surface),
            "Wavy liquid surface over spheres.",
        ),
        ("lognormal", True, m.lognormal, _build_coefficients(m.lognormal), "Smooth coefficients, sd of the log is 2."),
        ("inclusions", True, m.inclusions, _build_coefficients(m.inclusions), "Balls 1e3 more or less conductive."),
        ("blocks", True, m.blocks, _build_coefficients(m.blocks), "Random coefficient per 4^d block, four decades."),
        ("cellwise", True, m.cellwise, _build_coefficients(m.cellwise), "Random coefficient per cell, four decades."),
        ("channels", True, m.channels, _build_coefficients(m.channels), "Winding layers 1e3 to 1e4 more permeable."),
        (
            "anisotropic",
            True,
            anisotropic_spacing,
            _build_anisotropic,
            "Uniform medium, cells stretched along one axis.",
        ),
        ("neumann", False, g.closed, _build_cells(g.closed), "Closed box with obstacles: singular."),
        ("periodic", False, periodic_medium, _build_periodic, "Periodic, mild coefficients or spheres: singular."),
    ]
    return {name: Family(name, text, hard, source, build) for name, hard, source, build, text in rows}


FAMILIES: dict[str, Family] = _list_families()


def scene(family: str, shape: tuple[int, ...], seed: int, stream: Stream = "test") -> Poisson:
    """Build one system of a family.

    Parameters
    ----------
    family : str; a key of FAMILIES
    shape : (nx, ny) or (nx, ny, nz), each at least 4; the last axis points up
    seed : int >= 0
    stream : "train" or "test"; disjoint by construction

    Returns
    -------
    Poisson

    Examples
    --------
    >>> A = scene("open_box", (6, 6, 5), seed=31415)
    >>> A.grid_shape, A.unknowns
    ((6, 6, 5), 144)
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}; expected one of {', '.join(FAMILIES)}")
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (2, 3) or min(shape) < 4:
        raise ValueError(f"shape is {shape}; expected two or three axes of at least 4 cells")
    return FAMILIES[family].build(shape, generator(family, seed, stream), stream)
