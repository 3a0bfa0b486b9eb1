"""Checkpoints: what is cut off is refused with a remedy, nothing is unpickled, curves are rewritten whole."""

import pickle
import resource
from pathlib import Path

import pytest
import torch
from krylearn.solvers.files import NotWrittenError
from krylearn.solvers.training.checkpoints import (
    CheckpointError,
    check_place,
    keep_curves,
    whole_checkpoints,
    whole_curves,
)

CHECKPOINT = {"state_dict": {"w": torch.ones(900)}, "global_step": 3, "loops": {}}


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_checkpoint_comes_back_and_none_is_lost_on_a_full_disk(folder):
    writer, last = whole_checkpoints(), folder / "last.ckpt"
    writer.save_checkpoint(CHECKPOINT, last)
    check_place(folder, "w", resume=True)
    before, limits = last.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(NotWrittenError, match=r"last\.ckpt was not written: File too large"):
            writer.save_checkpoint(CHECKPOINT | {"global_step": 4}, last)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert last.read_bytes() == before
    assert [each.name for each in folder.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("kept", [0, 1, 4, 100, 0.3, 0.5, 0.9, -1])
def test_a_checkpoint_that_was_cut_off_is_refused_and_an_older_one_named(folder, kept):
    whole_checkpoints().save_checkpoint(CHECKPOINT, folder / "last.ckpt")
    data = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    (folder / "step=2.ckpt").write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"last\.ckpt cannot be continued from.*copy step=2\.ckpt over it, or begin"
    ):
        check_place(folder, "w", resume=True)


@pytest.mark.parametrize("held", [Bomb(), {"state_dict": Bomb()}, [1], {"state_dict": {}}, 3])
@pytest.mark.parametrize("old", [False, True])
def test_what_is_no_checkpoint_is_refused_unpickled(folder, held, old):
    torch.save(held, folder / "last.ckpt", _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match="cut off or holds more than tensors"):
        check_place(folder, "w", resume=True)
    (folder / "last.ckpt").write_bytes(pickle.dumps(held))
    with pytest.raises(ValueError, match="cannot be continued from"):
        check_place(folder, "w", resume=True)
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize("name", ["last.ckpt", "w.safetensors"])
def test_what_an_earlier_run_left_is_not_overwritten(folder, name):
    (folder / name).write_text("precious")
    with pytest.raises(FileExistsError, match=rf"holds {name} of an earlier run; .*resume=True \(--resume\)"):
        check_place(folder, "w", resume=False)
    assert (folder / name).read_text() == "precious"


def test_curves_keep_their_rows_when_a_column_comes(folder):
    logger = whole_curves(folder)
    for step, row in enumerate([{"a": 1.0}, {"a": 2.0, "b": 3.0}, {"b": 4.0}]):
        logger.log_metrics(row, step)
        logger.save()
    assert (folder / "metrics.csv").read_text().split() == ["a,b,step", "1.0,,0", "2.0,3.0,1", ",4.0,2"]


def test_earlier_curves_get_the_first_free_number(folder):
    for text, number in (("first", 0), ("second", 1), ("third", 2)):
        (folder / "metrics.csv").write_text(text)
        keep_curves(folder)
        assert (folder / f"metrics.{number}.csv").read_text() == text
    (folder / "metrics.0.csv").unlink()
    (folder / "metrics.csv").write_text("fourth")
    keep_curves(folder)
    assert [(folder / f"metrics.{k}.csv").read_text() for k in range(3)] == ["fourth", "second", "third"]
