"""The kernels of `reference` fused and parallel for the CPU (numba); the same results to rounding.

Arrays are C-contiguous internal grids (nx, ny, nz) of one dtype (fp32 or fp64); a work item is a row along z. Transfer
weights are stored in eight bits; prolongation and restriction use the same numbers, so symmetry and definiteness do not
notice. Links wrap around every axis (the wrap link is 0 where an axis is not periodic), so no row is special.

Bytes per cell of one level in fp32, neighbours in cache, without write-allocation: from zero 28, residual 29,
restriction 6.5, prolongation 15.5, two smoothing steps 64; sum 143, times 8/7 for all levels = 163.

Reductions sum rows first and then the rows in a fixed order: results do not depend on the number of threads.
"""

from __future__ import annotations

from .cpu_jit import threads_for
from .cpu_smoothing import apply_dot, smooth, smooth_from_zero
from .cpu_transfer import prolong_add, residual_rows, restrict_rows
from .cpu_vectors import dot_rows, update_direction, update_solution

__all__ = [
    "apply_dot", "dot_rows", "prolong_add", "residual_rows", "restrict_rows", "smooth", "smooth_from_zero",
    "threads_for", "update_direction", "update_solution",
]  # fmt: skip
