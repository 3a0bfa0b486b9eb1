"""Which cells belong to which rank, and which a rank sees around its own.

The grid is cut by planes into px x py x pz boxes. Ranks are numbered as PETSc's DMDA does it, and so are cells: rank
after rank, the first axis fastest, both of ranks and of cells inside one. A coarse cell belongs to the rank that owns
its first fine cell, so the cuts of the next level are ceil(cut / 2): any cuts will do, blocks may straddle two ranks,
and ranks may run out of cells.

A rank evaluates its part on a *box*: its own cells and some around them, whole blocks of two along every axis. Along a
periodic axis whose seam lies in the box, the box is the axis with a stretch left out, and is itself periodic; so the
single cell that ends an odd axis stays next to cell 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class BoxAxis:
    """One axis of a box: indices of its cells in the grid, whether it wraps, positions of the own cells in it."""

    cells: Array
    wraps: bool
    start: int
    stop: int

    def coarse(self, factor: int, own: tuple[int, int]) -> BoxAxis:
        """Return the blocks of a box of whole blocks; own : the range that the rank owns of the coarse axis."""
        cells = self.cells[::factor] // factor
        start = int(np.searchsorted(cells, own[0]))
        return BoxAxis(cells, self.wraps, start, start + own[1] - own[0])


@dataclass(frozen=True)
class Box:
    """A rank's own cells and some around them."""

    axes: tuple[BoxAxis, BoxAxis, BoxAxis]

    @property
    def shape(self) -> Triple:
        """Cells per axis."""
        nx, ny, nz = (len(a.cells) for a in self.axes)
        return nx, ny, nz

    @property
    def periodic(self) -> tuple[bool, bool, bool]:
        """Whether each axis of the box wraps."""
        x, y, z = (a.wraps for a in self.axes)
        return x, y, z

    @property
    def own(self) -> tuple[slice, slice, slice]:
        """Where the rank's own cells are in an array over the box."""
        x, y, z = (slice(a.start, a.stop) for a in self.axes)
        return x, y, z


