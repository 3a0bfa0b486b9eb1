"""Arrays of any origin as what torch can hold: dense, of native byte order, of at most 64 bits, without a mask.

What has one obvious meaning is converted: other byte orders, extended and half precision, wide unsigned integers,
objects that are numbers, `numpy.matrix`. What has none is refused: masked entries, sparse vectors, strings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.float64}


def plain_array(values: Any, name: str = "array") -> np.ndarray:
    """Return `values` (a list, or an array of the host) as a NumPy array that torch can share.

    Parameters
    ----------
    values : anything that NumPy understands
    name : what an error calls it

    Raises
    ------
    TypeError
        for masked entries, sparse matrices and what is no number

    Examples
    --------
    >>> plain_array(np.array([1, 2], dtype=">i2")).dtype
    dtype('int16')
    """
    if scipy.sparse.issparse(values):
        raise TypeError(f"got a sparse {name}; expected a dense one: pass {name}.toarray(), of a vector .ravel() too")
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            raise TypeError(
                f"got {int(np.ma.getmaskarray(values).sum())} masked entries in {name}; expected none: pass "
                f"{name}.filled(0), and say which cells hold no unknown (cells=~mask, where a builder takes it)"
            )
        values = values.data
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"got {name} of type {type(values).__name__}; expected an array of real numbers") from None
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "buifc":
        raise TypeError(f"got {name} of dtype {array.dtype}; expected an array of real numbers")
    if kind == "u" and size > 1:
        wider: Any = {2: np.int32, 4: np.int64, 8: np.float64}[size]
    elif kind in "fc" and size > (8 if kind == "f" else 16):
        wider = np.float64 if kind == "f" else np.complex128
    else:
        wider = array.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused or reported like any infinity
        return array.astype(wider, copy=False)


def plain_tensor(tensor: Tensor, name: str = "array") -> Tensor:
    """Return a dense tensor of a dtype that torch can compute with.

    >>> plain_tensor(torch.ones(2, dtype=torch.uint16)).dtype
    torch.int32
    """
    if tensor.layout is not torch.strided:
        raise TypeError(f"got {name} in torch's {tensor.layout} layout; expected a dense one: pass {name}.to_dense()")
    if tensor.is_floating_point() and tensor.dtype not in FLOATS:
        return tensor.float()  # the eight-bit formats, which torch only stores
    return tensor.to(WIDER[tensor.dtype]) if tensor.dtype in WIDER else tensor


def share(values: Any, name: str = "array") -> Tensor:
    """Return a tensor over the memory of an array, copied only if torch cannot use it (read-only, negative strides)."""
    if isinstance(values, Tensor):
        return plain_tensor(values, name)
    array = plain_array(values, name)
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    return torch.from_numpy(contiguous if contiguous.flags.writeable else contiguous.copy())


def times_power_of_two(t: Tensor, exponent: int) -> Tensor:
    """Return 2^exponent t, for any exponent: 2^exponent alone may leave the range of the dtype.

    >>> times_power_of_two(torch.tensor([2.0**-140]), 141)
    tensor([2.])
    """
    most = 120 if t.dtype not in (torch.float64, torch.complex128) else 1000
    while exponent:
        step = max(-most, min(exponent, most))
        t, exponent = t * 2.0**step, exponent - step
    return t


def times_number(t: Tensor, factor: float, exponent: int = 0) -> Tensor:
    """Return 2^exponent factor t, where that number itself may leave the range of the dtype, or be among its last.

    >>> times_number(torch.tensor([2.0**100]), 3.0, -140)
    tensor([2.7285e-12])
    """
    mantissa, own = math.frexp(factor)
    if abs(exponent + own) < (100 if t.dtype not in (torch.float64, torch.complex128) else 1000):
        return t * math.ldexp(mantissa, exponent + own)
    return times_power_of_two(t * mantissa, exponent + own)
