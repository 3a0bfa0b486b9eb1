"""The workloads that begin on a plateau do."""

import pytest
import torch
from krylearn.bench.studies.tuner.plateau_workloads import PLATEAUS
from krylearn.bench.studies.tuner.workload_data import DataError
from krylearn.bench.studies.tuner.workloads import WORKLOADS, mean_loss


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
