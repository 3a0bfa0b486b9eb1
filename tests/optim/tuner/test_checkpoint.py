"""Checkpoints that resume bit for bit, that interchange with the plain base, and ranks that stay identical."""

import copy
import io

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from krylearn.optim import CurvatureTuner
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from tuner_task import Saddle, Task, adamw, sgd, train


@pytest.mark.parametrize(
    ("make", "task", "stop"),
    [
        *((make, Task, stop) for make in (sgd, adamw) for stop in (1, 3, 7, 22, 40, 50, 61, 99, 100)),
        *((adamw, Saddle, stop) for stop in (4, 24, 25, 27, 28, 29, 55)),  # before, while and after trials are repeated
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
    assert second.facts.plain() == pytest.approx(tuner.facts.plain(), nan_ok=True)


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


def _rank(rank, folder, world, make, kind):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    task = kind()
    model = nn.parallel.DistributedDataParallel(task.model)
    tuner = CurvatureTuner(make(task))
    for step in range(90):
        x, y = task.batch(world * step + rank)
        tuner.zero_grad()
        tuner.observe(task.loss, (x, y))
        task.measure(model(x), y).backward()
        tuner.step()
    torch.save([task.weights(), tuner.facts.plain()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("make", "kind"), [(sgd, Task), (adamw, Task), (adamw, Saddle)])
def test_two_ranks_stay_identical(tmp_path, make, kind):
    mp.spawn(_rank, args=(str(tmp_path), 2, make, kind), nprocs=2)
    (a, facts), (b, other) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(a, b)
    assert facts == pytest.approx(other, nan_ok=True)
    assert facts["phase"] == "hold"
