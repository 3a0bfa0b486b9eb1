"""Who may launch parallel kernels: several threads at once where the threading layer allows it, and no forked child.

Of numba's layers "workqueue" (the only one on many Macs) ends the process when two threads launch at the same time:
there a lock makes launches wait for one another. Which layer is used is known after the first launch; until then the
lock holds too. GNU's OpenMP ends a forked child that launches, without a word that Python could catch: there a launch
is refused before, with the remedy. The other layers start again in a child.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Launches:
    """What is known about the threading layer of this process.

    Attributes
    ----------
    concurrent : whether several threads may launch at once;  forbidden : whether this is a child that must not launch
    """

    def __init__(self) -> None:
        self.concurrent = self.forbidden = False
        self.lock = threading.RLock()

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Launch kernels alone; then look which layer it was."""
        if self.forbidden:
            raise RuntimeError(
                "this process was forked from one that had started OpenMP threads for krylearn, which they do not "
                'survive; expected a process of its own: multiprocessing.set_start_method("spawn"), for a DataLoader '
                'multiprocessing_context="spawn", or NUMBA_THREADING_LAYER=workqueue or tbb in the environment'
            )
        with self.lock:
            yield
            self.concurrent = layer() in ("omp", "tbb")

    def forked(self) -> None:
        """Start again in a child: locks may have been held by threads that do not exist here.

        torch would wait for its own OpenMP threads for ever, so it gets one, as it has in a DataLoader's worker.
        """
        launched = layer()
        if launched and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        self.lock, self.concurrent = threading.RLock(), False
        self.forbidden = self.forbidden or (launched == "omp" and openmp_vendor() == "GNU")


def layer() -> str:
    """Return the name of the threading layer that numba has started, "" if none has been.

    >>> layer() in ("", "omp", "tbb", "workqueue")
    True
    """
    numba = sys.modules.get("numba")
    try:
        return str(numba.threading_layer()) if numba else ""
    except ValueError:
        return ""


def openmp_vendor() -> str:
    """Return whose OpenMP numba uses: "GNU", "Intel", "MS", or "" if it uses none."""
    return str(getattr(sys.modules.get("numba.np.ufunc.omppool"), "openmp_vendor", ""))


LAUNCHES = Launches()
os.register_at_fork(after_in_child=LAUNCHES.forked)


def refuse_after_fork() -> None:
    """Raise where a launch would end the process: asked before any large array is touched."""
    if LAUNCHES.forbidden:
        with LAUNCHES.one_at_a_time():
            pass
