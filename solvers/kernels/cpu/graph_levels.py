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
from .compile import SERIAL, kernel, row_kernel, threads_for
from .cycle import STEPS, Array
from .smoothing import smooth, smooth_from_zero
from .transfer import residual_rows

PARTS = 64  # that rows of a graph are cut into for threads
SLABS = 32  # most parts that the finest grid is cut into for restriction: more threads than that do not help there


# --- between the finest grid and pieces -------------------------------------------------------------------------------


@kernel
def copy_and_mix_x(coarse, part, low, high, unit, e):
    """Compute e = L_x E coarse."""
    nx, ny, nz = part.shape
    one = e.dtype.type(1)
    for index in numba.prange(nx * ny):
        i, j = index // ny, index % ny
        here, up = part[i, j], part[i + 1 if i + 1 < nx else 0, j]
        down, lower, upper, out = part[i - 1 if i > 0 else nx - 1, j], low[0, i, j], high[0, i, j], e[i, j]
        for k in range(nz):
            a, b = unit * lower[k], unit * upper[k]
            out[k] = (one - a - b) * coarse[here[k]] + a * coarse[down[k]] + b * coarse[up[k]]


@kernel
def mix_and_add(e, low, high, unit, x):
    """Compute x += L_z L_y e."""
    nx, ny, nz = e.shape
    one = e.dtype.type(1)
    for index in numba.prange(nx * ny):
        i, j = index // ny, index % ny
        here, up, down = e[i, j], e[i, j + 1 if j + 1 < ny else 0], e[i, j - 1 if j > 0 else ny - 1]
        lower, upper, row = low[1, i, j], high[1, i, j], np.empty(nz, e.dtype)
        for k in range(nz):
            a, b = unit * lower[k], unit * upper[k]
            row[k] = (one - a - b) * here[k] + a * down[k] + b * up[k]
        lower, upper, out = low[2, i, j], high[2, i, j], x[i, j]
        for k in range(1, nz - 1):
            a, b = unit * lower[k], unit * upper[k]
            out[k] += (one - a - b) * row[k] + a * row[k - 1] + b * row[k + 1]
        for k in range(0, nz, max(nz - 1, 1)):  # both ends, which may wrap
            a, b = unit * lower[k], unit * upper[k]
            out[k] += (one - a - b) * row[k] + a * row[k - 1 if k > 0 else nz - 1] + b * row[k + 1 if k + 1 < nz else 0]


@kernel
def unmix_z_and_y(r, low, high, unit, u):
    """Compute u = L_yᵀ L_zᵀ r."""
    nx, ny, nz = r.shape
    one = r.dtype.type(1)
    for index in numba.prange(nx * ny):
        i, j = index // ny, index % ny
        out, row = u[i, j], np.empty(nz, r.dtype)
        for q in range(3):
            m = j if q == 0 else (j - 1 if j > 0 else ny - 1) if q == 1 else (j + 1 if j + 1 < ny else 0)
            lower, upper, given = low[2, i, m], high[2, i, m], r[i, m]
            for k in range(1, nz - 1):
                v = (one - unit * lower[k] - unit * upper[k]) * given[k]
                row[k] = v + unit * upper[k - 1] * given[k - 1] + unit * lower[k + 1] * given[k + 1]
            for k in range(0, nz, max(nz - 1, 1)):
                before, after = k - 1 if k > 0 else nz - 1, k + 1 if k + 1 < nz else 0
                v = (one - unit * lower[k] - unit * upper[k]) * given[k]
                row[k] = v + unit * upper[before] * given[before] + unit * lower[after] * given[after]
            lower, upper = low[1, i, m], high[1, i, m]
            if q == 0:
                for k in range(nz):
                    out[k] = (one - unit * lower[k] - unit * upper[k]) * row[k]
            elif q == 1:
                for k in range(nz):
                    out[k] += unit * upper[k] * row[k]
            else:
                for k in range(nz):
                    out[k] += unit * lower[k] * row[k]


