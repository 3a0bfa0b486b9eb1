"""Systems as real codes assemble them, made from seeds without those codes: meshes of geophysics, aquifers, images.

`FIELD_CASES` is a manifest beside `families.FAMILIES`: the same form, but none of these systems was made up to train or
to compare solvers. They have what such systems have in common: cells that grow, layers that hardly conduct, contrasts
of many decades between neighbours, walls of any shape, rows held to a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..poisson.operator import Poisson
from .media import Array, cell_centres, channels, smooth_noise
from .right_hand_sides import Stream, generator

Shape = tuple[int, ...]


@dataclass(frozen=True)
class FieldCase:
    """One kind of system; `build(shape, rng)` returns the operator of a shape in two or three dimensions.

    Examples
    --------
    >>> FIELD_CASES["layers_1000"].description
    'Lognormal layers, anisotropy 1000, one that hardly conducts.'
    """

    name: str
    description: str
    build: Callable[[Shape, np.random.Generator], Poisson]


def growing_cells(n: int, growth: float, layers: int = 9) -> Array:
    """Return n cell sizes, 1 in a core and growing by a factor per cell in some layers on either side.

    Examples
    --------
    >>> growing_cells(6, 2.0, layers=2).tolist()
    [4.0, 2.0, 1.0, 1.0, 2.0, 4.0]
    """
    k = min(layers, n // 3)
    return np.r_[growth ** np.arange(k, 0, -1.0), np.ones(n - 2 * k), growth ** np.arange(1.0, k + 1)]


def on_mesh(kappa: Array, sizes: list[Array]) -> Poisson:
    """Return -div(kappa grad) with p = 0 on all sides, on cells of different sizes along each axis."""
    axes = range(kappa.ndim)
    along = [h.reshape([-1 if a == d else 1 for a in axes]) for d, h in enumerate(sizes)]
    faces = []
    for d in axes:
        area = np.ones(kappa.shape)
        for e in axes:
            area = area * (along[e] if e != d else 1.0)
        r = along[d] / (2 * kappa * area)  # from the centre of a cell to its face
        n = kappa.shape[d]
        inner = 1 / (np.take(r, range(n - 1), d) + np.take(r, range(1, n), d))
        faces.append(np.concatenate([1 / np.take(r, [0], d), inner, 1 / np.take(r, [n - 1], d)], d))
    return Poisson.from_faces(faces, boundary="dirichlet")


def stretched(shape: Shape, rng: np.random.Generator, *, growth: float, air: float | None = None) -> Poisson:
    """Build a box whose cells grow outside a core; with `air`, smooth ground of 5 decades below air of that kappa."""
    kappa = np.ones(shape)
    if air is not None:
        kappa = np.exp(1.5 * smooth_noise(shape, rng, 8.0))
        kappa[..., -(shape[-1] // 3) :] = air
    return on_mesh(kappa, [growing_cells(n, growth) for n in shape])


def layers(shape: Shape, rng: np.random.Generator, *, anisotropy: float) -> Poisson:
    """Build an aquifer: thin lognormal layers, one of them 1e-4 as permeable, p fixed on one side."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape), (3.0,) * (len(shape) - 1) + (0.5,))
    kappa = np.exp(2.0 * noise / noise.std())
    kappa[..., int(shape[-1] * (0.25 + 0.5 * rng.random()))] *= 1e-4
    spacing = (1.0,) * (len(shape) - 1) + (anisotropy**-0.5,)
    return Poisson.from_coefficients(kappa, spacing=spacing, boundary={"x-": "dirichlet", **dict.fromkeys(
        ["x+", *(["y"] if len(shape) == 2 else ["y", "z"])], "neumann")})  # fmt: skip


def ocean(shape: Shape, rng: np.random.Generator) -> Poisson:
    """Build a lat-lon ocean with land: periodic in longitude, metric factors to 89 degrees, an implicit time step."""
    n = shape[1]
    edge = np.radians(np.linspace(-89.0, 89.0, n + 1))
    middle = 0.5 * (edge[1:] + edge[:-1])
    water = smooth_noise(shape[:2], rng, 6.0) < 0.6
    step = float(edge[1] - edge[0]) / (2 * np.pi / shape[0])
    depth = np.ones(shape) if len(shape) == 3 else np.ones((*shape, 1))
    depth = depth * water[..., None]
    east = depth * np.roll(depth, 1, 0) * (step / np.cos(middle))[None, :, None]
    east = np.concatenate([east, east[:1]])
    north = np.zeros((shape[0], n + 1, depth.shape[2]))
    north[:, 1:-1] = depth[:, :-1] * depth[:, 1:] * (np.cos(edge) / step)[None, 1:-1, None]
    extra = depth * (1e-4 * np.cos(middle))[None, :, None]
    if len(shape) == 2:
        return Poisson.from_faces([east[..., 0], north[..., 0]], extra[..., 0], {"x": "periodic"})
    up = np.zeros((*shape[:2], shape[2] + 1))
    up[..., 1:-1] = depth[..., :-1] * depth[..., 1:] * np.cos(middle)[None, :, None]
    return Poisson.from_faces([east, north, up], extra, {"x": "periodic"})


