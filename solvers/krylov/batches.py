"""Many right-hand sides, and many small systems: what `cg` does with a b that has leading dimensions.

One operator, b of shape (..., n): the rows are solved one after the other with one set-up. The kernels work at memory
bandwidth, so a lockstep of all rows would gain nothing, and would run each row as long as the slowest.

k operators on grids of one shape, b of shape (k, n): one block-diagonal system (`krylearn.pde.stack`), one set-up, one
loop. Its b is scaled so that every row has about unit norm, and its tolerance is the strictest row's; so the promise
holds row by row, for at most log(√k) more digits.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson, stack
from krylearn.pde.poisson.fields import Slot
from krylearn.pde.poisson.vectors import batch_shape
from torch import Tensor

from .arrays import from_torch, library_of, to_torch
from .driver import ConvergenceError, Reason, SolveInfo

Solve = Callable[..., tuple[Any, SolveInfo]]


def is_systems(A: Any) -> bool:
    """Tell whether A is a sequence of Poisson operators.

    >>> is_systems([]), is_systems(np.eye(2)), is_systems([Poisson.from_cells([[1, 1]])] * 2)
    (False, False, True)
    """
    return isinstance(A, list | tuple) and bool(A) and all(isinstance(one, Poisson) for one in A)


def leading(A: Any, b: Any) -> tuple[int, ...]:
    """Return the leading dimensions of b; () for a single vector, one column (n, 1), and what does not fit A.

    >>> leading(np.eye(3), np.ones((5, 3))), leading(np.eye(3), np.ones((3, 1)))
    ((5,), ())
    """
    shape = tuple(b.shape if hasattr(b, "shape") else np.shape(b))
    if isinstance(A, Poisson):
        return batch_shape(A, shape)[0]
    n = (getattr(A, "shape", None) or (0,))[-1]
    return shape[:-1] if len(shape) > 1 and shape[-1] == n and shape != (n, 1) else ()


def solve_rows(one: Solve, b: Any, x0: Any, batch: tuple[int, ...], *, strict: bool) -> tuple[Any, SolveInfo]:
    """Solve for the rows of b, one after the other, by `one(b, x0)`; x0 is None, "Mb", one vector or one per row."""
    b = b if hasattr(b, "reshape") else np.asarray(b)
    shape = tuple(b.shape[len(batch) :])
    rows = b.reshape(-1, *shape)
    guesses: Sequence[Any] = [x0] * len(rows)
    if x0 is not None and not isinstance(x0, str):
        x0 = x0 if hasattr(x0, "reshape") else np.asarray(x0)
        guesses = x0.reshape(-1, *shape) if tuple(x0.shape) == tuple(b.shape) else guesses
    solved = [one(row, guess) for row, guess in zip(rows, guesses, strict=True)]
    info = SolveInfo.of_batch([each for _, each in solved])
    x = _stacked([x for x, _ in solved], b).reshape(b.shape)
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


def solve_systems(one: Solve, operators: Sequence[Poisson], b: Any, x0: Any, **limits: Any) -> tuple[Any, SolveInfo]:
    """Solve A_k x_k = b_k for all k in one loop, by `one(A, b, x0, atol=...)` on the block-diagonal operator."""
    A, k = block_diagonal(operators).detach(), len(operators)
    v = to_torch(b)
    n, grid = A.shape[0] // k, operators[0].grid_shape
    guess = x0 if x0 is None or isinstance(x0, str) else to_torch(x0)
    for name, given in (("b", v), ("x0", v if guess is None or isinstance(guess, str) else guess)):
        if tuple(given.shape) not in ((k, n), (k, *grid)):
            expected = f"({k}, {n}) or {(k, *grid)}"
            raise ValueError(
                f"got {name} of shape {tuple(given.shape)} for {k} operators; expected {expected}, a row each"
            )
    guess = guess.reshape(k, n) if isinstance(guess, Tensor) else guess
    x, info = solve_blocks(one, A, v.reshape(k, n), guess, **limits)
    dtype = torch.promote_types(A.torch_dtype, v.dtype if v.is_floating_point() else torch.float64)
    return from_torch(x.reshape(v.shape).to(dtype), library_of(b)), info


def solve_blocks(
    one: Solve, A: Poisson, b: Tensor, x0: Any = None, *, rtol: float, atol: float, strict: bool
) -> tuple[Tensor, SolveInfo]:
    """Solve with a block-diagonal A for b of shape (k, n), in double precision, each row to its own tolerance."""
    k = len(b)
    rows = A.from_grid(A.to_grid(b.double().reshape(-1)), b.double().reshape(-1)).reshape(b.shape)
    finite = torch.isfinite(rows).all(1)  # a row that is not would spoil all others
    norms = torch.where(finite, torch.linalg.vector_norm(rows, dim=1), 0)
    scale = torch.exp2(torch.ceil(torch.log2(torch.where(norms > 0, norms, 1))))  # powers of two change no digit
    rows = torch.where(finite[:, None], rows / scale[:, None], 0)
    limits = torch.clamp(rtol * norms, min=atol) / scale
    if isinstance(x0, Tensor):
        x0 = (x0.double() / scale[:, None]).reshape(-1)
    strictest = float(limits[norms > 0].min()) if bool((norms > 0).any()) else 1.0
    x, joint = one(A, rows.reshape(-1), x0, atol=strictest)
    x = torch.where(norms[:, None] > 0, x.reshape(b.shape), 0)  # exact where b is 0
    residuals = torch.linalg.vector_norm(rows - A.matvec(x.reshape(-1)).reshape(k, -1), dim=1)
    x = torch.where(finite[:, None], x * scale[:, None], math.nan)
    info = SolveInfo.of_batch(
        _verdicts(joint, residuals, limits, scale, finite), matvecs=joint.matvecs, setup_seconds=joint.setup_seconds,
        compile_seconds=joint.compile_seconds, nullspace=joint.nullspace, notes=joint.notes,
    )  # fmt: skip
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


def block_diagonal(operators: Sequence[Poisson]) -> Poisson:
    """Return `stack(operators)`; kept on the first operator, so that a second solve with them finds its set-up."""
    slot: Slot[tuple[Poisson, tuple[Poisson, ...]]] = Slot(f"block diagonal {list(map(id, operators))}")
    # the operators are kept too, so that no other object gets their ids
    return slot.compute_once(operators[0], lambda: (stack(operators), tuple(operators)))[0]


def _verdicts(joint: SolveInfo, residuals: Tensor, limits: Tensor, scale: Tensor, finite: Tensor) -> list[SolveInfo]:
    """Judge every row by its own true residual and tolerance."""
    each = []
    for k in range(len(residuals)):
        met = bool(residuals[k] <= limits[k])
        reason = Reason.NON_FINITE if not finite[k] else Reason.CONVERGED if met else joint.reason
        if reason is Reason.CONVERGED and not met:  # the joint norm met the strictest limit, rounding apart
            reason = Reason.STAGNATED
        residual = float(residuals[k] * scale[k]) if finite[k] else math.nan
        value = 0 if reason is Reason.CONVERGED else max(int(joint), joint.iterations, 1)
        each.append(SolveInfo(value, reason=reason, iterations=joint.iterations, true_residual=residual))
    return each


def _stacked(rows: Sequence[Any], like: Any) -> Any:
    """Stack arrays of one library; of none, something empty like `like`."""
    if not rows:
        return like
    library = library_of(rows[0])
    return torch.stack(list(rows)) if library == "torch" else importlib.import_module(library).stack(rows)
