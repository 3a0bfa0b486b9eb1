"""Operators in units near the end of what a dtype can hold, as operators of moderate size and a power of two."""

from __future__ import annotations

import math

import torch

from .fields import Slot
from .operator import Poisson

MODERATE: Slot[tuple[Poisson, int]] = Slot("moderate")


def moderate(A: Poisson) -> tuple[Poisson, int]:
    """Return A / 2^e and e: A itself and 0, unless its entries are so large or small that a recurrence could overflow.

    >>> A, e = moderate(Poisson.from_coefficients([[1e-300, 1e-300]]))
    >>> e, float(A.diag.max()) > 0.1
    (-993, True)
    """

    def find() -> tuple[Poisson, int]:
        size = A.voxels.unit if A.voxels is not None else float(A.diag.max())
        exponent = power_of_extreme(size, A.torch_dtype)
        return (A.scaled(-exponent) if exponent else A), exponent

    return MODERATE.compute_once(A, find)


def power_of_extreme(size: float, dtype: torch.dtype) -> int:
    """Return the exponent of a number near the end of the range of a dtype, 0 of any other.

    >>> power_of_extreme(1e-3, torch.float64), power_of_extreme(1e-21, torch.float32)
    (0, -69)
    """
    exponent = math.frexp(size)[1] if 0 < size < math.inf else 0
    return exponent if abs(exponent) > (200 if dtype in (torch.float64, torch.complex128) else 30) else 0
