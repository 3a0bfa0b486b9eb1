"""Small or strongly grounded systems: some steps of CG with the diagonal, compiled as one loop, before any set-up.

Setting up multigrid costs some milliseconds, as much as hundreds of steps with the diagonal on 16^3 cells. So these are
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

# cells, steps: what costs less than set-up and solve by multigrid (ours, one core); above the second of these sizes
# only systems with many given values converge in so few
STEPS = ((5_000, 500), (40_000, 150), (400_000, 150))
LOOK = 20  # a part of the steps, after which the rate tells each time whether the rest is in reach


def choose_steps(cells: int, grounded: bool) -> int:
    """Return how many steps with the diagonal are worth trying; grounded : whether many values are given.

    >>> choose_steps(4096, False), choose_steps(64**3, False), choose_steps(64**3, True)
    (500, 0, 150)
    """
    steps = next((count for limit, count in STEPS if cells <= limit), 0)
    return steps if grounded or cells <= STEPS[1][0] else 0


def run_steps(x, y, z, diag, nx, ny, nz, b, u, r, p, q, inverse, tolerance, steps, look):
    """Do CG steps with the diagonal on A u = b from u = 0; return how many, and the norm of b - A u.

    Every `look` steps it gives up if the mean rate so far does not reach the tolerance within `steps`. Loops are over
    whole rows of cells and free of conditions, so that they become vector instructions. The last product is with u.
    """
    n = nx * ny * nz
    sx, sy = ny * nz, nz
    rz, first = 0.0, 0.0
    for c in range(n):
        inverse[c] = 1 / diag[c] if diag[c] > 0 else 0.0
        u[c] = 0.0
        r[c] = b[c]
        p[c] = b[c] * inverse[c]
        rz += r[c] * p[c]
        first += r[c] * r[c]
    size = np.sqrt(first)
    start, ended = size, False
    for step in range(steps + 1):
        ended = size <= tolerance or step == steps
        if step > 0 and step % look == 0 and not ended and tolerance > 0:
            ended = np.log(tolerance / start) < steps / step * np.log(size / start)
        if ended:
            for c in range(n):
                p[c] = u[c]
        curvature = 0.0
        for i in range(nx):
            to_xb, to_xa = (-sx if i > 0 else (nx - 1) * sx), (sx if i < nx - 1 else (1 - nx) * sx)
            for j in range(ny):
                to_yb, to_ya = (-sy if j > 0 else (ny - 1) * sy), (sy if j < ny - 1 else (1 - ny) * sy)
                row = i * sx + j * sy
                last = row + nz - 1
                for c in range(row, row + nz):
                    q[c] = diag[c] * p[c] - x[c] * p[c + to_xa] - x[c + to_xb] * p[c + to_xb]
                for c in range(row, row + nz):
                    q[c] -= y[c] * p[c + to_ya] + y[c + to_yb] * p[c + to_yb]
                for c in range(row, last):
                    q[c] -= z[c] * p[c + 1]
                for c in range(row + 1, last + 1):
                    q[c] -= z[c - 1] * p[c - 1]
                q[row] -= z[last] * p[last]  # 0 unless the axis wraps
                q[last] -= z[last] * p[row]
                for c in range(row, row + nz):
                    curvature += q[c] * p[c]
        if ended:
            square = 0.0
            for c in range(n):
                square += (b[c] - q[c]) * (b[c] - q[c])
            return step, np.sqrt(square)
        if not curvature > 0:
            return -1, size
        alpha = rz / curvature
        new, square = 0.0, 0.0
        for c in range(n):
            u[c] += alpha * p[c]
        for c in range(n):
            r[c] -= alpha * q[c]
            square += r[c] * r[c]
            new += r[c] * r[c] * inverse[c]
        beta, rz = new / rz, new
        for c in range(n):
            p[c] = r[c] * inverse[c] + beta * p[c]
        size = np.sqrt(square)
    return steps, size


def steps_with_diagonal(
    links: Any, diag: Any, shape: tuple[int, ...], b: Any, tolerance: float, steps: int
) -> tuple[Any, int, float]:
    """Return u of `run_steps` with how many steps it took and the norm of b - A u; arrays are flat.

    Examples
    --------
    >>> none = np.zeros(4)
    >>> u, steps, left = steps_with_diagonal([none, none, none], np.full(4, 2.0), (1, 2, 2), np.ones(4), 1e-9, 50)
    >>> u.tolist(), steps, left
    ([0.5, 0.5, 0.5, 0.5], 1, 0.0)
    """
    work = [np.empty(b.size) for _ in range(5)]
    look = max(steps // LOOK, 8)
    done, left = compile_once(run_steps)(*links, diag, *shape, b, *work, tolerance, steps, look)
    return work[0], done, left


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
    steps = choose_steps(cells, cells <= STEPS[-1][0] and (cells <= STEPS[1][0] or _is_grounded(A)))
    largest = float(np.abs(np.asarray(b)).max(initial=0.0))
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
    place = A.unknown.shape
    u, done, true = steps_with_diagonal(links, diag, place, flat, 0.9 * rtol * norm, steps)
    x = torch.from_numpy(u).reshape(place)
    if nullspace:
        x = nullspace.project(x)
        true = float(torch.linalg.vector_norm(grid - A.apply(x)))
    if done >= 0 and true <= rtol * norm:
        notes = ("solved by cg with the diagonal, which is faster for so small a system",)
        facts = {"iterations": done, "matvecs": done + 1, "residuals": (norm, true), "true_residual": true}
        facts |= {"nullspace": nullspace.dimension if nullspace else 0, "reason": Reason.CONVERGED, "notes": notes}
        return A.from_grid(x, np.asarray(b, dtype=np.float64)), SolveInfo(0, **facts)
    start = A.from_grid(x, np.asarray(b, dtype=np.float64)) if done >= 0 and true < 0.5 * norm else None
    return cg(A, b, start, rtol=rtol)
