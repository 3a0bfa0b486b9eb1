"""pytest-benchmark: curvature products and spectra, ours and others; what the tuner adds to a step.

`pytest bench --benchmark-only -k "hessian or spectrum or training"`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from krylearn.optim import CurvatureTuner, empirical_fisher, ggn, hessian, slq

from ..curvature.libraries import LIBRARIES
from ..curvature.models import CASES, Case, train
from ..tuner.entrants import BASES
from ..tuner.workload_models import perceptron

KINDS = {"hessian": hessian, "ggn": ggn, "fisher": empirical_fisher}


@cache
def _case(name: str) -> Case:
    """Return a network without its eigenvalues, which nobody needs to take time."""
    model, batch = train(name, quick=True)
    return Case(name, model, batch, np.zeros(sum(p.numel() for p in model.parameters())))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CASES)
def bench_hessian_product(benchmark: Any, name: str, library: str) -> None:
    """Time one product of each library, its operator made before."""
    if absent := LIBRARIES[library].absent:
        pytest.skip(absent)
    case = _case(name)
    product, v = LIBRARIES[library].operator(case), torch.ones(case.unknowns)
    benchmark(lambda: product(v))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vectors", [1, 4])
@pytest.mark.parametrize("name", ["perceptron", "cnn with batchnorm"])
def bench_our_product(benchmark: Any, name: str, kind: str, vectors: int) -> None:
    """Time our products, of one vector or a block."""
    case = _case(name)
    A, V = KINDS[kind](case.model, case.loss, case.batch, batchnorm="running"), torch.ones(vectors, case.unknowns)
    benchmark(lambda: A(V))


@pytest.mark.parametrize(("steps", "probes"), [(20, 1), (40, 4)])
def bench_spectrum(benchmark: Any, steps: int, probes: int) -> None:
    """Time Lanczos, products included."""
    case = _case("perceptron")
    A = hessian(case.model, case.loss, case.batch)
    benchmark(lambda: slq(A, steps=steps, probes=probes, rng=1, progress=False))


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
