"""flopy: heads of a confined, steady MODFLOW 6 model on a structured grid, from the model's own arrays.

    heads = solve_heads(gwf)                    # (nlay, nrow, ncol), NaN in inactive cells

Conductances are MODFLOW's: two half cells in series between centres, K x thickness x width across, K33 x area down.
Read are DIS, NPF (k, k22, k33), CHD, WEL, RCH, RCHA, GHB and RIV of one stress period; what is nonlinear is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from krylearn.pde import Poisson

from ..krylov.conjugate_gradients import cg
from ..krylov.outcome import ConvergenceError

LINEAR = {"dis", "npf", "chd", "wel", "rch", "rcha", "ghb", "riv", "ic", "oc", "obs", "sto", "ims", "nam", "disv"}


def solve_heads(gwf: Any, period: int = 0, rtol: float = 1e-10) -> np.ndarray:
    """Return the heads of a ``flopy.mf6.ModflowGwf``, without MODFLOW.

    Raises
    ------
    ValueError
        for cells that may fall dry, other grids, and packages that are not linear;  ConvergenceError

    Examples
    --------
    >>> solve_heads(gwf)[0]                                                     # doctest: +SKIP
    """
    A, b, heads = system_of(gwf, period)
    x, info = cg(A, b, rtol=rtol)
    if info:
        raise ConvergenceError(info, x)
    active = np.asarray(A.unknown).reshape(A.grid_shape)
    return np.where(active, x, heads)


def system_of(gwf: Any, period: int = 0) -> tuple[Poisson, np.ndarray, np.ndarray]:
    """Return operator and right-hand side of a model, and the heads that are given (NaN elsewhere).

    Examples
    --------
    >>> A, b, heads = system_of(gwf)                                            # doctest: +SKIP
    """
    kinds = {package.package_type.rstrip("0123456789_") for package in gwf.packagelist}
    if kinds - LINEAR or "disv" in kinds:
        raise ValueError(
            f"got packages {sorted(kinds - LINEAR)}; expected a linear model of DIS, NPF and {sorted(LINEAR)}"
        )
    dis, npf = gwf.dis, gwf.npf
    if np.any(npf.icelltype.array > 0):
        raise ValueError(
            "got icelltype > 0, cells whose thickness depends on the head; expected confined ones: icelltype=0"
        )
    top, bottom = np.asarray(dis.top.array, dtype=float), np.asarray(dis.botm.array, dtype=float)
    thickness = np.concatenate([top[None], bottom[:-1]]) - bottom
    shape = thickness.shape
    active = np.ones(shape, dtype=int) if dis.idomain.array is None else np.asarray(dis.idomain.array)
    if (active < 0).any():
        raise ValueError("got idomain < 0, cells that water passes through; expected 0 or 1")
    faces = _faces(npf, thickness, np.asarray(dis.delr.array, float), np.asarray(dis.delc.array, float), active > 0)
    extra, source, heads = np.zeros(shape), np.zeros(shape), np.full(shape, np.nan)
    area = np.asarray(dis.delc.array, float)[:, None] * np.asarray(dis.delr.array, float)
    for kind, cell, record in _records(gwf, period):
        if kind == "chd":
            heads[cell] = record["head"]
        elif kind == "wel":
            source[cell] += record["q"]
        elif kind == "rch":
            source[cell] += record["recharge"] * area[cell[1:]]
        else:  # ghb and riv: flow conductance x (level - head)
            level = record["bhead"] if kind == "ghb" else record["stage"]
            extra[cell] += record["cond"]
            source[cell] += record["cond"] * level
    for package in _packages(gwf, "rcha"):
        rate = np.asarray(package.recharge.get_data(period), dtype=float)
        first = np.argmax(active > 0, axis=0)
        rows, columns = np.nonzero((active > 0).any(axis=0))
        source[first[rows, columns], rows, columns] += (rate * area)[rows, columns]
    fixed = ~np.isnan(heads) & (active > 0)
    A = Poisson.from_faces(faces, extra, cells=active > 0, fixed=fixed)
    return A, A.rhs(source, fixed=np.where(fixed, heads, 0)), heads


def _packages(gwf: Any, kind: str) -> list[Any]:
    return [package for package in gwf.packagelist if package.package_type.rstrip("0123456789_") == kind]


def _records(gwf: Any, period: int) -> Any:
    """Yield (kind, cell, record) of all lists of one stress period."""
    for kind in ("chd", "wel", "rch", "ghb", "riv"):
        for package in _packages(gwf, kind):
            data = package.stress_period_data.get_data(period)
            for record in data if data is not None else ():
                yield kind, tuple(int(i) for i in record["cellid"]), record


def _faces(npf: Any, thickness: np.ndarray, delr: np.ndarray, delc: np.ndarray, active: np.ndarray) -> list[np.ndarray]:
    """Return conductances down, along columns and along rows; no flow leaves the grid."""
    k = np.asarray(npf.k.array, dtype=float)
    k22, k33 = (k if v.array is None else np.asarray(v.array, dtype=float) for v in (npf.k22, npf.k33))
    area = delc[:, None] * delr
    halves = (
        2 * k33 * area / thickness,
        2 * k22 * thickness * delr / delc[:, None],
        2 * k * thickness * delc[:, None] / delr,
    )
    faces = []
    for axis, half in enumerate(halves):
        g = np.moveaxis(np.where(active, half, 0), axis, 0)
        total = g[:-1] + g[1:]
        between = np.divide(g[:-1] * g[1:], total, out=np.zeros_like(total), where=total > 0)
        closed = np.zeros_like(g[:1])
        faces.append(np.moveaxis(np.concatenate([closed, between, closed]), 0, axis))
    return faces
