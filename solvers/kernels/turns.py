"""A lock for what one thread at a time may do, on objects that are copied, pickled and forked."""

from __future__ import annotations

import os
import threading
import weakref


class Turn:
    """A reentrant lock; a copy of its owner gets one of its own, and a forked child finds it free.

    Examples
    --------
    >>> import copy
    >>> turn = Turn()
    >>> with turn, turn:                                   # the same thread may enter again
    ...     copy.copy(turn) is turn
    False
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        TURNS.add(self)

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        """Make a copy, by `copy` or by pickle, a lock of its own."""
        return Turn, ()

    def __enter__(self) -> None:
        """Wait until no other thread is inside."""
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Let the next one in."""
        self._lock.release()

    def _forked(self) -> None:
        """Forget who was inside: that thread does not exist here."""
        self._lock = threading.RLock()


TURNS: weakref.WeakSet[Turn] = weakref.WeakSet()


def _free_all() -> None:
    for turn in list(TURNS):
        turn._forked()


os.register_at_fork(after_in_child=_free_all)
