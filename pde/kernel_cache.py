"""Machine code on disk, so that a process need not compile what an earlier one has: numba's cache, made to fail safely.

An entry is code that will run, so it is only taken from a folder and a file that belong to this user (or to root) and
that nobody else may write. An entry is one file with a checksum, written beside its place and renamed; what is cut
off, damaged or of another version is compiled anew, with one warning, and a disk without room costs a warning, never a
result. numba's own cache (an index and numbered files, unpickled unchecked) raises in all of these cases.

The folder is ``$NUMBA_CACHE_DIR/krylearn-<user>`` if that variable is set, else ``krylearn`` in ``$XDG_CACHE_HOME`` or
``~/.cache``. Where no folder can be made, everything is compiled in every process.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

DIGEST = 32  # bytes of the checksum that an entry begins with
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
told: set[str] = set()  # what this process has been warned of
on_miss: list[Callable[[], None]] = []  # called before a function is compiled that is not on the disk


def attach_cache(dispatcher: Any) -> Any:
    """Let a function of ``numba.njit`` look for machine code on the disk before it compiles; returns the function.

    Examples
    --------
    >>> attach_cache(lambda n: n)(3)        # nothing to cache where compiling is switched off
    3
    """
    if hasattr(dispatcher, "_cache"):
        dispatcher._cache = KernelCache(dispatcher)
    return dispatcher


@cache
def cache_folder() -> Path | None:
    """Return the folder of this user's entries, made if need be; None where there can be none.

    Examples
    --------
    >>> folder = cache_folder()
    >>> folder is None or stat.S_IMODE(folder.stat().st_mode) & WRITABLE_BY_OTHERS == 0
    True
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    if given:
        folder = Path(given) / f"krylearn-{user}"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = Path(home) / "krylearn"
    if not folder.is_absolute() and not given:  # no home
        return None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user:
            folder.chmod(0o700)
            found = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or not _is_private(found):
        warn_once(
            "folder", f"{folder} is not used: it is no folder of this user alone, and what lies there would be run"
        )
        return None
    return folder


def warn_once(about: str, text: str) -> None:
    """Warn of each kind of thing once in a process."""
    if about not in told:
        told.add(about)
        warnings.warn(f"cache of compiled functions: {text}", stacklevel=2)


class KernelCache:
    """The machine code of one function, in the interface that numba's dispatcher asks for."""

    def __init__(self, dispatcher: Any) -> None:
        self._function, self._options = dispatcher.py_func, dispatcher.targetoptions
        self._enabled = True

    @property
    def cache_path(self) -> str:
        """The folder, as numba's statistics show it."""
        return str(cache_folder() or "")

    def enable(self) -> None:
        """Use the disk."""
        self._enabled = True

    def disable(self) -> None:
        """Leave the disk alone."""
        self._enabled = False

    def flush(self) -> None:
        """Remove this function's entries."""
        for path in self._entries(""):
            with suppress(OSError):
                path.unlink()

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return what was compiled for these types, or None: then numba compiles."""
        found = self._read(signature, target_context)
        if found is None:
            for tell in on_miss:
                tell()
        return found

    def _read(self, signature: Any, target_context: Any) -> Any:
        target_context.refresh()
        folder = cache_folder() if self._enabled else None
        if folder is None:
            return None
        path = folder / self._name(signature, target_context.codegen())
        try:
            payload = read_entry(path)
            return None if payload is None else _rebuild(target_context, pickle.loads(payload))
        except Exception as error:  # whatever unpickling half an entry may raise
            words = str(error) or type(error).__name__
            warn_once("entry", f"{folder} holds broken entries ({words}); what they held is compiled again")
            with suppress(OSError):
                path.unlink()
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled, if there is a place and room for it."""
        folder = cache_folder() if self._enabled else None
        if folder is None or not os.access(folder, os.W_OK) or not _can_be_kept(result):
            return
        from numba.core.serialize import dumps

        name = self._name(signature, result.codegen)
        stamp = name.rsplit("-", 1)[0]
        try:
            write_entry(folder / name, dumps(result._reduce()))
            for path in self._entries(""):
                if not path.name.startswith(stamp):  # of an older version of the source
                    path.unlink(missing_ok=True)
        except OSError as error:
            warn_once("room", f"{folder} cannot be written ({error.strerror or error}); every process compiles anew")

    def _entries(self, stamp: str) -> list[Path]:
        folder = cache_folder()
        return list(folder.glob(f"{self._place()}-{stamp}*.nbc")) if folder else []

    def _place(self) -> str:
        """Name the function, for this Python and this numba."""
        import llvmlite
        import numba

        source, name = inspect.getfile(self._function), self._function.__qualname__
        versions = (sys.version, numba.__version__, llvmlite.__version__)
        readable = "".join(c for c in name if c.isalnum() or c == "_")[:60]
        return f"{readable}-{_digest(os.path.abspath(source), name, versions)}"

    def _name(self, signature: Any, codegen: Any) -> str:
        """Return the file of one signature: whatever the machine code depends on is in it."""
        function = self._function
        stamp = [_stamp(file) for file in sorted(_sources(function, set()))]
        code = function.__code__
        cells = [_describe(cell.cell_contents) for cell in function.__closure__ or ()]
        options = sorted((name, _describe(value)) for name, value in self._options.items())
        key = _digest(signature, codegen.magic_tuple(), code.co_code, code.co_firstlineno, cells, options)
        return f"{self._place()}-{_digest(stamp)}-{key}.nbc"


