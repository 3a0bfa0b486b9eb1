"""Functions compiled by numba, with a disk cache where one can be written."""

from __future__ import annotations

from functools import cache
from typing import Any


def compile_cached(function: Any, **options: Any) -> Any:
    """Compile by ``numba.njit``; containers and read-only installations, which have no place for a cache, do without.

    Examples
    --------
    >>> compile_cached(lambda n: n + 1)(2)
    3
    """
    import numba

    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return numba.njit(**options)(function)


@cache
def compile_once(function: Any) -> Any:
    """Compile a function for whoever asks first, and return the same to all others.

    Sums may be taken in another order than they are written in, always in the same.
    """
    return compile_cached(function, nogil=True, fastmath={"reassoc", "nsz", "contract"})
