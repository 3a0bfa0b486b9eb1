"""Losses that are not finite, products that fail, blow-ups: the base goes on, and a warning says so."""

import math
import warnings

import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerWarning
from krylearn.optim.tuner.hold import measure_sharpness
from krylearn.optim.tuner.loss import LossSource
from tuner_task import Task, sgd, train


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_start_leaves_the_base_working(value):
    task = Task()
    tuner = CurvatureTuner(sgd(task, lr=0.05))
    with pytest.warns(TunerWarning, match="not finite"):
        train(task, tuner, 0, 1, loss_fn=lambda batch: value * task.loss(batch))
    assert tuner.lr == 0.05
    plain = Task()
    base = sgd(plain, lr=0.05)
    plain.loss(plain.batch(0)).backward()
    base.step()
    assert torch.equal(plain.weights(), task.weights())
    train(task, tuner, 1, 120)  # finite again: tuning begins
    assert task.final() < 0.5


def test_a_loss_function_that_fails_is_a_warning():
    task = Task()
    tuner = CurvatureTuner(sgd(task, lr=0.05))

    def broken(batch):
        raise RuntimeError("no loss today")

    with pytest.warns(TunerWarning, match="no loss today"):
        train(task, tuner, 0, 1, loss_fn=broken)
    assert tuner.lr == 0.05


def test_a_product_that_fails_leaves_the_lr(monkeypatch):
    task = Task()
    tuner = CurvatureTuner(sgd(task), budget=1.0)
    train(task, tuner, 0, 60)
    assert tuner.tuning.phase == "hold"
    lr = tuner.lr

    def refuse(self, parameters):
        raise RuntimeError("no second derivative")

    monkeypatch.setattr(LossSource, "products", refuse)
    with pytest.warns(TunerWarning, match="sharpness could not be measured"):
        measure_sharpness(tuner._session, LossSource(task.loss, task.batch(0)))
    assert tuner.lr == lr


def test_a_bad_batch_is_undone():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 150)
    before, lr = task.final(), tuner.lr
    tuner.zero_grad()
    (math.nan * task.loss(task.batch(0))).backward()
    tuner.step()
    assert not bool(torch.isfinite(task.weights()).all())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(task, tuner, 150, 200)
    assert any("risen" in str(each.message) for each in caught)
    assert bool(torch.isfinite(task.weights()).all())
    assert task.final() < 2 * before + 0.1
    assert tuner.lr == lr  # a first loss that is not finite counts as a bad batch


def test_two_blow_ups_quarter_the_lr_and_cost_no_more_than_the_steps_between_looks():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 150)
    scale, spent = tuner.tuning.scale, tuner.spent
    for start in (150, 200):
        with torch.no_grad():
            for p in task.model.parameters():
                p.mul_(-1e4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(task, tuner, start, start + 26)
    assert tuner.tuning.hold.rescues == 2
    assert tuner.tuning.scale == pytest.approx(scale / 4)
    assert tuner.spent - spent < 2 * 20 + 10
    assert bool(task.weights().abs().max() < 1e3)


def test_an_unusual_batch_is_no_blow_up():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 150)
    x, y = task.batch(0)
    odd = (x, (y + 1) % 4)
    weights = task.weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            tuner.tuning.steps += 1
            tuner.observe(task.loss, odd)
    assert tuner.tuning.hold.rescues == 0
    assert torch.equal(task.weights(), weights)
