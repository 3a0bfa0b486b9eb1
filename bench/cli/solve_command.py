"""`krylearn solve`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import WEIGHTS, add_command, check_count, check_tolerance, check_weights


def add_to(commands: Any) -> None:
    """Describe `krylearn solve`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    text = "solve a system out of files: a matrix of existing simulation code"
    add = add_command(commands, "solve", run_solve, text).add_argument
    add("matrix", type=Path, help="Matrix Market .mtx or .mtx.gz, or scipy.sparse.save_npz's .npz")
    add("rhs", type=Path, help=".mtx, .npy, .npz (one array) or .txt")
    add("--shape", type=check_count, nargs="+", metavar="N", help="grid: NX NY or NX NY NZ; else found in the pattern")
    add("--cells", type=Path, help=".npy of 0 SOLID, 1 FLUID, 2 OPEN, or booleans; if rows number FLUID cells only")
    add("--order", choices=("C", "F"), help="not needed any more: either order is recognised")
    add("--rtol", type=check_tolerance, default=1e-6, help="tolerance on the true relative residual")
    add("--weights", type=check_weights, help=WEIGHTS)
    add("-o", "--output", type=Path, help="write the solution: .npy, .txt or .mtx")
    ranks = "under mpirun, on all ranks (PETSc): MATRIX and RHS may be .npy on the grid, one coefficient per cell"
    add("--distributed", action="store_true", help=ranks)
    kinds = ("neumann", "dirichlet", "periodic")
    add("--boundary", choices=kinds, help="with --distributed, of coefficients (default: dirichlet)")


def run_solve(options: argparse.Namespace) -> int:
    """Solve the system in the files."""
    if options.distributed:
        from ..solvers.distributed_files import solve_distributed

        names = ("cells", "boundary", "rtol", "output", "weights")
        shape = tuple(options.shape) if options.shape else None
        return solve_distributed(options.matrix, options.rhs, shape, **{name: getattr(options, name) for name in names})
    from ..solvers.matrix_files import solve_files

    facts = {name: getattr(options, name) for name in ("cells", "rtol", "output", "weights")}
    return solve_files(options.matrix, options.rhs, tuple(options.shape) if options.shape else None, **facts)
