"""Several learned scales: joined optimizers, groups of one, what their checkpoints hold, and what is refused."""

import io

import pytest
import torch
from krylearn.optim import CurvatureTuner
from krylearn.optim.tuner.wrapper import JoinedOptimizer
from torch import nn
from tuner_task import Task, numbers_of, train

quiet = pytest.mark.filterwarnings("ignore::krylearn.optim.TunerWarning")


def muon_and_adamw(task, first=1.0, second=1.0):
    matrices = [p for p in task.model.parameters() if p.ndim == 2]
    rest = [p for p in task.model.parameters() if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=first), torch.optim.AdamW(rest, lr=second, weight_decay=0.0)]


def layers(task, first=1.0, second=1.0):
    one, other = task.model[0], task.model[-1]
    groups = [{"params": one.parameters(), "lr": first}, {"params": other.parameters(), "lr": second}]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def sgd_layers(task, first=1.0, second=1.0):
    one, other = task.model[0], task.model[-1]
    return torch.optim.SGD(
        [{"params": one.parameters(), "lr": first}, {"params": other.parameters(), "lr": second}], lr=1.0
    )


MAKERS = [muon_and_adamw, layers, sgd_layers]


def tuned(make, task, first=1.0, second=1.0, **options):
    options = {"total_steps": 600} | options
    return CurvatureTuner(make(task, first, second), learn_ratios=True, **options)


@quiet
@pytest.mark.parametrize("make", [muon_and_adamw, sgd_layers])
def test_neither_lr_of_the_user_matters(make):
    finals = []
    for first, second in ((1.0, 1.0), (1.0, 1024.0), (1 / 1024, 1.0)):
        task = Task()
        tuner = tuned(make, task, first, second)
        train(task, tuner, 0, 60)
        finals.append(torch.tensor(tuner.lrs))
        assert [group["lr"] for group in tuner.param_groups] == [first, second]
    for each in finals[1:]:
        torch.testing.assert_close(each, finals[0], rtol=0.02, atol=0.0)


@quiet
@pytest.mark.parametrize("make", MAKERS)
def test_it_trains_with_a_scale_for_every_unit(make):
    task = Task()
    start = task.final()
    tuner = tuned(make, task, 1.0, 100.0)
    train(task, tuner, 0, 400)
    assert len(tuner.tuning.ratios) == 2
    assert tuner.tuning.ratios[0] == 1.0
    assert task.final() < 0.5 * start


@quiet
def test_a_unit_that_is_far_too_slow_is_raised():
    task = Task()
    tuner, step = tuned(muon_and_adamw, task, total_steps=3000), 0
    while tuner.tuning.phase != "hold":
        train(task, tuner, step, step + 1)
        step += 1
    state = tuner.tuning
    state.drift.blocks_left = 0
    state.scale, state.ratios[1] = state.scale / 300, state.ratios[1] * 300  # the first one, which has the matrices
    before = state.scale
    train(task, tuner, step, 700)
    assert "raised by trial" in {row["event"] for row in tuner.history}
    assert state.scale > 2.9 * before


@quiet
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("stop", [3, 7, 12, 50, 104])
def test_resume_is_exact_whatever_is_being_tried(make, stop):
    whole, part, again = Task(), Task(), Task()
    tuner = tuned(make, whole)
    train(whole, tuner, 0, 140)
    first = tuned(make, part)
    train(part, first, 0, stop)
    file = io.BytesIO()
    torch.save([part.model.state_dict(), first.state_dict()], file)
    file.seek(0)
    model, optimizer = torch.load(file, weights_only=True)
    again.model.load_state_dict(model)
    second = tuned(make, again, 0.3, 7.0)
    second.load_state_dict(optimizer)
    train(again, second, stop, 140)
    assert torch.equal(again.weights(), whole.weights())
    assert numbers_of(second) == pytest.approx(numbers_of(tuner), nan_ok=True)


@quiet
@pytest.mark.parametrize("make", MAKERS)
def test_the_base_goes_on_from_its_checkpoint_at_the_lrs_in_force(make):
    task = Task()
    tuner = tuned(make, task)
    train(task, tuner, 0, 60)
    plain = make(task, 5.0, 5.0)
    plain = plain if isinstance(plain, torch.optim.Optimizer) else JoinedOptimizer(plain)
    plain.load_state_dict(tuner.state_dict())
    assert [group["lr"] for group in plain.param_groups] == pytest.approx(tuner.lrs)
    for p, q in zip(tuner.base.state, plain.state, strict=True):
        assert p is q
        assert tuner.base.state[p].keys() == plain.state[q].keys()


def test_joined_optimizers_step_as_apart():
    one, two = Task(), Task()
    joined, apart = JoinedOptimizer(muon_and_adamw(one, 0.02, 0.01)), muon_and_adamw(two, 0.02, 0.01)
    for step in range(5):
        for task, optimizers in ((one, [joined]), (two, apart)):
            for each in optimizers:
                each.zero_grad()
            task.loss(task.batch(step)).backward()
            for each in optimizers:
                each.step()
    assert torch.equal(one.weights(), two.weights())
    assert [g["lr"] for g in joined.state_dict()["param_groups"]] == [0.02, 0.01]
    fresh = JoinedOptimizer(muon_and_adamw(one))
    fresh.load_state_dict(joined.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(_tensors(fresh), _tensors(joined), strict=True))


def _tensors(optimizer):
    return [v for kept in optimizer.state_dict()["state"].values() for v in kept.values()]


def test_what_cannot_be_joined_or_learned_is_refused():
    p = nn.Parameter(torch.ones(2))
    sgd = [torch.optim.SGD([p], lr=1.0), torch.optim.AdamW([p])]
    with pytest.raises(ValueError, match="share no parameter"):
        CurvatureTuner(sgd)
    with pytest.raises(ValueError, match="two or more"):
        CurvatureTuner(sgd[:1])
    many = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))]} for _ in range(17)], lr=1.0)
    with pytest.raises(ValueError, match="16 at most"):
        CurvatureTuner(many, learn_ratios=True)
    with pytest.raises(ValueError, match="policy"):
        CurvatureTuner(torch.optim.SGD([p], lr=1.0), "granziol", learn_ratios=True)
    with pytest.raises(TypeError, match="joined"):
        JoinedOptimizer(muon_and_adamw(Task())).add_param_group({"params": [p]})
