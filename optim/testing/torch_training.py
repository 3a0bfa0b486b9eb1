"""The conventions T13 to T20 of torch: no graph, scaled gradients, groups, copies, many processes, compiled models."""

from __future__ import annotations

import copy
import pickle
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from .subject import Convention, Problem, Subject, adder
from .torch_protocol import pair, same

TRAINING: list[Convention] = []
_convention = adder(TRAINING)


@_convention("T13", "step runs without grad; defaults hold 'differentiable' (optimizer.py)")
def no_graph_is_left(subject: Subject) -> None:
    """Parameters stay leaves."""
    problem, optimizer = pair(subject)
    problem.train(subject, optimizer, 2)
    assert all(p.is_leaf and p.grad_fn is None for p in problem.model.parameters()), "a parameter has a graph"
    assert "differentiable" in optimizer.defaults, "defaults lack 'differentiable'"


@_convention("T14", "GradScaler unscales, steps without closure, skips the call on inf (torch/amp/grad_scaler.py)")
def grad_scaler(subject: Subject) -> None:
    """Expect a scaled step to be the plain step, and an infinite gradient to move nothing."""
    weights = []
    for scale in (False, True):
        problem, optimizer = pair(subject)
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
    same(problem.weights(), weights[1], "an infinite gradient was stepped with")


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
    problem, optimizer = pair(subject)
    problem.train(subject, optimizer, 3)
    twin_problem, twin = copy.deepcopy((problem, optimizer))
    problem.train(subject, optimizer, 6)
    twin_problem.train(subject, twin, 6)
    same(problem.weights(), twin_problem.weights(), "a deep copy went another way")
    assert isinstance(pickle.loads(pickle.dumps(optimizer)), type(optimizer)), "pickle changed the type"


@_convention(
    "T18", "distributed checkpoint initialises by zero gradients and lr 0 (distributed/checkpoint/state_dict.py)"
)
def distributed_checkpoint(subject: Subject) -> None:
    """Get and set through torch.distributed.checkpoint leave weights and lr alone."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    problem, optimizer = pair(subject)
    before, lr = problem.weights(), float(optimizer.param_groups[0]["lr"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_optimizer_state_dict(problem.model, optimizer)
        set_optimizer_state_dict(problem.model, optimizer, state)
    same(problem.weights(), before, "initialising the state moved the weights")
    assert abs(float(optimizer.param_groups[0]["lr"]) - lr) < 1e-12, "the lr did not come back"


@_convention("T19", "DDP does not work with torch.autograd.grad: use its .module (nn/parallel/distributed.py)")
def data_parallel(subject: Subject) -> None:
    """Run in a group of one process; two processes are the wrapper's own test."""
    if dist.is_initialized():
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        problem, optimizer = pair(subject)
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
        problem, optimizer = pair(subject)
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
