"""Which coarsening suits an operator: a look at some rows and boxes of cells, for a fraction of the price of a set-up.

Grid levels with the shipped network take one unknown per block and one choice of axes per level, which is all that
smooth media and obstacles need. Pieces take fewer iterations, often by a factor, where the axis that couples best
differs from place to place (stretched meshes, layers, images), where links of one cell along one axis differ by decades
(channels, reservoirs), and where walls keep long corridors apart that a coarse cell would join (mazes). A mesh
that grows is the same trouble however fine it is: leaning cells count times the cells per axis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...kernels.cpu.compile import kernel, row_kernel
from .partition import Array

ROWS, CELLS = 400, 50_000  # rows along the last axis, and cells in boxes, that are looked at
LEAN = 3.0  # links along one axis against another, both relative to their means, from which on a cell leans to an axis
CONTRAST = 1e3  # of the two links of a cell along one axis, from which on it is a jump
PART = 0.1  # of the largest component in a box: smaller ones are pores, not corridors
# from which on pieces are taken; chosen on the families and field cases of docs/studies/neural-multigrid.md, by time: a
# set-up of pieces costs 1.5 to 2.5 of the network's (more where blocks fall apart) and a step twice as much, so thin
# walls, blocks (jumps 0.016 to 0.025) and cellwise media keep the network; reservoirs have jumps of 0.02 to 0.1, the
# less the finer the grid
LEANING, JUMPS, TORN = 9.0, 0.028, 0.35
# where cells lean as their neighbours do, if only a few, fewer jumps will do: reservoirs of 128³ to 160³ have jumps of
# 0.021 to 0.048 and lean by 0.15 to 0.5, blocks jump as often and do not lean; grids need 55 iterations there, not 18
FEWER_JUMPS, SOME_LEANING = 0.0195, 0.1
# by how much less will do where a set-up serves many solves: then cellwise media (17 iterations against 11 at 32³) get
# pieces too, which cost 1.7 to 2.3 times the network's set-up and one solve; smooth media need as many either way
LESS_LEANING = 5


class Survey(NamedTuple):
    """Share of cells that lean to an axis with a neighbour, times cells per axis; of cells with a jump; of torn boxes.

    Examples
    --------
    >>> Survey(0.5, 0.0, 0.1).prefers_pieces(), Survey(20.0, 0.0, 0.0).prefers_pieces()
    (False, True)
    >>> Survey(2.0, 0.0, 0.1).prefers_pieces(reuse=5)
    True
    """

    leaning: float
    jumps: float
    torn: float

    def prefers_pieces(self, reuse: int = 1) -> bool:
        """Whether pieces are the better choice for so many solves per set-up."""
        leaning = LEANING / min(reuse, LESS_LEANING)
        return self.leaning >= leaning or self.jumps >= self._fewest_jumps or self.torn >= TORN

    @property
    def _fewest_jumps(self) -> float:
        return FEWER_JUMPS if self.leaning >= SOME_LEANING else JUMPS

    def explain(self, reuse: int = 1) -> str:
        """Say why, in words.

        Examples
        --------
        >>> Survey(20.0, 0.0, 0.0).explain()
        'cells lean to one axis as their neighbours do (20 per line of cells; from 9 on pieces pay)'
        """
        if self.prefers_pieces(reuse) and not self.prefers_pieces():
            return f"for {reuse} solves per set-up pieces pay, for one they would not"
        if self.leaning >= LEANING:
            count = f"{self.leaning:.0f} per line of cells; from {LEANING:.0f} on pieces pay"
            return f"cells lean to one axis as their neighbours do ({count})"
        if self.jumps >= self._fewest_jumps:
            share = f"links of {self.jumps:.0%} of the cells jump by {CONTRAST:g} along an axis"
            return f"{share} (from {self._fewest_jumps:.1%} on pieces pay)"
        if self.torn >= TORN:
            return f"walls tear {self.torn:.0%} of the boxes apart (from {TORN:.0%} on pieces pay)"
        return "neither layers, nor jumps, nor corridors enough for the dearer set-up of pieces"


@row_kernel
def links_of(w0, w1, w2, i, j, k, d):
    """Return the links of a cell with its lower and its upper neighbour along axis d, the box being wrapped."""
    nx, ny, nz = w0.shape
    if d == 0:
        return float(w0[i - 1 if i > 0 else nx - 1, j, k]), float(w0[i, j, k])
    if d == 1:
        return float(w1[i, j - 1 if j > 0 else ny - 1, k]), float(w1[i, j, k])
    return float(w2[i, j, k - 1 if k > 0 else nz - 1]), float(w2[i, j, k])


@row_kernel
def look_at_cell(w0, w1, w2, i, j, k, means, lean, contrast):
    """Return the axis that a cell leans to (-1: none), whether it has links, and whether they jump along an axis."""
    least, most, jump, axis = np.inf, 0.0, False, -1
    for d in range(3):
        low, high = links_of(w0, w1, w2, i, j, k, d)
        if low > 0 and high > 0:
            both = low + high
            jump |= max(low, high) > contrast * min(low, high)
        else:
            both = 2 * max(low, high)
        if both > 0:
            if both / means[d] > most:
                most, axis = both / means[d], d
            least = min(least, both / means[d])
    return axis if most > lean * least else -1, most > 0, jump


@kernel(parallel=False)
def add_up_links(w0, w1, w2, rows, sums):
    """Add the links of some rows along the last axis to sums[:3], by axis, and how many there are to sums[3:]."""
    ny, nz = w0.shape[1], w0.shape[2]
    for row in rows:
        for k in range(nz):
            for d in range(3):
                link = links_of(w0, w1, w2, row // ny, row % ny, k, d)[1]
                sums[d] += link
                sums[3 + d] += link > 0


@kernel(parallel=False)
def look_at_rows(w0, w1, w2, rows, means, lean, contrast, counts):
    """Count in some rows: cells with links, with a jump, and those that lean to an axis as a neighbour does.

    Neighbours along the row and across it are counted apart, since layers may lie either way. Where every cell leans
    elsewhere (cellwise random media) pieces save iterations, but not enough for their set-up.

    means : mean link per axis, relative to which a cell leans
    """
    nx, ny, nz = w0.shape
    for row in rows:
        i, j = row // ny, row % ny
        x, y = (i - 1 if i > 0 else nx - 1, j) if nx > 1 else (i, j - 1 if j > 0 else ny - 1)
        before = -1  # the axis that the cell before leans to
        for k in range(nz):
            axis, linked, jump = look_at_cell(w0, w1, w2, i, j, k, means, lean, contrast)
            if linked:
                counts[0] += 1
                counts[1] += jump
                if axis >= 0:
                    counts[2] += axis == before
                    counts[3] += axis == look_at_cell(w0, w1, w2, x, y, k, means, lean, contrast)[0]
            before = axis


@kernel(parallel=False)
def look_at_boxes(w0, w1, w2, diag, boxes, edge, part, counts):
    """Count boxes with many unknowns, and those with a second component inside of at least a part of the largest one.

    boxes : (n, 3) first cells of boxes of at most `edge` cells per axis
    """
    nx, ny, nz = diag.shape
    parent, size = np.empty(edge**3, np.int32), np.empty(edge**3, np.int32)
    for b in range(boxes.shape[0]):
        i0, j0, k0 = boxes[b, 0], boxes[b, 1], boxes[b, 2]
        a, c, e = min(edge, nx - i0), min(edge, ny - j0), min(edge, nz - k0)
        for q in range(a * c * e):
            i, j, k = i0 + q // (c * e), j0 + q // e % c, k0 + q % e
            parent[q], size[q] = q, diag[i, j, k] > 0
            for d in range(3):
                if d == 0:
                    joined, other = i > i0 and w0[i - 1, j, k] > 0, q - c * e
                elif d == 1:
                    joined, other = j > j0 and w1[i, j - 1, k] > 0, q - e
                else:
                    joined, other = k > k0 and w2[i, j, k - 1] > 0, q - 1
                if joined:
                    u, v = q, other
                    while parent[u] != u:
                        parent[u] = parent[parent[u]]
                        u = parent[u]
                    while parent[v] != v:
                        parent[v] = parent[parent[v]]
                        v = parent[v]
                    if u != v:
                        parent[u] = v
                        size[v] += size[u]
        first, second, unknowns = 0, 0, 0
        for q in range(a * c * e):
            if parent[q] == q:
                unknowns += size[q]
            if parent[q] == q and size[q] > second:
                second = size[q]
                if second > first:
                    first, second = second, first
        full = min(edge, nx) * min(edge, ny) * min(edge, nz)
        if 4 * unknowns >= full:  # boxes at the rim, and nearly empty ones, say little
            counts[0] += 1
            counts[1] += second >= part * first


def pick(count: int, most: int) -> Array:
    """Return at most so many of `count` numbers, spread over them without a pattern, the same ones each time.

    Examples
    --------
    >>> pick(4, 9).tolist(), len(set(pick(1000, 3).tolist()))
    ([0, 1, 2, 3], 3)
    """
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(20240).choice(count, most, replace=False))


def take_survey(links: tuple[Array, ...], diag: Array, varying: bool) -> Survey:
    """Look at an operator given by links and diagonal on its grid, as numbers or as bytes.

    varying : whether links have several conductances; else only boxes are looked at
    """
    size = diag.shape
    links = tuple(np.ascontiguousarray(w) for w in links)
    per_axis = float(np.prod(size)) ** (1 / max(sum(n > 1 for n in size), 1))
    edge = 16 if per_axis <= 128 else 32
    blocks = tuple(-(-n // edge) for n in size)
    chosen = pick(int(np.prod(blocks)), CELLS // int(np.prod(np.minimum(size, edge))))
    boxes, found = np.stack(np.unravel_index(chosen, blocks), 1) * edge, np.zeros(2)
    look_at_boxes(*links, diag, boxes, edge, PART, found)
    torn = found[1] / max(found[0], 1)
    if not varying:
        return Survey(0.0, 0.0, torn)
    rows, sums, counts = pick(size[0] * size[1], ROWS), np.zeros(6), np.zeros(4)
    add_up_links(*links, rows, sums)
    means = np.where(sums[:3] > 0, sums[:3], 1) / np.maximum(sums[3:], 1)
    look_at_rows(*links, rows, means, LEAN, CONTRAST, counts)
    jumps, along, across = counts[1:] / max(counts[0], 1)
    return Survey(float(max(along, across)) * per_axis, float(jumps), torn)


def survey_operator(A: Any, codes: Any) -> Survey:
    """Look at a `Poisson` operator; codes : the same in bytes, if it has one conductance."""
    if codes is not None:
        return take_survey(codes.links, codes.diag, varying=False)
    return take_survey(tuple(w.numpy() for w in A.links), A.diag.numpy(), varying=True)
