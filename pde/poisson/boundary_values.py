"""Right-hand sides, the integrated source plus what is given on sides and in cells, and the fluxes of a solution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import times_number
from .conductances import neighbour, previous
from .fields import PoissonFields, Slot
from .grid import as_real, internal_axes, internal_shape, placed, volume_parts
from .vectors import from_grid, to_grid

LIBRARY: Slot[str] = Slot("array library of the builder's arguments", travels=True)


def rhs(A: PoissonFields, f: Any, dirichlet: Any, flux: Any, fixed: Any = None) -> Any:
    """Return f x volume + w g at faces where p = g is fixed + area q at Neumann sides with inward flux q.

    w is the conductance of that face. Cells without an unknown get 0.

    Raises
    ------
    ValueError
        for a value on a side of another kind, or an array of another shape
    """
    scalar = not isinstance(f, Tensor) and not hasattr(f, "__len__") and getattr(f, "ndim", 0) == 0
    shape = A.grid_shape if A.numbering is None or A.numbering.numel() == A.unknown.numel() else A.shape[:1]
    source = torch.full(shape, float(f), dtype=A.torch_dtype, device=A.device) if scalar else f
    b = to_grid(A, source)
    b = _times_sizes(b, A.spacing)
    values = dirichlet if isinstance(dirichlet, dict) else _everywhere(A, dirichlet)
    for key, value in values.items():
        b = b + (_through_faces(A, _open_values(A, value)) if key == "open" else _sides(A, key, value, "dirichlet"))
    for key, value in (flux or {}).items():
        b = b + _sides(A, key, value, "neumann")
    g = None if fixed is None else _fixed_values(A, fixed)
    if g is not None:
        b = b + _through_faces(A, g)
    b = torch.where(A.unknown, b, 0)
    out = from_grid(A, b, source)
    given = [f, fixed, *values.values(), *(flux or {}).values()]
    wants_numpy = scalar and LIBRARY.get(A) == "numpy" and not any(isinstance(v, Tensor) for v in given)
    return out.detach().numpy() if wants_numpy and not out.requires_grad and out.is_cpu else out


def face_fluxes(A: PoissonFields, x: Any, dirichlet: Any, flux: Any, fixed: Any = None) -> tuple[Any, ...]:
    """Return per axis what flows through each face, towards larger indices; see `Poisson.flux`."""
    if not A.sides:
        raise ValueError("got several operators in one; expected one: use their fluxes one by one")
    tensor = (
        x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x, dtype=np.result_type(A.dtype, np.asarray(x))))
    )
    p = to_grid(A, tensor)
    values = dirichlet if isinstance(dirichlet, dict) else _everywhere(A, dirichlet)
    if "open" in values:
        p = p + _open_values(A, values["open"])
    if fixed is not None:
        p = p + _fixed_values(A, fixed)
    at_faces = _given_links(A)
    out = []
    for axis, d in enumerate(internal_axes(len(A.grid_shape))):
        w, n, k = A.links[d] + at_faces[d], p.shape[d - 3], d - 3
        after = torch.roll(p, -1, k)
        between = w * (p - after)
        last = between.narrow(k, n - 1, 1)
        if A.periodic[d]:
            low, high = last, last
        else:
            given = [_side_values(A, values, axis, end) for end in (0, 1)]
            prescribed = [_sides_only(A, flux or {}, axis, end) for end in (0, 1)]
            low = A.sides[d][0] * (given[0] - p.narrow(k, 0, 1)) + prescribed[0]
            high = A.sides[d][1] * (p.narrow(k, n - 1, 1) - given[1]) - prescribed[1]
        faces = torch.cat([low.expand_as(last), between.narrow(k, 0, n - 1), high.expand_as(last)], dim=k)
        shape = [*faces.shape[:-3], *(m + (a == axis) for a, m in enumerate(A.grid_shape))]
        faces = faces.reshape(shape)
        out.append(faces if isinstance(x, Tensor) else faces.detach().numpy())
    return tuple(out)


def _times_sizes(v: Tensor, sizes: Sequence[Any]) -> Tensor:
    """Return v times the product of cell sizes, numbers or arrays, which itself may leave the range of the dtype."""
    v = times_number(v, *volume_parts([h for h in sizes if not isinstance(h, np.ndarray)]))
    for h in sizes:
        if isinstance(h, np.ndarray):
            v = (v.double() * torch.from_numpy(np.ascontiguousarray(h)).to(v.device)).to(v.dtype)
    return v


def _everywhere(A: PoissonFields, value: Any) -> dict[str, Any]:
    """One number for every place where p is fixed."""
    if value is None:
        return {}
    sides = [(a, s) for a in range(len(A.grid_shape)) for s in range(2)]
    keys = ["xyz"[a] + "-+"[s] for a, s in sides if A.boundary[a][s] in ("dirichlet", "robin")]
    if getattr(value, "ndim", 0) or isinstance(value, (list, tuple)):
        raise ValueError('got an array as dirichlet; expected a number or a dict: {"open": array} or {"x-": array}')
    return dict.fromkeys(keys + ["open"] * (A.open is not None), value)


def _open_values(A: PoissonFields, value: Any) -> Tensor:
    """Return p at OPEN cells, 0 elsewhere."""
    if A.open is None:
        raise ValueError('got dirichlet["open"] for an operator without OPEN cells; expected none: drop the key')
    return _at_cells(A, value, 'dirichlet["open"]', A.open)


def _fixed_values(A: PoissonFields, value: Any) -> Tensor:
    """Return p at the cells of given value, 0 elsewhere."""
    if not A.conductances.to_given:
        raise ValueError(
            "got fixed values for an operator without such cells; expected from_...(fixed=mask): drop them"
        )
    mask = ~A.unknown if A.open is None else ~(A.unknown | A.open)
    return _at_cells(A, value, "fixed", mask)


def _at_cells(A: PoissonFields, value: Any, name: str, mask: Tensor) -> Tensor:
    g = placed(as_real(value, name, A.torch_dtype), value, name, A.device)
    if g.ndim and tuple(g.shape) != A.grid_shape:
        raise ValueError(f"got {name} of shape {tuple(g.shape)}; expected a number or the grid {A.grid_shape}")
    return torch.where(mask, g.expand(A.grid_shape).reshape(A.unknown.shape), 0)


def _given_links(A: PoissonFields) -> tuple[Tensor, ...]:
    """Return per axis the conductance between a cell and the next one where one of them holds a given value."""
    if A.conductances.to_given:
        return A.conductances.to_given
    none = torch.zeros_like(A.shift)
    if A.open is None:
        return none, none, none
    out = []
    for d, ground in enumerate(A.ground):
        n, wraps = ground.shape[d], A.periodic[d]
        inner = ground.clone()  # without the sides, it is the number of OPEN neighbours x their common conductance
        if A.sides:
            inner.narrow(d, 0, 1).sub_(A.sides[d][0])
            inner.narrow(d, n - 1, 1).sub_(A.sides[d][1])
        to_next, to_previous = neighbour(A.open, d, wraps), previous(A.open, d, wraps)
        count = to_next.to(inner.dtype) + to_previous
        each = torch.where(count > 0, inner / count.clamp_min(1), 0)
        behind = torch.where(A.open & neighbour(A.unknown, d, wraps), neighbour(each, d, wraps), 0)
        out.append(torch.where(A.unknown & to_next, each, 0) + behind)
    return tuple(out)


def _through_faces(A: PoissonFields, g: Tensor) -> Tensor:
    """Return what values at cells contribute to their neighbours."""
    total = torch.zeros_like(A.shift)
    for d, w in enumerate(_given_links(A)):
        wraps = A.periodic[d]
        total = total + w * neighbour(g, d, wraps) + previous(w * g, d, wraps)
    return total


def _place_of(A: PoissonFields, key: str, name: str) -> tuple[int, list[int]]:
    """Return axis and ends that a key such as "x-" or "x" means."""
    ndim = len(A.grid_shape)
    axis = "xyz"[:ndim].find(key[:1] or "?")
    if axis < 0 or key[1:] not in ("", "-", "+"):
        raise ValueError(f"got {name} for {key!r}; expected sides such as 'x-' or axes such as 'x' of a {ndim}D grid")
    return axis, [0, 1] if not key[1:] else ["-+".index(key[1:])]


def _on_side(A: PoissonFields, key: str, value: Any, name: str, axis: int) -> Tensor:
    """Return a value on one side as a layer of the internal grid."""
    expected = A.grid_shape[:axis] + A.grid_shape[axis + 1 :]
    what = f"{name}[{key!r}]"
    g = placed(as_real(value, what, A.torch_dtype), value, what, A.device)
    if g.ndim and tuple(g.shape) != expected:
        raise ValueError(f"got {what} of shape {tuple(g.shape)}; expected a number or {expected}, that side")
    inside = list(internal_shape(A.grid_shape))
    inside[internal_axes(len(A.grid_shape))[axis]] = 1
    return g.expand(expected).reshape(inside)


def _sides(A: PoissonFields, key: str, value: Any, kind: str) -> Tensor:
    """Contribution of a value on one side ("x-") or on both sides ("x") of an axis."""
    name = "flux" if kind == "neumann" else "dirichlet"
    axis, ends = _place_of(A, key, name)
    if not A.sides:
        raise ValueError(f"got {name} for several operators in one; expected none: use their rhs one by one")
    d, total = internal_axes(len(A.grid_shape))[axis], torch.zeros_like(A.shift)
    g = _on_side(A, key, value, name, axis)
    for end in ends:
        _check_kind(A, key, name, kind, axis, end)
        slab = total.narrow(d, 0 if end == 0 else total.shape[d] - 1, 1)
        slab += g * A.sides[d][end] if kind == "dirichlet" else _times_area(A, g, axis, end)
    return total


def _check_kind(A: PoissonFields, key: str, name: str, kind: str, axis: int, end: int) -> None:
    actual = A.boundary[axis][end]
    if actual != kind and not (kind == "dirichlet" and actual == "robin"):
        raise ValueError(f"got {name} for {key!r}, a {actual} side; expected a {kind} side: change boundary or key")


def _times_area(A: PoissonFields, g: Tensor, axis: int, end: int) -> Tensor:
    """Return values on one side times the area of its faces."""
    d = internal_axes(len(A.grid_shape))[axis]

    def layer(h: Any) -> Any:
        if not isinstance(h, np.ndarray) or h.shape[d] == 1:
            return h
        return h[tuple((slice(0, 1) if end == 0 else slice(-1, None)) if k == d else slice(None) for k in range(3))]

    return _times_sizes(g, [layer(h) for k, h in enumerate(A.spacing) if k != axis])


def _side_values(A: PoissonFields, values: dict[str, Any], axis: int, end: int) -> Any:
    """Return p as given on one side, 0 if it is not."""
    for key in ("xyz"[axis] + "-+"[end], "xyz"[axis]):
        if key in values:
            _check_kind(A, key, "dirichlet", "dirichlet", axis, end)
            return _on_side(A, key, values[key], "dirichlet", axis)
    return 0.0


def _sides_only(A: PoissonFields, flux: dict[str, Any], axis: int, end: int) -> Any:
    """Return the inward flux that is prescribed on one side, times area."""
    for key in ("xyz"[axis] + "-+"[end], "xyz"[axis]):
        if key in flux:
            _check_kind(A, key, "flux", "neumann", axis, end)
            return _times_area(A, _on_side(A, key, flux[key], "flux", axis), axis, end)
    return 0.0
