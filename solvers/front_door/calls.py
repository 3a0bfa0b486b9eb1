"""`solve_matrix` and `factorized`: one door for the matrices of other people's code.

A matrix is mended as far as that can be undone exactly (`mending`), its grid is looked for (`grid_search`), and what
was done is said in `info.notes`. The answer is in the caller's terms, and so is the judgement: ‖b - A x‖ with the
caller's A and b, and with x as it is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

from ..krylov.outcome import ConvergenceError, SolveInfo
from .border import Bordered, Reordered, prepare
from .entries import columns_of, like_columns, result_dtype
from .prepared import Prepared


def solve_matrix(
    A: Any,
    b: Any,
    shape: Any = None,
    cells: Any = None,
    *,
    rtol: float = 1e-8,
    strict: bool = False,
) -> tuple[Any, SolveInfo]:
    """Solve A x = b for a matrix out of existing code, by multigrid on its grid if it has one.

    Parameters
    ----------
    A : SciPy sparse matrix or array in any format and index type, NumPy array, or torch tensor of the CPU; n by n.
        Mended and reported in ``info.notes``: negative signs (of all rows or of some), rows of fixed values kept in A
        (with or without their columns), rows divided by volumes, symmetric scaling, explicit zeros, rounding
    b : (n,), (n, 1) or (n, k), a column per right-hand side; NumPy or torch
    shape : (nx, ny) or (nx, ny, nz), numbered with the last or the first axis fastest; None: that of `cells`, or found
        in the pattern of A
    cells : `Cell` codes or booleans on the grid, if only FLUID cells are numbered; None: found as well if possible
    rtol : float; ‖b - A x‖ <= rtol ‖b‖ for each column
    strict : bool; raise ConvergenceError on failure

    Returns
    -------
    x : shape and array library of b; single precision if A and b both are
    info : SolveInfo; 0 = converged. ``info.notes`` says what A was taken for; ``info.each`` tells of each column

    Raises
    ------
    ValueError, TypeError
        for what conjugate gradients cannot solve, with the reason: an A that no scaling of rows makes symmetric, one
        with coupled diagonals of both signs, NaN, complex numbers, shapes that do not fit

    Notes
    -----
    A symmetric positive definite matrix that is no 5-point or 7-point stencil goes to `cg` with PyAMG's smoothed
    aggregation if that is installed, else with its diagonal.

    Between calls only the grid of the last structures is remembered, and tried first for a matrix of the same size.
    Where the same A is solved with again, `factorized` keeps what was prepared.

    Examples
    --------
    >>> from scipy.sparse import diags_array, kronsum
    >>> line = diags_array([np.ones(19), -2 * np.ones(20), np.ones(19)], offsets=[-1, 0, 1])
    >>> x, info = solve_matrix(kronsum(line, line), np.ones(400))               # a negative Laplacian
    >>> info == 0, bool((x < 0).all())
    (True, True)
    >>> for note in info.notes:
    ...     print(note)
    the diagonal is negative: solved as -A x = -b
    grid (20, 20) found in the pattern of A
    solved by cg with the diagonal, which is faster for so small a system
    """
    prepared = prepare(A, shape, cells)
    x, info = _solve_columns(prepared, A, b, rtol)
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


def factorized(A: Any, shape: Any = None, rtol: float = 1e-10, *, cells: Any = None) -> Callable[[Any], Any]:
    """Return ``solve(b)`` for many right-hand sides, with the call of ``scipy.sparse.linalg.factorized``.

    Parameters
    ----------
    A, shape, rtol, cells : as in `solve_matrix`; what has to be found out about A is found out here

    Returns
    -------
    solve : b -> x, for b of shape (n,), (n, 1) or (n, k); raises ConvergenceError where the tolerance is not met

    Examples
    --------
    >>> from scipy.sparse import diags_array, kronsum
    >>> line = diags_array([-np.ones(19), 2 * np.ones(20), -np.ones(19)], offsets=[-1, 0, 1])
    >>> A = kronsum(line, line).tocsc()
    >>> solve = factorized(A)
    >>> x = solve(np.ones(400))
    >>> float(abs(A @ x - 1).max()) < 1e-8
    True
    """
    prepared = prepare(A.copy() if scipy.sparse.issparse(A) else A, shape, cells)  # later changes of A do not matter

    def solve(b: Any) -> Any:
        x, info = _solve_columns(prepared, A, b, rtol)
        if info:
            raise ConvergenceError(info, x)
        return x

    return solve


def _solve_columns(prepared: Prepared | Bordered | Reordered, A: Any, b: Any, rtol: float) -> tuple[Any, SolveInfo]:
    """Solve for each column; one column has an info of its own, several have `each`."""
    columns, dtype = columns_of(b, prepared.csr.shape[0]), result_dtype(A, b)
    solved = [prepared.solve(column, rtol, dtype=dtype) for column in columns]
    x = like_columns(np.stack([each for each, _ in solved]) if solved else columns, b, dtype)
    if len(solved) == 1:
        info = solved[0][1]
        facts = {**info.__dict__, "setup_seconds": info.setup_seconds + prepared.seconds}
        return x, SolveInfo(int(info), **facts)
    info = SolveInfo.of_batch([info for _, info in solved], notes=tuple(prepared.notes))
    return x, info
