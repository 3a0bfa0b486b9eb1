"""Conductances from cells, coefficients or faces: the fields of a `Poisson`, computed and checked here.

The formulas are in the table of `poisson.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .grid import (
    Cell,
    Kinds,
    check_grid_shape,
    internal_axes,
    internal_shape,
    non_negative,
    parse_boundary,
    parse_cells,
    parse_spacing,
    placed,
    volume,
)

Sides = tuple[tuple[Tensor, Tensor], ...]


def neighbour(t: Tensor, d: int, periodic: bool, fill: float = 0) -> Tensor:
    """Return the value of the next cell along axis d, `fill` beyond the last one unless it wraps."""
    after = torch.roll(t, -1, d)
    if not periodic or t.shape[d] == 1:
        after.narrow(d, t.shape[d] - 1, 1).fill_(fill)
    return after


def previous(t: Tensor, d: int, periodic: bool, fill: float = 0) -> Tensor:
    """Return the value of the cell before along axis d, `fill` before the first one unless it wraps."""
    before = torch.roll(t, 1, d)
    if not periodic or t.shape[d] == 1:
        before.narrow(d, 0, 1).fill_(fill)
    return before


def harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    """2ab/(a + b), exact for a = b, symmetric, 0 if either is 0, free of overflow."""
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    share = high / torch.where(high > 0, low + high, 1)
    return 2 * low * share


def internal_kinds(kinds: Kinds) -> Kinds:
    """Insert the missing middle axis of a 2D grid."""
    return kinds if len(kinds) == 3 else (kinds[0], ("neumann", "neumann"), kinds[1])


def from_cells(cells: Any, spacing: Any, boundary: Any, shift: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Fields for constant coefficient 1 around SOLID and OPEN cells."""
    codes = parse_cells(cells)
    return _fields(codes, None, spacing, parse_boundary(boundary, codes.ndim, "neumann"), shift, dtype)


