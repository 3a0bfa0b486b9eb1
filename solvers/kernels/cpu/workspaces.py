"""Work space for calls that run at the same time: as much as there were callers lately, at least one.

The first belongs to whatever is called and costs nothing; it is passed in, so that a pool refers to nobody. Others are
made when a caller finds none free, kept while callers keep coming at the same time, and given up one by one when they
do not.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Workspaces(Generic[T]):
    """A pool of equal things that one caller at a time may write to.

    Examples
    --------
    >>> pool = Workspaces()
    >>> with pool.borrow("first", lambda: "another") as one, pool.borrow("first", lambda: "another") as two:
    ...     one, two
    ('first', 'another')
    >>> with pool.borrow("first", lambda: "another") as one:
    ...     one
    'first'
    """

    def __init__(self) -> None:
        self._start()
        POOLS.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._first_is_free, self._idle = True, list[T]()
        self._out, self._most = 0, 1

    def __reduce__(self) -> tuple[type[Workspaces[T]], tuple[()]]:
        """Make a copy, by `copy` or by pickle, a pool of its own: nothing that is lent goes along."""
        return Workspaces, ()

    @contextmanager
    def borrow(self, first: T, make: Callable[[], T]) -> Iterator[T]:
        """Lend one of them for a while: `first`, which always exists, or another one like it."""
        with self._lock:
            self._out += 1
            self._most = max(self._most, self._out)
            mine = self._first_is_free
            self._first_is_free = False
            kept = None if mine or not self._idle else self._idle.pop()
        lent = first if mine else make() if kept is None else kept
        try:
            yield lent
        finally:
            with self._lock:
                self._out -= 1
                if mine:
                    self._first_is_free = True
                else:
                    self._idle.append(lent)
                if self._out == 0:
                    del self._idle[self._most - 1 :]
                    self._most = max(1, self._most - 1)


POOLS: weakref.WeakSet[Workspaces] = weakref.WeakSet()


def _start_all() -> None:
    """Forget in a forked child who had borrowed what: those threads do not exist there."""
    for pool in list(POOLS):
        pool._start()


os.register_at_fork(after_in_child=_start_all)
