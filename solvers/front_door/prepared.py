"""A matrix made ready to be solved with: mended, recognised as a grid if it is one, judged by the caller's numbers."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import scipy.sparse
from krylearn.pde import Poisson
from krylearn.pde.poisson import recognise
from krylearn.pde.poisson.grid import check_grid_shape

from ..krylov.conjugate_gradients import cg
from ..krylov.outcome import Reason, SolveInfo
from .cell_search import find_cells
from .entries import to_csr
from .grid_search import grids_of
from .mending import Mended, RefusedMatrixError, change_signs, make_symmetric, scale_symmetrically
from .small_systems import BY_DIAGONAL, cg_from_small, steps_on_rows

Array = np.ndarray[Any, Any]
ROUNDS = 12  # of solving for the caller's residual; each gains digits, or they end
SINGLE = float(np.finfo(np.float32).eps)
_SHAPES: OrderedDict[tuple[int, int], tuple[int, ...]] = OrderedDict()  # grids of the last structures


class Prepared:
    """A x = b as a solver for many b.

    Attributes
    ----------
    csr : the caller's matrix;  mended : what of it is solved
    operator : `Poisson` if it is a grid, else S on the rows that did not leave, as CSR; None if all left
    weights : of the preconditioner on a grid
    notes : sentences for `info.notes`;  seconds : what getting ready took
    """

    def __init__(self, A: Any, shape: Any = None, cells: Any = None, *, weights: Any = None) -> None:
        start = time.perf_counter()
        self.csr, self.eps = to_csr(A)
        if shape is None and cells is not None:
            shape = np.shape(cells)
        self.shape = shape if shape is None else tuple(int(n) for n in np.atleast_1d(shape))
        self.cells, self.weights, self.M, self.nullspace = cells, weights, None, None
        self._lock = threading.Lock()
        self.mended, self.operator = self._make_ready()
        self.notes = [*self.mended.notes]
        if isinstance(self.operator, Poisson):
            if shape is None and self.operator.unknowns:
                part = "" if self.operator.numbering is None else f"{self.csr.shape[0]} cells of a "
                self.notes.append(f"{part}grid {self.operator.grid_shape} found in the pattern of A")
        elif self.operator is not None:
            self._prepare_general()
        self.seconds = time.perf_counter() - start

    # --- recognition --------------------------------------------------------------------------------------------------
    def _make_ready(self) -> tuple[Mended, Any]:
        """Mend as little as is needed for the grid to show; a matrix without one remains a matrix."""
        n = self.csr.shape[0]
        if self.shape is not None and self.cells is None and math.prod(self.shape) != n:
            raise RefusedMatrixError(
                f"got {n} rows for a grid {self.shape} of {math.prod(self.shape)} cells; expected as many: "
                "correct shape, leave it out, or pass cells if only FLUID cells are numbered"
            )
        at_once = None if self.cells is not None else self._read_at_once()
        if at_once is not None:
            return at_once
        mended = change_signs(self.csr, self.eps)
        if mended.alone.all():
            return mended, None
        self.refusal = ""
        found = self._on_grid(mended)
        if found is None:
            mended = make_symmetric(mended)
            found = self._on_grid(mended)
        if found is None:
            if self.cells is not None:
                raise RefusedMatrixError(self.refusal)
            return mended, self._reduced(mended)
        if bool((found.shift < 0).any()):
            scaled = scale_symmetrically(mended)
            again = None if scaled is None else self._on_grid(scaled)
            if scaled is not None and again is not None:
                return scaled, again
        return mended, found

    def _read_at_once(self) -> tuple[Mended, Poisson] | None:
        """Read a matrix that needs no mending but a sign, in one pass; None if it is no such, which shows soon."""
        n, key = self.csr.shape[0], (self.csr.shape[0], self.csr.nnz)
        first = slice(self.csr.indptr[n // 2], self.csr.indptr[n // 2 + 1])
        sign = -1.0 if (self.csr.data[first][self.csr.indices[first] == n // 2] < 0).any() else 1.0
        if self.shape is not None:
            candidates = [self.shape]
        else:
            known = [_SHAPES[key]] if key in _SHAPES else []
            candidates = [*known, *grids_of(self.csr, step=1 + 2 * (n // 4000))]
        for shape in candidates:
            found = recognise.recognise_at_once(self.csr, check_grid_shape(shape), self.eps, sign)
            if found is None:
                continue
            fields, read = found
            if read.shift.min() < 0:
                return None  # scaled symmetrically, perhaps
            self._remember(key, shape)
            coupled, diagonal = read.unknown.ravel(), read.read.ravel()
            right: Array | float = 1.0 if coupled.all() else coupled.astype(np.float64)
            mended = Mended(None, sign * right, right, ~coupled, sign * diagonal, self.eps)
            if sign < 0:
                mended.notes.append("the diagonal is negative: solved as -A x = -b")
            return mended, Poisson(**fields)
        return None

    def _remember(self, key: tuple[int, int], shape: tuple[int, ...]) -> None:
        """Keep the grid of a structure, to be tried first the next time."""
        if self.shape is None:
            _SHAPES[key] = shape
            while len(_SHAPES) > 16:
                _SHAPES.popitem(last=False)

    def _on_grid(self, mended: Mended) -> Poisson | None:
        """Return S as an operator on a grid; None if it is none, and then `refusal` says why."""
        n = mended.matrix.shape[0]
        key = (n, self.csr.nnz)
        if self.shape is not None:
            candidates = [(self.shape, order) for order in "CF"]
        else:
            known = [_SHAPES[key]] if key in _SHAPES else []
            candidates = [(shape, "C") for shape in (*known, *grids_of(mended.matrix))]
        for shape, order in candidates:
            found = self._recognise(mended, shape, order)
            if found is not None:
                self._remember(key, shape)
                return found
        placing = find_cells(mended.matrix) if self.shape is None else None
        return None if placing is None else self._recognise(mended, placing.shape, "C", placing.numbering)

    def _recognise(
        self, mended: Mended, shape: tuple[int, ...], order: str, numbering: Array | None = None
    ) -> Poisson | None:
        """Read S on one grid, allowing for the rounding of single precision if its own does not do."""
        matrix, cells = mended.matrix, self.cells
        for eps in (mended.eps, SINGLE) if mended.eps < SINGLE else (mended.eps,):
            try:
                fields = recognise.from_matrix(matrix, shape, cells, order, eps, numbering)
            except (ValueError, TypeError) as error:
                self.refusal = self.refusal or str(error)
                if "single precision" not in str(error):
                    return None
                continue
            if eps > mended.eps:
                mended.notes.append("A has the digits of single precision")
            return Poisson(**fields)
        return None

    # --- outside our stencils -----------------------------------------------------------------------------------------
    def _reduced(self, mended: Mended) -> scipy.sparse.csr_array:
        """Return S on the rows that did not leave."""
        if not mended.alone.any():
            S = mended.matrix
        else:
            keep = np.flatnonzero(~mended.alone)
            S = scipy.sparse.csr_array(mended.matrix[keep][:, keep])
        diagonal = S.diagonal()
        if (diagonal <= 0).any():
            row = int(np.flatnonzero(~mended.alone)[np.flatnonzero(diagonal <= 0)[0]])
            raise RefusedMatrixError(
                f"got an A that is not definite: row {row} is coupled to others and its diagonal is 0; expected a "
                "positive definite matrix: use scipy.sparse.linalg.spsolve or MINRES"
            )
        return S

    def _prepare_general(self) -> None:
        """Say why A is taken as it is, and find a kernel of constants."""
        S = self.operator
        why = "A is no 5-point or 7-point stencil of a grid that could be found"
        if self.shape is not None:
            why = f"A is no stencil on the grid {self.shape} ({self.refusal.partition(';')[0]})"
        self.notes.append(why)
        diagonal = S.diagonal()
        sums = np.abs(S @ np.ones(S.shape[0]))
        if (sums <= 64 * max(self.eps, self.mended.eps) * diagonal).all():
            count, labels = scipy.sparse.csgraph.connected_components(S, directed=False)
            if count <= 16:
                self.nullspace = (labels[:, None] == np.arange(count)).astype(np.float64)

    def _set_up_general(self) -> None:
        """Set up smoothed aggregation of PyAMG if that is installed, else the diagonal."""
        S = self.operator
        try:
            import pyamg
        except ImportError:
            self.notes.append("solved by cg with the diagonal; pip install pyamg for a better preconditioner")
            self.M = scipy.sparse.diags_array(1 / S.diagonal())
            return
        index = {"indices": S.indices.astype(np.int32), "indptr": S.indptr.astype(np.int32)}
        matrix = scipy.sparse.csr_matrix((S.data, index["indices"], index["indptr"]), shape=S.shape)
        self.notes.append("solved by cg with PyAMG's smoothed aggregation")
        self.M = pyamg.smoothed_aggregation_solver(matrix).aspreconditioner()

    # --- solving ------------------------------------------------------------------------------------------------------
    def solve(self, b: Array, rtol: float, atol: float = 0.0, dtype: Any = np.float64) -> tuple[Array, SolveInfo]:
        """Return x, of `dtype`, and what happened; judged by ‖b - A x‖ of the caller's A and of x as returned."""
        if not (rtol >= 0 and atol >= 0):
            raise ValueError(f"got rtol={rtol!r}, atol={atol!r}; expected numbers >= 0")
        x = self._at_once(b)
        norm_b = norm(b)
        tolerance = max(rtol * norm_b, atol)
        facts: dict[str, Any] = {"iterations": 0, "matvecs": 0, "residuals": [], "compile_seconds": 0.0, "nullspace": 0}
        facts["preconditioner"] = None
        remarks: tuple[str, ...] = ()
        setup, reason, best = 0.0, None, (math.inf, x.astype(dtype))
        rounded = np.dtype(dtype) != np.float64
        for _ in range(ROUNDS):
            returned = x.astype(dtype)
            r = b - self.csr @ returned.astype(np.float64) if x.any() else b
            true = norm(r)
            if true < best[0]:
                best = (true, returned)
            if true <= tolerance:
                reason = Reason.CONVERGED
                break
            if not math.isfinite(true):
                reason = Reason.NON_FINITE
                break
            if self.operator is None or (facts["residuals"] and true > 0.5 * facts["residuals"][-1]):
                reason = reason or Reason.STAGNATED
                break
            if reason not in (None, Reason.CONVERGED, Reason.STAGNATED):
                break  # MAXITER, INDEFINITE_A, ...: what the solve itself says
            facts["residuals"].append(true)
            if rounded:
                r = b - self.csr @ x
            step, info = self._step(r, tolerance)
            x = x + step
            reason = info.reason
            facts["iterations"] += info.iterations
            facts["matvecs"] += info.matvecs + 1
            facts["compile_seconds"] += info.compile_seconds
            facts["nullspace"] = info.nullspace
            facts["preconditioner"] = facts["preconditioner"] or info.preconditioner
            remarks = tuple(note for note in info.notes if note not in remarks) + remarks
            setup += info.setup_seconds
        facts["residuals"] = (*facts["residuals"], best[0])
        converged = reason is Reason.CONVERGED and best[0] <= tolerance
        if not converged and reason in (None, Reason.CONVERGED):
            reason = Reason.STAGNATED
        facts |= {"reason": reason, "true_residual": best[0], "setup_seconds": setup, "notes": (*self.notes, *remarks)}
        return best[1], SolveInfo(0 if converged else max(facts["iterations"], 1), **facts)

    def _at_once(self, b: Array) -> Array:
        """Return what rows without couplings say, x_i = b_i / a_ii, and zero elsewhere."""
        x, alone = np.zeros_like(b), self.mended.alone
        if alone.any():
            given = alone & (self.mended.diagonal != 0)
            x[given] = b[given] / self.mended.diagonal[given]
        return x

    def _step(self, r: Array, tolerance: float) -> tuple[Array, SolveInfo]:
        """Solve S y = E R r to what brings the caller's residual below the tolerance, or nearly so; return E y."""
        mended = self.mended
        scaled = mended.left * r
        size = norm(scaled)
        if mended.exact:
            rtol = min(tolerance / size, 0.5) if size else 0.5
        else:
            rtol = min(0.3 * tolerance / norm(r), 0.1)
        rtol = max(rtol, 1e-13)
        if isinstance(self.operator, Poisson):
            y, info = cg_from_small(self.operator, scaled, rtol=rtol, M=self.weights)
            return mended.right * y, info
        keep = ~mended.alone
        step = np.zeros_like(r)
        step[keep], info = self._step_on_rows(scaled[keep], rtol)
        return mended.right * step, info

    def _step_on_rows(self, r: Array, rtol: float) -> tuple[Array, SolveInfo]:
        """Solve on the rows that did not leave: by the diagonal where that is in reach, else with an aggregation."""
        x0 = None
        if self.M is None:
            size, largest = norm(r), float(np.abs(r).max(initial=0.0))
            if self.nullspace is None and 1e-100 < largest < 1e100:
                y, done, left = steps_on_rows(self.operator, r, 0.9 * rtol * size)
                if done >= 0 and left <= rtol * size:
                    facts = {"iterations": done, "matvecs": done + 1, "residuals": (size, left), "true_residual": left}
                    return y, SolveInfo(0, **facts, reason=Reason.CONVERGED, notes=(BY_DIAGONAL,))
                x0 = y if done >= 0 and left < 0.5 * size else None
            with self._lock:
                if self.M is None:
                    self._set_up_general()
        y, info = cg(self.operator, r, x0, rtol=rtol, M=self.M, nullspace=self.nullspace)
        return y, info


def norm(v: Array) -> float:
    """Return the Euclidean norm, also where squares would overflow."""
    largest = float(np.abs(v).max(initial=0.0))
    if not 0 < largest < math.inf:
        return largest
    return largest * float(np.linalg.norm(v / largest)) if not 1e-140 < largest < 1e140 else float(np.linalg.norm(v))
