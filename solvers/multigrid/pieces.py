"""Coarse unknowns from strongly connected pieces of blocks: which unknowns belong together, and the coarse operator.

A level is a `Graph`: unknowns sit in cells of a grid (several may share a cell), links know their axis. Blocks of two
cells per axis are split into *pieces*, and every piece becomes one coarse unknown. A block of a smooth medium is one
piece; a wall, a channel, an inclusion, a thin layer or a stretched mesh splits it, so that coarsening follows the
medium and is semi-coarsening wherever, and along whichever axis, it has to be. No number here is learned. With D_i the
diagonal and w_ij the conductances of a level:

1. inside a block clusters are merged, the pair of greatest  W / min(D, D')  first, while that is at least `MERGE`
   (W: the links between both, D: their diagonals summed);
2. a cell whose best link leaves its block, and is `FOREIGN` times its best link inside, does not give itself away;
3. a piece joins the piece of another block to which it has at least `JOIN` of its diagonal; nobody joins a piece that
   moves itself, so the result depends on no order; `ROUNDS` rounds;
4. resistance r from a cell to the centre of its piece along an axis: the links of the cell inside the piece on that
   axis, each shared between its ends in inverse proportion to the diagonals: 1/r = sum of w_ij (D_i + D_j) / D_j.
   Parallel links on other axes count in w_ij;
5. no cell is further from its centre than by way of a neighbour in its piece on another axis, in r and in the weight a;
   without this, P tears apart cells that are tied strongly;
6. a piece that is held to p = 0 by at least `HELD` of its diagonal gets no coarse unknown: smoothing settles it.

Interpolation follows the circuit of the resistor rule (`coarsening`). Per axis d, for a cell i with links w_out = sum
of w_ij that leave its piece on d, and r_out the mean of r_j over them:

    a_i = r_i / (r_i + 1/w_out + r_out),      P = L_z L_y L_x E,      (L_d v)_i = (1 - a_i) v_i + a_i mean(v_j),

with E copying the value of a piece to its cells. A link that leaves the piece becomes 1 / (r_i + 1/w_ij + r_j), summed
per pair of pieces and axis; conductances to p = 0 are put in series with r_i; shifts add up. So the coarse operator is
a sum of conductances again.

The cycle over these levels is symmetric positive definite for **any** partition and any weights a: the proof of
`krylearn.solvers.NeuralMultigrid` uses the smoother's contraction in the energy norm of each level, which Gershgorin's
theorem gives for every diagonally dominant operator with links >= 0, on graphs as on grids, and asks nothing of P but
that restriction is its transpose. A coarse operator needs no Galerkin property, only to be SPD or semidefinite itself.

Pieces of arbitrary shape by strength: Brezina, Vanek and others, smoothed aggregation; by the ratio of links and
diagonals: Ruge and Stueben. Merging inside blocks of a grid, and coarse links that keep their axis, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from .coarsening import balanced_factors

Array = np.ndarray[Any, Any]

# all found on the families and field cases of docs/neural-multigrid.md; the best of seven pairs per case is 9 % better
MERGE, FOREIGN, JOIN, HELD = 0.1, 2.0, 0.3, 0.5
ROUNDS, SWEEPS = 3, 2
LARGEST = 64  # unknowns of a block that are compared with one another: more of them are merged in groups


@dataclass(frozen=True)
class Graph:
    """Conductances between n unknowns in cells of a grid.

    cell : (n, 3) integer coordinates; row, col, w, axis : links, each in both directions; ground : (n, 3) conductance
    to p = 0 per axis; shift : (n,) what else adds to the diagonal
    """

    cell: Array
    row: Array
    col: Array
    w: Array
    axis: Array
    ground: Array
    shift: Array

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return len(self.cell)

    @cached_property
    def diag(self) -> Array:
        """The diagonal: links, ground and shift."""
        return np.bincount(self.row, self.w, self.n) + self.ground.sum(1) + self.shift

    def matrix(self) -> sp.csr_array:
        """Assemble the operator; parallel links on several axes add up."""
        links = sp.coo_array((self.w, (self.row, self.col)), shape=(self.n, self.n))
        return sp.csr_array(sp.diags_array(self.diag) - links.tocsr())


def graph_of(A: Any, scale: float = 1.0) -> tuple[Graph, Array]:
    """Return the graph of a `Poisson` operator times a number, and the flat cells of its unknowns on the internal grid.

    Examples
    --------
    >>> from krylearn.pde import Poisson
    >>> graph, cells = graph_of(Poisson.from_coefficients(np.ones((2, 2)), boundary="neumann"))
    >>> graph.n, graph.matrix().toarray().tolist()[0], cells.tolist()
    (4, [2.0, -1.0, -1.0, 0.0], [0, 1, 2, 3])
    """
    size = tuple(A.unknown.shape)
    # cells without an equation (solid, fixed, uncoupled) are no unknowns: a graph has no holes
    mask = A.diag.numpy(force=True) > 0
    index = np.full(size, -1)
    index[mask] = np.arange(mask.sum())
    parts = []
    for d in range(3):
        # links[d] leads from a cell to the next along d; a periodic axis of one or two cells may lead back to itself
        w, other = A.links[d].double().numpy(force=True), np.roll(index, -1, d)
        some = (w > 0) & (index >= 0) & (other >= 0) & (index != other)
        i, j, values = index[some], other[some], w[some] * scale
        parts += [(i, j, values, np.full(i.size, d)), (j, i, values, np.full(i.size, d))]
    row, col, w, axis = (np.concatenate(v) for v in zip(*parts, strict=True))
    ground = np.stack([np.broadcast_to(g.double().numpy(force=True), size)[mask] for g in A.ground], 1) * scale
    shift = np.broadcast_to(A.shift.double().numpy(force=True), size)[mask] * scale
    return Graph(np.argwhere(mask), row, col, w, axis, ground, shift), np.flatnonzero(mask)


# --- partition --------------------------------------------------------------------------------------------------------


def renumber(labels: Array) -> Array:
    """Return the labels counted from 0, in the order in which they first occur.

    Examples
    --------
    >>> renumber(np.array([7, 3, 7, 5])).tolist()
    [0, 1, 0, 2]
    """
    _, first, index = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(first.size)
    return rank[index.ravel()]


def find_factors(graph: Graph) -> tuple[int, int, int]:
    """Return 1 or 2 per axis: axes whose mean link is far below the strongest one wait (`coarsening.SEMI`)."""
    size = graph.cell.max(0) + 1
    counts = np.bincount(graph.axis, minlength=3)
    means = np.bincount(graph.axis, graph.w, 3) / np.maximum(counts, 1)
    return balanced_factors([float(m) for m in means], [int(n) for n in size])


def find_blocks(cell: Array, factors: tuple[int, int, int]) -> tuple[Array, Array]:
    """Return the coarse cell of every unknown, and the block (or group of at most `LARGEST` in it) that it belongs to.

    Examples
    --------
    >>> find_blocks(np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]]), (2, 2, 2))[1].tolist()
    [0, 0, 1]
    """
    coarse = cell // np.array(factors)
    block = renumber(np.ravel_multi_index(tuple(coarse.T), tuple(coarse.max(0) + 1)))
    sizes = np.bincount(block)
    # several pieces of one block share its cell, so blocks fill up from level to level: cut them into groups
    if sizes.max() > LARGEST:
        order = np.argsort(block, kind="stable")
        position = np.empty_like(block)
        position[order] = np.arange(block.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        block = renumber(block * (int(sizes.max()) // LARGEST + 1) + position // LARGEST)
    return coarse, block


def find_pieces(graph: Graph, block: Array, merge: float = MERGE) -> Array:
    """Return the piece of every unknown, counted from 0: steps 1 to 3."""
    piece = renumber(merge_inside(graph, block, merge))
    for _ in range(ROUNDS):
        target = find_joins(graph, piece)
        if (target == np.arange(target.size)).all():
            break
        piece = renumber(target[piece])
    return piece


def merge_inside(graph: Graph, block: Array, merge: float) -> Array:
    """Return for every unknown a representative of its cluster inside its block: steps 1 and 2."""
    n, inside = graph.n, block[graph.row] == block[graph.col]
    within, beyond = np.zeros(n), np.zeros(n)
    np.maximum.at(within, graph.row[inside], graph.w[inside])
    np.maximum.at(beyond, graph.row[~inside], graph.w[~inside])
    # step 2; a level that must shrink (merge = 0) cannot afford to wait for other blocks
    foreign = beyond > (FOREIGN * within if merge else np.inf)
    # unknowns sorted by block: `position` is an unknown's place in its block, `first` where the block begins
    order, sizes = np.argsort(block, kind="stable"), np.bincount(block)
    first = np.cumsum(sizes) - sizes
    position = np.empty(n, np.int64)
    position[order] = np.arange(n) - np.repeat(first, sizes)
    root = np.arange(n)
    for low, high in ((2, 8), (9, 16), (17, 32), (33, LARGEST)):  # blocks of similar size at once, so arrays stay small
        chosen = np.flatnonzero((sizes >= low) & (sizes <= high))
        if not chosen.size:
            continue
        k = int(sizes[chosen].max())
        number = np.full(sizes.size, -1)
        number[chosen] = np.arange(chosen.size)
        # one dense k by k matrix of links per block; places beyond a block's end keep the diagonal 1 and no links
        W, sums, kept = np.zeros((chosen.size, k, k)), np.ones((chosen.size, k)), np.ones((chosen.size, k), bool)
        mine = number[block] >= 0
        sums[number[block[mine]], position[mine]] = graph.diag[mine]
        kept[number[block[mine]], position[mine]] = foreign[mine]
        links = inside & mine[graph.row]
        i, j = graph.row[links], graph.col[links]
        np.add.at(W, (number[block[i]], position[i], position[j]), graph.w[links])
        # from a place in the block back to an unknown
        representative = merge_greedily(W, sums, kept, merge)
        members = first[block[mine]] + representative[number[block[mine]], position[mine]]
        root[mine] = order[members]
    return root


def merge_greedily(W: Array, diag: Array, foreign: Array, merge: float = MERGE) -> Array:
    """Merge clusters of many blocks at once; return the cluster of every member (blocks, k).

    W : (blocks, k, k) links; diag : (blocks, k); foreign : members that do not give themselves away. All change.

    Examples
    --------
    >>> W = np.array([[[0, 5, 0.1], [5, 0, 0.1], [0.1, 0.1, 0]]])
    >>> merge_greedily(W, np.array([[6.0, 6.0, 9.0]]), np.zeros((1, 3), bool)).tolist()
    [[0, 0, 2]]
    """
    blocks, k = diag.shape
    cluster = np.tile(np.arange(k), (blocks, 1))
    active, later = np.arange(blocks), np.arange(k)[:, None] > np.arange(k)
    while active.size:
        w, d = W[active], diag[active]
        # the lighter of two gives itself to the heavier; of equal ones, the later
        lighter = (d[:, :, None] < d[:, None, :]) | ((d[:, :, None] == d[:, None, :]) & later)
        strength = np.where(lighter & ~foreign[active][:, :, None], w / d[:, :, None], 0).reshape(active.size, -1)
        pair = strength.argmax(1)
        greatest = strength[np.arange(active.size), pair]
        go = (greatest > 0) & (greatest >= merge)
        active, light, heavy = active[go], pair[go] // k, pair[go] % k
        # the heavy cluster inherits the links of the light one, and nobody sees the light one again
        W[active, heavy] += W[active, light]
        W[active, :, heavy] = W[active, heavy]
        W[active, light] = 0
        W[active, :, light] = 0
        W[active, heavy, heavy] = 0
        diag[active, heavy] += diag[active, light]
        cluster[active] = np.where(cluster[active] == light[:, None], heavy[:, None], cluster[active])
    return cluster


def find_joins(graph: Graph, piece: Array) -> Array:
    """Return the piece that every piece joins, itself if none: one round of step 3."""
    m = int(piece.max()) + 1
    best, value = np.zeros(m, np.int64), np.zeros(m)
    p, q = piece[graph.row], piece[graph.col]
    leaves = p != q
    W = sp.coo_array((graph.w[leaves], (p[leaves], q[leaves])), shape=(m, m)).tocsr().tocoo()
    # sum links per pair of pieces, then take every piece's strongest partner
    order = np.lexsort((W.col, -W.data, W.row))  # the strongest first; of equal ones, the first
    row, first = np.unique(W.row[order], return_index=True)
    best[row], value[row] = W.col[order][first], W.data[order][first]
    return choose_targets(best, value, np.bincount(piece, graph.diag, m))


def choose_targets(best: Array, value: Array, total: Array) -> Array:
    """Return the piece that every piece joins, itself if none.

    best, value : the piece with which a piece has the most links, and their sum; total : diagonals, summed

    Examples
    --------
    >>> choose_targets(np.array([1, 0, 1]), np.array([5.0, 5.0, 1.0]), np.array([9.0, 9.0, 2.0])).tolist()
    [0, 0, 2]
    """
    target = np.arange(best.size)
    wants = (value > 0) & (value >= JOIN * total)
    wants &= ~(wants[best] & (best[best] == target) & (target < best))  # of two that want one another the first stays
    return np.where(wants & ~wants[best], best, target)


# --- coarse operator --------------------------------------------------------------------------------------------------


def inverse(x: Array) -> Array:
    """Return 1/x where x > 0, else 0."""
    return np.where(x > 0, 1 / np.where(x > 0, x, 1), 0)


def coarsen(graph: Graph, piece: Array, coarse_cell: Array) -> tuple[sp.csr_array, Graph]:
    """Return the prolongation P (n, m) and the graph of the next level for a partition: steps 4 to 6.

    piece : (n,) of every unknown, any partition; coarse_cell : (n, 3) where an unknown lies on the next grid

    Examples
    --------
    >>> from krylearn.pde import Poisson
    >>> graph, _ = graph_of(Poisson.from_coefficients(np.ones((1, 4)), boundary="neumann"))
    >>> P, below = coarsen(graph, np.array([0, 0, 1, 1]), graph.cell // 2)
    >>> P.toarray().round(12).tolist(), below.w.round(12).tolist()
    ([[1.0, 0.0], [0.8, 0.2], [0.2, 0.8], [0.0, 1.0]], [0.6, 0.6])
    """
    n, m, i, j, w, axis, diag = graph.n, int(piece.max()) + 1, graph.row, graph.col, graph.w, graph.axis, graph.diag
    own = piece[i] == piece[j]
    r = resistances(graph, own)
    weights, out = np.zeros((3, n)), np.zeros((3, n))
    for d in range(3):
        leaves = ~own & (axis == d)
        out[d] = np.bincount(i[leaves], w[leaves], n)
        # on the other side of the links that leave: resistance to the centres there, averaged over them
        r_out = np.bincount(i[leaves], w[leaves] * r[d][j[leaves]], n) * inverse(out[d])
        conductance = np.where(out[d] > 0, inverse(r[d] + inverse(out[d]) + r_out), 0)
        # a = r / (r + 1/w_out + r_out), as the voltage at the cell in a chain of three resistors
        weights[d] = shorten(conductance * r[d], conductance, graph, own & (axis != d))
        # where step 5 made the weight smaller, the resistance follows: both describe one circuit
        r[d] = np.where(conductance > 0, np.minimum(r[d], weights[d] * inverse(conductance)), r[d])
    # step 6: what a constant on the piece costs, against what its cells weigh
    held, total = np.bincount(piece, graph.shift + graph.ground.sum(1), m), np.bincount(piece, diag, m)
    linked = np.bincount(piece[i[~own]], minlength=m) > 0
    keep = (held < HELD * total) & (linked | (held > 0))  # one without links and ground is a null vector
    P = sp.csr_array((np.ones(n), (np.arange(n), piece)), shape=(n, m))[:, np.flatnonzero(keep)]
    for d in range(3):
        leaves = ~own & (axis == d)
        share = (weights[d] * inverse(out[d]))[i[leaves]] * w[leaves]
        mean = sp.csr_array((share, (i[leaves], j[leaves])), shape=(n, n))
        # L_d acts after those of the axes before it, so corners are reached too
        P = sp.diags_array(1 - weights[d]) @ P + mean @ P
    return sp.csr_array(P), coarse_graph(graph, piece, coarse_cell, r, keep, held)


def shorten(x: Array, per: Array, graph: Graph, ties: Array) -> Array:
    """Return x where no cell lies further than by way of a neighbour, x_j + per_i / w_ij, over some links: step 5."""
    i, j, w = graph.row[ties], graph.col[ties], graph.w[ties]
    for _ in range(SWEEPS):
        y = x.copy()
        np.minimum.at(y, i, x[j] + per[i] / w)
        x = y
    return x


def resistances(graph: Graph, own: Array) -> Array:
    """Return (3, n) resistances from each unknown to the centre of its piece per axis, without step 5 for the weights.

    own : which links lie inside a piece
    """
    i, j = graph.row, graph.col
    # two cells may be linked along several axes at once: the current takes all of them
    pair = renumber(i * graph.n + j)
    parallel = np.bincount(pair, graph.w)[pair]
    shared = parallel * (graph.diag[i] + graph.diag[j]) / graph.diag[j]
    r = np.zeros((3, graph.n))
    for d in range(3):
        along = own & (graph.axis == d)
        r[d] = inverse(np.bincount(i[along], shared[along], graph.n))
        r[d] = shorten(r[d], np.ones(graph.n), graph, own & (graph.axis != d))
    return r


def coarse_graph(graph: Graph, piece: Array, coarse_cell: Array, r: Array, keep: Array, held: Array) -> Graph:
    """Sum what leaves the pieces, per pair of pieces and axis; ground what leads to pieces without a coarse unknown."""
    m, own = keep.size, piece[graph.row] == piece[graph.col]
    i, j, w, axis = graph.row[~own], graph.col[~own], graph.w[~own], graph.axis[~own]
    # one coarse link per ordered pair of pieces and axis: the paths through its fine links are parallel
    key, where = np.unique((piece[i] * m + piece[j]) * 3 + axis, return_inverse=True)
    path = np.bincount(where.ravel(), 1 / (r[axis, i] + 1 / w + r[axis, j]), key.size)
    k, l, axis = key // 3 // m, key // 3 % m, key % 3
    ground = np.zeros((m, 3))
    for d in range(3):
        g = graph.ground[:, d]
        ground[:, d] = np.bincount(piece, inverse(inverse(g) + np.where(g > 0, r[d], 0)), m)
    # a neighbour that is held to zero acts as ground, through the path and its own hold in series
    lost, stay = keep[k] & ~keep[l], keep[k] & keep[l]
    np.add.at(ground, (k[lost], axis[lost]), 1 / (1 / path[lost] + 1 / held[l[lost]]))
    place = np.zeros((m, 3), np.int64)
    order = np.argsort(graph.diag, kind="stable")
    place[piece[order]] = coarse_cell[order]  # where its heaviest unknown is
    new = np.cumsum(keep) - 1
    shift = np.bincount(piece, graph.shift, m)[keep]
    return Graph(place[keep], new[k[stay]], new[l[stay]], path[stay], axis[stay], ground[keep], shift)
