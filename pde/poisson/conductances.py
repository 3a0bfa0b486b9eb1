"""Conductances from cells, coefficients or faces: the fields of a `Poisson`, computed and checked here.

The formulas are in the table of `operator.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arrays import times_number
from .grid import (
    Cell,
    Kinds,
    check_grid_shape,
    face_factor,
    finite,
    internal_axes,
    internal_shape,
    non_negative,
    parse_boundary,
    parse_cells,
    parse_spacing,
    placed,
    volume_parts,
)

Triple = tuple[Tensor, Tensor, Tensor]


def as_triple(values: Iterable[Tensor]) -> Triple:
    """Return one tensor per internal axis as a triple.

    >>> len(as_triple(torch.zeros(3)))
    3
    """
    x, y, z = values
    return x, y, z


class Conductances(NamedTuple):
    """Every number of an operator but its diagonal, on the internal grid.

    links, ground : one tensor per axis;  shift : tensor
    sides : per axis the part of `ground` that belongs to the low and to the high side of the box
    to_given : per axis the conductance from a cell to the next one where one of them is an unknown and the other holds
        a given value; in `ground` too. () where these are OPEN cells of equal size, or none
    """

    links: Triple
    ground: Triple
    shift: Tensor
    sides: tuple[tuple[Tensor, Tensor], ...] = ()
    to_given: tuple[Tensor, ...] = ()


def without_negative_shift(given: Conductances) -> Conductances:
    """Return the same with a shift of 0 where it is negative: what is left is an M-matrix."""
    return given._replace(shift=given.shift.clamp_min(0))


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


def loses_digits(value: float, factor: float, dtype: torch.dtype) -> bool:
    """Tell whether a product is among the last numbers of a dtype, where digits of the factor are lost, or beyond.

    >>> loses_digits(1.0, 1e-40, torch.float32), loses_digits(1e-310, 1.0, torch.float64)
    (True, False)
    """
    product = value * factor
    if math.frexp(factor)[0] == 0.5:  # a power of two: nothing is lost that the value has
        return product < torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return product < torch.finfo(dtype).smallest_normal


def harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    """2ab/(a + b), exact for a = b, symmetric, 0 if either is 0, free of overflow."""
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):  # min and max have kinks where a = b
        total = a + b
        return 2 * a * (b / torch.where(total > 0, total, 1))
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
        extra = _on_cells(shift, "shift", shape, dtype, coefficient.device)
        codes = ((coefficient > 0) | (extra > 0)).to(torch.uint8)
        if not bool(codes.any()):
            raise ValueError("got kappa = 0 everywhere; expected at least one cell with kappa > 0 or a shift > 0")
    else:
        codes = placed(parse_cells(cells, shape), cells, "cells", coefficient.device)
    return _fields(codes, coefficient, spacing, parse_boundary(boundary, len(shape), "dirichlet"), shift, dtype)


def _fields(
    codes: Tensor, kappa: Tensor | None, spacing: Any, kinds: Kinds, shift: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """Apply the table; kappa = None stands for 1, where the harmonic mean is a logical and."""
    grid_shape = tuple(codes.shape)
    shape, h = internal_shape(grid_shape), parse_spacing(spacing, len(grid_shape))
    extra = _on_cells(shift, "shift", grid_shape, dtype, codes.device).reshape(shape)
    if bool((extra != 0).any()):
        scaled = times_number(extra, *volume_parts(h))
        if bool(((scaled.abs() < torch.finfo(dtype).tiny) & (extra != 0)).any()):
            raise ValueError(f"got shift x volume that underflows {dtype}; expected a positive number: use other units")
        extra = scaled
    codes = codes.reshape(shape)
    fluid, is_open = codes == Cell.FLUID, codes == Cell.OPEN
    any_open = bool(is_open.any())
    own = fluid.to(dtype) if kappa is None else torch.where(fluid, kappa.reshape(shape), 0)
    factors = {d: face_factor(h, axis) for axis, d in enumerate(internal_axes(len(grid_shape)))}
    least, largest = min(factors.values()), float(own.detach().max()) if min(factors.values()) < 1e-15 else 0.0
    if largest > 0 and loses_digits(largest, least, dtype):
        raise ValueError(f"got conductances that underflow {dtype}; expected positive numbers: use other units")
    parts = [
        _along(own, is_open if any_open else None, d, pair, factors.get(d, 1.0), kappa is not None)
        for d, pair in enumerate(internal_kinds(kinds))
    ]
    links, ground, sides = zip(*parts, strict=True)
    return {
        "grid_shape": grid_shape,
        "spacing": h,
        "boundary": kinds,
        "unknown": fluid,
        "source": Conductances(links, ground, extra * fluid, sides),
        "open": is_open if any_open else None,
    }


def _along(
    own: Tensor, is_open: Tensor | None, d: int, kinds: tuple[str, str], factor: float, variable: bool
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return links, ground and its part on the sides along one axis; factor = area / distance between centres."""
    wraps, after = kinds[0] == "periodic", neighbour(own, d, kinds[0] == "periodic")
    links = times_number(harmonic_mean(own, after) if variable else own * after, factor)
    ground = torch.zeros_like(own)
    if is_open is not None:
        opens = neighbour(is_open, d, wraps).to(own.dtype) + previous(is_open, d, wraps)
        ground = times_number(own * opens, factor)
    ends = (0, own.shape[d] - 1)
    low, high = (
        times_number(own.narrow(d, at, 1), 2 * factor if kind == "dirichlet" else 0.0)
        for at, kind in zip(ends, kinds, strict=True)
    )
    for at, side in zip(ends, (low, high), strict=True):
        ground.narrow(d, at, 1).add_(side)
    return links, ground, (low, high)


