"""`krylearn warmup`: compile every kernel that a solve uses, once per machine and version (numba caches the result)."""

from __future__ import annotations

import math
import time

import numpy as np
import scipy.sparse as sp
from krylearn.pde import Poisson
from krylearn.solvers import NeuralMultigrid, cg, solve_matrix

from ..measure.console import console, seconds


def solve_tiny_systems(weights: str | None = None) -> float:
    """Solve one tiny system of each kind (2D, 3D; cells, coefficients, a matrix; periodic); return the seconds it took.

    Examples
    --------
    >>> solve_tiny_systems("geometric") > 0
    True
    """
    start = time.perf_counter()
    for shape in ((12, 10), (12, 8, 10)):
        for A in (
            Poisson.from_cells(np.ones(shape, dtype=np.int64), boundary={"x": "dirichlet"}),
            Poisson.from_coefficients(np.ones(shape)),
            Poisson.from_coefficients(np.linspace(1, 2, math.prod(shape)).reshape(shape), boundary={"x": "periodic"}),
        ):
            cg(A, np.ones(A.shape[0]), M=NeuralMultigrid(A, weights=weights))
        solve_matrix(sp.csr_array(A.matrix()), np.ones(A.shape[0]))
    return time.perf_counter() - start


def warmup(weights: str | None = None) -> None:
    """Compile and say how long it took.

    Examples
    --------
    >>> warmup("geometric")                                             # doctest: +SKIP
    """
    with console.status("compiling kernels"):
        took = solve_tiny_systems(weights)
    console.print(f"kernels ready after {seconds(took)}")
