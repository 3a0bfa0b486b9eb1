"""Vectors at the edge: from the caller's flat or grid-shaped array to the internal 3D layout and back."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import plain_array, share
from .fields import PoissonFields
from .grid import TORCH_DTYPES, internal_shape


def on_device(v: Any) -> bool:
    """Whether v is an array outside the memory of the host, such as CuPy's, that can be exchanged by DLPack."""
    return hasattr(v, "__dlpack_device__") and not isinstance(v, Tensor) and int(v.__dlpack_device__()[0]) != 1


def as_tensor(A: PoissonFields, v: Any) -> Tensor:
    """Return v as a floating tensor on A's device, sharing memory where possible; numbers of other kinds become A's."""
    if isinstance(v, Tensor):
        if v.device != A.device:
            raise ValueError(f"got a vector on {v.device}; expected {A.device}, where A is: move one with .to()")
    elif on_device(v):
        return as_tensor(A, torch.from_dlpack(v))  # the protocol makes torch's stream wait for the producer's
    elif A.device.type != "cpu":
        raise ValueError(f"got a NumPy vector; expected a tensor on {A.device}, where A is: use A.to('cpu')")
    tensor = share(v, "vector")
    if tensor.is_complex():
        raise TypeError(f"got a vector of dtype {tensor.dtype}; expected real numbers: solve for both parts apart")
    return tensor if tensor.is_floating_point() else tensor.to(A.torch_dtype)


def batch_shape(A: PoissonFields, shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """Return (leading batch dimensions, whether the rest is grid-shaped) or refuse the shape.

    One column (n, 1), SciPy's other shape of a vector, counts as flat.
    """
    k, n = len(A.grid_shape), A.shape[0]
    if shape[-k:] == A.grid_shape:
        return shape[:-k], True
    if shape == (n, 1):
        return (), False
    if shape[-1:] == (n,):
        return shape[:-1], False
    expected = f"(..., {n}) or (..., {', '.join(map(str, A.grid_shape))})"
    raise ValueError(f"got a vector of shape {shape}; expected {expected}: reshape it, or build A on its grid")


def is_columns(A: PoissonFields, shape: tuple[int, ...]) -> bool:
    """Tell whether a product takes an array of this shape as columns, SciPy's layout of several vectors.

    >>> from krylearn.pde import Poisson
    >>> A = Poisson.from_cells(np.ones((2, 3)))
    >>> [is_columns(A, shape) for shape in ((6, 6), (6, 2), (6, 1), (2, 6), (2, 3))]
    [True, True, False, False, False]
    """
    n = A.shape[0]
    return len(shape) == 2 and shape[0] == n and shape not in ((n, 1), A.grid_shape)


def apply_map(A: PoissonFields, v: Any, on_grid: Callable[[Tensor], Tensor], on_uncoupled: Callable) -> Any:
    """Apply a linear map on the space of A to v, and return the result in its shape, array type, dtype and device.

    This table says what products (``A @ v``, ``M @ v``, ``matvec``) take a shape for:

    | shape of v                     | meaning                                                    |
    |--------------------------------|------------------------------------------------------------|
    | (n,), (n, 1)                   | one vector                                                 |
    | the grid's                     | one vector                                                 |
    | (n, k), (n, n)                 | k vectors, one per column, as in SciPy                     |
    | (k, n) with k not n            | k vectors, one per row                                     |
    | (..., n), (..., the grid's)    | with three dimensions or more: as many vectors             |

    on_grid : map on masked internal grids;  on_uncoupled : (values (..., m), `Uncoupled`) -> values
    """
    shape = _shape(v)
    if is_columns(A, shape):
        rows = v if hasattr(v, "T") and not isinstance(v, np.matrix | np.ma.MaskedArray) else plain_array(v, "vectors")
        # after transposing, (n, n) holds rows; the leading dimension keeps it from being taken for columns
        return apply_map(A, rows.T[None], on_grid, on_uncoupled)[0].T
    grid, alone = to_parts(A, v)
    out = on_grid(grid)
    return from_parts(A, out, None if alone is None else on_uncoupled(alone, A.uncoupled), v)


def to_parts(A: PoissonFields, v: Any) -> tuple[Tensor, Tensor | None]:
    """Scatter v into the internal layout, 0 where nothing is coupled; second: values at uncoupled rows, (..., m)."""
    tensor = as_tensor(A, v)
    batch, gridded = batch_shape(A, tuple(tensor.shape))
    inside = internal_shape(A.grid_shape)
    if gridded or A.numbering is None:
        grid = tensor.reshape(*batch, *inside)
    else:
        flat = tensor.new_zeros(*batch, A.unknown.numel())
        grid = flat.index_copy(-1, A.numbering, tensor.reshape(*batch, A.shape[0])).reshape(*batch, *inside)
    alone = None if A.uncoupled is None else grid.reshape(*batch, -1).index_select(-1, A.uncoupled.cells)
    # masked entries may hold NaN, which a product with 0 would keep
    return (grid if A.full else torch.where(A.unknown, grid, 0)), alone


def to_grid(A: PoissonFields, v: Any) -> Tensor:
    """Scatter v into the internal layout, 0 where nothing is coupled."""
    return to_parts(A, v)[0]


def from_parts(A: PoissonFields, g: Tensor, alone: Tensor | None, like: Any) -> Any:
    """Gather what `to_parts` gave back into the shape, array type and dtype of `like`."""
    if alone is not None and A.uncoupled is not None:
        flat = g.reshape(*g.shape[:-3], -1)
        g = flat.index_copy(-1, A.uncoupled.cells, alone.to(g.dtype)).reshape(g.shape)
    return from_grid(A, g, like)


def from_grid(A: PoissonFields, g: Tensor, like: Any) -> Any:
    """Gather g back into the shape, array type and dtype of `like`."""
    shape = _shape(like)
    _, gridded = batch_shape(A, shape)
    if not gridded and A.numbering is not None:
        g = g.reshape(*g.shape[:-3], -1).index_select(-1, A.numbering)
    out = g.reshape(shape)
    if isinstance(like, Tensor):
        return out.to(like.dtype) if like.is_floating_point() else out
    if on_device(like):  # back to its own library, whose stream then waits for torch's
        out = out.detach().to(TORCH_DTYPES.get(np.dtype(like.dtype), out.dtype))
        return import_module(type(like).__module__.partition(".")[0]).from_dlpack(out)
    dtype = np.asarray(like).dtype
    array = out.detach().cpu().numpy()
    return array.astype(dtype, copy=False) if dtype.kind == "f" else array


def _shape(v: Any) -> tuple[int, ...]:
    return tuple(v.shape) if hasattr(v, "shape") else np.shape(v)
