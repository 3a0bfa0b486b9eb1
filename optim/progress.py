"""A progress bar for runs that take long: it appears after two seconds, on terminals only, and leaves no trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator


def watch(text: str, show: bool | None = None) -> Callable[[Iterable[int]], Iterator[int]]:
    """Return a wrapper of steps: True shows a bar at once, False never, None after two seconds on a terminal.

    Examples
    --------
    >>> list(watch("Lanczos", False)(range(3)))
    [0, 1, 2]
    """

    def steps(items: Iterable[int]) -> Iterator[int]:
        if show is False:
            yield from items
            return
        from rich.console import Console
        from rich.progress import Progress

        console, items = Console(stderr=True), list(items)
        bar = Progress(console=console, transient=True)
        task, begun = bar.add_task(text, total=len(items)), time.monotonic()
        started = False
        try:
            for i, item in enumerate(items):
                if not started and (show or (console.is_terminal and time.monotonic() - begun > 2)):
                    bar.start()
                    started = True
                yield item
                bar.update(task, completed=i + 1)
        finally:
            if started:
                bar.stop()

    return steps
