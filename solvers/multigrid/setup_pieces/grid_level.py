"""The finest level of pieces on its grid: partition, weights and the first graph, without a list of its links.

Steps 1 to 6 of `multigrid.pieces` as loops over blocks and pieces where they decide something, and as loops over rows
of cells, a vector at a time, where they only compute. Arrays per axis are (3, nx, ny, nz); links lead from a cell to
the next one and wrap. What a link is to the pieces is kept as one number, its *tie*: minus its resistance inside a
piece, its conductance between pieces, 0 without a link. These arrays are in the precision of the cycle, sums over
pieces in fp64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...kernels.cpu.compile import ordered_row_kernel as row_kernel, over_strips, strip_kernel
from ...kernels.cpu.graph_levels import GridTransfer
from ..coarsening import balanced_factors
from ..pieces import FOREIGN, HELD, MERGE, ROUNDS, SWEEPS
from .changes import Coarse, Past, Ties, Window, splice_rows
from .graph_level import Level, close_row
from .partition import (
    Array,
    choose_joins,
    collect_strips,
    joined_rows,
    members_of,
    merge_greedily,
    number_labels,
)


class Finest(NamedTuple):
    """Conductances of a `Poisson` operator times a number, fp64, on its grid; diag : their sums.

    links : (3, nx, ny, nz); wraps : which axes are periodic; grounded : whether there is any ground or shift
    """

    links: Array
    ground: tuple[Array, ...]
    shift: Array
    diag: Array
    wraps: Array
    grounded: bool

    @property
    def size(self) -> tuple[int, int, int]:
        """Cells per axis."""
        nx, ny, nz = self.diag.shape
        return nx, ny, nz

    @property
    def strides(self) -> Array:
        """Flat distance of neighbours per axis."""
        return np.array([self.size[1] * self.size[2], self.size[2], 1])


def finest_conductances(A: Any, factor: float) -> Finest:
    """Return the conductances of an operator; those that it has not computed yet are not kept on it."""
    source, size = A.conductances if A.voxels is None else A.voxels.conductances(), tuple(A.unknown.shape)
    links, diag = np.empty((3, *size)), np.empty(size)
    for out, w, n in zip(links, source.links, size, strict=True):
        np.multiply(w.numpy(), factor if n > 1 else 0.0, out=out, casting="unsafe")  # a cell is not linked with itself

    def scaled(v: Any) -> Array:
        return np.ascontiguousarray(np.broadcast_to(v.numpy(), size), np.float64) * factor

    gx, gy, gz = map(scaled, source.ground)
    ground, shift = (gx, gy, gz), scaled(source.shift)
    grounded = bool(shift.any()) or any(g.any() for g in ground)
    over_strips(sum_links, size[0] * size[1], *links, *ground, shift, diag)
    return Finest(links, ground, shift, diag, np.array(A.periodic), grounded)


@strip_kernel
def sum_links(start, stop, w0, w1, w2, g0, g1, g2, shift, diag):
    """Write the diagonal of rows start..stop: ground, shift and the links on both sides."""
    nx, ny, nz = diag.shape
    for row in range(start, stop):
        i, j = row // ny, row % ny
        out, x, y, z = diag[i, j], w0[i - 1 if i > 0 else nx - 1, j], w1[i, j - 1 if j > 0 else ny - 1], w2[i, j]
        a, b, c, s, wx, wy = g0[i, j], g1[i, j], g2[i, j], shift[i, j], w0[i, j], w1[i, j]
        for k in range(nz):
            out[k] = s[k] + (a[k] + b[k] + c[k]) + (wx[k] + x[k]) + (wy[k] + y[k])
        for k in range(1, nz):
            out[k] += z[k] + z[k - 1]
        out[0] += z[0] + z[nz - 1]


# --- partition --------------------------------------------------------------------------------------------------------


@strip_kernel
def merge_grid_blocks(start, stop, rows, w, diag, size, strides, factors, merge, foreign_factor, root):
    """Write a representative of the cluster of every cell of rows[start..stop] of blocks, -1 without an unknown."""
    blocks_y, blocks_z = -(-size[1] // factors[1]), -(-size[2] // factors[2])
    between, sums, best = np.zeros((8, 8)), np.empty(8), np.empty(8)
    cluster, alive = np.empty(8, np.uint32), np.empty(8, np.uint32)
    partner, foreign = np.empty(8, np.int32), np.empty(8, np.bool_)
    cell, place = np.empty(8, np.uint32), np.empty((8, 3), np.int64)
    position, corner, inner = np.empty(8, np.uint32), np.empty(3, np.int64), np.array([4, 2, 1])
    for number in range(start, stop):
        row = rows[number]
        corner[0], corner[1] = factors[0] * (row // blocks_y), factors[1] * (row % blocks_y)
        for b in range(blocks_z):
            corner[2], k = factors[2] * b, 0
            for q in range(8):
                x, y, z = corner[0] + (q >> 2), corner[1] + (q >> 1 & 1), corner[2] + (q & 1)
                c = (x * size[1] + y) * size[2] + z
                outside = (q >> 2) >= factors[0] or (q >> 1 & 1) >= factors[1] or (q & 1) >= factors[2]
                if outside or x >= size[0] or y >= size[1] or z >= size[2]:
                    continue
                root[c] = -1
                if diag[c] > 0:
                    position[q], cell[k] = k, c
                    place[k, 0], place[k, 1], place[k, 2] = x, y, z
                    k += 1
            if k == 1:
                root[cell[0]] = cell[0]
            if k <= 1:
                continue
            for q in range(k):
                for other in range(k):
                    between[q, other] = 0.0
            least, most, inside, any_foreign = np.inf, 0.0, 0, False
            for q in range(k):
                c, within, beyond = np.int64(cell[q]), 0.0, 0.0
                own = 4 * (place[q, 0] - corner[0]) + 2 * (place[q, 1] - corner[1]) + place[q, 2] - corner[2]
                sums[q] = diag[c]
                most = max(most, sums[q])
                for d in range(3):
                    at = place[q, d]
                    low, high = (at - 1 if at > 0 else size[d] - 1), (at + 1 if at + 1 < size[d] else 0)
                    for up in range(2):
                        there = high if up else low
                        v = w[d, np.uint64(c if up else c + (low - at) * strides[d])]
                        if v > 0 and corner[d] <= there < corner[d] + factors[d]:
                            between[q, position[np.uint64(own + (there - at) * inner[d])]] += v
                            within, least, inside = max(within, v), min(least, v), inside + 1
                        else:
                            beyond = max(beyond, v)
                foreign[q] = beyond > foreign_factor * within
                any_foreign |= foreign[q]
            # in a whole cube (square) without weak links nothing can stop the merging before all is one
            whole = (k == 8 and inside == 24) or (k == 4 and inside == 8)
            if whole and not any_foreign and least >= merge * most:
                for q in range(k):
                    root[cell[q]] = cell[0]
            else:
                merge_greedily(k, between, sums, foreign, merge, cluster, best, partner, alive)
                for q in range(k):
                    root[cell[q]] = cell[cluster[q]]


@row_kernel
def next_cell(i, up, stride, length, n, wraps):
    """Return the cell below or above flat cell i along an axis.

    Without a periodic axis what lies across an end has no link, so any cell will do.

    length : stride times cells of the axis; n : cells
    """
    j = np.int64(i) + stride if up else np.int64(i) - stride
    if wraps:
        at = np.int64(i) % length
        if up:
            return np.uint64(j if at + stride < length else j - length)
        return np.uint64(j if at >= stride else j + length)
    return np.uint64(j + n if j < 0 else j - n if j >= n else j)


@strip_kernel
def tie_pieces(start, stop, chosen, pieces, piece, w, size, strides, wraps, diag, best, value, total):
    """Write of pieces chosen[start..stop] the other one with the most links, what these are, and summed diagonals."""
    (first, member), n = pieces, piece.size
    slot, to, sums = np.full(total.size, -1, np.int32), np.empty(8192, np.uint32), np.empty(8192)
    for number in range(start, stop):
        p = chosen[number]
        own, used, count = 0.0, 0, np.int64(first[p + 1]) - np.int64(first[p])
        if 6 * count > to.size:
            to, sums = np.empty(12 * count, np.uint32), np.empty(12 * count)
        for s in range(first[p], first[p + 1]):
            i = member[s]
            own += diag[i]
            for d in range(3):
                for up in range(2):
                    j = next_cell(i, up, strides[d], strides[d] * size[d], n, wraps[d])
                    v = w[d, np.uint64(i) if up else j]
                    if v > 0 and piece[j] != p:
                        q = piece[j]
                        at = slot[q]
                        if at < 0:
                            slot[q], to[used], sums[used] = used, q, v
                            used += 1
                        else:
                            sums[np.uint32(at)] += v
        most, other = 0.0, 0
        for c in range(used):
            if sums[c] > most or (sums[c] == most and to[c] < other):
                most, other = sums[c], to[c]
            slot[to[c]] = -1
        best[p], value[p], total[p] = other, most, own


def partition_grid(
    finest: Finest, factors: tuple[int, int, int], merge: float, past: Past | None = None
) -> tuple[Array, int]:
    """Return the piece of every cell (-1 without an unknown), flat, and how many there are: steps 1 to 3."""
    size, links, diag = finest.size, finest.links.reshape(3, -1), finest.diag.ravel()
    root, old = past.take_partition(merge, diag.size) if past else (np.empty(diag.size, np.int32), [])
    rows = past.blocks(factors) if past and past.rows is not None and merge in past.partitions else None
    if rows is None:
        rows = np.arange(-(-size[0] // factors[0]) * -(-size[1] // factors[1]))
    shape, foreign, piece = (np.array(size), finest.strides), FOREIGN if merge else np.inf, np.empty_like(root)
    over_strips(merge_grid_blocks, rows.size, rows, links, diag, *shape, np.array(factors), merge, foreign, root)
    count, ties = number_labels(root, diag.size, piece), list[Ties]()
    for number in range(ROUNDS):
        pieces, out = members_of(piece, count)[:2], (np.empty(count, np.int32), *np.empty((2, count)))
        chosen = np.arange(count)
        if past:
            cells, label = first_cells(pieces, piece)
            chosen = past.copy_ties(old[number] if number < len(old) else None, label, piece, cells, out)
            ties.append(Ties(label, piece.copy(), cells, *out))
        parts = chosen, pieces, piece.view(np.uint32), links, *shape, finest.wraps, diag
        over_strips(tie_pieces, chosen.size, *parts, *out)
        joined = choose_joins(piece, *out)
        if joined is None:
            break
        count = joined[0]
    if past:
        past.partitions[merge] = root, ties
    return piece, count


def first_cells(pieces: tuple[Array, ...], piece: Array) -> tuple[Array, Array]:
    """Return the first cell of every piece, and that of its piece for every cell, -1 without an unknown."""
    cells = pieces[1][pieces[0][:-1]].astype(np.int32)
    return cells, np.append(cells, np.int32(-1))[piece]


# --- weights ----------------------------------------------------------------------------------------------------------


@row_kernel
def mark_row(w, here, there, tie):
    """Write what the links of a row of cells are to their pieces."""
    one, none = tie.dtype.type(1), tie.dtype.type(0)
    for k in range(tie.size):
        v = tie.dtype.type(w[k])
        tie[k] = v if here[k] != there[k] else -one / v if v > none else none


@strip_kernel
def mark_links(start, stop, rows, w0, w1, w2, piece, tie):
    """Write the ties of rows[start..stop]."""
    nx, ny, nz = piece.shape
    for number in range(start, stop):
        i, j = rows[number] // ny, rows[number] % ny
        here = piece[i, j]
        mark_row(w0[i, j], here, piece[i + 1 if i + 1 < nx else 0, j], tie[0, i, j])
        mark_row(w1[i, j], here, piece[i, j + 1 if j + 1 < ny else 0], tie[1, i, j])
        mark_row(w2[i, j, : nz - 1], here[: nz - 1], here[1:], tie[2, i, j, : nz - 1])
        mark_row(w2[i, j, nz - 1 :], here[nz - 1 :], here[:1], tie[2, i, j, nz - 1 :])


@row_kernel
def share_row(out, tie, w, own, other):
    """Add w (D_i + D_j) / D_j of the links inside pieces, with own and other diagonals."""
    for k in range(out.size):
        if tie[k] < 0:
            out[k] += w[k] * (own[k] + other[k]) / other[k]


@row_kernel
def shorten_row(out, tie, other, per):
    """Take the way by a neighbour in the piece, its value + per / w, where that is shorter."""
    for k in range(out.size):
        way = other[k] - per[k] * tie[k]
        out[k] = way if (tie[k] < 0) & (way < out[k]) else out[k]


@row_kernel
def leave_row(out, mean, tie, other):
    """Add the links that leave pieces to `out`, and links times what is at their other end to `mean`."""
    none = out.dtype.type(0)
    for k in range(out.size):
        w = tie[k] if tie[k] > none else none
        out[k] += w
        mean[k] += w * other[k]


@strip_kernel
def find_grid_resistances(start, stop, rows, tie, w0, w1, w2, diag, r):
    """Write the resistance of cells of rows[start..stop] to the centre of their pieces per axis: step 4.

    w0, w1, w2 : links, those of both ways around an axis of two cells added up
    """
    nx, ny, nz = diag.shape
    sums = np.empty(nz)
    for number in range(start, stop):
        i, j = rows[number] // ny, rows[number] % ny
        own, x, y = diag[i, j], (i - 1 if i > 0 else nx - 1), (j - 1 if j > 0 else ny - 1)
        for d in range(3):
            sums[:] = 0
            if d == 0:
                share_row(sums, tie[0, x, j], w0[x, j], own, diag[x, j])
                share_row(sums, tie[0, i, j], w0[i, j], own, diag[i + 1 if i + 1 < nx else 0, j])
            elif d == 1:
                share_row(sums, tie[1, i, y], w1[i, y], own, diag[i, y])
                share_row(sums, tie[1, i, j], w1[i, j], own, diag[i, j + 1 if j + 1 < ny else 0])
            else:
                t, w = tie[2, i, j], w2[i, j]
                share_row(sums[1:], t[: nz - 1], w[: nz - 1], own[1:], own[: nz - 1])
                share_row(sums[:1], t[nz - 1 :], w[nz - 1 :], own[:1], own[nz - 1 :])
                share_row(sums[: nz - 1], t[: nz - 1], w[: nz - 1], own[: nz - 1], own[1:])
                share_row(sums[nz - 1 :], t[nz - 1 :], w[nz - 1 :], own[nz - 1 :], own[:1])
            out = r[d, i, j]
            for k in range(nz):
                out[k] = 1 / sums[k] if sums[k] > 0 else 0.0


@strip_kernel
def shorten_ways(start, stop, rows, tie, old, per, varies, before, after, new):
    """Write old, shortened by ways over links on other axes, for rows[start..stop]: step 5, one sweep.

    per : what a resistance is multiplied by, as old, or (varies 0) one row for all
    before, after : rows that the sweep before, and this one, have changed; next to others there is nothing to do
    """
    _, nx, ny, nz = old.shape
    for number in range(start, stop):
        i, j = rows[number] // ny, rows[number] % ny
        x, y = (i - 1 if i > 0 else nx - 1), (j - 1 if j > 0 else ny - 1)
        up_x, up_y = (i + 1 if i + 1 < nx else 0), (j + 1 if j + 1 < ny else 0)
        awake = before[i, j] | before[x, j] | before[up_x, j] | before[i, y] | before[i, up_y]
        after[i, j] = False
        for d in range(3):
            out, own, p = new[d, i, j], old[d, i, j], per[d, varies * i, varies * j]
            for k in range(nz):
                out[k] = own[k]
            if not awake:
                continue
            if d != 0:
                shorten_row(out, tie[0, x, j], old[d, x, j], p)
                shorten_row(out, tie[0, i, j], old[d, up_x, j], p)
            if d != 1:
                shorten_row(out, tie[1, i, y], old[d, i, y], p)
                shorten_row(out, tie[1, i, j], old[d, i, up_y], p)
            if d != 2:
                t = tie[2, i, j]
                shorten_row(out[1:], t[: nz - 1], own[: nz - 1], p[1:])
                shorten_row(out[:1], t[nz - 1 :], own[nz - 1 :], p[:1])
                shorten_row(out[: nz - 1], t[: nz - 1], own[1:], p[: nz - 1])
                shorten_row(out[nz - 1 :], t[nz - 1 :], own[:1], p[nz - 1 :])
            changed = 0
            for k in range(nz):
                changed += out[k] != own[k]
            after[i, j] |= changed > 0


@strip_kernel
def find_grid_weights(start, stop, rows, tie, r, per, a):
    """Write the weights of cells of rows[start..stop], not shortened yet, and the conductances that they come from."""
    _, nx, ny, nz = r.shape
    out, mean, one, none = np.empty(nz, r.dtype), np.empty(nz, r.dtype), r.dtype.type(1), r.dtype.type(0)
    for number in range(start, stop):
        i, j = rows[number] // ny, rows[number] % ny
        x, y = (i - 1 if i > 0 else nx - 1), (j - 1 if j > 0 else ny - 1)
        for d in range(3):
            out[:], mean[:] = 0, 0
            own = r[d, i, j]
            if d == 0:
                leave_row(out, mean, tie[0, x, j], r[0, x, j])
                leave_row(out, mean, tie[0, i, j], r[0, i + 1 if i + 1 < nx else 0, j])
            elif d == 1:
                leave_row(out, mean, tie[1, i, y], r[1, i, y])
                leave_row(out, mean, tie[1, i, j], r[1, i, j + 1 if j + 1 < ny else 0])
            else:
                t = tie[2, i, j]
                leave_row(out[1:], mean[1:], t[: nz - 1], own[: nz - 1])
                leave_row(out[:1], mean[:1], t[nz - 1 :], own[nz - 1 :])
                leave_row(out[: nz - 1], mean[: nz - 1], t[: nz - 1], own[1:])
                leave_row(out[nz - 1 :], mean[nz - 1 :], t[nz - 1 :], own[:1])
            to, weight = per[d, i, j], a[d, i, j]
            for k in range(nz):
                c = out[k] / (own[k] * out[k] + one + mean[k]) if out[k] > none else none
                to[k], weight[k] = c, c * own[k]


@row_kernel
def store_row(a, sums, tie, steps, out):
    """Write the share of a weight that each link has, in steps, rounded where there are many."""
    half, none = a.dtype.type(0.5), a.dtype.type(0)
    for k in range(out.size):
        part = a[k] * (tie[k] / sums[k]) * steps if tie[k] > 0 else none
        out[k] = np.int32(part + half) if steps > 1 else part


@strip_kernel
def store_grid_weights(start, stop, rows, tie, a, per, steps, r, low, high):
    """Write the weights towards both neighbours per axis for rows[start..stop], and shorten r by the weight: step 5."""
    _, nx, ny, nz = r.shape
    sums, none = np.empty(nz, r.dtype), r.dtype.type(0)
    ahead, behind = np.empty(nz, r.dtype), np.empty(nz, r.dtype)
    for number in range(start, stop):
        i, j = rows[number] // ny, rows[number] % ny
        x, y = (i - 1 if i > 0 else nx - 1), (j - 1 if j > 0 else ny - 1)
        for d in range(3):
            t = tie[d, i, j]
            if d < 2:
                before = tie[0, x, j] if d == 0 else tie[1, i, y]
                for k in range(nz):
                    behind[k] = max(before[k], none)
            else:
                behind[0] = max(t[nz - 1], none)
                for k in range(nz - 1):
                    behind[k + 1] = max(t[k], none)
            for k in range(nz):
                ahead[k] = max(t[k], none)
                sums[k] = behind[k] + ahead[k]
            weight, p, way = a[d, i, j], per[d, i, j], r[d, i, j]
            store_row(weight, sums, behind, steps, low[d, i, j])
            store_row(weight, sums, ahead, steps, high[d, i, j])
            for k in range(nz):
                shorter = weight[k] / p[k]
                way[k] = shorter if p[k] > none and shorter < way[k] else way[k]


# --- the first graph --------------------------------------------------------------------------------------------------


@row_kernel
def path_row(tie, own, other):
    """Replace the links between pieces by paths from centre to centre, all others by 0."""
    one, none = tie.dtype.type(1), tie.dtype.type(0)
    for k in range(tie.size):
        w = tie[k] if tie[k] > none else none
        tie[k] = w / (one + w * (own[k] + other[k]))


@strip_kernel
def find_paths(start, stop, rows, tie, r):
    """Replace the ties of rows[start..stop] by the conductances between the centres of pieces."""
    _, nx, ny, nz = r.shape
    for number in range(start, stop):
        i, j = rows[number] // ny, rows[number] % ny
        path_row(tie[0, i, j], r[0, i, j], r[0, i + 1 if i + 1 < nx else 0, j])
        path_row(tie[1, i, j], r[1, i, j], r[1, i, j + 1 if j + 1 < ny else 0])
        path_row(tie[2, i, j, : nz - 1], r[2, i, j, : nz - 1], r[2, i, j, 1:])
        path_row(tie[2, i, j, nz - 1 :], r[2, i, j, nz - 1 :], r[2, i, j, :1])


@strip_kernel
def describe_pieces(start, stop, chosen, pieces, per, g0, g1, g2, shift, grounded, diag, held, total, linked):
    """Write of pieces chosen[start..stop]: what holds them to p = 0, their diagonals, whether links leave them."""
    first, member = pieces
    for number in range(start, stop):
        p = chosen[number]
        held[p], total[p], linked[p] = 0.0, 0.0, False
        for s in range(first[p], first[p + 1]):
            i = member[s]
            total[p] += diag[i]
            linked[p] |= per[0, i] > 0 or per[1, i] > 0 or per[2, i] > 0
            if grounded:
                held[p] += shift[i] + g0[i] + g1[i] + g2[i]


@strip_kernel
def sum_grid_paths(start, stop, kept, pieces, piece, paths, size, strides, wraps, facts, r, factors, new, held, below):
    """Return the links of coarse unknowns start..stop, row by row, and write the rest of them into `below`.

    kept : the piece of every coarse unknown; new : the coarse unknown of every piece, -1 if none
    """
    (first, member), (g0, g1, g2, shift, grounded, diag) = pieces, facts
    coarse_place, coarse_ground, coarse_shift, _ = below
    blocks_y, blocks_z = -(-size[1] // factors[1]), -(-size[2] // factors[2])
    counts, used = np.zeros(stop - start, np.int32), 0
    to, values, axes = np.empty(8192, np.uint32), np.empty(8192), np.empty(8192, np.uint8)
    slot = np.full((new.size, 3), -1, np.int32)
    for c in range(start, stop):
        p, before, heaviest, place = kept[c], used, -1.0, 0
        for d in range(3):
            coarse_ground[c, d] = 0.0
        coarse_shift[c] = 0.0
        while used + 6 * (np.int64(first[p + 1]) - np.int64(first[p])) > to.size:
            to, values = np.append(to, np.empty_like(to)), np.append(values, np.empty_like(values))
            axes = np.append(axes, np.empty_like(axes))
        for s in range(first[p], first[p + 1]):
            i = member[s]
            if diag[i] >= heaviest:
                heaviest, place = diag[i], i
            if grounded:
                coarse_shift[c] += shift[i]
                for d in range(3):
                    g = g0[i] if d == 0 else g1[i] if d == 1 else g2[i]
                    if g > 0:
                        coarse_ground[c, d] += g / (1 + g * r[d, i])
            for d in range(3):
                for up in range(2):
                    j = next_cell(i, up, strides[d], strides[d] * size[d], piece.size, wraps[d])
                    path = paths[d, np.uint64(i) if up else j]
                    if path > 0:
                        at = slot[piece[j], d]
                        if at < 0:
                            slot[piece[j], d] = used
                            to[used], values[used], axes[used] = piece[j], path, d
                            used += 1
                        else:
                            values[np.uint32(at)] += path
        used = close_row(c, before, used, new, held, slot, (to, values, axes), below)
        x, y, z = place // (size[1] * size[2]), place // size[2] % size[1], place % size[2]
        coarse_place[c] = (x // factors[0] * blocks_y + y // factors[1]) * blocks_z + z // factors[2]
        counts[c - start] = used - before
    return counts, to[:used].copy(), values[:used].copy(), axes[:used].copy()


@strip_kernel
def place_cells(start, stop, piece, new, m, part):
    """Write the coarse unknown of cells start..stop, m of those that have none."""
    for i in range(start, stop):
        part[i] = m
        if piece[i] >= 0 and new[piece[i]] >= 0:
            part[i] = new[piece[i]]


def link_means(finest: Finest) -> list[float]:
    """Mean positive link per axis."""
    return [float(w.sum() / max(np.count_nonzero(w), 1)) for w in finest.links]


def shorten_grid(tie: Array, x: Array, per: Array, spare: Array, rows: tuple[Array, ...]) -> tuple[Array, Array]:
    """Return x, shortened, and the other one of x and spare.

    per : as x, or one row for all; rows : which rows each sweep visits
    """
    awake = np.ones((2, *x.shape[1:3]), np.bool_)
    for chosen in rows:
        varies = int(per.shape[1] * per.shape[2] > 1)
        over_strips(shorten_ways, chosen.size, chosen, tie, x, per, varies, *awake, spare)
        x, spare, awake = spare, x, awake[::-1]
        if not awake[0].any():
            break
    return x, spare


def coarsen_grid(
    finest: Finest, factors: tuple[int, int, int], piece: Array, count: int, kind: Any, past: Past | None = None
) -> tuple[GridTransfer, Level, Array]:
    """Return the interpolation, the next level for a partition, in the precision of a cycle, and what diagonals sum to.

    Steps 4 to 6.

    piece : (cells,) int32, any partition, -1 without an unknown
    """
    size, everywhere, diag = finest.size, np.arange(finest.size[0] * finest.size[1]), finest.diag.ravel()
    tie, r, per, a, spare = (np.empty((3, *size), kind) for _ in range(5))
    pieces = members_of(piece, count)[:2]
    cells, label = first_cells(pieces, piece) if past else (np.zeros(0, np.int32), piece)
    old = past.coarse if past else None
    window = past.window(label, piece, count) if past else None
    if window is None:
        every, old = (everywhere,) * (1 + SWEEPS), None
        window = Window(everywhere, every, every, everywhere, np.ones(count, np.bool_))
    ways, mixes = window.resistances, window.weights
    over_strips(mark_links, window.ties.size, window.ties, *finest.links, piece.reshape(size), tie)
    parallel = (w + np.roll(w, 1, d) if size[d] == 2 else w for d, w in enumerate(finest.links))
    over_strips(find_grid_resistances, ways[0].size, ways[0], tie, *parallel, finest.diag, r)
    r, spare = shorten_grid(tie, r, np.ones((3, 1, 1, size[2]), kind), spare, ways[1:])
    over_strips(find_grid_weights, mixes[0].size, mixes[0], tie, r, per, a)
    a, spare = shorten_grid(tie, a, per, spare, mixes[1:])
    steps, stored = (1.0, np.float64) if kind == np.float64 else (65535.0, np.uint16)
    low, high = (old.low, old.high) if old else (np.empty((3, *size), stored), np.empty((3, *size), stored))
    over_strips(store_grid_weights, mixes[-1].size, mixes[-1], tie, a, per, kind(steps), r, low, high)
    over_strips(find_paths, window.paths.size, window.paths, tie, r)
    facts = held, total, linked = np.empty(count), np.empty(count), np.empty(count, np.bool_)
    chosen, same = np.flatnonzero(window.pieces), np.flatnonzero(~window.pieces)
    if old:
        source = old.piece[cells[same]]
        for now, before in zip(facts, old.facts, strict=True):
            now[same] = before[source]
    ground = *(g.ravel() for g in finest.ground), finest.shift.ravel(), finest.grounded
    over_strips(describe_pieces, chosen.size, chosen, pieces, per.reshape(3, -1), *ground, diag, *facts)
    keep = (held < HELD * total) & (linked | (held > 0))
    kept, m = np.flatnonzero(keep), int(np.count_nonzero(keep))
    new = np.where(keep, np.cumsum(keep) - 1, -1).astype(np.int32)
    fresh = kept[window.pieces[kept]]
    rest = place, on_axes, shift, sums = empty_rest(fresh.size)
    where = pieces, piece.view(np.uint32), tie.reshape(3, -1), np.array(size), finest.strides, finest.wraps
    args = fresh, *where, (*ground, diag), r.reshape(3, -1), np.array(factors), new, held, rest
    links = joined_rows(collect_strips(sum_grid_paths, fresh.size, *args)) if fresh.size else EMPTY_ROWS
    if old:
        links, (place, on_axes, shift, sums) = splice_links(old, window, cells, piece, kept, new, links, rest)
    part = np.empty(size, np.int32)
    over_strips(place_cells, part.size, piece, new, m, part.ravel())
    nx, ny, nz = (-(-n // f) for n, f in zip(size, factors, strict=True))
    begin, index, w, axis = links
    level = Level((nx, ny, nz), place, begin, index, w, axis, on_axes, shift, sums)
    if past:
        past.coarse = Coarse(label, piece, cells, facts, kept, new, level, low, high)
    return GridTransfer(part, low, high, 1 / steps, m), level, total[kept]


EMPTY_ROWS = np.zeros(1, np.uint32), np.zeros(0, np.uint32), np.zeros(0), np.zeros(0, np.uint8)


def empty_rest(m: int) -> tuple[Array, Array, Array, Array]:
    """Return room for places, ground, shift and diagonal of m coarse unknowns."""
    return np.empty(m, np.int32), np.empty((m, 3)), np.empty(m), np.empty(m)


def splice_links(
    old: Coarse, window: Window, cells: Array, piece: Array, kept: Array, new: Array, links: Any, rest: Any
) -> tuple[Any, Any]:
    """Return links and the rest of the first graph: computed anew where pieces were, else those of the last set-up."""
    anew, m, before = window.pieces[kept], kept.size, old.level
    source = np.empty(m, np.int64)
    source[anew] = np.arange(np.count_nonzero(anew))
    past = old.new[old.piece[cells[kept[~anew]]]]
    source[~anew] = -1 - past.astype(np.int64)
    counts = np.empty(m, np.int64)
    counts[anew], counts[~anew] = np.diff(links[0]), np.diff(before.begin)[past]
    begin = np.zeros(m + 1, np.uint32)
    np.cumsum(counts, out=begin[1:])
    rows = begin, np.empty(begin[-1], np.uint32), np.empty(begin[-1]), np.empty(begin[-1], np.uint8)
    number = new[piece[old.cells[old.kept]]].astype(np.uint32)
    over_strips(splice_rows, m, source, links, (before.begin, before.index, before.w, before.axis), number, rows)
    whole = empty_rest(m)
    parts = before.place, before.ground, before.shift, before.diag
    for all_of, some, former in zip(whole, rest, parts, strict=True):
        all_of[anew], all_of[~anew] = some, former[past]
    return rows, whole


def first_level(
    finest: Finest, shrinks: float, kind: Any, past: Past | None = None
) -> tuple[GridTransfer, Level, Array]:
    """Coarsen the finest level; merge harder where it would hardly shrink.

    past : what earlier set-ups left, from which only what has changed is computed, with the same bits
    """
    factors = balanced_factors(link_means(finest), finest.size)
    if past:
        past.compare(finest, (finest.size, factors, kind, tuple(finest.wraps), finest.grounded))
    piece, count = partition_grid(finest, factors, MERGE, past)
    if count > shrinks * np.count_nonzero(finest.diag):
        piece, count = partition_grid(finest, factors, 0.0, past)
    elif past:
        past.partitions.pop(0.0, None)  # it would miss what changes from now until it is asked for again
    found = coarsen_grid(finest, factors, piece, count, kind, past)
    if past:
        past.finest = finest
    return found
