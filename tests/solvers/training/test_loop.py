"""A training run does not depend on anybody who watches it."""

import io
import os

import pytest
from krylearn.solvers.training.loop import Listener


@pytest.mark.parametrize("kind", ["closed pipe", "full disk", "closed", "none"])
def test_a_progress_bar_without_a_reader_is_no_error(monkeypatch, kind):
    ends = os.pipe()
    os.close(ends[0])
    stream = {
        "closed pipe": lambda: os.fdopen(ends[1], "w"),
        "full disk": lambda: open("/dev/full", "w"),
        "closed": lambda: io.TextIOWrapper(io.BytesIO()),
        "none": lambda: None,
    }[kind]()
    if kind == "closed":
        stream.close()
    monkeypatch.setattr("sys.stdout", stream)
    listener = Listener()
    for _ in range(3):
        assert listener.write("x" * 100_000) == 100_000
        listener.flush()
    if kind == "full disk":
        assert listener.encoding.lower() == "utf-8"
    if stream is not None and kind != "closed":
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left in its buffer
        stream.close()
    monkeypatch.undo()
    assert kind == "closed pipe" or os.close(ends[1]) is None