@dataclass(frozen=True)
class Partition:
    """A grid cut into one box per rank.

    Parameters
    ----------
    grid_shape : (nx, ny) or (nx, ny, nz)
    comm : mpi4py communicator; all ranks by default
    ranks : ranks per axis; by default the division of least surface
    cuts : per axis the first index of every part and the size of the grid, for parts of any sizes

    Attributes
    ----------
    own : slices of the whole grid that belong to this rank, one per axis: ``kappa[part.own]``
    own_shape : its shape

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> part = Partition((5, 4), SimpleNamespace(rank=1, size=2))
    >>> part.own, part.own_shape
    ((slice(3, 5, None), slice(0, 4, None)), (2, 4))
    """

    grid_shape: tuple[int, ...]
    comm: Any = None
    ranks: Sequence[int] | None = None
    cuts: Sequence[Sequence[int] | Array] | None = None
    periodic: tuple[bool, bool, bool] = (False, False, False)
    planes: tuple[Array, Array, Array] = field(init=False)

    def __post_init__(self) -> None:
        if self.comm is None:
            from .petsc_library import world

            object.__setattr__(self, "comm", world())
        grid_shape = tuple(int(n) for n in self.grid_shape)
        if len(grid_shape) not in (2, 3) or min(grid_shape) < 1:
            raise ValueError(f"got a grid of shape {grid_shape}; expected 2 or 3 axes of at least one cell")
        object.__setattr__(self, "grid_shape", grid_shape)
        cuts = self._checked_cuts() if self.cuts is not None else self._even_cuts()
        x, *y, z = (np.asarray(c, dtype=np.int64) for c in cuts)
        object.__setattr__(self, "planes", (x, y[0] if y else np.array([0, 1]), z))

    def _checked_cuts(self) -> Sequence[Sequence[int] | Array]:
        cuts = self.cuts
        assert cuts is not None
        ends = [(c[0], c[-1]) for c in cuts]
        if ends != [(0, n) for n in self.grid_shape] or any(list(c) != sorted(c) for c in cuts):
            raise ValueError(
                f"got cuts {[list(c) for c in cuts]}; expected per axis ascending numbers from 0 to the size, "
                f"{list(self.grid_shape)}"
            )
        if math.prod(len(c) - 1 for c in cuts) != self.comm.size:
            raise ValueError(
                f"got cuts for {math.prod(len(c) - 1 for c in cuts)} parts; expected one per rank, {self.comm.size}"
            )
        return cuts

    def _even_cuts(self) -> list[Array]:
        ranks = self.ranks or divide_ranks(self.comm.size, self.grid_shape)
        if len(ranks) != len(self.grid_shape) or math.prod(ranks) != self.comm.size:
            raise ValueError(
                f"got ranks {tuple(ranks)} for {self.comm.size} processes and {len(self.grid_shape)} axes; expected "
                "one number per axis whose product is the number of processes"
            )
        parts = [[n // p + (k < n % p) for k in range(p)] for n, p in zip(self.grid_shape, ranks, strict=True)]
        return [np.concatenate([[0], np.cumsum(p)]) for p in parts]

    # --- this rank ----------------------------------------------------------------------------------------------------
    @property
    def size(self) -> Triple:
        """Cells of the grid per internal axis: (nx, 1, ny) in 2D."""
        nx, ny, nz = (int(c[-1]) for c in self.planes)
        return nx, ny, nz

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """First index, and one more than the last, of this rank per internal axis."""
        px, py, _ = (len(c) - 1 for c in self.planes)
        rank = self.comm.rank
        at = rank % px, rank // px % py, rank // (px * py)
        return tuple((int(c[k]), int(c[k + 1])) for c, k in zip(self.planes, at, strict=True))

    @property
    def internal_shape(self) -> Triple:
        """Own cells per internal axis."""
        nx, ny, nz = (hi - lo for lo, hi in self.ranges)
        return nx, ny, nz

    @property
    def count(self) -> int:
        """Number of own cells."""
        return math.prod(self.internal_shape)

    @property
    def own(self) -> tuple[slice, ...]:
        """Own slices of an array over the whole grid."""
        ranges = self.ranges if len(self.grid_shape) == 3 else (self.ranges[0], self.ranges[2])
        return tuple(slice(lo, hi) for lo, hi in ranges)

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Shape of the own part."""
        return tuple(s.stop - s.start for s in self.own)

    # --- boxes --------------------------------------------------------------------------------------------------------
    def padded(self, pad: int) -> Box:
        """Return the own cells and at least `pad` around them inside the grid, in whole blocks."""
        x, y, z = (
            _padded_axis(lo, hi, n, wraps, pad)
            for (lo, hi), n, wraps in zip(self.ranges, self.size, self.periodic, strict=True)
        )
        return Box((x, y, z))

    def ghosted(self) -> Box:
        """Return the own cells and one around them, with the cells across a seam in their place."""
        axes = []
        for (lo, hi), n, wraps in zip(self.ranges, self.size, self.periodic, strict=True):
            unrolled = wraps and n > 1
            cells = np.arange(lo - 1, hi + 1) if unrolled else np.arange(max(lo - 1, 0), min(hi + 1, n))
            start = 1 if unrolled else lo - max(lo - 1, 0)
            axes.append(BoxAxis(cells % n, False, start, start + hi - lo))
        return Box((axes[0], axes[1], axes[2]))

    def whole(self) -> Box:
        """Return the whole grid."""
        x, y, z = (
            BoxAxis(np.arange(n), wraps, lo, hi)
            for (lo, hi), n, wraps in zip(self.ranges, self.size, self.periodic, strict=True)
        )
        return Box((x, y, z))

    def numbers(self, box: Box) -> Array:
        """Return the numbers of the cells of a box, an array over it."""
        starts, lengths, owners = [], [], []
        for planes, axis in zip(self.planes, box.axes, strict=True):
            owner = np.searchsorted(planes, axis.cells, side="right") - 1  # of equal planes the last: empty parts
            owners.append(owner)
            starts.append(axis.cells - planes[owner])
            lengths.append(np.diff(planes)[owner])
        lx, ly, lz = (np.diff(planes) for planes in self.planes)
        volumes = (lz[:, None, None] * ly[None, :, None] * lx[None, None, :]).ravel()  # the last axis is the slowest
        offsets = (np.cumsum(volumes) - volumes).reshape(len(lz), len(ly), len(lx))
        i, j, k = (s.reshape([-1 if a == d else 1 for a in range(3)]) for d, s in enumerate(starts))
        nx, ny = lengths[0].reshape(-1, 1, 1), lengths[1].reshape(1, -1, 1)
        base = offsets[np.ix_(owners[2], owners[1], owners[0])].transpose(2, 1, 0)
        return base + i + nx * (j + ny * k)

    def coarse(self, factors: Sequence[int]) -> Partition:
        """Return the partition of the next level."""
        cuts = [-(-planes // f) for planes, f in zip(self.planes, factors, strict=True)]
        return replace(self, grid_shape=tuple(int(c[-1]) for c in cuts), ranks=None, cuts=cuts)


def _padded_axis(lo: int, hi: int, n: int, periodic: bool, pad: int) -> BoxAxis:
    """Return the cells of one axis from an even index to an odd one, or to the end; across the seam if it wraps."""
    first, last = (lo - pad) // 2 * 2, (hi + pad + 1) // 2 * 2
    if periodic and (first < 0 or last > n):
        low, high = last, (n + first) // 2 * 2  # the cells from `low` to `high` are left out
        if last > n:
            low, high = -(-(last - n) // 2) * 2, min(first, n)
        if (last > n and first < 0) or low >= high:
            return BoxAxis(np.arange(n), True, lo, hi)
        cells = np.concatenate([np.arange(low), np.arange(high, n)])
        start = lo if lo < low else lo - high + low
        return BoxAxis(cells, True, start, start + hi - lo)
    first = max(0, first)
    return BoxAxis(np.arange(first, min(n, last)), False, lo - first, hi - first)


def divide_ranks(count: int, grid_shape: Sequence[int]) -> tuple[int, ...]:
    """Return how many ranks to take per axis: the division of least surface that leaves no rank without cells.

    Examples
    --------
    >>> divide_ranks(4, (100, 100)), divide_ranks(6, (100, 20, 20)), divide_ranks(7, (30, 30, 30))
    ((2, 2), (6, 1, 1), (7, 1, 1))
    """
    divisors = [p for p in range(1, count + 1) if count % p == 0]

    def cost(ranks: tuple[int, ...]) -> tuple[bool, float, tuple[int, ...]]:
        parts = [n / p for n, p in zip(grid_shape, ranks, strict=True)]
        surface = sum(min(p - 1, 2) * math.prod(parts) / part for p, part in zip(ranks, parts, strict=True))
        # of equal ones cut the slow axes: rows stay long
        return min(parts) < 1, surface, tuple(-p for p in ranks)

    choices = (r for r in product(divisors, repeat=len(grid_shape)) if math.prod(r) == count)
    return min(choices, key=cost)


def to_rank_order(own: Array) -> Array:
    """Return an array over own cells in the order of their numbers, the first axis fastest; trailing axes stay."""
    axes = (2, 1, 0, *range(3, own.ndim))
    return np.ascontiguousarray(own.transpose(axes)).reshape(math.prod(own.shape[:3]), *own.shape[3:])


def from_rank_order(values: Array, shape: Sequence[int]) -> Array:
    """Return a view of values in the order of their numbers as an array over own cells."""
    return values.reshape(*reversed(shape)).transpose(2, 1, 0)
