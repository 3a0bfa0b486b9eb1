"""A matrix with one more row and column of equal numbers: a closed box whose mean is given by a Lagrange multiplier.

    [ C    c e ] [ x      ]   [ f ]
    [ c eᵀ  0  ] [ lambda ] = [ s ]

C is prepared by itself. Where it is singular with the constants k of one component, lambda takes out of f what C cannot
reach, lambda = lᵀ f / (c lᵀ e) with lᵀ C = 0, and the mean of x follows from s; otherwise a solve with e, done once,
tells lambda.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.sparse
from krylearn.pde import Poisson

from ..krylov.outcome import Reason, SolveInfo
from .entries import to_csr
from .mending import RefusedMatrixError
from .prepared import Prepared, norm
from .row_order import find_row_order

Array = np.ndarray[Any, Any]
ROUNDS = 8


def find_border(csr: scipy.sparse.csr_array) -> int | None:
    """Return the row and column that border the rest, None if there is no such.

    Examples
    --------
    >>> border = np.block([[np.diag(np.arange(1.0, 20.0)), np.ones((19, 1))], [np.ones((1, 19)), np.zeros((1, 1))]])
    >>> find_border(scipy.sparse.csr_array(border))
    19
    """
    lengths = np.diff(csr.indptr)
    n, row = len(lengths), int(np.argmax(lengths))
    if n < 3 or 2 * lengths[row] < n or np.count_nonzero(2 * lengths >= n) > 1 + (n < 16):
        return None
    part = slice(csr.indptr[row], csr.indptr[row + 1])
    columns, values = csr.indices[part], csr.data[part]
    columns, values = columns[values != 0], values[values != 0]
    if 2 * len(values) < n or (columns == row).any() or np.ptp(values) > 0:
        return None
    at = np.flatnonzero((csr.indices == row) & (csr.data != 0))
    rows = np.searchsorted(csr.indptr, at, side="right") - 1
    same = np.array_equal(np.sort(rows), np.sort(columns)) and (csr.data[at] == values[0]).all()
    return row if same else None


class Bordered:
    """The solver of a bordered matrix, with what `Prepared` has: csr, notes, seconds, solve."""

    def __init__(self, A: Any, border: int, shape: Any, cells: Any, weights: Any) -> None:
        start = time.perf_counter()
        self.csr, eps = to_csr(A)
        n = self.csr.shape[0]
        self.border, self.rest = border, np.flatnonzero(np.arange(n) != border)
        inside = scipy.sparse.csr_array(self.csr[self.rest][:, self.rest])
        self.column = np.asarray(self.csr[:, [border]].todense(), dtype=np.float64).ravel()[self.rest]
        self.inner = Prepared(inside if eps < 1e-10 else inside.astype(np.float32), shape, cells, weights=weights)
        self.operator = self.inner.operator
        self.constant, self.left = self._null_vectors()
        self.by_column = np.zeros(0)  # C^-1 times the column; without a meaning where C is singular
        if self.constant is None:
            self.by_column, info = self.inner.solve(self.column, 1e-13)
            if info and info.reason is not Reason.STAGNATED:
                raise ValueError(f"got a bordered A whose inner part cannot be solved: {info.reason.value}")
        self.notes = [*self.inner.notes, f"row and column {border} are the multiplier of a given mean"]
        self.seconds = time.perf_counter() - start

    def _null_vectors(self) -> tuple[Array | None, Array | None]:
        """Return the constants that C maps to 0, and l with lᵀ C = 0; None if C is regular."""
        mended = self.inner.mended
        if isinstance(self.operator, Poisson) and self.operator.nullspace.dimension == 1:
            A, singular = self.operator, self.operator.nullspace.singular[0]
            labels = np.asarray(A.component_labels().cpu()).ravel()
            cells = labels if A.numbering is None else labels[np.asarray(A.numbering.cpu())]
            constant = (cells == singular).astype(np.float64)
        elif self.inner.nullspace is not None and self.inner.nullspace.shape[1] == 1:
            constant = (~mended.alone).astype(np.float64)
        else:
            return None, None
        return constant * mended.right, constant * mended.left

    def solve(self, b: Array, rtol: float, atol: float = 0.0, dtype: Any = np.float64) -> tuple[Array, SolveInfo]:
        """Return x and lambda together, judged by the residual of the whole matrix."""
        tolerance = max(rtol * norm(b), atol)
        x, history, iterations = np.zeros(len(b)), [], 0
        info = SolveInfo(0)
        for _ in range(ROUNDS):
            returned = x.astype(dtype)
            r = b - self.csr @ returned.astype(np.float64)
            history.append(norm(r))
            if history[-1] <= tolerance or (len(history) > 1 and history[-1] > 0.5 * history[-2]):
                break
            r = b - self.csr @ x
            step, info = self._step(r, tolerance)
            x += step
            iterations += info.iterations
        reason = Reason.CONVERGED if history[-1] <= tolerance else Reason.STAGNATED
        facts = {**info.__dict__, "notes": tuple(self.notes), "residuals": tuple(history), "iterations": iterations}
        facts |= {"true_residual": history[-1], "reason": reason}
        return returned, SolveInfo(0 if reason is Reason.CONVERGED else max(iterations, 1), **facts)

    def _step(self, r: Array, tolerance: float) -> tuple[Array, SolveInfo]:
        f, s, step = r[self.rest], r[self.border], np.zeros(len(r))
        if self.constant is not None and self.left is not None:
            multiplier = float(self.left @ f) / float(self.left @ self.column)
            x, info = self.inner.solve(f - multiplier * self.column, 0.0, 0.3 * tolerance)
            x = x + (s - self.column @ x) / (self.column @ self.constant) * self.constant
        else:
            x, info = self.inner.solve(f, 0.0, 0.3 * tolerance)
            multiplier = float(self.column @ x - s) / float(self.column @ self.by_column)
            x = x - multiplier * self.by_column
        step[self.rest], step[self.border] = x, multiplier
        return step, info


class Reordered:
    """The solver of a matrix whose rows are in another order than its unknowns, with what `Prepared` has."""

    def __init__(self, A: Any, order: Array, shape: Any, weights: Any) -> None:
        start = time.perf_counter()
        self.csr, self.order = to_csr(A)[0], order
        self.inner = Prepared(A[order], shape, None, weights=weights)
        self.operator = self.inner.operator
        self.moved = (
            f"rows in another order than the unknowns: {int((order != np.arange(len(order))).sum())} were moved"
        )
        self.notes = [self.moved, *self.inner.notes]
        self.seconds = time.perf_counter() - start

    def solve(self, b: Array, rtol: float, atol: float = 0.0, dtype: Any = np.float64) -> tuple[Array, SolveInfo]:
        """Return x, judged by a residual whose entries are those of the caller's in another order."""
        x, info = self.inner.solve(b[self.order], rtol, atol, dtype)
        return x, SolveInfo(int(info), **(info.__dict__ | {"notes": (self.moved, *info.notes)}))


def prepare(A: Any, shape: Any = None, cells: Any = None, *, weights: Any = None) -> Prepared | Bordered | Reordered:
    """Return a matrix made ready, bordered or not, its rows in the order of the unknowns or in another.

    Examples
    --------
    >>> type(prepare(np.diag([2.0, 3.0]))).__name__
    'Prepared'
    """
    if not scipy.sparse.issparse(A):
        A = to_csr(A)[0]
    csr = A if A.format == "csr" else scipy.sparse.csr_array(A)
    border = find_border(csr) if csr.shape[0] == csr.shape[1] else None
    if border is not None:
        return Bordered(csr, border, shape, cells, weights)
    try:
        return Prepared(A if A.format != "coo" else csr, shape, cells, weights=weights)
    except RefusedMatrixError:
        order = None if cells is not None else find_row_order(to_csr(csr)[0])
        if order is None:
            raise
        return Reordered(csr, order, shape, weights)
