"""The V-cycle over a grid and graphs below it: smoothing, restriction and prolongation where unknowns are pieces.

The finest level is a grid with the smoothing kernels of `smoothing`; its unknowns belong to pieces of any shape. With
E the copy from pieces to cells, and weights towards the lower and the upper neighbour of a cell per axis,

    P = L_z L_y L_x E,     (L_d v)_k = (1 - low_k - high_k) v_k + low_k v_(k-1) + high_k v_(k+1),

applied in two passes over the grid, and restriction is the exact transpose in two more. Further levels are compressed
sparse rows: links between different unknowns, diagonal, P and its transpose. Cells that belong to no piece read and
write a number behind the last piece, which is zero before it is read.

Restriction to pieces adds up what several rows of cells give: slabs of a fixed number of cells write sums of their own,
which are added in a fixed order, so results do not depend on the number of threads. Nothing is written that belongs to
the cycle: every thread that applies it has work space of its own.
"""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
import torch

from ..reference import OMEGA
from .compile import kernel, threads_for
from .cycle import STEPS, Array
from .smoothing import smooth, smooth_from_zero
from .transfer import residual_rows

SLABS = 32  # most parts that the finest grid is cut into for restriction: more threads than that do not help there


# --- between the finest grid and pieces -------------------------------------------------------------------------------


@kernel
def copy_and_mix_x(coarse, part, low, high, unit, e):
    """Compute e = L_x E coarse."""
    nx, ny, nz = part.shape
    for index in numba.prange(nx * ny):
        i, j = index // ny, index % ny
        up, down = (i + 1 if i + 1 < nx else 0), (i - 1 if i > 0 else nx - 1)
        for k in range(nz):
            a, b = low[0, i, j, k] * unit, high[0, i, j, k] * unit
            v = (1 - a - b) * coarse[part[i, j, k]]
            e[i, j, k] = v + a * coarse[part[down, j, k]] + b * coarse[part[up, j, k]]


@kernel
def mix_and_add(e, low, high, unit, x):
    """Compute x += L_z L_y e."""
    nx, ny, nz = e.shape
    for index in numba.prange(nx * ny):
        i, j = index // ny, index % ny
        up, down = (j + 1 if j + 1 < ny else 0), (j - 1 if j > 0 else ny - 1)
        row = np.empty(nz, e.dtype)
        for k in range(nz):
            a, b = low[1, i, j, k] * unit, high[1, i, j, k] * unit
            row[k] = (1 - a - b) * e[i, j, k] + a * e[i, down, k] + b * e[i, up, k]
        for k in range(nz):
            a, b = low[2, i, j, k] * unit, high[2, i, j, k] * unit
            before, after = row[k - 1 if k > 0 else nz - 1], row[k + 1 if k + 1 < nz else 0]
            x[i, j, k] += (1 - a - b) * row[k] + a * before + b * after


@kernel
def unmix_z_and_y(r, low, high, unit, u):
    """Compute u = L_yᵀ L_zᵀ r."""
    nx, ny, nz = r.shape
    for index in numba.prange(nx * ny):
        i, j = index // ny, index % ny
        for k in range(nz):
            u[i, j, k] = 0
        for q in range(3):
            m = j if q == 0 else (j - 1 if j > 0 else ny - 1) if q == 1 else (j + 1 if j + 1 < ny else 0)
            for k in range(nz):
                before, after = k - 1 if k > 0 else nz - 1, k + 1 if k + 1 < nz else 0
                v = (1 - (low[2, i, m, k] + high[2, i, m, k]) * unit) * r[i, m, k]
                v += high[2, i, m, before] * unit * r[i, m, before] + low[2, i, m, after] * unit * r[i, m, after]
                if q == 0:
                    u[i, j, k] += (1 - (low[1, i, m, k] + high[1, i, m, k]) * unit) * v
                elif q == 1:
                    u[i, j, k] += high[1, i, m, k] * unit * v
                else:
                    u[i, j, k] += low[1, i, m, k] * unit * v


