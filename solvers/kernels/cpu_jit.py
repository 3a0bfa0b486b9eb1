"""How the CPU kernels are compiled: numba, a disk cache where there can be one, one thread for small grids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba

FAST = {"contract", "reassoc", "nsz"}  # no nnan, no ninf: a NaN has to reach the stopping rule
SERIAL = 20_000  # cells up to which one thread is faster than waking the others (ours, two cores)


@contextmanager
def threads_for(cells: int) -> Iterator[None]:
    """One thread for a small grid, all that numba has for a large one."""
    threads = numba.get_num_threads()
    if cells > SERIAL or threads == 1:
        yield
        return
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(threads)


def kernel(function: Any = None, *, parallel: bool = True) -> Any:
    """``numba.njit`` with a disk cache where one can be written (containers and read-only installations have none)."""
    if function is None:
        return lambda f: kernel(f, parallel=parallel)
    options = {"parallel": parallel, "fastmath": FAST, "error_model": "numpy", "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        return numba.njit(**options)(function)


row_kernel = kernel(parallel=False)
