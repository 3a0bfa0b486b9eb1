"""The twenty conventions of torch, as checks; see `testing`."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from .testing import Convention, Problem, Subject

TORCH: list[Convention] = []


def _convention(number: str, text: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    def add(check: Callable[[Subject], None]) -> Callable[[Subject], None]:
        TORCH.append(Convention(number, text, check))
        return check

    return add


def _pair(subject: Subject, **options: Any) -> tuple[Problem, Any]:
    problem = Problem()
    return problem, subject.make(list(problem.model.parameters()), **options)


def _same(a: Tensor, b: Tensor, what: str) -> None:
    assert torch.equal(a, b), f"{what}: weights differ by {float((a - b).abs().max()):.3g}"


@_convention("T1", "schedulers require isinstance(opt, Optimizer) (torch/optim/lr_scheduler.py)")
def is_an_optimizer(subject: Subject) -> None:
    """Subclass, no duck."""
    _, optimizer = _pair(subject)
    assert isinstance(optimizer, Optimizer), f"{type(optimizer).__name__} is no torch.optim.Optimizer"


@_convention("T2", "a scheduler replaces opt.step on the instance and warns where it cannot (lr_scheduler.py)")
def scheduler_sees_the_steps(subject: Subject) -> None:
    """Step, then scheduler, without a warning about their order."""
    problem, optimizer = _pair(subject)
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
        problem, optimizer = _pair(subject, lr=lr)
        kept = optimizer.param_groups[0]["lr"]
        scheduler = StepLR(optimizer, 1, gamma=0.5)
        problem.train(subject, optimizer, 5, scheduler.step)
        now = optimizer.param_groups[0]["lr"]
        assert abs(float(now) - 0.05 * 0.5**5) < 1e-12, f"got lr {float(now)} after five halvings of 0.05"
        assert not isinstance(lr, Tensor) or now is kept, "a Tensor lr was replaced; compiled steps hold it"


@_convention("T4", "OneCycleLR wants momentum or betas in opt.defaults and then writes them (lr_scheduler.py)")
def one_cycle(subject: Subject) -> None:
    """Both with and without cycling momentum, where the base has one."""
    problem, optimizer = _pair(subject)
    cycles = {"momentum", "betas"} & set(optimizer.defaults)
    for cycle in (False, True) if cycles else (False,):
        scheduler = OneCycleLR(optimizer, max_lr=0.1, total_steps=10, cycle_momentum=cycle)
        problem.train(subject, optimizer, 5, scheduler.step)


@_convention("T5", "Optimizer.__init__ makes six hook dictionaries and patches step (torch/optim/optimizer.py)")
def has_the_hook_dictionaries(subject: Subject) -> None:
    """Look for them, also in a wrapper that skips __init__."""
    _, optimizer = _pair(subject)
    for name in ("step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre",
                 "load_state_dict_post"):  # fmt: skip
        assert hasattr(optimizer, f"_optimizer_{name}_hooks"), f"_optimizer_{name}_hooks is missing"
    assert getattr(type(optimizer).step, "hooked", False), "step is not patched for hooks"


@_convention("T6", "six kinds of hooks, each called once per event (optimizer.py)")
def hooks_fire_once(subject: Subject) -> None:
    """Hooks registered on the wrapper fire for the wrapper."""
    problem, optimizer = _pair(subject)
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
    problem, optimizer = _pair(subject, lr=0.1)
    problem.train(subject, optimizer, 2)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.0, 0.0
    before = problem.weights()
    problem.train(subject, optimizer, 1)
    _same(problem.weights(), before, "groups were set to lr 0 after loading, yet the step moved")


@_convention("T8", "state_dict is {state, param_groups}, interchangeable with the plain base (optimizer.py)")
def checkpoints_interchange(subject: Subject) -> None:
    """Save from the wrapper into a base and the other way round; both go on."""
    problem, optimizer = _pair(subject)
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
    problem, optimizer = _pair(subject)
    problem.train(subject, optimizer, 2)
    for name, state in optimizer.state_dict()["state"].items():
        for key, value in state.items() if isinstance(name, int) else ():
            assert isinstance(value, Tensor | int | float | bool | dict | None), f"state[{name}][{key!r}] is {value!r}"


@_convention("T10", "torch.load reads with weights_only=True (torch/serialization.py)")
def loads_weights_only(subject: Subject) -> None:
    """Plain types only, at any time."""
    for steps in (0, 1, 8):
        problem, optimizer = _pair(subject)
        problem.train(subject, optimizer, steps)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        optimizer.load_state_dict(torch.load(file, weights_only=True))


@_convention("T11", "zero_grad sets gradients to None: such parameters stay (optimizer.py)")
def skips_missing_gradients(subject: Subject) -> None:
    """One parameter without a gradient."""
    problem, optimizer = _pair(subject)
    problem.loss(problem.batch).backward()
    first = next(problem.model.parameters())
    first.grad, before = None, first.detach().clone()
    optimizer.step()
    _same(first.detach(), before, "a parameter without gradient moved")


@_convention("T12", "a closure is called once, first, with gradients enabled, and its loss returned (optimizer.py)")
def closure_once(subject: Subject) -> None:
    """Twice would repeat logging, BatchNorm updates and dropout."""
    problem, optimizer = _pair(subject)
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


@_convention("T13", "step runs without grad; defaults hold 'differentiable' (optimizer.py)")
def no_graph_is_left(subject: Subject) -> None:
    """Parameters stay leaves."""
    problem, optimizer = _pair(subject)
    problem.train(subject, optimizer, 2)
    assert all(p.is_leaf and p.grad_fn is None for p in problem.model.parameters()), "a parameter has a graph"
    assert "differentiable" in optimizer.defaults, "defaults lack 'differentiable'"


@_convention("T14", "GradScaler unscales, steps without closure, skips the call on inf (torch/amp/grad_scaler.py)")
def grad_scaler(subject: Subject) -> None:
    """Expect a scaled step to be the plain step, and an infinite gradient to move nothing."""
    weights = []
    for scale in (False, True):
        problem, optimizer = _pair(subject)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scale)
        scaler.scale(problem.loss(problem.batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(problem.weights())
    assert torch.allclose(weights[0], weights[1], rtol=1e-9), "a scaled step differs from the plain one"
    optimizer.zero_grad()
    scaler.scale(problem.loss(problem.batch)).backward()
    next(problem.model.parameters()).grad.fill_(torch.inf)  # type: ignore[union-attr]
    scaler.step(optimizer)
    scaler.update()
    _same(problem.weights(), weights[1], "an infinite gradient was stepped with")


@_convention("T15", "fused bases take scaled gradients: the flag must not leak (torch/optim/adam.py, grad_scaler.py)")
def fused_flag(subject: Subject) -> None:
    """Catch a wrapper that lets the scaler write grad_scale into it, and then steps unscaled."""
    weights = []
    for scale in (False, True):
        problem = Problem()
        problem.model.float()
        problem.batch = (problem.batch[0].float(), problem.batch[1].float())
        try:
            optimizer = subject.make(list(problem.model.parameters()), fused=True)
        except (TypeError, RuntimeError):  # the base has no fused form
            return
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scale)
        scaler.scale(problem.loss(problem.batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(problem.weights())
    assert torch.allclose(weights[0], weights[1], rtol=1e-4, atol=1e-6), (
        "a scaled step with fused=True differs from the plain one"
    )


@_convention("T16", "add_param_group; duplicates raise; (name, p) pairs give param_names (optimizer.py)")
def parameter_groups(subject: Subject) -> None:
    """Add a group, and step it."""
    problem = Problem()
    optimizer = subject.make(list(problem.model.named_parameters()))
    assert "param_names" in optimizer.param_groups[0], "param_names are lost"
    problem.train(subject, optimizer, 2)
    extra = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer.add_param_group({"params": [("extra", extra)]})
    extra.grad = torch.ones_like(extra)
    optimizer.step()
    assert float(extra.detach()) != 1.0, "an added parameter was not stepped"
    try:
        optimizer.add_param_group({"params": [("extra", extra)]})
    except ValueError:
        return
    raise AssertionError("a parameter could be added twice")


@_convention("T17", "pickle and deepcopy keep what there is (optimizer.py: __getstate__, __setstate__)")
def copies_go_on(subject: Subject) -> None:
    """Compare with a deep copy that has its own weights; load a pickled one."""
    problem, optimizer = _pair(subject)
    problem.train(subject, optimizer, 3)
    twin_problem, twin = copy.deepcopy((problem, optimizer))
    problem.train(subject, optimizer, 6)
    twin_problem.train(subject, twin, 6)
    _same(problem.weights(), twin_problem.weights(), "a deep copy went another way")
    assert isinstance(pickle.loads(pickle.dumps(optimizer)), type(optimizer)), "pickle changed the type"


@_convention(
    "T18", "distributed checkpoint initialises by zero gradients and lr 0 (distributed/checkpoint/state_dict.py)"
)
def distributed_checkpoint(subject: Subject) -> None:
    """Get and set through torch.distributed.checkpoint leave weights and lr alone."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    problem, optimizer = _pair(subject)
    before, lr = problem.weights(), float(optimizer.param_groups[0]["lr"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_optimizer_state_dict(problem.model, optimizer)
        set_optimizer_state_dict(problem.model, optimizer, state)
    _same(problem.weights(), before, "initialising the state moved the weights")
    assert abs(float(optimizer.param_groups[0]["lr"]) - lr) < 1e-12, "the lr did not come back"


@_convention("T19", "DDP does not work with torch.autograd.grad: use its .module (nn/parallel/distributed.py)")
def data_parallel(subject: Subject) -> None:
    """Run in a group of one process; two processes are the wrapper's own test."""
    if dist.is_initialized():
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        problem, optimizer = _pair(subject)
        parallel = nn.parallel.DistributedDataParallel(problem.model)
        for _ in range(6):
            optimizer.zero_grad()
            subject.observe(optimizer, problem.loss, problem.batch)
            (parallel(problem.batch[0]) - problem.batch[1]).square().mean().backward()
            optimizer.step()
        assert bool(torch.isfinite(problem.weights()).all()), "weights are not finite"
    finally:
        dist.destroy_process_group()


@_convention("T20", "no double backward through torch.compile: measure on the plain module (pytorch/pytorch#91469)")
def compiled_model(subject: Subject) -> None:
    """Train the compiled module, observe the plain one: the same weights as without compilation."""
    weights = []
    for compiled in (False, True):
        problem, optimizer = _pair(subject)
        model = torch.compile(problem.model, backend="eager") if compiled else problem.model
        scheduler = CosineAnnealingLR(optimizer, 10)
        for _ in range(8):
            optimizer.zero_grad()
            subject.observe(optimizer, problem.loss, problem.batch)
            (model(problem.batch[0]) - problem.batch[1]).square().mean().backward()
            optimizer.step()
            scheduler.step()
        weights.append(problem.weights())
    assert torch.allclose(weights[0], weights[1], rtol=1e-9), "compilation changed the run"
