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
from krylearn.pde.poisson import vectors
from krylearn.pde.poisson.arrays import plain_array, times_power_of_two
from krylearn.pde.poisson.fields import Slot
from krylearn.pde.poisson.stacking import room_for_walls
from krylearn.pde.poisson.units import moderate
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


def leading_shape(A: Any, b: Any) -> tuple[int, ...]:
    """Return the leading dimensions of b; () for a single vector, one column (n, 1), and what does not fit A.

    >>> leading_shape(np.eye(3), np.ones((5, 3))), leading_shape(np.eye(3), np.ones((3, 1)))
    ((5,), ())
    """
    shape = tuple(b.shape if hasattr(b, "shape") else np.shape(b))
    if isinstance(A, Poisson):
        return vectors.batch_shape(A, shape)[0]
    n = (getattr(A, "shape", None) or (0,))[-1]
    return shape[:-1] if len(shape) > 1 and shape[-1] == n and shape != (n, 1) else ()


def solve_rows(one: Solve, b: Any, x0: Any, batch: tuple[int, ...], *, strict: bool) -> tuple[Any, SolveInfo]:
    """Solve for the rows of b, one after the other, by `one(b, x0)`; x0 is None, "Mb", one vector or one per row."""
    b = b if isinstance(b, Tensor) or vectors.on_device(b) else plain_array(b, "b")
    shape = tuple(b.shape[len(batch) :])
    rows = b.reshape(-1, *shape)
    guesses: Sequence[Any] = [x0] * len(rows)
    if x0 is not None and not isinstance(x0, str):
        x0 = x0 if isinstance(x0, Tensor) or vectors.on_device(x0) else plain_array(x0, "x0")
        guesses = x0.reshape(-1, *shape) if tuple(x0.shape) == tuple(b.shape) else guesses
    solved = [one(row, guess) for row, guess in zip(rows, guesses, strict=True)]
    info = SolveInfo.of_batch([each for _, each in solved])
    x = _stack_rows([x for x, _ in solved], b).reshape(b.shape)
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


def solve_systems(one: Solve, operators: Sequence[Poisson], b: Any, x0: Any, **limits: Any) -> tuple[Any, SolveInfo]:
    """Solve A_k x_k = b_k for all k in one loop, by `one(A, b, x0, atol=...)` on the block-diagonal operator."""
    v, k = to_torch(b), len(operators)
    n, grid = operators[0].shape[0], operators[0].grid_shape
    guess = x0 if x0 is None or isinstance(x0, str) else to_torch(x0)
    for name, given in (("b", v), ("x0", v if guess is None or isinstance(guess, str) else guess)):
        if tuple(given.shape) not in ((k, n), (k, *grid)):
            expected = f"({k}, {n}) or {(k, *grid)}"
            raise ValueError(
                f"got {name} of shape {tuple(given.shape)} for {k} operators; expected {expected}, a row each"
            )
    guess = guess.reshape(k, n) if isinstance(guess, Tensor) else guess
    if not room_for_walls(operators[0]):
        return _solve_one_by_one(one, operators, v, guess, library_of(b), **limits)
    A = block_diagonal(operators).detach()
    dtype = torch.promote_types(A.torch_dtype, v.dtype if v.is_floating_point() else torch.float64)
    x, info = solve_blocks(one, A, v.reshape(k, n), guess, dtype=dtype, **limits)
    return from_torch(x.reshape(v.shape), library_of(b)), info


def _solve_one_by_one(
    one: Solve, operators: Sequence[Poisson], b: Tensor, x0: Any, library: str, *, strict: bool, **limits: Any
) -> tuple[Any, SolveInfo]:
    """Solve for each operator apart, where grids that wrap along all axes cannot be put side by side."""
    guesses = x0 if isinstance(x0, Tensor) else [x0] * len(operators)
    rows = b.reshape(len(operators), -1)
    solved = [one(A, row, guess, **limits) for A, row, guess in zip(operators, rows, guesses, strict=True)]
    x, info = torch.stack([x for x, _ in solved]).reshape(b.shape), SolveInfo.of_batch([each for _, each in solved])
    if strict and info:
        raise ConvergenceError(info, x)
    return from_torch(x, library), info


