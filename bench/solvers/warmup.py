"""`krylearn warmup`: compile every kernel that a solve uses, once per machine and version, and keep it on the disk."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import scipy.sparse as sp
from krylearn.pde import Poisson
from krylearn.pde.kernel_cache import cache_folder
from krylearn.solvers import NeuralMultigrid, cg, solve_matrix
from krylearn.solvers.integrations.taufactor import effective_diffusivity
from krylearn.solvers.multigrid.background import compile_meanwhile
from krylearn.solvers.multigrid.warmup import compile_kernels, compile_pieces, compile_survey

from ..measure.console import console, seconds

KINDS = {"medium": "coefficients", "codes": "one coefficient", "voxels": "cells"}
STEPS: dict[str, Callable[[str], object]] = {
    "choice of method": compile_survey,
    "levels that are grids": compile_kernels,
    "levels of pieces": partial(compile_pieces, double=False),
}


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


def solve_tiny_matrices() -> float:
    """Solve what matrices of other code look like, and in single precision; return the seconds it took.

    64-bit indices, rows of fixed values, rows divided by volumes, symmetric scaling, rows in another order, no grid.

    Examples
    --------
    >>> solve_tiny_matrices() > 0
    True
    """
    start, shape = time.perf_counter(), (12, 8, 10)
    kappa = np.linspace(1, 2, math.prod(shape)).reshape(shape)
    A = sp.csr_array(Poisson.from_coefficients(kappa).matrix())
    n = A.shape[0]
    wide = sp.csr_array((A.data, A.indices.astype(np.int64), A.indptr.astype(np.int64)), shape=A.shape)
    fixed = A.tolil()
    fixed[0, :] = 0
    fixed[0, 0] = 1
    scale = sp.diags_array(1.0 + np.arange(n) % 3)
    for C in (wide, sp.csr_array(fixed), scale @ A, scale @ A @ scale, A[np.r_[1:n, 0]], A + 0.01 * A @ A):
        solve_matrix(sp.csr_array(C), np.ones(n), rtol=1e-6)
    single = Poisson.from_coefficients(kappa.astype(np.float32), dtype=np.float32)
    cg(single, np.ones(n, dtype=np.float32), rtol=1e-3)
    effective_diffusivity(kappa > 1.1)
    return time.perf_counter() - start


def warmup(weights: str | None = None) -> bool:
    """Compile, step by step, and say how long it took; return whether the next process will find what was compiled.

    A second process takes one of the kinds of operators, where there is a second core. What is on the disk already is
    only loaded.

    Examples
    --------
    >>> warmup("geometric")                                             # doctest: +SKIP
    True
    """
    from numba.core import event

    start, folder = time.perf_counter(), cache_folder()
    kept = folder is not None and os.access(folder, os.W_OK)
    tasks: list[tuple[str, Callable[[], object]]] = [
        (f"{words}: {step}", partial(run, kind)) for kind, words in KINDS.items() for step, run in STEPS.items()
    ]
    tasks.append(("coefficients: levels of pieces in float64", partial(compile_pieces, "medium", double=True)))
    tasks.append(("matrices, two dimensions", partial(solve_tiny_systems, weights)))
    tasks.append(("matrices of other code, single precision", solve_tiny_matrices))
    with without_messages(), event.install_recorder("numba:compile") as recorder:
        helped = (os.cpu_count() or 1) > 1 and not is_everything_ready() and compile_meanwhile("voxels", announce=False)
        for number, (name, run) in enumerate(tasks, start=1):
            begin = time.perf_counter()
            run()
            console.print(f"{number:2d} of {len(tasks)}  {name}: {seconds(time.perf_counter() - begin)}")
    compiled = len(recorder.buffer) // 2
    new = f"{compiled} functions compiled" if compiled or helped else "nothing had to be compiled"
    console.print(f"kernels ready after {seconds(time.perf_counter() - start)}: {new}")
    console.print(f"kept in {folder}" if kept else "no folder can be written: every process compiles anew")
    return kept


def is_everything_ready() -> bool:
    """Tell whether another process has compiled all of this.

    Examples
    --------
    >>> is_everything_ready() in (False, True)
    True
    """
    from krylearn.solvers.multigrid.readiness import is_ready

    return all(map(is_ready, KINDS))


@contextmanager
def without_messages() -> Iterator[None]:
    """Let nothing be said about compilation: the steps say it.

    Examples
    --------
    >>> with without_messages():
    ...     os.environ["KRYLEARN_QUIET"]
    '1'
    """
    before = os.environ.get("KRYLEARN_QUIET")
    os.environ["KRYLEARN_QUIET"] = "1"
    try:
        yield
    finally:
        del os.environ["KRYLEARN_QUIET"]
        if before is not None:
            os.environ["KRYLEARN_QUIET"] = before
