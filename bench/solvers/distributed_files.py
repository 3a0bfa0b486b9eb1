"""`mpirun -n N krylearn solve --distributed`: every rank reads and writes its own part of the files."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.pde import Poisson
from krylearn.solvers.files import NotWrittenError, create_beside, move_into_place

from ..measure.console import UsageError, console, seconds, table
from .system_files import check_output, load_matrix


def solve_distributed(
    matrix: Path,
    rhs: Path,
    shape: tuple[int, ...] | None = None,
    *,
    cells: Path | None = None,
    boundary: str | None = None,
    rtol: float = 1e-6,
    output: Path | None = None,
    weights: str | None = None,
) -> int:
    """Solve on all ranks; exit code 0 if converged, else 1. What goes wrong on any rank is said once.

    Parameters
    ----------
    matrix : .npy of one coefficient per cell of the grid, of which every rank maps its part; or a sparse matrix as
        without --distributed, which every rank reads whole
    rhs : .npy of the shape of the grid (or flat), of which every rank maps its part
    shape : grid of a sparse matrix
    cells : .npy of `Cell` codes; alone, with a matrix of ones, a fluid
    boundary : "neumann", "dirichlet" or "periodic", of coefficients; Dirichlet by default
    output : .npy, which the ranks fill together

    Raises
    ------
    UsageError
        on rank 0, or on all where one process runs; the others end with code 2
    """
    from krylearn.solvers.distributed.petsc_library import ending_all_ranks, world

    comm = world()
    with ending_all_ranks(comm, "krylearn solve"):
        try:
            return _solve(comm, matrix, rhs, shape, cells, boundary, rtol, output, weights)
        except NotWrittenError:
            if comm.rank == 0:
                raise
            return 1
        except (ValueError, OSError) as error:
            # the same on every rank: `collective_errors` has seen to it
            if comm.rank == 0:
                raise UsageError(str(error)) from error
            return 2


def _solve(
    comm: Any,
    matrix: Path,
    rhs: Path,
    shape: tuple[int, ...] | None,
    cells: Path | None,
    boundary: str | None,
    rtol: float,
    output: Path | None,
    weights: str | None,
) -> int:
    from krylearn.solvers.distributed import DistributedMultigrid, DistributedPoisson, Partition, cg
    from krylearn.solvers.distributed.petsc_library import collective_errors

    with collective_errors(comm):
        if output is not None:
            if output.suffix != ".npy":
                raise ValueError(
                    f"output {output} ends in {output.suffix!r}; expected .npy, which ranks write together"
                )
            check_output(output)
        whole = None
        if matrix.suffix != ".npy":
            if shape is None:
                raise ValueError(f"got {matrix} without --shape; expected the grid of its rows")
            whole = Poisson.from_matrix(load_matrix(matrix), shape)
    if whole is not None:
        A = DistributedPoisson.from_operator(whole, Partition(whole.grid_shape, comm))
        del whole
    else:
        A = DistributedPoisson.from_files(matrix, cells, comm=comm, boundary=boundary)
    part = A.part
    with collective_errors(comm):
        mapped = np.load(rhs, mmap_mode="r")
        if mapped.size != int(np.prod(A.grid_shape)):
            raise ValueError(
                f"{rhs} holds {mapped.shape} = {mapped.size} numbers; expected one per cell, {A.grid_shape}"
            )
        b = np.array(mapped.reshape(A.grid_shape)[part.own], dtype=np.float64)
    M = DistributedMultigrid(A, weights)
    start = time.perf_counter()
    x, info = cg(A, b, rtol=rtol, M=M)
    solve_s = time.perf_counter() - start
    norm_b = float(np.sqrt(comm.allreduce(float(np.vdot(b, b)))))
    if output is not None:
        write_together(output, A.grid_shape, part, x)
    if comm.rank == 0:
        rows = [
            ("operator", repr(A)),
            ("this rank's part", " x ".join(map(str, part.own_shape))),
            ("outcome", f"{info.reason.name}: {info.reason.value}"),
            ("iterations", info.iterations),
            ("true relative residual", f"{info.true_residual / norm_b if norm_b else 0.0:.2e}"),
            ("set-up", seconds(M.setup_seconds)),
            ("solve", seconds(solve_s)),
            *((("solution", str(output)),) if output is not None else ()),
        ]
        console.print(table(f"{matrix.name}, {comm.size} ranks", ["", "krylearn"], rows))
    return 0 if info == 0 else 1


def write_together(path: Path, grid_shape: tuple[int, ...], part: Any, own: np.ndarray) -> None:
    """Write an .npy of the whole grid, every rank its own part; the file appears when it is whole. Collective."""
    from krylearn.solvers.distributed.petsc_library import collective_errors

    first, place, beside, descriptor = part.comm.rank == 0, os.path.realpath(path), "", -1
    try:
        with collective_errors(part.comm):
            if first:
                try:
                    descriptor, beside = create_beside(place)
                    _reserve(descriptor, grid_shape)
                except OSError as error:
                    raise NotWrittenError.at(path, error) from error
        name = part.comm.bcast(beside)
        with collective_errors(part.comm):
            made = np.load(name, mmap_mode="r+")
            made[part.own] = own
            made.flush()
        with collective_errors(part.comm):
            if first:
                os.fsync(descriptor)
                move_into_place(beside, place)
                beside = ""
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        if beside:
            Path(beside).unlink(missing_ok=True)


def _reserve(descriptor: int, grid_shape: tuple[int, ...]) -> None:
    """Write the header of an .npy file and take the room of its numbers.

    A disk without room is an error here; met by a write into mapped memory it would be a signal.
    """
    with os.fdopen(os.dup(descriptor), "wb") as file:
        facts = {"descr": "<f8", "fortran_order": False, "shape": tuple(map(int, grid_shape))}
        np.lib.format.write_array_header_1_0(file, facts)
        size = file.tell() + 8 * math.prod(grid_shape)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.ftruncate(descriptor, size)
