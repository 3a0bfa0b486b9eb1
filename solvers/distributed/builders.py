"""Conductances of a rank's own cells out of its own part of the data and one layer of its neighbours'.

The formulas are those of `krylearn.pde`: its builders run on the own cells and the layer around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.pde.poisson.grid import Cell, Kinds, internal_axes, non_negative
from krylearn.pde.poisson.unequal_cells import parse_sizes

from .halo import bring
from .partition import Array, Partition
from .petsc_library import collective_errors


class Fields(NamedTuple):
    """What a rank knows of the operator on its own cells (internal axes).

    links, ground : (..., 3), links with the next cell along each axis and conductances to p = 0; shift, unknown : (...)
    """

    links: Array
    ground: Any
    shift: Array
    unknown: Array


class SparseGround:
    """Ground of own cells where few have any, as an array (..., 3) that is made when an axis of it is asked for.

    Examples
    --------
    >>> dense = np.zeros((2, 1, 4, 3))
    >>> dense[1, 0, 3, 2] = 5.0
    >>> thin = SparseGround(dense)
    >>> float(thin[..., 2].sum()), float(thin[..., 0].sum()), thin.sum(-1).shape
    (5.0, 0.0, (2, 1, 4))
    """

    def __init__(self, ground: Array) -> None:
        self.shape = ground.shape[:3]
        self.cells = [np.flatnonzero(ground[..., d]) for d in range(3)]
        self.values = [ground[..., d].ravel()[cells] for d, cells in enumerate(self.cells)]

    def __getitem__(self, key: tuple[Any, int]) -> Array:
        out = np.zeros(self.shape)
        out.ravel()[self.cells[key[-1]]] = self.values[key[-1]]
        return out

    def sum(self, axis: int) -> Array:
        """Return the sum over the three axes."""
        out = np.zeros(self.shape)
        for cells, values in zip(self.cells, self.values, strict=True):
            out.ravel()[cells] += values
        return out


def thin_fields(fields: Fields) -> Fields:
    """Return the same fields with less memory where shift is zero and ground is rare."""
    if not fields.shift.any():
        fields = fields._replace(shift=np.broadcast_to(np.zeros(()), fields.shift.shape))
    if np.count_nonzero(fields.ground) < fields.ground.size // 16:
        fields = fields._replace(ground=SparseGround(fields.ground))
    return fields


def local_array(values: Any, name: str, part: Partition, dtype: Any = np.float64) -> Array:
    """Return a rank's part of an array on internal axes, or say which shape it should have."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if array.shape != part.own_shape:
        raise ValueError(
            f"got {name} of shape {array.shape}; expected {part.own_shape}, this rank's part {part.own} of the grid: "
            f"pass {name}[part.own]"
        )
    if np.iscomplexobj(array):
        raise TypeError(f"got complex {name}; expected real numbers")
    return np.ascontiguousarray(array, dtype=dtype).reshape(part.internal_shape)


def from_coefficients(
    part: Partition, kappa: Any, spacing: Any, kinds: Kinds, shift: Any, cells: Any
) -> tuple[Fields, tuple[Any, ...]]:
    """Apply the table of `krylearn.pde.Poisson` to own cells; kappa = None stands for 1. Collective."""
    comm, shape = part.comm, part.internal_shape
    with collective_errors(comm):
        sizes = axis_sizes(spacing, part.grid_shape)
        own = np.ones(shape) if kappa is None else local_array(kappa, "kappa", part)
        non_negative(own, "kappa", torch.float64, "kappa is a conductivity; 0 means impermeable")
        extra = _cell_values(shift, "shift", part)
        codes = ((own > 0) | (extra > 0)).astype(np.float64) if cells is None else _codes(cells, part)
    box = part.ghosted()
    around = bring(part, box, np.stack([own, codes], -1))
    fluid = codes == Cell.FLUID
    if not comm.allreduce(int(fluid.sum())):
        raise ValueError("got cells without FLUID on any rank; expected at least one unknown")
    links, ground = np.zeros((*shape, 3)), np.zeros((*shape, 3))
    if fluid.any():
        axes = internal_axes(len(part.grid_shape))
        squeezed = [box.shape[d] for d in axes]
        here = tuple(
            h if np.ndim(h) == 0 else np.asarray(h)[box.axes[d].cells] for h, d in zip(sizes, axes, strict=True)
        )
        made = Poisson.from_coefficients(
            around[..., 0].reshape(squeezed).copy(),
            here,
            _local_kinds(part, kinds),
            cells=around[..., 1].reshape(squeezed).astype(np.uint8),
        )
        for d in range(3):
            links[..., d] = made.links[d].numpy()[box.own]
            ground[..., d] = made.ground[d].numpy()[box.own]
    return Fields(links, ground, extra * cell_volumes(part, sizes) * fluid, fluid), sizes


