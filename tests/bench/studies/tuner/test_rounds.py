"""Rounds of the tuner side by side, and the workloads that begin on a plateau."""

import pytest
import torch
from krylearn.bench.studies.tuner.compare import compare
from krylearn.bench.studies.tuner.plateau_workloads import PLATEAUS
from krylearn.bench.studies.tuner.rounds import SEEDS, SHOWN, rounds_table, summary_of_rounds
from krylearn.bench.studies.tuner.runs import CHOOSING, SCORING, Database, Outcome, adamw_grid
from krylearn.bench.studies.tuner.workload_data import DataError
from krylearn.bench.studies.tuner.workloads import WORKLOADS, mean_loss


def test_rounds_are_compared_on_scoring_seeds_and_averaged_over_ten(tmp_path):
    runs, work = Database(tmp_path / "runs.jsonl"), WORKLOADS["mlp"]
    for k, point in enumerate(adamw_grid(work)):
        for seed in CHOOSING + (SCORING if k == 3 else ()):
            runs.add("mlp", "AdamW", point.config, seed, Outcome(1.0 if k == 3 else 2.0, 1.0, 5), 0.0)
    for each, value in zip(SHOWN, (1.5, 1.2, 1.01), strict=True):
        for seed in SEEDS:
            runs.add("mlp", "tuner AdamW", each, seed, Outcome(value if seed in SCORING else 4.0, 1.0, 5), 0.0)
    old, _, new = summary_of_rounds(runs, work, "now", compare)
    assert (old.more["verdict"], new.more["verdict"]) == ("worse", "within 2 %")
    assert new.more["mean"] == pytest.approx((3 * 1.01 + 7 * 4) / 10)
    text = rounds_table([record.line() for record in (old, new)])
    assert "1.500 ✗" in text
    assert f"AdamW, {SHOWN[-1]} (ships)" in text


@pytest.mark.parametrize("work", PLATEAUS, ids=lambda work: work.name)
def test_a_workload_begins_on_a_plateau(work):
    try:
        task = work.task(0)
    except DataError as error:
        pytest.skip(str(error))
    assert work.name not in WORKLOADS
    sgd = torch.optim.SGD(task.model.parameters(), lr=0.03)
    before = mean_loss(task, task.validation)
    for _, (x, y) in zip(range(10), work.batches(task, 0), strict=False):
        sgd.zero_grad()
        task.loss(task.model(x), y).backward()
        sgd.step()
    assert mean_loss(task, task.validation) == pytest.approx(before, rel=0.05)