@kernel
def unmix_x_and_sum(u, part, low, high, unit, slabs, offsets, sums):
    """Add L_xᵀ u up over pieces, per slab of planes: sums[offsets[slab] : ...] holds pieces slabs[slab, 2] and on."""
    nx, ny, nz = u.shape
    for slab in numba.prange(slabs.shape[0]):
        start, stop, first = slabs[slab, 0], slabs[slab, 1], offsets[slab] - slabs[slab, 2]
        sums[offsets[slab] : offsets[slab + 1]] = 0
        for row in range(start, stop):
            i, j = row // ny, row % ny
            up, down = (i + 1 if i + 1 < nx else 0), (i - 1 if i > 0 else nx - 1)
            for k in range(nz):
                v = (1 - (low[0, i, j, k] + high[0, i, j, k]) * unit) * u[i, j, k]
                v += high[0, down, j, k] * unit * u[down, j, k] + low[0, up, j, k] * unit * u[up, j, k]
                sums[first + part[i, j, k]] += v


@kernel
def add_slabs(sums, slabs, offsets, coarse):
    """Add up what slabs have of every piece."""
    for p in numba.prange(coarse.size):
        total = coarse.dtype.type(0)
        for slab in range(slabs.shape[0]):
            if slabs[slab, 2] <= p < slabs[slab, 3]:
                total += sums[offsets[slab] + p - slabs[slab, 2]]
        coarse[p] = total


