"""What the tuner promises: any initial lr, any unit of the loss; schedules and groups survive; bounded extra work."""

import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerConstants, TunerWarning
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from tuner_task import Task, adamw, sgd, train


@pytest.mark.parametrize("make", [sgd, adamw])
def test_it_learns_far_better_than_the_lr_it_was_given(make):
    plain, tuned = Task(), Task()
    base, tuner = make(plain, lr=1e-5), CurvatureTuner(make(tuned, lr=1e-5))
    start = tuned.final()
    train(tuned, tuner, 0, 250, CosineAnnealingLR(tuner, 250))
    for step in range(250):
        base.zero_grad()
        plain.loss(plain.batch(step)).backward()
        base.step()
    assert plain.final() > 0.9 * start
    assert tuned.final() < 0.2 * start


@pytest.mark.parametrize("make", [sgd, adamw])
def test_any_initial_lr_gives_the_same_run(make):
    runs = []
    for lr in (1e-6, 2.0**-7, 1.0, 10.0):
        task = Task(dtype=torch.float64)
        tuner = CurvatureTuner(make(task, lr=lr))
        train(task, tuner, 0, 120, CosineAnnealingLR(tuner, 120))
        runs.append((task.weights(), tuner.tuning.hold.settled_step, tuner.tuning.steps, round(tuner.spent, 9)))
    for weights, *counts in runs[1:]:
        assert counts == list(runs[0][1:])
        assert torch.allclose(weights, runs[0][0], rtol=1e-6, atol=1e-9)
    assert torch.equal(runs[1][0], runs[2][0])  # a power of two changes no bit


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_the_unit_of_the_loss_does_not_matter_to_sgd(scale):
    one, other = Task(dtype=torch.float64), Task(scale, dtype=torch.float64)
    for task in (one, other):
        train(task, CurvatureTuner(sgd(task)), 0, 150)
    assert torch.equal(one.weights(), other.weights())


def test_ratios_between_groups_and_schedules_survive():
    task = Task()
    layers = [{"params": list(layer.parameters())} for layer in task.model if isinstance(layer, nn.Linear)]
    layers[1]["lr"] = 0.25
    tuner = CurvatureTuner(torch.optim.SGD(layers, lr=1.0))
    scheduler = StepLR(tuner, 10, gamma=0.5)
    seen = []
    tuner.base.register_step_pre_hook(lambda opt, *a: seen.append([group["lr"] for group in opt.param_groups]))
    train(task, tuner, 0, 30, scheduler)
    assert all(abs(second / first - 0.25) < 1e-12 for first, second in seen)
    assert [group["lr"] for group in tuner.param_groups] == [0.125, 0.03125]
    assert tuner.lr == pytest.approx(0.125 * tuner.tuning.scale)


def test_the_base_never_sees_a_leftover():
    task = Task()
    tuner = CurvatureTuner(sgd(task, momentum=0.3))
    train(task, tuner, 0, 20)
    assert tuner.momentum == TunerConstants().ramp_momentum
    assert tuner.param_groups[0]["momentum"] == 0.3
    assert tuner.state_dict()["param_groups"][0]["momentum"] == TunerConstants().ramp_momentum
    kept = CurvatureTuner(sgd(Task(), momentum=0.3), momentum="keep")
    assert kept.momentum == 0.3


def test_extra_work_is_bounded_by_the_ramp_and_the_budget():
    task = Task()
    tuner = CurvatureTuner(sgd(task), budget=0.1)
    train(task, tuner, 0, 1200, CosineAnnealingLR(tuner, 1200))
    assert tuner.spent <= 0.1 * 1200
    events = [row["event"] for row in tuner.history]
    assert events.index("settled") > events.index("ramp") > events.index("start")
    assert "sharpness" in events


def test_the_closure_is_enough_if_asked_for():
    task = Task()
    tuner = CurvatureTuner(sgd(task), closure=True)
    for step in range(150):

        def closure(step=step):
            tuner.zero_grad()
            loss = task.loss(task.batch(step))
            loss.backward()
            return loss

        tuner.step(closure)
    assert task.final() < 0.5
    assert tuner.tuning.phase == "hold"


def test_rebase_takes_the_users_lr():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 60)
    tuner.rebase(0.02)
    assert tuner.lr == pytest.approx(0.02)
    train(task, tuner, 60, 75)
    assert tuner.lr == pytest.approx(0.02)


def test_who_never_observes_is_told_once():
    p = nn.Parameter(torch.ones(1))
    tuner = CurvatureTuner(torch.optim.SGD([p], lr=0.1))
    p.grad = torch.zeros(1)
    for _ in range(199):
        tuner.step()
    with pytest.warns(TunerWarning, match="nothing was observed"):
        tuner.step()
    tuner.step()


@pytest.mark.parametrize("wrong", [{"policy": "best"}, {"momentum": "both"}, {"budget": -1.0}, {"every": 0}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=0.1), **wrong)


def test_only_optimizers_are_wrapped():
    with pytest.raises(TypeError, match="wrap"):
        CurvatureTuner(nn.Linear(1, 1))
