import gc
import time

import pytest
from krylearn.solvers.multigrid.compile_progress import COLLECTIONS, RARE, WATCH, Watch, announced, say


def test_silence_where_nothing_takes_long(capsys):
    with announced():
        pass
    assert capsys.readouterr().err == ""


def test_a_long_compilation_is_announced_and_its_end_too(capsys):
    import numba

    with announced(patience=0.05, between=0.05):
        time.sleep(0.3)
        numba.njit(lambda n: n + 1)(1)
    lines = capsys.readouterr().err.splitlines()
    assert "compiling kernels, once on this machine" in lines[0]
    assert "krylearn warmup" in lines[-1]


def test_a_closed_stderr_does_not_matter(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with announced(patience=0.01, between=0.01):
        time.sleep(0.1)


def test_nothing_is_said_where_nobody_wants_to_hear_it(monkeypatch, capsys):
    monkeypatch.setenv("KRYLEARN_QUIET", "1")
    with announced(patience=0.01, between=0.01):
        time.sleep(0.1)
    say("ready")
    assert capsys.readouterr().err == ""


def wait_for_end(watch):
    end = time.monotonic() + 20
    while watch._follows and time.monotonic() < end:
        time.sleep(0.02)
    assert not watch._follows


def test_what_nobody_announced_is_watched(capsys):
    from numba.core import event

    watch = Watch(patience=0.05, between=0.05)
    watch.follow()
    watch.follow()  # one report
    with event.trigger_event("numba:compile"):
        time.sleep(0.6)
    wait_for_end(watch)
    lines = capsys.readouterr().err.splitlines()
    assert "compiling kernels, once on this machine" in lines[0]
    assert "krylearn warmup" in lines[-1]
    assert sum("kernels compiled in" in line for line in lines) == 1


def test_the_watch_is_quiet_where_little_is_compiled_or_it_was_announced(capsys):
    from numba.core import event

    watch = Watch(patience=5.0)
    watch.follow()
    with event.trigger_event("numba:compile"):
        pass
    wait_for_end(watch)
    with announced(patience=60.0):
        WATCH.follow()
        assert not WATCH._follows
    assert capsys.readouterr().err == ""


def test_a_function_that_is_not_on_the_disk_is_noticed(tmp_path, monkeypatch):
    from krylearn.pde import compiled, kernel_cache

    calls = []
    monkeypatch.setattr(kernel_cache, "on_miss", [lambda: calls.append(1)])
    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: tmp_path)

    def double(n):
        return 2 * n

    assert compiled.compile_cached(double)(2) == 4
    assert calls == [1]
    assert compiled.compile_cached(double)(3) == 6  # from the disk
    assert calls == [1]


@pytest.mark.parametrize("before", [(700, 10, 10), (0, 10, 10), (10**6, 10, 10)])
def test_garbage_is_collected_as_before_when_the_last_has_compiled(before):
    usual = gc.get_threshold()
    gc.set_threshold(*before)
    try:
        first, second = COLLECTIONS.rare(), COLLECTIONS.rare()  # two threads, the first ends first
        first.__enter__()
        second.__enter__()
        inside = gc.get_threshold()
        first.__exit__(None, None, None)
        assert gc.get_threshold() == inside == (RARE if before[0] == 700 else before)
        second.__exit__(None, None, None)
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*usual)
