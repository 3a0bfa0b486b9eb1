"""Looks leave nothing behind, whatever the model keeps, the batch is made of, or the loss returns."""

import copy
import math
import random
import warnings

import numpy as np
import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerWarning
from torch import nn
from tuner_batches import BATCHES
from tuner_task import BASES, Task, adamw, numbers_of, sgd, train

quiet = pytest.mark.filterwarnings("ignore::krylearn.optim.TunerWarning")


class Metric(nn.Module):
    """Keeps what it counts as metrics packages do: attributes, lists, tensors, none of them a buffer."""

    def __init__(self):
        super().__init__()
        self.count, self.total, self.seen, self.by_name = 0, torch.zeros(()), [], {}

    def update(self, value):
        self.count += 1
        self.total += value.detach()
        self.seen.append(float(value.detach()))
        self.by_name[self.count] = float(value.detach())
        self.latest = value.detach()


class Rich(nn.Module):
    """With a metric, a buffer that is replaced, an embedding whose rows are renormalised, an unused parameter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(12, 4, max_norm=0.5)
        self.head, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(4)
        self.unused, self.metric = nn.Parameter(torch.ones(5)), Metric()
        self.register_buffer("average", torch.zeros(4))

    def forward(self, x):
        x = self.norm(self.table(x).mean(1))
        self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return nn.functional.dropout(self.head(x) + 0.01 * random.random() + 0.01 * np.random.rand(), 0.1)  # noqa: NPY002


def rich_run(make, observe):
    """Train with a tuner that is held to lr and momentum as given, so that only traces can make a difference."""
    model = Rich()
    base = make([p for p in model.parameters() if make is not BASES["muon"] or p.ndim == 2])
    tuner = CurvatureTuner(base, momentum="keep")
    tuner.rebase(1e-3)
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002

    def loss_fn(batch):
        loss = nn.functional.cross_entropy(model(batch["x"]), batch.pop("y"))
        model.metric.update(loss)
        return loss

    for _ in range(60):
        batch = {
            "x": torch.randint(12, (16, 3), generator=generator),
            "y": torch.randint(3, (16,), generator=generator),
        }
        tuner.zero_grad()
        if observe:
            tuner.observe(loss_fn, batch)
        loss_fn(batch).backward()
        tuner.step()
    return model, tuner


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw", "rmsprop with momentum", "muon", "adafactor"])
def test_a_run_that_is_looked_at_is_to_the_bit_the_one_that_is_not(name):
    (seen, tuner), (unseen, other) = rich_run(BASES[name], True), rich_run(BASES[name], False)
    assert "hold" in {row["event"] for row in tuner.history}
    for key, value in unseen.state_dict().items():
        assert torch.equal(seen.state_dict()[key], value), key
    assert seen.metric.count == unseen.metric.count == 60
    assert seen.metric.seen == unseen.metric.seen
    assert seen.metric.by_name == unseen.metric.by_name
    assert torch.equal(seen.metric.total, unseen.metric.total)
    assert not other.history


@pytest.mark.parametrize("name", BASES)
def test_a_whole_start_counts_nothing_twice_and_leaves_what_has_no_gradient(name):
    model = Rich()
    params = [p for p in model.parameters() if name != "muon" or p.ndim == 2]
    tuner = CurvatureTuner(BASES[name](params))
    fired = []
    tuner.base.register_step_pre_hook(lambda *args: fired.append(1))
    generator = torch.Generator().manual_seed(1)

    def loss_fn(batch):
        loss = nn.functional.cross_entropy(model(batch["x"]), batch.pop("y"))
        model.metric.update(loss)
        return loss

    for _ in range(50):
        batch = {
            "x": torch.randint(12, (16, 3), generator=generator),
            "y": torch.randint(3, (16,), generator=generator),
        }
        tuner.zero_grad()
        tuner.observe(loss_fn, batch)
        loss_fn(batch).backward()
        tuner.step()
    assert tuner.tuning.phase == "hold" or name in ("adafactor", "rprop")  # where a higher lr does not show
    assert model.metric.count == len(model.metric.seen) == len(fired) == 50
    assert torch.equal(model.unused, torch.ones(5))
    state = tuner.state.get(model.unused, {})  # Adagrad makes it at once
    assert all(float(value.detach().abs().sum()) == 0 for value in state.values())


@quiet
@pytest.mark.parametrize("name", BASES)
def test_frozen_parameters_stay_and_the_rest_is_tuned(name):
    task = Task()
    frozen = task.model[0].weight if name != "muon" else None
    start = task.final()
    if frozen is not None:
        frozen.requires_grad_(False)
    before = task.model[0].weight.detach().clone()
    tuner = CurvatureTuner(BASES[name](list(task.model.parameters())))
    train(task, tuner, 0, 100)
    assert tuner.tuning.phase == "hold" or name in ("adafactor", "rprop")  # where a higher lr does not show
    assert tuner.spent < 90
    if frozen is not None:
        assert torch.equal(frozen, before)
        assert task.final() < start
        frozen.requires_grad_(True)  # thawed in the middle
        train(task, tuner, 100, 150)
        assert not torch.equal(frozen, before)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_tied_parameters_are_tuned(name):
    torch.manual_seed(1)
    one, two = nn.Linear(6, 6), nn.Linear(6, 6)
    two.weight = one.weight
    model = nn.Sequential(one, nn.Tanh(), two)
    tuner = CurvatureTuner(BASES[name](list(model.parameters())))
    x = torch.randn(64, 6)
    start = float(nn.functional.mse_loss(model(x), x.flip(1)).detach())
    for _ in range(150):
        tuner.zero_grad()
        tuner.observe(lambda batch: nn.functional.mse_loss(model(batch), batch.flip(1)), x)
        nn.functional.mse_loss(model(x), x.flip(1)).backward()
        tuner.step()
    assert float(nn.functional.mse_loss(model(x), x.flip(1)).detach()) < 0.5 * start


def batch_train(task, tuner, wrap, read, start, stop):
    for step in range(start, stop):
        batch = wrap(*task.batch(step))
        tuner.zero_grad()
        tuner.observe(lambda b: task.loss(read(b)), batch)
        task.loss(read(batch)).backward()
        tuner.step()


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("stop", [1, 3, 7, 12, 30])
def test_resume_is_exact_with_every_kind_of_batch_and_no_checkpoint_holds_one(tmp_path, make, kind, stop):
    wrap, read = BATCHES[kind]
    whole, part = Task(), Task()
    tuner, first = CurvatureTuner(make(whole)), CurvatureTuner(make(part))
    batch_train(whole, tuner, wrap, read, 0, 40)
    batch_train(part, first, wrap, read, 0, stop)
    torch.save([part.model.state_dict(), first.state_dict()], tmp_path / "checkpoint.pt")
    model, state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again = Task()
    again.model.load_state_dict(model)
    second = CurvatureTuner(make(again, lr=0.3))
    second.load_state_dict(state)
    batch_train(again, second, wrap, read, stop, 40)
    assert torch.equal(again.weights(), whole.weights())
    assert numbers_of(second) == pytest.approx(numbers_of(tuner), nan_ok=True)


class Output(dict):
    """As models of a well-known hub return them: a mapping whose entries are attributes too."""

    __getattr__ = dict.__getitem__


RETURNS = {
    "dict": lambda loss, out: {"loss": loss, "log": out},
    "mapping with attributes": lambda loss, out: Output(loss=loss, logits=out),
    "outputs, loss": lambda loss, out: (out, loss),
    "loss, outputs": lambda loss, out: (loss, out),
    "one entry": lambda loss, out: loss.reshape(1),
}


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("kind", RETURNS)
def test_a_loss_is_found_in_what_is_returned(make, kind):
    plain, other = Task(), Task()
    one, two = CurvatureTuner(make(plain)), CurvatureTuner(make(other))
    train(plain, one, 0, 40)
    train(other, two, 0, 40, loss_fn=lambda b: RETURNS[kind](other.loss(b), other.model(b[0])))
    assert torch.equal(plain.weights(), other.weights())


@pytest.mark.parametrize("value", [None, {}, "loss", torch.ones(3), {"loss": None}])
def test_no_loss_is_a_warning_now_and_then(value):
    task = Task()
    tuner = CurvatureTuner(sgd(task, lr=0.05))
    with pytest.warns(TunerWarning, match="expected a scalar loss") as told:
        train(task, tuner, 0, 100, loss_fn=lambda batch: value)
    assert len(told) <= 7
    assert tuner.lr == 0.05
    train(task, tuner, 100, 300)
    assert tuner.tuning.phase == "hold"


@quiet
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("step", [0, 3, 8, 45])
def test_one_gradient_that_is_not_finite_is_undone(name, step):
    task = Task()
    start = task.final()
    tuner = CurvatureTuner(BASES[name](list(task.model.parameters())))
    train(task, tuner, 0, step)
    tuner.zero_grad()
    tuner.observe(task.loss, task.batch(step))
    (math.nan * task.loss(task.batch(step))).backward()
    tuner.step()
    train(task, tuner, step + 1, 200)
    assert bool(torch.isfinite(task.weights()).all())
    assert task.final() < 0.7 * start


@quiet
@pytest.mark.parametrize("make", [sgd, adamw])
def test_what_the_user_does_too_boldly_is_undone(make):
    for act in ("rebase", "group"):
        task = Task()
        tuner = CurvatureTuner(make(task))
        train(task, tuner, 0, 60)
        before = task.final()
        if act == "rebase":
            tuner.rebase(1e4)
        else:
            tuner.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
            with torch.no_grad():
                task.model[0].weight.mul_(math.nan)
        train(task, tuner, 60, 400)
        assert tuner.tuning.hold.rescues >= 1
        assert task.final() < 2 * before + 0.1


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adamw", "rmsprop with momentum", "nadam", "adafactor"])
def test_a_loss_that_is_maximised_gives_the_mirrored_run(name):
    make = {
        "sgd": torch.optim.SGD, "nesterov": lambda p, **o: torch.optim.SGD(p, momentum=0.9, nesterov=True, **o),
        "adamw": torch.optim.AdamW, "rmsprop with momentum": lambda p, **o: torch.optim.RMSprop(p, momentum=0.9, **o),
        "nadam": torch.optim.NAdam, "adafactor": torch.optim.Adafactor,
    }[name]  # fmt: skip
    down, up = Task(), Task()
    one = CurvatureTuner(make(list(down.model.parameters()), lr=1.0))
    two = CurvatureTuner(make(list(up.model.parameters()), lr=1.0, maximize=True))
    train(down, one, 0, 120)
    up.scale = -1.0
    train(up, two, 0, 120)
    assert torch.allclose(down.weights(), up.weights(), rtol=1e-4, atol=1e-5)
    assert two.lr == pytest.approx(one.lr, rel=1e-4)
    assert two.history[0]["loss"] == pytest.approx(-one.history[0]["loss"])


def test_groups_that_maximise_and_minimise_are_refused():
    groups = [{"params": [torch.ones(1)]}, {"params": [torch.ones(1)], "maximize": True}]
    with pytest.raises(ValueError, match="maximise"):
        CurvatureTuner(torch.optim.SGD(groups, lr=0.1))


def test_a_failed_start_is_repeated_at_distances_that_double():
    task = Task()
    tuner = CurvatureTuner(sgd(task, lr=0.05))
    tried = []

    def flat(batch):
        tried.append(tuner.tuning.steps)
        return 0 * task.loss(batch)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(task, tuner, 0, 200, loss_fn=flat)
    assert len(caught) == len(set(tried)) <= 9
    assert tuner.spent < 0.1 * 200 + 10


def test_two_copies_of_a_tuner_do_not_share_what_they_know():
    task = Task()
    tuner = CurvatureTuner(adamw(task))
    train(task, tuner, 0, 20)
    twin = copy.deepcopy(tuner)
    twin.tuning.scale *= 2
    assert twin.lr == pytest.approx(2 * tuner.lr)
