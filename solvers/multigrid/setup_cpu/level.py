"""One level of the set-up and what it keeps for the next one: `NeuralMultigrid.update` visits only what changed.

All arrays of a level are changed in place. Hashes of blocks and of coarse cells (`hashes`) tell what the last set-up
found there; where a hash is what it was, so is every result, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.cpu.cell_bytes import CellBytes
from ...kernels.cpu.compile import over_strips, threads_for
from ...kernels.cpu.cycle import STEPS, FusedLevel
from .coarse_level import coarse_level, copy_links, sum_link_pairs
from .deduplicate import EVALUATE_ALL, EVALUATE_CHANGED, EVALUATE_UNIQUE, find_representatives
from .dirty_ranges import cells_to_process, cover_grid, dirty_ranges_of, ranges_of_cells, spread_ranges, widen_to_rows
from .fine_level import copy_results, fine_level
from .grid import Array, Classical, Grid, coarse_size, empty_with_room
from .hashes import find_block_hashes, find_cell_hashes, find_classical_hashes, find_coarse_hashes

Weights = tuple[Array, ...]
Nets = tuple[Weights, Weights]


class HashHistory:
    """Hashes of blocks or of coarse cells (0: no unknown), and which of them the last set-up changed."""

    def __init__(self) -> None:
        self.inputs = np.zeros(0, np.uint64)  # hashes that these are made of
        self.allocate(0)  # empty until the first update asks for change tracking

    def allocate(self, n: int) -> None:
        """Take memory for n hashes."""
        self.hashes, self.changed = np.zeros(n, np.uint64), np.zeros(n, np.bool_)
        self.known = False  # whether results belong to these hashes

    def choose_mode(self, cell_type: bool) -> int:
        """Choose what to evaluate: in cell-type problems most hashes repeat, in others hardly any."""
        known, self.known = self.known, True
        return EVALUATE_UNIQUE if cell_type else EVALUATE_CHANGED if known else EVALUATE_ALL


class SetupLevel:
    """Damping, weights and coarse operators of one level, and what of them the next set-up can keep.

    conductance : the finest one, if the finest operator is of cell type; finest : whether this is the finest level
    source : in which form the finest operator is given
    """

    def __init__(
        self, grid: Grid, factors: tuple[int, int, int], conductance: float | None, finest: bool, source: type
    ) -> None:
        self.kind = grid.size, grid.periodic, factors, conductance, finest, source
        n, coarse = grid.diag.size, coarse_size(grid, factors)
        self.cell_type, self.finest = conductance is not None, finest
        self.in_bytes = self.cell_type and finest
        # damping over the diagonal: 16-bit steps where the operator is in bytes, else fp32; the other array is empty
        steps = n if self.in_bytes else 0
        self.sd, self.steps = np.zeros(n - steps, np.float32), np.zeros(steps, np.uint16)
        self.a = np.zeros((3, n), np.uint8)
        self.cell_hashes: Any = None
        self.classical, self.next_grid = Classical.zeros(grid, factors), Grid.zeros(coarse, grid.periodic)
        self.blocks, self.cells = HashHistory(), HashHistory()
        self.fused: list[FusedLevel] = []
        self.changed: Array | None = None  # where the last set-up changed `next_grid`; None: unknown

    def fits_kind(self, *kind: Any) -> bool:
        """Tell whether a level has the same grid, factors and kind, so that its arrays can be used again."""
        return self.kind == kind

    def refresh(
        self,
        grid: Grid,
        nets: tuple[Nets, Nets],
        cell_bytes: CellBytes | None,
        source: Any,
        ranges: Array | None,
        tracked: bool,
        visits: int,
    ) -> list[FusedLevel]:
        """Set up again for an operator, to be smoothed so many times; `next_grid` becomes the next level's operator.

        cell_bytes, source : of the finest operator; a grid of cell type is filled from there where it is needed
        ranges : where the operator of a coarser level has changed, None if unknown
        tracked : find out what changed, and keep what did not
        """
        found = self.find_changes(grid, source, ranges) if tracked else None
        with threads_for(cells_to_process(found[1], grid.diag.size) if found else grid.diag.size):
            self.refresh_fine(grid, nets[0], source, found)
            self.refresh_coarse(nets[1], tracked)
        size, periodic, factors = self.kind[:3]
        links, diag = tuple(w.reshape(size) for w in grid.w), grid.diag.reshape(size)
        if cell_bytes is not None and self.in_bytes:
            links, diag = cell_bytes.links, cell_bytes.diag
        if len(self.fused) != visits:
            damping = (self.steps if self.in_bytes else self.sd).reshape(size)
            level = FusedLevel(factors, periodic, links, diag, damping, self.a.reshape(3, *size))
            self.fused = level.repeated(visits)
        for level in self.fused:  # the work space is kept: first writes to fresh memory are slow
            level.w, level.diag = links, diag
        return self.fused

    def refresh_fine(self, grid: Grid, nets: Nets, source: Any, found: tuple[Array, Array] | None) -> None:
        """Find damping, prolongation weights and the classical operators of the next level.

        found : hashes of the cells, and the ranges where they may have changed; None: evaluate everywhere
        """
        coarse, blocks, factors = self.classical.grid, self.blocks, self.kind[2]
        problem = (
            grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, np.array(factors), np.array(grid.periodic),
        )  # fmt: skip
        mode, dirty = EVALUATE_ALL, np.zeros((0, 2), np.int64)
        history = blocks.hashes, blocks.changed
        if found is not None:
            cell_hashes, ranges = found
            if not blocks.hashes.size:
                blocks.allocate(coarse.diag.size)
            blocks.changed[:] = False
            history = blocks.hashes, blocks.changed
            over_strips(find_block_hashes, coarse.rows, problem, coarse.sizes, ranges, cell_hashes, *history)
            mode = blocks.choose_mode(self.cell_type)
        unique = mode == EVALUATE_UNIQUE
        representatives = np.empty(coarse.diag.size if unique else 0, np.int64)
        new = np.empty((coarse.rows, 2), np.int64)
        if unique:
            dirty = dirty_ranges_of(blocks.changed, coarse.size)
            find_representatives(0, coarse.rows, dirty, coarse.size[2], history, representatives, new)
        if self.in_bytes:  # numbers are needed only where something is evaluated
            source.fill(grid, self.cells_to_fill(new))
        results = ((self.sd, self.steps, STEPS), self.a), self.classical.arrays
        task = (problem, coarse.sizes, mode, blocks.changed, new, representatives, nets)
        over_strips(fine_level, coarse.rows, *task, *results)
        if unique:
            over_strips(copy_results, coarse.rows, dirty, problem, coarse.sizes, representatives, *results)

    def find_changes(self, grid: Grid, source: Any, ranges: Array | None) -> tuple[Array, Array]:
        """Return the hashes of the cells, and per row from where to where they may have changed."""
        if self.in_bytes:
            self.cell_hashes = self.cell_hashes or source.new_hashes(grid)
            return self.cell_hashes.find_hashes(source)
        # where a finest medium has changed is not known before its blocks are hashed: its cell hashes are not kept
        cell_hashes = np.empty(grid.diag.size, np.uint64) if self.finest else self.blocks.inputs
        if ranges is None or not cell_hashes.size:
            ranges = cover_grid(grid.size)
        if not cell_hashes.size:
            cell_hashes = self.blocks.inputs = np.empty(grid.diag.size, np.uint64)
        parts = grid.w, grid.ground, grid.shift, grid.diag, grid.sizes, np.array(grid.periodic)
        over_strips(find_cell_hashes, grid.rows, ranges, parts, cell_hashes)
        return cell_hashes, ranges

    def cells_to_fill(self, new: Array) -> Array:
        """Return the ranges of cells that are read to evaluate new blocks: two more on every side."""
        size, _, factors = self.kind[:3]
        blocks = self.classical.grid.size
        halves = all(f == 2 and n % 2 == 0 for f, n in zip(factors, size, strict=True))
        # whole vectors are read at the ends of rows, as if they wrapped
        return ranges_of_cells(spread_ranges(new, blocks, 1 if halves else 2, wraps=True), size, blocks, factors)

    def refresh_coarse(self, nets: Nets, tracked: bool) -> None:
        """Evaluate the learned operator of the next level, and say in `changed` where it is another."""
        old, new, mode, cells = self.classical.grid, self.next_grid, EVALUATE_ALL, self.cells
        n, periodic, size = old.diag.size, np.array(old.periodic), old.size
        dirty = wanted = cover_grid(size)
        history = cells.hashes, cells.changed
        self.changed = None
        if tracked:
            if not cells.hashes.size:
                cells.allocate(n)
                cells.inputs = np.zeros(n, np.uint64)
            known = cells.known
            # a coarse cell depends on its block and those below it, then on the coarse cells around it
            near = spread_ranges(dirty_ranges_of(self.blocks.changed, size), size, 1, periodic[2]) if known else wanted
            over_strips(find_classical_hashes, old.rows, near, self.blocks.hashes, old.sizes, cells.inputs)
            near = spread_ranges(near, size, 1, periodic[2]) if known else wanted
            cells.changed[:] = False
            history = cells.hashes, cells.changed
            over_strips(find_coarse_hashes, old.rows, near, cells.inputs, old.sizes, periodic, *history)
            mode = cells.choose_mode(self.cell_type)
            dirty = dirty_ranges_of(cells.changed, size) if known else wanted
            if known:
                wanted = spread_ranges(dirty, size, 1, wraps=True)  # whole vectors are read at the ends of rows
                if mode != EVALUATE_UNIQUE:
                    wanted = widen_to_rows(wanted, size[2])
                self.changed = spread_ranges(dirty, size, 2, periodic[2])
        old.sum_diagonal(wanted)
        pairs, fractions = empty_with_room(3 * n).reshape(3, n), empty_with_room(2 * n).reshape(2, n)
        classic = old.w, old.ground, old.shift, old.diag
        over_strips(sum_link_pairs, old.rows, wanted, *classic, old.sizes, pairs, fractions)
        problem = (self.classical.uniform, *classic, self.classical.facts, pairs, fractions)
        results = new.w, new.ground, new.shift
        unique = mode == EVALUATE_UNIQUE
        representatives, fresh = np.empty(n if unique else 0, np.int64), np.empty((old.rows, 2), np.int64)
        if unique:
            find_representatives(0, old.rows, dirty, size[2], history, representatives, fresh)
        task = (problem, (old.sizes, periodic), mode, cells.changed, fresh, representatives, np.array(self.kind[2]))
        over_strips(coarse_level, old.rows, *task, nets, results)
        if unique:
            over_strips(copy_links, old.rows, dirty, size[2], representatives, results)
        new.sum_diagonal(wanted)
