"""Small or strongly grounded systems: some steps of CG with the diagonal, compiled as one loop, before any set-up.

Setting up multigrid costs some milliseconds, as much as dozens of steps with the diagonal on 16^3 cells. So these are
tried first where they may suffice; where the residual does not fall fast enough, multigrid goes on from the iterate
reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.pde.compiled import compile_once

from ..krylov.conjugate_gradients import cg
from ..krylov.outcome import Reason, SolveInfo

# cells, steps: what costs less than set-up and solve by multigrid (ours, two cores); above the first of these sizes
# only systems with many given values converge in so few
STEPS = ((5_000, 120), (400_000, 150))
LOOK = 8  # steps after which the rate tells whether the rest is in reach


def run_steps(x, y, z, diag, nx, ny, nz, b, u, r, p, q, tolerance, steps, look):
    """Do CG steps with the diagonal on A u = b from u = 0; return how many, and the norm of the recursive residual.

    Gives up after `look` steps if the mean rate so far does not reach the tolerance within `steps`.
    """
    n = nx * ny * nz
    sx, sy = ny * nz, nz
    rz, first = 0.0, 0.0
    for c in range(n):
        u[c] = 0.0
        r[c] = b[c]
        p[c] = b[c] / diag[c] if diag[c] > 0 else 0.0
        rz += r[c] * p[c]
        first += r[c] * r[c]
    size = np.sqrt(first)
    start = size
    for step in range(steps):
        if size <= tolerance:
            return step, size
        if step == look and size > 0 and tolerance > 0:
            if np.log(tolerance / start) < steps / look * np.log(size / start):
                return step, size
        curvature = 0.0
        for i in range(nx):
            to_xb, to_xa = (-sx if i > 0 else (nx - 1) * sx), (sx if i < nx - 1 else (1 - nx) * sx)
            for j in range(ny):
                to_yb, to_ya = (-sy if j > 0 else (ny - 1) * sy), (sy if j < ny - 1 else (1 - ny) * sy)
                row = i * sx + j * sy
                for k in range(nz):
                    c = row + k
                    xb, yb = c + to_xb, c + to_yb
                    zb, za = (c - 1 if k > 0 else c + nz - 1), (c + 1 if k < nz - 1 else c - (nz - 1))
                    v = diag[c] * p[c] - x[c] * p[c + to_xa] - x[xb] * p[xb]
                    v -= y[c] * p[c + to_ya] + y[yb] * p[yb]
                    v -= z[c] * p[za] + z[zb] * p[zb]
                    q[c] = v
                    curvature += v * p[c]
        if not curvature > 0:
            return -1, size
        alpha = rz / curvature
        new, square = 0.0, 0.0
        for c in range(n):
            u[c] += alpha * p[c]
            v = r[c] - alpha * q[c]
            r[c] = v
            square += v * v
            if diag[c] > 0:
                new += v * v / diag[c]
        beta, rz = new / rz, new
        for c in range(n):
            p[c] = (r[c] / diag[c] if diag[c] > 0 else 0.0) + beta * p[c]
        size = np.sqrt(square)
    return steps, size


def _is_grounded(A: Poisson) -> bool:
    """Tell whether so many cells are tied to given values that errors cannot be smooth."""
    tied = A.shift > 0
    for g in A.ground:
        tied = tied | (g > 0)
    return float(tied.sum()) > 0.3 * A.unknowns


def cg_from_small(A: Poisson, b: Any, *, rtol: float, M: Any = None) -> tuple[Any, SolveInfo]:
    """Solve A x = b for one vector of the host as `cg` does, by the diagonal alone where that is faster.

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((12, 12)))
    >>> x, info = cg_from_small(A, np.ones(144), rtol=1e-6)
    >>> info == 0, info.notes
    (True, ('solved by cg with the diagonal, which is faster for so small a system',))
    """
    cells = A.unknown.numel()
    steps = next((count for limit, count in STEPS if cells <= limit), 0)
    largest = float(np.abs(np.asarray(b)).max(initial=0.0))
    if steps and cells > STEPS[0][0] and not _is_grounded(A):
        steps = 0
    usual = steps and M is None and A.device.type == "cpu" and A.torch_dtype == torch.float64
    if not usual or A.uncoupled is not None or not 1e-100 < largest < 1e100:
        return cg(A, b, rtol=rtol, M=M)
    grid = A.to_grid(np.asarray(b, dtype=np.float64))
    if grid.dim() != 3:
        return cg(A, b, rtol=rtol, M=M)
    norm = float(torch.linalg.vector_norm(grid))
    nullspace = A.nullspace if A.nullspace else None
    reachable = nullspace.project(grid) if nullspace else grid
    flat = np.ascontiguousarray(reachable.numpy()).reshape(-1)
    links = [np.ascontiguousarray(w.numpy()).reshape(-1) for w in A.links]
    diag = np.ascontiguousarray(A.diag.numpy()).reshape(-1)
    u, r, p, q = (np.empty(cells) for _ in range(4))
    place = A.unknown.shape
    done, _ = compile_once(run_steps)(*links, diag, *place, flat, u, r, p, q, 0.9 * rtol * norm, steps, LOOK)
    x = torch.from_numpy(u).reshape(place)
    if nullspace:
        x = nullspace.project(x)
    true = float(torch.linalg.vector_norm(grid - A.apply(x)))
    if done >= 0 and true <= rtol * norm:
        notes = ("solved by cg with the diagonal, which is faster for so small a system",)
        facts = {"iterations": done, "matvecs": done + 1, "residuals": (norm, true), "true_residual": true}
        facts |= {"nullspace": nullspace.dimension if nullspace else 0, "reason": Reason.CONVERGED, "notes": notes}
        return A.from_grid(x, np.asarray(b, dtype=np.float64)), SolveInfo(0, **facts)
    start = A.from_grid(x, np.asarray(b, dtype=np.float64)) if done > LOOK and true < 0.5 * norm else None
    return cg(A, b, start, rtol=rtol)
