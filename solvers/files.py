"""Writing files whole or not at all, and lines that are only ever appended.

A file is written beside its place under a name of its own, flushed to the disk and then renamed: whoever looks at the
place finds the older file or the new one, also after `kill -9`, a full disk or a power failure. Whatever krylearn
writes goes through here: solutions, records, reports, weights, checkpoints, pictures.

Standard library only, and below every other module of ours that writes. `pde` writes nothing but compiled code
(`pde/kernel_cache.py`); `optim` writes one picture (`optim/callbacks/spectrum.py`) and may not import from here.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: no locks, so leftovers of killed writers stay until somebody deletes them
    fcntl = None  # type: ignore[assignment]

# a temporary name is new and no link: what somebody has planted under it is never opened, let alone followed
EXCLUSIVE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
LEFTOVER = ".part"
LONGEST = 255 - 18  # bytes of a file name, less what a temporary name adds
OPEN_DESCRIPTOR = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]+)")
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # file systems without fsync


class NotWrittenError(OSError):
    """A file could not be written. What stood in its place before is as it was; the message says why it failed."""

    @classmethod
    def at(cls, path: str | Path, error: OSError) -> NotWrittenError:
        """Say which file it was."""
        return cls(f"{path} was not written: {error.strerror or error}")


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file to be written whole: it takes its place, or that of an older one, when the block ends without error.

    Folders on the way are made. A link is followed, the file that it names is replaced. Devices and pipes hold nothing
    to be lost and are written directly.

    Parameters
    ----------
    path : where the file shall stand

    Yields
    ------
    binary stream that can be read, written and positioned

    Raises
    ------
    NotWrittenError
        for a full disk, a folder that cannot be written, a file without permission to write; nothing has changed then

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "runs" / "x.txt"
    >>> with replacing(file) as stream:
    ...     _ = stream.write(b"1.5")
    >>> file.read_text(), [each.name for each in file.parent.iterdir()]
    ('1.5', ['x.txt'])
    """
    try:
        if is_direct(path):
            buffer = io.BytesIO()
            yield buffer
            _write_directly(path, buffer.getbuffer())
            return
        place = os.path.realpath(path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if os.path.exists(place) and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "the file there is read-only")
        descriptor, partial = create_beside(place)
        try:
            with os.fdopen(descriptor, "w+b") as stream:
                _copy_owner(place, descriptor)
                yield stream
                stream.flush()
                _synchronise(descriptor)
                if fcntl is None:
                    stream.close()  # Windows renames no open file
                move_into_place(partial, place)  # still locked: nobody takes it for a leftover
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise
    except NotWrittenError:
        raise
    except OSError as error:
        raise NotWrittenError.at(path, error) from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes, whole or not at all.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a"
    >>> write_bytes(file, b"old")
    >>> write_bytes(file, b"new")
    >>> file.read_bytes()
    b'new'
    """
    with replacing(path) as stream:
        stream.write(data)


def write_text(path: str | Path, text: str) -> None:
    r"""Write text as UTF-8, whole or not at all.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a"
    >>> write_text(file, "λ")
    >>> file.read_bytes()
    b'\xce\xbb'
    """
    write_bytes(path, text.encode("utf-8"))


def check_writable(path: str | Path) -> None:
    """Raise NotWrittenError where a file could not be made: before hours are spent on what it shall hold.

    Examples
    --------
    >>> import tempfile
    >>> check_writable(Path(tempfile.mkdtemp()) / "x.npy")
    """
    try:
        if is_direct(path):
            return
        place = os.path.realpath(path)
        if os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if os.path.exists(place) and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, "the file there is read-only")
        folder = os.path.dirname(place)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        descriptor, partial = create_beside(os.path.join(folder, os.path.basename(place)))
        os.close(descriptor)
        os.unlink(partial)
    except OSError as error:
        raise NotWrittenError.at(path, error) from error


def is_direct(path: str | Path) -> bool:
    """Tell whether a path is a device, a pipe or an open descriptor: nothing older to be kept, nothing to be renamed.

    Examples
    --------
    >>> is_direct("/dev/null"), is_direct("x.npy")
    (True, False)
    """
    absolute = os.path.abspath(path)
    if absolute.startswith(("/proc/", "/dev/fd/")) or absolute in ("/dev/stdout", "/dev/stderr"):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def append_json_lines(path: str | Path, lines: Iterable[dict[str, Any]]) -> None:
    """Append objects to a JSON-lines file: all of them or none, whoever else appends at the same time.

    A last line that was cut off (by a kill or a full disk) holds no record: it is removed, with a warning.

    Raises
    ------
    NotWrittenError
        The file is as long as it was.
    ValueError
        For values that JSON does not have, such as NaN.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "records.jsonl"
    >>> append_json_lines(file, [{"a": 1}])
    >>> append_json_lines(file, [{"a": 2}])
    >>> read_json_lines(file)
    [{'a': 1}, {'a': 2}]
    """
    data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
    if not data:
        return
    try:
        if is_direct(path):
            _write_directly(path, data)
            return
        os.makedirs(os.path.dirname(os.path.realpath(path)), exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            _lock(descriptor, wait=True)
            _append(descriptor, path, data)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotWrittenError.at(path, error) from error


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; none if there is no file.

    A last line that was cut off is left out, with a warning; the next `append_json_lines` removes it.

    Raises
    ------
    ValueError
        for any other line that is no JSON object; the message names it

    Examples
    --------
    >>> read_json_lines("no-such-file.jsonl")
    []
    """
    path = Path(path)
    if not path.exists():
        return []
    *whole, last = path.read_bytes().split(b"\n")
    found = [_parse_line(path, number, line) for number, line in enumerate(whole, 1) if line.strip()]
    if last.strip():
        if _is_object(last):
            found.append(json.loads(last))
        else:
            warnings.warn(f"{path}: the last line was cut off and is left out: {_beginning(last)}", stacklevel=2)
    return found


