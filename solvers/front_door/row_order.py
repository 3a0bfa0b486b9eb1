"""Equations in another order than the unknowns: scripts that write rows of the interior first and of the sides after.

Row i of such a matrix belongs to the unknown whose coefficient is its largest. Where that is one row for each unknown,
the rows are put into that order; x is the same, and so is the norm of b - A x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from krylearn.pde.compiled import compile_once

Array = np.ndarray[Any, Any]
PASSES = 20  # over rows with several largest entries; what is still open then is not clear


def match_rows(indptr, indices, data, row_of, queue):
    """Write for each column the row that belongs to it; return how many rows found one.

    Rows with one largest entry choose first; of several equal ones, a row gets that which no other row has.
    row_of : -1 on entry
    """
    n, matched, waiting = len(indptr) - 1, 0, 0
    for row in range(n):
        largest, column, ties = 0.0, -1, 0
        for e in range(indptr[row], indptr[row + 1]):
            size = abs(data[e])
            if size > largest * (1 + 1e-9):
                largest, column, ties = size, indices[e], 1
            elif size >= largest * (1 - 1e-9) and size > 0:
                ties += 1
        if ties > 1:
            queue[waiting] = row
            waiting += 1
        elif column >= 0 and row_of[column] < 0:
            row_of[column] = row
            matched += 1
        else:
            return matched
    for _ in range(PASSES):
        if waiting == 0:
            break
        progress, left = False, 0
        for k in range(waiting):
            row = queue[k]
            largest = 0.0
            for e in range(indptr[row], indptr[row + 1]):
                largest = max(largest, abs(data[e]))
            column, free = -1, 0
            for e in range(indptr[row], indptr[row + 1]):
                if abs(data[e]) >= largest * (1 - 1e-9) and row_of[indices[e]] < 0:
                    column = indices[e]
                    free += 1
            if free == 1:
                row_of[column] = row
                matched += 1
                progress = True
            else:
                queue[left] = row
                left += 1
        waiting = left
        if not progress:
            break
    return matched


def find_row_order(csr: scipy.sparse.csr_array) -> Array | None:
    """Return which row belongs to each unknown; None if each has its own already, or if that is not clear.

    Examples
    --------
    >>> A = np.array([[2.0, -1, 0], [-1, 2, -1], [0, -1, 2]])
    >>> find_row_order(scipy.sparse.csr_array(A[[1, 2, 0]])).tolist()
    [2, 0, 1]
    >>> find_row_order(scipy.sparse.csr_array(A)) is None
    True
    """
    n = csr.shape[0]
    row_of, queue = np.full(n, -1, dtype=np.int64), np.empty(n, dtype=np.int64)
    found = compile_once(match_rows)(csr.indptr, csr.indices, csr.data, row_of, queue)
    return None if found < n or np.array_equal(row_of, np.arange(n)) else row_of
