"""Rivals on a CUDA device and how each is set up; the right-hand side is on the device before the clock starts."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np

from .loops import MAXITER, LibraryLoop, System, UnsuitedError

AMGX = {  # NVIDIA's PCG_CLASSICAL_V_JACOBI configuration, aggressive on one level
    "config_version": 2,
    "solver": {
        "solver": "PCG", "scope": "main", "max_iters": MAXITER, "tolerance": 1e-6, "convergence": "RELATIVE_INI",
        "norm": "L2", "monitor_residual": 1, "store_res_history": 1,
        "preconditioner": {
            "solver": "AMG", "scope": "amg", "algorithm": "CLASSICAL", "selector": "PMIS", "interpolator": "D2",
            "aggressive_levels": 1, "interp_max_elements": 4, "cycle": "V", "max_iters": 1, "presweeps": 1,
            "postsweeps": 1, "coarse_solver": "DENSE_LU_SOLVER", "min_coarse_rows": 32,
            "smoother": {"solver": "JACOBI_L1", "scope": "smoother"},
        },
    },
}  # fmt: skip


def cupy_jacobi(system: System) -> LibraryLoop:
    """CuPy's conjugate gradients with the inverse diagonal."""
    import cupy
    from cupyx.scipy.sparse import csr_matrix
    from cupyx.scipy.sparse.linalg import LinearOperator, cg

    if not cupy.cuda.runtime.getDeviceCount():
        raise UnsuitedError("there is no CUDA device")
    matrix = csr_matrix(system.matrix)
    inverse = 1 / matrix.diagonal()
    M = LinearOperator(matrix.shape, matvec=lambda r: inverse * r, dtype=matrix.dtype)
    tolerance = "rtol" if "rtol" in inspect.signature(cg).parameters else "tol"  # renamed in CuPy 14
    there, counted = _Uploaded(cupy.asarray), [0]

    def count(x: Any) -> None:
        counted[0] += 1

    def solve(b: np.ndarray, rtol: float) -> Any:
        counted[0] = 0
        return cg(matrix, there(b), maxiter=MAXITER, M=M, callback=count, **{tolerance: rtol})[0]

    return LibraryLoop(solve, lambda: ([], counted[0]))


def amgx(system: System) -> LibraryLoop:
    """AmgX's classical multigrid under its conjugate gradients."""
    import pyamgx

    pyamgx.initialize()
    resources = pyamgx.Resources().create_simple(pyamgx.Config().create(json.dumps(AMGX)))
    matrix = pyamgx.Matrix().create(resources)
    matrix.upload_CSR(system.matrix)

    def vector(values: np.ndarray) -> Any:
        made = pyamgx.Vector().create(resources)
        made.upload(values)
        return made

    def solver_for(rtol: float) -> Any:  # AmgX reads its tolerance from the configuration, at set-up
        config = json.loads(json.dumps(AMGX))
        config["solver"]["tolerance"] = rtol
        made = pyamgx.Solver().create(resources, pyamgx.Config().create(json.dumps(config)))
        made.setup(matrix)
        return made

    there, x = _Uploaded(vector), vector(np.zeros(system.matrix.shape[0]))
    solvers = {1e-6: solver_for(1e-6)}

    def solve(b: np.ndarray, rtol: float) -> np.ndarray:
        if rtol not in solvers:
            solvers.clear()
            solvers[rtol] = solver_for(rtol)
        solvers[rtol].solve(there(b), x, zero_initial_guess=True)
        answer = np.empty(system.matrix.shape[0])
        x.download(answer)
        return answer

    def history() -> tuple[list[float], int]:
        (last,) = solvers.values()
        return [last.get_residual(k) for k in range(last.iterations_number + 1)], last.iterations_number

    return LibraryLoop(solve, history, keep=resources)


class _Uploaded:
    """The last right-hand side, kept on the device."""

    def __init__(self, upload: Any) -> None:
        self.upload, self.host, self.device = upload, None, None

    def __call__(self, b: Any) -> Any:
        if self.host is not b:
            self.host, self.device = b, self.upload(b)
        return self.device
