"""A tuner of a model that FSDP2 shards: what it decides is what it decides for one process, and it resumes."""

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_gloo_ranks
from krylearn.optim import CurvatureTuner, load_distributed, save_distributed
from torch import nn
from tuner_task import Task, adamw, numbers_of, sgd, train

STEPS, EARLY, STOP = 60, 7, 35


def sharded(task, mesh):
    from torch.distributed.fsdp import fully_shard

    for layer in task.model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(task.model, mesh=mesh)


def weights(task):
    return torch.cat([p.full_tensor().detach().reshape(-1) for p in task.model.parameters()])


def steps(task, tuner, rank, world, start, stop):
    """The same batches as one process has, every rank its part."""
    for step in range(start, stop):
        x, y = task.batch(step)
        part = slice(rank * len(x) // world, (rank + 1) * len(x) // world)
        tuner.zero_grad()
        tuner.observe(task.loss, (x[part], y[part]))
        task.loss((x[part], y[part])).backward()
        tuner.step()


def _rank(rank, world, folder, make):
    mesh = dist.init_device_mesh("cpu", (world,))
    task = Task(dtype=torch.float64)
    sharded(task, mesh)
    tuner = CurvatureTuner(make(task))
    steps(task, tuner, rank, world, 0, EARLY)
    save_distributed(f"{folder}/early", task.model, tuner)
    early = tuner.tuning.phase
    steps(task, tuner, rank, world, EARLY, STOP)
    save_distributed(f"{folder}/late", task.model, tuner)
    steps(task, tuner, rank, world, STOP, STEPS)

    found = [weights(task), numbers_of(tuner), early]
    for name, start in (("early", EARLY), ("late", STOP)):
        again = Task(dtype=torch.float64)
        with torch.no_grad():
            for p in again.model.parameters():
                p.zero_()
        sharded(again, mesh)
        second = CurvatureTuner(make(again, lr=0.3))
        load_distributed(f"{folder}/{name}", again.model, second)
        steps(again, second, rank, world, start, STEPS)
        found += [weights(again), numbers_of(second)]
    torch.save(found, f"{folder}/{rank}.pt")


# parts of three processes differ in size, also those of batches: such a run resumes, but is not that of one process
@pytest.mark.parametrize(("world", "make"), [(2, sgd), (3, adamw), (4, adamw)])
def test_decisions_are_those_of_one_process_and_resume(tmp_path, world, make):
    run_gloo_ranks(_rank, world, tmp_path, make)
    alone = Task(dtype=torch.float64)
    tuner = CurvatureTuner(make(alone))
    train(alone, tuner, 0, STEPS)
    expected = numbers_of(tuner)
    for rank in range(world):
        ours, facts, early, *resumed = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert early != "hold"
        assert facts["tuner.phase"] == expected["tuner.phase"] == "hold"
        if world != 3:
            torch.testing.assert_close(ours, alone.weights(), rtol=1e-5, atol=1e-7)
        for again, numbers in zip(resumed[::2], resumed[1::2], strict=True):
            torch.testing.assert_close(again, ours, rtol=0, atol=0)
            assert numbers == pytest.approx(facts, nan_ok=True)
    # one process reads what several wrote
    for name, start in (("early", EARLY), ("late", STOP)):
        again = Task(dtype=torch.float64)
        second = CurvatureTuner(make(again, lr=0.3))
        load_distributed(tmp_path / name, again.model, second)
        train(again, second, start, STEPS)
        assert second.tuning.phase == "hold"
        if world != 3:
            torch.testing.assert_close(again.weights(), alone.weights(), rtol=1e-5, atol=1e-7)
