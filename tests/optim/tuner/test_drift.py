"""An lr that is too low is raised by what gradients say about the way travelled; nothing else is."""

import math

import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerConstants, TunerWarning
from krylearn.optim.tuner import drift as tuner_drift
from krylearn.optim.tuner.base_optimizer import BaseOptimizer
from krylearn.optim.tuner.drift import Drift, count_doublings, measure_drift
from krylearn.optim.tuner.session import Session
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from tuner_task import Task, adamw, sgd, train

CONSTANTS = TunerConstants()
BLOCK, BLOCKS, RAISE = CONSTANTS.drift_block, len(CONSTANTS.drift_targets), CONSTANTS.drift_raise


def _stationary(make, momentum):
    """Return q of a quadratic whose gradients are almost noise alone, averaged over many blocks."""
    generator = torch.Generator().manual_seed(3)
    w = nn.Parameter(torch.zeros(400))
    session, meter = Session(BaseOptimizer(make([w])), {}), Drift()
    state = session.state.drift
    seen = []
    for step in range(25 * BLOCK):
        state.blocks_left = BLOCKS
        w.grad = w.detach() + torch.randn(400, generator=generator)
        sums = (state.drift_slope_sum, state.step_slope_sum)
        meter.before_step(session)
        session.base.optimizer.step()
        meter.after_step(session)
        if step > 5 * BLOCK and state.steps_in_block == BLOCK - 1:
            seen.append(measure_drift(*sums, momentum))
    return sum(seen) / len(seen)


@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_it_is_one_where_sgd_only_follows_noise(beta):
    q = _stationary(lambda p: torch.optim.SGD(p, lr=0.15 * (1 - beta), momentum=beta), beta)
    assert q == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_it_is_one_where_adam_only_follows_noise(beta):
    assert _stationary(lambda p: torch.optim.Adam(p, lr=0.15, betas=(beta, 0.999)), beta) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_low_lr_is_raised_and_not_beyond_the_limit(make):
    task = Task()
    tuner = CurvatureTuner(make(task))
    step = 0
    while tuner.tuning.phase != "hold":
        train(task, tuner, step, step + 1)
        step += 1
    tuner.tuning.scale /= 64
    scale = tuner.tuning.scale
    train(task, tuner, step, step + (BLOCKS + 2) * BLOCK)
    assert tuner.tuning.scale == pytest.approx(scale * 2**RAISE)
    assert tuner.tuning.drift.blocks_left == 0
    assert tuner.tuning.drift.anchors == []
    assert "raised" in [row["event"] for row in tuner.history]


def test_no_more_after_a_blow_up_or_by_order_of_the_user():
    for stop in ("rescue", "rebase"):
        task = Task()
        tuner = CurvatureTuner(sgd(task))
        train(task, tuner, 0, 40)
        if stop == "rebase":
            tuner.rebase(1e-3)
        else:
            tuner.tuning.hold.rescues, tuner.tuning.scale = 1, tuner.tuning.scale / 64
        scale = tuner.tuning.scale
        train(task, tuner, 40, 140)
        assert tuner.tuning.scale == scale
        assert tuner.tuning.drift.anchors == []


def test_a_schedule_that_has_gone_down_ends_it():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 160, CosineAnnealingLR(tuner, 160))
    assert tuner.tuning.hold.settled_step + 2 * BLOCK < 80 <= tuner.tuning.hold.settled_step + 4 * BLOCK
    assert tuner.tuning.drift.blocks_left == BLOCKS - 2  # the third decision would have come after the middle


def test_sparse_and_absent_gradients_leave_the_lr():
    table = nn.Embedding(10, 2, sparse=True)
    tuner = CurvatureTuner(torch.optim.SGD(table.parameters(), lr=0.1))
    tuner.tuning.phase, tuner.tuning.drift.blocks_left = "hold", BLOCKS
    for _ in range(3 * BLOCK):
        tuner.zero_grad()
        table(torch.tensor([1, 2])).square().sum().backward()
        tuner.step()
    tuner.zero_grad()
    tuner.step()
    assert tuner.tuning.drift.blocks_left == BLOCKS
    assert tuner.lr == 0.1


def test_a_gradient_that_is_not_finite_decides_nothing():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 40)
    scale, blocks = tuner.tuning.scale / 64, tuner.tuning.drift.blocks_left
    tuner.tuning.scale, tuner.tuning.drift.drift_slope_sum = scale, math.nan
    for step in range(40, 60):  # without looks, which would double it
        tuner.zero_grad()
        task.loss(task.batch(step)).backward()
        tuner.step()
    assert tuner.tuning.drift.blocks_left == blocks - 1
    assert tuner.tuning.scale == scale


def test_a_failure_is_a_warning_and_the_base_goes_on(monkeypatch):
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 40)
    scale = tuner.tuning.scale

    def refuse(values):
        raise TypeError("no inner products today")

    monkeypatch.setattr(tuner_drift, "flatten", refuse)
    with pytest.warns(TunerWarning, match="no inner products today"):
        train(task, tuner, 40, 140)
    assert tuner.tuning.scale == scale
    assert tuner.tuning.drift.blocks_left == 0
    assert task.final() < 0.5


def test_the_rule():
    assert count_doublings(0, -100.0, 0.0) == CONSTANTS.drift_most
    assert count_doublings(0, -100.0, RAISE) == 0
    assert count_doublings(0, 5.0, 0.0) == 0
    assert math.isnan(measure_drift(1.0, 0.0, 0.5))
