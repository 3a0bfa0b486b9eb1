"""The levels that cannot fill a GPU, and the coarsest inverse, in one kernel of one program (Triton).

A kernel of a captured graph costs some 2.5 us however little it does, and a level takes six. A level of 8 x 8 x 8 cells
and the 4 x 4 x 4 below it are seven launches, 17 us; one program on one multiprocessor does the same from the
second-level cache in about 6 us: six phases of a microsecond, which is the latency of dependent loads. At 16 x 16 x 16
(0.4 MB) a single multiprocessor needs as long as six launches; hence `TAIL`. A dense inverse of 512 cells instead
(1 MB, out of the second-level cache) would take 3 us per application but a millisecond of set-up, half of the budget.
All of this is arithmetic with the numbers of a data sheet, not measured.

Phases exchange vectors through memory; a barrier orders them, since all of it is one block of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .launch import run
from .level import CudaLevel
from .smoothing import correct_tile, relax_tile
from .transfer import FIRST, SECOND, donors_of, finish_tile, multiply_rows, prolong_tile, restrict_tile

TAIL = 1024  # cells of the largest level of the tail
# Triton 3.7 and older cannot pass tuples of constants on to a function: there every level keeps its own kernels
SUPPORTED = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 8)


class Kind(NamedTuple):
    """Compile-time constants of a level: factors, periodicity and donors per axis, form of its operator, its tile."""

    FX: int
    FY: int
    FZ: int
    WX: bool
    WY: bool
    WZ: bool
    DX: int
    DY: int
    DZ: int
    FORM: int
    ROWS: int
    COLUMNS: int


@triton.jit
def descend_level(op, work, size, coarse, coarse_size, KIND: tl.constexpr, COARSE: tl.constexpr):
    """Relax twice; restrict unless the transfer is the identity. COARSE : rows and columns of the next level's tile."""
    w0, w1, w2, e, sd, a = op
    b, r, second, _ = work
    nx, ny, nz = size
    cx, cy, cz = coarse_size
    relax_tile(w0, w1, w2, e, sd, b, r, nx, ny, nz, KIND.ROWS, KIND.COLUMNS, KIND.FORM, FIRST)
    tl.debug_barrier()
    relax_tile(w0, w1, w2, e, sd, r, second, nx, ny, nz, KIND.ROWS, KIND.COLUMNS, KIND.FORM, SECOND)
    tl.debug_barrier()
    if KIND.FX * KIND.FY * KIND.FZ > 1:  # else the next level reads `second`
        restrict_tile(
            w0, second, a, coarse, nx, ny, nz, cx, cy, cz, COARSE[0], COARSE[1], KIND.FX, KIND.FY, KIND.FZ,
            KIND.WX, KIND.WY, KIND.WZ, KIND.DX, KIND.DY, KIND.DZ, KIND.FORM,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def ascend_level(op, work, size, c, coarse_size, KIND: tl.constexpr):
    """Prolong unless the transfer is the identity, correct, finish."""
    w0, w1, w2, e, sd, a = op
    b, r, second, correction = work
    nx, ny, nz = size
    _, cy, cz = coarse_size
    if KIND.FX * KIND.FY * KIND.FZ > 1:  # else `correction` is c
        prolong_tile(
            w0, c, a, correction, cy, cz, nx, ny, nz, KIND.ROWS, KIND.COLUMNS,
            KIND.FX, KIND.FY, KIND.FZ, KIND.WX, KIND.WY, KIND.WZ, KIND.FORM,
        )  # fmt: skip
        tl.debug_barrier()
    correct_tile(w0, w1, w2, e, correction, second, nx, ny, nz, KIND.ROWS, KIND.COLUMNS, KIND.FORM)
    tl.debug_barrier()
    finish_tile(
        w0, w1, w2, e, sd, c, a, b, second, r, r, cy, cz, nx, ny, nz, KIND.ROWS, KIND.COLUMNS,
        KIND.FX, KIND.FY, KIND.FZ, KIND.WX, KIND.WY, KIND.WZ, KIND.FORM, False,
    )  # fmt: skip
    tl.debug_barrier()


@triton.jit
def _small_levels(
    ops, works, sizes, inverse, bottom_b, bottom_x, stop, m, LEVELS: tl.constexpr, KINDS: tl.constexpr,
    TILES: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    if tl.load(stop) == 0:
        for l in tl.static_range(LEVELS):
            if l + 1 < LEVELS:
                descend_level(ops[l], works[l], sizes[l], works[l + 1][0], sizes[l + 1], KINDS[l], TILES[l])
            else:
                descend_level(ops[l], works[l], sizes[l], bottom_b, sizes[l + 1], KINDS[l], TILES[l])
        multiply_rows(inverse, bottom_b, bottom_x, m, 0, M, M)
        tl.debug_barrier()
        for up in tl.static_range(LEVELS):
            d: tl.constexpr = LEVELS - 1 - up
            if d + 1 < LEVELS:
                ascend_level(ops[d], works[d], sizes[d], works[d + 1][1], sizes[d + 1], KINDS[d])
            else:
                ascend_level(ops[d], works[d], sizes[d], bottom_x, sizes[d + 1], KINDS[d])


def count_small_levels(levels: list[CudaLevel]) -> int:
    """Count the levels at the end that are small enough; never the finest, whose kernels also write dot products."""
    return sum(v.cells <= TAIL for v in levels[1:]) if SUPPORTED else 0


class SmallLevels:
    """The last levels of a cycle as one launch; the result lies in the first one's z."""

    def __init__(self, levels: list[CudaLevel], inverse: Tensor, bottom_b: Tensor, bottom_x: Tensor) -> None:
        self.ops = tuple((*v.op.arrays, v.a) for v in levels)
        self.works = tuple((v.b, v.r, v.second, v.e) for v in levels)
        self.sizes = (*(v.size for v in levels), tuple(bottom_b.shape))
        self.arrays = (inverse, bottom_b, bottom_x)
        self.input, self.result = levels[0].b, levels[0].r
        tiles = [tile_of(size) for size in self.sizes]
        kinds = [
            Kind._make([*v.factors, *v.periodic, *donors_of(v.factors, v.periodic, v.size).values(), v.op.form, *tile])
            for v, tile in zip(levels, tiles, strict=False)
        ]
        self.constants: dict[str, Any] = {
            "LEVELS": len(levels), "KINDS": tuple(kinds), "TILES": tuple(tiles[1:]),
            "M": max(triton.next_power_of_2(inverse.shape[0]), 16),
        }  # fmt: skip

    def __call__(self, stop: Tensor) -> Tensor:
        """Apply the tail to its `input`."""
        m = self.arrays[0].shape[0]
        run(_small_levels, 1, self.ops, self.works, self.sizes, *self.arrays, stop, m, num_warps=16, **self.constants)
        return self.result


def tile_of(size: Any) -> tuple[int, int]:
    """Return rows and columns of a tile that holds a whole grid.

    Examples
    --------
    >>> tile_of((8, 8, 8)), tile_of((5, 1, 7))
    ((64, 8), (8, 8))
    """
    return triton.next_power_of_2(size[0] * size[1]), triton.next_power_of_2(size[2])