@kernel
def unmix_x_and_sum(u, part, low, high, unit, slabs, offsets, sums):
    """Add L_xᵀ u up over pieces, per slab of planes: sums[offsets[slab] : ...] holds pieces slabs[slab, 2] and on."""
    nx, ny, nz = u.shape
    one = u.dtype.type(1)
    for slab in numba.prange(slabs.shape[0]):
        start, stop, first = slabs[slab, 0], slabs[slab, 1], np.uint32(slabs[slab, 2])
        mine, row = sums[offsets[slab] : offsets[slab + 1]], np.empty(nz, u.dtype)
        mine[:] = 0
        for at in range(start, stop):
            i, j = at // ny, at % ny
            up, down = (i + 1 if i + 1 < nx else 0), (i - 1 if i > 0 else nx - 1)
            lower, upper, given, to = low[0, i, j], high[0, i, j], u[i, j], part[i, j]
            from_below, below, from_above, above = high[0, down, j], u[down, j], low[0, up, j], u[up, j]
            for k in range(nz):
                v = (one - unit * lower[k] - unit * upper[k]) * given[k]
                row[k] = v + unit * from_below[k] * below[k] + unit * from_above[k] * above[k]
            for k in range(nz):
                mine[to[k] - first] += row[k]


@kernel
def add_slabs(sums, slabs, offsets, coarse):
    """Add up what slabs have of every piece."""
    parts = 16
    for part in numba.prange(parts):
        start, stop = coarse.size * part // parts, coarse.size * (part + 1) // parts
        coarse[start:stop] = 0
        for slab in range(slabs.shape[0]):
            low, high = max(start, slabs[slab, 2]), min(stop, slabs[slab, 3])
            shift = offsets[slab] - slabs[slab, 2]
            for p in range(low, high):
                coarse[p] += sums[shift + p]


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
    """Interpolation from m pieces to the cells of a grid: part (of a cell, m if it has none), weights times 1/unit.

    slabs : most parts that the grid is cut into for restriction, each with sums of its own
    """

    def __init__(self, part: Array, low: Array, high: Array, unit: float, m: int, slabs: int = SLABS) -> None:
        kind: Any = np.float32 if low.dtype == np.uint16 else np.float64
        self.part, self.low, self.high, self.unit, self.m = part.view(np.uint32), low, high, kind(unit), m
        rows = part.shape[0] * part.shape[1]
        count = min(slabs, max(1, part.size // 20_000), rows)
        bounds = np.array([rows * k // count for k in range(count + 1)])
        self.slabs = np.zeros((count, 4), np.int64)
        self.slabs[:, 0], self.slabs[:, 1] = bounds[:-1], bounds[1:]
        find_ranges(self.part, self.slabs)
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


@row_kernel
def divide_rows(start, stop, diag, b, scaled):
    """Compute scaled = b / diag in rows start..stop."""
    for i in range(start, stop):
        scaled[i] = b[i] / diag[i]


@row_kernel
def from_zero_rows(start, stop, begin, index, w, diag, scaled, y, first, second):
    """Take both steps from x = 0 in rows start..stop; scaled : the right-hand side divided by the diagonal."""
    one = scaled.dtype.type(1)
    for i in range(start, stop):
        off = scaled.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            off += w[t] * scaled[index[t]]
        y[i] = (first + second * (one - first)) * scaled[i] + second * first * off / diag[i]


@row_kernel
def smooth_rows(start, stop, begin, index, w, diag, x, b, y, omega):
    """Compute y = x + omega (b - A x) / diag in rows start..stop."""
    one = b.dtype.type(1)
    for i in range(start, stop):
        off = b.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            off += w[t] * x[index[t]]
        y[i] = (one - omega) * x[i] + omega * (b[i] + off) / diag[i]


@row_kernel
def find_residual_rows(start, stop, begin, index, w, diag, x, b, r):
    """Compute r = b - A x in rows start..stop."""
    for i in range(start, stop):
        off = b.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            off += w[t] * x[index[t]]
        r[i] = b[i] - diag[i] * x[i] + off


@row_kernel
def multiply_some(start, stop, begin, index, values, x, y, add):
    """Compute y = rows x, or y += rows x, in rows start..stop."""
    for i in range(start, stop):
        total = y[i] if add else x.dtype.type(0)
        for t in range(begin[i], begin[i + 1]):
            total += values[t] * x[index[t]]
        y[i] = total


@kernel
def smooth_graph_from_zero(begin, index, w, diag, b, scaled, y, first, second):
    """Take both steps from x = 0, with the inverse diagonal times first and second; scaled : room."""
    n = diag.size
    for part in numba.prange(PARTS):
        divide_rows(n * part // PARTS, n * (part + 1) // PARTS, diag, b, scaled)
    for part in numba.prange(PARTS):
        from_zero_rows(n * part // PARTS, n * (part + 1) // PARTS, begin, index, w, diag, scaled, y, first, second)


@kernel
def smooth_graph(begin, index, w, diag, x, b, y, omega):
    """Compute y = x + omega (b - A x) / diag."""
    n = diag.size
    for part in numba.prange(PARTS):
        smooth_rows(n * part // PARTS, n * (part + 1) // PARTS, begin, index, w, diag, x, b, y, omega)


@kernel
def graph_residual(begin, index, w, diag, x, b, r):
    """Compute r = b - A x."""
    n = diag.size
    for part in numba.prange(PARTS):
        find_residual_rows(n * part // PARTS, n * (part + 1) // PARTS, begin, index, w, diag, x, b, r)


@kernel
def multiply_rows(begin, index, values, x, y, add):
    """Compute y = rows x, or y += rows x."""
    n = begin.size - 1
    for part in numba.prange(PARTS):
        multiply_some(n * part // PARTS, n * (part + 1) // PARTS, begin, index, values, x, y, add)


@kernel(parallel=False)
def cycle_small_levels(plan, omega, links, diag, prolongation, restriction, inverse, right, x, t, z):
    """Apply the cycle to small levels in one call: right[: n] is given, the result is z[: n].

    plan : (visits, 6): unknowns, place of the rows of A and P, place of the diagonal, place of the rows of Pᵀ, unknowns
        of the next level or 0 before another visit, place of the vectors of this visit
    omega : (visits, 2): both step sizes
    """
    begin, index, w = links
    steps, bottom = plan.shape[0], inverse.shape[0]
    for s in range(steps):
        n, row, d, coarse_row, m, at = plan[s]
        b, y, a, rows = right[at : at + n], x[at : at + n], diag[d : d + n], begin[row : row + n + 1]
        divide_rows(0, n, a, b, t)
        from_zero_rows(0, n, rows, index, w, a, t, y, omega[s, 0], omega[s, 1])
        find_residual_rows(0, n, rows, index, w, a, y, b, t)
        if m >= 0:
            to = restriction[0][coarse_row : coarse_row + m + 1]
            multiply_some(0, m, to, restriction[1], restriction[2], t, right[at + n : at + n + m], False)
        else:
            right[at + n : at + 2 * n] = t[:n]
    at = right.size - bottom
    for i in range(bottom):
        total = z.dtype.type(0)
        for j in range(bottom):
            total += inverse[i, j] * right[at + j]
        z[i] = total
    for s in range(steps - 1, -1, -1):
        n, row, d, coarse_row, m, at = plan[s]
        b, y, a, rows = right[at : at + n], x[at : at + n], diag[d : d + n], begin[row : row + n + 1]
        if m >= 0:
            multiply_some(0, n, prolongation[0][row : row + n + 1], prolongation[1], prolongation[2], z, y, True)
        else:
            for i in range(n):
                y[i] += z[i]
        smooth_rows(0, n, rows, index, w, a, y, b, t, omega[s, 1])
        smooth_rows(0, n, rows, index, w, a, t, b, z, omega[s, 0])


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


def unsigned_rows(rows: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return compressed rows whose indices have no sign: compiled code looks whether one with a sign is negative.

    Examples
    --------
    >>> unsigned_rows((np.array([0, 1]), np.array([2]), np.array([0.5])))[1]
    array([2], dtype=uint32)
    """
    begin, index, values = rows
    return begin.astype(np.uint32, copy=False), index.astype(np.uint32, copy=False), values


class GraphStage:
    """A level that is a graph: links as (begin, index, w), diagonal, P to m coarse unknowns, visits, step sizes."""

    def __init__(
        self, links: tuple[Array, Array, Array], diag: Array, prolongation: tuple[Array, ...], m: int, visits: int
    ) -> None:
        self.links, self.prolongation = unsigned_rows(links), unsigned_rows(prolongation)
        self.diag, self.visits, self.m = diag, visits, m
        self.omega = diag.dtype.type(OMEGA[0]), diag.dtype.type(OMEGA[1])
        _, index, values = self.prolongation
        self.restriction = np.zeros(m + 1, np.uint32), np.empty_like(index), np.empty_like(values)
        transpose_rows(*self.prolongation, *self.restriction)

    def take_steps(self, first: float, second: float, scale: float) -> None:
        """Smooth with these step sizes; multiply the operator by a scale, which divides what the cycle returns."""
        kind: Any = self.diag.dtype.type
        self.omega = kind(first), kind(second)
        self.links[2][:] *= kind(scale)
        self.diag *= kind(scale)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All memory of this level."""
        return (*self.links, self.diag, *self.prolongation, *self.restriction)


class GridStage:
    """The finest level: links and diagonal on a grid, as numbers or as bytes (`cell_bytes`), and where its cells go."""

    def __init__(self, w: tuple[Array, ...], diag: Array, damping: Array, transfer: GridTransfer) -> None:
        self.w, self.diag, self.damping, self.transfer = w, diag, damping, transfer
        self.kind: Any = np.float32 if damping.dtype == np.uint16 else damping.dtype.type
        self.take_steps(*OMEGA)

    def take_steps(self, first: float, second: float) -> None:
        """Smooth with these step sizes."""
        unit = 1 / STEPS if self.damping.dtype == np.uint16 else 1.0
        self.omega = self.kind(first * unit), self.kind(second * unit)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All memory of this level."""
        return *self.w, self.diag, self.damping, self.transfer.part, self.transfer.low, self.transfer.high


class SmallLevels:
    """Graph levels of few unknowns, the last ones, packed into one set of arrays for `cycle_small_levels`."""

    def __init__(self, stages: list[GraphStage], inverse: Array) -> None:
        self.inverse, kind = inverse, inverse.dtype
        plan, row, coarse_row, place = [], 0, 0, 0
        self.omega = np.array([s.omega for s in stages for _ in range(s.visits)], kind).reshape(-1, 2)
        for stage in stages:
            n = stage.diag.size
            for visit in range(stage.visits):
                last = visit + 1 == stage.visits
                plan.append((n, row, row, coarse_row, stage.m if last else -1, place))
                place += n
            row, coarse_row = row + n, coarse_row + stage.m
        self.plan = np.array(plan, np.int64).reshape(-1, 6)
        levels = np.repeat(np.arange(len(stages)), [s.visits for s in stages])
        self.plan[:, 1] += levels  # every level has one row start more than rows
        self.plan[:, 3] += levels
        self.links = pack_rows([s.links for s in stages], kind)
        self.prolongation = pack_rows([s.prolongation for s in stages], kind)
        self.restriction = pack_rows([s.restriction for s in stages], kind)
        self.diag = np.concatenate([s.diag for s in stages] or [np.zeros(0, kind)])
        self.size = place + inverse.shape[0]
        self.largest = max([*(s.diag.size for s in stages), inverse.shape[0], 1])

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All memory of these levels."""
        return (*self.links, *self.prolongation, *self.restriction, self.diag, self.inverse)


def pack_rows(parts: list[tuple[Array, ...]], kind: Any) -> tuple[Array, ...]:
    """Return compressed rows of several matrices one behind the other; row starts count in the joined values."""
    if not parts:
        return np.zeros(1, np.uint32), np.zeros(0, np.uint32), np.zeros(0, kind)
    starts = np.cumsum([0, *(p[1].size for p in parts)])
    begin = np.concatenate([p[0] + start for p, start in zip(parts, starts[:-1], strict=True)])
    return begin.astype(np.uint32), *(np.concatenate([p[k] for p in parts]) for k in (1, 2))


class Work:
    """Vectors of one thread: right-hand side, iterates and residual of every level."""

    def __init__(self, cycle: GraphCycle) -> None:
        top, kind, small = cycle.top, cycle.top.kind, cycle.small
        self.x, self.y, self.z = (np.zeros(top.diag.shape, kind) for _ in range(3))
        self.sums = np.empty(int(top.transfer.offsets[-1]), kind)
        # per visit of every large level: right-hand side, iterate, another iterate, residual
        self.graphs = [
            [[np.zeros(s.diag.size + 1, kind) for _ in range(4)] for _ in range(s.visits)] for s in cycle.large
        ]
        self.right, self.iterates = np.zeros(small.size + 1, kind), np.zeros(small.size, kind)
        self.residual, self.result = np.zeros(small.largest, kind), np.zeros(small.largest + 1, kind)

    @property
    def arrays(self) -> list[Array]:
        """All vectors."""
        large = [v for level in self.graphs for visit in level for v in visit]
        small = [self.right, self.iterates, self.residual, self.result]
        return [self.x, self.y, self.z, self.sums, *large, *small]


class GraphCycle:
    """The map b -> M b over a grid and the graphs below it; the result is overwritten by this thread's next call."""

    def __init__(self, top: GridStage, stages: list[GraphStage], inverse: Array, serial: int = SERIAL) -> None:
        self.top, self.facts = top, [(s.diag.size, s.links[1].size, s.visits, s.m) for s in stages]
        large = sum(n > serial for n, *_ in self.facts)
        self.large = stages[:large]
        self.small = SmallLevels(stages[large:], np.ascontiguousarray(inverse.astype(top.kind)))
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
        large = [v for stage in self.large for v in stage.arrays]
        return sum(v.nbytes for v in (*self.top.arrays, *large, *self.small.arrays, *self.work.arrays))

    @property
    def steps(self) -> float:
        """Smoothing steps of one cycle in units of one on the finest level, counted in stored numbers."""
        finest = 4.0 * self.top.diag.size
        return 1 + sum((n + links) * visits for n, links, visits, _ in self.facts) / finest

    def describe(self) -> list[str]:
        """One line per level, fine to coarse."""
        lines = [f"{' x '.join(map(str, self.top.diag.shape))}, cells joined to {self.top.transfer.m} pieces"]
        lines += [f"{n} unknowns, smoothed {visits} times, joined to {m} pieces" for n, _, visits, m in self.facts]
        return [*lines, f"{self.small.inverse.shape[0]} unknowns, inverted"]

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
            first_graph = work.graphs[0][0][0] if work.graphs else work.right
            t.restrict(y, z, work.sums, first_graph[: t.m + 1])
        correction = self.descend(work, 0, 0)
        correction[t.m] = 0
        with threads_for(b.size):
            t.prolong_add(correction, z, x)
            smooth(v.diag, v.w, v.damping, x, b, y, second)
            smooth(v.diag, v.w, v.damping, y, b, x, first)
        return x

    def descend(self, work: Work, l: int, visit: int) -> Array:
        """Apply the cycle from graph level l on to the right-hand side that is there."""
        if l == len(self.large):
            end, right = self.small, work.right[: self.small.size]
            levels = end.plan, end.omega, end.links, end.diag, end.prolongation, end.restriction, end.inverse
            cycle_small_levels(*levels, right, work.iterates, work.residual, work.result)
            return work.result
        v = self.large[l]
        first, second = v.omega
        b, x, y, r = work.graphs[l][visit]
        smooth_graph_from_zero(*v.links, v.diag, b, y, x, first, second)
        if visit + 1 < v.visits:
            graph_residual(*v.links, v.diag, x, b, work.graphs[l][visit + 1][0])
            x += self.descend(work, l, visit + 1)
        else:
            graph_residual(*v.links, v.diag, x, b, r)
            below = work.graphs[l + 1][0][0] if l + 1 < len(self.large) else work.right
            multiply_rows(*v.restriction, r, below, False)
            multiply_rows(*v.prolongation, self.descend(work, l + 1, 0), x, True)
        smooth_graph(*v.links, v.diag, x, b, y, second)
        smooth_graph(*v.links, v.diag, y, b, x, first)
        return x


NO_WEIGHTS = np.zeros((3, 1, 1, 1), np.uint8)
