"""Cells of different sizes, Robin sides, cells of given value: conductances beyond the table of `operator.py`.

With L = size of a cell along the face's normal, area = volume / L and half-cell conductivities q = 2 kappa / L:

    face between                      conductance w
    --------------------------------  ----------------------------------------------------------------------
    FLUID i and FLUID or fixed j      area / (1 / q_i + 1 / q_j)
    FLUID i and a Dirichlet side      area q_i
    FLUID i and a Robin side          area / (1 / alpha + 1 / q_i)    kappa dp/dn = alpha (g - p), n outward
    FLUID i and OPEN j                area kappa_i / ((L_i + L_j) / 2)

The area of a face is the mean of those of its two cells. A size may be one number per axis, one per layer of cells
(tensor meshes), or one per cell: then it is the length of that cell, and orthogonal coordinates such as longitude and
latitude need no more, ``spacing=(R dlat, R cos(lat) dlon)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .conductances import Conductances, as_triple, harmonic_mean, internal_kinds, neighbour, previous
from .grid import (
    KINDS,
    Cell,
    as_real,
    check_grid_shape,
    finite,
    internal_axes,
    internal_shape,
    non_negative,
    parse_boundary,
    parse_cells,
    parse_spacing,
    placed,
)

Size = float | np.ndarray  # arrays have three axes, of which all but the own one may be 1


def is_unequal(spacing: Any, boundary: Any, fixed: Any = None) -> bool:
    """Tell whether a builder has to be this one.

    >>> is_unequal((1.0, 2.0), "neumann"), is_unequal((1.0, [1.0, 2.0]), "neumann")
    (False, True)
    >>> is_unequal(1.0, {"x-": ("robin", 2.0)})
    True
    """
    sides = boundary.values() if isinstance(boundary, Mapping) else [boundary]
    by_cell = isinstance(spacing, Sequence) and any(np.ndim(h) > 0 for h in spacing)
    return by_cell or fixed is not None or any(isinstance(kind, tuple) for kind in sides)


def parse_sizes(spacing: Any, grid_shape: tuple[int, ...]) -> tuple[Size, ...]:
    """Return the cell size along each axis: a number, or an array that broadcasts to the internal grid.

    Examples
    --------
    >>> h = parse_sizes((0.5, [1.0, 2.0, 4.0]), (2, 3))
    >>> h[0], h[1].shape
    (0.5, (1, 1, 3))
    """
    ndim = len(grid_shape)
    if not (isinstance(spacing, Sequence) and any(np.ndim(h) > 0 for h in spacing)):
        return parse_spacing(spacing, ndim)
    if len(spacing) != ndim:
        raise ValueError(f"got spacing for {len(spacing)} axes; expected {ndim}, a number or an array for each")
    sizes: list[Size] = []
    for axis, (given, n) in enumerate(zip(spacing, grid_shape, strict=True)):
        h, name = np.asarray(given, dtype=np.float64), f"spacing[{axis}]"
        if not (np.isfinite(h).all() and (h > 0).all()):
            raise ValueError(f"got {name} with a size that is not a finite number > 0; expected lengths of cells")
        if h.ndim == 1 and h.shape == (n,):
            h = h.reshape([n if a == axis else 1 for a in range(ndim)])
        if h.ndim not in (0, ndim) or any(m not in (1, k) for m, k in zip(h.shape, grid_shape, strict=False)):
            raise ValueError(f"got {name} of shape {h.shape}; expected a number, {(n,)} or {grid_shape}")
        equal = h.size == 1 or np.ptp(h) == 0
        sizes.append(float(h.flat[0]) if equal else h.reshape(internal_shape(h.shape)))
    return tuple(sizes)


def robin_coefficients(boundary: Any, ndim: int) -> tuple[Any, dict[tuple[int, int], Any]]:
    """Return the boundary with "robin" in place of ("robin", alpha), and alpha by axis and end.

    >>> robin_coefficients({"x": "periodic", "y+": ("robin", 2.0)}, 2)
    ({'x': 'periodic', 'y+': 'robin'}, {(1, 1): 2.0})
    """
    names = "xyz"[:ndim]
    given = boundary if isinstance(boundary, Mapping) else dict.fromkeys(names, boundary)
    plain: dict[str, Any] = {}
    found: dict[tuple[int, int], Any] = {}
    for key in sorted(given, key=len):  # a side wins over its axis
        kind = given[key]
        ends = [(names.find(key[:1]), end) for end in (0, 1) if key[1:] in ("", "-+"[end])]
        for place in ends:
            found.pop(place, None)
        plain[key] = kind
        if isinstance(kind, tuple):
            if len(kind) != 2 or kind[0] != "robin":
                raise ValueError(f'got boundary {kind!r} for {key}; expected a kind, or ("robin", alpha)')
            plain[key] = "robin"
            found |= dict.fromkeys(ends, kind[1])
    return plain, found


class _Mesh(NamedTuple):
    """Sizes of cells on a device."""

    sizes: tuple[Any, Any, Any]  # tensors or numbers, by internal axis
    volume: Any

    def area(self, d: int) -> Any:
        return self.volume / self.sizes[d]


def from_coefficients(
    kappa: Any, spacing: Any, boundary: Any, shift: Any, cells: Any, fixed: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the fields of a `Poisson`; `kappa` None stands for 1 on `cells`. See `Poisson.from_coefficients`."""
    if kappa is None:
        codes = parse_cells(cells)
        coefficient = (codes == Cell.FLUID).to(dtype)
    else:
        coefficient = non_negative(kappa, "kappa", dtype, "kappa is a conductivity; 0 means impermeable")
        codes = (coefficient > 0).to(torch.uint8)
    shape, device = check_grid_shape(coefficient.shape), coefficient.device
    extra = _on_grid(finite(0 if shift is None else shift, "shift", dtype), shift, "shift", shape, device)
    if cells is not None:
        codes = placed(parse_cells(cells, shape), cells, "cells", device)
    else:
        codes = codes | (extra > 0).to(torch.uint8)
    inside, ndim = internal_shape(shape), len(shape)
    # in double precision: products of sizes may leave the range of single
    mesh = _mesh_of(parse_sizes(spacing, shape), ndim, torch.float64, device)
    plain, robin = robin_coefficients(boundary, ndim)
    kinds = parse_boundary(plain, ndim, "neumann" if kappa is None else "dirichlet", (*KINDS, "robin"))
    codes = codes.reshape(inside)
    fluid, is_open = codes == Cell.FLUID, codes == Cell.OPEN
    own = torch.where(fluid, coefficient.reshape(inside), 0).double()
    axes = internal_axes(ndim)
    parts = []
    for d, pair in enumerate(internal_kinds(kinds)):
        axis = axes.index(d) if d in axes else None
        alpha = {} if axis is None else {end: robin[axis, end] for end in (0, 1) if (axis, end) in robin}
        parts.append(_along(own, is_open, d, pair, alpha, mesh, axis, shape))
    whole = extra.reshape(inside).double() * mesh.volume * fluid
    links, ground, opened = (
        as_triple(w.to(dtype) for w in along) for along in zip(*((p[0], p[1], p[3]) for p in parts), strict=True)
    )
    sides = tuple((part[2][0].to(dtype), part[2][1].to(dtype)) for part in parts)
    source = Conductances(links, ground, whole.to(dtype), sides, opened)
    fields = {
        "grid_shape": shape,
        "spacing": parse_sizes(spacing, shape),
        "boundary": kinds,
        "unknown": fluid,
        "source": source,
        "open": is_open if bool(is_open.any()) else None,
    }
    return fields if fixed is None else fix_cells(fields, fixed)


