"""The file that several ranks fill together: whole or not at all, and a disk without room is no signal."""

import resource
import types

import numpy as np
import pytest
from krylearn.bench.solvers.distributed_files import write_together
from krylearn.solvers.files import NotWrittenError


def alone(shape):
    """What `write_together` asks of a communicator and a part, where one process has everything."""
    comm = types.SimpleNamespace(
        rank=0,
        size=1,
        bcast=lambda value, **_: value,
        allgather=lambda value: [value],
        gather=lambda value, **_: [value],
    )
    return types.SimpleNamespace(comm=comm, own=tuple(slice(n) for n in shape))


def test_a_file_of_all_parts_comes_back(tmp_path):
    x = np.random.default_rng(41_211).standard_normal((3, 4, 5))
    for _ in range(2):
        write_together(tmp_path / "x.npy", x.shape, alone(x.shape), x)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x)
    assert [each.name for each in tmp_path.iterdir()] == ["x.npy"]


def test_a_full_disk_is_an_error_and_keeps_the_older_file(tmp_path):
    (tmp_path / "x.npy").write_text("older")
    x, limits = np.ones((30, 40, 50)), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(NotWrittenError, match=r"x\.npy was not written: File too large"):
            write_together(tmp_path / "x.npy", x.shape, alone(x.shape), x)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "x.npy").read_text() == "older"
    assert [each.name for each in tmp_path.iterdir()] == ["x.npy"]


def test_a_planted_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".x.npy.partial").symlink_to(tmp_path / "victim")
    write_together(tmp_path / "x.npy", (2,), alone((2,)), np.ones(2))
    assert (tmp_path / "victim").read_text() == "precious"
