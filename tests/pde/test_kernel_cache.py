"""The cache of compiled functions: it saves compilation, and nothing that is wrong with it is more than a warning."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from krylearn.pde import kernel_cache
from krylearn.pde.compiled import compile_cached
from krylearn.pde.kernel_cache import cache_folder, read_entry, write_entry

MODULE = """
from krylearn.pde.compiled import compile_cached
from helper import twice

def triple(n):
    return twice(n) + n

triple = compile_cached(triple)
"""
HELPER = """
from krylearn.pde.compiled import compile_function
@compile_function
def twice(n):
    return 2 * n
"""
PROGRAM = """
import sys, warnings
import numpy as np
sys.path.insert(0, sys.argv[1])
import code_of_the_test
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    kinds = (int, float, complex, np.int8, np.uint16, np.float32, np.complex64)
    values = [code_of_the_test.triple(kind(2)) == 6 for kind in kinds[: int(sys.argv[2])]]
hits = sum(code_of_the_test.triple.stats.cache_hits.values())
print(all(values), hits, len(caught), *[str(each.message) for each in caught], sep="|")
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "code_of_the_test.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text(HELPER)
    return tmp_path


def run(place, kinds=7, prefix="", **environment):
    """(values, hits, number of warnings, text) of a process of its own."""
    changes = os.environ | {"NUMBA_CACHE_DIR": str(place / "cache")} | environment
    changes = {name: value for name, value in changes.items() if value is not None}
    command = [sys.executable, "-c", prefix + PROGRAM, str(place), str(kinds)]
    done = subprocess.run(command, env=changes, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    values, hits, count, *texts = done.stdout.strip().split("|")
    assert values == "True"
    return int(hits), int(count), " ".join(texts)


def entries(place):
    return sorted((place / "cache" / f"krylearn-{os.geteuid()}").glob("*.nbc"))


def test_what_one_process_compiled_another_finds(place):
    assert run(place) == (0, 0, "")
    kept = [(path.name, path.read_bytes()) for path in entries(place)]
    assert len(kept) == 7  # types of numbers
    assert run(place) == (7, 0, "")
    assert [(path.name, path.read_bytes()) for path in entries(place)] == kept
    folder = entries(place)[0].parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in entries(place))


def test_broken_entries_are_compiled_again_with_one_warning(place):
    run(place)
    damages = [
        lambda path, data: path.write_bytes(b""),
        lambda path, data: path.write_bytes(data[:1000]),
        lambda path, data: path.write_bytes(data[:500] + bytes([data[500] ^ 4]) + data[501:]),
        lambda path, data: path.write_bytes(data + b"more"),
        lambda path, data: write_entry(path, pickle.dumps(("not", "code"))),
        lambda path, data: path.unlink() or path.symlink_to("/dev/zero"),
        lambda path, data: path.chmod(0o666),  # somebody else could have written it
    ]
    assert len(entries(place)) == len(damages)
    for path, damage in zip(entries(place), damages, strict=True):
        damage(path, path.read_bytes())
    hits, warned, text = run(place)
    assert (hits, warned) == (0, 1)
    assert "holds broken entries" in text
    assert run(place) == (len(damages), 0, "")


def test_a_folder_of_somebody_else_is_not_used(place, monkeypatch):
    folder = place / "cache" / f"krylearn-{os.geteuid()}"
    folder.parent.mkdir()
    (place / "elsewhere").mkdir(mode=0o777)
    folder.symlink_to(place / "elsewhere")  # as somebody might plant in a shared folder
    hits, warned, text = run(place, 1)
    assert (hits, warned) == (0, 1)
    assert "is no folder of this user alone" in text
    assert list((place / "elsewhere").iterdir()) == []


def test_an_open_folder_of_ours_is_closed(place):
    folder = place / "cache" / f"krylearn-{os.geteuid()}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert run(place, 1) == (0, 0, "")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_full_disk_is_one_warning(place):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    hits, warned, text = run(place, 1, prefix=full)
    assert (hits, warned) == (0, 1)
    assert "cannot be written (File too large); every process compiles anew" in text
    assert list(place.rglob("*.part")) == []


@pytest.mark.parametrize("home", [{"HOME": None, "XDG_CACHE_HOME": "/proc/nowhere"}, {"XDG_CACHE_HOME": "/dev/null"}])
def test_without_a_place_everything_is_compiled(place, home):
    assert run(place, 1, NUMBA_CACHE_DIR=None, **home) == (0, 0, "")


def test_a_changed_source_is_compiled_again_and_its_old_code_goes(place):
    run(place, 1)
    old = entries(place)
    (place / "code_of_the_test.py").write_text("# moved by a line\n" + MODULE)
    assert run(place, 1)[0] == 0
    assert len(entries(place)) == 1
    assert not set(old) & set(entries(place))


def test_a_changed_function_that_is_called_is_compiled_again(place):
    run(place, 1)
    (place / "helper.py").write_text(HELPER.replace("2 * n", "n * 2.0 / 1.0"))
    assert run(place, 1)[0] == 0  # numba's own cache would not have seen it


def test_an_entry_comes_back_whole(tmp_path):
    path = tmp_path / "a.nbc"
    assert read_entry(path) is None
    write_entry(path, b"x" * 1000)
    assert read_entry(path) == b"x" * 1000
    assert [each.name for each in tmp_path.iterdir()] == ["a.nbc"]


def test_flush_removes_the_entries_of_one_function(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: tmp_path)
    first, second = (compile_cached(f) for f in (one, two))
    assert first(1) == 2
    assert second(1) == 3
    assert len(list(tmp_path.iterdir())) == 2
    first._cache.flush()
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["two"]


def one(n):
    return n + 1


def two(n):
    return n + 2


def test_the_folder_is_private():
    folder = cache_folder()
    assert folder is None or (folder.stat().st_mode & 0o777 == 0o700 and isinstance(folder, Path))


def test_a_switch_for_functions_of_ones_own_does_not_switch_ours_off(place):
    assert run(place, 1, NUMBA_DISABLE_JIT="1") == (0, 0, "")
    assert len(entries(place)) == 1
