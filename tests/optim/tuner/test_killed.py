"""A process killed (SIGKILL) in any phase, with any kind of batch, goes on bit for bit from its last checkpoint."""

import functools
import os
import signal
import warnings

import pytest
import torch
from krylearn.optim import CurvatureTuner
from tuner_batches import BATCHES
from tuner_task import Task, adamw, numbers_of, sgd

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
STEPS = 130
KINDS = {"tuple": (lambda x, y: (x, y), lambda b: b), **BATCHES}


def muon_and_adamw(task):
    matrices = [p for p in task.model.parameters() if p.ndim == 2]
    return [torch.optim.Muon(matrices), torch.optim.AdamW([p for p in task.model.parameters() if p.ndim != 2])]


MAKERS = {
    "sgd": lambda task: CurvatureTuner(sgd(task), total_steps=1000),
    "adamw": lambda task: CurvatureTuner(adamw(task), total_steps=1000),
    "ratios": lambda task: CurvatureTuner(muon_and_adamw(task), learn_ratios=True, total_steps=1000),
    "granziol": lambda task: CurvatureTuner(sgd(task), "granziol", every=20),
}
PLACES = [  # who, step, phase, and what is going on there
    ("sgd", 1, "ramp", None), ("sgd", 7, "ramp", None), ("sgd", 45, "hold", "drift"), ("sgd", 102, "hold", "race"),
    ("adamw", 3, "trials", None), ("adamw", 7, "trials", "race"), ("adamw", 45, "hold", "drift"),
    ("adamw", 102, "hold", "race"), ("ratios", 7, "trials", "race"), ("granziol", 30, "spectral", None),
]  # fmt: skip


def train(task, tuner, kind, start, *, kill_at=None, checkpoint=None):
    wrap, read = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(start, STEPS):

            def loss_fn(batch, step=step):
                if step == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return task.loss(read(batch))

            batch = wrap(*task.batch(step))
            tuner.zero_grad()
            tuner.observe(loss_fn, batch)
            loss_fn(batch).backward()
            tuner.step()
            if checkpoint is not None:
                torch.save([step + 1, task.model.state_dict(), tuner.state_dict()], f"{checkpoint}.part")
                os.replace(f"{checkpoint}.part", checkpoint)


@functools.cache
def uninterrupted(who, kind):  # batches that cannot be split are tried as a whole: another run
    task = Task()
    tuner = MAKERS[who](task)
    train(task, tuner, kind, 0)
    return task.weights(), numbers_of(tuner)


@pytest.mark.parametrize(("who", "stop", "phase", "busy"), PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_as_if_nothing_had_happened(tmp_path, who, stop, phase, busy, kind):
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # threads of the parent do not live here
            task = Task()
            train(task, MAKERS[who](task), kind, 0, kill_at=stop, checkpoint=tmp_path / "last.pt")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    step, model, optimizer = torch.load(tmp_path / "last.pt", weights_only=True)
    assert step == stop
    task = Task()
    task.model.load_state_dict(model)
    tuner = MAKERS[who](task)
    tuner.load_state_dict(optimizer)
    state = tuner.tuning
    assert state.phase == phase
    assert busy is None or (state.race.lrs if busy == "race" else state.drift.blocks_left)
    train(task, tuner, kind, step)
    weights, numbers = uninterrupted(who, kind)
    assert torch.equal(task.weights(), weights)
    assert numbers_of(tuner) == pytest.approx(numbers, nan_ok=True)


def test_every_phase_is_killed_in():
    phases = {phase for _, _, phase, _ in PLACES} | {"idle"}  # before the first look a checkpoint holds nothing yet
    task = Task()
    assert phases == set(MAKERS["sgd"](task)._session.phases) | {"spectral"}
