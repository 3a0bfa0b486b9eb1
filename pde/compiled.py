"""Functions compiled by numba, with a disk cache where one can be written."""

from __future__ import annotations

from functools import cache
from typing import Any

from .kernel_cache import attach_cache


def compile_function(function: Any, **options: Any) -> Any:
    """Compile by ``numba.njit``, also where NUMBA_DISABLE_JIT is set to look into functions of one's own.

    Ours are written for machine code: Python has no vectors in registers, and its loops would take hours.
    """
    import numba

    disabled, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, 0
    try:
        return numba.njit(**options)(function)
    finally:
        numba.config.DISABLE_JIT = disabled


def compile_cached(function: Any, **options: Any) -> Any:
    """Compile a function and keep its machine code on disk, where there is a place for it.

    Examples
    --------
    >>> compile_cached(lambda n: n + 1)(2)
    3
    """
    return attach_cache(compile_function(function, **options))


@cache
def compile_once(function: Any) -> Any:
    """Compile a function for whoever asks first, and return the same to all others.

    Sums may be taken in another order than they are written in, always in the same.
    """
    return compile_cached(function, nogil=True, fastmath={"reassoc", "nsz", "contract"})
