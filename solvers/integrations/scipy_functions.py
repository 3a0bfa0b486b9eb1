"""SciPy's `cg` and `spsolve` through the front door, with SciPy's calls, for code that cannot be changed.

`replaced` puts them in SciPy's place for a while. What our solver refuses (an unsymmetric matrix, an operator without
entries) goes to SciPy's own function, and so does what it could not finish.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from ..front_door.border import Bordered, Reordered, prepare
from ..front_door.entries import to_csr
from ..front_door.prepared import Prepared

KEPT = 4  # matrices whose preparation is remembered: a time step solves the same ones again
_REMEMBERED: OrderedDict[tuple[Any, ...], tuple[Any, Prepared | Bordered | Reordered]] = OrderedDict()
_LOCK = Lock()
SCIPY_CG: Callable[..., Any] = scipy.sparse.linalg.cg
SCIPY_SPSOLVE: Callable[..., Any] = scipy.sparse.linalg.spsolve


def prepared_for(A: Any, shape: Any = None) -> Prepared | Bordered | Reordered:
    """Return the preparation of a matrix, that of the last time if its numbers are the same.

    Raises
    ------
    ValueError, TypeError
        as `solve_matrix`

    Examples
    --------
    >>> A = scipy.sparse.diags_array([-np.ones(3), 2 * np.ones(4), -np.ones(3)], offsets=[-1, 0, 1]).tocsr()
    >>> prepared_for(A) is prepared_for(A.copy())
    True
    """
    csr, _ = to_csr(A)
    key = (csr.shape[0], csr.nnz, str(getattr(A, "dtype", "")), shape)
    with _LOCK:
        known = _REMEMBERED.get(key)
    if known is not None and all(map(np.array_equal, known[0], (csr.data, csr.indices, csr.indptr))):
        return known[1]
    made = prepare(A.copy() if scipy.sparse.issparse(A) else A, shape)  # the caller may write into A again
    with _LOCK:
        _REMEMBERED[key] = ((csr.data.copy(), csr.indices.copy(), csr.indptr.copy()), made)
        while len(_REMEMBERED) > KEPT:
            _REMEMBERED.popitem(last=False)
    return made


def forget_matrices() -> None:
    """Give back the memory of the preparations that `prepared_for` remembers.

    Examples
    --------
    >>> forget_matrices()
    """
    with _LOCK:
        _REMEMBERED.clear()


def krylearn_cg(
    A: Any, b: Any, x0: Any = None, *, rtol: float = 1e-5, atol: float = 0.0, maxiter: int | None = None, M: Any = None,
    callback: Callable | None = None, shape: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Solve as SciPy's `cg` is asked to, on the grid that A belongs to; with M or an operator, SciPy's own does it.

    `maxiter` is that of the caller's method and has no meaning here; `callback` is called once per step of ours, with
    the last iterate.

    Examples
    --------
    >>> A = scipy.sparse.diags_array([-np.ones(9), 2 * np.ones(10), -np.ones(9)], offsets=[-1, 0, 1]).tocsr()
    >>> x, info = krylearn_cg(A, np.ones(10), rtol=1e-10)
    >>> info == 0, float(round(x[0], 6))
    (True, 5.0)
    """
    given = {"rtol": rtol, "atol": atol, "maxiter": maxiter, "M": M, "callback": callback}
    if not (scipy.sparse.issparse(A) or isinstance(A, np.ndarray)) or M is not None:
        return SCIPY_CG(A, b, x0, **given)
    try:
        prepared = prepared_for(A, shape)
    except (ValueError, TypeError):
        return SCIPY_CG(A, b, x0, **given)
    rhs = np.asarray(b).reshape(-1)
    tolerance = max(rtol * float(np.linalg.norm(rhs)), atol)
    start = None if x0 is None else np.asarray(x0, dtype=np.float64).reshape(-1)
    r = rhs.astype(np.float64) if start is None else rhs - prepared.csr @ start
    step, info = prepared.solve(r, 0.0, tolerance)
    x = step if start is None else start + step
    if info:
        return SCIPY_CG(A, b, x, **given)
    if callback:
        for _ in range(info.iterations):
            callback(x)
    single = np.result_type(A.dtype, np.asarray(b).dtype) == np.float32
    return (x.astype(np.float32) if single else x), info


def krylearn_spsolve(A: Any, b: Any, *arguments: Any, rtol: float = 1e-10, **options: Any) -> Any:
    """Solve as SciPy's `spsolve` does, to a residual of `rtol`; what conjugate gradients cannot do, SciPy's own does.

    Examples
    --------
    >>> A = scipy.sparse.diags_array([-np.ones(9), 2 * np.ones(10), -np.ones(9)], offsets=[-1, 0, 1]).tocsr()
    >>> float(round(krylearn_spsolve(A, np.ones(10))[0], 6))
    5.0
    """
    if scipy.sparse.issparse(b) or np.iscomplexobj(b):
        return SCIPY_SPSOLVE(A, b, *arguments, **options)
    try:
        prepared = prepared_for(A)
    except (ValueError, TypeError):
        return SCIPY_SPSOLVE(A, b, *arguments, **options)
    columns = np.asarray(b, dtype=np.float64)
    flat = columns.reshape(columns.shape[0], -1)
    solved = [prepared.solve(np.ascontiguousarray(column), rtol) for column in flat.T]
    if any(info for _, info in solved):
        return SCIPY_SPSOLVE(A, b, *arguments, **options)
    x = np.stack([each for each, _ in solved], axis=1)
    return x[:, 0] if columns.ndim == 1 or columns.shape[1] == 1 else x


@contextmanager
def replaced() -> Iterator[None]:
    """Put our functions in place of ``scipy.sparse.linalg.cg`` and ``spsolve``, for this process, until the end.

    Examples
    --------
    >>> with replaced():
    ...     scipy.sparse.linalg.cg is krylearn_cg
    True
    >>> scipy.sparse.linalg.cg is SCIPY_CG
    True
    """
    before = scipy.sparse.linalg.cg, scipy.sparse.linalg.spsolve
    scipy.sparse.linalg.cg, scipy.sparse.linalg.spsolve = krylearn_cg, krylearn_spsolve
    try:
        yield
    finally:
        scipy.sparse.linalg.cg, scipy.sparse.linalg.spsolve = before
