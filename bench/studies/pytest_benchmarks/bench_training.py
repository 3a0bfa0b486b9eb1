"""pytest-benchmark: what the tuner adds to a step. `pytest bench --benchmark-only -k training`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from krylearn.optim import CurvatureTuner

from ..tuner.entrants import BASES
from ..tuner.workload_models import perceptron


def _problem(base: str, tuned: bool) -> tuple[Any, Any]:
    """Return a perceptron of 70,000 parameters with gradients, and its optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = perceptron(64, 256, 192, 10), torch.randn(64, 64)
    y = torch.arange(64) % 10

    def loss_fn(batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(x), y)

    loss_fn(None).backward()
    optimizer = BASES[base](list(model.parameters()), lr=1e-3)
    return (CurvatureTuner(optimizer) if tuned else optimizer), loss_fn


@pytest.mark.parametrize("tuned", [False, True], ids=["plain", "tuner"])
@pytest.mark.parametrize("base", BASES)
def bench_training_step(benchmark: Any, base: str, tuned: bool) -> None:
    """Time a step of the base, and of the tuner around it while it holds a rebased lr."""
    optimizer, _ = _problem(base, tuned)
    if tuned:
        optimizer.rebase(1e-3)
    benchmark(optimizer.step)


def bench_training_look(benchmark: Any) -> None:
    """Time a call of `observe` that has nothing to do: what most calls are."""
    tuner, loss_fn = _problem("SGD", True)
    tuner.rebase(1e-3)
    benchmark(lambda: tuner.observe(loss_fn, None))
