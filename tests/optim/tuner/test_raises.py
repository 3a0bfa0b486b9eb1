"""After the start: higher lrs without a cap, what is believed of the schedule, a decay of its own, held-out losses."""

import warnings

import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerWarning
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR
from tuner_task import BASES, Task, adamw, numbers_of, sgd, train

quiet = pytest.mark.filterwarnings("ignore::krylearn.optim.TunerWarning")


def settled(make, **options):
    """A tuner that has settled, and the step it is at."""
    task = Task()
    tuner, step = CurvatureTuner(make(task), **options), 0
    while tuner.tuning.phase != "hold":
        train(task, tuner, step, step + 1)
        step += 1
    return task, tuner, step


@pytest.mark.parametrize("make", [sgd, adamw])
def test_an_lr_that_is_far_too_low_is_raised_again_and_again(make):
    task, tuner, step = settled(make, total_steps=3000)
    tuner.tuning.drift.blocks_left = 0
    tuner.tuning.drift.doublings = 99.0
    tuner.tuning.scale /= 1000
    low = tuner.tuning.scale
    train(task, tuner, step, 1200)
    raised = [row for row in tuner.history if row["event"] == "raised by trial"]
    assert len(raised) >= 3
    assert tuner.tuning.scale == pytest.approx(low * 3 ** len(raised), rel=1e-6)
    assert tuner.spent <= 0.1 * 3000


@pytest.mark.parametrize("make", [sgd, adamw])
def test_without_a_horizon_the_distances_double_and_the_budget_holds_at_any_step(make):
    task, tuner, step = settled(make)
    tuner.tuning.drift.blocks_left = 0
    tuner.tuning.scale /= 1000
    for stop in range(600, 2401, 200):
        train(task, tuner, step, stop)
        step = stop
        assert tuner.spent <= 0.1 * stop
    assert "raised by trial" in {row["event"] for row in tuner.history}
    assert tuner.tuning.raises.next_step >= 2400


@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_race_leaves_the_training_as_it_is(make):
    plain, other = (settled(make, total_steps=1000, budget=budget) for budget in (0.1, 0.1))
    other[1]._session.state.raises.next_step = 2**62
    for task, tuner, step in (plain, other):
        train(task, tuner, step, 105)
    raced = {row["event"] for row in plain[1].history} & {"raised by trial", "not raised"}
    assert raced or plain[1].tuning.race.lrs
    if "raised by trial" not in raced:
        assert torch.equal(plain[0].weights(), other[0].weights())


@quiet
@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("stop", [52, 60, 106, 130])
def test_resume_is_exact_in_the_middle_of_a_race(make, stop):
    whole, part = Task(), Task()
    tuner = CurvatureTuner(make(whole), total_steps=1000)
    train(whole, tuner, 0, 220)
    first = CurvatureTuner(make(part), total_steps=1000)
    train(part, first, 0, stop)
    again = Task()
    again.model.load_state_dict(part.model.state_dict())
    second = CurvatureTuner(make(again), total_steps=1000)
    second.load_state_dict(first.state_dict())
    train(again, second, stop, 220)
    assert torch.equal(again.weights(), whole.weights())
    assert numbers_of(second) == pytest.approx(numbers_of(tuner), nan_ok=True)


@pytest.mark.parametrize("name", BASES)
def test_a_constant_lr_is_decayed_where_the_horizon_is_known(name):
    task = Task()
    tuner = CurvatureTuner(BASES[name](list(task.model.parameters())), total_steps=400)
    train(task, tuner, 0, 270)
    scale, high = tuner.tuning.scale, tuner.lr
    train(task, tuner, 270, 399)
    if tuner.tuning.phase == "hold" and tuner.tuning.scale == scale:
        assert tuner.lr < 0.02 * high
    assert tuner.param_groups[0]["lr"] == 1.0
    assert tuner.state_dict()["param_groups"][0]["lr"] == pytest.approx(tuner.lr)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_schedule_of_the_users_is_not_decayed_twice(make):
    task = Task()
    tuner = CurvatureTuner(make(task), total_steps=400)
    scheduler = CosineAnnealingLR(tuner, 400)
    train(task, tuner, 0, 390, scheduler)
    assert tuner._session.find_schedule() == "annealed"
    assert tuner._session.own_decay() == 1.0


@quiet
@pytest.mark.parametrize("make", [sgd, adamw])
def test_a_belief_that_was_wrong_is_corrected(make):
    task = Task()
    tuner = CurvatureTuner(make(task))
    scheduler = ConstantLR(tuner, 1.0, 10)  # looks like annealing, and is none
    train(task, tuner, 0, 60, scheduler)
    assert tuner._session.find_schedule() == "annealed"
    train(task, tuner, 60, 200, scheduler)
    assert tuner._session.find_schedule() == "constant"
    assert "corrected" in {row["event"] for row in tuner.history}
    late = CosineAnnealingLR(tuner, 200)  # attached late
    train(task, tuner, 200, 300, late)
    assert tuner._session.find_schedule() == "annealed"


@pytest.mark.parametrize("kind", ["constant", "annealed"])
def test_what_the_user_says_of_the_schedule_counts(kind):
    tuner = CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=1.0), schedule=kind)
    assert tuner._session.find_schedule() == kind


@pytest.mark.parametrize("wrong", [{"schedule": "cosine"}, {"total_steps": 0}, {"validation": 3}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises((ValueError, TypeError), match="expected"):
        CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=0.1), **wrong)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_held_out_losses_undo_overfitting(make):
    class Small(Task):
        """Few rows with noise in the labels, a wide model: learned by heart."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(4)
            self.model = nn.Sequential(nn.Linear(8, 200), nn.ReLU(), nn.Linear(200, 4))
            y = torch.where(torch.rand(512) < 0.4, torch.randint(4, (512,)), self.data[1])
            self.held = self.data[0][64:], y[64:]
            self.data = self.data[0], y

        def batch(self, step, size=32):
            return self.data[0][:64], self.data[1][:64]

        def held_out(self):
            return self.loss(self.held)

    finals = []
    for guarded in (False, True):
        task = Small()
        tuner = CurvatureTuner(make(task), total_steps=600, validation=task.held_out if guarded else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TunerWarning)
            train(task, tuner, 0, 600)
        finals.append(float(task.held_out().detach()))
    assert "overfitted" in {row["event"] for row in tuner.history}
    assert finals[1] < 0.9 * finals[0]