def _append(descriptor: int, path: str | Path, data: bytes) -> None:
    """Append to an open and locked file; an error leaves it as it was, less a last line that was cut off."""
    size = os.fstat(descriptor).st_size
    last = _last_line(descriptor, size)
    if last and _is_object(last):
        data = b"\n" + data  # whole, but for the end of the line
    elif last:
        size -= len(last)
        os.ftruncate(descriptor, size)
        warnings.warn(f"{path}: the last line was cut off and has been removed: {_beginning(last)}", stacklevel=4)
    try:
        _write_all(descriptor, data)
        _synchronise(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _last_line(descriptor: int, size: int) -> bytes:
    """Return what follows the last end of a line."""
    last = b""
    while size > 0 and b"\n" not in last:
        start = max(0, size - 65_536)
        os.lseek(descriptor, start, os.SEEK_SET)
        last, size = os.read(descriptor, size - start) + last, start
    return last.rpartition(b"\n")[2]


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    if not _is_object(line):
        raise ValueError(f"{path}, line {number} is {_beginning(line)}; expected one JSON object per line")
    return json.loads(line)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _beginning(line: bytes) -> str:
    return repr(line[:40].decode("utf-8", "replace"))


def _write_directly(path: str | Path, data: bytes | memoryview) -> None:
    opened = OPEN_DESCRIPTOR.fullmatch(os.path.abspath(path))
    if opened:  # the descriptor itself: opened by name, a file behind it would be written from its beginning
        descriptor = os.dup(int(opened[2]) if opened[2] else {"stdout": 1, "stderr": 2}[opened[1]])
    else:
        descriptor = os.open(path, os.O_WRONLY)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it: one call may write less."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def create_beside(place: str) -> tuple[int, str]:
    """Create and lock an empty file beside a place; remove those of writers that were killed.

    For writers that cannot do with one stream (`replacing`), such as several processes that fill one file.

    Parameters
    ----------
    place : an absolute path

    Returns
    -------
    (descriptor, path) : of the open file, locked until it is closed, and its name

    Examples
    --------
    >>> import tempfile
    >>> place = os.path.join(tempfile.mkdtemp(), "x.npy")
    >>> descriptor, partial = create_beside(place)
    >>> os.write(descriptor, b"whole")
    5
    >>> move_into_place(partial, place)
    >>> os.close(descriptor)
    >>> Path(place).read_text()
    'whole'
    """
    folder, name = os.path.split(place)
    stem = "." + os.fsdecode(os.fsencode(name)[:LONGEST])
    _remove_leftovers(folder, stem)
    while True:
        partial = os.path.join(folder, f"{stem}.{secrets.token_hex(5)}{LEFTOVER}")
        try:
            descriptor = os.open(partial, EXCLUSIVE, 0o666)
        except FileExistsError:
            continue
        _lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:  # else somebody has taken it for a leftover before it was locked
            return descriptor, partial
        os.close(descriptor)


def move_into_place(partial: str, place: str) -> None:
    """Let a file that is whole and flushed take its place, and wait until that is on the disk."""
    os.replace(partial, place)
    _synchronise_folder(os.path.dirname(place))


def _remove_leftovers(folder: str, stem: str) -> None:
    """Remove the temporary files of a place that no writer holds a lock on."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            token = entry.name.removeprefix(stem + ".").removesuffix(LEFTOVER)
            if entry.name != f"{stem}.{token}{LEFTOVER}" or len(token) != 10:
                continue
            descriptor = os.open(entry.path, os.O_RDWR | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(descriptor, wait=False):
                    os.unlink(entry.path)
            finally:
                os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed; tell whether it is locked now. Some file systems have no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _copy_owner(place: str, descriptor: int) -> None:
    """Give a new file the owner and the permissions of the one whose place it takes, as far as we may."""
    with suppress(OSError, AttributeError):  # no such file, no permission, or no such call on this system
        old = os.stat(place)
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _synchronise(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def _synchronise_folder(folder: str) -> None:
    """Let a rename reach the disk; where folders cannot be opened, the system does that in its own time."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
