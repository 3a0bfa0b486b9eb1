"""A tuner of a model that FSDP2 shards: what it decides is what it decides for one process, and it resumes."""

import pytest
import torch
import torch.distributed as dist
from gloo_ranks import run_gloo_ranks
from krylearn.optim import CurvatureTuner
from torch import nn
from tuner_task import Task, adamw, numbers_of, sgd, train

STEPS, STOP = 60, 35


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
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    mesh = dist.init_device_mesh("cpu", (world,))
    task = Task(dtype=torch.float64)
    sharded(task, mesh)
    tuner = CurvatureTuner(make(task))
    steps(task, tuner, rank, world, 0, STOP)
    # weights by torch.distributed.checkpoint; the optimizer's state, shards included, by each rank's own file
    dcp.save({"model": get_model_state_dict(task.model)}, checkpoint_id=f"{folder}/model")
    torch.save(tuner.state_dict(), f"{folder}/tuner{rank}.pt")
    steps(task, tuner, rank, world, STOP, STEPS)

    again = Task(dtype=torch.float64)
    with torch.no_grad():
        for p in again.model.parameters():
            p.zero_()
    sharded(again, mesh)
    state = {"model": get_model_state_dict(again.model)}
    dcp.load(state, checkpoint_id=f"{folder}/model")
    set_model_state_dict(again.model, state["model"])
    second = CurvatureTuner(make(again, lr=0.3))
    second.load_state_dict(torch.load(f"{folder}/tuner{rank}.pt", weights_only=False))
    steps(again, second, rank, world, STOP, STEPS)
    torch.save([weights(task), numbers_of(tuner), weights(again), numbers_of(second)], f"{folder}/{rank}.pt")


@pytest.mark.parametrize(("world", "make"), [(2, sgd), (4, adamw)])
def test_decisions_are_those_of_one_process_and_resume(tmp_path, world, make):
    run_gloo_ranks(_rank, world, tmp_path, make)
    alone = Task(dtype=torch.float64)
    tuner = CurvatureTuner(make(alone))
    train(alone, tuner, 0, STEPS)
    expected = numbers_of(tuner)
    for rank in range(world):
        ours, facts, again, resumed = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert facts["tuner.phase"] == expected["tuner.phase"]
        torch.testing.assert_close(ours, alone.weights(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(again, ours, rtol=0, atol=0)
        assert resumed == pytest.approx(facts, nan_ok=True)
