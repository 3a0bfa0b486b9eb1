"""TauFactor and PoreSpy: effective diffusivity and tortuosity of a voxel image, without either package.

TauFactor fixes the concentration on the two outer faces, half a voxel from the first and the last layer; PoreSpy fixes
the first and the last layer themselves. ``at`` says which; the same image then gives the number that they give.

What is conducted is taken from the dissipation a(x, x), whose error is the square of that of x (Dirichlet's principle);
the mean flux has an error of first order. With the straight profile l, a(x, x) = a(x, l) + rᵀ (l - x): the mean flux
and a correction by the residual r. So a few steps with the diagonal from l, in single precision, do for three digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from krylearn.pde import Poisson

from ..front_door.small_systems import steps_with_diagonal
from ..krylov.conjugate_gradients import cg

# cells, steps with the diagonal in single precision, smallest tolerance that these reach: they cost about as much as
# set-up and solve by multigrid (one core)
STEPS = ((40_000, 300, 1e-6), (400_000, 300, 4e-5), (1_500_000, 200, 2e-4))


@dataclass(frozen=True)
class Diffusivity:
    """What a voxel image conducts along one axis.

    D_eff : effective diffusivity, its error of the order of the squared one of the concentration
    tau : mean diffusivity / D_eff
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
    profile = 1 - (np.arange(n) + 0.5) / n if at == "faces" else 1 - np.arange(n) / (n - 1)
    unknown = np.asarray(A.unknown).reshape(phases.shape)
    straight = np.where(unknown, np.expand_dims(profile, [a for a in range(phases.ndim) if a != axis]), 0.0)
    rtol, info = max(4e-3 * ftol, 1e-13), None
    x, iterations, solved = _improve_by_diagonal(A, b, straight, rtol)
    while True:
        through = A.flux(x, **given)[axis].sum(axis=tuple(a for a in range(phases.ndim) if a != axis))
        through = through if at == "faces" else through[1:-1]
        mismatch = float(np.ptp(through) / abs(through.mean()))
        # equal flows through all layers say nothing about those inside them before the system has been solved
        if solved and (mismatch <= ftol or info or rtol <= 1e-13):
            break
        rtol *= 0.1 if info is not None else 1.0
        x, info = cg(A, b, x, rtol=rtol)
        solved = True
        iterations += info.iterations
    halves = (through[0] + through[-1]) / 2 if at == "faces" else 0.0  # half a voxel lies outside
    dissipated = float(through.sum() - halves) / length + float(np.vdot(b - A @ x, straight - x))
    if at == "cells":
        x = np.where(ends, values, x)
    D = dissipated * length / (phases.size / n)  # noqa: N806
    return Diffusivity(D, mean / D, mean_joined / D, through, x, mismatch, mismatch <= ftol, iterations)


def _improve_by_diagonal(A: Poisson, b: Any, start: np.ndarray, rtol: float) -> tuple[np.ndarray, int, bool]:
    """Return what CG with the diagonal makes of a start, its steps, and whether so few reached rtol; else the start.

    Single precision is enough for the steps: what they leave is found out in double precision.
    """
    steps = next((count for limit, count, least in STEPS if start.size <= limit and rtol >= 0.99 * least), 0)
    tolerance = rtol * float(np.linalg.norm(b))
    if not steps or tolerance == 0:
        return start, 0, False
    r = np.asarray(b) - A @ start
    links = [np.ascontiguousarray(w.numpy(), dtype=np.float32).reshape(-1) for w in A.links]
    diag = np.ascontiguousarray(A.diag.numpy(), dtype=np.float32).reshape(-1)
    u, done, left = steps_with_diagonal(
        links, diag, tuple(A.unknown.shape), r.reshape(-1).astype(np.float32), tolerance, steps
    )
    if done < 0 or not left <= 2 * tolerance:
        return start, max(done, 0), False
    return start + u.reshape(start.shape).astype(np.float64), done, True


def _percolating(conducts: np.ndarray, axis: int) -> np.ndarray:
    """Return what is connected to both ends of an axis."""
    from scipy.ndimage import label

    components, _ = label(conducts)
    first, last = (np.take(components, end, axis=axis) for end in (0, -1))
    both = np.intersect1d(first, last)
    return np.isin(components, both[both > 0])
