"""The vocabulary of grids: cell codes, boundary kinds, spacing, and the 3D layout that everything inside shares.

A 2D grid (nx, ny) is stored as (nx, 1, ny), a 3D grid as it is, always C-contiguous; so one code serves both.
User axes are called x, y, z; internal axes are 0, 1, 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import share

TORCH_DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}
KINDS = ("neumann", "dirichlet", "periodic")
Kinds = tuple[tuple[str, str], ...]  # per user axis: (kind of the low side, kind of the high side)


class Cell(IntEnum):
    """What a grid cell holds: nothing (SOLID, no flux enters), an unknown (FLUID), or p fixed to a value (OPEN).

    Examples
    --------
    >>> int(Cell.FLUID)
    1
    """

    SOLID = 0
    FLUID = 1
    OPEN = 2


def internal_axes(ndim: int) -> tuple[int, ...]:
    """Return the internal axis of each user axis: 2D keeps the contiguous axis last.

    >>> internal_axes(2)
    (0, 2)
    """
    return (0, 2) if ndim == 2 else (0, 1, 2)


def internal_shape(grid_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the 3D shape in which a grid is stored.

    >>> internal_shape((5, 7))
    (5, 1, 7)
    """
    nx, *middle, nz = grid_shape
    return (nx, middle[0] if middle else 1, nz)


def check_grid_shape(shape: Any) -> tuple[int, ...]:
    """Return `shape` as a tuple of 2 or 3 positive ints, or say what is wrong with it."""
    try:
        sizes = tuple(int(n) for n in shape)
    except TypeError:
        raise TypeError(f"got grid shape {shape!r}; expected (nx, ny) or (nx, ny, nz)") from None
    if len(sizes) not in (2, 3):
        remedy = "; a 1D problem is a flat grid: use (n, 1)" if len(sizes) == 1 else ""
        raise ValueError(f"got a grid of shape {sizes} with {len(sizes)} axes; expected 2 or 3{remedy}")
    if min(sizes) < 1:
        raise ValueError(f"got a grid of shape {sizes}; expected at least one cell along every axis")
    return sizes


def parse_spacing(spacing: Any, ndim: int) -> tuple[float, ...]:
    """Return one positive cell size per axis from a number or a sequence.

    >>> parse_spacing(0.5, 2)
    (0.5, 0.5)
    """
    if isinstance(spacing, Tensor) and spacing.requires_grad:
        raise TypeError(
            "got spacing that requires a gradient; expected numbers, which have none here: pass spacing.detach(), and "
            "differentiate with respect to kappa or faces"
        )
    values = np.asarray(spacing.cpu() if isinstance(spacing, Tensor) else spacing, dtype=float)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != ndim):
        raise ValueError(f"got spacing {spacing!r}; expected one number, or {ndim} of them, one per axis")
    values = np.broadcast_to(values, (ndim,))
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"got spacing {spacing!r}; expected finite cell sizes > 0")
    return tuple(float(h) for h in values)


def parse_boundary(boundary: Any, ndim: int, default: str, allowed: Sequence[str] = KINDS) -> Kinds:
    """Return the kinds of the two sides of each axis.

    Parameters
    ----------
    boundary : "neumann", "dirichlet" or "periodic" for all sides, or a dict whose keys are axes ("x") or single
        sides ("x-", "x+"); a side wins over its axis, and what is not named gets `default`.
    ndim : number of axes
    default : kind of the sides that a dict does not name
    allowed : kinds

    Examples
    --------
    >>> parse_boundary({"x": "periodic", "y-": "dirichlet"}, 2, default="neumann")
    (('periodic', 'periodic'), ('dirichlet', 'neumann'))
    """
    names = "xyz"[:ndim]
    known = [axis + sign for axis in names for sign in ("", "-", "+")]
    given = boundary if isinstance(boundary, Mapping) else dict.fromkeys(names, boundary)
    for key, kind in given.items():
        if key not in known:
            raise ValueError(f"got boundary key {key!r}; expected one of {', '.join(known)}")
        if kind not in allowed:
            raise ValueError(
                f'got boundary {kind!r} for {key}; expected one of {", ".join(KINDS)}, or ("robin", alpha)'
            )
    kinds = tuple(tuple(given.get(a + sign, given.get(a, default)) for sign in "-+") for a in names)
    for axis, (low, high) in zip(names, kinds, strict=True):
        if (low == "periodic") != (high == "periodic"):
            raise ValueError(
                f"got boundary {low!r} on {axis}- and {high!r} on {axis}+; expected both sides periodic or neither: "
                f'use {{"{axis}": "periodic"}}'
            )
    return kinds  # type: ignore[return-value]


