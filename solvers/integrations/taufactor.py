"""TauFactor and PoreSpy: effective diffusivity and tortuosity of a voxel image, without either package.

TauFactor fixes the concentration on the two outer faces, half a voxel from the first and the last layer; PoreSpy fixes
the first and the last layer themselves. ``at`` says which; the same image then gives the number that they give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from krylearn.pde import Poisson

from ..krylov.conjugate_gradients import cg


@dataclass(frozen=True)
class Diffusivity:
    """What a voxel image conducts along one axis.

    D_eff : effective diffusivity;  tau : mean diffusivity / D_eff
    tau_percolating : the same with what is connected to both sides alone (PoreSpy's tortuosity)
    flux : what flows through each layer of faces, all equal but for the tolerance;  concentration : on the image
    mismatch : (largest - smallest flux) / mean;  converged : mismatch <= ftol;  iterations : of all solves
    """

    D_eff: float
    tau: float
    tau_percolating: float
    flux: np.ndarray
    concentration: np.ndarray
    mismatch: float
    converged: bool
    iterations: int


def effective_diffusivity(
    image: Any, axis: int = 0, conductivity: Mapping[int, float] | None = None, *, at: str = "faces", ftol: float = 1e-3
) -> Diffusivity:
    """Solve for a concentration of 1 on one side and 0 on the other, until what flows in flows out.

    Parameters
    ----------
    image : 2D or 3D array of phases; without `conductivity` what is not 0 conducts with 1
    axis : direction of diffusion; the other sides are closed
    conductivity : of every phase, by its label; phases that are not named do not conduct
    at : "faces": the outer faces have the given values, as in TauFactor; "cells": the outer layers, as in PoreSpy
    ftol : largest difference between fluxes through layers, relative to their mean

    Returns
    -------
    Diffusivity; D_eff = 0 and tau = inf where nothing connects the sides

    Examples
    --------
    >>> channel = np.zeros((6, 4, 4), dtype=bool)
    >>> channel[:, 1, 1] = True
    >>> found = effective_diffusivity(channel)
    >>> round(found.D_eff, 9), round(found.tau, 9)                  # one straight channel of 1 / 16 of the section
    (0.0625, 1.0)
    """
    if at not in ("faces", "cells"):
        raise ValueError(f'got at={at!r}; expected "faces" or "cells"')
    phases = np.asarray(image)
    kappa = (phases != 0).astype(np.float64)
    if conductivity is not None:
        kappa = np.zeros(phases.shape)
        for phase, value in conductivity.items():
            kappa[phases == phase] = value
    axis = range(phases.ndim)[axis]
    name, n = "xyz"[axis], phases.shape[axis]
    joined = _percolating(kappa > 0, axis)
    mean, mean_joined = float(kappa.mean()), float(np.where(joined, kappa, 0).mean())
    if not joined.any():
        none = np.zeros(n + 1 if at == "faces" else n - 1)
        return Diffusivity(0.0, np.inf, np.inf, none, np.zeros(phases.shape), 0.0, True, 0)
    conducting = np.where(joined, kappa, 0)
    sides = {side + end: "neumann" for side in "xyz"[: phases.ndim] for end in "-+"}
    ends = np.zeros(phases.shape, dtype=bool)
    if at == "faces":
        A = Poisson.from_coefficients(conducting, boundary=sides | {name: "dirichlet", name + "-": "dirichlet",
                                                                    name + "+": "dirichlet"})  # fmt: skip
        given: dict[str, Any] = {"dirichlet": {name + "-": 1.0, name + "+": 0.0}}
        length = n
    else:
        np.moveaxis(ends, axis, 0)[[0, -1]] = True
        ends &= joined
        values = np.zeros(phases.shape)
        np.moveaxis(values, axis, 0)[0] = 1.0
        A = Poisson.from_coefficients(conducting, boundary=sides, fixed=ends)
        given, length = {"fixed": values}, n - 1
    b = A.rhs(0.0, **given)
    rtol, x, iterations = max(1e-2 * ftol, 1e-13), None, 0
    while True:
        x, info = cg(A, b, x, rtol=rtol)
        iterations += info.iterations
        through = A.flux(x, **given)[axis].sum(axis=tuple(a for a in range(phases.ndim) if a != axis))
        through = through if at == "faces" else through[1:-1]
        mismatch = float(np.ptp(through) / abs(through.mean()))
        if mismatch <= ftol or info or rtol <= 1e-13:
            break
        rtol *= 0.1
    if at == "cells":
        x = np.where(ends, values, x)
    D = float(through.mean()) * length / (phases.size / n)  # noqa: N806
    return Diffusivity(D, mean / D, mean_joined / D, through, x, mismatch, mismatch <= ftol, iterations)


def _percolating(conducts: np.ndarray, axis: int) -> np.ndarray:
    """Return what is connected to both ends of an axis."""
    from scipy.ndimage import label

    components, _ = label(conducts)
    first, last = (np.take(components, end, axis=axis) for end in (0, -1))
    both = np.intersect1d(first, last)
    return np.isin(components, both[both > 0])
