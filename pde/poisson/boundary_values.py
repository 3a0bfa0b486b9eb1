"""Right-hand sides: the volume-integrated source plus what the boundary contributes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .conductances import neighbour, previous
from .fields import PoissonFields
from .grid import as_real, internal_axes, placed, volume


def rhs(A: PoissonFields, f: Any, dirichlet: Any, flux: Any) -> Any:
    """Return f x volume + w g at faces where p = g is fixed + area q at Neumann sides with inward flux q.

    w is the conductance of that face in the table of `operator.py`. Cells without an unknown get 0.

    Raises
    ------
    ValueError
        for a value on a side of another kind, an array of another shape, or an operator built from a matrix (whose
        right-hand side the code that made it knows)
    """
    if A.numbering is not None or not A.sides:
        raise ValueError(
            "got an operator built from a matrix; expected one built from cells, coefficients or faces: "
            "use the right-hand side of the code that assembled the matrix"
        )
    scalar = not isinstance(f, Tensor) and not hasattr(f, "__len__") and getattr(f, "ndim", 0) == 0
    source = torch.full(A.grid_shape, float(f), dtype=A.torch_dtype, device=A.device) if scalar else f
    b = A.to_grid(source) * volume(A.spacing)
    values = dirichlet if isinstance(dirichlet, dict) else _everywhere(A, dirichlet)
    for key, value in values.items():
        b = b + (_open_values(A, value) if key == "open" else _sides(A, key, value, "dirichlet"))
    for key, value in (flux or {}).items():
        b = b + _sides(A, key, value, "neumann")
    return A.from_grid(torch.where(A.unknown, b, 0), source)


def _everywhere(A: PoissonFields, value: Any) -> dict[str, Any]:
    """One number for every place where p is fixed."""
    if value is None:
        return {}
    sides = [(a, s) for a in range(len(A.grid_shape)) for s in range(2)]
    keys = ["xyz"[a] + "-+"[s] for a, s in sides if A.boundary[a][s] == "dirichlet"]
    if getattr(value, "ndim", 0) or isinstance(value, (list, tuple)):
        raise ValueError('got an array as dirichlet; expected a number or a dict: {"open": array} or {"x-": array}')
    return dict.fromkeys(keys + ["open"] * (A.open is not None), value)


def _open_values(A: PoissonFields, value: Any) -> Tensor:
    """Contribution of p = value at the centres of OPEN cells."""
    if A.open is None:
        raise ValueError('got dirichlet["open"] for an operator without OPEN cells; expected none: drop the key')
    g = placed(as_real(value, 'dirichlet["open"]', A.torch_dtype), value, 'dirichlet["open"]', A.device)
    if g.ndim and tuple(g.shape) != A.grid_shape:
        raise ValueError(
            f'got dirichlet["open"] of shape {tuple(g.shape)}; expected a number or the grid {A.grid_shape}'
        )
    g = torch.where(A.open, g.expand(A.grid_shape).reshape(A.unknown.shape), 0)
    total = torch.zeros_like(A.shift)
    for d, ground in enumerate(A.ground):
        n = ground.shape[d]
        inner = ground.clone()  # without the sides, it is the number of OPEN neighbours x their common conductance
        inner.narrow(d, 0, 1).sub_(A.sides[d][0])
        inner.narrow(d, n - 1, 1).sub_(A.sides[d][1])
        wraps = A.periodic[d]
        count = neighbour(A.open, d, wraps).to(g.dtype) + previous(A.open, d, wraps)
        total += torch.where(count > 0, inner / count, 0) * (neighbour(g, d, wraps) + previous(g, d, wraps))
    return total


def _sides(A: PoissonFields, key: str, value: Any, kind: str) -> Tensor:
    """Contribution of a value on one side ("x-") or on both sides ("x") of an axis."""
    name, ndim = "flux" if kind == "neumann" else "dirichlet", len(A.grid_shape)
    axis = "xyz"[:ndim].find(key[:1] or "?")
    if axis < 0 or key[1:] not in ("", "-", "+"):
        raise ValueError(f"got {name} for {key!r}; expected sides such as 'x-' or axes such as 'x' of a {ndim}D grid")
    d, total = internal_axes(ndim)[axis], torch.zeros_like(A.shift)
    expected = A.grid_shape[:axis] + A.grid_shape[axis + 1 :]
    what = f"{name}[{key!r}]"
    g = placed(as_real(value, what, A.torch_dtype), value, what, A.device)
    if g.ndim and tuple(g.shape) != expected:
        raise ValueError(f"got {what} of shape {tuple(g.shape)}; expected a number or {expected}, that side")
    for end in [0, 1] if not key[1:] else ["-+".index(key[1:])]:
        actual = A.boundary[axis][end]
        if actual != kind:
            raise ValueError(f"got {name} for {key!r}, a {actual} side; expected a {kind} side: change boundary or key")
        weight = A.sides[d][end] if kind == "dirichlet" else volume(A.spacing) / A.spacing[axis]
        slab = total.narrow(d, 0 if end == 0 else total.shape[d] - 1, 1)
        slab += g.expand(expected).reshape(slab.shape) * weight
    return total
