"""Array libraries at the edge: NumPy, SciPy, CuPy and torch come in and go out; inside there is only torch.

Everything shares memory where it can (`torch.from_numpy`, DLPack) and nothing changes device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from krylearn.pde.poisson.arrays import plain_tensor, share


def as_map(op: Any) -> Callable[[Any], Any]:
    """Return v -> op v for SciPy's `.matvec`, a matrix or operator with `@`, a callable, or None (the identity).

    Parameters
    ----------
    op : applicable; looked at in this order: `matvec`, `@`, call

    Returns
    -------
    callable; TypeError if op cannot be applied

    Examples
    --------
    >>> import numpy as np
    >>> as_map(np.diag([1.0, 2.0]))(np.ones(2)).tolist(), as_map(lambda v: 3 * v)(1.0), as_map(None)(5)
    ([1.0, 2.0], 3.0, 5)
    """
    if op is None:
        return lambda v: v
    for name in ("matvec", "__matmul__", "__call__"):
        if hasattr(op, name):
            return getattr(op, name)
    remedy = "pass its .aspreconditioner()" if hasattr(op, "aspreconditioner") else "wrap it in a function"
    raise TypeError(f"got {type(op).__name__}; expected op(v), op @ v or op.matvec(v); {remedy}")


def library_of(v: Any) -> str:
    """Name the array library of v: "torch", "cupy", or "numpy" for everything else that NumPy understands.

    >>> library_of([1, 2]), library_of(torch.ones(2))
    ('numpy', 'torch')
    """
    if isinstance(v, torch.Tensor):
        return "torch"
    module = type(v).__module__.partition(".")[0]
    return "cupy" if module in ("cupy", "cupyx") else "numpy"


def to_torch(v: Any) -> torch.Tensor:
    """Return v as a tensor on its own device, sharing memory where possible.

    >>> to_torch(np.array([1.0, 2.0])).dtype
    torch.float64
    """
    if isinstance(v, torch.Tensor):
        return plain_tensor(v, "vector").detach()
    if library_of(v) == "cupy":
        return torch.from_dlpack(v)  # the protocol makes torch's stream wait for CuPy's
    return share(v, "vector")  # copies what torch cannot hold; vectors that get in here are small or written to


def from_torch(t: torch.Tensor, library: str) -> Any:
    """Return t as an array of the named library, sharing its memory.

    >>> from_torch(torch.ones(2), "numpy").tolist()
    [1.0, 1.0]
    """
    if library == "torch":
        return t
    if library == "numpy":
        return t.numpy()
    import cupy  # only a caller who passed CuPy arrays gets here

    return cupy.from_dlpack(t)


def dtype_char(op: Any) -> str:
    """Return SciPy's letter for the precision of an array or operator: one of f, d, F, D, or "" if it has none.

    >>> dtype_char(np.ones(2, dtype=int)), dtype_char(torch.ones(2)), dtype_char(print)
    ('d', 'f', '')
    """
    dtype = getattr(op, "dtype", None)
    if dtype is None:
        return ""
    if isinstance(dtype, torch.dtype):
        return _TORCH_CHARS.get(dtype, "d")
    char = np.dtype(dtype).char
    return char if char in "fdFD" else "d"


def common_dtype(*ops: Any) -> torch.dtype:
    """Return the working precision for A and b: complex if one is, double if one is; what is no float counts double.

    >>> common_dtype(np.ones(2, dtype=np.float32), np.ones(2, dtype=np.complex64))
    torch.complex64
    """
    chars = "".join(dtype_char(op) for op in ops)
    double, complexe = any(c in "dD" for c in chars), any(c in "FD" for c in chars)
    return {(0, 0): torch.float32, (1, 0): torch.float64, (0, 1): torch.complex64, (1, 1): torch.complex128}[
        double, complexe
    ]


def torch_map(op: Any, library: str, what: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return op as a map between flat tensors: it is given arrays of the library it understands.

    A torch operator or module gets tensors, SciPy's and NumPy's get NumPy arrays, CuPy's get CuPy's; a callable or an
    object of no known library gets what the caller's b is.
    """
    apply = (lambda v: op.to(v.dtype) @ v) if isinstance(op, torch.Tensor) else as_map(op)  # torch does not promote
    wanted = _library_of_operator(op) or library

    def apply_torch(v: torch.Tensor) -> torch.Tensor:
        out = to_torch(apply(from_torch(v, wanted)))
        if out.numel() != v.numel():
            raise ValueError(
                f"{what} gave shape {tuple(out.shape)} for a vector of {v.numel()}; expected the same size"
            )
        if out.is_complex() and not v.is_complex():
            raise TypeError(f"{what} gave complex values for a real vector; give A a complex dtype, or make b complex")
        if out.device != v.device:
            raise ValueError(f"{what} gave a vector on {out.device}; expected {v.device}, where b is: move one of them")
        return out.reshape(v.shape).to(v.dtype)

    return apply_torch


_TORCH_CHARS = {torch.float32: "f", torch.float64: "d", torch.complex64: "F", torch.complex128: "D"}


def _library_of_operator(op: Any) -> str | None:
    """Name the arrays that an operator certainly wants, or None."""
    if isinstance(op, torch.Tensor | torch.nn.Module):
        return "torch"
    if isinstance(op, np.ndarray):
        return "numpy"
    modules = {cls.__module__.partition(".")[0] for cls in type(op).__mro__}
    if modules & {"cupy", "cupyx"}:
        return "cupy"
    return "numpy" if "scipy" in modules else None
