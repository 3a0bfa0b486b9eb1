"""What still lives when the interpreter ends: PETSc would call back into Python code that is no longer there."""

from __future__ import annotations

import atexit
import weakref
from typing import Any

_LIVING: dict[int, weakref.ref[Any]] = {}


def free_at_exit(owner: Any) -> None:
    """Call ``owner.destroy()`` before the interpreter ends, in the order of creation, the same on every rank."""
    if not _LIVING:
        atexit.register(_free_all)
    _LIVING[id(owner)] = weakref.ref(owner)


def _free_all() -> None:
    for reference in list(_LIVING.values()):
        owner = reference()
        if owner is not None:
            owner.destroy()
    _LIVING.clear()
