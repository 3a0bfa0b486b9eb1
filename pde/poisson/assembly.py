"""The operator as a SciPy CSR matrix: the reference for the matrix-free product."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from .fields import PoissonFields


def matrix(A: PoissonFields, unknowns: bool = False) -> scipy.sparse.csr_array:
    """Assemble A; columns ascend, and the two faces between the cells of a periodic axis of length 2 are summed."""
    cells = np.arange(A.unknown.numel()) if A.numbering is None else A.numbering.cpu().numpy()
    mask = A.unknown.cpu().numpy().ravel()
    if A.uncoupled is not None:
        mask = mask.copy()
        mask[A.uncoupled.cells[A.uncoupled.diag > 0].cpu().numpy()] = True
    if unknowns:
        cells = cells[mask[cells]]
    n = len(cells)
    row_of = np.full(mask.shape, -1, dtype=np.int64 if 7 * n >= 2**31 else np.int32)
    row_of[cells] = np.arange(n)
    columns, values = _list_entries(A, row_of)
    columns, values = columns[cells], values[cells]
    valid = (values != 0) & (columns >= 0)
    valid[:, 3] = mask[cells]  # a diagonal entry even where it is 0
    indptr = np.concatenate(([0], np.cumsum(valid.sum(axis=1)))).astype(row_of.dtype)
    out = scipy.sparse.csr_array((values[valid], columns[valid], indptr), shape=(n, n))
    out.sum_duplicates()
    return out


def _list_entries(A: PoissonFields, row_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and values of the 7 entries of every cell, in ascending order where nothing wraps."""
    grid = row_of.reshape(A.unknown.shape)
    columns = np.empty((row_of.size, 7), dtype=row_of.dtype)
    values = np.empty((row_of.size, 7), dtype=A.dtype)
    columns[:, 3], values[:, 3] = row_of, A.diag.detach().cpu().numpy().ravel()
    if A.uncoupled is not None:
        values[A.uncoupled.cells.cpu().numpy(), 3] = A.uncoupled.diag.detach().cpu().numpy()
    for d, link in enumerate(A.links):
        w = link.detach().cpu().numpy()
        # the last link is 0 unless the axis wraps, so rolling is right in both cases
        columns[:, d], values[:, d] = np.roll(grid, 1, d).ravel(), -np.roll(w, 1, d).ravel()
        columns[:, 6 - d], values[:, 6 - d] = np.roll(grid, -1, d).ravel(), -w.ravel()
    return columns, values
