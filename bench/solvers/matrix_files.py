"""`krylearn solve MATRIX RHS`: a system out of files, for people with existing simulation code."""

from __future__ import annotations

import math
import time
from pathlib import Path

from krylearn.pde import Poisson
from krylearn.solvers.front_door.prepared import Prepared

from ..measure.console import UsageError, console, seconds, table
from ..measure.timing import true_relative_residual
from .system_files import check_output, load_cells, load_matrix, load_vector, save_vector


def solve_files(
    matrix: Path,
    rhs: Path,
    shape: tuple[int, ...] | None = None,
    *,
    cells: Path | None = None,
    rtol: float = 1e-6,
    output: Path | None = None,
    weights: str | None = None,
) -> int:
    """Read, solve as `krylearn.solvers.solve_matrix` does, save, report: exit code 0 if converged, else 1.

    Raises
    ------
    UsageError
        For files that cannot be read, and for a matrix that conjugate gradients cannot solve: the message names the
        rows that show it.
    NotWrittenError
        Where the solution cannot be written; an older file is as it was.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, scipy.sparse as sp
    >>> folder = Path(tempfile.mkdtemp())
    >>> A = Poisson.from_coefficients(np.ones((4, 4)))
    >>> sp.save_npz(folder / "A.npz", sp.csr_matrix(A.matrix()))
    >>> np.save(folder / "b.npy", np.ones(16))
    >>> solve_files(folder / "A.npz", folder / "b.npy", weights="geometric")    # doctest: +ELLIPSIS
    A.npz, 16 rows...
    0
    """
    if output:
        check_output(output)
    places = math.prod(shape) if shape else None
    csr = load_matrix(matrix, rows=places)
    if shape and places and cells is None and csr.shape[0] < places:
        grid = " ".join(map(str, shape))
        raise UsageError(f"{matrix} has {csr.shape[0]} rows; expected {places}, as many as --shape {grid} has cells")
    b = load_vector(rhs, csr.shape[0])
    try:
        prepared = Prepared(csr, shape, load_cells(cells) if cells else None, weights=weights)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{matrix} is outside the class that krylearn solves: {error}") from error
    start = time.perf_counter()
    x, info = prepared.solve(b, rtol)
    solve_s = time.perf_counter() - start - info.setup_seconds
    rows = [
        ("operator", repr(prepared.operator) if isinstance(prepared.operator, Poisson) else "a matrix"),
        *(("note", note) for note in info.notes),
        *([("preconditioner", str(info.preconditioner))] if info.preconditioner else []),
        ("outcome", f"{info.reason.name}: {info.reason.value}"),
        ("iterations", info.iterations),
        ("true relative residual", f"{true_relative_residual(csr, x, b):.2e}"),
        ("set-up", seconds(prepared.seconds + info.setup_seconds)),
        ("solve", seconds(solve_s)),
    ]
    if output:
        save_vector(output, x)  # before anything is printed: a console may fail
        rows.append(("solution", str(output)))
    console.print(table(f"{matrix.name}, {csr.shape[0]} rows", ["", "krylearn"], rows))
    return 0 if info == 0 else 1
