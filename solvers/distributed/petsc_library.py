"""PETSc and MPI as Python sees them: imported when first needed, refused with the recipe where they are absent."""

from __future__ import annotations

import atexit
import ctypes
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..files import NotWrittenError

RECIPE = (
    'pip install "krylearn[petsc]", or on Debian the packages python3-petsc4py-real and openmpi-bin: '
    "docs/distributed.md has the recipe"
)


def load_petsc() -> Any:
    """Return the module ``petsc4py.PETSc``; an ImportError names the extra and the recipe.

    Examples
    --------
    >>> try:
    ...     bits = load_petsc().ScalarType().nbytes * 8
    ... except ImportError as error:
    ...     bits = 64 if "krylearn[petsc]" in str(error) else 0
    >>> bits
    64
    """
    try:
        import mpi4py  # noqa: F401  communicators of PETSc are handed over as mpi4py's
        from petsc4py import PETSc
    except ImportError as error:
        raise ImportError(f"krylearn.solvers.distributed needs petsc4py and mpi4py ({error}): {RECIPE}") from error
    if PETSc.ScalarType().dtype.name != "float64":
        name = PETSc.ScalarType().dtype.name
        raise ImportError(f"got a PETSc whose scalars are {name}; expected float64: install its real, double build")
    _register()
    return PETSc


def world() -> Any:
    """Return the communicator of all ranks."""
    load_petsc()
    from mpi4py import MPI

    return MPI.COMM_WORLD


@contextmanager
def collective_errors(comm: Any) -> Iterator[None]:
    """Raise on every rank what one rank raises in this block, which may communicate nothing itself.

    Without it the other ranks would wait for ever in the next exchange. The message names the first rank that failed.
    """
    error: Exception | None = None
    try:
        yield
    except (ValueError, TypeError, OSError) as caught:
        error = caught
    found = comm.allgather(None if error is None else (type(error), str(error)))
    for rank, failure in enumerate(found):
        if failure is not None:
            kind = failure[0] if failure[0] in (ValueError, TypeError, NotWrittenError) else ValueError
            raise kind(f"rank {rank} of {comm.size}: {failure[1]}" if comm.size > 1 else failure[1]) from error


@contextmanager
def ending_all_ranks(comm: Any, name: str = "krylearn") -> Iterator[None]:
    """End the processes of all ranks when one of them raises in this block, with one message.

    An exception that every rank has (see `collective_errors`) is printed by rank 0 alone; one of a single rank by that
    rank, which then aborts the others.
    """
    try:
        yield
    except Exception as error:
        if comm.size == 1:
            raise
        import traceback

        shared = str(error).startswith("rank ")
        if shared and comm.rank:
            comm.Barrier()  # rank 0 prints and aborts
        text = "" if shared else "".join(traceback.format_exception(error))
        where = "" if shared else f"rank {comm.rank} of {comm.size}: "
        print(f"{text}{name}: {where}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        comm.Abort(1)


# --- what still lives when the interpreter ends -----------------------------------------------------------------------
# PETSc would call back into Python code that is no longer there. A preconditioner of type python that outlives the
# interpreter ends the process with a segmentation fault, after everything is done.

# And PETSc ends collectively: a rank whose program failed would wait at exit for the others, which wait for it.

_OWNERS: dict[int, weakref.ref[Any]] = {}
_CONTEXTS: dict[int, Any] = {}  # address of a PETSc PC -> its context


def free_at_exit(owner: Any) -> None:
    """Call ``owner.destroy()`` before the interpreter ends, in the order of creation, the same on every rank."""
    _OWNERS[id(owner)] = weakref.ref(owner)


def detach_at_exit(pc: Any, context: Any) -> None:
    """Take a context out of a PETSc PC before the interpreter ends, unless `forget` is called first.

    Only the address is kept: a reference to the PC would keep it alive.
    """
    _CONTEXTS[pc.handle] = context


def forget(context: Any) -> None:
    """Say that the PC of a context is being destroyed."""
    for address in [a for a, each in _CONTEXTS.items() if each is context]:
        del _CONTEXTS[address]


@cache
def _register() -> None:
    atexit.register(_free_all)


def _abort_others() -> None:
    """End all ranks if there are several; the exception of this one has been printed."""
    from mpi4py import MPI

    if MPI.Is_initialized() and not MPI.Is_finalized() and MPI.COMM_WORLD.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)


def _free_all() -> None:
    if getattr(sys, "last_value", None) is not None:  # an exception has ended this program
        _abort_others()
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