def from_coefficients(
    kappa: Any, spacing: Any, boundary: Any, shift: Any, cells: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """Fields for a coefficient per cell; without `cells`, a cell with kappa = 0 and no shift holds no unknown."""
    remedy = "kappa is a conductivity; 0 means impermeable"
    coefficient = non_negative(kappa, "kappa", dtype, remedy)
    shape = check_grid_shape(coefficient.shape)
    if cells is None:
        extra = _shift(shift, shape, dtype, coefficient.device)
        codes = ((coefficient > 0) | (extra > 0)).to(torch.uint8)
        if not bool(codes.any()):
            raise ValueError("got kappa = 0 everywhere; expected at least one cell with kappa > 0 or a shift > 0")
    else:
        codes = placed(parse_cells(cells, shape), cells, "cells", coefficient.device)
    return _fields(codes, coefficient, spacing, parse_boundary(boundary, len(shape), "dirichlet"), shift, dtype)


def _shift(shift: Any, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    values = non_negative(0 if shift is None else shift, "shift", dtype, "a negative shift makes A indefinite")
    if values.ndim and tuple(values.shape) != shape:
        raise ValueError(f"got shift of shape {tuple(values.shape)}; expected a number or one value per cell, {shape}")
    return placed(values, shift, "shift", device).expand(shape)


def _fields(
    codes: Tensor, kappa: Tensor | None, spacing: Any, kinds: Kinds, shift: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """Apply the table; kappa = None stands for 1, where the harmonic mean is a logical and."""
    grid_shape = tuple(codes.shape)
    shape, h = internal_shape(grid_shape), parse_spacing(spacing, len(grid_shape))
    extra = _shift(shift, grid_shape, dtype, codes.device).reshape(shape) * volume(h)
    codes = codes.reshape(shape)
    fluid, is_open = codes == Cell.FLUID, codes == Cell.OPEN
    any_open = bool(is_open.any())
    own = fluid.to(dtype) if kappa is None else torch.where(fluid, kappa.reshape(shape), 0)
    axes, sizes = internal_axes(len(grid_shape)), dict.fromkeys(range(3), 1.0)
    sizes.update(zip(axes, h, strict=True))
    links, ground, sides = [], [], []
    for d, (low, high) in enumerate(internal_kinds(kinds)):
        factor = volume(h) / sizes[d] ** 2  # area / distance between centres
        wraps = low == "periodic"
        mean = harmonic_mean(own, neighbour(own, d, wraps)) if kappa is not None else own * neighbour(own, d, wraps)
        links.append(mean.mul_(factor))
        side = tuple(
            own.narrow(d, at, 1) * (2 * factor if kind == "dirichlet" else 0.0)
            for at, kind in ((0, low), (shape[d] - 1, high))
        )
        total = torch.zeros_like(own)
        if any_open:
            opens = neighbour(is_open, d, wraps).to(dtype) + previous(is_open, d, wraps)
            total = own * opens * factor
        total.narrow(d, 0, 1).add_(side[0])
        total.narrow(d, shape[d] - 1, 1).add_(side[1])
        ground.append(total)
        sides.append(side)
    return {
        "grid_shape": grid_shape,
        "spacing": h,
        "boundary": kinds,
        "links": tuple(links),
        "ground": tuple(ground),
        "shift": extra * fluid,
        "unknown": fluid,
        "open": is_open if any_open else None,
        "sides": tuple(sides),
    }


def from_faces(faces: Sequence[Any], extra: Any, spacing: Any, boundary: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Fields from one array of conductances per axis; cells without any conductance or extra hold no unknown."""
    given = [non_negative(w, f"faces[{d}]", dtype, "a conductance; 0 means wall") for d, w in enumerate(faces)]
    grid_shape = _shape_of_faces(given)
    shape, kinds = internal_shape(grid_shape), parse_boundary(boundary, len(grid_shape), "neumann")
    device = given[0].device
    none = torch.zeros(shape, dtype=dtype, device=device)
    links, ground, sides = [none] * 3, [none] * 3, [(none.narrow(d, 0, 1), none.narrow(d, 0, 1)) for d in range(3)]
    unknown = torch.zeros(shape, dtype=torch.bool, device=device)
    for axis, (d, w) in enumerate(zip(internal_axes(len(grid_shape)), given, strict=True)):
        w, n = w.reshape((*shape[:d], shape[d] + 1, *shape[d + 1 :])), shape[d]
        low, high = w.narrow(d, 0, 1), w.narrow(d, n, 1)
        links[d], ground[d] = w.narrow(d, 1, n).clone(), none.clone()
        if kinds[axis][0] == "periodic":
            _check_wrap(low, high, axis)
            if n == 1:  # a cell does not couple to itself
                links[d].zero_()
        else:
            links[d].narrow(d, n - 1, 1).zero_()
            ground[d].narrow(d, 0, 1).add_(low)
            ground[d].narrow(d, n - 1, 1).add_(high)
            sides[d] = (low.clone(), high.clone())
        unknown |= (links[d] > 0) | (previous(links[d], d, True) > 0) | (ground[d] > 0)
    shift = non_negative(0 if extra is None else extra, "extra", dtype, "extra adds to the diagonal")
    shift = placed(shift, extra, "extra", device)
    if shift.ndim and tuple(shift.shape) != grid_shape:
        raise ValueError(
            f"got extra of shape {tuple(shift.shape)}; expected a number or one value per cell, {grid_shape}"
        )
    shift = shift.expand(grid_shape).reshape(shape).clone()
    unknown |= shift > 0
    if not bool(unknown.any()):
        raise ValueError("got faces that are all 0 and no extra; expected at least one positive conductance")
    return {
        "grid_shape": grid_shape,
        "spacing": parse_spacing(spacing, len(grid_shape)),
        "boundary": tuple(_kind_of_ends(kinds[a], sides[d]) for a, d in enumerate(internal_axes(len(grid_shape)))),
        "links": tuple(links),
        "ground": tuple(ground),
        "shift": shift,
        "unknown": unknown,
        "open": None,
        "sides": tuple(sides),
    }


def _kind_of_ends(kinds: tuple[str, str], sides: tuple[Tensor, Tensor]) -> tuple[str, str]:
    if kinds[0] == "periodic":
        return kinds
    low, high = ("dirichlet" if bool((w > 0).any()) else "neumann" for w in sides)
    return low, high


def _check_wrap(low: Tensor, high: Tensor, axis: int) -> None:
    if not torch.equal(low, high):
        i = tuple(int(k) for k in (low != high).nonzero()[0])
        raise ValueError(
            f"got faces[{axis}] with first entry {float(low[i])} and last entry {float(high[i])}; expected equal ones "
            "along a periodic axis, where they are the same face"
        )


def _shape_of_faces(faces: Sequence[Tensor]) -> tuple[int, ...]:
    if len(faces) not in (2, 3):
        raise ValueError(f"got {len(faces)} arrays of faces; expected one per axis, 2 or 3")
    if any(w.ndim != len(faces) for w in faces):
        raise ValueError(f"got faces with {[w.ndim for w in faces]} axes; expected {len(faces)} for every array")
    if len({w.device for w in faces}) > 1:
        raise ValueError(f"got faces on {[str(w.device) for w in faces]}; expected one device: move them first")
    shape = check_grid_shape(w.shape[d] - 1 for d, w in enumerate(faces))
    for d, w in enumerate(faces):
        expected = tuple(n + (axis == d) for axis, n in enumerate(shape))
        if tuple(w.shape) != expected:
            raise ValueError(
                f"got faces[{d}] of shape {tuple(w.shape)}; expected {expected}, "
                f"n + 1 entries along its own axis and n along the others of the grid {shape}"
            )
    return shape
