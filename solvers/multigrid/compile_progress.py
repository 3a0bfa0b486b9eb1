"""Say that kernels are being compiled, where that takes long enough to be taken for a hang."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

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
        event.unregister("numba:compile", count)
        seconds = time.monotonic() - start
        if seconds > patience and count.done:
            say(f"kernels compiled in {seconds:.0f} s; `krylearn warmup` does it ahead of the first solve")


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
