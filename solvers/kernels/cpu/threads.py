"""How many threads a solve uses: all there are, or fewer for as long as somebody else works on the same cores.

OpenMP's threads wait for one another at the end of every kernel, some fifty times per step, and where one of their
cores is taken each of these waits lasts a time slice: with one of two cores taken, two threads are twenty times slower
than one. So steps are timed, and after one that took suspiciously long the next tries fewer threads. Results do not
depend on the number of threads, so they do not depend on the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numba

from .compile import SERIAL, limited_threads
from .launching import LAUNCHES

SLOW = 30e-9  # seconds per cell and step: more than one core takes (ours, EPYC: 10 to 20)
MUCH = 4.0  # times the best so far with as many cells: suspicious too
GAIN, LOSS = 0.7, 1.3  # of the time with all threads: fewer are better below; of that with fewer: all are worse above
FIRST, LAST = 16, 1024  # steps until the other number of threads is tried, doubled each time that is in vain


class Pace:
    """Chooses the threads of each step from how long the last ones took.

    Examples
    --------
    >>> pace = Pace()
    >>> pace.threads(8)
    8
    >>> pace.note(1_000_000, 0.5)                   # half a microsecond per cell
    >>> pace.threads(8)
    6
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.best: dict[int, float] = {}  # seconds per cell, by the magnitude of the grid
        self.fewer = self.trial = False  # whether the next step takes fewer threads, and for the first time
        self.slow = self.fast = 0.0  # seconds per cell of the last step with all threads, with fewer
        self.left, self.span = 0, FIRST  # steps until the other number is tried

    def threads(self, most: int) -> int:
        """Return how many threads to use for the next step."""
        return most - max(1, most // 4) if self.fewer and most > 1 else most

    def note(self, cells: int, seconds: float) -> None:
        """Learn how long a step took, and decide about the next."""
        took, size = seconds / cells, cells.bit_length()
        self.best[size] = best = min(took, self.best.get(size, took))
        self.left = max(self.left - 1, 0)
        if self.fewer:
            self.fast = took
            if self.trial and took > GAIN * self.slow:
                self._wait(fewer=False)  # that was not the reason
            elif self.left == 0:
                self.fewer = False  # one step with all, to compare
            self.trial = False
        elif took <= min(SLOW, MUCH * best):
            self.left, self.span, self.fast = 0, FIRST, 0.0
        elif self.left == 0:
            self.trial = took <= LOSS * self.fast or not self.fast
            self.slow = took
            self._wait(fewer=True)

    def _wait(self, fewer: bool) -> None:
        """Stay with a number of threads for a while, longer each time."""
        self.fewer, self.left, self.span = fewer, self.span, min(2 * self.span, LAST)

    @contextmanager
    def step(self, cells: int) -> Iterator[None]:
        """Run a step of a solve with the threads that are best for it; small grids with one."""
        if not LAUNCHES.concurrent:
            with LAUNCHES.one_at_a_time(), limited_threads(cells):
                yield
            return
        most = numba.get_num_threads()
        if most == 1:
            yield
            return
        numba.set_num_threads(1 if cells <= SERIAL else self.threads(most))
        start = self.clock()
        try:
            yield
        finally:
            numba.set_num_threads(most)
            if cells > SERIAL:
                self.note(cells, self.clock() - start)


PACE = Pace()