def solve_blocks(
    one: Solve, A: Poisson, b: Tensor, x0: Any = None, *, rtol: float, atol: float, strict: bool,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, SolveInfo]:  # fmt: skip
    """Solve with a block-diagonal A for b of shape (k, n), each row to its own tolerance.

    The recurrence runs in double precision; x is rounded to `dtype` and scaled back, and what then comes out is judged.
    """
    k, (A, own) = len(b), moderate(A)
    flat = b.double().reshape(-1)
    rows = vectors.apply_map(A, flat, lambda v: v, lambda v, _: v).reshape(b.shape)  # without cells that hold nothing
    finite = torch.isfinite(rows).all(1)  # a row that is not would spoil all others
    rows = torch.where(finite[:, None], rows, 0)
    exponents = [math.frexp(size)[1] for size in rows.abs().amax(1).tolist()]  # powers of two change no digit
    rows = _times_powers(rows, [-e for e in exponents])
    norms = torch.linalg.vector_norm(rows, dim=1)
    absolute = torch.tensor([_scaled_down(atol, e) for e in exponents], dtype=torch.float64, device=b.device)
    limits = torch.maximum(rtol * norms, absolute)
    if isinstance(x0, Tensor):
        x0 = _times_powers(x0.double(), [own - e for e in exponents]).reshape(-1)
    strictest = float(limits[norms > 0].min()) if bool((norms > 0).any()) else 1.0
    x, joint = one(A, rows.reshape(-1), x0, atol=strictest)
    x = torch.where(norms[:, None] > 0, x.reshape(b.shape), 0)  # exact where b is 0
    x = torch.where(finite[:, None], _times_powers(x, [e - own for e in exponents]), math.nan).to(dtype)
    back = _times_powers(x.double(), [own - e for e in exponents])
    product = A.matvec(back.reshape(-1))
    if A.deviation is not None:  # the matrices that these operators were read from are what counts
        product += vectors.apply_map(A, back.reshape(-1), A.deviation.product, lambda v, _: torch.zeros_like(v))
    residuals = torch.linalg.vector_norm(rows - product.reshape(k, -1), dim=1)
    info = SolveInfo.of_batch(
        _judge_rows(joint, residuals, limits, exponents, finite), matvecs=joint.matvecs,
        setup_seconds=joint.setup_seconds, compile_seconds=joint.compile_seconds, nullspace=joint.nullspace,
        preconditioner=joint.preconditioner, notes=joint.notes,
    )  # fmt: skip
    if strict and info:
        raise ConvergenceError(info, x)
    return x, info


def _times_powers(rows: Tensor, exponents: Sequence[int]) -> Tensor:
    """Multiply each row by a power of two of its own."""
    return torch.stack([times_power_of_two(row, e) for row, e in zip(rows, exponents, strict=True)])


def _scaled_down(value: float, exponent: int) -> float:
    """Return value / 2^exponent, infinite where that overflows."""
    try:
        return math.ldexp(value, -exponent)
    except OverflowError:
        return math.inf


def block_diagonal(operators: Sequence[Poisson]) -> Poisson:
    """Return `stack(operators)`; kept on the first operator, so that a second solve with them finds its set-up."""
    slot: Slot[tuple[Poisson, tuple[Poisson, ...]]] = Slot(f"block diagonal {list(map(id, operators))}")
    # the operators are kept too, so that no other object gets their ids
    return slot.compute_once(operators[0], lambda: (stack(operators), tuple(operators)))[0]


def _judge_rows(
    joint: SolveInfo, residuals: Tensor, limits: Tensor, exponents: Sequence[int], finite: Tensor
) -> list[SolveInfo]:
    """Judge every row by its own true residual and tolerance."""
    each = []
    for k in range(len(residuals)):
        met, real = bool(residuals[k] <= limits[k]), bool(finite[k]) and math.isfinite(residuals[k])
        reason = Reason.NON_FINITE if not real else Reason.CONVERGED if met else joint.reason
        if reason is Reason.CONVERGED and not met:  # x was good in double precision, but not in the dtype returned
            reason = Reason.STAGNATED
        residual = math.nan if not real else float(residuals[k]) * math.ldexp(1.0, min(exponents[k], 1023))
        value = 0 if reason is Reason.CONVERGED else max(int(joint), joint.iterations, 1)
        each.append(SolveInfo(value, reason=reason, iterations=joint.iterations, true_residual=residual))
    return each


def _stack_rows(rows: Sequence[Any], like: Any) -> Any:
    """Stack arrays of one library; of none, something empty like `like`."""
    if not rows:
        return like
    library = library_of(rows[0])
    return torch.stack(list(rows)) if library == "torch" else importlib.import_module(library).stack(rows)
