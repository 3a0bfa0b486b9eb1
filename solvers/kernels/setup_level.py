"""One level of the set-up and what it keeps for the next one: `NeuralMultigrid.update` visits only what changed.

All arrays of a level are changed in place. Keys of blocks and of coarse cells (`setup_patterns`) tell what the last
set-up found there; where a key is what it was, so is every result, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import setup_coarse, setup_fine, setup_patterns
from .codes import Codes
from .cpu_jit import over_strips
from .cycle import STEPS, FusedLevel
from .setup_grid import Array, Classical, Grid, coarse_size, roomy
from .setup_patterns import CHANGED, EVERYTHING, ONCE

Weights = tuple[Array, ...]
Nets = tuple[Weights, Weights]


class Tracks:
    """Keys of blocks or of coarse cells, 0 without unknowns, and which of them the last set-up changed."""

    def __init__(self, n: int) -> None:
        self.keys, self.changed = np.zeros(n, np.uint64), np.zeros(n, np.bool_)
        self.known = False  # whether the keys are those of the results

    def mode(self, coded: bool) -> int:
        """Choose what to evaluate: of cell-type problems most keys repeat themselves, of others hardly any."""
        known, self.known = self.known, True
        return ONCE if coded else CHANGED if known else EVERYTHING


def dilated(rows: Array, reach: int) -> Array:
    """Mark also the rows up to `reach` away along either axis, and the next in memory: a vector may end there."""
    wanted = rows.copy()
    for axis in range(2):
        for shift in range(1, reach + 1):
            wanted |= np.roll(rows, shift, axis) | np.roll(rows, -shift, axis)
    wanted = wanted.ravel()
    wanted[1:] |= wanted[:-1].copy()
    return wanted


class Level:
    """Damping, weights and coarse operators of one level, and what of them the next set-up can keep.

    coded : the finest conductance, if the finest operator is of cell type; finest : whether this is the finest level
    source : in which form the finest operator is given
    """

    def __init__(
        self, grid: Grid, factors: tuple[int, int, int], coded: float | None, finest: bool, source: type
    ) -> None:
        self.kind = grid.size, grid.periodic, factors, coded, finest, source
        n, coarse = grid.diag.size, coarse_size(grid, factors)
        self.coded = coded is not None
        steps = n if self.coded and finest else 0
        self.sd, self.steps, self.a = (
            np.zeros(n - steps, np.float32),
            np.zeros(steps, np.uint16),
            np.zeros((3, n), np.uint8),
        )
        self.in_bytes = steps > 0
        self.marks: Any = None
        self.classical, self.below = Classical.zeros(grid, factors), Grid.zeros(coarse, grid.periodic)
        self.blocks, self.cells = Tracks(0), Tracks(0)  # of a medium that does not change, nobody asks
        self.fused: list[FusedLevel] = []

    def fits(self, *kind: Any) -> bool:
        """Tell whether a level has the same grid, factors and kind, so that its arrays can be used again."""
        return self.kind == kind

    def refresh(
        self, grid: Grid, nets: tuple[Nets, Nets], codes: Codes | None, source: Any, tracked: bool, times: int
    ) -> list[FusedLevel]:
        """Set up again for an operator, to be visited so many times; `below` becomes the operator of the next level.

        codes, source : of the finest operator; a grid of cell type is filled from there where it is needed
        tracked : find out what changed, and keep what did not
        """
        self.fine(grid, nets[0], source, tracked)
        self.coarse(nets[1], tracked)
        size, periodic, factors = self.kind[:3]
        links, diag = tuple(w.reshape(size) for w in grid.w), grid.diag.reshape(size)
        if codes is not None and self.in_bytes:
            links, diag = codes.links, codes.diag
        if len(self.fused) != times:
            damping = (self.steps if self.in_bytes else self.sd).reshape(size)
            level = FusedLevel(factors, periodic, links, diag, damping, self.a.reshape(3, *size))
            self.fused = level.visited(times)
        for level in self.fused:  # whose work space stays, since fresh memory is slow
            level.w, level.diag = links, diag
        return self.fused

    def fine(self, grid: Grid, nets: Nets, source: Any, tracked: bool) -> None:
        """Find damping, prolongation weights, and the classical operators of the next level."""
        coarse, mode = self.classical.grid, EVERYTHING
        problem = (
            grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, np.array(self.kind[2]), np.array(grid.periodic),
        )  # fmt: skip
        if tracked:
            if not self.blocks.keys.size:
                self.blocks = Tracks(coarse.diag.size)
            marks, ranges = self.find_marks(grid, source)
            self.blocks.changed[:] = False
            tracks = self.blocks.keys, self.blocks.changed
            over_strips(setup_patterns.find_block_keys, coarse.rows, problem, coarse.sizes, ranges, marks, *tracks)
            mode = self.blocks.mode(self.coded)
        results = ((self.sd, self.steps, STEPS), self.a), self.classical.arrays
        places, new = np.empty(coarse.diag.size if mode == ONCE else 0, np.int64), np.zeros(coarse.rows, np.bool_)
        if mode == ONCE:
            over_strips(setup_fine.find_places, coarse.rows, coarse.size[2], tracks, places, new)
        if self.in_bytes:
            source.fill(grid, self.rows_around(new))
        task = (problem, coarse.sizes, mode, self.blocks.changed, places, nets)
        over_strips(setup_fine.fine_level, coarse.rows, *task, *results)
        if mode == ONCE:
            over_strips(setup_fine.copy_results, coarse.rows, problem, coarse.sizes, places, new, *results)

    def find_marks(self, grid: Grid, source: Any) -> tuple[Array, Array]:
        """Return the marks of the cells, and per row from where to where they may have changed."""
        if self.in_bytes:
            self.marks = self.marks or source.marks(grid)
            return self.marks.find(source)
        marks, parts = np.empty(grid.diag.size, np.uint64), (grid.w, grid.ground, grid.shift, grid.diag)
        task = (*parts, grid.sizes, np.array(grid.periodic))
        over_strips(setup_patterns.cell_marks, grid.rows, task, marks)
        return marks, np.broadcast_to(np.array([0, grid.size[2]]), (grid.rows, 2)).copy()

    def rows_around(self, new: Array) -> Array:
        """Return which rows of cells are read to fill the columns of some rows of blocks: two more on every side."""
        size, _, factors = self.kind[:3]
        blocks = new.reshape(self.classical.grid.size[:2])
        cells = blocks.repeat(factors[0], 0)[: size[0]].repeat(factors[1], 1)[:, : size[1]]
        return dilated(cells, 2)

    def coarse(self, nets: Nets, tracked: bool) -> None:
        """Evaluate the learned operator of the next level."""
        old, new, mode = self.classical.grid, self.below, EVERYTHING
        n, periodic, wanted = old.diag.size, np.array(old.periodic), np.ones(old.rows, np.bool_)
        if tracked:
            if not self.cells.keys.size:
                self.cells = Tracks(n)
            signatures, tracks = np.empty(n, np.uint64), (self.cells.keys, self.cells.changed)
            over_strips(setup_patterns.cell_signatures, old.rows, self.blocks.keys, old.sizes, signatures)
            over_strips(setup_patterns.find_cell_keys, old.rows, signatures, old.sizes, periodic, *tracks)
            mode = self.cells.mode(self.coded)
        if mode != EVERYTHING and n > 4096:  # of a small level, all is faster than some
            wanted = self.rows_next_to(self.cells.changed)
        old.sum_diagonal(wanted)
        pairs, fractions = roomy(3 * n).reshape(3, n), roomy(2 * n).reshape(2, n)
        classic = old.w, old.ground, old.shift, old.diag
        over_strips(setup_coarse.cell_facts, old.rows, wanted, *classic, old.sizes, pairs, fractions)
        problem = (self.classical.uniform, *classic, self.classical.facts, pairs, fractions)
        places, results = (old.sizes, periodic), (new.w, new.ground, new.shift)
        tracks = self.cells.keys, self.cells.changed
        task = (problem, places, mode, tracks, np.array(self.kind[2]), nets, results)
        over_strips(setup_coarse.coarse_level, old.rows, *task)
        new.sum_diagonal(wanted)

    def rows_next_to(self, changed: Array) -> Array:
        """Return which rows of coarse cells have a changed one, or lie next to such a row."""
        return dilated(np.logical_or.reduce(changed.reshape(self.classical.grid.size), 2), 1)
