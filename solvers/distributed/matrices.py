"""Matrices for PETSc, row by row of a rank's own cells: operators, prolongations, identities, diagonals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from .halo import bring
from .partition import Array, Box, BoxAxis, Partition, to_rank_order
from .petsc_library import load_petsc

if TYPE_CHECKING:
    from .builders import Fields
    from .levels import DistributedLevel


def assemble_rows(rows: Partition, columns: Partition, entries: Sequence[tuple[Array, Array]]) -> Any:
    """Return an AIJ matrix; entries : pairs (values, column numbers) over own cells. Zeros are dropped, columns sum."""
    PETSc, n = load_petsc(), rows.count
    m = math.prod(columns.size)
    size = (n, math.prod(rows.size)), (columns.count, m)
    value = np.stack([to_rank_order(v) for v, _ in entries], 1).ravel()
    column = np.stack([to_rank_order(c).astype(PETSc.IntType) for _, c in entries], 1).ravel()
    keep = value != 0
    per_row = keep.reshape(n, len(entries)).sum(1)
    indptr = np.concatenate(([0], np.cumsum(per_row))).astype(PETSc.IntType)
    csr = scipy.sparse.csr_array((value[keep], column[keep], indptr), shape=(n, m))
    csr.sum_duplicates()  # sorts too
    parts = csr.indptr.astype(PETSc.IntType), csr.indices.astype(PETSc.IntType), csr.data
    return PETSc.Mat().createAIJ(size, csr=parts, comm=rows.comm)


def assemble_operator(part: Partition, fields: Fields, diag: Array) -> Any:
    """Return the 7-point matrix of own cells, with a 1 on the diagonal where there is no unknown. Collective."""
    box = part.ghosted()
    links, number = bring(part, box, fields.links), part.numbers(box)
    entries = [(np.where(diag > 0, diag, 1.0), number[box.own])]
    for d in range(3):
        for step in (1, -1):
            there = _shifted(number, box, d, step)
            w = fields.links[..., d] if step == 1 else _shifted(links[..., d], box, d, -1)
            entries.append((-w, there))
    return assemble_rows(part, part, entries)


def _shifted(values: Array, box: Box, d: int, step: int) -> Array:
    """Return at own cells the value of the next or previous cell of a ghosted box; 0 beyond the grid."""
    padding = [(1, 1) if axis == d else (0, 0) for axis in range(3)]
    index = list(box.own)
    index[d] = slice(box.axes[d].start + 1 + step, box.axes[d].stop + 1 + step)
    return np.pad(values, padding)[tuple(index)]


def level_operator(level: DistributedLevel, scale: float) -> Any:
    """Return the matrix of a coarse level, times `scale`. Collective."""
    part, box, f = level.part, level.box, level.fused
    number, at = part.numbers(box), np.asarray(f.diag, dtype=np.float64) * scale
    own = box.own
    entries = [(np.where(at > 0, at, 1.0)[own], number[own])]
    for d in range(3):
        w = np.asarray(f.w[d], dtype=np.float64) * scale
        # the box wraps like an array that is rolled; where it does not, the links there are 0 or far from own cells
        entries.append((-w[own], np.roll(number, -1, d)[own]))
        before = np.roll(w, 1, d)
        if not box.axes[d].wraps:
            np.moveaxis(before, d, 0)[0] = 0
        entries.append((-before[own], np.roll(number, 1, d)[own]))
    return assemble_rows(part, part, entries)


def level_prolongation(level: DistributedLevel) -> Any:
    """Return P = L_z L_y L_x E: at most eight entries per row, own block or outer neighbour's, axis by axis."""
    part, box, below, f = level.part, level.box, level.below, level.fused
    positions = (np.arange(a.start, a.stop) for a in box.axes)
    own = np.meshgrid(*positions, indexing="ij")
    coarse = tuple(a.cells[::factor] // factor for a, factor in zip(box.axes, level.factors, strict=True))
    number = below.numbers(Box(tuple(_plain(cells) for cells in coarse)))  # type: ignore[arg-type]
    known = f.sd > 0
    paths: list[tuple[Array, Sequence[Array]]] = [(np.ones(own[0].shape), own)]
    for d in (2, 1, 0):
        if level.factors[d] == 1:
            continue
        weights, n = f.a[d], box.shape[d]
        longer: list[tuple[Array, Sequence[Array]]] = []
        for value, cell in paths:
            share, other, k = weights[tuple(cell)] / 255.0, list(cell), cell[d]
            other[d] = np.where(k % 2 == 0, k - 1, k + 1)
            # beyond the end the share is 0
            other[d] = other[d] % n if box.axes[d].wraps else np.clip(other[d], 0, n - 1)
            longer += [(value * (1 - share), cell), (value * share, other)]
        paths = longer
    entries = []
    for value, cell in paths:
        block = tuple(c // factor for c, factor in zip(cell, level.factors, strict=True))
        entries.append((value * known[tuple(cell)], number[block]))
    return assemble_rows(part, below, entries)


def _plain(cells: Array) -> BoxAxis:
    return BoxAxis(cells, False, 0, 0)


def level_damping(level: DistributedLevel, scale: float) -> Any:
    """Return the diagonal matrix diag / s, so that PETSc's Jacobi multiplies by s / diag; 1 without unknown."""
    sd = np.asarray(level.fused.sd[level.box.own], dtype=np.float64)
    return diagonal_matrix(level.part, np.where(sd > 0, scale / np.where(sd > 0, sd, 1), 1.0))


def diagonal_matrix(part: Partition, own: Array) -> Any:
    """Return a diagonal matrix of values at own cells."""
    number = part.numbers(Box(tuple(_own_axis(lo, hi) for lo, hi in part.ranges)))  # type: ignore[arg-type]
    return assemble_rows(part, part, [(own, number)])


def _own_axis(lo: int, hi: int) -> BoxAxis:
    return BoxAxis(np.arange(lo, hi), False, 0, hi - lo)
