"""How kernels are launched over a grid, and which cells a program finds in its tile (Triton).

Arrays are C-contiguous internal grids (nx, ny, nz). A program handles a tile of rows along z: integer divisions happen
once per row, loads are contiguous, and what neighbouring tiles share comes from the cache. Links wrap around every axis
(the wrap link is 0 where an axis is not periodic), so no size and no boundary is special.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError as error:  # pragma: no cover
    raise ImportError("the CUDA kernels need Triton; expected: pip install 'krylearn[cuda]' (Linux)") from error

TILE = 1024  # cells per program: 8 per thread of 4 warps
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read by Triton too when it is imported
LAUNCHES = [0]  # kernels launched by this process, for tests


def tile_shape(size: Any, cells: int = TILE) -> tuple[int, int]:
    """Return rows and cells along z of a tile of so many cells; the interpreter takes a whole grid at once."""
    columns = min(triton.next_power_of_2(size[2]), 128, cells)
    if INTERPRETED and cells >= 128:  # tests of several programs ask for fewer
        return min(triton.next_power_of_2(size[0] * size[1]), (1 << 14) // columns), columns
    return max(cells // columns, 1), columns


def programs(size: Any, cells: int = TILE) -> int:
    """Count the tiles of a grid: the number of partial sums of a dot product."""
    rows, columns = tile_shape(size, cells)
    return triton.cdiv(size[0] * size[1], rows) * triton.cdiv(size[2], columns)


def launch(kernel: Any, size: Any, *arguments: Any, cells: int = TILE, **constants: Any) -> None:
    """Run a kernel over all tiles of a grid, whose lengths are its last arguments."""
    rows, columns = tile_shape(size, cells)
    run(kernel, programs(size, cells), *arguments, *size, R=rows, Z=columns, **constants)


def run(kernel: Any, count: int, *arguments: Any, **constants: Any) -> None:
    """Launch so many programs of a kernel."""
    LAUNCHES[0] += 1
    kernel[(count,)](*arguments, **constants)


def new_sums(size: Any, device: torch.device) -> Tensor:
    """Room for one partial sum per program."""
    return torch.zeros(programs(size), dtype=torch.float64, device=device)


def make_stop(device: torch.device) -> Tensor:
    """Return a `stop` that lets kernels run."""
    return torch.zeros(1, dtype=torch.float64, device=device)


# --- inside a kernel --------------------------------------------------------------------------------------------------


@triton.jit
def tile(nx, ny, nz, R: tl.constexpr, Z: tl.constexpr):
    """Return i, j (rows, 1), k (1, columns) of this program's cells, and which of them exist."""
    strips = tl.cdiv(nz, Z)
    row = (tl.program_id(0) // strips) * R + tl.arange(0, R)[:, None]
    k = (tl.program_id(0) % strips) * Z + tl.arange(0, Z)[None, :]
    return row // ny, row % ny, k, (row < nx * ny) & (k < nz)


@triton.jit
def up(i, n):
    """Return the next index, wrapped."""
    return tl.where(i + 1 < n, i + 1, 0)


@triton.jit
def down(i, n):
    """Return the index before, wrapped."""
    return tl.where(i > 0, i - 1, n - 1)


@triton.jit
def around(i, j, k, nx, ny, nz):
    """Return the flat index of a cell and of its six neighbours: x+, x-, y+, y-, z+, z-."""
    return (
        (i * ny + j) * nz + k,
        (up(i, nx) * ny + j) * nz + k,
        (down(i, nx) * ny + j) * nz + k,
        (i * ny + up(j, ny)) * nz + k,
        (i * ny + down(j, ny)) * nz + k,
        (i * ny + j) * nz + up(k, nz),
        (i * ny + j) * nz + down(k, nz),
    )
