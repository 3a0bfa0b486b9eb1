"""Files are written whole or not at all: after errors, full disks, kills at any system call, between two writers."""

import contextlib
import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from krylearn.solvers import files
from krylearn.solvers.files import (
    NotWrittenError,
    append_json_lines,
    check_writable,
    read_json_lines,
    replacing,
    write_bytes,
    write_text,
)


def names(folder):
    return sorted(each.name for each in folder.iterdir())


@contextlib.contextmanager
def disk_of(size):
    """Limit the size of files for a while, as a full disk would; only then: pytest's own output may be a file too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- whole or not at all ----------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_older_file(tmp_path):
    file = tmp_path / "x.npy"
    write_bytes(file, b"older")
    with disk_of(1000), pytest.raises(NotWrittenError, match=r"x\.npy was not written: File too large"):
        write_bytes(file, bytes(2000))
    assert file.read_bytes() == b"older"
    assert names(tmp_path) == ["x.npy"]


def test_a_device_without_room_is_said(tmp_path):
    (tmp_path / "x.npy").symlink_to("/dev/full")
    for place in ("/dev/full", tmp_path / "x.npy"):
        with pytest.raises(NotWrittenError, match="No space left"):
            write_bytes(place, b"1")
        with pytest.raises(NotWrittenError, match="No space left"):
            append_json_lines(place, [{}])


def test_an_exception_of_the_writer_passes_and_keeps_the_older_file(tmp_path):
    file = tmp_path / "a"
    write_text(file, "older")
    with pytest.raises(ZeroDivisionError), replacing(file) as stream:
        stream.write(b"new" * (1 // 0))
    assert file.read_text() == "older"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_any_refusal_of_the_system_is_a_sentence(tmp_path, monkeypatch, call):
    file = tmp_path / "a"
    write_text(file, "older")

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, call, refuse)
        with pytest.raises(NotWrittenError, match="a was not written: Read-only file system"):
            write_text(file, "new")
    assert file.read_text() == "older"
    assert names(tmp_path) == ["a"]


def test_what_is_no_place_for_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "x.npy"):
        for write in (check_writable, lambda place: write_bytes(place, b"")):
            with pytest.raises(NotWrittenError, match="was not written"):
                write(place)
    assert names(tmp_path) == ["file"]


KILLED = """
import importlib.util, os, signal, sys
left = int(sys.argv[1])
spec = importlib.util.spec_from_file_location("files", sys.argv[3])   # by itself: torch would take a second each time
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
def counted(call):
    def run(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return run
class System:                                # the calls of this module alone, not those of the interpreter
    def __getattr__(self, name):
        value = getattr(os, name)
        calls = ("open", "write", "fsync", "replace", "ftruncate", "fdopen", "fchmod", "close", "makedirs")
        return counted(value) if name in calls else value
files.os = System()
if sys.argv[2] == "replace":
    with files.replacing("a") as stream:
        for part in range(3):
            stream.write(b"n" * 10_000)
            stream.flush()
else:
    files.append_json_lines("records.jsonl", [{"n": 1}, {"n": 2}])
"""


@pytest.mark.parametrize("kind", ["replace", "append"])
def test_a_kill_at_any_system_call_loses_nothing(tmp_path, kind):
    (tmp_path / "a").write_text("older")
    append_json_lines(tmp_path / "records.jsonl", [{"n": 0}])
    for calls in range(30):
        command = [sys.executable, "-c", KILLED, str(calls), kind, files.__file__]
        code = subprocess.run(command, cwd=tmp_path, timeout=60).returncode
        assert (tmp_path / "a").read_bytes() in (b"older", b"n" * 30_000)
        assert [line["n"] for line in read_json_lines(tmp_path / "records.jsonl")][:1] == [0]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert calls >= 4
    assert names(tmp_path) == ["a", "records.jsonl"]  # the last writer removed what the killed ones left


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(tmp_path):
    left = tmp_path / ".a.0123456789.part"
    left.write_text("of a killed one")
    other = tmp_path / ".ab.0123456789.part"
    other.write_text("of another file")
    with replacing(tmp_path / "a") as first:
        assert not left.exists()
        with replacing(tmp_path / "a") as second:
            second.write(b"second")
        first.write(b"first")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert names(tmp_path) == [".ab.0123456789.part", "a"]


def test_many_writers_of_one_place_leave_one_whole_file(tmp_path):
    wanted = [str(k) * 50_000 for k in range(8)]
    threads = [threading.Thread(target=write_text, args=(tmp_path / "a", text)) for text in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in wanted
    assert names(tmp_path) == ["a"]


# --- links, permissions, devices --------------------------------------------------------------------------------------


def test_a_planted_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    tokens = iter(["0" * 10, "1" * 10])
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: next(tokens))
    (tmp_path / f".a.{'0' * 10}.part").symlink_to(victim)
    write_text(tmp_path / "a", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "a").is_symlink()


def test_a_link_stays_and_the_file_it_names_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "disk" / "x")
    for text in ("first", "second"):
        write_text(tmp_path / "x", text)
        assert (tmp_path / "disk" / "x").read_text() == text
    assert (tmp_path / "x").is_symlink()
    assert names(tmp_path / "disk") == ["x"]


def test_permissions_stay_and_new_files_have_the_usual_ones(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "")
        write_text(tmp_path / "a", "")
        (tmp_path / "a").chmod(0o604)
        write_text(tmp_path / "a", "again")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "older")
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)  # root may write everywhere
    for write in (check_writable, lambda place: write_text(place, "new")):
        with pytest.raises(NotWrittenError, match="the file there is read-only"):
            write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "older"


def test_pipes_are_written_directly_and_can_be_positioned_until_then(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    with replacing(pipe) as stream:
        stream.write(b"xyz")
        stream.seek(0)
        stream.write(b"a")
    reader.join(timeout=10)
    assert got == [b"ayz"]
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "[bold]\x1b", "a b\n"])
def test_any_name_that_a_file_may_have(tmp_path, name):
    write_text(tmp_path / name, "1")
    write_text(tmp_path / name, "2")
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "2"


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "torn", [b'{"n": 2', b'{"n": 2}{', b"\0\0\0", "{'λ".encode()[:-1], b'{"n": "' + b"x" * 200_000]
)
def test_a_torn_last_line_is_said_left_out_and_repaired(tmp_path, torn):
    file = tmp_path / "records.jsonl"
    append_json_lines(file, [{"n": 0}, {"n": 1}])
    with file.open("ab") as stream:
        stream.write(torn)
    with pytest.warns(UserWarning, match="the last line was cut off and is left out"):
        assert read_json_lines(file) == [{"n": 0}, {"n": 1}]
    with pytest.warns(UserWarning, match="the last line was cut off and has been removed"):
        append_json_lines(file, [{"n": 3}])
    assert read_json_lines(file) == [{"n": 0}, {"n": 1}, {"n": 3}]
    assert file.read_bytes().endswith(b'1}\n{"n": 3}\n')


def test_a_whole_last_line_without_an_end_is_kept(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text('{"n": 0}')
    assert read_json_lines(file) == [{"n": 0}]
    append_json_lines(file, [{"n": 1}])
    assert file.read_text() == '{"n": 0}\n{"n": 1}\n'


@pytest.mark.parametrize("line", ["nothing", "[1]", "3", '{"a": ', "[" * 100_000])
def test_a_broken_line_elsewhere_is_named(tmp_path, line):
    file = tmp_path / "records.jsonl"
    file.write_text(f'{{"n": 0}}\n{line}\n{{"n": 1}}\n')
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2 is .*expected one JSON object per line"):
        read_json_lines(file)


def test_an_append_without_room_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "records.jsonl"
    append_json_lines(file, [{"n": 0}])
    before = file.read_bytes()
    with disk_of(len(before) + 10), pytest.raises(NotWrittenError, match="File too large"):  # room for a part of it
        append_json_lines(file, [{"n": "x" * 100}])
    assert file.read_bytes() == before


def test_what_json_does_not_have_is_refused_unwritten(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_json_lines(tmp_path / "a", [{"n": 1}, {"n": float("nan")}])
    append_json_lines(tmp_path / "a", [])
    assert names(tmp_path) == []


def test_many_appenders_share_a_file(tmp_path):
    file = tmp_path / "records.jsonl"
    work = [[{"who": k, "n": n, "pad": "x" * 9000} for n in range(20)] for k in range(6)]
    threads = [threading.Thread(target=lambda w=w: [append_json_lines(file, [x]) for x in w]) for w in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read_json_lines(file)
    assert len(found) == 120
    assert all([x["n"] for x in found if x["who"] == k] == list(range(20)) for k in range(6))
    assert all(json.loads(line) for line in Path(file).read_text().splitlines())
