"""xinvert: `invert_Poisson` on Cartesian and latitude-longitude grids, with xarray in and out.

The same finite differences: with lat = dims[0] and lon = dims[1],

    d/dlat (cos lat dS/dlat) + (1 / cos lat) d2S/dlon2 = R^2 cos(lat) F,    cos lat taken between two latitudes

The first and last rows along a 'fixed' axis, and points where F is NaN, keep the value of `icbc` (0 without it).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from krylearn.pde import Poisson

from ..krylov.conjugate_gradients import cg
from ..krylov.outcome import ConvergenceError

EARTH = 6371200.0  # metres, as in xinvert
RTOL = 1e-8


def invert_Poisson(  # noqa: N802, xinvert's name
    F: Any,
    dims: Any,
    coords: str = "lat-lon",
    icbc: Any = None,
    mParams: Any = None,  # noqa: N803
    iParams: Any = None,  # noqa: N803
) -> Any:
    """Return S with laplace(S) = F, as ``xinvert.invert_Poisson``; residuals are 1e-8 of the right-hand side.

    Parameters
    ----------
    F : xarray.DataArray; other dimensions than `dims` are solved one by one
    dims : two names, e.g. ["lat", "lon"]
    coords : "lat-lon" or "cartesian"
    icbc : xarray.DataArray like F or None; values on fixed boundaries
    mParams : {"Rearth": metres};  iParams : {"BCs": ["fixed" or "periodic", ...], "undef": value}

    Examples
    --------
    >>> invert_Poisson(vorticity, ["lat", "lon"], iParams={"BCs": ["fixed", "periodic"]})         # doctest: +SKIP
    """
    options = {"BCs": ["fixed", "fixed"], "undef": np.nan} | (iParams or {})
    kinds = list(options["BCs"])
    if coords.lower() not in ("lat-lon", "cartesian"):
        raise ValueError(f"got coords {coords!r}; expected 'lat-lon' or 'cartesian': use xinvert")
    if len(kinds) != 2 or any(kind not in ("fixed", "periodic") for kind in kinds):
        raise ValueError(f"got BCs {kinds!r}; expected 'fixed' or 'periodic' for both axes: use xinvert")
    y, x = (np.asarray(F[dim], dtype=np.float64) for dim in dims)
    field = F.transpose(..., *dims)
    forcing = np.asarray(field, dtype=np.float64)
    undefined = np.isnan(forcing) | (forcing == options["undef"])
    start = np.zeros(forcing.shape) if icbc is None else np.asarray(icbc.transpose(..., *dims), dtype=np.float64)
    start = np.broadcast_to(start, forcing.shape)
    radius = float((mParams or {}).get("Rearth", EARTH))
    faces, weight = _faces(y, x, coords.lower() == "lat-lon", radius, kinds)
    out = np.empty(forcing.shape)
    for index in np.ndindex(forcing.shape[:-2]):
        out[index] = _solve(faces, weight, forcing[index], undefined[index], start[index], kinds)
    result = np.where(undefined, options["undef"], out)
    return field.copy(data=result).transpose(*F.dims).rename("inverted")


def _faces(y: np.ndarray, x: np.ndarray, sphere: bool, radius: float, kinds: list[str]) -> tuple[Any, np.ndarray]:
    """Return conductances along both axes, and what F is multiplied by."""
    ny, nx = len(y), len(x)
    across, along, weight = np.ones((ny + 1, nx)), np.ones((ny, nx + 1)), np.ones(ny)
    if sphere:
        lat = np.deg2rad(y)
        weight = np.cos(lat)
        across[1:-1] = np.cos((lat[1:] + lat[:-1]) / 2)[:, None]
        along = along / weight[:, None]
        dy, dx = (radius * np.deg2rad(v[1] - v[0]) for v in (y, x))
    else:
        dy, dx = y[1] - y[0], x[1] - x[0]
    across, along = across * (dx / dy) ** 2, along
    for kind, faces, axis in zip(kinds, (across, along), (0, 1), strict=True):
        ends = np.moveaxis(faces, axis, 0)
        if kind == "fixed":
            ends[[0, -1]] = 0.0
        else:
            ends[0] = ends[-1]
    return [across, along], weight * dx**2


def _solve(
    faces: Any, weight: np.ndarray, forcing: np.ndarray, undefined: np.ndarray, start: np.ndarray, kinds: list[str]
) -> np.ndarray:
    """Solve on one slice."""
    fixed = undefined.copy()
    for axis, kind in enumerate(kinds):
        if kind == "fixed":
            np.moveaxis(fixed, axis, 0)[[0, -1]] = True
    boundary = {name: "periodic" for name, kind in zip("xy", kinds, strict=True) if kind == "periodic"}
    A = Poisson.from_faces(faces, boundary=boundary or "neumann", fixed=fixed)
    b = A.rhs(-np.where(fixed, 0, forcing) * weight[:, None], fixed=np.where(fixed, start, 0))
    x, info = cg(A, b, rtol=RTOL)
    if info:
        raise ConvergenceError(info, x)
    return np.where(fixed, start, x)
