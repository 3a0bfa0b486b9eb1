"""The judgement workloads are what their table says; nothing is trained on them here."""

import math

import pytest
import torch
from krylearn.bench.studies.tuner.judgement_workloads import JUDGED
from krylearn.bench.studies.tuner.workload_data import DataError


def test_there_are_ten_half_with_a_constant_lr_of_300_to_5000_steps():
    assert len(JUDGED) == 10
    assert sum(work.annealed for work in JUDGED.values()) == 5
    assert (min(w.steps for w in JUDGED.values()), max(w.steps for w in JUDGED.values())) == (300, 5000)


@pytest.mark.parametrize("name", JUDGED)
def test_a_task_hangs_on_its_seed_alone_and_has_gradients(name):
    work = JUDGED[name]
    try:
        one, two = work.task(3), work.task(3)
    except DataError as absent:
        pytest.skip(str(absent))
    batch, again = (task.draw(torch.Generator().manual_seed(1)) for task in (one, two))
    loss = one.loss(batch)
    assert float(loss.detach()) == float(two.loss(again).detach())
    loss.backward()
    assert all(p.grad is not None for p in one.model.parameters())
    value = work.measure(one)
    assert math.isfinite(value)
    assert value > 0
    assert one.model.training
