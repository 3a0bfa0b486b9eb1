"""Checkpoints and curves of a training run: written whole, never overwritten unasked, read without unpickling."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import check_writable, write_bytes, write_text
from ..multigrid.weight_files import name_of

LAST = "last.ckpt"


class CheckpointError(ValueError, pickle.UnpicklingError):
    """A checkpoint that cannot be continued from: cut off, no checkpoint, or one that would have to be unpickled."""


def check_place(output: Path, name: str, *, resume: bool) -> None:
    """Look at where a run is to be, before its work begins.

    Parameters
    ----------
    output : its folder
    name : of the weights that it will write there
    resume : whether it continues an earlier run

    Raises
    ------
    FileExistsError
        without resume, where an earlier run has left its checkpoint or its weights
    ValueError
        with resume, where there is no checkpoint, or (CheckpointError) none that can be continued from
    NotWrittenError
        where nothing can be written

    Examples
    --------
    >>> import tempfile
    >>> check_place(Path(tempfile.mkdtemp()) / "new", "2d-network", resume=False)
    """
    if resume:
        check_checkpoint(output / LAST)
    check_writable(output / LAST)
    found = [path.name for path in (output / LAST, name_of(output / name)) if path.exists()]
    if found and not resume:
        raise FileExistsError(
            f"{output} holds {' and '.join(found)} of an earlier run; expected an output without: continue that run "
            "with resume=True (--resume), or choose another output"
        )


def check_checkpoint(path: Path) -> None:
    """Raise what says why a run cannot be continued from its checkpoint.

    Raises
    ------
    ValueError
        if there is none
    CheckpointError
        if it cannot be read
    """
    if not path.exists():
        raise ValueError(
            f"got resume=True, but there is no {path}; expected the checkpoint of an earlier run: check output"
        )
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(held, dict) or not {"state_dict", "global_step", "loops"} <= held.keys():
            raise ValueError("it is no checkpoint of a training run")
    except Exception as error:  # a file that is cut off raises whatever its bytes lead to
        others = sorted(each.name for each in path.parent.glob("*.ckpt") if each != path)
        older = f"copy {', '.join(others)} over it, or " if others else ""
        words = str(error).split("\n")[0][:200]
        raise CheckpointError(
            f"{path} cannot be continued from, it is cut off or holds more than tensors and plain values ({words}); "
            f"expected what `krylearn train` wrote: {older}begin again in another output"
        ) from error


def whole_checkpoints() -> Any:
    """Return Lightning's plugin that writes checkpoints, with our way of writing files.

    Lightning makes its temporary file in the folder for such and moves it, which across file systems is a copy: a kill
    in the middle of it leaves half a checkpoint in place of the last one.
    """
    from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

    class WholeCheckpoints(TorchCheckpointIO):
        """Writes a checkpoint beside its place, flushes it and renames it."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            """Write a checkpoint whole or not at all."""
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            write_bytes(path, buffer.getvalue())

    return WholeCheckpoints()


def whole_curves(output: Path) -> Any:
    """Return Lightning's logger into ``metrics.csv``, which is rewritten whole when a new column comes."""
    from lightning.pytorch.loggers import CSVLogger

    logger: Any = CSVLogger(output, name="", version="")
    writer = logger.experiment

    def rewrite(columns: Sequence[str]) -> None:
        path = Path(writer.metrics_file_path)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
        write_text(path, text.getvalue())

    writer._rewrite_with_new_header = rewrite
    return logger


def keep_curves(output: Path) -> None:
    """Give an earlier ``metrics.csv`` the first free number, since the logger would delete it."""
    curves, number = output / "metrics.csv", 0
    if curves.exists():
        while (output / f"metrics.{number}.csv").exists():
            number += 1
        curves.rename(output / f"metrics.{number}.csv")