def as_real(values: Any, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """Return `values` (list, NumPy or torch) as a real tensor on its own device, of `dtype` if given."""
    tensor = share(values, name)
    if tensor.is_complex():
        raise TypeError(f"got complex {name}; expected real numbers: treat real and imaginary part apart")
    return tensor if dtype is None else tensor.to(dtype)


def placed(tensor: Tensor, given: Any, name: str, device: torch.device) -> Tensor:
    """Return the tensor made of `given` on `device`; lists and NumPy arrays may move there, another tensor may not."""
    if isinstance(given, Tensor) and tensor.device != device:
        raise ValueError(f"got {name} on {tensor.device}; expected {device}, where the rest is: move it with .to()")
    return tensor.to(device)


def finite(values: Any, name: str, dtype: torch.dtype) -> Tensor:
    """Return `values` as a tensor of finite numbers; an error names the first one that is none."""
    tensor = as_real(values, name, dtype)
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        at = f" at {where}" if where else ""
        raise ValueError(f"got {name} {float(tensor[where])}{at}; expected finite numbers")
    return tensor


def non_negative(values: Any, name: str, dtype: torch.dtype, remedy: str) -> Tensor:
    """Return `values` as a tensor of finite numbers >= 0; an error names the first offending entry."""
    tensor = as_real(values, name, dtype)
    bad = ~(torch.isfinite(tensor) & (tensor >= 0))
    if bool(bad.any()):
        where = tuple(int(i) for i in bad.nonzero()[0])
        at = f" at {where}" if where else ""
        raise ValueError(f"got {name} {float(tensor[where])}{at}; expected finite numbers >= 0: {remedy}")
    return tensor


def parse_cells(cells: Any, grid_shape: Sequence[int] | None = None) -> Tensor:
    """Return cell codes as a uint8 tensor on the grid (a boolean array means True = FLUID).

    Raises
    ------
    ValueError
        for unknown codes, a shape other than `grid_shape`, a 1D or empty grid, or an array without FLUID cells
    """
    codes = as_real(cells, "cells")
    shape = check_grid_shape(codes.shape)
    if grid_shape is not None and shape != tuple(grid_shape):
        raise ValueError(f"got cells of shape {shape}; expected {tuple(grid_shape)}, one code per cell")
    if codes.dtype == torch.bool:
        codes = codes.view(torch.uint8)
    if codes.is_floating_point() or not 0 <= int(codes.min()) <= int(codes.max()) <= 2:
        unknown = ~((codes == 0) | (codes == 1) | (codes == 2))
        if not bool(unknown.any()):
            return parse_cells(codes.to(torch.uint8), grid_shape)
        where = tuple(int(i) for i in unknown.nonzero()[0])
        raise ValueError(
            f"got cell code {float(codes[where]):g} at {where}; expected 0 (SOLID), 1 (FLUID) or 2 (OPEN): "
            "of an image or of labels make a mask, cells=labels > 0 (True = FLUID)"
        )
    codes = codes.to(torch.uint8)
    fluid = (codes.numpy() if codes.is_cpu else codes) == Cell.FLUID
    if not bool(fluid.any()):
        raise ValueError(
            "got cells without FLUID; expected at least one unknown: mark the cells to solve for with Cell.FLUID"
        )
    return codes


def volume(spacing: Sequence[float]) -> float:
    """Return the volume (2D: area) of a cell.

    >>> volume((0.5, 2.0))
    1.0
    """
    return math.prod(spacing)


def volume_parts(spacing: Sequence[float]) -> tuple[float, int]:
    """Return mantissa and exponent of a volume, which as one number could lose digits or overflow.

    >>> volume_parts((2.0**-500, 2.0**-500, 3.0))
    (0.1875, -996)
    """
    exponents = [math.frexp(h)[1] for h in spacing]
    return math.prod(math.ldexp(h, -e) for h, e in zip(spacing, exponents, strict=True)), sum(exponents)


def face_factor(spacing: Sequence[float], d: int) -> float:
    """Return area / distance between centres for the faces normal to axis d, which has to be a positive number.

    >>> face_factor((0.5, 2.0), 0), face_factor((1e-200, 1e-200), 1)
    (4.0, 1.0)
    """
    square = spacing[d] * spacing[d]
    exact = all(1e-280 < v < 1e280 for v in (square, volume(spacing)))  # no digit is lost in between
    factor = volume(spacing) / square if exact else 0.0
    if not 1e-280 < factor < 1e280:  # the same without intermediate results that leave the range of numbers
        mantissa, exponent = volume_parts(spacing)
        own = math.frexp(spacing[d])[1]
        mantissa, exponent = mantissa / math.ldexp(spacing[d], -own) ** 2, exponent - 2 * own
        factor = math.ldexp(mantissa, exponent) if exponent < 1020 else math.inf
    if not 0 < factor < math.inf:
        raise ValueError(
            f"got spacing {tuple(spacing)}: area / distance is {factor:g}; expected a positive number: use other units"
        )
    return factor


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return float32 or float64 of torch for a NumPy or torch dtype, or refuse."""
    if dtype in (torch.float32, torch.float64):
        return dtype
    try:
        return TORCH_DTYPES[np.dtype(dtype)]
    except (TypeError, KeyError):
        raise TypeError(f"got dtype {dtype!r}; expected float64 or float32 (NumPy's or torch's)") from None
