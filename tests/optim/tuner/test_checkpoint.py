"""Checkpoints that resume bit for bit, that interchange with the plain base, and ranks that stay identical."""

import copy
import io

import pytest
import torch
from gloo_ranks import run_gloo_ranks
from krylearn.optim import CurvatureTuner, TunerWarning
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from tuner_task import Saddle, Task, adamw, numbers_of, sgd, train


@pytest.mark.parametrize(
    ("make", "task", "stop"),
    [
        *((make, Task, stop) for make in (sgd, adamw) for stop in (1, 3, 7, 22, 40, 50, 61, 99, 100)),
        *(
            (adamw, Saddle, stop) for stop in (4, 24, 25, 26, 27, 29, 30, 55)
        ),  # before, while and after trials are repeated
    ],
)
def test_resume_is_exact(make, task, stop):
    whole, part = task(), task()
    tuner = CurvatureTuner(make(whole))
    train(whole, tuner, 0, 140, scheduler := CosineAnnealingLR(tuner, 140))
    first = CurvatureTuner(make(part))
    train(part, first, 0, stop, scheduler := CosineAnnealingLR(first, 140))
    file = io.BytesIO()
    torch.save([part.model.state_dict(), first.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    model, optimizer, schedule = torch.load(file, weights_only=True)
    again = task()
    again.model.load_state_dict(model)
    second = CurvatureTuner(make(again, lr=0.3))
    scheduler = CosineAnnealingLR(second, 140)
    second.load_state_dict(optimizer)
    scheduler.load_state_dict(schedule)
    train(again, second, stop, 140, scheduler)
    assert torch.equal(again.weights(), whole.weights())
    assert numbers_of(second) == pytest.approx(numbers_of(tuner), nan_ok=True)


def test_a_checkpoint_goes_on_in_the_plain_base():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 80)
    plain = sgd(task, lr=123.0)
    plain.load_state_dict(copy.deepcopy(tuner.state_dict()))
    assert plain.param_groups[0]["lr"] == tuner.lr
    twin = copy.deepcopy(task)
    theirs = sgd(twin)
    theirs.load_state_dict(copy.deepcopy(plain.state_dict()))
    for one, optimizer in ((task, tuner), (twin, theirs)):
        optimizer.zero_grad()
        one.loss(one.batch(80)).backward()
        optimizer.step()
    assert torch.equal(task.weights(), twin.weights())


def _rank(rank, ranks, folder, make, kind):
    task = kind()
    model = nn.parallel.DistributedDataParallel(task.model)
    tuner = CurvatureTuner(make(task))
    for step in range(90):
        x, y = task.batch(ranks * step + rank)
        tuner.zero_grad()
        tuner.observe(task.loss, (x, y))
        task.measure(model(x), y).backward()
        tuner.step()
    torch.save([task.weights(), numbers_of(tuner)], f"{folder}/{rank}.pt")


@pytest.mark.parametrize(("make", "kind"), [(sgd, Task), (adamw, Task), (adamw, Saddle)])
def test_two_ranks_stay_identical(tmp_path, make, kind):
    run_gloo_ranks(_rank, 2, tmp_path, make, kind)
    (a, facts), (b, other) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(a, b)
    assert facts == pytest.approx(other, nan_ok=True)
    assert facts["tuner.phase"] == "hold"


def _plain_steps(task, plain, start, stop):
    for step in range(start, stop):
        plain.zero_grad()
        task.loss(task.batch(step)).backward()
        plain.step()


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("stop", [3, 8, 60])
def test_what_a_plain_base_has_trained_since_is_not_undone(make, stop):
    task = Task()
    tuner = CurvatureTuner(make(task))
    train(task, tuner, 0, stop)
    plain = make(task)
    plain.load_state_dict(copy.deepcopy(tuner.state_dict()))
    small = len(_bytes(make(task).state_dict())) + 6000
    assert len(_bytes(plain.state_dict())) < 2 * len(_bytes({"a": [task.model.state_dict()] * 3})) + small
    plain.param_groups[0]["lr"] = 0.02
    _plain_steps(task, plain, stop, stop + 50)
    weights = task.weights()
    again = CurvatureTuner(make(task))
    again.load_state_dict(copy.deepcopy(plain.state_dict()))
    task.loss(task.batch(0)).backward()
    again.observe(task.loss, task.batch(0))
    assert torch.equal(task.weights(), weights)
    assert again.tuning.steps == 0  # begun anew, from the plain phase's lr
    assert again.param_groups[0]["lr"] == 0.02
    assert not again.tuning.hold.kept


@pytest.mark.parametrize("make", [sgd, adamw])
def test_numbers_without_tensors_go_on_where_nothing_was_trained_since(make):
    task = Task()
    tuner = CurvatureTuner(make(task))
    train(task, tuner, 0, 60)
    saved = copy.deepcopy(tuner.state_dict())
    saved.pop("krylearn")
    again = CurvatureTuner(make(task))
    again.load_state_dict(saved)
    lr = again.lr
    assert lr == pytest.approx(tuner.lr)
    train(task, again, 60, 62)
    assert again.lr == pytest.approx(lr)
    assert again.tuning.hold.kept


def _bytes(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("stop", [0, 3, 8, 60])
def test_distributed_checkpoints_take_it(make, stop):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    task = Task()
    tuner = CurvatureTuner(make(task))
    train(task, tuner, 0, stop)
    lr = tuner.lr
    saved = get_optimizer_state_dict(task.model, tuner)
    assert set(saved) == {"state", "param_groups"}
    again = CurvatureTuner(make(task))
    set_optimizer_state_dict(task.model, again, saved)
    train(task, again, stop, stop + 1)
    assert again.tuning.phase in ("hold", "ramp", "trials")
    if stop == 60:
        assert again.lr == pytest.approx(lr, rel=1e-6)


def _old(tuner, steps):
    """A checkpoint as the tuner wrote it before version 2."""
    plain = tuner.base.state_dict()
    facts = {"phase": "hold", "scale": 0.25, "nominal": 1.0, "momentum": 0.8, "steps": steps, "spent": 20.0,
             "first": 1.4, "mean": 0.3, "deviation": 0.05, "settled": 16, "last": 60, "rescues": 0, "trouble": -1000,
             "sharpness": 2.0, "refresh": 100, "resolved": 0, "blocks": 2, "way": 0.0}  # fmt: skip
    for group in plain["param_groups"]:
        group["krylearn"] = {"outside": {"lr": group["lr"], "momentum": group["momentum"]}}
        group["lr"], group["momentum"] = 0.25, 0.8
    plain["param_groups"][0]["krylearn"]["facts"] = facts
    plain["state"]["krylearn"] = {"snapshots": []}
    return plain


def test_an_older_checkpoint_loads_or_says_why_not():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    tuner.load_state_dict(_old(tuner, 60))
    assert (tuner.lr, tuner.momentum, tuner.tuning.hold.mean_loss) == (0.25, 0.8, 0.3)
    train(task, tuner, 60, 120)
    early = _old(tuner, 10)
    early["param_groups"][0]["krylearn"]["facts"]["phase"] = "ramp"
    with pytest.warns(TunerWarning, match="older tuner"):
        CurvatureTuner(sgd(task)).load_state_dict(early)
    later = copy.deepcopy(tuner.state_dict())
    later["param_groups"][0]["krylearn"]["state"]["version"] = 99
    with pytest.warns(TunerWarning, match="version 99"):
        CurvatureTuner(sgd(task)).load_state_dict(later)
