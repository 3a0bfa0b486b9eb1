"""The conventions T1 to T12 of torch, as checks: protocol, schedulers, hooks, checkpoints, closures; see `testing`."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR

from .subject import Convention, Problem, Subject, adder

TORCH: list[Convention] = []
_convention = adder(TORCH)


def pair(subject: Subject, **options: Any) -> tuple[Problem, Any]:
    """Return a problem and an optimizer of its parameters."""
    problem = Problem()
    return problem, subject.make(list(problem.model.parameters()), **options)


def same(a: Tensor, b: Tensor, what: str) -> None:
    """Ask for equality in every bit."""
    assert torch.equal(a, b), f"{what}: weights differ by {float((a - b).abs().max()):.3g}"


@_convention("T1", "schedulers require isinstance(opt, Optimizer) (torch/optim/lr_scheduler.py)")
def is_an_optimizer(subject: Subject) -> None:
    """Subclass, no duck."""
    _, optimizer = pair(subject)
    assert isinstance(optimizer, Optimizer), f"{type(optimizer).__name__} is no torch.optim.Optimizer"


@_convention("T2", "a scheduler replaces opt.step on the instance and warns where it cannot (lr_scheduler.py)")
def scheduler_sees_the_steps(subject: Subject) -> None:
    """Step, then scheduler, without a warning about their order."""
    problem, optimizer = pair(subject)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem.train(subject, optimizer, 3, scheduler.step)
    assert getattr(optimizer, "_opt_called", True), "the scheduler has not seen a step"


@_convention(
    "T3", "schedulers own group['lr']: what they write is there afterwards, a Tensor in place (lr_scheduler.py)"
)
def schedules_survive(subject: Subject) -> None:
    """Recursive schedules multiply what they find, so a wrapper must leave it there."""
    for lr in (0.05, torch.tensor(0.05, dtype=torch.float64)):
        problem, optimizer = pair(subject, lr=lr)
        kept = optimizer.param_groups[0]["lr"]
        scheduler = StepLR(optimizer, 1, gamma=0.5)
        problem.train(subject, optimizer, 5, scheduler.step)
        now = optimizer.param_groups[0]["lr"]
        assert abs(float(now) - 0.05 * 0.5**5) < 1e-12, f"got lr {float(now)} after five halvings of 0.05"
        assert not isinstance(lr, Tensor) or now is kept, "a Tensor lr was replaced; compiled steps hold it"


@_convention("T4", "OneCycleLR wants momentum or betas in opt.defaults and then writes them (lr_scheduler.py)")
def one_cycle(subject: Subject) -> None:
    """Both with and without cycling momentum, where the base has one."""
    problem, optimizer = pair(subject)
    cycles = {"momentum", "betas"} & set(optimizer.defaults)
    for cycle in (False, True) if cycles else (False,):
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=10, cycle_momentum=cycle)
        problem.train(subject, optimizer, 5, scheduler.step)


@_convention("T5", "Optimizer.__init__ makes six hook dictionaries and patches step (torch/optim/optimizer.py)")
def has_the_hook_dictionaries(subject: Subject) -> None:
    """Look for them, also in a wrapper that skips __init__."""
    _, optimizer = pair(subject)
    for name in ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre",
                 "load_state_dict_post"):  # fmt: skip
        assert hasattr(optimizer, f"_optimizer_{name}_hooks"), f"_optimizer_{name}_hooks is missing"
    assert getattr(type(optimizer).step, "hooked", False), "step is not patched for hooks"


@_convention("T6", "six kinds of hooks, each called once per event (optimizer.py)")
def hooks_fire_once(subject: Subject) -> None:
    """Hooks registered on the wrapper fire for the wrapper."""
    problem, optimizer = pair(subject)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *args: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *args: seen.append("post"))
    optimizer.register_state_dict_pre_hook(lambda opt: seen.append("save"))
    optimizer.register_state_dict_post_hook(lambda opt, state: seen.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda opt, state: seen.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda opt: seen.append("loaded"))
    problem.train(subject, optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["pre", "post", "save", "saved", "load", "loaded"], f"hooks fired as {seen}"


@_convention("T7", "load_state_dict installs new groups and state (optimizer.py): nothing may be aliased")
def loading_reaches_the_step(subject: Subject) -> None:
    """After loading lr = 0 a step must not move; after a scheduler wrote, it must follow."""
    problem, optimizer = pair(subject, lr=0.1)
    problem.train(subject, optimizer, 2)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.0, 0.0
    before = problem.weights()
    problem.train(subject, optimizer, 1)
    same(problem.weights(), before, "groups were set to lr 0 after loading, yet the step moved")


@_convention("T8", "state_dict is {state, param_groups}, interchangeable with the plain base (optimizer.py)")
def checkpoints_interchange(subject: Subject) -> None:
    """Save from the wrapper into a base and the other way round; both go on."""
    problem, optimizer = pair(subject)
    problem.train(subject, optimizer, 3)
    saved = optimizer.state_dict()
    assert {"state", "param_groups"} <= set(saved), f"got the keys {sorted(saved)}"
    plain = subject.base(list(problem.model.parameters()))
    plain.load_state_dict(copy.deepcopy(saved))
    problem.train(Subject(subject.wrap, subject.base), plain, 2)
    optimizer.load_state_dict(plain.state_dict())
    problem.train(subject, optimizer, 2)


@_convention("T9", "per-parameter state: no strings, no arrays but tensors; casts follow the parameter (optimizer.py)")
def state_is_plain(subject: Subject) -> None:
    """Refuse what torch's loader would turn into the text of a generator."""
    problem, optimizer = pair(subject)
    problem.train(subject, optimizer, 2)
    for name, state in optimizer.state_dict()["state"].items():
        for key, value in state.items() if isinstance(name, int) else ():
            assert isinstance(value, Tensor | int | float | bool | dict | None), f"state[{name}][{key!r}] is {value!r}"


@_convention("T10", "torch.load reads with weights_only=True (torch/serialization.py)")
def loads_weights_only(subject: Subject) -> None:
    """Plain types only, at any time."""
    for steps in (0, 1, 8):
        problem, optimizer = pair(subject)
        problem.train(subject, optimizer, steps)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))


@_convention("T11", "zero_grad sets gradients to None: such parameters stay (optimizer.py)")
def skips_missing_gradients(subject: Subject) -> None:
    """One parameter without a gradient."""
    problem, optimizer = pair(subject)
    problem.loss(problem.batch).backward()
    first = next(problem.model.parameters())
    first.grad, before = None, first.detach().clone()
    optimizer.step()
    same(first.detach(), before, "a parameter without gradient moved")


@_convention("T12", "a closure is called once, first, with gradients enabled, and its loss returned (optimizer.py)")
def closure_once(subject: Subject) -> None:
    """Twice would repeat logging, BatchNorm updates and dropout."""
    problem, optimizer = pair(subject)
    calls: list[bool] = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = problem.loss(problem.batch)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert calls == [True], f"the closure ran {len(calls)} times, gradients enabled: {calls}"
    assert loss is not None, "step did not return the loss"
    assert optimizer.step(lambda: None) is None, "a closure that returns None (manual mode) must give None"
