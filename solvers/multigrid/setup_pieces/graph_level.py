"""Coarse operators of `multigrid.pieces` compiled, for levels that are graphs (`grid_level` has the finest one).

Links are rows of a compressed sparse matrix; unknowns keep the flat index of their cell on the grid of their level.
Everything is computed in fp64, piece by piece or row by row, in parallel and in an order that does not depend on the
number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels.cpu.compile import kernel, ordered_row_kernel as row_kernel, over_strips, strip_kernel
from ...kernels.cpu.graph_levels import GraphStage
from ..coarsening import balanced_factors
from ..pieces import HELD, MERGE, SWEEPS
from .partition import Array, collect_strips, find_pieces, joined_rows, members_of


@dataclass
class Level:
    """Operator of one level: place (n,) flat cell of every unknown on a grid of `size`, -1 without unknown.

    begin, index, w, axis : links row by row; ground (n, 3), shift, diag : as in `multigrid.pieces.Graph`
    """

    size: tuple[int, int, int]
    place: Array
    begin: Array
    index: Array
    w: Array
    axis: Array
    ground: Array
    shift: Array
    diag: Array

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.diag.size

    @property
    def links(self) -> tuple[Array, Array, Array]:
        """The matrix of links without their axes."""
        return self.begin, self.index, self.w


# --- pieces to coarse unknowns ----------------------------------------------------------------------------------------


@strip_kernel
def find_resistances(start, stop, pieces, piece, links, axis, diag, sweeps, r):
    """Write the resistance of every member of pieces start..stop to the centre of its piece, per axis: steps 4, 5."""
    (first, member, position), (begin, index, w) = pieces, links
    old, new, parallel = np.empty((64, 3)), np.empty((64, 3)), np.zeros(64)
    for p in range(start, stop):
        low, k = np.int64(first[p]), np.int64(first[p + 1]) - np.int64(first[p])
        if k > parallel.size:
            old, new, parallel = np.empty((2 * k, 3)), np.empty((2 * k, 3)), np.zeros(2 * k)
        for q in range(k):
            i = member[low + q]
            for d in range(3):
                new[q, d] = 0.0
            if k > 1:
                for t in range(begin[i], begin[i + 1]):
                    if piece[index[t]] == p:
                        parallel[position[index[t]]] += w[t]
                for t in range(begin[i], begin[i + 1]):
                    j = index[t]
                    if piece[j] == p:
                        new[q, axis[t]] += parallel[position[j]] * (diag[i] + diag[j]) / diag[j]
                for t in range(begin[i], begin[i + 1]):
                    if piece[index[t]] == p:
                        parallel[position[index[t]]] = 0.0
            for d in range(3):
                new[q, d] = 1 / new[q, d] if new[q, d] > 0 else 0.0
        for _ in range(sweeps if k > 1 else 0):
            old[:k] = new[:k]
            shorter = False
            for q in range(k):
                i = member[low + q]
                for t in range(begin[i], begin[i + 1]):
                    j = index[t]
                    if piece[j] == p:
                        step = 1 / w[t]
                        for d in range(3):
                            if d != axis[t] and old[position[j], d] + step < new[q, d]:
                                new[q, d], shorter = old[position[j], d] + step, True
            if not shorter:
                break
        for q in range(k):
            for d in range(3):
                r[member[low + q], d] = new[q, d]


@strip_kernel
def find_weights(start, stop, pieces, piece, level, r, sweeps, a, share, centre, held, total, linked):
    """Write a and a / w_out of every member of pieces start..stop, r shortened by a, and facts of the pieces."""
    (first, member, position), (begin, index, w, axis, ground, shift, diag) = pieces, level
    old, new, per = np.empty((64, 3)), np.empty((64, 3)), np.empty((64, 3))
    for p in range(start, stop):
        low, k = np.int64(first[p]), np.int64(first[p + 1]) - np.int64(first[p])
        held[p], total[p], linked[p] = 0.0, 0.0, False
        if k > old.shape[0]:
            old, new, per = np.empty((2 * k, 3)), np.empty((2 * k, 3)), np.empty((2 * k, 3))
        for q in range(k):
            i = member[low + q]
            held[p] += shift[i] + ground[i, 0] + ground[i, 1] + ground[i, 2]
            total[p] += diag[i]
            for d in range(3):
                old[q, d], new[q, d] = 0.0, 0.0
            for t in range(begin[i], begin[i + 1]):
                j = index[t]
                if piece[j] != p:
                    old[q, axis[t]] += w[t]
                    new[q, axis[t]] += w[t] * r[j, axis[t]]
                    linked[p] = True
            for d in range(3):
                out = old[q, d]
                per[q, d] = 1 / (r[i, d] + 1 / out + new[q, d] / out) if out > 0 else 0.0
                new[q, d] = per[q, d] * r[i, d]
                share[i, d] = 1 / out if out > 0 else 0.0
        for _ in range(sweeps if k > 1 else 0):
            old[:k] = new[:k]
            shorter = False
            for q in range(k):
                i = member[low + q]
                for t in range(begin[i], begin[i + 1]):
                    j = index[t]
                    if piece[j] == p:
                        step = 1 / w[t]
                        for d in range(3):
                            if d != axis[t] and old[position[j], d] + per[q, d] * step < new[q, d]:
                                new[q, d], shorter = old[position[j], d] + per[q, d] * step, True
            if not shorter:
                break
        for q in range(k):
            i = member[low + q]
            for d in range(3):
                a[i, d] = new[q, d]
                share[i, d] *= new[q, d]
                centre[i, d] = min(r[i, d], new[q, d] / per[q, d]) if per[q, d] > 0 else r[i, d]


@row_kernel
def close_row(c, before, used, new, held, slot, links, below):
    """Turn links from entry `before` on, to pieces, into those of coarse unknown c; write its diagonal, return the end.

    links : (to, values, axes); slot : where a piece stands among them per axis, -1 again afterwards
    """
    (to, values, axes), (_, coarse_ground, coarse_shift, coarse_diag) = links, below
    end, own = before, 0.0
    for e in range(before, used):
        q, v, d = to[e], values[e], axes[e]
        slot[q, d] = -1
        if new[q] < 0:  # what leads to a piece without a coarse unknown leads to p = 0
            coarse_ground[c, d] += 1 / (1 / v + 1 / held[q])
        else:
            to[end], values[end], axes[end] = new[q], v, d
            own += v
            end += 1
    coarse_diag[c] = own + coarse_shift[c] + coarse_ground[c, 0] + coarse_ground[c, 1] + coarse_ground[c, 2]
    return end


@strip_kernel
def sum_paths(start, stop, kept, pieces, piece, level, centre, place, new, held, below):
    """Return the links of coarse unknowns start..stop, row by row, and write the rest of them into `below`.

    kept : the piece of every coarse unknown; new : the coarse unknown of every piece, -1 if none
    """
    (first, member), (begin, index, w, axis, ground, shift, diag) = pieces, level
    coarse_place, coarse_ground, coarse_shift, _ = below
    counts, used = np.zeros(stop - start, np.int32), 0
    to, values, axes = np.empty(8192, np.uint32), np.empty(8192), np.empty(8192, np.uint8)
    slot = np.full((new.size, 3), -1, np.int32)
    for c in range(start, stop):
        p, before, heaviest = kept[c], used, -1.0
        for d in range(3):
            coarse_ground[c, d] = 0.0
        coarse_shift[c], room = 0.0, 0
        for s in range(first[p], first[p + 1]):
            room += np.int64(begin[member[s] + 1]) - np.int64(begin[member[s]])
        while used + room > to.size:
            to, values = np.append(to, np.empty_like(to)), np.append(values, np.empty_like(values))
            axes = np.append(axes, np.empty_like(axes))
        for s in range(first[p], first[p + 1]):
            i = member[s]
            if diag[i] >= heaviest:
                heaviest, coarse_place[c] = diag[i], place[i]
            coarse_shift[c] += shift[i]
            for d in range(3):
                if ground[i, d] > 0:
                    coarse_ground[c, d] += 1 / (1 / ground[i, d] + centre[i, d])
            for t in range(begin[i], begin[i + 1]):
                j, d = index[t], axis[t]
                q = piece[j]
                if q == p:
                    continue
                path = w[t] / (1 + w[t] * (centre[i, d] + centre[j, d]))
                at = slot[q, d]
                if at < 0:
                    slot[q, d], to[used], values[used], axes[used] = used, q, path, d
                    used += 1
                else:
                    values[np.uint32(at)] += path
        used = close_row(c, before, used, new, held, slot, (to, values, axes), below)
        counts[c - start] = used - before
    return counts, to[:used].copy(), values[:used].copy(), axes[:used].copy()


@strip_kernel
def copy_rows(start, stop, piece, new):
    """Return rows start..stop of E, which copies the value of a piece; none for pieces without a coarse unknown."""
    counts, used = np.zeros(stop - start, np.int32), 0
    to = np.empty(stop - start, np.uint32)
    for i in range(start, stop):
        if piece[i] >= 0 and new[piece[i]] >= 0:
            to[used] = new[piece[i]]
            used += 1
            counts[i - start] = 1
    return counts, to[:used].copy(), np.ones(used)


@strip_kernel
def mix_rows(start, stop, d, piece, links, axis, a, share, rows, columns):
    """Return rows start..stop of L_d times a matrix that is given as compressed rows of so many columns."""
    (begin, index, w), (first, column, value) = links, rows
    counts, used = np.zeros(stop - start, np.int32), 0
    to, values, slot = np.empty(8192, np.uint32), np.empty(8192), np.full(columns, -1, np.int32)
    for i in range(start, stop):
        before, most = used, used + np.int64(first[i + 1]) - np.int64(first[i])
        if a[i, d] != 0:
            for t in range(begin[i], begin[i + 1]):
                most += np.int64(first[index[t] + 1]) - np.int64(first[index[t]])
        while most > to.size:
            to, values = np.append(to, np.empty_like(to)), np.append(values, np.empty_like(values))
        for e in range(first[i], first[i + 1]):
            slot[column[e]], to[used], values[used] = used, column[e], (1 - a[i, d]) * value[e]
            used += 1
        if a[i, d] != 0:
            for t in range(begin[i], begin[i + 1]):
                j = index[t]
                if axis[t] != d or piece[j] == piece[i]:
                    continue
                part = share[i, d] * w[t]
                for e in range(first[j], first[j + 1]):
                    at = slot[column[e]]
                    if at < 0:
                        slot[column[e]], to[used], values[used] = used, column[e], part * value[e]
                        used += 1
                    else:
                        values[np.uint32(at)] += part * value[e]
        for e in range(before, used):
            slot[to[e]] = -1
        counts[i - start] = used - before
    return counts, to[:used].copy(), values[:used].copy()


@strip_kernel
def merge_parallel(start, stop, links):
    """Return rows start..stop of the links, with those that join the same two unknowns along several axes as one."""
    begin, index, w = links
    counts, used = np.zeros(stop - start, np.int32), 0
    size = np.int64(begin[stop]) - np.int64(begin[start])
    to, values = np.empty(size, np.uint32), np.empty(size)
    for i in range(start, stop):
        before = used
        for t in range(begin[i], begin[i + 1]):
            at = before
            while at < used and to[at] != index[t]:
                at += 1
            if at == used:
                to[at], values[at] = index[t], 0.0
                used += 1
            values[at] += w[t]
        counts[i - start] = used - before
    return counts, to[:used].copy(), values[:used].copy()


@kernel(parallel=False)
def sum_axes(axis, w, sums, counts):
    """Add links and their number per axis."""
    for t in range(w.size):
        sums[axis[t]] += w[t]
        counts[axis[t]] += 1


# --- one level --------------------------------------------------------------------------------------------------------


def coarse_blocks(level: Level) -> tuple[tuple[int, int, int], Array]:
    """Return the size of the next grid and the flat cell on it of every unknown, -1 without unknown."""
    sums, counts = np.zeros(3), np.zeros(3, np.int64)
    sum_axes(level.axis, level.w, sums, counts)
    factors = balanced_factors([float(m) for m in sums / np.maximum(counts, 1)], level.size)
    nx, ny, nz = (-(-n // f) for n, f in zip(level.size, factors, strict=True))
    i, rest = np.divmod(level.place, level.size[1] * level.size[2])
    j, k = np.divmod(rest, level.size[2])
    flat = ((i // factors[0]) * ny + j // factors[1]) * nz + k // factors[2]
    return (nx, ny, nz), np.where(level.place >= 0, flat, -1).astype(np.int32)


@dataclass
class Step:
    """A level coarsened: the piece of every unknown, the coarse unknown of every piece (-1: none), weights, `below`."""

    piece: Array
    new: Array
    a: Array
    share: Array
    below: Level


def coarsen(level: Level, size: tuple[int, int, int], place: Array, piece: Array, count: int) -> Step:
    """Return weights and the next level for a partition; place : of every unknown on the next grid, of this size."""
    pieces, n = members_of(piece, count), level.n
    parts = level.begin, level.index, level.w, level.axis, level.ground, level.shift, level.diag
    r, a, share, centre = np.empty((n, 3)), np.zeros((n, 3)), np.zeros((n, 3)), np.empty((n, 3))
    held, total, linked = np.empty(count), np.empty(count), np.empty(count, np.bool_)
    labels = piece.view(np.uint32)
    over_strips(find_resistances, count, pieces, labels, level.links, level.axis, level.diag, SWEEPS, r)
    over_strips(find_weights, count, pieces, labels, parts, r, SWEEPS, a, share, centre, held, total, linked)
    keep = (held < HELD * total) & (linked | (held > 0))
    kept = np.flatnonzero(keep)
    new, m = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32), kept.size
    rows, ground, shift, diag = np.empty(m, np.int32), np.empty((m, 3)), np.empty(m), np.empty(m)
    if m:
        args = kept, pieces[:2], labels, parts, centre, place, new, held, (rows, ground, shift, diag)
        begin, index, w, axis = joined_rows(collect_strips(sum_paths, m, *args))
    else:
        begin, index, w, axis = np.zeros(1, np.uint32), np.zeros(0, np.uint32), np.zeros(0), np.zeros(0, np.uint8)
    return Step(piece, new, a, share, Level(size, rows, begin, index, w, axis, ground, shift, diag))


def coarsen_by_pieces(level: Level, shrinks: float) -> Any:
    """Return the `Step` of a level, merged harder where it would hardly shrink; None if it does not at all."""
    size, place = coarse_blocks(level)
    blocks = size[0] * size[1] * size[2]
    unknowns = int((level.place >= 0).sum())
    piece, count = find_pieces(place, blocks, level.links, level.diag, MERGE)
    if count > shrinks * unknowns:
        piece, count = find_pieces(place, blocks, level.links, level.diag, 0.0)
    step = coarsen(level, size, place, piece, count)
    return None if step.below.n > 0.95 * unknowns and size == level.size else step


def compose_rows(level: Level, step: Step) -> tuple[Array, ...]:
    """Return P = L_z L_y L_x E as compressed rows, one product after the other: each row is formed once."""
    rows = joined_rows(collect_strips(copy_rows, level.n, step.piece, step.new))
    args = step.piece.view(np.uint32), level.links, level.axis, step.a, step.share
    for d in range(3):
        if step.a[:, d].any():
            rows = joined_rows(collect_strips(mix_rows, level.n, d, *args, rows, step.below.n))
    return rows


def graph_stage(level: Level, step: Step, visits: int, kind: Any) -> GraphStage:
    """Return what the kernels need of a graph level, in the precision of the cycle."""
    begin, index, w = joined_rows(collect_strips(merge_parallel, level.n, level.links))
    rows, matrix = compose_rows(level, step), (begin, index, w.astype(kind))
    return GraphStage(matrix, level.diag.astype(kind), (*rows[:2], rows[2].astype(kind)), step.below.n, visits)
