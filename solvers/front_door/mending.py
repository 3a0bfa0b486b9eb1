"""What stands between a caller's matrix and a symmetric positive one, found and undone exactly.

The caller's C becomes the symmetric S = E R C E on the rows that are coupled, with diagonal matrices R and E:

* rows whose diagonal is negative change their sign (R = -1);
* rows without couplings, c_ii x_i = b_i, are solved at once and leave: also where other rows still refer to them (fixed
  values that were written into the rows alone);
* rows that were each multiplied by a number of their own (divided by the volume of their cell) get that number back:
  it follows from c_ij / c_ji along any path through the matrix (R);
* a matrix that was scaled symmetrically, D^-1/2 S D^-1/2, has diagonals smaller than the sums of their couplings: E is
  then an approximation of what makes its rows sum up to nothing, found by a few relaxations.

Whatever S has lost by rounding, the caller's residual b - C x is what a solve is judged by, and repeated with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse
from krylearn.pde.compiled import compile_once

Array = np.ndarray[Any, Any]
ROUNDING = 1e-5  # largest asymmetry, relative to both diagonals, that is taken for rounding (six printed digits)
WIDEST = 1e12  # largest ratio of two factors of rows that leaves digits to work with
SWEEPS = 30  # relaxations on the way to E: what is not smooth is gone after a few


class RefusedMatrixError(ValueError):
    """A matrix for which conjugate gradients cannot work; the message says why."""


@dataclass
class Mended:
    """S with what leads there and back.

    matrix : S, n by n, CSR in double precision; rows that left are diagonal. None if a grid took its place at once
    left, right : diagonals of E R and of E, zero in rows that left, or the one number that all of them are
    alone : rows that left
    diagonal : of the caller's matrix;  eps : rounding unit of S;  exact : whether S = C up to signs and rows that left
    notes : one sentence for each thing that was mended
    """

    matrix: Any
    left: Array | float
    right: Array | float
    alone: Array
    diagonal: Array
    eps: float
    exact: bool = True
    notes: list[str] = field(default_factory=list)


def inspect_rows(indptr, indices, data, diagonal, coupled):
    """Write the diagonal and which rows have a coupling."""
    for row in range(len(indptr) - 1):
        for e in range(indptr[row], indptr[row + 1]):
            if indices[e] == row:
                diagonal[row] += data[e]
            elif data[e] != 0:
                coupled[row] = True


def change_rows(indptr, indices, data, factors, alone, out):
    """Write data with rows multiplied; what refers to rows that left is 0. Return how many entries these were."""
    cleared = 0
    for row in range(len(indptr) - 1):
        for e in range(indptr[row], indptr[row + 1]):
            gone = alone[indices[e]] and indices[e] != row
            out[e] = 0.0 if gone else factors[row] * data[e]
            cleared += gone and data[e] != 0
    return cleared


def compare_triangles(indptr, indices, data, mirror_data, diagonal):
    """Return the largest |a_ij - a_ji| relative to the smaller of both diagonals, its row and column."""
    worst, i, j = 0.0, -1, -1
    for row in range(len(indptr) - 1):
        for e in range(indptr[row], indptr[row + 1]):
            difference = abs(data[e] - mirror_data[e])
            if difference > 0:
                scale = min(abs(diagonal[row]), abs(diagonal[indices[e]]))
                relative = difference / scale if scale > 0 else np.inf
                if relative > worst:
                    worst, i, j = relative, row, indices[e]
    return worst, i, j


def follow_ratios(indptr, indices, data, mirror_data, factors, queue):
    """Write factors with factors_i a_ij = factors_j a_ji, 1 at the first row of each component.

    Returns the first row and column where that cannot be, or (-1, -1). factors : zero on entry
    """
    for root in range(len(indptr) - 1):
        if factors[root] != 0:
            continue
        factors[root], queue[0], first, last = 1.0, root, 0, 1
        while first < last:
            row = queue[first]
            first += 1
            for e in range(indptr[row], indptr[row + 1]):
                there, back = data[e], mirror_data[e]
                column = indices[e]
                if column == row or (there == 0 and back == 0):
                    continue
                if there == 0 or back == 0 or there / back <= 0:
                    return row, column
                if factors[column] == 0:
                    factors[column] = factors[row] * (there / back)
                    queue[last] = column
                    last += 1
    return -1, -1


def symmetrise(indptr, indices, data, mirror_data, factors, noise, out):
    """Write the mean of both triangles of factors C; a row keeps its sum, up to `noise` of the diagonal taken as 0."""
    for row in range(len(indptr) - 1):
        total, couplings, own, diagonal = 0.0, 0.0, -1, 0.0
        for e in range(indptr[row], indptr[row + 1]):
            total += data[e]
            column = indices[e]
            if column == row:
                own, diagonal = e, data[e]
            else:
                out[e] = (factors[row] * data[e] + factors[column] * mirror_data[e]) / 2
                couplings += out[e]
        if own >= 0:
            surplus = total if abs(total) > noise * abs(diagonal) else 0.0
            out[own] = factors[row] * surplus - couplings


def relax_null_vector(indptr, indices, data, diagonal, v, sums, sweeps):
    """Do damped Jacobi steps on S v = 0, and write S v into `sums` at the end."""
    n = len(indptr) - 1
    for sweep in range(sweeps + 1):
        for row in range(n):
            total = 0.0
            for e in range(indptr[row], indptr[row + 1]):
                total += data[e] * v[indices[e]]
            sums[row] = total
        if sweep < sweeps:
            for row in range(n):
                if diagonal[row] > 0:
                    v[row] -= 0.6 * sums[row] / diagonal[row]


def change_signs(csr: scipy.sparse.csr_array, eps: float) -> Mended:
    """Take out rows without couplings and turn negative rows: what needs no other look at the matrix.

    Examples
    --------
    >>> C = scipy.sparse.csr_array(np.array([[1.0, 0, 0], [1, -2, 1], [0, 1, -2]]))     # x_0 is given, by its row alone
    >>> mended = change_signs(C, 2.2e-16)
    >>> mended.matrix.toarray().tolist()
    [[1.0, 0.0, 0.0], [0.0, 2.0, -1.0], [0.0, -1.0, 2.0]]
    >>> mended.notes
    ['the diagonal is negative: solved as -A x = -b', '1 row without couplings, x_i = b_i / a_ii, whose value 1 ...']
    """
    n = csr.shape[0]
    diagonal, coupled = np.zeros(n), np.zeros(n, dtype=np.bool_)
    compile_once(inspect_rows)(csr.indptr, csr.indices, csr.data, diagonal, coupled)
    alone, negative = ~coupled, diagonal < 0
    factors = np.where(negative, -1.0, 1.0)
    left = np.where(coupled, factors, 0.0)
    mended = Mended(csr, left, coupled.astype(np.float64), alone, diagonal, eps)
    turned, wrong = negative & coupled, ~negative & coupled
    if not (alone.any() or turned.any()):
        return mended
    data = np.empty_like(csr.data)
    cleared = compile_once(change_rows)(csr.indptr, csr.indices, csr.data, factors, alone, data)
    mended.matrix = scipy.sparse.csr_array((data, csr.indices, csr.indptr), shape=csr.shape)
    if turned.any():
        part = f"{turned.sum()} of {coupled.sum()} coupled rows have a negative diagonal: their signs were changed"
        mended.notes.append(part if wrong.any() else "the diagonal is negative: solved as -A x = -b")
    if cleared:
        mended.notes.append(
            f"{_rows(alone.sum())} without couplings, x_i = b_i / a_ii, whose value {cleared} entries of other rows use"
        )
    return mended


def make_symmetric(mended: Mended) -> Mended:
    """Undo a scaling of the rows, or rounding; refuse a matrix that no scaling of its rows makes symmetric.

    Raises
    ------
    RefusedMatrixError
        with the pair of entries that shows it

    Examples
    --------
    >>> S = np.array([[2.0, -1, 0], [-1, 3, -2], [0, -2, 4]])
    >>> V = np.array([1.0, 4, 9])
    >>> mended = make_symmetric(change_signs(scipy.sparse.csr_array(S / V[:, None]), 2.2e-16))
    >>> bool(np.allclose(mended.matrix.toarray(), S)), mended.left.tolist()
    (True, [1.0, 4.0, 9.0])
    """
    S = mended.matrix.copy()
    S.sum_duplicates()  # also sorts
    S.eliminate_zeros()
    _drop_strays(S, mended)
    mirror = S.T.tocsr()
    if not (np.array_equal(S.indptr, mirror.indptr) and np.array_equal(S.indices, mirror.indices)):
        S = _with_pattern_of_both(S)
        mirror = S.T.tocsr()
        mirror.sort_indices()
    entries = S.indptr, S.indices, S.data, mirror.data
    diagonal = S.diagonal()
    worst, i, j = compile_once(compare_triangles)(*entries, diagonal)
    if worst <= 64 * mended.eps:
        mended.matrix = S
        return mended
    factors, noise = np.ones(len(diagonal)), 64 * mended.eps
    if worst > ROUNDING:
        factors[:] = 0.0
        i_bad, j_bad = compile_once(follow_ratios)(*entries, factors, np.empty(len(diagonal), dtype=np.int64))
        if i_bad < 0:
            out = np.repeat(factors, np.diff(S.indptr)) * S.data - factors[S.indices] * mirror.data
            scale = np.abs(factors * diagonal)
            bound = ROUNDING * np.minimum(np.repeat(scale, np.diff(S.indptr)), scale[S.indices])
            wrong = np.flatnonzero(np.abs(out) > bound)
            if wrong.size:
                i_bad = int(np.searchsorted(S.indptr, wrong[0], side="right")) - 1
                j_bad = int(S.indices[wrong[0]])
            elif factors.max() > WIDEST * factors.min():
                i_bad, j_bad = i, j
        if i_bad >= 0:
            _refuse_unsymmetric(mended, i_bad, j_bad)
        low, high = float(factors[~mended.alone].min()), float(factors[~mended.alone].max())
        mended.notes.append(f"rows multiplied by numbers between {low:.3g} and {high:.3g}, which makes A symmetric")
    else:
        noise = max(noise, 4 * worst)
        mended.notes.append(f"a_ij and a_ji differ by up to {worst:.1g} of the diagonal, taken for rounding (row {i})")
    out = np.empty_like(S.data)
    compile_once(symmetrise)(*entries, factors, noise, out)
    mended.matrix = scipy.sparse.csr_array((out, S.indices, S.indptr), shape=S.shape)
    mended.left = mended.left * factors
    mended.exact = False
    return mended


def scale_symmetrically(mended: Mended) -> Mended | None:
    """Find E for a matrix whose diagonals are smaller than the sums of their couplings; None if that does not help.

    Examples
    --------
    >>> A = scipy.sparse.diags_array([-np.ones(29), 2 * np.ones(30), -np.ones(29)], offsets=[-1, 0, 1])
    >>> D = scipy.sparse.diags_array(np.linspace(1, 4, 30) ** np.tile([1, -1], 15))
    >>> mended = scale_symmetrically(change_signs(scipy.sparse.csr_array(D @ A @ D), 2.2e-16))
    >>> rows = mended.matrix.sum(axis=1)
    >>> bool((rows > -0.01 * mended.matrix.diagonal()).all())
    True
    """
    S, diagonal = mended.matrix, mended.matrix.diagonal()
    v, sums = np.ones(len(diagonal)), np.empty(len(diagonal))
    before = S.sum(axis=1)
    compile_once(relax_null_vector)(S.indptr, S.indices, S.data, diagonal, v, sums, SWEEPS)
    coupled = ~mended.alone
    if not (v[coupled] > 0).all():
        return None
    deficit = -np.minimum(before, 0)[coupled] / diagonal[coupled]
    after = -np.minimum(sums, 0)[coupled] / (diagonal * v)[coupled]
    if deficit.sum() == 0 or after.sum() > 0.2 * deficit.sum():
        return None
    v = np.where(coupled, v, 1.0)
    data = S.data * np.repeat(v, np.diff(S.indptr)) * v[S.indices]
    matrix = scipy.sparse.csr_array((data, S.indices, S.indptr), shape=S.shape)
    notes = [*mended.notes, "scaled symmetrically, so that diagonals are about the sums of their couplings"]
    left, right = mended.left * v, mended.right * v
    return replace(mended, matrix=matrix, left=left, right=right, exact=False, notes=notes)


def _drop_strays(S: scipy.sparse.csr_array, mended: Mended) -> None:
    """Remove entries too small to matter in either of their rows."""
    scale = np.abs(mended.diagonal)
    bound = 0.25 * mended.eps * np.minimum(np.repeat(scale, np.diff(S.indptr)), scale[S.indices])
    stray = (np.abs(S.data) <= bound) & (S.data != 0)
    if stray.any():
        S.data[stray] = 0.0
        S.eliminate_zeros()
        mended.notes.append(f"{int(stray.sum())} entries below the rounding of their diagonals ignored")


def _with_pattern_of_both(S: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Return S with explicit zeros where only the other triangle has an entry."""
    pattern = S.copy()
    pattern.data = np.ones_like(S.data)
    both = scipy.sparse.csr_array(pattern + pattern.T)
    both.sort_indices()
    own = {"shape": S.shape}
    rows = np.repeat(np.arange(S.shape[0], dtype=np.int64), np.diff(S.indptr)) * S.shape[0] + S.indices
    wanted = np.repeat(np.arange(S.shape[0], dtype=np.int64), np.diff(both.indptr)) * S.shape[0] + both.indices
    data = np.zeros(len(wanted))
    data[np.searchsorted(wanted, rows)] = S.data
    return scipy.sparse.csr_array((data, both.indices, both.indptr), **own)


def _refuse_unsymmetric(mended: Mended, i: int, j: int) -> None:
    """Say which two entries no factor can make equal."""
    C, signs = mended.matrix, np.sign(mended.left)
    there, back = float(C[i, j]) * signs[i], float(C[j, i]) * signs[j]
    if mended.diagonal[i] * mended.diagonal[j] < 0 and there == back:
        raise RefusedMatrixError(
            f"got an indefinite A: rows {i} and {j} are coupled and have the diagonals {mended.diagonal[i]:g} and "
            f"{mended.diagonal[j]:g}; expected one sign: use scipy.sparse.linalg.spsolve or MINRES"
        )
    raise RefusedMatrixError(
        f"got an unsymmetric A: {there:.17g} in row {i}, column {j}, and {back:.17g} back, "
        "which no scaling of rows makes equal; expected a diffusion operator without advection: "
        "use scipy.sparse.linalg.spsolve or BiCGSTAB"
    )


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
