"""Which coarsening suits an operator: a look at some rows and boxes of cells, for a fraction of the price of a set-up.

Grid levels with the shipped network take one unknown per block and one choice of axes per level, which is all that
smooth media and obstacles need. Pieces take fewer iterations, often by a factor, where the axis that couples best
differs from place to place (stretched meshes, layers, images), where links of one cell along one axis differ by decades
(channels, reservoirs), and where walls keep long corridors apart that a coarse cell would join (mazes). What makes
trouble are surfaces and seams, whose share of all cells falls as the grid is refined: shares count times the cells per
axis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...kernels.cpu.compile import kernel
from .grid import Array

ROWS, CELLS = 400, 50_000  # rows along the last axis, and cells in boxes, that are looked at
LEAN = 3.0  # links along one axis against another, both relative to their means, from which on a cell leans to an axis
CONTRAST = 1e3  # of the two links of a cell along one axis, from which on it is a jump
PART = 0.1  # of the largest component in a box: smaller ones are pores, not corridors
# from which on pieces are taken; chosen on the families and field cases of docs/studies/neural-multigrid.md
LEANING, JUMPS, TORN = 9.0, 0.9, 0.3


class Survey(NamedTuple):
    """Shares of cells that lean to an axis, and of cells with a jump, times cells per axis; share of torn boxes.

    Examples
    --------
    >>> Survey(0.5, 0.0, 0.1).wants_pieces, Survey(20.0, 0.0, 0.0).wants_pieces
    (False, True)
    """

    leaning: float
    jumps: float
    torn: float

    @property
    def wants_pieces(self) -> bool:
        """Whether pieces are the better choice."""
        return self.leaning >= LEANING or self.jumps >= JUMPS or self.torn >= TORN


@kernel(parallel=False)
def look_at_rows(w0, w1, w2, rows, means, lean, contrast, counts):
    """Count cells with links in some rows along the last axis, those that lean to an axis, those with a jump.

    means : relative to which links are taken; if they come in as 0, only sums and numbers of links are added to counts
    """
    nx, ny, nz = w0.shape
    summing = means[0] == 0 and means[1] == 0 and means[2] == 0
    for row in rows:
        i, j = row // ny, row % ny
        down_x, down_y = (i - 1 if i > 0 else nx - 1), (j - 1 if j > 0 else ny - 1)
        for k in range(nz):
            least, most, jump = np.inf, 0.0, False
            for d in range(3):
                if d == 0:
                    low, high = float(w0[down_x, j, k]), float(w0[i, j, k])
                elif d == 1:
                    low, high = float(w1[i, down_y, k]), float(w1[i, j, k])
                else:
                    low, high = float(w2[i, j, k - 1 if k > 0 else nz - 1]), float(w2[i, j, k])
                if summing:
                    counts[d] += high
                    counts[3 + d] += high > 0
                    continue
                if low > 0 and high > 0:
                    both = low + high
                    jump |= max(low, high) > contrast * min(low, high)
                else:
                    both = 2 * max(low, high)
                if both > 0:
                    least, most = min(least, both / means[d]), max(most, both / means[d])
            if most > 0:
                counts[0] += 1
                counts[1] += most > lean * least
                counts[2] += jump


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
    rows, sums, counts = pick(size[0] * size[1], ROWS), np.zeros(6), np.zeros(6)
    look_at_rows(*links, rows, np.zeros(3), LEAN, CONTRAST, sums)
    means = np.where(sums[:3] > 0, sums[:3], 1) / np.maximum(sums[3:], 1)
    look_at_rows(*links, rows, means, LEAN, CONTRAST, counts)
    leaning, jumps = counts[1:3] / max(counts[0], 1) * per_axis
    return Survey(float(leaning), float(jumps), torn)


def survey_operator(A: Any, codes: Any) -> Survey:
    """Look at a `Poisson` operator; codes : the same in bytes, if it has one conductance."""
    if codes is not None:
        return take_survey(codes.links, codes.diag, varying=False)
    return take_survey(tuple(w.numpy() for w in A.links), A.diag.numpy(), varying=True)
