"""Which kernels are known to lie in the disk cache: one small file per kind of problem and step of a solve.

Without a look at that file nobody knows before a solve whether it will take milliseconds or compile for half a minute.
The file holds a fingerprint of our source, so that after an update everything counts as not compiled. It is a hint:
where it is wrong, for example since the folder was emptied, a solve compiles, and says so.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import krylearn.pde
from krylearn.pde.kernel_cache import cache_folder, read_entry, write_entry

STEPS = ("survey", "network", "pieces")  # what `warmup` compiles for each kind of operator
_KNOWN: set[tuple[str, str]] = set()  # found ready by this process: asked before every set-up


def is_ready(kind: str, steps: tuple[str, ...] = STEPS) -> bool:
    """Tell whether the kernels for a kind of operator have been compiled, by this process or on this machine.

    Examples
    --------
    >>> is_ready("kind that nobody knows")
    False
    """
    return all((kind, step) in _KNOWN or _read_mark(kind, step) for step in steps)


def note_ready(kind: str, step: str) -> None:
    """Note that kernels have been compiled, on the disk too if there is room."""
    if (kind, step) in _KNOWN:
        return
    _KNOWN.add((kind, step))
    path = _mark_of(kind, step)
    if path is not None and not _read_mark(kind, step):
        with suppress(OSError):
            write_entry(path, fingerprint())


def _read_mark(kind: str, step: str) -> bool:
    path = _mark_of(kind, step)
    try:
        found = path is not None and read_entry(path) == fingerprint()
    except (OSError, ValueError):  # damaged: as if there were none
        return False
    if found:
        _KNOWN.add((kind, step))
    return found


def _mark_of(kind: str, step: str) -> Path | None:
    """Return the file for this Python, this processor and this copy of krylearn."""
    folder = cache_folder()
    return folder and folder / f"ready-{kind}-{step}-{_place()}.mark"


@cache
def _place() -> str:
    import llvmlite
    import llvmlite.binding as llvm
    import numba

    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    parts = (str(_root()), sys.version, numba.__version__, llvmlite.__version__, *processor)
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _root() -> Path:
    return Path(__file__).resolve().parent.parent


@cache
def fingerprint() -> bytes:
    """Return what changes with any file of our source: what entries in the cache depend on, and more.

    Examples
    --------
    >>> len(fingerprint())
    32
    """
    digest = hashlib.blake2b(digest_size=32)
    for folder in (_root(), Path(krylearn.pde.__file__).resolve().parent):
        for path in sorted(folder.rglob("*.py")):
            with suppress(OSError):
                found = os.stat(path)
                digest.update(f"{path.relative_to(folder)} {found.st_mtime_ns} {found.st_size}\n".encode())
    return digest.digest()
