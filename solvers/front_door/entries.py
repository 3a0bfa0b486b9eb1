"""The caller's matrix, whatever it is, as SciPy CSR in double precision; the caller's stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch

Array = np.ndarray[Any, Any]
MATRICES = "a SciPy sparse matrix or array (CSR, CSC, COO, DIA, BSR, ...), a NumPy array or a torch tensor on the CPU"


def to_csr(A: Any) -> tuple[scipy.sparse.csr_array, float]:
    """Return A as CSR in double precision, and the rounding unit of the numbers that it came with.

    Raises
    ------
    TypeError, ValueError
        for what is no real square matrix, and for NaN or infinity in it

    Examples
    --------
    >>> csr, eps = to_csr(np.array([[2, -1], [-1, 2]], dtype=np.float32))
    >>> csr.nnz, csr.dtype.name, eps > 1e-8
    (4, 'float64', True)
    """
    if isinstance(A, torch.Tensor):
        A = _from_torch(A)
    elif not scipy.sparse.issparse(A) and hasattr(A, "tocsr"):  # PyData's sparse, FiPy's and others
        A = A.tocsr()
    if not (scipy.sparse.issparse(A) or isinstance(A, np.ndarray | list | tuple)):
        raise TypeError(f"got A of type {type(A).__name__}; expected {MATRICES}: for operators use krylearn.solvers.cg")
    if not scipy.sparse.issparse(A):
        A = np.asarray(A)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not A.shape[0]:
        raise ValueError(f"got A of shape {A.shape}; expected a square matrix")
    if A.dtype.kind not in "fiub":
        raise TypeError(f"got A of dtype {A.dtype}; expected real numbers")
    eps = float(np.finfo(A.dtype).eps) if A.dtype in (np.float32, np.float16) else float(np.finfo(np.float64).eps)
    csr = scipy.sparse.csr_array(A, dtype=np.float64)
    if not np.isfinite(csr.data.sum()):  # a sum is enough to find one of them, except where finite numbers overflow
        bad = np.flatnonzero(~np.isfinite(csr.data))
        if bad.size:
            row = int(np.searchsorted(csr.indptr, bad[0], side="right")) - 1
            raise ValueError(f"got {csr.data[bad[0]]} in row {row}, column {csr.indices[bad[0]]}; expected finite ones")
    return csr, eps


def _from_torch(A: torch.Tensor) -> Any:
    """Bring a dense or sparse tensor of the host to NumPy or SciPy."""
    if not A.is_cpu:
        remedy = "use Poisson.from_matrix with a matrix of the host, and its .to(device)"
        raise ValueError(f"got A on {A.device}; expected a tensor of the CPU: {remedy}")
    if A.requires_grad:
        raise TypeError("got A that requires gradients, which it would not get; expected A.detach()")
    if A.layout == torch.strided:
        return A.numpy()
    coo = A.to_sparse_coo().coalesce()
    rows, columns = coo.indices().numpy()
    return scipy.sparse.coo_array((coo.values().numpy(), (rows, columns)), shape=tuple(A.shape))


def columns_of(b: Any, n: int) -> Array:
    """Return b, (n,), (n, 1) or (n, k), as real numbers (k, n) in double precision.

    Examples
    --------
    >>> columns_of([[1, 2], [3, 4]], 2).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    if isinstance(b, torch.Tensor) and (not b.is_cpu or b.requires_grad):
        raise ValueError("got b on a device or with a history; expected an array of the CPU: see solve for gradients")
    if scipy.sparse.issparse(b):
        b = b.toarray()
    if isinstance(b, np.ma.MaskedArray):
        raise TypeError("got a masked array as b; expected numbers everywhere: fill it first")
    array = np.asarray(b)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"got b of dtype {array.dtype}; expected real numbers: solve for both parts apart")
    if array.ndim not in (1, 2) or array.shape[0] != n:
        raise ValueError(f"got b of shape {array.shape}; expected ({n},) or ({n}, k), a column per right-hand side")
    return np.ascontiguousarray(array.reshape(n, -1).T, dtype=np.float64)


def like_columns(x: Array, b: Any, dtype: Any) -> Any:
    """Return (k, n) in the shape and array library of b."""
    shape = tuple(b.shape) if isinstance(b, torch.Tensor) or scipy.sparse.issparse(b) else np.shape(b)
    out = np.ascontiguousarray(x.T.astype(dtype, copy=False).reshape(shape))
    return torch.from_numpy(out) if isinstance(b, torch.Tensor) else out


def result_dtype(A: Any, b: Any) -> np.dtype:
    """Return single precision if A and b both have it, else double.

    >>> result_dtype(np.ones((1, 1), np.float32), np.ones(1)).name
    'float64'
    """

    def single(v: Any) -> bool:
        return str(getattr(v, "dtype", "")).rpartition(".")[2] == "float32"

    return np.dtype(np.float32 if single(A) and single(b) else np.float64)
