"""Trials of bases that divide by second moments: what they find, leave alone, and do where nothing shows."""

import copy
import math

import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerConstants, TunerWarning
from krylearn.optim.tuner.trials import choose_without_gain, find_vertex, shows_gain, split_batch
from torch.optim.lr_scheduler import CosineAnnealingLR
from tuner_task import Saddle, Task, adamw, train

CONSTANTS = TunerConstants()
TRIALS = len(CONSTANTS.trial_factors)
NEEDED = 1 + CONSTANTS.trial_warm + CONSTANTS.trial_batches + 1  # batches: the first, warm-up, trials, the judge's


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_trials_leave_gradients_and_running_statistics_alone_and_end_lower(base):
    task = Task(batchnorm=True)
    optimizer = base(task.model.parameters(), lr=1.0)
    tuner = CurvatureTuner(optimizer, momentum="keep")
    train(task, tuner, 0, NEEDED - 1)
    tuner.zero_grad()
    task.loss(task.batch(NEEDED - 1)).backward()
    grads = [p.grad.clone() for p in task.model.parameters()]
    before, spent = task.final(), tuner.spent
    statistics = copy.deepcopy(task.model[1].state_dict())
    tuner.observe(task.loss, task.batch(NEEDED - 1))
    assert tuner.tuning.phase == "hold"
    assert tuner.spent - spent <= (TRIALS + 1) / 2 + CONSTANTS.trial_batches + 1e-9
    assert all(torch.equal(p.grad, g) for p, g in zip(task.model.parameters(), grads, strict=True))
    assert all(torch.equal(v, statistics[k]) for k, v in task.model[1].state_dict().items() if k.startswith("running"))
    assert task.final() < before
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("best", [0.03, 0.1, 0.24, 0.4])
@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_trials_find_the_minimum_of_a_parabola_in_log_lr(best, unit):
    tried = [(lr, unit * (1 + 0.1 * math.log2(lr / best) ** 2)) for lr in (0.01, 0.02, 0.05, 0.13, 0.3, 0.9)]
    assert find_vertex(tried, 10 * unit) == pytest.approx(best, rel=1e-6)


def test_batches_are_split_only_where_that_is_plain():
    x, y = torch.arange(32.0).reshape(16, 2), torch.arange(16)
    first, second = split_batch({"x": x, "rest": [y, "name"]}, 2)
    assert torch.equal(first["x"], x[::2])
    assert second["rest"][1] == "name"
    assert torch.equal(second["rest"][0], y[1::2])
    assert len(split_batch((x, y[:5]), 2)) == 1  # sizes differ
    assert len(split_batch((x[:7], y[:7]), 2)) == 1  # too few
    assert len(split_batch((x, torch.tensor(1.0)), 2)) == 1  # a scalar


def test_trials_that_fail_leave_the_base_working():
    task = Task()
    tuner = CurvatureTuner(adamw(task))
    train(task, tuner, 0, 6)
    weights = task.weights()

    def broken(batch):
        if torch.is_grad_enabled():
            raise RuntimeError("no gradient today")
        return task.loss(batch)

    with pytest.warns(TunerWarning, match="no gradient today"):
        tuner.observe(broken, task.batch(6))
    assert torch.equal(task.weights(), weights)
    train(task, tuner, 7, 200)  # trials begin anew
    assert tuner.tuning.phase == "hold"
    assert task.final() < 0.8


def test_trials_that_fail_for_ever_are_given_up_at_the_low_lr():
    task = Task()
    tuner = CurvatureTuner(adamw(task))
    train(task, tuner, 0, 1)
    low = tuner.lr

    def broken(batch):
        if torch.is_grad_enabled():
            raise RuntimeError("no gradient today")
        return task.loss(batch)

    with pytest.warns(TunerWarning, match="no gradient today") as told:
        train(task, tuner, 1, 30, loss_fn=broken)
    assert len(told) == 3
    assert tuner.tuning.phase == "hold"
    assert tuner.lr == low


def test_beta1_is_learned_for_the_family_of_adam_only():
    task = Task()
    tuner = CurvatureTuner(adamw(task, betas=(0.9, 0.99)))
    train(task, tuner, 0, 3)
    assert tuner.momentum == CONSTANTS.trial_beta
    assert tuner.param_groups[0]["betas"] == (0.9, 0.99)
    assert tuner.state_dict()["param_groups"][0]["betas"] == (CONSTANTS.trial_beta, 0.99)
    kept = CurvatureTuner(adamw(Task(), betas=(0.9, 0.99)), momentum="keep")
    assert kept.momentum == 0.9


def test_trials_that_show_nothing_are_given_up_and_repeated_once():
    task = Saddle()
    tuner = CurvatureTuner(adamw(task))
    train(task, tuner, 0, 150, CosineAnnealingLR(tuner, 150))
    events = [row["event"] for row in tuner.history if row["event"] in ("trial", "settled")]
    first, second = (k for k, event in enumerate(events) if event == "settled")
    assert (first, second) == (TRIALS, 2 * TRIALS + 1)
    settled = [row["step"] for row in tuner.history if row["event"] == "settled"]
    again = NEEDED - 1 + CONSTANTS.trial_again
    assert settled == [NEEDED - 1, again + CONSTANTS.trial_batches + 1]
    assert tuner.tuning.hold.retry_trials_at == 0
    assert task.final() < 0.2


def test_trials_that_show_something_are_not_repeated():
    task = Task()
    tuner = CurvatureTuner(adamw(task))
    train(task, tuner, 0, 60)
    assert [row["event"] for row in tuner.history].count("settled") == 1


@pytest.mark.parametrize("start", [1.0, 1e-3])
def test_on_a_plateau_the_lr_stays_or_falls_to_what_does_no_harm(start):
    flat = [(0.1, start), (0.2, 0.99 * start), (0.4, 1.3 * start)]
    assert not shows_gain(flat, start)
    assert choose_without_gain(flat, start, 0.1) == 0.1  # never up on no evidence
    assert choose_without_gain([(0.1, 1.4 * start), (0.2, 3 * start), (0.05, 1.01 * start)], start, 0.1) == 0.05
    assert choose_without_gain([(0.1, math.nan), (0.2, math.nan), (0.05, 1.1 * start)], start, 0.1) == 0.05
