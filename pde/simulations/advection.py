"""Advection on the MAC grid: paths back in time, trilinear interpolation, the MacCormack correction.

Unconditionally stable (Stam 1999), second order where the correction applies (Selle et al. 2008). Points and
displacements are in cells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .mac import slice_along, to_centres, to_faces, values_beside_faces


def index_grid(shape: Any, like: Tensor) -> Tensor:
    """Return the index coordinates of every entry: (3, *shape).

    Examples
    --------
    >>> index_grid((2, 1, 1), torch.zeros(1))[0].ravel().tolist()
    [0.0, 1.0]
    """
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(fields: Tensor, points: Tensor) -> Tensor:
    """Trilinear interpolation of fields (k, nx, ny, nz) at index coordinates (3, a, b, c); clamped to the box.

    Examples
    --------
    >>> ramp = torch.arange(3.0).reshape(1, 3, 1, 1)
    >>> float(sample(ramp, torch.tensor([0.5, 0.0, 0.0]).reshape(3, 1, 1, 1)))
    0.5
    """
    scale = [2.0 / max(n - 1, 1) for n in fields.shape[-3:]]
    unit = torch.stack([points[d] * scale[d] - 1 for d in (2, 1, 0)], dim=-1)  # grid_sample wants x fastest
    return functional.grid_sample(fields[None], unit[None], padding_mode="border", align_corners=True)[0]


def displacement(u: list[Tensor], steps: float) -> Tensor:
    """Return how far, in cells, the midpoint rule moves each cell centre; steps = dt/h.

    Examples
    --------
    >>> u = [torch.full((3, 1, 2), 2.0), torch.zeros(2, 2, 2), torch.zeros(2, 1, 3)]
    >>> displacement(u, 0.25)[0].ravel().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    v = to_centres(u)
    return steps * sample(v, index_grid(v.shape[1:], v) - 0.5 * steps * v)


def advect(q: Tensor, moved: Tensor) -> Tensor:
    """MacCormack advection of q (nx, ny, nz) by displacements (3, nx, ny, nz) in cells.

    The corrected value is clamped to the range of the eight values it was interpolated from, so there are no new
    extrema; where the path leaves the box the result is first order.

    Examples
    --------
    >>> ramp = torch.arange(5.0).reshape(5, 1, 1)
    >>> advect(ramp, torch.tensor([0.5, 0.0, 0.0]).reshape(3, 1, 1, 1).expand(3, 5, 1, 1)).ravel().tolist()
    [0.0, 0.5, 1.5, 2.5, 3.5]
    """
    here = index_grid(q.shape, q)
    start, end = here - moved, here + moved
    forward = sample(q[None], start)
    correction = 0.5 * (q - sample(forward, end)[0])
    low, high = q, q
    for axis, n in enumerate(q.shape):  # least and greatest of each 2x2x2 block, stored at its low corner
        low = torch.minimum(low, slice_along(values_beside_faces(low, axis)[1], axis, 1, n))
        high = torch.maximum(high, slice_along(values_beside_faces(high, axis)[1], axis, 1, n))
    corner = torch.zeros_like(q, dtype=torch.long)
    inside = torch.ones_like(q, dtype=torch.bool)
    for axis, n in enumerate(q.shape):
        corner = corner * n + start[axis].clamp(0, n - 1).long()
        inside &= (torch.minimum(start[axis], end[axis]) >= 0) & (torch.maximum(start[axis], end[axis]) <= n - 1)
    corrected = torch.where(inside, forward[0] + correction, forward[0])
    return torch.clamp(corrected, low.ravel()[corner], high.ravel()[corner])


def advect_faces(u: list[Tensor], moved: Tensor) -> list[Tensor]:
    """Advect every face velocity; a face moves by the mean displacement of its two cells.

    Examples
    --------
    >>> u = [torch.ones(3, 1, 2), torch.zeros(2, 2, 2), torch.zeros(2, 1, 3)]
    >>> float(advect_faces(u, torch.zeros(3, 2, 1, 2))[0].min())
    1.0
    """
    return [advect(v, to_faces(moved, axis)) for axis, v in enumerate(u)]
