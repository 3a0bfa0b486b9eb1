"""Bases that keep state in their groups, adapt their own lr, need two gradients; what readers see; what it costs."""

import time

import pytest
import torch
from krylearn.optim import CurvatureTuner, stability
from krylearn.optim.tuner.base_optimizer import BaseOptimizer
from torch import nn
from tuner_task import BASES, Task, adamw, sgd, train


class CountsInGroups(torch.optim.Optimizer):
    """Schedule-Free's kind: a counter and an average weight in the group, the average in the state."""

    def __init__(self, params, lr=1.0):
        super().__init__(params, {"lr": lr, "k": 0, "weight_sum": 0.0, "betas": (0.9, 0.999), "size": torch.zeros(())})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            group["weight_sum"] += group["lr"]
            group["size"] = group["size"] + 1
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state.setdefault("second", torch.zeros_like(p)).mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
                    state["count"] = state.get("count", 0) + 1
                    root = (state["second"] / (1 - 0.99 ** state["count"])).sqrt() + 1e-8
                    p.addcdiv_(p.grad, root, value=-group["lr"])


@pytest.mark.parametrize("groups", [1, 100])
def test_state_in_the_groups_is_restored_with_the_rest(groups):
    task = Task()
    params = list(task.model.parameters())
    extra = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(groups - 1)]
    tuner = CurvatureTuner(CountsInGroups([{"params": params}, *extra]))
    train(task, tuner, 0, 60)
    first = params[0]
    assert tuner.tuning.phase == "hold"
    for group in tuner.param_groups:  # the trials' steps count where their weights were taken, and nowhere else
        assert group["k"] == int(group["size"]) == tuner.state[first]["count"]
    assert {"k", "weight_sum", "size"} <= tuner._session.base.stepped_entries


def test_what_a_scheduler_writes_between_is_not_undone():
    p = nn.Parameter(torch.ones(2))
    base = BaseOptimizer(CountsInGroups([p]))
    p.grad = torch.ones(2)
    base.step(1.0, float("nan"))
    kept = base.take_snapshot([])
    base.optimizer.param_groups[0]["lr"], base.optimizer.param_groups[0]["betas"] = 0.5, (0.5, 0.9)
    base.step(1.0, float("nan"))
    base.restore(kept, [])
    group = base.optimizer.param_groups[0]
    assert (group["k"], group["lr"], group["betas"]) == (1, 0.5, (0.5, 0.9))


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "MechanicSGD", "DoG", "LDoG", "DoWG"])
def test_who_adapts_its_own_lr_is_refused_by_name(name):
    kind = type(name, (torch.optim.SGD,), {})
    with pytest.raises(TypeError, match=f"{name} adapts its own lr"):
        CurvatureTuner(kind([torch.ones(1)], lr=1.0))


def test_who_needs_two_gradients_is_refused_with_a_reason():
    class SAM(torch.optim.SGD):
        def first_step(self):
            """Climb."""

        def second_step(self):
            """Descend."""

    with pytest.raises(TypeError, match="two gradients"):
        CurvatureTuner(SAM([torch.ones(1)], lr=1.0))


@pytest.mark.parametrize("make", [sgd, adamw])
def test_stability_reads_the_lr_in_force(make):
    task = Task()
    tuner = CurvatureTuner(make(task))
    train(task, tuner, 0, 60)
    plain = make(task)
    plain.load_state_dict(tuner.state_dict())
    loss = nn.functional.cross_entropy
    one, two = (stability(task.model, each, task.batch(0), loss=loss, rng=1) for each in (tuner, plain))
    for a, b in zip(one.meters, two.meters, strict=True):
        assert a == pytest.approx(b) if isinstance(a, float) else a.threshold == pytest.approx(b.threshold, nan_ok=True)
        assert a.value == pytest.approx(b.value, nan_ok=True)
    assert tuner.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("make", [sgd, adamw])
def test_what_is_shown_is_in_force_and_what_is_written_meanwhile_counts(make):
    task = Task()
    tuner = CurvatureTuner(make(task))
    train(task, tuner, 0, 40)
    lr, momentum = tuner.lr, tuner.momentum
    tuner.show_in_force()
    group = tuner.param_groups[0]
    assert group["lr"] == pytest.approx(lr)
    assert (group["betas"][0] if "betas" in group else group["momentum"]) == momentum
    assert tuner.state_dict()["param_groups"][0]["lr"] == pytest.approx(lr)
    assert tuner.param_groups[0]["lr"] == 1.0
    tuner.show_in_force()
    tuner.param_groups[0]["lr"] = 0.5  # as a warm-up by hand does
    tuner.hide_in_force()
    assert tuner.param_groups[0]["lr"] == 0.5


def idle_cost(groups, rounds=200):
    """Microseconds that a step with nothing to do costs beside the base's own, the least of many."""
    params = [nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    tuner = CurvatureTuner(torch.optim.SGD([{"params": [p]} for p in params], lr=1.0))
    tuner.rebase(0.5)
    tuner.tuning.scale = 0.5
    tuner.tuning.curvature.next_measurement = tuner.tuning.curvature.spectrum_done = 2**62
    base = tuner._session.base

    def loss_fn(batch):
        raise AssertionError("nothing is due")

    class Nothing:
        """The base's own step is not ours."""

    base.optimizer.step = lambda: None
    step = CurvatureTuner.step
    while hasattr(step, "__wrapped__"):  # torch's hooks and profiling are around every optimizer's step
        step = step.__wrapped__
    best = float("inf")
    for _ in range(rounds):
        tuner.tuning.hold.last_look_step = tuner.tuning.steps
        start = time.perf_counter()
        tuner.observe(loss_fn, None)
        with torch.no_grad():
            step(tuner)
        best = min(best, time.perf_counter() - start)
    return 1e6 * best


def test_an_idle_step_costs_next_to_nothing():
    assert idle_cost(1) < 40  # 20 on a machine of its own
    assert idle_cost(10_000, 10) < 40 + 1.0 * 10_000


@pytest.mark.slow
def test_ten_thousand_groups_are_tuned_at_the_price_of_some_steps():
    params = [nn.Parameter(torch.ones(1)) for _ in range(10_000)]
    base = torch.optim.SGD([{"params": [p]} for p in params], lr=1e-9)

    def step(optimizer):
        optimizer.zero_grad()
        torch.cat(params).square().sum().backward()
        optimizer.step()

    start = time.process_time()
    step(base)
    plain = time.process_time() - start
    tuner = CurvatureTuner(base)
    start = time.process_time()
    for _ in range(4):
        tuner.observe(lambda batch: torch.cat(params).square().sum(), None)
        step(tuner)
    assert time.process_time() - start < (4 + 20) * plain


def test_every_kind_of_base_is_named_here():
    assert len(BASES) == 10