def axis_sizes(spacing: Any, grid_shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Return the cell size along each axis: a number, or one per layer of cells of the whole grid."""
    sizes: list[Any] = []
    for axis, (h, n) in enumerate(zip(parse_sizes(spacing, grid_shape), grid_shape, strict=True)):
        if np.ndim(h) and np.size(h) != n:
            raise ValueError(
                f"got spacing[{axis}] of {np.size(h)} numbers; expected one, or {n}: one per layer of cells"
            )
        sizes.append(np.ravel(h) if np.ndim(h) else float(h))
    return tuple(sizes)


def cell_volumes(part: Partition, sizes: Sequence[Any]) -> Array:
    """Return the volume of every own cell, on internal axes."""
    volumes = np.ones(part.internal_shape)
    for h, d in zip(sizes, internal_axes(len(part.grid_shape)), strict=True):
        own = float(h) if np.ndim(h) == 0 else np.asarray(h)[slice(*part.ranges[d])]
        volumes *= np.reshape(own, [-1 if axis == d else 1 for axis in range(3)])
    return volumes


def _cell_values(values: Any, name: str, part: Partition) -> Array:
    """Return a shift or extra, given as None, number or own part, at own cells."""
    if np.ndim(0 if values is None else values):
        out = local_array(values, name, part)
    else:
        out = np.full(part.internal_shape, 0.0 if values is None else float(values))
    non_negative(out, name, torch.float64, "a negative diagonal makes A indefinite")
    return out


def _codes(cells: Any, part: Partition) -> Array:
    codes = local_array(cells, "cells", part)
    wrong = ~np.isin(codes, (0, 1, 2))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"got cell code {codes[at]:g} at {at} of this rank's part; expected 0, 1 or 2")
    return codes


def _local_kinds(part: Partition, kinds: Kinds) -> dict[str, str]:
    """Return the sides of the box with its layer: the grid's own where it ends there, else none."""
    sides = {}
    ranges = [part.ranges[d] for d in internal_axes(len(kinds))]
    for axis, (lo, hi), n, pair in zip("xyz", ranges, part.grid_shape, kinds, strict=False):
        for sign, kind, at_end in (("-", pair[0], lo == 0), ("+", pair[1], hi == n)):
            sides[axis + sign] = kind if at_end and kind != "periodic" else "neumann"
    return sides


def from_faces(part: Partition, faces: Sequence[Any], extra: Any, kinds: Kinds) -> Fields:
    """Take conductances of the faces of own cells, one more than cells along their axis. Collective."""
    shape, axes = part.internal_shape, internal_axes(len(part.grid_shape))
    links, ground, low = np.zeros((*shape, 3)), np.zeros((*shape, 3)), np.zeros((*shape, 3))
    with collective_errors(part.comm):
        if len(faces) != len(axes):
            raise ValueError(f"got {len(faces)} arrays of faces; expected one per axis, {len(axes)}")
        shift = _cell_values(extra, "extra", part)
        for axis, d in enumerate(axes):
            expected = tuple(n + (a == axis) for a, n in enumerate(part.own_shape))
            w = np.asarray(faces[axis], dtype=np.float64)
            if w.shape != expected:
                raise ValueError(f"got faces[{axis}] of shape {w.shape}; expected {expected}: all faces of own cells")
            non_negative(w, f"faces[{axis}]", torch.float64, "a conductance; 0 means wall")
            w = w.reshape([n + (a == d) for a, n in enumerate(shape)])
            wide, (lo, hi), n = np.moveaxis(w, d, 0), part.ranges[d], part.size[d]
            wraps = kinds[axis][0] == "periodic"
            along = np.moveaxis(links[..., d], d, 0)
            along[:] = wide[1:]
            np.moveaxis(low[..., d], d, 0)[:] = wide[:-1]
            if wraps and n == 1:
                along[:] = 0  # a cell does not couple to itself
            if not wraps and along.size:
                earthed = np.moveaxis(ground[..., d], d, 0)
                if lo == 0:
                    earthed[0] += wide[0]
                if hi == n:
                    earthed[-1] += wide[-1]
                    along[-1] = 0
    box = part.ghosted()
    around = bring(part, box, links)
    unknown = shift > 0
    with collective_errors(part.comm):
        for axis, d in enumerate(axes):
            before = previous_cells(around[..., d], box, d)
            ours = low[..., d].copy()
            if not (kinds[axis][0] == "periodic") and part.ranges[d][0] == 0 and ours.size:
                np.moveaxis(ours, d, 0)[0] = 0
            if kinds[axis][0] == "periodic" and part.size[d] == 1:
                ours[:] = 0
            if not np.array_equal(before, ours):
                at = tuple(int(i) for i in np.argwhere(before != ours)[0])
                raise ValueError(
                    f"got faces[{axis}] = {ours[at]:g} below cell {at} of this rank's part, but {before[at]:g} from "
                    "the cell before; expected equal ones: the face between two ranks is the same on both"
                )
            unknown |= (links[..., d] > 0) | (before > 0) | (ground[..., d] > 0)
    if not part.comm.allreduce(int(unknown.sum())):
        raise ValueError("got faces that are all 0 and no extra; expected at least one positive conductance")
    return Fields(links, ground, shift, unknown)


def previous_cells(around: Array, box: Any, d: int) -> Array:
    """Return at own cells the value of the cell before along axis d, 0 where the grid ends."""
    index = list(box.own)
    start, stop = box.axes[d].start, box.axes[d].stop
    if start == 0:
        padding = [(0, 0)] * 3
        padding[d] = (1, 0)
        around, start, stop = np.pad(around, padding), start + 1, stop + 1
    index[d] = slice(start - 1, stop - 1)
    return around[tuple(index)]