def _along(
    own: Tensor, is_open: Tensor, d: int, kinds: tuple[str, str], alpha: dict[int, Any], mesh: _Mesh, axis: int | None,
    shape: tuple[int, ...],
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:  # fmt: skip
    """Return links, ground, its part on the sides, and links to OPEN cells along one axis."""
    n, wraps = own.shape[d], kinds[0] == "periodic"
    full = torch.ones_like(own)
    size, area = full * mesh.sizes[d], full * mesh.area(d)
    half = 2 * own / size
    face = (area + neighbour(area, d, wraps)) / 2
    links = harmonic_mean(half, neighbour(half, d, wraps)) / 2 * face
    distance = (size + neighbour(size, d, wraps)) / 2
    to_next = torch.where(neighbour(is_open, d, wraps), own / distance * face, 0)
    from_next = torch.where(is_open, neighbour(own, d, wraps) / distance * face, 0)
    ground = to_next + previous(from_next, d, wraps)
    ends = []
    for end, kind in enumerate(kinds):
        at = 0 if end == 0 else n - 1
        q, a = half.narrow(d, at, 1), area.narrow(d, at, 1)
        w = torch.zeros_like(q)
        if kind == "dirichlet":
            w = q * a
        elif kind == "robin":
            across = tuple(m for k, m in enumerate(shape) if k != axis)
            value = non_negative(alpha[end], "alpha", own.dtype, "a coefficient of heat transfer; 0 is a Neumann side")
            if value.ndim and tuple(value.shape) != across:
                raise ValueError(f"got alpha of shape {tuple(value.shape)}; expected a number or {across}, that side")
            value = placed(value, alpha[end], "alpha", own.device).expand(across).reshape(q.shape)
            w = harmonic_mean(value.to(q), q) / 2 * a
        ends.append(w)
    for at, w in zip((0, n - 1), ends, strict=True):
        ground = ground + torch.nn.functional.pad(w, _padding(d, at, n))
    return links, ground, (ends[0], ends[1]), to_next + from_next


def _padding(d: int, at: int, n: int) -> list[int]:
    """Return torch's padding that puts one layer at its place along axis d of three."""
    padding = [0] * 6
    padding[2 * (2 - d)], padding[2 * (2 - d) + 1] = at, n - 1 - at
    return padding


def fix_cells(fields: dict[str, Any], fixed: Any) -> dict[str, Any]:
    """Take cells out of the unknowns whose value is given: links to them become ground, and remain as `to_given`."""
    unknown = fields["unknown"]
    given = _fixed_cells(fixed, fields["grid_shape"], unknown.device).reshape(unknown.shape) & unknown
    if not bool(given.any()):
        return fields
    source, unknown = fields["source"], unknown & ~given
    kinds = internal_kinds(fields["boundary"])
    links, ground, kept, sides = [], [], [], []
    opened = source.to_given or tuple(torch.zeros_like(source.shift) for _ in range(3))
    for d, (w, g) in enumerate(zip(source.links, source.ground, strict=True)):
        wraps = kinds[d][0] == "periodic"
        before = previous(w, d, True)  # 0 at the first cell unless the axis wraps
        to_next, to_previous = neighbour(given, d, wraps), previous(given, d, wraps)
        one_of_both = given ^ to_next
        kept.append(torch.where(one_of_both, w, 0) + torch.where(given | to_next, 0, opened[d]))
        links.append(torch.where(given | to_next, 0, w))
        g = g + torch.where(to_next, w, 0) + torch.where(to_previous, before, 0)
        ground.append(torch.where(given, 0, g))
        n = g.shape[d]
        low, high = source.sides[d]
        sides.append((torch.where(given.narrow(d, 0, 1), 0, low), torch.where(given.narrow(d, n - 1, 1), 0, high)))
    shift = torch.where(given, 0, source.shift)
    changed = Conductances(as_triple(links), as_triple(ground), shift, tuple(sides), tuple(kept))
    return fields | {"unknown": unknown, "source": changed}


def cut_faces(fields: dict[str, Any], cells: Any) -> dict[str, Any]:
    """Restrict operators from faces to `cells`: nothing flows into SOLID ones, OPEN ones hold p = 0.

    Examples
    --------
    >>> from .conductances import from_faces
    >>> fields = from_faces([np.zeros((2, 3)), np.ones((1, 4))], None, 1.0, "neumann", torch.float64)
    >>> changed = cut_faces(fields, [[1, 1, 0]])["source"]
    >>> changed.links[2].tolist(), changed.ground[2].tolist()
    ([[[1.0, 0.0, 0.0]]], [[[1.0, 0.0, 0.0]]])
    """
    source, shape = fields["source"], fields["unknown"].shape
    codes = placed(parse_cells(cells, fields["grid_shape"]), cells, "cells", source.shift.device).reshape(shape)
    fluid, is_open = codes == Cell.FLUID, codes == Cell.OPEN
    kinds = internal_kinds(fields["boundary"])
    links, ground, sides, kept = [], [], [], []
    for d, (w, g) in enumerate(zip(source.links, source.ground, strict=True)):
        wraps = kinds[d][0] == "periodic"
        before = previous(w, d, True)
        links.append(torch.where(fluid & neighbour(fluid, d, wraps), w, 0))
        kept.append(torch.where((fluid & neighbour(is_open, d, wraps)) | (is_open & neighbour(fluid, d, wraps)), w, 0))
        to_open = torch.where(neighbour(is_open, d, wraps), w, 0) + torch.where(previous(is_open, d, wraps), before, 0)
        ground.append(torch.where(fluid, g + to_open, 0))
        low, high = source.sides[d]
        last = g.shape[d] - 1
        sides.append((torch.where(fluid.narrow(d, 0, 1), low, 0), torch.where(fluid.narrow(d, last, 1), high, 0)))
    shift = torch.where(fluid, source.shift, 0)
    changed = Conductances(as_triple(links), as_triple(ground), shift, tuple(sides), tuple(kept))
    opened = {"open": is_open} if bool(is_open.any()) else {}
    return fields | {"unknown": fluid & fields["unknown"], "source": changed} | opened


def _mesh_of(sizes: tuple[Size, ...], ndim: int, dtype: torch.dtype, device: torch.device) -> _Mesh:
    by_axis: list[Any] = [1.0, 1.0, 1.0]
    for d, h in zip(internal_axes(ndim), sizes, strict=True):
        by_axis[d] = h if isinstance(h, float) else torch.from_numpy(h).to(device, dtype)
    return _Mesh((by_axis[0], by_axis[1], by_axis[2]), math.prod(by_axis))


def _fixed_cells(fixed: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the mask of cells of given value."""
    mask = as_real(fixed, "fixed")
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(
            f"got fixed of dtype {mask.dtype} and shape {tuple(mask.shape)}; expected booleans of shape {shape}: "
            "their values go to rhs(f, fixed=values)"
        )
    return placed(mask, fixed, "fixed", device)


def _on_grid(values: Tensor, given: Any, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if values.ndim and tuple(values.shape) != shape:
        raise ValueError(f"got {name} of shape {tuple(values.shape)}; expected a number or one value per cell, {shape}")
    return placed(values, given, name, device).expand(shape)
