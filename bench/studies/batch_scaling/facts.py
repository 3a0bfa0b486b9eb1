"""What a user of the base batch size can measure: noise scales and sharpness along one training at its best lr.

Measured a few times between the end of the warm-up and the end, on training data, with `krylearn.optim` alone. Nothing
here knows of another batch size than the base: it is what `rule="auto"` may be told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from krylearn.optim import batch_sharpness, gradient_noise_scale, hessian, preconditioned, sharpness
from torch import Tensor, nn

from ...measure.console import console
from ...measure.record import append, latest, read
from .grid import BASE, METHODS, SEEDS, fit, points, record
from .stacked_runs import schedule
from .tasks import TASKS, Task, small_task

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the training, at which one measures
HALFWAY = 0.5
CURVATURE_SIZES = (16, 64, 256, 1024)  # batch sizes whose sharpness is measured: a factor 64
BATCHES = 4  # of each size
LOSS = nn.functional.cross_entropy


def make_optimizer(method: str, network: nn.Module, lr: float, **change: Any) -> torch.optim.Optimizer:
    """Return torch's own optimizer for a method of the study.

    Examples
    --------
    >>> make_optimizer("sgd", nn.Linear(1, 1), 0.5).param_groups[0]["momentum"]
    0.9
    """
    m, parameters = METHODS[method], list(network.parameters())
    if method == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=m.beta1, weight_decay=m.weight_decay)
    return torch.optim.AdamW(parameters, lr=lr, betas=(m.beta1, m.beta2), eps=m.eps, weight_decay=m.weight_decay)


def measure_facts(
    task: Task,
    method: str,
    lr: float,
    seed: int,
    *,
    batch_size: int = BASE,
    shares: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Train once at this lr and measure at each of the shares of the training, those of `SHARES` by default.

    Returns
    -------
    list of dict : share, lr in force, noise_scale (samples), batch_sharpness at the batch size, sharpness by batch size
        (mean over BATCHES), of the preconditioned Hessian for AdamW; share of parameters with √v̂ < ε

    Examples
    --------
    >>> measure_facts(small_task("waves"), "sgd", 0.1, 3)[0]["noise_scale"] > 1                     # doctest: +SKIP
    True
    """
    network = task.made(seed)
    optimizer = make_optimizer(method, network, lr)
    order = task.order(seed, batch_size)
    at = {round(share * len(order)): share for share in shares or SHARES}
    found = []
    for step, picked in enumerate(order):
        factor = schedule(step, len(order))
        optimizer.param_groups[0]["lr"] = lr * factor
        if step in at:
            found.append({"share": at[step], "lr": lr * factor} | _look(task, network, optimizer, seed + step, method))
        optimizer.zero_grad()
        LOSS(network(task.inputs[picked]), task.targets[picked]).backward()
        optimizer.step()
    return found


def _look(task: Task, network: nn.Module, optimizer: Any, seed: int, method: str) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        picked = torch.randint(len(task.inputs), (count,), generator=rng)
        return task.inputs[picked], task.targets[picked]

    def shape(operator: Any) -> Any:
        return preconditioned(operator, optimizer) if method == "adamw" else operator

    batch = draw(4096)
    noise = gradient_noise_scale(network, LOSS, batch, micro_batch=16)
    tops = {}
    for size in CURVATURE_SIZES:
        operators = [shape(hessian(network, LOSS, draw(size), method="double-backward")) for _ in range(BATCHES)]
        tops[size] = sum(sharpness(H, steps=12, rng=rng).value for H in operators) / BATCHES
    parts = shape(hessian(network, LOSS, batch, micro_batch=16, method="double-backward"))
    return {
        "loss": LOSS(network(batch[0]), batch[1]).item(),
        "noise_scale": noise.scale,
        "preconditioned_noise_scale": _noise_of(parts),
        "batch_sharpness": batch_sharpness(network, LOSS, batch, batch_size=BASE, method="double-backward").value,
        "sharpness": tops,
        "largest": sharpness(shape(hessian(network, LOSS, batch, method="double-backward")), steps=12, rng=rng).value,
        "eps_share": _eps_share(optimizer),
    }


def _noise_of(parts: Any) -> float:
    """Return the noise scale of gradients as the operator scales them."""
    gradients = torch.stack([parts.chunk_gradient(chunk).double() for chunk in parts.net.chunks])
    n, size = len(gradients), parts.net.chunks[0].samples
    squares, mean = float(gradients.square().sum(1).mean()), float(gradients.mean(0).square().sum())
    signal = (n * mean - squares) / (n - 1)
    return size * n / (n - 1) * (squares - mean) / signal if signal > 0 else float("inf")


def _eps_share(optimizer: torch.optim.Optimizer) -> float:
    below = total = 0
    for group in optimizer.param_groups:
        for state in (optimizer.state.get(p, {}) for p in group["params"]):
            if "exp_avg_sq" in state:
                v = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
                below, total = below + int((v.sqrt() < group["eps"]).sum()), total + v.numel()
    return below / total if total else 0.0


def run_facts(tasks: Sequence[str] | None = None, methods: Sequence[str] | None = None, *, output: Path) -> None:
    """Measure the facts at the fitted optimum of the base, for every task, method and seed not yet recorded.

    Examples
    --------
    >>> run_facts(["digits"], output=Path("batch_scaling.jsonl"))                       # doctest: +SKIP
    """
    for name in tasks or TASKS:
        for method in methods or METHODS:
            lines = latest(read(output))
            best = fit.fit_optimum(points(lines, name, method, BASE), draws=0)
            done = {line["more"]["seeds"][0] for line in lines if _is_facts(line, name, method)}
            for seed in SEEDS:
                if seed in done:
                    continue
                begun = time.process_time()
                shares = SHARES if name in TASKS else (HALFWAY,)  # what a rule is told
                found = measure_facts(small_task(name), method, best.lr, seed, shares=shares)
                more = {"run": lines[-1]["more"]["run"], "kind": "facts", "batch": BASE, "lr": best.lr}
                seconds = time.process_time() - begun
                append(
                    output,
                    [record(small_task(name), method, seconds, more | {"seeds": [seed], "facts": _short(found)})],
                )
                scales = ", ".join(f"{each['noise_scale']:.3g}" for each in found)
                console.print(f"{name} {method}: noise scales {scales}")


def _is_facts(line: dict[str, Any], task: str, method: str) -> bool:
    return line["more"]["kind"] == "facts" and (line["problem"], line["method"]) == (task, method)


def _short(value: Any) -> Any:
    """Keep four digits."""
    if isinstance(value, dict):
        return {str(k): _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
