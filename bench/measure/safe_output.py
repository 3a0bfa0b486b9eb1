"""Standard output and error that cannot end a command: closed, without a reader, on a full disk, in ASCII alone."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# what krylearn prints beside ASCII, for consoles that show nothing else
PLAIN = {"‖": "||", "−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "≤": "<=", "≥": ">=", "λ": "lambda", "√": "sqrt"}
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format (such as right-to-left), lone surrogates, separators


def printable(text: str) -> str:
    r"""Return a text whose control characters, which could drive a terminal, are written as escapes.

    Examples
    --------
    >>> printable("a\x1b[2J.mtx, [bold]")
    'a\\x1b[2J.mtx, [bold]'
    """
    return "".join(_escape(c) if unicodedata.category(c) in HIDDEN and c not in "\n\t" else c for c in text)


def say_error(text: str) -> None:
    """Print a sentence to standard error, if there is one.

    Examples
    --------
    >>> say_error("krylearn solve: no such file")
    """
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(printable(text), file=sys.stderr, flush=True)


lost: list[Exception] = []  # why something could not be printed


def lose_output(error: Exception) -> None:
    """Say once that standard output cannot be written, and drop the rest."""
    if not lost:
        say_error(f"krylearn: the output was not written: {getattr(error, 'strerror', None) or error}")
    lost.append(error)
    drop_output()


def true_code(code: int) -> int:
    """Return the exit code of a command, 1 instead of 0 if what it had to say could not be written.

    Examples
    --------
    >>> true_code(0)
    0
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    except (OSError, ValueError) as error:
        lose_output(error)
    return code or int(bool(lost))


@contextmanager
def safe_output() -> Iterator[None]:
    """Let characters that the encoding lacks be replaced, and closed descriptors be no place for files."""
    lost.clear()
    _occupy_descriptors()
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure") and s.errors == "strict"]
    for stream in streams:
        stream.reconfigure(errors="krylearn")  # type: ignore[union-attr]
    try:
        yield
    finally:
        for stream in streams:
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="strict")  # type: ignore[union-attr]


def drop_output() -> None:
    """Let whatever is still printed vanish: nobody reads it, and the interpreter would complain when it ends."""
    with suppress(OSError, ValueError, AttributeError):  # no output at all, or one that is no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _occupy_descriptors() -> None:
    """Open what was closed at the start: else a file of results would get number 1 and receive what C code prints."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding does not have: by the same in ASCII, or by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wanted = error.object[error.start : error.end]
    plain = (PLAIN.get(c) or unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() or "?" for c in wanted)
    return "".join(plain), error.end


codecs.register_error("krylearn", _replace_unencodable)
