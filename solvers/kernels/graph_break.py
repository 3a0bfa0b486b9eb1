"""Functions that run outside the graphs of ``torch.compile``: one break in the graph, after which it goes on.

A solve decides by numbers how it goes on, and its kernels are not torch's: there is nothing in it for a compiler to
fuse. Left to itself Dynamo would trace into the driver, break dozens of times, and fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def runs_outside_graphs(function: F) -> F:
    """Return the function as one that Dynamo calls and does not look into; it costs nothing where Dynamo is not loaded.

    ``torch.compiler.disable`` does this too, but imports the compiler at once, which takes longer than many solves.

    >>> runs_outside_graphs(max)(2, 3)
    3
    """
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*arguments, **options)
        if not disabled:
            disabled.append(sys.modules["torch._dynamo"].disable(function))
        return disabled[0](*arguments, **options)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]  # what Dynamo looks for, and reports as the reason
    return call  # type: ignore[return-value]