@kernel(parallel=False)
def find_ranges(part, slabs):
    """Write the first piece of every slab of rows, and the one behind the last."""
    ny, nz = part.shape[1], part.shape[2]
    for slab in range(slabs.shape[0]):
        low, high = 2**31 - 1, -1
        for row in range(slabs[slab, 0], slabs[slab, 1]):
            for k in range(nz):
                p = part[row // ny, row % ny, k]
                low, high = min(low, p), max(high, p)
        slabs[slab, 2], slabs[slab, 3] = low, high + 1


class GridTransfer:
    """Interpolation from m pieces to the cells of a grid: part (of a cell, m if it has none), weights times 1/unit."""

    def __init__(self, part: Array, low: Array, high: Array, unit: float, m: int) -> None:
        kind: Any = np.float32 if low.dtype == np.uint16 else np.float64
        self.part, self.low, self.high, self.unit, self.m = part, low, high, kind(unit), m
        rows = part.shape[0] * part.shape[1]
        count = min(SLABS, max(1, part.size // 20_000), rows)
        bounds = np.array([rows * k // count for k in range(count + 1)])
        self.slabs = np.zeros((count, 4), np.int64)
        self.slabs[:, 0], self.slabs[:, 1] = bounds[:-1], bounds[1:]
        find_ranges(part, self.slabs)
        self.offsets = np.r_[0, np.cumsum(self.slabs[:, 3] - self.slabs[:, 2])]

    def prolong_add(self, coarse: Array, work: Array, x: Array) -> None:
        """Compute x += P coarse; coarse has m + 1 entries, the last one 0."""
        copy_and_mix_x(coarse, self.part, self.low, self.high, self.unit, work)
        mix_and_add(work, self.low, self.high, self.unit, x)

    def restrict(self, r: Array, work: Array, sums: Array, coarse: Array) -> None:
        """Compute coarse = Pᵀ r, and 0 behind the last piece."""
        unmix_z_and_y(r, self.low, self.high, self.unit, work)
        unmix_x_and_sum(work, self.part, self.low, self.high, self.unit, self.slabs, self.offsets, sums)
        add_slabs(sums, self.slabs, self.offsets, coarse)
        coarse[self.m] = 0


# --- graphs -----------------------------------------------------------------------------------------------------------


@kernel
def smooth_graph_from_zero(begin, index, w, diag, b, y, first, second):
    """Take both steps from x = 0, with the inverse diagonal times first and second."""
    for i in numba.prange(diag.size):
        off = b.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            j = index[t]
            off += w[t] * (b[j] / diag[j])
        x = first * b[i] / diag[i]
        y[i] = x + second * (b[i] - diag[i] * x + first * off) / diag[i]


@kernel
def smooth_graph(begin, index, w, diag, x, b, y, omega):
    """Compute y = x + omega (b - A x) / diag."""
    for i in numba.prange(diag.size):
        off = b.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            off += w[t] * x[index[t]]
        y[i] = x[i] + omega * (b[i] - diag[i] * x[i] + off) / diag[i]


@kernel
def graph_residual(begin, index, w, diag, x, b, r):
    """Compute r = b - A x."""
    for i in numba.prange(diag.size):
        off = b.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            off += w[t] * x[index[t]]
        r[i] = b[i] - diag[i] * x[i] + off


@kernel
def multiply_rows(begin, index, values, x, y):
    """Compute y = rows x."""
    for i in numba.prange(begin.size - 1):
        total = x.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            total += values[t] * x[index[t]]
        y[i] = total


@kernel
def add_rows(begin, index, values, x, y):
    """Compute y += rows x."""
    for i in numba.prange(begin.size - 1):
        total = x.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            total += values[t] * x[index[t]]
        y[i] += total


@kernel(parallel=False)
def transpose_rows(begin, index, values, to_begin, to_index, to_values):
    """Write the transpose of compressed rows; to_begin comes in as 0."""
    for t in range(index.size):
        to_begin[index[t] + 1] += 1
    for j in range(to_begin.size - 1):
        to_begin[j + 1] += to_begin[j]
    place = to_begin[:-1].copy()
    for i in range(begin.size - 1):
        for t in range(begin[i], begin[i + 1]):
            at = place[index[t]]
            to_index[at], to_values[at] = i, values[t]
            place[index[t]] = at + 1


class GraphStage:
    """A level that is a graph: links as (begin, index, w), diagonal, P towards m coarse unknowns, visits."""

    def __init__(
        self, links: tuple[Array, ...], diag: Array, prolongation: tuple[Array, ...], m: int, visits: int
    ) -> None:
        self.links, self.diag, self.prolongation, self.visits, self.m = links, diag, prolongation, visits, m
        _, index, values = prolongation
        self.restriction = np.zeros(m + 1, np.int64), np.empty_like(index), np.empty_like(values)
        transpose_rows(*prolongation, *self.restriction)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All memory of this level."""
        return (*self.links, self.diag, *self.prolongation, *self.restriction)


class GridStage:
    """The finest level: links and diagonal on a grid, as numbers or as bytes (`cell_bytes`), and where its cells go."""

    def __init__(self, w: tuple[Array, ...], diag: Array, damping: Array, transfer: GridTransfer) -> None:
        self.w, self.diag, self.damping, self.transfer = w, diag, damping, transfer
        self.kind: Any = np.float32 if damping.dtype == np.uint16 else damping.dtype.type
        unit = 1 / STEPS if damping.dtype == np.uint16 else 1.0
        self.omega = self.kind(OMEGA[0] * unit), self.kind(OMEGA[1] * unit)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All memory of this level."""
        return *self.w, self.diag, self.damping, self.transfer.part, self.transfer.low, self.transfer.high


class Work:
    """Vectors of one thread: right-hand side, iterates and residual of every level."""

    def __init__(self, cycle: GraphCycle) -> None:
        top, kind = cycle.top, cycle.top.kind
        self.x, self.y, self.z = (np.zeros(top.diag.shape, kind) for _ in range(3))
        self.sums = np.empty(int(top.transfer.offsets[-1]), kind)
        sizes = [*(stage.diag.size for stage in cycle.stages), cycle.inverse.shape[0]]
        self.b = [np.zeros(n + 1, kind) for n in sizes]
        # per visit of every level: the iterate, and the residual that is the next visit's right-hand side
        self.graphs = [
            [tuple(np.zeros(n + 1, kind) for _ in range(3)) for _ in range(stage.visits)]
            for n, stage in zip(sizes, cycle.stages, strict=False)
        ]


class GraphCycle:
    """The map b -> M b over a grid and the graphs below it; the result is overwritten by this thread's next call."""

    def __init__(self, top: GridStage, stages: list[GraphStage], inverse: Array) -> None:
        self.top, self.stages, self.inverse = top, stages, np.ascontiguousarray(inverse.astype(top.kind))
        self.local = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "local": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, local=threading.local())

    @property
    def work(self) -> Work:
        """The vectors of this thread."""
        if not hasattr(self.local, "work"):
            self.local.work = Work(self)
        return self.local.work

    @property
    def input(self) -> Array:
        """Return memory for a right-hand side."""
        return np.zeros(self.top.diag.shape, self.top.kind)

    @property
    def nbytes(self) -> int:
        """Bytes kept for all levels, work space of one thread included."""
        work = self.work
        vectors = [work.x, work.y, work.z, work.sums, *work.b, *(v for g in work.graphs for each in g for v in each)]
        own = [*self.top.arrays, *(v for stage in self.stages for v in stage.arrays), self.inverse, *vectors]
        return sum(v.nbytes for v in own)

    @property
    def steps(self) -> float:
        """Smoothing steps of one cycle in units of one on the finest level, counted in stored numbers."""
        finest = 4.0 * self.top.diag.size
        return 1 + sum((s.diag.size + s.links[1].size) * s.visits for s in self.stages) / finest

    def describe(self) -> list[str]:
        """One line per level, fine to coarse."""
        lines = [f"{' x '.join(map(str, self.top.diag.shape))}, cells joined to {self.top.transfer.m} pieces"]
        lines += [f"{s.diag.size} unknowns, smoothed {s.visits} times, joined to {s.m} pieces" for s in self.stages]
        return [*lines, f"{self.inverse.shape[0]} unknowns, inverted"]

    def apply(self, b: torch.Tensor) -> torch.Tensor:
        """Return M b as a tensor of its own."""
        return torch.from_numpy(self(b.contiguous().numpy()).copy())

    def __call__(self, b: Array) -> Array:
        """Return M b on the grid."""
        v, t, work = self.top, self.top.transfer, self.work
        x, y, z = work.x, work.y, work.z
        first, second = v.omega
        with threads_for(b.size):
            smooth_from_zero(v.diag, v.w, v.damping, b, x, first, second)
            residual_rows(v.diag, v.w, x, b, NO_WEIGHTS, (1, 1, 1), False, y)
            t.restrict(y, z, work.sums, work.b[0])
        correction = self.descend(work, work.b[0], 0, 0)
        with threads_for(b.size):
            t.prolong_add(correction, z, x)
            smooth(v.diag, v.w, v.damping, x, b, y, second)
            smooth(v.diag, v.w, v.damping, y, b, x, first)
        return x

    def descend(self, work: Work, b: Array, l: int, visit: int) -> Array:
        """Apply the cycle from graph level l on; b and the result have one entry more than there are unknowns."""
        if l == len(self.stages):
            z = np.zeros_like(b)
            z[:-1] = self.inverse @ b[:-1]
            return z
        v = self.stages[l]
        x, y, r = work.graphs[l][visit]
        kind = self.top.kind
        first, second = kind(OMEGA[0]), kind(OMEGA[1])
        with threads_for(v.diag.size):
            smooth_graph_from_zero(*v.links, v.diag, b, x, first, second)
            graph_residual(*v.links, v.diag, x, b, r)
            if visit + 1 < v.visits:
                x += self.descend(work, r, l, visit + 1)
            else:
                multiply_rows(*v.restriction, r, work.b[l + 1])
                add_rows(*v.prolongation, self.descend(work, work.b[l + 1], l + 1, 0), x)
            smooth_graph(*v.links, v.diag, x, b, y, second)
            smooth_graph(*v.links, v.diag, y, b, x, first)
        return x


NO_WEIGHTS = np.zeros((3, 1, 1, 1), np.uint8)
