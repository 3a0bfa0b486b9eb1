"""Seeded scene families: the systems on which solvers are trained and judged, and their right-hand sides.

`FAMILIES` is the manifest: name, one sentence, whether the family is hard, and the parameter ranges, read off the
builders themselves so that the manifest cannot disagree with the code.  A scene is a function of (family, shape, seed,
stream); sizes are fractions of the box, so the same seed at another shape is the same scene refined (per-cell and
per-block noise excepted).  The streams "train" and "test" have different spawn keys of NumPy's SeedSequence and
therefore share no draw; a test compares them.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from . import geometries, media
from .mazes import maze
from .poisson import Poisson

Stream = Literal["train", "test"]
STREAMS: dict[str, int] = {"train": 0, "test": 1}
ENTROPY = 20230706  # any fixed number; changing it changes every scene
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
    axis, log_ratio = media.integer(rng, (0, len(shape) - 1)), media.between(rng, tuple(np.log(train_ratio)))
    ratio = float(np.exp(log_ratio)) if stream == "train" else test_ratio
    return tuple(ratio**-0.5 if a == axis else 1.0 for a in range(len(shape)))


def _cells(source: Callable[..., Any], boundary: str = "neumann") -> Callable[..., Poisson]:
    return lambda shape, rng, stream: Poisson.from_cells(source(shape, rng), boundary=boundary)


def _coefficients(source: Callable[..., Any]) -> Callable[..., Poisson]:
    return lambda shape, rng, stream: Poisson.from_coefficients(source(shape, rng), boundary="dirichlet")


def _porous(shape: tuple[int, ...], rng: np.random.Generator, stream: str) -> Poisson:
    axis, layers = media.integer(rng, (0, len(shape) - 1)), rng.random() < 0.5
    cells = geometries.porous(shape, rng)
    if not layers:
        return Poisson.from_cells(cells, boundary={NAMES[axis]: "dirichlet"})
    slabs = np.moveaxis(cells, axis, 0)  # a view: the two ends become open layers
    slabs[0] = slabs[-1] = geometries.OPEN
    cells[tuple(n // 2 for n in shape)] = geometries.FLUID  # tiny grids may have no other
    return Poisson.from_cells(cells)


def _anisotropic(shape: tuple[int, ...], rng: np.random.Generator, stream: str) -> Poisson:
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


def _periodic(shape: tuple[int, ...], rng: np.random.Generator, stream: str) -> Poisson:
    if rng.random() < 0.5:
        return Poisson.from_coefficients(periodic_medium(shape, rng), boundary="periodic")
    return Poisson.from_cells(geometries.periodic_obstacles(shape, rng), boundary="periodic")


def _manifest() -> dict[str, Family]:
    g, m = geometries, media
    rows: list[tuple[str, bool, Callable[..., Any], Callable[..., Poisson], str]] = [
        ("open_box", False, g.open_box, _cells(g.open_box), "Fluid box, open on top."),
        ("obstacles", False, g.obstacles, _cells(g.obstacles), "Solid spheres and boxes, flat open top."),
        ("thin_walls", True, g.thin_walls, _cells(g.thin_walls), "Plates, some slotted, one or two cells thick."),
        ("mazes", True, maze, _cells(maze), "Corridors between walls one cell thick, one exit or open top."),
        ("porous", True, g.porous, _porous, "Porous medium with isolated pores, drained at two opposite sides."),
        ("free_surface", False, g.free_surface, _cells(g.free_surface), "Wavy liquid surface over solid spheres."),
        ("lognormal", True, m.lognormal, _coefficients(m.lognormal), "Smooth coefficients, sd of the log is 2."),
        ("inclusions", True, m.inclusions, _coefficients(m.inclusions), "Balls 1e3 more or less conductive."),
        ("blocks", True, m.blocks, _coefficients(m.blocks), "Random coefficient per 4^d block, four decades."),
        ("cellwise", True, m.cellwise, _coefficients(m.cellwise), "Random coefficient per cell, four decades."),
        ("channels", True, m.channels, _coefficients(m.channels), "Winding layers 1e3 to 1e4 more permeable."),
        ("anisotropic", True, anisotropic_spacing, _anisotropic, "Uniform medium, cells stretched along one axis."),
        ("neumann", False, g.closed, _cells(g.closed), "Closed box with obstacles: singular."),
        ("periodic", False, periodic_medium, _periodic, "Periodic, mild coefficients or spheres: singular."),
    ]
    return {name: Family(name, text, hard, source, build) for name, hard, source, build, text in rows}


FAMILIES: dict[str, Family] = _manifest()


def generator(name: str, seed: int, stream: str) -> np.random.Generator:
    """Return the random stream of one (name, seed, stream); no two triples share draws.

    Examples
    --------
    >>> a, b = (generator("mazes", 31415, stream).random() for stream in ("train", "test"))
    >>> a == b
    False
    """
    if stream not in STREAMS:
        raise ValueError(f"stream is {stream!r}; expected one of {sorted(STREAMS)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected a non-negative integer")
    key = (
        zlib.crc32(name.encode()),
        STREAMS[stream],
        seed,
    )  # a place in the manifest may change
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy=ENTROPY, spawn_key=key)))


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


def _white(A: Poisson, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(tuple(A.unknown.shape))


def _points(A: Poisson, rng: np.random.Generator) -> np.ndarray:
    """Three to eight sources and sinks of strength 1."""
    where = np.flatnonzero(A.unknown.cpu().numpy())
    b = np.zeros(A.unknown.numel())
    for place, sign in rng.random((media.integer(rng, (3, 8)), 2)):
        b[where[int(place * len(where))]] += 1.0 if sign < 0.5 else -1.0
    return b.reshape(tuple(A.unknown.shape))


def _velocity(shape: tuple[int, ...], rng: np.random.Generator, waves: int = 6, highest: int = 4) -> np.ndarray:
    """One component of a smooth random velocity: a few plane waves, amplitudes falling with the wave number."""
    total = np.zeros(shape)
    for _ in range(waves):
        k = [media.integer(rng, (-highest, highest)) for _ in shape]
        amplitude = rng.standard_normal() / (1.0 + sum(j * j for j in k)) ** 0.5
        phases = [np.exp(2j * np.pi * j * (np.arange(n) + 0.5) / n) for j, n in zip(k, shape, strict=True)]
        wave = phases[0][:, None, None] * phases[1][None, :, None] * phases[2] * np.exp(2j * np.pi * rng.random())
        total += amplitude * wave.real
    return total


def _divergence(A: Poisson, rng: np.random.Generator) -> np.ndarray:
    """Net inflow of a smooth velocity through the faces that carry flow; walls carry none."""
    shape = tuple(A.unknown.shape)
    spacing = A.spacing if len(A.spacing) == 3 else (A.spacing[0], 1.0, A.spacing[1])
    b = np.zeros(shape)
    for axis in range(3):
        if shape[axis] == 1:
            continue
        flux = _velocity(shape, rng) * (float(np.prod(spacing)) / float(spacing[axis]))
        inner = flux * (A.links[axis].cpu().numpy() > 0)
        b += np.roll(inner, 1, axis) - inner - flux * (A.ground[axis].cpu().numpy() > 0)
    return b


KINDS: dict[str, Callable[[Poisson, np.random.Generator], np.ndarray]] = {
    "white": _white,
    "divergence": _divergence,
    "points": _points,
}


def right_hand_side(A: Poisson, kind: str = "white", seed: int = 0, stream: Stream = "test") -> torch.Tensor:
    """Draw a right-hand side that A can match: zero without unknown, mean zero on every singular component.

    Parameters
    ----------
    A : Poisson
    kind : "white" (Gaussian noise), "divergence" (of a smooth velocity field), "points" (three to eight sources)
    seed, stream : as in `scene`

    Returns
    -------
    torch.Tensor, float64, of shape A.grid_shape, on A's device

    Examples
    --------
    >>> A = scene("neumann", (6, 6, 6), seed=31415)
    >>> b = right_hand_side(A, "white", seed=31415)
    >>> tuple(b.shape), abs(float(b.sum())) < 1e-12
    ((6, 6, 6), True)
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    values = KINDS[kind](A, generator(f"right_hand_side/{kind}", seed, stream))
    b = torch.as_tensor(values, dtype=torch.float64, device=A.device) * A.unknown
    return A.nullspace.project(b).reshape(A.grid_shape)
