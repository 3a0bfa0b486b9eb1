"""A system out of files for `krylearn bench solvers --matrix`: for everybody if it is of our class, else for rivals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from krylearn.pde import Poisson

from ..measure.console import UsageError
from ..rivals.loops import System
from .compare import Problem
from .system_files import load_cells, load_matrix, load_vector


def file_problem(
    matrix: Path,
    *,
    rhs: Path | None = None,
    shape: Sequence[int] | None = None,
    cells: Path | None = None,
    order: str = "C",
    seed: int = 31415,
) -> Problem:
    """Read a system; where it is no grid Poisson operator, rivals still get it, and the problem says why we do not.

    Parameters
    ----------
    matrix, rhs : files; without a right-hand side it is the matrix times seeded noise, so always compatible
    shape, cells, order : as `Poisson.from_matrix` takes them

    Raises
    ------
    UsageError
        For files that cannot be read, and a matrix that is not symmetric: conjugate gradients do not apply.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "A.npz"
    >>> sp.save_npz(file, sp.csr_array(np.diag([2.0, 4.0, 6.0])))
    >>> file_problem(file).absence
    'krylearn needs the grid: give --shape'
    """
    csr = sp.csr_array(load_matrix(matrix)).astype(np.float64)
    csr.indices, csr.indptr = csr.indices.astype(np.int32), csr.indptr.astype(np.int32)
    if abs(csr - csr.T).max() > 1e-10 * abs(csr).max():
        raise UsageError(f"{matrix} is not symmetric; expected a symmetric positive (semi)definite matrix")
    noise = np.random.default_rng(seed).standard_normal(csr.shape[0])
    b = load_vector(rhs, csr.shape[0]) if rhs else csr @ noise
    A, absence = None, "krylearn needs the grid: give --shape"
    if shape:
        try:
            mask = load_cells(cells) if cells else None
            A, absence = Poisson.from_matrix(csr, shape=tuple(shape), cells=mask, order=order), ""
        except (ValueError, TypeError) as error:
            absence = f"outside the class that krylearn solves: {error}"
    return Problem(matrix.name, System(csr, A), b, tuple(shape or csr.shape), None if rhs else seed, b, absence)
