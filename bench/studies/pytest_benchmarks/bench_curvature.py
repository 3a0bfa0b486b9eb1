"""pytest-benchmark: curvature products and spectra, ours and others. `pytest bench --benchmark-only -k curvature`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from krylearn.optim import empirical_fisher, ggn, hessian, slq

from ..curvature.libraries import LIBRARIES
from ..curvature.models import CASES, Case, train

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
