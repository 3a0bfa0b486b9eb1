"""How the CPU kernels are compiled: numba, a disk cache where there can be one, one thread for small grids."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import numba
from krylearn.pde.compiled import compile_cached, compile_function

from .launching import LAUNCHES

FAST = {"contract", "reassoc", "nsz"}  # no nnan, no ninf: a NaN has to reach the stopping rule
# set-up without reassoc: a compiled loop chooses between versions of itself by where its arrays lie in memory, and then
# versions may add in other orders; two set-ups of one system have to agree in every bit
ORDERED = FAST - {"reassoc"}
SERIAL = 20_000  # cells up to which one thread is faster than waking the others (ours, two cores)


@contextmanager
def threads_for(cells: int) -> Iterator[None]:
    """One thread for a small grid, all that numba has for a large one; launches only where that is allowed."""
    if not LAUNCHES.concurrent:
        with LAUNCHES.one_at_a_time(), limited_threads(cells):
            yield
        return
    threads = numba.get_num_threads()
    if cells > SERIAL or threads == 1:
        yield
        return
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(threads)


@contextmanager
def limited_threads(cells: int) -> Iterator[None]:
    """One thread for a small grid."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1 if cells <= SERIAL else threads)
    try:
        yield
    finally:
        numba.set_num_threads(threads)


def kernel(function: Any = None, *, parallel: bool = True, fastmath: Any = FAST) -> Any:
    """Compile a kernel that Python calls."""
    if function is None:
        return lambda f: kernel(f, parallel=parallel, fastmath=fastmath)
    return compile_cached(function, parallel=parallel, fastmath=fastmath, error_model="numpy", nogil=True)


def row_kernel(function: Any, fastmath: Any = FAST) -> Any:
    """Compile a helper that only other kernels call: serial, no Python or C wrapper."""
    inner = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return compile_function(function, fastmath=fastmath, error_model="numpy", nogil=True, **inner)


def register_kernel(function: Any) -> Any:
    """Compile a formula on `lanes` into whatever calls it: a call would carry vectors through memory."""
    inner = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
    return compile_function(function, error_model="numpy", nogil=True, **inner)


def ordered_row_kernel(function: Any) -> Any:
    """Compile what only strip kernels call."""
    return row_kernel(function, ORDERED)


def inlined_kernel(function: Any) -> Any:
    """Write a function out where it is called, before anything is compiled: for what is called in one place.

    Every compiled function compiles all that it calls once more, so a chain of calls costs the square of its length.
    """
    return compile_function(function, fastmath=ORDERED, error_model="numpy", nogil=True, inline="always")


def strip_kernel(function: Any) -> Any:
    """Compile a kernel ``f(start, stop, ...)`` over a range of independent tasks, to be called by `over_strips`.

    A parallel loop of numba compiles everything that its body calls two times more; the set-up kernels are long enough
    for that to matter (20 of 70 s).
    """
    return kernel(function, parallel=False, fastmath=ORDERED)


def over_strips(function: Any, tasks: int, *arguments: Any) -> None:
    """Call a strip kernel for all tasks, by as many Python threads as numba would use; it does not hold the GIL."""
    threads = min(numba.get_num_threads(), tasks)
    if threads <= 1:
        function(0, tasks, *arguments)
        return
    pieces = min(tasks, 4 * threads)  # a few per thread, since tasks differ in cost
    bounds = [tasks * k // pieces for k in range(pieces + 1)]
    strips = iter(list(pairwise(bounds)))  # of a list, which threads may share

    def work() -> None:
        for start, stop in strips:
            function(start, stop, *arguments)

    waiting = [
        pool().submit(work) for _ in range(threads - 1)
    ]  # this thread works too: waking others is what takes time
    work()
    for result in waiting:
        result.result()


@cache
def pool() -> ThreadPoolExecutor:
    """Threads that wait for set-up work; a forked child makes its own."""
    return ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, thread_name_prefix="krylearn-setup")


os.register_at_fork(after_in_child=pool.cache_clear)
