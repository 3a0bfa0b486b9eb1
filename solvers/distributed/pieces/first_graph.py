"""The first graph of pieces, every rank finding the pieces of its own cells on a box by the code of one process.

Which cells a piece has depends on links a few blocks away: up to three rounds of joining across block faces. A rank
partitions a box of its own cells and `PAD` around them, and then takes from its neighbours what these found for theirs;
where both differ near the cut, or a piece reaches too far over it, all ranks start again on wider boxes. A piece is
named by its lowest cell in C order, which is also how one process orders pieces, so that equal ties are broken equally:
partition, weights and the first graph are those of one process in every bit.

The graph is then gathered: every rank holds it and coarsens it further as one process does. It has a fifth to an eighth
of the unknowns where blocks stay whole, but half where a mesh is stretched along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...kernels.cpu.compile import over_strips
from ...multigrid.coarsening import balanced_factors
from ...multigrid.graph_hierarchy import SHRINKS
from ...multigrid.pieces import MERGE
from ...multigrid.setup_pieces.graph_level import Level
from ...multigrid.setup_pieces.grid_level import Finest, coarsen_grid, partition_grid, sum_links
from ..builders import Fields
from ..halo import Halo, bring
from ..partition import Array, Box, Partition

PAD = 16
"""Cells around own ones that the partition looks at: blocks, and three rounds in which pieces join."""
REACH = 8
"""Cells from the end of a box in which numbers of steps 4 to 6 may be wrong."""
AGREE = 2
"""Cells around own ones in which a rank and its neighbour must have found the same pieces."""


@dataclass
class FirstGraph:
    """The finest level on a rank's box, and the graph below it, which every rank holds.

    part : on the box, the unknown of the graph that each cell belongs to, as one process numbers them; level.n if none
    low, high : weights times 1/unit; total : see `graph_stages`; unknowns : of the finest level
    first, order : this rank's unknowns of the graph are order[first : first + count] if the graph is cut by ranks
    """

    box: Box
    finest: Finest
    part: Array
    low: Array
    high: Array
    unit: float
    level: Level
    total: Array
    unknowns: int
    order: Array
    first: int
    count: int


class NarrowBoxError(Exception):
    """Raised on all ranks where a box does not show enough of the pieces."""


def build_first_graph(part: Partition, fields: Fields, factor: float, kind: Any) -> FirstGraph:
    """Return the first graph of conductances times `factor`. Collective.

    kind : np.float32 or np.float64, of the cycle
    """
    pad = PAD
    while True:
        try:
            return _first_graph(part, fields, factor, kind, pad)
        except NarrowBoxError:
            pad *= 2


def _first_graph(part: Partition, fields: Fields, factor: float, kind: Any, pad: int) -> FirstGraph:
    comm, box = part.comm, part.padded(pad)
    finest = finest_on_box(part, box, fields, factor)
    own = finest.links[:, *box.own], finest.diag[box.own]
    sums = comm.allreduce(np.array([*(w.sum() for w in own[0]), *map(np.count_nonzero, own[0])]))
    factors = balanced_factors([float(m) for m in sums[:3] / np.maximum(sums[3:], 1)], part.size)
    unknowns = int(comm.allreduce(int(np.count_nonzero(own[1]))))
    number = flat_numbers(part, box)
    label, count = labels_of_pieces(comm, finest, box, number, factors, MERGE)
    if count > SHRINKS * unknowns:
        label, count = labels_of_pieces(comm, finest, box, number, factors, 0.0)
    there = bring(part, box, label[box.own].astype(np.float64)).astype(np.int64)
    near = tuple(slice(max(a.start - AGREE, 0), a.stop + AGREE) for a in box.axes)
    differ = bool(part.count and (label[near] != there[near]).any())
    names, piece = np.unique(there, return_inverse=True)
    if names.size and names[0] < 0:
        names, piece = names[1:], piece - 1
    piece = piece.ravel().astype(np.int32)
    owned = np.zeros(names.size + 1, np.bool_)  # pieces whose lowest cell is this rank's
    starts = there[box.own][there[box.own] == number[box.own]]
    owned[np.searchsorted(names, starts)] = True
    far = owned[np.where(piece >= 0, piece, names.size)].reshape(box.shape) & near_ends(part, box)
    _widen_together(comm, differ or bool(far.any()))
    transfer, level, total = coarsen_grid(finest, factors, piece, names.size, kind)
    unknown_of = transfer.part.view(np.int32)
    kept = np.empty(level.n, np.int64)  # the piece of every unknown of the graph
    some = unknown_of < level.n
    kept[unknown_of[some]] = piece.reshape(box.shape)[some]
    mine = np.flatnonzero(owned[kept])
    rows = np.diff(level.begin.astype(np.int64))[mine]
    entries = _ragged(level.begin[mine].astype(np.int64), rows)
    place = _places_on_grid(part, box, factors, level.size, level.place[mine])
    sent = (
        names[kept[mine]], rows, names[kept[level.index[entries]]], level.w[entries], level.axis[entries],
        place, level.ground[mine], level.shift[mine], level.diag[mine], total[mine],
    )  # fmt: skip
    parts = comm.allgather(sent)
    known = np.concatenate([p[0] for p in parts])
    order = np.argsort(known)
    gathered, total = _joined(parts, known, order, tuple(-(-n // f) for n, f in zip(part.size, factors, strict=True)))
    where = np.searchsorted(known[order], there)
    where[where == known.size] = 0
    found = known[order][where] == there if known.size else np.zeros(there.shape, np.bool_)
    numbers = np.where(found, where, gathered.n).astype(np.int32)
    first = sum(p[0].size for p in parts[: comm.rank])
    return FirstGraph(
        box, finest, numbers, transfer.low, transfer.high, transfer.unit, gathered, total, unknowns, order, first,
        mine.size,
    )  # fmt: skip


def finest_on_box(part: Partition, box: Box, fields: Fields, factor: float) -> Finest:
    """Return the conductances of a box times a number, as `finest_conductances` has them of the whole grid."""
    halo, size = Halo(part, box), box.shape
    links, diag = np.empty((3, *size)), np.empty(size)
    for d, axis in enumerate(box.axes):
        np.multiply(halo(fields.links[..., d]), factor if part.size[d] > 1 else 0.0, out=links[d])
        # a link belongs to a cell and the next one: none where the next one is not in the box
        broken = np.flatnonzero(np.diff(axis.cells, append=axis.cells[:1]) % part.size[d] != 1 % part.size[d])
        np.moveaxis(links[d], d, 0)[broken if axis.wraps else np.append(broken, -1)] = 0
    gx, gy, gz = (halo(fields.ground[..., d]) * factor for d in range(3))
    shift = halo(fields.shift) * factor
    halo.destroy()
    grounded = bool(shift.any() or gx.any() or gy.any() or gz.any())
    over_strips(sum_links, size[0] * size[1], *links, gx, gy, gz, shift, diag)
    return Finest(links, (gx, gy, gz), shift, diag, np.array(box.periodic), grounded)


def flat_numbers(part: Partition, box: Box) -> Array:
    """Return the number in C order on the whole grid of every cell of a box."""
    x, y, z = np.ix_(*(a.cells.astype(np.int64) for a in box.axes))
    return (x * part.size[1] + y) * part.size[2] + z


def labels_of_pieces(
    comm: Any, finest: Finest, box: Box, number: Array, factors: tuple[int, int, int], merge: float
) -> tuple[Array, int]:
    """Return the lowest cell of the piece of every cell of a box, -1 without unknown, and how many pieces there are."""
    piece, count = partition_grid(finest, factors, merge)
    flat, cells = number.ravel(), np.flatnonzero(piece >= 0)
    lowest = np.full(count + 1, -1, np.int64)
    lowest[piece[cells[::-1]]] = flat[cells[::-1]]  # of several writers the last one stays: the lowest cell
    label = lowest[np.where(piece >= 0, piece, count)].reshape(box.shape)
    starts = np.count_nonzero(label[box.own] == number[box.own])
    return label, int(comm.allreduce(int(starts)))


def near_ends(part: Partition, box: Box) -> Array:
    """Return which cells of a box are less than `REACH` away from cells that it leaves out."""
    out = np.zeros(box.shape, np.bool_)
    for d, (axis, n) in enumerate(zip(box.axes, part.size, strict=True)):
        steps = np.diff(axis.cells)
        ends = [int(k) + 1 for k in np.flatnonzero(steps != 1)]  # a stretch is left out before these
        low, high = axis.cells[:1], axis.cells[-1:]
        if low.size and not axis.wraps:
            ends += ([0] if low[0] > 0 else []) + ([len(axis.cells)] if high[0] < n - 1 else [])
        view = np.moveaxis(out, d, 0)
        for at in ends:
            view[max(at - REACH, 0) : at + REACH] = True
    return out


def _widen_together(comm: Any, narrow: bool) -> None:
    """Raise on all ranks if the box of one is too narrow."""
    from mpi4py import MPI

    if comm.allreduce(narrow, MPI.LOR):
        raise NarrowBoxError


def _ragged(begin: Array, counts: Array) -> Array:
    """Return the entries of some rows of a compressed matrix, row after row.

    Examples
    --------
    >>> _ragged(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    return np.repeat(begin - ends + counts, counts) + np.arange(int(counts.sum()))


def _places_on_grid(
    part: Partition, box: Box, factors: tuple[int, int, int], size: tuple[int, int, int], place: Array
) -> Array:
    """Return flat coarse cells of a box as flat cells of the whole coarse grid."""
    at = np.unravel_index(place, size)
    cells = (a.cells[::f][k] // f for a, f, k in zip(box.axes, factors, at, strict=True))
    whole = tuple(-(-n // f) for n, f in zip(part.size, factors, strict=True))
    return np.ravel_multi_index(tuple(cells), whole).astype(np.int32)


def _joined(parts: list[Any], known: Array, order: Array, size: Any) -> tuple[Level, Array]:
    """Return the graph out of the rows of all ranks, in the order of the lowest cells of pieces."""
    rows, to, w, axis, place, ground, shift, diag, total = (np.concatenate([p[k] for p in parts]) for k in range(1, 10))
    starts, counts = np.cumsum(rows) - rows, rows[order]
    entries = _ragged(starts[order], counts)
    names = known[order]
    index = np.searchsorted(names, to[entries])
    begin = np.zeros(order.size + 1, np.uint32)
    np.cumsum(counts, out=begin[1:])
    index[index == order.size] = 0
    # both ends of a link must have found it: else somebody saw too little of a piece; all ranks see the same here
    if (names[index] != to[entries]).any() or (np.bincount(index, minlength=order.size) != counts).any():
        raise NarrowBoxError
    level = Level(
        size, place[order], begin, index.astype(np.uint32), w[entries], axis[entries], ground[order], shift[order],
        diag[order],
    )  # fmt: skip
    return level, total[order]


def narrow_box(part: Partition, wide: Box, pad: int) -> tuple[Box, tuple[Array, Array, Array]]:
    """Return a box with `pad` cells around, and where its cells are in a wider one."""
    box = part.padded(pad)
    return box, tuple(np.searchsorted(w.cells, b.cells) for w, b in zip(wide.axes, box.axes, strict=True))  # type: ignore[return-value]
