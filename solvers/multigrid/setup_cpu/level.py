"""One level of the set-up and what it keeps for the next one: `NeuralMultigrid.update` visits only what changed.

All arrays of a level are changed in place. Keys of blocks and of coarse cells (`setup_patterns`) tell what the last
set-up found there; where a key is what it was, so is every result, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.cpu.cell_bytes import CellBytes
from ...kernels.cpu.compile import over_strips, threads_for
from ...kernels.cpu.cycle import STEPS, FusedLevel
from . import (
    coarse_level as setup_coarse,
    deduplicate as setup_places,
    fine_level as setup_fine,
    hashes as setup_patterns,
)
from .deduplicate import CHANGED, EVERYTHING, ONCE
from .dirty_ranges import everywhere, of_cells, size_of, spans_of, spread, whole
from .grid import Array, Classical, Grid, coarse_size, roomy

Weights = tuple[Array, ...]
Nets = tuple[Weights, Weights]


class Tracks:
    """Keys of blocks or of coarse cells, 0 without unknowns, and which of them the last set-up changed."""

    def __init__(self) -> None:
        self.sources = np.zeros(0, np.uint64)  # marks or signatures that the keys are made of
        self.start(0)  # of a medium that does not change, nobody asks

    def start(self, n: int) -> None:
        """Take memory for n keys."""
        self.keys, self.changed = np.zeros(n, np.uint64), np.zeros(n, np.bool_)
        self.known = False  # whether the keys are those of the results

    def mode(self, coded: bool) -> int:
        """Choose what to evaluate: of cell-type problems most keys repeat themselves, of others hardly any."""
        known, self.known = self.known, True
        return ONCE if coded else CHANGED if known else EVERYTHING


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
        self.blocks, self.cells = Tracks(), Tracks()
        self.fused: list[FusedLevel] = []
        self.changed: Array | None = None  # spans of what the last set-up changed in `below`

    def fits(self, *kind: Any) -> bool:
        """Tell whether a level has the same grid, factors and kind, so that its arrays can be used again."""
        return self.kind == kind

    def refresh(
        self,
        grid: Grid,
        nets: tuple[Nets, Nets],
        codes: CellBytes | None,
        source: Any,
        spans: Array | None,
        tracked: bool,
        times: int,
    ) -> list[FusedLevel]:
        """Set up again for an operator, to be visited so many times; `below` becomes the operator of the next level.

        codes, source : of the finest operator; a grid of cell type is filled from there where it is needed
        spans : where the operator of a coarser level has changed, None if nobody knows
        tracked : find out what changed, and keep what did not
        """
        marks = self.find_marks(grid, source, spans) if tracked else None
        with threads_for(size_of(marks[1], grid.diag.size) if marks else grid.diag.size):
            self.fine(grid, nets[0], source, marks)
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

    def fine(self, grid: Grid, nets: Nets, source: Any, found: tuple[Array, Array] | None) -> None:
        """Find damping, prolongation weights, and the classical operators of the next level; found : marks, spans."""
        coarse, blocks, factors = self.classical.grid, self.blocks, self.kind[2]
        problem = (
            grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, np.array(factors), np.array(grid.periodic),
        )  # fmt: skip
        mode, here = EVERYTHING, np.zeros((0, 2), np.int64)
        if found is not None:
            marks, ranges = found
            if not blocks.keys.size:
                blocks.start(coarse.diag.size)
            blocks.changed[:] = False
            tracks = blocks.keys, blocks.changed
            over_strips(setup_patterns.find_block_keys, coarse.rows, problem, coarse.sizes, ranges, marks, *tracks)
            mode = blocks.mode(self.coded)
        results = ((self.sd, self.steps, STEPS), self.a), self.classical.arrays
        places, new = np.empty(coarse.diag.size if mode == ONCE else 0, np.int64), np.empty((coarse.rows, 2), np.int64)
        if mode == ONCE:
            here = spans_of(blocks.changed, coarse.size)
            setup_places.find_places(0, coarse.rows, here, coarse.size[2], tracks, places, new)
        if self.in_bytes:
            source.fill(grid, self.cells_around(new))
        task = (problem, coarse.sizes, mode, blocks.changed, new, places, nets)
        over_strips(setup_fine.fine_level, coarse.rows, *task, *results)
        if mode == ONCE:
            over_strips(setup_fine.copy_results, coarse.rows, here, problem, coarse.sizes, places, *results)

    def find_marks(self, grid: Grid, source: Any, spans: Array | None) -> tuple[Array, Array]:
        """Return the marks of the cells, and per row from where to where they may have changed."""
        if self.in_bytes:
            self.marks = self.marks or source.marks(grid)
            return self.marks.find(source)
        # nobody knows where a medium has changed, so its marks on the finest level are not kept
        marks = np.empty(grid.diag.size, np.uint64) if self.kind[4] else self.blocks.sources
        if spans is None or not marks.size:
            spans = everywhere(grid.size)
        if not marks.size:
            marks = self.blocks.sources = np.empty(grid.diag.size, np.uint64)
        parts = grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, np.array(grid.periodic)
        over_strips(setup_patterns.cell_marks, grid.rows, spans, parts, marks)
        return marks, spans

    def cells_around(self, new: Array) -> Array:
        """Return the spans of cells that are read to evaluate new blocks: two more on every side."""
        size, _, factors = self.kind[:3]
        blocks = self.classical.grid.size
        halves = all(f == 2 and n % 2 == 0 for f, n in zip(factors, size, strict=True))
        # ends of rows are read as if they wrapped
        return of_cells(spread(new, blocks, 1 if halves else 2, wraps=True), size, blocks, factors)

    def coarse(self, nets: Nets, tracked: bool) -> None:
        """Evaluate the learned operator of the next level, and say in `changed` where it is another."""
        old, new, mode, cells = self.classical.grid, self.below, EVERYTHING, self.cells
        n, periodic, size = old.diag.size, np.array(old.periodic), old.size
        found = wanted = everywhere(size)
        self.changed = None
        if tracked:
            if not cells.keys.size:
                cells.start(n)
                cells.sources = np.zeros(n, np.uint64)
            known = cells.known
            near = spread(spans_of(self.blocks.changed, size), size, 1, periodic[2]) if known else wanted
            over_strips(setup_patterns.cell_signatures, old.rows, near, self.blocks.keys, old.sizes, cells.sources)
            near = spread(near, size, 1, periodic[2]) if known else wanted
            cells.changed[:] = False
            tracks = cells.keys, cells.changed
            over_strips(setup_patterns.find_cell_keys, old.rows, near, cells.sources, old.sizes, periodic, *tracks)
            mode = cells.mode(self.coded)
            found = spans_of(cells.changed, size) if known else wanted
            if known:
                wanted = spread(found, size, 1, wraps=True)  # as ends of rows are read
                wanted = wanted if mode == ONCE else whole(wanted, size[2])  # media are evaluated by whole vectors
                self.changed = spread(found, size, 2, periodic[2])
        old.sum_diagonal(wanted)
        pairs, fractions = roomy(3 * n).reshape(3, n), roomy(2 * n).reshape(2, n)
        classic = old.w, old.ground, old.shift, old.diag
        over_strips(setup_coarse.cell_facts, old.rows, wanted, *classic, old.sizes, pairs, fractions)
        problem = (self.classical.uniform, *classic, self.classical.facts, pairs, fractions)
        results = new.w, new.ground, new.shift
        places, fresh = np.empty(n if mode == ONCE else 0, np.int64), np.empty((old.rows, 2), np.int64)
        if mode == ONCE:
            setup_places.find_places(0, old.rows, found, size[2], tracks, places, fresh)
        task = (
            problem,
            (old.sizes, periodic),
            mode,
            cells.changed,
            fresh,
            places,
            np.array(self.kind[2]),
            nets,
            results,
        )
        over_strips(setup_coarse.coarse_level, old.rows, *task)
        if mode == ONCE:
            over_strips(setup_coarse.copy_links, old.rows, found, size[2], places, results)
        new.sum_diagonal(wanted)
