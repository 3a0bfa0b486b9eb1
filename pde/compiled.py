"""Functions compiled by numba, with a disk cache where one can be written."""

from __future__ import annotations

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
