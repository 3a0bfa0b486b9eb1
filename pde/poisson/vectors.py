"""Vectors at the edge: from the caller's flat or grid-shaped array to the internal 3D layout and back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .fields import PoissonFields
from .grid import TORCH_DTYPES, internal_shape, share


def on_device(v: Any) -> bool:
    """Whether v is an array outside the memory of the host, such as CuPy's, that can be exchanged by DLPack."""
    return hasattr(v, "__dlpack_device__") and not isinstance(v, Tensor) and int(v.__dlpack_device__()[0]) != 1


def as_tensor(A: PoissonFields, v: Any) -> Tensor:
    """Return v as a floating tensor on A's device, sharing memory where possible; numbers of other kinds become A's."""
    if isinstance(v, Tensor):
        if v.device != A.device:
            raise ValueError(f"got a vector on {v.device}; expected {A.device}, where A is: move one with .to()")
        tensor = v
    elif on_device(v):
        return as_tensor(A, torch.from_dlpack(v))  # the protocol makes torch's stream wait for the producer's
    else:
        array = np.asarray(v)
        if array.dtype.kind not in "buifc":
            raise TypeError(f"got a vector of dtype {array.dtype}; expected real numbers")
        if A.device.type != "cpu":
            raise ValueError(f"got a NumPy vector; expected a tensor on {A.device}, where A is: use A.to('cpu')")
        tensor = share(array)
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
    if shape[-1:] == (n,):
        return shape[:-1], False
    if shape == (n, 1):
        return (), False
    expected = f"(..., {n}) or (..., {', '.join(map(str, A.grid_shape))})"
    raise ValueError(f"got a vector of shape {shape}; expected {expected}: reshape it, or build A on its grid")


def to_grid(A: PoissonFields, v: Any) -> Tensor:
    """Scatter v into the internal layout, 0 where there is no unknown."""
    tensor = as_tensor(A, v)
    batch, gridded = batch_shape(A, tuple(tensor.shape))
    inside = internal_shape(A.grid_shape)
    if gridded or A.numbering is None:
        grid = tensor.reshape(*batch, *inside)
    else:
        flat = tensor.new_zeros(*batch, A.unknown.numel())
        grid = flat.index_copy(-1, A.numbering, tensor.reshape(*batch, A.shape[0])).reshape(*batch, *inside)
    # masked entries may hold NaN, which a product with 0 would keep
    return grid if A.full else torch.where(A.unknown, grid, 0)


def from_grid(A: PoissonFields, g: Tensor, like: Any) -> Any:
    """Gather g back into the shape, array type and dtype of `like`."""
    shape = tuple(like.shape) if isinstance(like, Tensor) else np.shape(like)
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
