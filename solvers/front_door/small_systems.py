"""Small and strongly grounded systems: some steps of CG with the diagonal, compiled as one loop, before any set-up.

On grids, `run_steps`; on other matrices, `run_steps_of_rows`, whose alternative is an aggregation by PyAMG.

Setting up multigrid costs some milliseconds, as much as hundreds of steps with the diagonal on 16^3 cells. So these are
tried first where they may suffice; where the residual does not fall fast enough, multigrid goes on from the iterate
reached.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.pde.compiled import compile_once

from ..krylov.conjugate_gradients import cg
from ..krylov.outcome import Reason, SolveInfo

# cells, steps on uniform and on varied media: about what set-up and solve by multigrid cost (ours, one core; set-up is
# dearer where conductances vary)
STEPS = ((5_000, 1500, 2500), (20_000, 300, 500), (40_000, 160, 280), (150_000, 120, 250), (400_000, 40, 100))
STEPS_ON_ROWS = ((100_000, 500), (math.inf, 250))  # an aggregation by PyAMG costs that much
BY_DIAGONAL = "solved by cg with the diagonal, which is faster for so small a system"
LOOK = 10  # a part of the steps, after which the rate tells each time whether the rest is in reach


def choose_steps(cells: int, varied: bool) -> int:
    """Return how many steps with the diagonal are worth trying; varied : whether conductances differ.

    >>> choose_steps(4096, False), choose_steps(64**3, False), choose_steps(64**3, True), choose_steps(10**6, True)
    (1500, 40, 100, 0)
    """
    return next((counts[varied] for limit, *counts in STEPS if cells <= limit), 0)


def is_varied(links: Any) -> bool:
    """Tell from some of the conductances whether they differ by more than a factor of four.

    >>> is_varied([np.array([1.0, 0.0, 1.0]), np.array([2.0])]), is_varied([np.array([1.0, 0.0, 9.0])])
    (False, True)
    """
    some = np.concatenate([w[:: max(w.size // 1000, 1)] for w in links])
    some = some[some > 0]
    return bool(some.size and some.max() > 4 * some.min())


def run_steps(x, y, z, diag, nx, ny, nz, b, u, r, p, q, inverse, links, sizes, tolerance, steps, look):
    """Do CG steps with the diagonal on A u = b from u = 0; return how many, and the norm of b - A u.

    x, y, z : links to the next cell along each axis, those of the last cells wrap around (0 where they do not)
    p : n + 2 ny nz numbers, of which the first and last ny nz remain 0;  links : three times n + ny nz
    sizes : steps + 1, the norms of the residual

    Every `look` steps it gives up if the tolerance is not in reach: at the rate of all steps so far, or of the second
    half of them, whichever is slower, since the first steps gain most. The product runs over all cells in one loop
    free of conditions, which becomes vector instructions: neighbours are read at fixed distances, from zeros outside,
    and links that wrap around are added in loops of their own. The last product is with u.
    """
    n, sx, sy = nx * ny * nz, ny * nz, nz
    rz, first = 0.0, 0.0
    links[:] = 0.0
    links[0, sx:] = x
    links[1, sx:] = y
    links[2, sx:] = z
    wrap_x, wrap_y, wrap_z = False, False, False
    for t in range(sx):
        wrap_x = wrap_x or x[n - sx + t] != 0
        links[0, n + t] = 0.0
    for i in range(nx):
        for k in range(nz):
            last = i * sx + (ny - 1) * sy + k
            wrap_y = wrap_y or y[last] != 0
            links[1, sx + last] = 0.0
    for row in range(0, n, nz):
        wrap_z = wrap_z or z[row + nz - 1] != 0
        links[2, sx + row + nz - 1] = 0.0
    to_xa, to_ya, to_za = links[0, sx:], links[1, sx:], links[2, sx:]
    to_xb, to_yb, to_zb = links[0, :n], links[1, sx - sy : sx - sy + n], links[2, sx - 1 : sx - 1 + n]
    own, xa, xb = p[sx : sx + n], p[2 * sx : 2 * sx + n], p[:n]
    ya, yb = p[sx + sy : sx + sy + n], p[sx - sy : sx - sy + n]
    za, zb = p[sx + 1 : sx + 1 + n], p[sx - 1 : sx - 1 + n]
    p[:] = 0.0
    for c in range(n):
        inverse[c] = 1 / diag[c] if diag[c] > 0 else 0.0
        u[c] = 0.0
        r[c] = b[c]
        own[c] = b[c] * inverse[c]
        rz += b[c] * own[c]
        first += b[c] * b[c]
    start = np.sqrt(first)
    size = start
    for step in range(steps + 1):
        ended = size <= tolerance or step == steps
        sizes[step] = size
        if step > 0 and step % look == 0 and not ended and tolerance > 0:
            half = step // 2
            rate = max(np.log(size / start) / step, np.log(size / sizes[half]) / (step - half))
            ended = np.log(tolerance / size) < (steps - step) * rate
        if ended:
            own[:] = u
        curvature = 0.0
        for c in range(n):
            product = diag[c] * own[c] - to_xa[c] * xa[c] - to_xb[c] * xb[c]
            product -= to_ya[c] * ya[c] + to_yb[c] * yb[c] + to_za[c] * za[c] + to_zb[c] * zb[c]
            q[c] = product
            curvature += product * own[c]
        if wrap_x:
            for c in range(sx):
                last = n - sx + c
                q[c] -= x[last] * own[last]
                q[last] -= x[last] * own[c]
                curvature -= 2 * x[last] * own[c] * own[last]
        if wrap_y:
            for i in range(nx):
                for c in range(i * sx, i * sx + nz):
                    last = c + sx - sy
                    q[c] -= y[last] * own[last]
                    q[last] -= y[last] * own[c]
                    curvature -= 2 * y[last] * own[c] * own[last]
        if wrap_z:
            for c in range(0, n, nz):
                last = c + nz - 1
                q[c] -= z[last] * own[last]
                q[last] -= z[last] * own[c]
                curvature -= 2 * z[last] * own[c] * own[last]
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
            left = r[c] - alpha * q[c]
            r[c] = left
            square += left * left
            new += left * left * inverse[c]
        beta, rz = new / rz, new
        for c in range(n):
            u[c] += alpha * own[c]
            own[c] = r[c] * inverse[c] + beta * own[c]
        size = np.sqrt(square)
    return steps, size


def steps_with_diagonal(
    links: Any, diag: Any, shape: tuple[int, ...], b: Any, tolerance: float, steps: int
) -> tuple[Any, int, float]:
    """Return u of `run_steps` with how many steps it took and the norm of b - A u; flat arrays of one precision.

    Examples
    --------
    >>> none = np.zeros(4)
    >>> u, steps, left = steps_with_diagonal([none, none, none], np.full(4, 2.0), (1, 2, 2), np.ones(4), 1e-9, 50)
    >>> u.tolist(), steps, left
    ([0.5, 0.5, 0.5, 0.5], 1, 0.0)
    """
    n, plane = b.size, shape[1] * shape[2]
    u, r, q, inverse = np.empty((4, n), dtype=b.dtype)
    p, padded = np.empty(n + 2 * plane, dtype=b.dtype), np.empty((3, n + plane), dtype=b.dtype)
    look = max(steps // LOOK, 8)
    work = (u, r, p, q, inverse, padded, np.empty(steps + 1))
    done, left = compile_once(run_steps)(*links, diag, *shape, b, *work, tolerance, steps, look)
    return u, done, left


def run_steps_of_rows(indptr, indices, data, diag, b, u, r, p, q, sizes, tolerance, steps, look):
    """Do what `run_steps` does for a matrix in rows."""
    n = len(b)
    rz, first = 0.0, 0.0
    for i in range(n):
        u[i] = 0.0
        r[i] = b[i]
        p[i] = b[i] / diag[i]
        rz += b[i] * p[i]
        first += b[i] * b[i]
    start = np.sqrt(first)
    size = start
    for step in range(steps + 1):
        ended = size <= tolerance or step == steps
        sizes[step] = size
        if step > 0 and step % look == 0 and not ended and tolerance > 0:
            half = step // 2
            rate = max(np.log(size / start) / step, np.log(size / sizes[half]) / (step - half))
            ended = np.log(tolerance / size) < (steps - step) * rate
        if ended:
            p[:] = u
        curvature = 0.0
        for i in range(n):
            product = 0.0
            for e in range(indptr[i], indptr[i + 1]):
                product += data[e] * p[indices[e]]
            q[i] = product
            curvature += product * p[i]
        if ended:
            square = 0.0
            for i in range(n):
                square += (b[i] - q[i]) * (b[i] - q[i])
            return step, np.sqrt(square)
        if not curvature > 0:
            return -1, size
        alpha = rz / curvature
        new, square = 0.0, 0.0
        for i in range(n):
            u[i] += alpha * p[i]
            left = r[i] - alpha * q[i]
            r[i] = left
            square += left * left
            new += left * left / diag[i]
        beta, rz = new / rz, new
        for i in range(n):
            p[i] = r[i] / diag[i] + beta * p[i]
        size = np.sqrt(square)
    return steps, size


def steps_on_rows(S: Any, b: Any, tolerance: float) -> tuple[Any, int, float]:
    """Return u of `run_steps_of_rows` for a CSR matrix with a positive diagonal, its steps, and the norm of b - S u.

    Examples
    --------
    >>> import scipy.sparse
    >>> u, steps, left = steps_on_rows(scipy.sparse.csr_array(np.diag([2.0, 4.0])), np.ones(2), 1e-9)
    >>> u.tolist(), steps, left
    ([0.5, 0.25], 1, 0.0)
    """
    steps = next(count for limit, count in STEPS_ON_ROWS if b.size <= limit)
    u, r, p, q = np.empty((4, b.size))
    work = (b, u, r, p, q, np.empty(steps + 1))
    run = compile_once(run_steps_of_rows)
    done, left = run(S.indptr, S.indices, S.data, S.diagonal(), *work, tolerance, steps, max(steps // LOOK, 8))
    return u, done, left


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
    largest = float(np.abs(np.asarray(b)).max(initial=0.0))
    usual = cells <= STEPS[-1][0] and M is None and A.device.type == "cpu" and A.torch_dtype == torch.float64
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
    diag, steps = np.ascontiguousarray(A.diag.numpy()).reshape(-1), choose_steps(cells, is_varied(links))
    place = A.unknown.shape
    u, done, true = steps_with_diagonal(links, diag, place, flat, 0.9 * rtol * norm, steps)
    x = torch.from_numpy(u).reshape(place)
    if nullspace:
        x = nullspace.project(x)
        true = float(torch.linalg.vector_norm(grid - A.apply(x)))
    if done >= 0 and true <= rtol * norm:
        notes = (BY_DIAGONAL,)
        facts = {"iterations": done, "matvecs": done + 1, "residuals": (norm, true), "true_residual": true}
        facts |= {"nullspace": nullspace.dimension if nullspace else 0, "reason": Reason.CONVERGED, "notes": notes}
        return A.from_grid(x, np.asarray(b, dtype=np.float64)), SolveInfo(0, **facts)
    start = A.from_grid(x, np.asarray(b, dtype=np.float64)) if done >= 0 and true < 0.5 * norm else None
    return cg(A, b, start, rtol=rtol)
