"""pytest-benchmark: solves, ours and the rivals'. `pytest bench --benchmark-only`, then `pytest-benchmark compare`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from krylearn.solvers import NeuralMultigrid, cg

from ...measure.timers import device_clock, devices
from ...rivals.table import PEERS, prepare
from ...solvers.compare import OWN, scene_problem

SIZE, RTOL = 32, 1e-6
RIVALS = ("scipy-cg-jacobi", "pyamg-sa", "pyamg-rs", "petsc-gamg", "petsc-boomeramg", "amgcl", "cholesky")


def pytest_generate_tests(metafunc: Any) -> None:
    """One benchmark per method that is installed; ours on every device."""
    own = [(name, device) for device in devices() for name in OWN]
    cases = own + [(name, "cpu") for name in RIVALS if not PEERS[name].absent]
    metafunc.parametrize(("method", "device"), cases, ids=[f"{d}-{n}" for n, d in cases])


def bench_solve(benchmark: Any, method: str, device: str) -> None:
    """Time one solve after its set-up, and check the true residual."""
    problem = scene_problem("free_surface", SIZE)
    solve: Any
    if method in OWN:
        assert problem.system.A is not None
        A, b = problem.system.A.to(device=device), torch.as_tensor(problem.ours, device=device)
        solve = partial(cg, A, b, rtol=RTOL, M=NeuralMultigrid(A, weights=OWN[method]))
    else:
        loop, _ = prepare(PEERS[method], problem.system)
        solve = partial(loop, problem.b, RTOL)
    benchmark._timer = device_clock(device)
    answer = benchmark(solve)
    if method in OWN:
        assert answer[1] == 0
    else:
        residual = np.linalg.norm(problem.b - problem.system.matrix @ answer)
        assert residual <= 2 * RTOL * np.linalg.norm(problem.b)
