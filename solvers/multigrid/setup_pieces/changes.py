"""What has changed on the finest level since the last set-up, so that an update computes that and copies the rest.

A set-up on the finest level is a chain of loops that read a row of cells and the rows beside it. Rows whose numbers, or
whose pieces, are not those of last time are *changed*; from them follows where each loop of the chain can give anything
new, and so which rows it has to visit. What a piece is tied to, and the links of its coarse unknown, are copied
wherever none of its cells lies in such a row. Pieces are known again by their first cell, in the order of which they
are numbered, so copies differ from computed ones in no bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...kernels.cpu.compile import over_strips, strip_kernel
from ..pieces import SWEEPS
from .partition import Array

REACH = 3 + 2 * SWEEPS  # rows from a changed number to the links between pieces that depend on it
MOST = 0.5  # of all rows: if more have to be visited, everything is computed anew


@strip_kernel
def find_changed_rows(start, stop, w, other_w, numbers, other_numbers, changed):
    """Mark rows start..stop of cells whose links, or other numbers, differ; w, numbers : (arrays, rows, cells)."""
    for row in range(start, stop):
        for d in range(w.shape[0]):
            differs = False
            for k in range(w.shape[2]):
                differs |= w[d, row, k] != other_w[d, row, k]
            changed[d, row] = differs
        for d in range(numbers.shape[0]):
            differs = False
            for k in range(numbers.shape[2]):
                differs |= numbers[d, row, k] != other_numbers[d, row, k]
            changed[2, row] |= differs


@strip_kernel
def splice_rows(start, stop, source, fresh, past, number, rows):
    """Write rows start..stop of links: row source[c] of `fresh`, or row -1 - source[c] of `past`, renumbered."""
    (begin, index, w, axis), (f_begin, f_index, f_w, f_axis), (p_begin, p_index, p_w, p_axis) = rows, fresh, past
    for c in range(start, stop):
        at, s = np.int64(begin[c]), source[c]
        if s >= 0:
            for t in range(f_begin[s], f_begin[s + 1]):
                index[at], w[at], axis[at] = f_index[t], f_w[t], f_axis[t]
                at += 1
        else:
            for t in range(p_begin[-1 - s], p_begin[-s]):
                index[at], w[at], axis[at] = number[p_index[t]], p_w[t], p_axis[t]
                at += 1


def spread_rows(mask: Array, steps: int) -> Array:
    """Return which rows lie at most so many steps from marked ones; both axes wrap.

    Examples
    --------
    >>> spread_rows(np.array([[True, False, False, False, False]]), 1).tolist()
    [[True, True, False, False, True]]
    """
    for _ in range(steps):
        mask = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
    return mask


def list_rows(mask: Array) -> Array:
    """Return the numbers of marked rows."""
    return np.flatnonzero(mask)


class Ties(NamedTuple):
    """One round of joining: first cell and number of the piece of every cell, first cells, what `tie_pieces` wrote."""

    label: Array
    piece: Array
    cells: Array
    best: Array
    value: Array
    total: Array


class Coarse(NamedTuple):
    """The first graph and what it was made of: pieces, first cells, what `describe_pieces` wrote, unknowns, weights."""

    label: Array
    piece: Array
    cells: Array
    facts: tuple[Array, Array, Array]
    kept: Array
    new: Array
    level: Any
    low: Array
    high: Array


class Window(NamedTuple):
    """Rows that each loop over the finest level has to visit, and which pieces are computed anew."""

    ties: Array
    resistances: tuple[Array, ...]
    weights: tuple[Array, ...]
    paths: Array
    pieces: Array


class Past:
    """What set-ups of the finest level leave for the next one; `rows` is what has changed, None if that is everything.

    Nothing is left by a set-up that did not come to its end.
    """

    def __init__(self) -> None:
        self.key: Any = None
        self.finest: Any = None
        self.partitions: dict[float, tuple[Array, list[Ties]]] = {}
        self.coarse: Coarse | None = None
        self.rows: Array | None = None
        self.graphs: Any = None  # stages below the finest level, the inverse, the finest's step sizes, what chose them

    def compare(self, finest: Any, key: Any) -> None:
        """Find the rows that have changed; forget everything that belongs to a system of another kind."""
        before, same = self.finest, self.finest is not None and self.key == key
        self.key, self.finest, self.rows = key, None, None
        if not same:
            self.partitions, self.coarse, self.graphs = {}, None, None
            return
        nx, ny, nz = finest.size
        flags = np.zeros((3, nx * ny), np.bool_)
        parts = [
            (v.links.reshape(3, -1, nz), np.stack([v.diag, v.shift, *v.ground] if v.grounded else [v.diag]))
            for v in (finest, before)
        ]
        (w, numbers), (other_w, other_numbers) = parts
        other = numbers.shape[0], nx * ny, nz
        over_strips(find_changed_rows, nx * ny, w, other_w, numbers.reshape(other), other_numbers.reshape(other), flags)
        along_x, along_y, rest = flags.reshape(3, nx, ny)
        # a link counts at both of its ends
        self.rows = along_x | np.roll(along_x, 1, 0) | along_y | np.roll(along_y, 1, 1) | rest

    @property
    def nothing(self) -> bool:
        """Whether nothing has changed."""
        return self.rows is not None and not self.rows.any()

    def blocks(self, factors: tuple[int, int, int]) -> Array | None:
        """Return the rows of blocks that have changed rows; None for all."""
        if self.rows is None:
            return None
        marks = np.logical_or.reduceat(self.rows, np.arange(0, self.rows.shape[0], factors[0]), 0)
        return list_rows(np.logical_or.reduceat(marks, np.arange(0, self.rows.shape[1], factors[1]), 1))

    def take_partition(self, merge: float, cells: int) -> tuple[Array, list[Ties]]:
        """Return the clusters inside blocks, to be changed in place, and the rounds of joining, of last time."""
        if self.rows is None or merge not in self.partitions:
            return np.empty(cells, np.int32), []
        return self.partitions[merge]

    def compare_labels(self, label: Array, other: Array) -> Array:
        """Return the rows that have changed, those included where a cell belongs to another piece."""
        assert self.rows is not None
        return self.rows | (label != other).reshape(*self.rows.shape, -1).any(2)

    def touch(self, rows: Array, piece: Array, count: int) -> Array:
        """Return which pieces have cells in rows."""
        found, flags = piece.reshape(rows.size, -1)[rows.ravel()], np.zeros(count, np.bool_)
        flags[found[found >= 0]] = True
        return flags

    def rows_of(self, flags: Array, piece: Array) -> Array:
        """Return the rows in which pieces have cells."""
        assert self.rows is not None
        return np.asarray(np.append(flags, False)[piece].reshape(*self.rows.shape, -1).any(2))

    def copy_ties(self, old: Ties | None, label: Array, piece: Array, cells: Array, out: tuple[Array, ...]) -> Array:
        """Write what is as it was into best, value and total; return the pieces for which it is not."""
        if old is None or self.rows is None:
            return np.arange(cells.size)
        changed = spread_rows(self.compare_labels(label, old.label), 1)
        flags = self.touch(changed, piece, cells.size)
        same = np.flatnonzero(~flags)
        source = old.piece[cells[same]]
        best, value, total = out
        value[same], total[same] = old.value[source], old.total[source]
        best[same] = np.maximum(piece[old.cells[old.best[source]]], 0)
        return np.flatnonzero(flags)

    def window(self, label: Array, piece: Array, count: int) -> Window | None:
        """Return what has to be computed anew for a partition; None if that is everything, or nearly."""
        if self.rows is None or self.coarse is None:
            return None
        changed = self.compare_labels(label, self.coarse.label)
        # what holds a piece to p = 0 counts for its neighbours wherever they touch it
        changed = changed | self.rows_of(self.touch(changed, piece, count), piece)
        changed = spread_rows(changed, REACH)
        pieces = self.touch(changed, piece, count)
        paths = spread_rows(changed | self.rows_of(pieces, piece), 1)
        # backwards: every loop needs what the one before it gives, one row further away
        masks = [spread_rows(paths, 1)]
        for _ in range(2 * SWEEPS + 2):
            masks.append(spread_rows(masks[-1], 1))
        if masks[-1].mean() > MOST:
            return None
        rows = list(map(list_rows, masks))
        weights, resistances = rows[: SWEEPS + 1], rows[SWEEPS + 1 : 2 * SWEEPS + 2]
        return Window(rows[2 * SWEEPS + 2], tuple(resistances[::-1]), tuple(weights[::-1]), list_rows(paths), pieces)
