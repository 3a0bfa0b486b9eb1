"""Say that kernels are being compiled, where that takes long enough to be taken for a hang.

`announced` does so around what is known to compile much; `Watch` for whatever else is not found on the disk:
recognition of matrices, single precision, plain CG.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from krylearn.pde import kernel_cache

PATIENCE = 2.0  # seconds of silence
BETWEEN = 5.0  # seconds between two lines
RARE = (20_000, 50, 1000)  # thresholds of the garbage collector: 12 % less time for 60 MB more (ours, CPython 3.11)


@contextmanager
def announced(patience: float = PATIENCE, between: float = BETWEEN) -> Iterator[None]:
    """Print to stderr how compilation gets on, once it has taken longer than `patience` seconds.

    Examples
    --------
    >>> with announced():
    ...     pass
    """
    from numba.core import event

    class Count(event.Listener):
        done = 0

        def on_start(self, event: Any) -> None:
            pass

        def on_end(self, event: Any) -> None:
            self.done += 1

    start, ended, count = time.monotonic(), threading.Event(), Count()
    event.register("numba:compile", count)
    WATCH.enter_announced()

    def report() -> None:
        wait = patience
        while not ended.wait(wait):
            wait = between
            seconds = time.monotonic() - start
            say(f"compiling kernels, once on this machine: {seconds:.0f} s, {count.done} functions")

    reporter = threading.Thread(target=report, name="krylearn-compile-progress", daemon=True)
    reporter.start()
    try:
        with COLLECTIONS.rare():
            yield
    finally:
        ended.set()
        reporter.join()
        WATCH.leave_announced()
        event.unregister("numba:compile", count)
        seconds = time.monotonic() - start
        if seconds > patience and count.done:
            say(f"kernels compiled in {seconds:.0f} s; `krylearn warmup` does it ahead of the first solve")


class Watch:
    """Follows compilation that nobody announced, from the first function that is not on the disk until all is quiet.

    Examples
    --------
    >>> WATCH.follow()                                                  # nothing is compiled: it ends by itself
    """

    QUIET = 0.5  # seconds without a compilation after which it has ended

    def __init__(self, patience: float = PATIENCE, between: float = BETWEEN) -> None:
        self.patience, self.between = patience, between
        self._lock, self._follows, self._announced = threading.Lock(), False, 0

    def enter_announced(self) -> None:
        """Leave it to `announced`."""
        with self._lock:
            self._announced += 1

    def leave_announced(self) -> None:
        """Watch again."""
        with self._lock:
            self._announced -= 1

    def follow(self) -> None:
        """Begin, unless that is so already."""
        with self._lock:
            if self._follows or self._announced:
                return
            self._follows = True
        from numba.core import event

        class Activity(event.Listener):
            running, done, last = 0, 0, time.monotonic()

            def on_start(self, event: Any) -> None:
                self.running += 1

            def on_end(self, event: Any) -> None:
                self.running, self.done, self.last = self.running - 1, self.done + 1, time.monotonic()

        seen = Activity()
        event.register("numba:compile", seen)
        threading.Thread(target=self._report, args=(seen,), name="krylearn-compile-watch", daemon=True).start()

    def _report(self, seen: Any) -> None:
        from numba.core import event

        start, said = time.monotonic(), 0.0
        while seen.running > 0 or time.monotonic() - seen.last < self.QUIET:
            time.sleep(min(self.QUIET, self.patience) / 5)
            passed = time.monotonic() - start
            if seen.running > 0 and not self._announced and passed > (said + self.between if said else self.patience):
                said = passed
                say(f"compiling kernels, once on this machine: {passed:.0f} s, {seen.done} functions")
        with self._lock:
            self._follows = False
        event.unregister("numba:compile", seen)
        if said:
            say(f"kernels compiled in {seen.last - start:.0f} s; `krylearn warmup` does it ahead of the first solve")


WATCH = Watch()
kernel_cache.on_miss.append(WATCH.follow)


class Collections:
    """Lets garbage be collected less often while anybody compiles: compilers make many objects, few of them in circles.

    Examples
    --------
    >>> with COLLECTIONS.rare():
    ...     gc.get_threshold()[0] >= RARE[0]
    True
    """

    def __init__(self) -> None:
        self.lock, self.users, self.usual = threading.Lock(), 0, gc.get_threshold()

    @contextmanager
    def rare(self) -> Iterator[None]:
        """Raise the thresholds, unless they are higher or collection is off; the last to leave restores them."""
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.usual = gc.get_threshold()
                if 0 < self.usual[0] < RARE[0]:
                    gc.set_threshold(*RARE)
        try:
            yield
        finally:
            with self.lock:
                self.users -= 1
                if self.users == 0 and gc.get_threshold() == RARE:  # else somebody has set others meanwhile
                    gc.set_threshold(*self.usual)


COLLECTIONS = Collections()


def say(text: str) -> None:
    """Write a line to stderr, which may be closed; nothing if ``KRYLEARN_QUIET`` is set.

    Examples
    --------
    >>> say("kernels compiled")                                         # doctest: +SKIP
    """
    if os.environ.get("KRYLEARN_QUIET", "0") not in ("", "0"):
        return
    with suppress(OSError, ValueError, AttributeError):
        print(f"krylearn: {text}", file=sys.stderr, flush=True)
