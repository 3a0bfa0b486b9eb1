"""The judgement resumes, moves its ladders, and judges on paired seeds; run here on a task of its own."""

import math
from pathlib import Path

import pytest
import torch
from krylearn.bench.studies.tuner import judgement
from krylearn.bench.studies.tuner.entrants import TUNER_VERSION
from krylearn.bench.studies.tuner.judgement import Judged, judge, run_judgement, summarize
from krylearn.bench.studies.tuner.judgement_workloads import JudgedTask, JudgedWorkload
from krylearn.bench.studies.tuner.runs import Database, Outcome
from torch import nn


def tiny():
    """A line: nothing of the judgement's own."""
    model, x = nn.Linear(3, 1), torch.randn(64, 3, generator=torch.Generator().manual_seed(1))

    def loss(batch):
        return nn.functional.mse_loss(model(batch), batch.sum(1, keepdim=True))

    return JudgedTask(model, loss, lambda g: x[torch.randint(64, (16,), generator=g)], lambda: loss(x))


@pytest.fixture
def alone(monkeypatch):
    work = JudgedWorkload("tiny", tiny, 12, annealed=True)
    monkeypatch.setattr(judgement, "JUDGED", {"tiny": work})
    monkeypatch.setattr(judgement, "SEEDS", (10, 11))
    return work


def test_it_stops_at_the_deadline_and_goes_on_with_the_same_command(alone, tmp_path):
    runs = Database(tmp_path / "runs.jsonl")
    assert not run_judgement(runs, ["tiny"], 0.0)
    assert runs.lines == []
    assert run_judgement(runs, ["tiny"], math.inf)
    count = len(runs.lines)
    again = Database(runs.path)
    assert run_judgement(again, ["tiny"], 0.0)  # nothing is missing
    assert len(again.lines) == count
    rates = {line["c"].split()[0] for line in runs.lines if line["m"] == "SGD"}
    assert len(rates) >= 5
    text = summarize(runs)
    assert "tuner SGD" in text
    if judgement.list_finished(runs):
        assert "100 %" in text


def test_a_part_of_it_is_shown_as_unfinished(alone, tmp_path):
    runs = Database(tmp_path / "runs.jsonl")
    assert summarize(runs).startswith("UNFINISHED: 0 of 1 workloads")
    assert run_judgement(runs, ["tiny"], math.inf)
    if set(judgement.RIVALS) <= {line["m"] for line in runs.lines}:  # all rivals are installed
        assert judgement.list_finished(runs) == ["tiny"]
        assert "UNFINISHED" not in summarize(runs)
    runs.lines = [line for line in runs.lines if line["m"] != "tuner AdamW"]
    assert summarize(runs).startswith("UNFINISHED: 0 of 1 workloads")
    assert "tiny" not in summarize(runs)


def test_the_records_in_the_repository_are_all_of_the_present_tuner():
    """Whoever changes the tuner begins the judgement anew: a file of two tuners judges none."""
    path = Path(judgement.__file__).resolve().parents[1] / "records" / "runs" / "judgement.jsonl"
    found = {line["c"] for line in Database(path).lines if line["m"].startswith("tuner ")}
    assert found <= {f"version {TUNER_VERSION}"}


def test_the_verdict():
    grid = [1.0, 1.1, 0.9, 1.0]
    assert judge(grid, grid)["good"]
    assert not judge([2 * x for x in grid], grid)["good"]
    assert not judge([math.inf, *grid[1:]], grid)["good"]
    assert judge(grid, [math.inf, *grid[1:]])["good"]


def test_a_run_that_diverged_counts_as_infinite(alone, tmp_path):
    runs = Database(tmp_path / "runs.jsonl")
    runs.add("tiny", "SGD", "a", 10, Outcome(math.nan, math.nan, 3), 0.0)
    point = Judged("SGD", "a", lambda work, seed: Outcome(1.0, 1.0, 1))
    assert judgement._mean(runs, alone, point, (10,)) == math.inf