def read_entry(path: Path) -> bytes | None:
    """Return the content of an entry; None if there is none.

    Raises
    ------
    ValueError
        for an entry that is cut off, damaged, or that somebody else could have written
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _is_private(found):
            raise ValueError(f"{path.name} is not of this user alone")
        data = file.read()
    payload = data[DIGEST:]
    if len(data) <= DIGEST or hashlib.blake2b(payload, digest_size=DIGEST).digest() != data[:DIGEST]:
        raise ValueError(f"{path.name} is cut off or damaged")
    return payload


def write_entry(path: Path, payload: bytes) -> None:
    """Write an entry whole or not at all; its checksum finds what a power failure leaves, so nothing is waited for.

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "a.nbc"
    >>> write_entry(path, b"code")
    >>> read_entry(path)
    b'code'
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")  # new, no link, ours alone
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.blake2b(payload, digest_size=DIGEST).digest() + payload)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise


def _is_private(found: os.stat_result) -> bool:
    """Tell whether only this user, or root, can have written something."""
    if not hasattr(os, "geteuid"):
        return True  # Windows: the user's profile is private by its access list
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & WRITABLE_BY_OTHERS


def _rebuild(target_context: Any, payload: Any) -> Any:
    from numba.core.compiler import CompileResult

    return CompileResult._rebuild(target_context, *payload)


def _can_be_kept(result: Any) -> bool:
    """Tell whether compiled code holds no address of this process."""
    return all(lifted.can_cache for lifted in result.lifted) and not result.library.has_dynamic_globals


def _sources(function: Any, seen: set[Any]) -> set[str]:
    """Return the files of a function and of all compiled functions that it calls: they are compiled into it."""
    if function in seen:
        return set()
    seen.add(function)
    found = {inspect.getfile(function)}
    for name in function.__code__.co_names:
        called = getattr(function.__globals__.get(name), "py_func", None)
        if called is not None:
            found |= _sources(called, seen)
    return found


def _stamp(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0  # no source: the code itself stands for it
    return found.st_mtime_ns, found.st_size


def _describe(value: Any) -> str:
    """Return a text that is the same in every process; sets of texts are in another order in each."""
    if isinstance(value, set | frozenset):
        return repr(sorted(map(repr, value)))
    function = getattr(value, "py_func", value)  # of a compiled function, what it was made from
    code = getattr(function, "__code__", None)
    return repr(value) if code is None else f"{function.__module__}.{function.__qualname__}:{code.co_code.hex()}"


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=10).hexdigest()
