"""Compile kernels in a process of its own while solves go on without them; it ends with the process that started it.

Compilation holds Python's global lock for most of its time, so a thread would slow the solve that it is meant to help.
What the other process compiles comes back through the disk cache, whose entries are written whole or not at all:
ended at any moment, it leaves less to be done by the next. Where there is no such folder, or no Python to start (an
embedded one), the caller compiles and waits, as it does if ``KRYLEARN_WAIT_FOR_KERNELS`` is set or torch has been
told to use deterministic algorithms.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from krylearn.pde.kernel_cache import cache_folder

from .compile_progress import say
from .readiness import is_ready

PROGRAM = """
import sys
sys.path[:] = {path!r}
from krylearn.solvers.multigrid import background
background.end_with_parent()
from krylearn.solvers.multigrid import warmup
with background.only_one({name!r}):
    warmup.{work}({kind!r})
"""
_LOCK = threading.Lock()
_PROCESSES: dict[str, Any] = {}  # by what they compile; None: not to be tried again
_is_helper = False  # whether this is such a process


def may_serve_meanwhile() -> bool:
    """Tell whether a solve may answer without compiled kernels while these are being compiled.

    Examples
    --------
    >>> may_serve_meanwhile() in (False, True)
    True
    """
    if os.environ.get("KRYLEARN_WAIT_FOR_KERNELS", "0") not in ("", "0"):
        return False
    return not torch.are_deterministic_algorithms_enabled()  # when compilation ends, digits change


def compile_meanwhile(kind: str, announce: bool = True) -> bool:
    """Have the kernels for a kind of operator compiled by another process; tell whether one is at work."""
    if not _can_start():
        return False
    with _LOCK:
        if kind not in _PROCESSES and not _somebody_compiles(kind):
            _PROCESSES[kind] = _start(kind, kind, "compile_all")
            if _PROCESSES[kind] is not None and announce:
                say("kernels are being compiled in the background, once on this machine; until then torch solves")
        process = _PROCESSES.get(kind)
        if process is not None and process.poll() is not None and not is_ready(kind):
            process.stdin.close()
            process = _PROCESSES[kind] = None  # it failed: compiling here will show why
        return process is not None or (kind not in _PROCESSES and _somebody_compiles(kind))


def help_with(kind: str) -> None:
    """Have the kernels of the cycle compiled by another process while this one compiles those of set-up.

    They come back through the disk cache: each process finds there what the other has finished.
    """
    name = f"{kind}-cycle"
    if (os.cpu_count() or 1) < 2 or is_ready(kind, ("network",)) or not _can_start():
        return
    with _LOCK:
        idle = all(process is None or process.poll() is not None for process in _PROCESSES.values())
        if idle and name not in _PROCESSES and not _somebody_compiles(name):
            _PROCESSES[name] = _start(name, kind, "compile_cycle")


def _can_start() -> bool:
    """Tell whether another process could compile for this one."""
    folder = cache_folder()
    kept = folder is not None and os.access(folder, os.W_OK)
    return kept and bool(sys.executable) and not getattr(sys, "frozen", False) and not _is_helper


def wait_for(kind: str, steps: tuple[str, ...]) -> None:
    """Wait while a process that this one started compiles what is asked for: two would take no less time."""
    process = _PROCESSES.get(kind)
    while process is not None and process.poll() is None and not is_ready(kind, steps):
        time.sleep(0.05)


def _start(name: str, kind: str, work: str) -> Any:
    program = PROGRAM.format(path=list(sys.path), name=name, kind=kind, work=work)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", program],
            stdin=subprocess.PIPE,  # whose end tells it that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is meant for this process
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError:
        return None


@atexit.register
def end_all() -> None:
    """End what this process has started."""
    with _LOCK:
        for process in filter(None, _PROCESSES.values()):
            with suppress(OSError):
                process.kill()
                process.wait(5)
                process.stdin.close()
        _PROCESSES.clear()


def _forget() -> None:
    """In a forked child: the processes belong to its parent."""
    global _LOCK
    for process in filter(None, _PROCESSES.values()):
        process.returncode = 0  # not to be waited for by anyone here
        process.stdin.close()  # whose end the parent alone decides
    _LOCK = threading.Lock()
    _PROCESSES.clear()


os.register_at_fork(after_in_child=_forget)


# --- in the other process ---------------------------------------------------------------------------------------------
def end_with_parent() -> None:
    """Leave at once when standard input ends, which it does however the parent ends."""
    global _is_helper
    _is_helper = True

    def watch() -> None:
        with suppress(OSError, ValueError):
            sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, name="krylearn-parent-watch", daemon=True).start()


@contextmanager
def only_one(name: str) -> Iterator[None]:
    """Wait until no other process of this user compiles the same, where files can be locked."""
    file = _lock_file(name)
    if file is None:
        yield
        return
    with file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # the lock goes with the file


def _somebody_compiles(name: str) -> bool:
    """Tell whether some process of this user holds the lock."""
    file = _lock_file(name)
    if file is None:
        return False
    with file:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
    return False


def _lock_file(name: str) -> Any:
    """Open the file that is locked; None where there is none, as on Windows."""
    folder: Path | None = cache_folder()
    try:
        import fcntl  # noqa: F401

        return None if folder is None else open(folder / f"compiling-{name}.lock", "ab")
    except (ImportError, OSError):
        return None
