"""What the CUDA kernels move and hold, in bytes, by arithmetic on shapes and dtypes; tests compare it with the arrays.

A launch reads or writes each of its arrays once per cell, neighbours in cache. `traffic` of a cycle and `step_bytes` of
the rest of a CG step are what `krylearn bench cuda` divides by a time to get a bandwidth; `memory_needed` is what a
solve needs beyond the operator and the caller's right-hand side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ...kernels.cuda.cycle import CudaCycle
from ...kernels.cuda.formats import CELL_CODES, TABLE
from ...kernels.cuda.level import CudaLevel
from ..hierarchy import COARSEST, coarsen
from ..network import CoefficientNetwork

VECTORS = 32  # bytes per cell of x, r, p and a copy of b in fp64; A p borrows the work space of the cycle
# bytes per cell at the peak of a set-up beyond what is kept: circuits, fp32 medium, marks, coarse stencils; of a
# cell-type medium at most, where the network is evaluated for every cell; of the torch rules, beside the kept ones
PEAK = {"network": 74, "network, cells": 106, "torch": 170}


class Need(NamedTuple):
    """Bytes: of the cycle, while solving (cycle included), and at the peak of a set-up."""

    kept: int
    solving: int
    setting_up: int


def level_traffic(v: CudaLevel, coarse: int) -> int:
    """Return the bytes that the kernels of a level move (six, four of a repeated one); coarse : cells of the next."""
    n, word = v.cells, v.b.element_size()
    if v.op.form == TABLE:
        name = v.op.arrays[0].element_size()
        stored, without_damping, weights = name, name, name
    else:
        link = v.op.arrays[0].element_size()
        stored, without_damping, weights = 5 * link, 4 * link, 3
    relax = 2 * (stored + 2 * word)
    restrict, prolong = (0, 0) if v.identity_transfer else (weights + word, weights + word)
    correct = without_damping + 3 * word
    finish = stored + 4 * word + (0 if v.op.form == TABLE else weights)
    return n * (relax + restrict + prolong + correct + finish) + (1 if v.identity_transfer else 3) * coarse * word


def traffic(cycle: CudaCycle) -> int:
    """Return the bytes that one application of a cycle moves.

    In 3D, all axes coarsened, 81 per cell (cell-type) and 131 (general) with bfloat16, 87 and 179 in fp32; the budget
    is 80 and 180. Of a cell-type operator with more than 65,536 patterns 12 more.
    """
    sizes = [*(v.cells for v in cycle.levels), cycle.bottom_b.numel()]
    levels = sum(level_traffic(v, coarse) for v, coarse in zip(cycle.levels, sizes[1:], strict=True))
    return levels + cycle.inverse.nbytes + 2 * cycle.bottom_b.nbytes


def step_bytes(cells: bool, preconditioned: bool = True) -> int:
    """Return the bytes per cell of a CG step in fp64 beside the cycle; cells : cell-type operator.

    direction 20 (24 without a cycle), product 16 and the operator's 2 or 32, residual 28 (24), x 24.

    Examples
    --------
    >>> step_bytes(True), step_bytes(False)
    (90, 120)
    """
    vectors = 20 + 16 + 28 + 24 if preconditioned else 24 + 16 + 24 + 24
    return vectors + (2 if cells else 32)


def memory_needed(
    size: tuple[int, ...], *, cells: bool, rule: str = "network", storage: torch.dtype = torch.bfloat16
) -> Need:
    """State the device memory that a solve in fp64 needs beyond the operator and the caller's b.

    Parameters
    ----------
    size : cells per axis
    cells : whether the operator is cell-type (fluid, obstacles, free surfaces)
    rule : "network", or "torch" for everything that is set up by torch: classical and tuned rules, other networks
    storage : of the conductances of levels

    Examples
    --------
    >>> need = memory_needed((256, 256, 256), cells=True)
    >>> round(need.solving / 256**3, 1), round(memory_needed((256, 256, 256), cells=False).solving / 256**3, 1)
    (54.3, 66.6)
    """
    halved: list[tuple[int, ...]] = []

    def halve(level: Sequence[int]) -> tuple[int, int, int]:
        halved.append(tuple(level))
        return tuple(2 if n > 1 else 1 for n in level)  # type: ignore[return-value]

    repeats = [step.visits for step in coarsen(size, halve, varying=not cells)]
    stored = 5 * storage.itemsize + 3 + 16
    finest = 2 + 16 if cells else stored
    coarser = [(math.prod(s), times) for s, times in zip(halved[1:], repeats[1:], strict=True)]
    kept = math.prod(size) * finest + sum(n * (stored + 8 * (times - 1)) for n, times in coarser)
    kept += 4 * COARSEST * (COARSEST + 2)
    key = "torch" if rule == "torch" else "network, cells" if cells else "network"
    return Need(kept, kept + math.prod(size) * VECTORS, math.prod(size) * PEAK[key])


def out_of_memory(A: Any, rule: Any, storage: torch.dtype) -> torch.cuda.OutOfMemoryError:
    """Say what is needed, what is free, and what to do."""
    cells = CELL_CODES.get(A) is not None
    kind = "network" if isinstance(rule, CoefficientNetwork) else "torch"
    need = memory_needed(tuple(A.diag.shape), cells=cells, rule=kind, storage=storage)
    free = f"{torch.cuda.mem_get_info(A.device)[0]:,}" if A.device.type == "cuda" else "an unknown number"
    return torch.cuda.OutOfMemoryError(
        f"out of memory: set-up needs {need.setting_up:,} bytes beyond the operator and a solve {need.solving:,} on "
        f"{A.device}, {free} are free; expected a smaller grid or a larger device: solve on the CPU (A.to('cpu')), or "
        "free other tensors first"
    )
