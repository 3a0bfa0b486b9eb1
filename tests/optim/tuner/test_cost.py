"""What a look costs beside the passes that it counts: nothing queued, nothing searched for twice, no look in vain."""

import torch
from krylearn.optim import CurvatureTuner
from krylearn.optim.side_effects import undisturbed
from tuner_task import Task, adamw, train


def test_a_model_without_buffers_is_searched_once(monkeypatch):
    from krylearn.optim.tuner.loss import LossSource

    calls, plain = [], LossSource.modules

    def counted(self):
        calls.append(1)
        return plain(self)

    monkeypatch.setattr(LossSource, "modules", counted)
    task = Task()
    train(task, CurvatureTuner(adamw(task), total_steps=400), 0, 120)
    assert len(calls) == 1


def test_a_look_is_due_only_when_it_does_something():
    task = Task()
    tuner = CurvatureTuner(adamw(task), total_steps=400)
    looks, session = [], tuner._session
    plain = session.look
    session.look = lambda source: (looks.append(tuner.tuning.steps), plain(source))
    train(task, tuner, 0, 300)
    held = [step for step in looks if step > 130]
    assert len(held) <= 300 // 20 + 20


def test_nothing_is_queued_for_a_device_that_is_not_in_use():
    from torch import cuda

    if cuda.is_initialized():
        return
    queued = len(cuda._queued_calls)
    for _ in range(5):
        with undisturbed():
            torch.rand(1)
    assert len(cuda._queued_calls) == queued
