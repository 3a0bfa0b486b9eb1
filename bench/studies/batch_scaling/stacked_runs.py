"""Many trainings at once: networks of one shape, each with its own lr and seed, as one stacked network.

One step of a small network on a CPU is mostly overhead, so E trainings share it: parameters are stacked along a leading
axis, `torch.func.vmap` maps the forward pass, and the update is written out for a vector of lrs. It is that of
`torch.optim.SGD` and `torch.optim.AdamW` (a test compares, network by network). Trainings do not see each other: one
that diverges leaves the rest alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from .tasks import Task

WARMUP = 0.1  # share of the samples over which lr rises linearly; then it falls as a cosine to zero


@dataclass(frozen=True)
class Method:
    """An optimizer with everything but its lr.

    `name` is "sgd" or "adamw"; `beta1` is SGD's momentum.
    """

    name: str
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0


METHODS = {"sgd": Method("sgd"), "adamw": Method("adamw", weight_decay=0.01)}  # torch's defaults, momentum 0.9


def schedule(step: int, steps: int, warmup: float = WARMUP) -> float:
    """Return the factor on lr at a step: a linear rise over the warm-up, a cosine to zero.

    Examples
    --------
    >>> [round(schedule(k, 20), 3) for k in (0, 1, 2, 10, 19)]
    [0.5, 1.0, 1.0, 0.587, 0.008]
    """
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


@dataclass(frozen=True)
class Outcome:
    """Of E trainings: final mean loss on held-out and on training data, share of right answers, all (E,)."""

    held: Tensor
    train: Tensor
    accuracy: Tensor


def train_all(
    task: Task, method: Method, batch_size: int, lrs: Sequence[float], seeds: Sequence[int], *, warmup: float = WARMUP
) -> Outcome:
    """Train one network per pair (lr, seed) to the end of the task's samples; a seed fixes start and order.

    Parameters
    ----------
    lrs, seeds : of the trainings, equally long
    warmup : share of the steps

    Returns
    -------
    Outcome : losses that are not finite belong to trainings that diverged

    Examples
    --------
    >>> from .tasks import small_task
    >>> train_all(small_task("waves"), METHODS["sgd"], 1024, [0.05], [3]).held.item() < 1.7
    True
    """
    ensemble = Ensemble(task, [task.made(seed) for seed in seeds])
    orders = {seed: task.order(seed, batch_size) for seed in set(seeds)}
    rates, steps = torch.tensor(lrs), len(next(iter(orders.values())))
    update = _UPDATES[method.name](method, ensemble.flat, ensemble.spread(rates))
    for step in range(steps):
        at = torch.stack([orders[seed][step] for seed in seeds])
        update(ensemble.gradient(at), step, schedule(step, steps, warmup))
    held = ensemble.score(task.held_inputs, task.held_targets)
    part = slice(0, len(task.held_inputs))
    return Outcome(held[0], ensemble.score(task.inputs[part], task.targets[part])[0], held[1])


class Ensemble:
    """Networks stacked along a leading axis E; all parameters live in one flat tensor, one block per parameter."""

    def __init__(self, task: Task, networks: Sequence[torch.nn.Module]) -> None:
        stacked, buffers = stack_module_state(list(networks))  # type: ignore[arg-type]
        if buffers:
            raise ValueError(f"got a network with buffers {list(buffers)}; expected parameters only")
        self.task, self.size = task, len(networks)
        self.flat = torch.cat([p.detach().reshape(-1) for p in stacked.values()])
        pieces = self.flat.split([p.numel() for p in stacked.values()])
        self.parameters = [
            piece.view(p.shape).requires_grad_() for piece, p in zip(pieces, stacked.values(), strict=True)
        ]
        shell, names = task.network().to("meta"), list(stacked)

        def forward(parameters: list[Tensor], inputs: Tensor) -> Tensor:
            return functional_call(shell, dict(zip(names, parameters, strict=True)), (inputs,))

        self._forward, self._shared = vmap(forward), vmap(forward, in_dims=(0, None))

    def spread(self, values: Tensor) -> Tensor:
        """Repeat one value per network, (E,), for every entry of `flat`."""
        return torch.cat([values[:, None].expand(self.size, p[0].numel()).reshape(-1) for p in self.parameters])

    def gradient(self, at: Tensor) -> Tensor:
        """Return the gradients of the mean losses on samples `at`, (E, B), laid out as `flat`."""
        logits = self._forward(self.parameters, self.task.inputs[at])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.task.targets[at].flatten(), reduction="sum")
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss / at.shape[1], self.parameters)])

    @torch.no_grad()
    def score(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean loss and share of right answers of each network, (E,) both."""
        losses, right = torch.zeros(self.size), torch.zeros(self.size)
        for x, y in zip(inputs.split(512), targets.split(512), strict=True):
            logits = self._shared(self.parameters, x)
            every = y.expand(self.size, -1)
            each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), every.flatten(), reduction="none")
            losses += each.view(self.size, -1).sum(1)
            right += (logits.argmax(-1) == every).sum(1)
        return losses / len(targets), right / len(targets)


Update = Callable[[Tensor, int, float], None]


def _sgd(method: Method, flat: Tensor, lr: Tensor) -> Update:
    momentum = torch.zeros_like(flat)

    def update(g: Tensor, step: int, factor: float) -> None:
        if method.weight_decay:
            g = g.add(flat, alpha=method.weight_decay)
        momentum.mul_(method.beta1).add_(g)
        flat.addcmul_(lr, momentum, value=-factor)

    return update


def _adamw(method: Method, flat: Tensor, lr: Tensor) -> Update:
    m, v = torch.zeros_like(flat), torch.zeros_like(flat)

    def update(g: Tensor, step: int, factor: float) -> None:
        m.lerp_(g, 1 - method.beta1)
        v.mul_(method.beta2).addcmul_(g, g, value=1 - method.beta2)
        fix1, fix2 = 1 - method.beta1 ** (step + 1), math.sqrt(1 - method.beta2 ** (step + 1))
        direction = torch.sqrt(v).div_(fix2).add_(method.eps).reciprocal_().mul_(m).mul_(lr)
        if method.weight_decay:
            flat.addcmul_(lr, flat, value=-factor * method.weight_decay)
        flat.add_(direction, alpha=-factor / fix1)

    return update


_UPDATES: dict[str, Callable[[Method, Tensor, Tensor], Update]] = {"sgd": _sgd, "adamw": _adamw}
