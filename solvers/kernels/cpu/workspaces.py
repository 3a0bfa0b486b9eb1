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
        self._lock = threading.RLock()  # a set-up that keeps the pool closed may apply what it sets up
        self._first_is_free, self._idle = True, list[T]()
        self._out, self._most = 0, 1

    def __reduce__(self) -> tuple[type[Workspaces[T]], tuple[()]]:
        """Make a copy, by `copy` or by pickle, a pool of its own: nothing that is lent goes along."""
        return Workspaces, ()

    def borrow(self, first: T, make: Callable[[], T]) -> Loan[T]:
        """Lend one of them for a while: `first`, which always exists, or another one like it."""
        return Loan(self, first, make)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Lend nothing for a while: callers wait. RuntimeError while something is lent, which would change in use."""
        with self._lock:
            if self._out:
                raise RuntimeError(
                    f"got an update of a preconditioner that {self._out} calls use at this moment; expected none: wait "
                    "for them, or make a new NeuralMultigrid for the new operator"
                )
            yield

    def take(self, make: Callable[[], T]) -> T | None:
        """Return another one than the first, made if there is none; None: the first is free, and now lent."""
        with self._lock:
            self._out += 1
            self._most = max(self._most, self._out)
            if self._first_is_free:
                self._first_is_free = False
                return None
            kept = self._idle.pop() if self._idle else None
        if kept is not None:
            return kept
        try:
            return make()
        except BaseException:  # memory, most likely
            with self._lock:
                self._out -= 1
            raise

    def give_back(self, lent: T | None) -> None:
        """Take back what `take` returned."""
        with self._lock:
            self._out -= 1
            if lent is None:
                self._first_is_free = True
            else:
                self._idle.append(lent)
            if self._out == 0:
                del self._idle[self._most - 1 :]
                self._most = max(1, self._most - 1)


class Loan(Generic[T]):
    """One thing of a pool for the length of a `with`; a class, since a generator costs small solves a hundredth."""

    __slots__ = ("_first", "_lent", "_make", "_pool")

    def __init__(self, pool: Workspaces[T], first: T, make: Callable[[], T]) -> None:
        self._pool, self._first, self._make = pool, first, make

    def __enter__(self) -> T:
        """Take it."""
        self._lent = self._pool.take(self._make)
        return self._first if self._lent is None else self._lent

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._pool.give_back(self._lent)


POOLS: weakref.WeakSet[Workspaces] = weakref.WeakSet()


def _start_all() -> None:
    """Forget in a forked child who had borrowed what: those threads do not exist there."""
    for pool in list(POOLS):
        pool._start()


os.register_at_fork(after_in_child=_start_all)
