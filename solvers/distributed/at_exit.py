"""What still lives when the interpreter ends: PETSc would call back into Python code that is no longer there.

A preconditioner of type python that outlives the interpreter ends the process with a segmentation fault, after
everything is done, and takes with it what was printed and not yet written.
"""

from __future__ import annotations

import atexit
import ctypes
import weakref
from typing import Any

_OWNERS: dict[int, weakref.ref[Any]] = {}
_CONTEXTS: dict[int, Any] = {}  # address of a PETSc PC -> its context


def free_at_exit(owner: Any) -> None:
    """Call ``owner.destroy()`` before the interpreter ends, in the order of creation, the same on every rank."""
    _register()
    _OWNERS[id(owner)] = weakref.ref(owner)


def detach_at_exit(pc: Any, context: Any) -> None:
    """Take a context out of a PETSc PC before the interpreter ends, unless `forget` is called first.

    Only the address is kept: a reference to the PC would keep it alive.
    """
    _register()
    _CONTEXTS[pc.handle] = context


def forget(context: Any) -> None:
    """Say that the PC of a context is being destroyed."""
    for address in [a for a, each in _CONTEXTS.items() if each is context]:
        del _CONTEXTS[address]


def _register() -> None:
    if not (_OWNERS or _CONTEXTS):
        atexit.register(_free_all)


def _free_all() -> None:
    if _CONTEXTS:
        from petsc4py import PETSc

        set_type = ctypes.CDLL(PETSc.__file__).PCSetType  # petsc4py makes no object from an address
        set_type.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for address in list(_CONTEXTS):
            set_type(address, b"none")  # calls `destroy` of the context
        _CONTEXTS.clear()
    for reference in list(_OWNERS.values()):
        owner = reference()
        if owner is not None:
            owner.destroy()
    _OWNERS.clear()
