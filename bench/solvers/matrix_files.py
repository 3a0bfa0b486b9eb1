"""`krylearn solve MATRIX RHS --shape ...`: a system out of files, for people with existing simulation code."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse as sp
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg
from rich.markup import escape

from ..measure.console import UsageError, console, seconds, table
from ..measure.timing import true_relative_residual

MATRIX_KINDS = "Matrix Market (.mtx, .mtx.gz) or SciPy's .npz (scipy.sparse.save_npz)"
VECTOR_KINDS = "Matrix Market (.mtx, .mtx.gz), NumPy (.npy, .npz with one array) or text (.txt)"


def load_matrix(path: Path) -> sp.csr_array:
    """Read a square, real sparse matrix.

    Raises
    ------
    UsageError
        Says what the file holds and what is expected.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "A.npz"
    >>> sp.save_npz(file, sp.csr_matrix(np.diag([2.0, 4.0])))
    >>> load_matrix(file).shape
    (2, 2)
    """
    kind = _kind(path)
    try:
        if kind == ".mtx":
            matrix = scipy.io.mmread(path)
        elif kind == ".npz":
            matrix = sp.load_npz(path)
        else:
            raise UsageError(f"{path} ends in '{path.suffix}'; expected {MATRIX_KINDS}")
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be read as a sparse matrix ({error}); expected {MATRIX_KINDS}") from error
    matrix = sp.csr_array(matrix)
    if matrix.shape[0] != matrix.shape[1] or np.iscomplexobj(matrix):
        raise UsageError(f"{path} holds a {matrix.dtype} matrix of shape {matrix.shape}; expected a real square one")
    return matrix.astype(np.float64) if matrix.dtype.kind != "f" else matrix


def load_vector(path: Path, size: int | None = None) -> np.ndarray:
    r"""Read a real vector; `size` is what the matrix asks for.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "b.txt"
    >>> _ = file.write_text("1.5\n2.5\n")
    >>> load_vector(file, 2)
    array([1.5, 2.5])
    """
    try:
        vector = _read_vector(path)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be read as a vector ({error}); expected {VECTOR_KINDS}") from error
    if np.iscomplexobj(vector) or vector.dtype.kind not in "fiu":
        raise UsageError(f"{path} holds numbers of type {vector.dtype}; expected real ones")
    if size is not None and vector.size != size:
        raise UsageError(f"{path} holds {vector.shape} = {vector.size} numbers; expected {size}, one per matrix row")
    return vector.astype(np.float64).reshape(-1)


def save_vector(path: Path, x: np.ndarray) -> None:
    """Write a vector as .npy, .txt or .mtx.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "x.npy"
    >>> save_vector(file, np.array([1.0, 2.0]))
    >>> load_vector(file)
    array([1., 2.])
    """
    writers: dict[str, Any] = {
        ".npy": lambda: np.save(path, x),
        ".txt": lambda: np.savetxt(path, x),
        ".mtx": lambda: scipy.io.mmwrite(path, x[:, None]),
    }
    check_output(path)
    writers[path.suffix]()


def check_output(path: Path) -> None:
    """Refuse an output that could not be written, before the time of a solve is spent on it.

    Examples
    --------
    >>> check_output(Path("x.npy"))
    """
    if path.suffix not in (".npy", ".txt", ".mtx"):
        raise UsageError(f"output {path} ends in '{path.suffix}'; expected .npy, .txt or .mtx")
    if not path.parent.is_dir():
        raise UsageError(f"output {path}: there is no folder {path.parent}; create it first")


def load_cells(path: Path) -> np.ndarray:
    """Read a mask of cells: `Cell` codes (0 SOLID, 1 FLUID, 2 OPEN) or booleans (True = FLUID).

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "cells.npy"
    >>> np.save(file, np.array([[True, False]]))
    >>> load_cells(file).tolist()
    [[1, 0]]
    """
    try:
        cells = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a cell mask ({error}); expected a .npy array") from error
    return np.asarray(cells).astype(np.int64)


def solve_files(
    matrix: Path,
    rhs: Path,
    shape: tuple[int, ...],
    *,
    cells: Path | None = None,
    order: str = "C",
    rtol: float = 1e-6,
    output: Path | None = None,
    weights: str | None = None,
) -> int:
    """Read, recognise, solve, report: exit code 0 if converged, else 1.

    Raises
    ------
    UsageError
        For files that cannot be read, and for a matrix outside the class of grid Poisson operators: the message names
        the row and the expectation that it breaks. No other method is tried in its place.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> A = Poisson.from_coefficients(np.ones((4, 4)))
    >>> sp.save_npz(folder / "A.npz", sp.csr_matrix(A.matrix()))
    >>> np.save(folder / "b.npy", np.ones(16))
    >>> solve_files(folder / "A.npz", folder / "b.npy", (4, 4), weights="geometric")    # doctest: +ELLIPSIS
    A.npz, 16 rows...
    0
    """
    if output:
        check_output(output)
    csr = load_matrix(matrix)
    b = load_vector(rhs, csr.shape[0])
    try:
        A = Poisson.from_matrix(csr, shape=shape, cells=load_cells(cells) if cells else None, order=order)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{matrix} is outside the class that krylearn solves: {error}") from error
    M = NeuralMultigrid(A, weights=weights)
    start = time.perf_counter()
    x, info = cg(A, b, rtol=rtol, M=M)
    solve_s = time.perf_counter() - start
    rows = [
        ("operator", escape(repr(A))),
        ("outcome", f"{info.reason.name}: {info.reason.value}"),
        ("iterations", info.iterations),
        ("true relative residual", f"{true_relative_residual(csr, x, b):.2e}"),
        ("set-up", seconds(M.setup_seconds)),
        ("solve", seconds(solve_s)),
    ]
    console.print(table(f"{matrix.name}, {csr.shape[0]} rows", ["", "krylearn"], rows))
    if output:
        save_vector(output, x)
        console.print(f"solution: {output}")
    return 0 if info == 0 else 1


def _kind(path: Path) -> str:
    return ".mtx" if path.name.endswith(".mtx.gz") else path.suffix


def _read_vector(path: Path) -> np.ndarray:
    kind = _kind(path)
    if kind == ".mtx":
        read = scipy.io.mmread(path)
        return read.toarray() if sp.issparse(read) else np.asarray(read)
    if kind == ".txt":
        return np.loadtxt(path)
    if kind == ".npy":
        return np.load(path, allow_pickle=False)
    if kind == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"it holds the arrays {', '.join(arrays.files)}")
            return arrays[arrays.files[0]]
    raise ValueError(f"it ends in '{path.suffix}'")
