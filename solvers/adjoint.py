"""`solve`: x = A⁻¹ b as one differentiable function, which raises where it cannot keep its word.

A is symmetric, so the adjoint of the solve is a solve: with the gradient g of a loss with respect to x,

    A λ = g,   gradient with respect to b = λ          (g without its part in the null space, if A has one)

The preconditioner runs without gradients: it changes the path to the solution, not the solution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from krylearn.pde import Poisson
from krylearn.pde.transforms import is_box, solve_box
from torch import Tensor

from .conjugate_gradients import cg
from .interop import from_torch, library_of, to_torch


def solve(
    A: Any, b: Any, *, rtol: float | None = None, atol: float = 0.0, maxiter: int | None = None, M: Any = None
) -> Any:
    """Solve A x = b, differentiably in b (torch), and raise ConvergenceError instead of returning a bad x.

    Full boxes with constant coefficients are solved by fast transforms (their answer is checked, too), everything else
    by `cg` in double precision. Backward: one more solve. Batches are solved one after the other.

    Parameters
    ----------
    A : Poisson, or anything Hermitian positive definite that `cg` takes; no gradients with respect to A
    b : (..., n), for Poisson also (..., *grid); batches lead; NumPy, CuPy or torch
    rtol, atol : float; ‖b - A x‖ <= max(rtol ‖b‖, atol) for each vector, before x is rounded to b's dtype.
        rtol=None: 1e-10, in single precision 1e-6; the backward solve uses the same
    maxiter, M : as in `cg`

    Returns
    -------
    x : shape, array type, dtype and device of b; on a singular A the solution of zero mean per component

    Raises
    ------
    ConvergenceError (a RuntimeError, with ``.info``) : a tolerance that was not met, or a b outside the range of A

    Examples
    --------
    >>> A = Poisson.from_coefficients(torch.ones(6, 6, dtype=torch.float64))
    >>> b = torch.ones(6, 6, dtype=torch.float64, requires_grad=True)
    >>> x = solve(A, b)
    >>> x.sum().backward()                                    # A is symmetric and b is all ones: the gradient is x
    >>> bool(torch.allclose(b.grad, x))
    True
    """
    library = library_of(b)
    v = b if isinstance(b, Tensor) else to_torch(b)
    if not (v.is_floating_point() or v.is_complex()):
        v = v.double()
    if rtol is None:
        rtol = 1e-10 if torch.finfo(v.dtype).eps < 1e-10 else 1e-6
    x = _Solve.apply(v, _Solver(A, rtol, atol, maxiter, M))
    return from_torch(x, library)


@dataclass(frozen=True, eq=False)
class _Solver:
    """b -> A⁻¹ b for batches, without gradients."""

    A: Any
    rtol: float
    atol: float
    maxiter: int | None
    M: Any
    project: bool = False  # take the part of b outside the range of A out first: what an adjoint solve wants

    def __call__(self, b: Tensor) -> Tensor:
        v = b.detach().to(torch.promote_types(b.dtype, torch.float64))
        x = self._on_grid(v) if isinstance(self.A, Poisson) else self._flat(v)
        return x.to(b.dtype)

    def _on_grid(self, v: Tensor) -> Tensor:
        A = self.A
        grid = A.to_grid(v)
        if self.project and A.nullspace:
            grid = A.nullspace.project(grid)
        batch = grid.reshape(-1, *grid.shape[-3:])
        guess = self._transforms(batch) if self.M is None and is_box(A) else None
        rows = [self._one(g, None if guess is None else guess[k]) for k, g in enumerate(batch)]
        return A.from_grid(torch.stack(rows).reshape(grid.shape) if rows else grid, v)

    def _one(self, g: Tensor, guess: Tensor | None) -> Tensor:
        """Solve for one vector on the internal grid; the driver judges the guess like any other iterate."""
        A = self.A
        M = "none" if guess is not None and self._good(g, guess) else self.M
        like = g.new_empty(A.shape[0])
        b, x0 = A.from_grid(g, like), None if guess is None else A.from_grid(guess, like)
        x, _ = cg(A, b, x0, M=M, rtol=self.rtol, atol=self.atol, maxiter=self.maxiter, strict=True)
        return A.to_grid(x)

    def _transforms(self, batch: Tensor) -> Tensor:
        shaped = batch.reshape(-1, *self.A.grid_shape)
        return solve_box(self.A, shaped).reshape(batch.shape)

    def _good(self, g: Tensor, x: Tensor) -> bool:
        """Tell whether x will pass as it is, so that no preconditioner has to be set up."""
        norm = torch.linalg.vector_norm
        return bool(norm(g - self.A.apply(x)) <= max(self.rtol * float(norm(g)), self.atol))

    def _flat(self, v: Tensor) -> Tensor:
        batch = v.reshape(-1, v.shape[-1]) if v.dim() else v.reshape(1, 1)
        options = {"M": self.M, "rtol": self.rtol, "atol": self.atol, "maxiter": self.maxiter, "strict": True}
        rows = [cg(self.A, row, **options)[0] for row in batch]
        return torch.stack(rows).reshape(v.shape) if rows else v


class _Solve(torch.autograd.Function):
    """Autograd's view: linear in b, its own adjoint."""

    @staticmethod
    def forward(b: Tensor, solver: _Solver) -> Tensor:
        return solver(b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Solver], output: Tensor) -> None:
        ctx.solver = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Solve.apply(grads[0], replace(ctx.solver, project=True)), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Solve.apply(tangents[0], replace(ctx.solver, project=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], b: Tensor, solver: _Solver) -> tuple[Tensor, int]:
        return _Solve.apply(b.movedim(in_dims[0] or 0, 0), solver), 0
