"""Whether pieces suit an operator on several ranks: the look of one process, at the same rows and boxes of cells.

The few cells that are looked at are brought to every rank, which then counts as one process does. Links across the ends
of a row are those of one process; a rank's share of the rows is its own.
"""

from __future__ import annotations

import math

import numpy as np

from ...multigrid.setup_pieces.survey import (
    CELLS,
    CONTRAST,
    LEAN,
    PART,
    ROWS,
    Survey,
    add_up_links,
    look_at_boxes,
    look_at_rows,
    pick,
)
from ..builders import Fields
from ..halo import make_vector
from ..partition import Array, Box, BoxAxis, Partition, to_rank_order
from ..petsc_library import load_petsc


def has_several_conductances(part: Partition, fields: Fields) -> bool:
    """Whether links have more than one positive value. Collective."""
    from mpi4py import MPI

    comm, links = part.comm, [fields.links[..., d] for d in range(3)]
    largest = comm.allreduce(max(float(w.max(initial=0.0)) for w in links), MPI.MAX)
    return bool(comm.allreduce(any(bool(((w != 0) & (w != largest)).any()) for w in links), MPI.LOR))


def prefers_pieces(part: Partition, fields: Fields, varying: bool) -> bool:
    """Whether one process would take pieces. Collective."""
    return take_survey(part, fields, varying).prefers_pieces()


def take_survey(part: Partition, fields: Fields, varying: bool) -> Survey:
    """Look at an operator; varying : whether links have several conductances, else only boxes are looked at."""
    size, comm = part.size, part.comm
    per_axis = float(np.prod(size)) ** (1 / max(sum(n > 1 for n in size), 1))
    edge = 16 if per_axis <= 128 else 32
    blocks = tuple(-(-n // edge) for n in size)
    chosen = pick(math.prod(blocks), CELLS // int(np.prod(np.minimum(size, edge))))
    corners = np.stack(np.unravel_index(chosen, blocks), 1) * edge
    shares = _boxes(part, corners[comm.rank :: comm.size], edge)
    found = np.zeros(2)
    values = _bring(part, fields, shares)
    for links, unknown in values:
        # a box at the rim counts as a whole one that is partly empty
        room = [(0, min(edge, n) - k) for n, k in zip(size, unknown.shape, strict=True)]
        arrays = [np.pad(v, room) for v in (*links, unknown)]
        look_at_boxes(*arrays, np.zeros((1, 3), np.int64), edge, PART, found)
    found = comm.allreduce(found)
    torn = float(found[1] / max(found[0], 1))
    if not varying or size[0] == 1:
        return Survey(0.0, 0.0, torn)
    rows = pick(size[0] * size[1], ROWS)[comm.rank :: comm.size]
    sums, counts = np.zeros(6), np.zeros(4)
    patches = [links for links, _ in _bring(part, fields, [_patch(part, int(row)) for row in rows])]
    here = np.arange(len(patches)) * 6 + 5  # rows of the patches, stacked: (3 per patch) x 2, the last one is looked at
    stack = [np.concatenate([p[d] for p in patches]) if patches else np.zeros((3, 2, size[2])) for d in range(3)]
    if patches:
        add_up_links(*stack, here, sums)
    sums = comm.allreduce(sums)
    means = np.where(sums[:3] > 0, sums[:3], 1) / np.maximum(sums[3:], 1)
    if patches:
        look_at_rows(*stack, here, means, LEAN, CONTRAST, counts)
    counts = comm.allreduce(counts)
    jumps, along, across = counts[1:] / max(counts[0], 1)
    return Survey(float(max(along, across)) * per_axis, float(jumps), torn)


def _boxes(part: Partition, corners: Array, edge: int) -> list[Box]:
    """Return boxes of at most `edge` cells per axis."""
    boxes = []
    for corner in corners:
        x, y, z = (_axis(np.arange(k, min(k + edge, n))) for k, n in zip(corner, part.size, strict=True))
        boxes.append(Box((x, y, z)))
    return boxes


def _patch(part: Partition, row: int) -> Box:
    """Return the box of a row along the last axis and those before it that its cells and their neighbours look at."""
    (nx, ny, nz), i, j = part.size, *divmod(row, part.size[1])
    x, y = (np.array([i - 2, i - 1, i]) % nx, np.array([j - 1, j]) % ny)
    return Box((_axis(x), _axis(y), _axis(np.arange(nz))))


def _axis(cells: Array) -> BoxAxis:
    return BoxAxis(cells, False, 0, 0)


def _bring(part: Partition, fields: Fields, boxes: list[Box]) -> list[tuple[list[Array], Array]]:
    """Return links and whether a cell has any conductance, for each of this rank's boxes. Collective."""
    PETSc = load_petsc()
    numbers = [part.numbers(box).ravel() for box in boxes]
    wanted = np.concatenate([*numbers, np.zeros(0, np.int64)]).astype(PETSc.IntType)
    index = PETSc.IS().createGeneral(wanted, comm=PETSc.COMM_SELF)
    layout = make_vector(part)
    local = PETSc.Vec().createSeq(wanted.size, comm=PETSc.COMM_SELF)
    scatter = PETSc.Scatter().create(layout, index, local, None)

    def brought(own: Array) -> list[Array]:
        layout.setArray(to_rank_order(np.ascontiguousarray(own, dtype=np.float64)).ravel())
        scatter.scatter(layout, local)
        parts = np.split(local.getArray().copy(), np.cumsum([n.size for n in numbers])[:-1]) if numbers else []
        return [p.reshape(box.shape) for p, box in zip(parts, boxes, strict=True)]

    found = [brought(fields.links[..., d]) for d in range(3)]
    unknown = brought(fields.unknown)
    for each in (scatter, local, layout, index):
        each.destroy()
    return [([w[k] for w in found], unknown[k]) for k in range(len(boxes))]