def image(shape: Shape, rng: np.random.Generator, *, beta: float, noise: float | None) -> Poisson:
    """Build the graph of a random-walker segmentation: exp(-beta difference^2) + 1e-10 between pixels, seeds removed.

    noise : None for white noise alone, else smooth regions with noise of this size
    """
    from scipy.ndimage import gaussian_filter

    values = rng.standard_normal(shape)
    if noise is not None:
        values = np.sign(gaussian_filter(values, 3.0)) / 2 + noise * rng.standard_normal(shape)
    seeds = np.zeros(shape, bool)
    seeds.flat[rng.choice(seeds.size, max(shape), replace=False)] = True
    faces, extra = [], np.zeros(shape)
    for d in range(len(shape)):
        v, s = np.moveaxis(values, d, 0), np.moveaxis(seeds, d, 0)
        w = np.exp(-beta / 10 / values.std() * np.diff(v, axis=0) ** 2) + 1e-10
        to = np.moveaxis(extra, d, 0)
        to[1:] += w * s[:-1]
        to[:-1] += w * s[1:]
        inner = w * ~s[1:] * ~s[:-1]
        end = np.zeros((1, *inner.shape[1:]))
        faces.append(np.moveaxis(np.concatenate([end, inner, end]), 0, d))
    return Poisson.from_faces(faces, np.where(seeds, 0.0, extra))


def reservoir(shape: Shape, rng: np.random.Generator, *, sd: float = 3.0) -> Poisson:
    """Build lognormal rock crossed by channels, closed, with a few wells: columns of cells tied to given pressures."""
    kappa = np.exp(sd * smooth_noise(shape, rng, 11.0)) * channels(shape, rng)
    wells = np.zeros(shape)
    for place in rng.random((4, len(shape) - 1)):
        wells[tuple(int(p * n) for p, n in zip(place, shape[:-1], strict=True))] = 1.0
    return Poisson.from_coefficients(kappa, boundary="neumann", shift=10.0 * wells * kappa)


def cut_cells(shape: Shape, rng: np.random.Generator) -> Poisson:
    """Build a closed domain around spheres whose faces are cut: open fractions from 1e-6 to 1, open at the top."""
    x = cell_centres(shape)
    h = 1.0 / max(shape)
    level = np.full(shape, np.inf)
    for _ in range(12):
        centre, radius = rng.random(len(shape)), 0.05 + 0.12 * rng.random()
        distance = np.sqrt(sum((v - c) ** 2 for v, c in zip(x, centre, strict=True))) - radius
        level = np.minimum(level, distance / h)
    faces = []
    for d in range(len(shape)):
        v = np.moveaxis(level, d, 0)
        open_part = np.clip(0.5 + 0.5 * (v[1:] + v[:-1]), 0, 1) ** 4  # small fractions are common
        inner = np.where(open_part > 0, np.maximum(open_part, 1e-6), 0)
        end = np.zeros((1, *v.shape[1:]))
        top = 2.0 * (v[-1:] > 0) if d == len(shape) - 1 else end
        faces.append(np.moveaxis(np.concatenate([end, inner, top]), 0, d))
    return Poisson.from_faces(faces)


def _list_cases() -> dict[str, FieldCase]:
    cases = [
        FieldCase(f"stretched_{g}", f"Cells that grow by {g} outside a core.", partial(stretched, growth=g))
        for g in (1.1, 1.2, 1.3, 1.5)
    ]
    text = "Smooth ground below air of 1e-8 on cells that grow by 1.3."
    cases.append(FieldCase("air_over_earth", text, partial(stretched, growth=1.3, air=1e-8)))
    for a in (1, 100, 1000, 10000):
        text = f"Lognormal layers, anisotropy {a}, one that hardly conducts."
        cases.append(FieldCase(f"layers_{a}", text, partial(layers, anisotropy=float(a))))
    cases.append(FieldCase("ocean", "Lat-lon metric with land, periodic, a small shift.", ocean))
    for beta in (30, 130, 1000):
        text = f"Random walker on noisy regions, beta {beta}."
        cases.append(FieldCase(f"image_{beta}", text, partial(image, beta=float(beta), noise=0.3)))
        text = f"Random walker on white noise, beta {beta}."
        cases.append(FieldCase(f"white_image_{beta}", text, partial(image, beta=float(beta), noise=None)))
    cases.append(FieldCase("reservoir", "Lognormal rock with channels and wells, closed.", reservoir))
    cases.append(FieldCase("cut_cells", "Faces open by 1e-6 to 1 around spheres, open on top.", cut_cells))
    return {case.name: case for case in cases}


FIELD_CASES: dict[str, FieldCase] = _list_cases()


def field_case(name: str, shape: Shape, seed: int, stream: Stream = "test") -> Poisson:
    """Build one system of a real code's kind.

    Parameters
    ----------
    name : str; a key of FIELD_CASES
    shape : (nx, ny) or (nx, ny, nz), each at least 4; the last axis points up
    seed : int >= 0
    stream : "train" or "test"; disjoint by construction

    Returns
    -------
    Poisson

    Examples
    --------
    >>> field_case("stretched_1.3", (12, 12, 12), seed=31415).unknowns
    1728
    """
    if name not in FIELD_CASES:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(FIELD_CASES)}")
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (2, 3) or min(shape) < 4:
        raise ValueError(f"shape is {shape}; expected two or three axes of at least 4 cells")
    return FIELD_CASES[name].build(shape, generator(f"field_case/{name}", seed, stream))