def from_faces(faces: Sequence[Any], extra: Any, spacing: Any, boundary: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Fields from one array of conductances per axis; cells without any conductance or extra hold no unknown."""
    given = [non_negative(w, f"faces[{d}]", dtype, "a conductance; 0 means wall") for d, w in enumerate(faces)]
    grid_shape = _shape_of_faces(given)
    shape, kinds = internal_shape(grid_shape), parse_boundary(boundary, len(grid_shape), "neumann")
    none = torch.zeros(shape, dtype=dtype, device=given[0].device)
    parts = [(none, none, (none.narrow(d, 0, 1), none.narrow(d, 0, 1))) for d in range(3)]
    axes = internal_axes(len(grid_shape))
    for axis, d in enumerate(axes):
        w = given[axis].reshape((*shape[:d], shape[d] + 1, *shape[d + 1 :]))
        parts[d] = _split_faces(w, d, axis, kinds[axis][0] == "periodic")
    links, ground, sides = zip(*parts, strict=True)
    shift = _on_cells(extra, "extra", grid_shape, dtype, none.device).reshape(shape).clone()
    unknown = shift > 0
    for d in axes:
        unknown |= (links[d] > 0) | (previous(links[d], d, True) > 0) | (ground[d] > 0)
    if not bool(unknown.any()):
        raise ValueError("got faces that are all 0 and no extra; expected at least one positive conductance")
    return {
        "grid_shape": grid_shape,
        "spacing": parse_spacing(spacing, len(grid_shape)),
        "boundary": tuple(_kind_of_ends(kinds[axis], sides[d]) for axis, d in enumerate(axes)),
        "unknown": unknown,
        "source": Conductances(links, ground, shift, sides),
    }


def _split_faces(w: Tensor, d: int, axis: int, wraps: bool) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return links, ground and its part on the sides from the n + 1 faces along one axis."""
    n = w.shape[d] - 1
    low, high = w.narrow(d, 0, 1).clone(), w.narrow(d, n, 1).clone()
    links = w.narrow(d, 1, n).clone()
    ground = torch.zeros_like(links)
    if wraps:
        _check_wrap(low, high, axis)
        return (links if n > 1 else ground), ground, (low * 0, high * 0)  # a cell does not couple to itself
    links.narrow(d, n - 1, 1).zero_()
    ground.narrow(d, 0, 1).add_(low)
    ground.narrow(d, n - 1, 1).add_(high)
    return links, ground, (low, high)


def _on_cells(given: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a shift or extra, given as None, number or array, on the grid."""
    values = finite(0 if given is None else given, name, dtype)
    if values.ndim and tuple(values.shape) != shape:
        raise ValueError(f"got {name} of shape {tuple(values.shape)}; expected a number or one value per cell, {shape}")
    return placed(values, given, name, device).expand(shape)


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
