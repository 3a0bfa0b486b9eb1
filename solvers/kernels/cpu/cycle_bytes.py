"""The kernels of `reference` fused and parallel for the CPU (numba); the same results to rounding.

Arrays are C-contiguous internal grids (nx, ny, nz) of one dtype (fp32 or fp64); a work item is a row along z. Transfer
weights are stored in eight bits; prolongation and restriction use the same numbers, so symmetry and definiteness do not
notice. Links wrap around every axis (the wrap link is 0 where an axis is not periodic), so no row is special.

Bytes per cell of one level in fp32, neighbours in cache, without write-allocation, are in `LEVEL_BYTES`: general
coefficients 143 (188 for all levels, repeated visits included), of cell type 87 on the finest level (110 for all).

Reductions sum rows first and then the rows in a fixed order: results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .compile import threads_for
from .smoothing import apply_dot, smooth, smooth_from_zero
from .transfer import prolong_add, residual_rows, restrict_rows
from .vectors import dot_rows, update_direction, update_solution

if TYPE_CHECKING:
    from .cycle import FusedCycle

# what each kernel reads and writes per cell, by the type of sd: links (3), diagonal, sd; vectors; weights
LEVEL_BYTES = {
    "float32": {"from zero": 28.0, "residual": 29.0, "restrict": 6.5, "prolong": 15.5, "smooth": 32.0},
    "uint16": {"from zero": 14.0, "residual": 17.0, "restrict": 6.5, "prolong": 13.5, "smooth": 18.0},
    "float64": {"from zero": 56.0, "residual": 57.0, "restrict": 11.0, "prolong": 28.0, "smooth": 64.0},
}


def cycle_bytes(cycle: FusedCycle) -> float:
    """Bytes per cell of the finest level that one V-cycle moves, all levels counted."""
    moved = 0.0
    for level in cycle.levels:
        bytes_of = LEVEL_BYTES[level.sd.dtype.name]
        each = sum(bytes_of.values()) + bytes_of["smooth"] - (bytes_of["restrict"] if level.stays else 0)
        moved += each * level.b.size
    return moved / max(cycle.input.size, 1)


__all__ = [
    "LEVEL_BYTES", "apply_dot", "cycle_bytes", "dot_rows", "prolong_add", "residual_rows", "restrict_rows", "smooth",
    "smooth_from_zero", "threads_for", "update_direction", "update_solution",
]  # fmt: skip
