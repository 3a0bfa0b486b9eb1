"""`solve`: x = A⁻¹ b as one differentiable function, which raises ConvergenceError if the tolerance is not met.

A is symmetric, so the adjoint of the solve is a solve: with the gradient g of a loss with respect to x,

    A λ = g,   gradient with respect to b = λ,   with respect to the conductances: below

(g without its part in the null space, if A has one). Backward is written in operations that are differentiable again,
so derivatives of any order, forward mode and `torch.func` come out of the same few lines. The preconditioner runs
without gradients: it changes the path to the solution, not the solution; it is set up once for all of these solves.

How A x and the solution of A x = b depend on conductances, by formulas that are both differentiable again:

    (A x)_i = sum over the faces of cell i of  w (x_i - x_other)  +  (ground_i + shift_i) x_i

A is linear in its conductances, so a change dw of them gives the product dA x by the same formula. With A x = b and the
adjoint solution A λ = g for a loss with gradient g in x:

    dloss = λ·(db - dA x):      dloss/dw = -(λ_i - λ_j)(x_i - x_j),     dloss/dground_i = dloss/dshift_i = -λ_i x_i

A conductance that does not couple two unknowns has gradient 0: the set of unknowns is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from krylearn.pde import Poisson
from krylearn.pde.poisson import vectors
from krylearn.pde.poisson.conductances import Conductances
from krylearn.pde.poisson.fields import Slot, Uncoupled
from krylearn.pde.transforms import is_box, solve_box
from torch import Tensor

from ..kernels.graph_break import runs_outside_graphs
from .arrays import from_torch, library_of, to_torch
from .batches import block_diagonal, is_systems, solve_blocks
from .conjugate_gradients import cg
from .outcome import ConvergenceError, Reason, SolveInfo

CONSTANTS: Slot[Poisson] = Slot("constants")  # the operator without its history of gradients


@runs_outside_graphs
def solve(
    A: Any, b: Any, *, rtol: float | None = None, atol: float = 0.0, maxiter: int | None = None, M: Any = None
) -> Any:
    """Solve A x = b, differentiably in b and in what A was built from; raise instead of returning a bad x.

    Full boxes with constant coefficients are solved by fast transforms (their answer is checked, too), everything else
    by `cg` in double precision. Backward: one more solve, with the same preconditioner. Works under `torch.func`
    (`grad`, `jvp`, `jacrev`, `jacfwd`, `hessian`; `vmap` over b) and in forward mode.

    Parameters
    ----------
    A : Poisson, or anything Hermitian positive definite that `cg` takes. Gradients flow into the tensors that a Poisson
        operator was built from (kappa, faces, shift, extra); into other operators there are none. Or k Poisson
        operators on grids of one shape: many small systems in one loop
    b : (..., n), for Poisson also (..., *grid); batches lead; NumPy, CuPy or torch. For k operators (k, n), (k, *grid)
    rtol, atol : float; ‖b - A x‖ <= max(rtol ‖b‖, atol) for each vector, before x is rounded to b's dtype.
        rtol=None: 1e-10, in single precision 1e-6; the backward solve uses the same rtol, and no atol
    maxiter, M : as in `cg`

    Returns
    -------
    x : shape, array type, dtype and device of b; on a singular A the solution of zero mean per component

    Raises
    ------
    ConvergenceError (a RuntimeError, with ``.info``) : a tolerance that was not met, or a b outside the range of A
    TypeError : a torch matrix that requires gradients, which it would not get

    Examples
    --------
    >>> kappa = torch.ones(6, 6, dtype=torch.float64, requires_grad=True)
    >>> b = torch.ones(6, 6, dtype=torch.float64, requires_grad=True)
    >>> x = solve(Poisson.from_coefficients(kappa), b)
    >>> x.sum().backward()                                    # A is symmetric and b is all ones: the gradient is x
    >>> bool(torch.allclose(b.grad, x)), bool((kappa.grad < 0).all())     # what conducts better holds less
    (True, True)
    """
    library = library_of(b)
    v = b if isinstance(b, Tensor) else to_torch(b)
    if not (v.is_floating_point() or v.is_complex()):
        v = v.double()
    if rtol is None:
        rtol = 1e-10 if torch.finfo(v.dtype).eps < 1e-10 else 1e-6
    solver = _Solver(A, rtol, atol, maxiter, M)
    if is_systems(A):
        x = _solve_systems(A, v, solver)
    elif isinstance(A, Poisson):
        grid, alone = vectors.to_parts(A, v)
        solver, y = _solve_alone(A.uncoupled, alone, A, v, solver, math.prod(grid.shape[:-3]))
        x = vectors.from_parts(A, _apply(A, grid, solver), y, v)
    elif isinstance(A, Tensor) and A.requires_grad:
        raise TypeError("got a torch matrix that requires gradients; expected one that does not, or a Poisson operator")
    else:
        x = _Solve.apply(v, solver)
    return from_torch(x, library)


def _apply(A: Poisson, grid: Tensor, solver: _Solver) -> Tensor:
    return _Solve.apply(grid, solver, *(OperatorTensors.of(A) if _has_history(A) else ()))


def _solve_alone(
    rows: Uncoupled | None, alone: Tensor | None, A: Poisson, b: Tensor, solver: _Solver, count: int
) -> tuple[_Solver, Tensor | None]:
    """Return the solver of all other rows, and b / d at uncoupled ones; of empty rows b stays, a part of the residual.

    alone : values at uncoupled rows of b, which is `count` vectors one after the other
    """
    if rows is None or alone is None:
        return solver, None
    if not bool(torch.isfinite(alone).all()):
        raise ConvergenceError(SolveInfo(1, reason=Reason.NON_FINITE, notes=("a row without neighbours has such a b",)))
    empty = torch.where(rows.diag == 0, alone.detach(), 0).double()
    if bool((empty != 0).any()):
        batch, given = empty.shape[:-1], b.detach().double()
        lost = vectors.from_parts(A, empty.new_zeros((*batch, *A.unknown.shape)), empty, given)
        lost, whole = (torch.linalg.vector_norm(v.reshape(count, -1), dim=1) for v in (lost, given))
        share = torch.where(lost > 0, lost / (solver.rtol * whole).clamp_min(solver.atol), 0)
        left = 1 - float(share.max().clamp_max(1)) ** 2
        if not left > 0:
            words = ("an empty row of A has b != 0",)
            raise ConvergenceError(SolveInfo(1, reason=Reason.INCOMPATIBLE_RHS, notes=words))
        solver = replace(solver, rtol=solver.rtol * math.sqrt(left), atol=solver.atol * math.sqrt(left))
    return solver, _rounded(rows.solution(alone.double()), alone.dtype)


def _solve_systems(operators: Sequence[Poisson], v: Tensor, solver: _Solver) -> Tensor:
    A = block_diagonal(operators)
    expected = [(len(operators), A.shape[0] // len(operators)), (len(operators), *operators[0].grid_shape)]
    if tuple(v.shape) not in expected:
        raise ValueError(
            f"got b of shape {tuple(v.shape)}; expected {expected[0]} or {expected[1]}, a row per operator"
        )
    flat = v.reshape(-1)
    grid, alone = vectors.to_parts(A, flat)
    solver, y = _solve_alone(A.uncoupled, alone, A, flat, solver, len(operators))
    x = _apply(A, grid, replace(solver, A=A, blocks=len(operators)))
    return vectors.from_parts(A, x, y, flat).reshape(v.shape)


def _has_history(A: Poisson) -> bool:
    """Tell whether the conductances depend on something that is being differentiated, in whichever way."""
    return any(
        t.requires_grad
        or torch.autograd.forward_ad.unpack_dual(t).tangent is not None
        or torch._C._functorch.is_functorch_wrapped_tensor(t)
        for t in OperatorTensors.of(A)
    )


@dataclass(frozen=True, eq=False)
class _Solver:
    """b -> A⁻¹ b for batches, without gradients; on the internal grid for a Poisson operator."""

    A: Any
    rtol: float
    atol: float
    maxiter: int | None
    M: Any
    project: bool = False  # take the part of b outside the range of A out first: what an adjoint solve wants
    blocks: int = 1  # of a block-diagonal A: each has a tolerance of its own

    def adjoint(self) -> _Solver:
        """Return the solver of adjoint systems, whose right-hand sides have another unit."""
        return replace(self, project=True, atol=0.0)

    def __call__(self, b: Tensor, conductances: tuple[Tensor, ...]) -> Tensor:
        v = b.detach().to(torch.promote_types(b.dtype, torch.float64))
        if not isinstance(self.A, Poisson):
            return _rounded(self._solve_flat(v), b.dtype)
        A = self._constant_operator(conductances) if conductances else self.A
        if self.project and A.nullspace:
            v = A.nullspace.project(v)
        batch = v.reshape(-1, *v.shape[-3:])
        box = self.M is None and self.blocks == 1 and is_box(A)
        guess = self._solve_by_transforms(A, batch) if box else None
        rows = [self._solve_one(A, g, None if guess is None else guess[k]) for k, g in enumerate(batch)]
        return _rounded(torch.stack(rows).reshape(v.shape) if rows else v, b.dtype)

    def _constant_operator(self, conductances: tuple[Tensor, ...]) -> Poisson:
        """Return A as numbers alone; kept, so that all solves with this A share one set-up."""
        A = self.A

        def build() -> Poisson:
            c = OperatorTensors(*(t.detach() for t in conductances))
            constants = Conductances(c.links, c.ground, c.shift)
            return Poisson(A.grid_shape, A.spacing, A.boundary, c.unknown, constants, numbering=A.numbering)

        return CONSTANTS.compute_once(A, build)

    def _solve_one(self, A: Poisson, g: Tensor, guess: Tensor | None) -> Tensor:
        """Solve for one vector on the internal grid; the driver judges the guess like any other iterate."""
        M = "none" if guess is not None and self._is_solved(A, g, guess) else self.M
        like = g.new_empty(A.shape[0])
        b, x0 = A.from_grid(g, like), None if guess is None else A.from_grid(guess, like)
        limits: dict[str, Any] = {"rtol": self.rtol, "atol": self.atol, "strict": True}
        if self.blocks > 1:
            joint = partial(cg, M=M, maxiter=self.maxiter, rtol=0.0)
            x, _ = solve_blocks(joint, A, b.reshape(self.blocks, -1), **limits)
            return A.to_grid(x.reshape(-1))
        x, _ = cg(A, b, x0, M=M, maxiter=self.maxiter, **limits)
        return A.to_grid(x)

    def _solve_by_transforms(self, A: Poisson, batch: Tensor) -> Tensor:
        shaped = batch.reshape(-1, *A.grid_shape)
        return solve_box(A, shaped).reshape(batch.shape)

    def _is_solved(self, A: Poisson, g: Tensor, x: Tensor) -> bool:
        """Tell whether x will pass as it is, so that no preconditioner has to be set up."""
        norm = torch.linalg.vector_norm
        return bool(norm(g - A.apply(x)) <= max(self.rtol * float(norm(g)), self.atol))

    def _solve_flat(self, v: Tensor) -> Tensor:
        batch = v.reshape(-1, v.shape[-1]) if v.dim() else v.reshape(1, 1)
        options = {"M": self.M, "rtol": self.rtol, "atol": self.atol, "maxiter": self.maxiter, "strict": True}
        rows = [cg(self.A, row, **options)[0] for row in batch]
        return torch.stack(rows).reshape(v.shape) if rows else v


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in the caller's dtype, unless that loses more than rounding."""
    rounded = x.to(dtype)
    if dtype == x.dtype or not x.numel():
        return rounded
    change = (x - rounded.to(x.dtype)).abs().amax() if bool(torch.isfinite(rounded).all()) else math.inf
    if not float(change) <= torch.finfo(dtype).eps * float(x.abs().amax()):  # twice what rounding is; more: subnormal
        words = f"x of size {float(x.abs().amax()):.3g} leaves the range of {dtype}: pass b in double precision"
        raise ConvergenceError(SolveInfo(1, reason=Reason.NON_FINITE, notes=(words,)), x)
    return rounded


class _Solve(torch.autograd.Function):
    """Autograd's view of x(b, conductances): its own adjoint in b, and differentiable as often as one likes."""

    @staticmethod
    def forward(b: Tensor, solver: _Solver, *conductances: Tensor) -> Tensor:
        return solver(b, conductances)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.solver, *conductances = inputs
        if conductances:
            ctx.save_for_backward(output, *conductances)
            ctx.save_for_forward(output, *conductances)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved: Any = ctx.saved_tensors or (None,)
        x, *conductances = saved
        adjoint = _Solve.apply(grads[0], ctx.solver.adjoint(), *conductances)
        if not conductances:
            return adjoint, None
        c, wanted = OperatorTensors(*conductances), ctx.needs_input_grad[2:]
        found = conductance_gradients(c, _add_batch_axis(x), _add_batch_axis(adjoint), wanted)
        return adjoint, None, *(g if g is None else g.to(t.dtype) for g, t in zip(found, c, strict=True))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        saved: Any = ctx.saved_tensors or (None,)
        x, *conductances = saved
        change, _, *changes = tangents
        if any(t is not None for t in changes):
            pairs = zip(changes[:7], conductances[:7], strict=True)
            zero: Any = [torch.zeros_like(t) if d is None else d for d, t in pairs]
            lost = apply_conductances(OperatorTensors(*[*zero, conductances[7]]), x)
            change = -lost if change is None else change - lost
        return _Solve.apply(change, ctx.solver.adjoint(), *conductances)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], b: Tensor, solver: _Solver, *conductances: Tensor) -> Any:
        if any(d is not None for d in in_dims[2:]):
            raise NotImplementedError("got a vmap over operators; expected one over b: loop over the operators")
        return _Solve.apply(b.movedim(in_dims[0] or 0, 0), solver, *conductances), 0


def _add_batch_axis(v: Tensor) -> Tensor:
    """Give v one leading batch dimension."""
    return v.reshape(-1, *v.shape[-3:])


# --- how products and solutions depend on conductances ----------------------------------------------------------------


class OperatorTensors(NamedTuple):
    """The tensors of a `Poisson` that its products depend on: three of links, three of ground, shift, and who counts.

    >>> len(OperatorTensors.of(Poisson.from_coefficients(torch.ones(3, 4))))
    8
    """

    link_x: Tensor
    link_y: Tensor
    link_z: Tensor
    ground_x: Tensor
    ground_y: Tensor
    ground_z: Tensor
    shift: Tensor
    unknown: Tensor

    @classmethod
    def of(cls, A: Poisson) -> OperatorTensors:
        """Collect them."""
        return cls(*A.links, *A.ground, A.shift, A.unknown)

    @property
    def links(self) -> tuple[Tensor, Tensor, Tensor]:
        """Conductance to the next cell, per axis."""
        return self[0], self[1], self[2]

    @property
    def ground(self) -> tuple[Tensor, Tensor, Tensor]:
        """Conductance to p = 0, per axis."""
        return self[3], self[4], self[5]


def apply_conductances(c: OperatorTensors, x: Tensor) -> Tensor:
    """Return A x for x of shape (..., internal grid), in torch operations that any transform can go through.

    Examples
    --------
    >>> A = Poisson.from_coefficients(torch.rand(3, 4), boundary={"x": "periodic"})
    >>> x = torch.rand(3, 1, 4)
    >>> torch.allclose(apply_conductances(OperatorTensors.of(A), x), A.apply(x), atol=1e-5)
    True
    """
    y = (c.shift + sum(c.ground)) * x
    for d, w in enumerate(c.links):
        flux = w * (x - x.roll(-1, d - 3))  # out of a cell into the next one; the last link is 0 or wraps
        y = y + flux - flux.roll(1, d - 3)
    return torch.where(c.unknown, y, 0)


def conductance_gradients(
    c: OperatorTensors, x: Tensor, adjoint: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return dloss/d(each field of c), None where it is not wanted; x and adjoint (λ): (batch, internal grid).

    The last link along an axis closes the ring; where the axis does not wrap, it is a constant 0 of the builders, and
    its gradient leads nowhere.

    Examples
    --------
    >>> c = OperatorTensors.of(Poisson.from_coefficients([[1.0, 1.0]], boundary="neumann", shift=1.0))
    >>> x = torch.tensor([[[[2.0, 1.0]]]], dtype=torch.float64)
    >>> float(conductance_gradients(c, x, x, [True] * 8)[2][0, 0, 0])              # one face, across which x jumps by 1
    -1.0
    """
    own = -(adjoint * x).sum(0) if any(wanted[3:7]) else None
    found: list[Tensor | None] = [own if w else None for w in wanted]
    for d in range(3):
        if wanted[d]:
            couples = c.unknown & c.unknown.roll(-1, d)
            if c.unknown.shape[d] == 1:
                couples = torch.zeros_like(couples)
            jumps = [v - v.roll(-1, d - 3) for v in (adjoint, x)]
            found[d] = torch.where(couples, -(jumps[0] * jumps[1]).sum(0), 0)
    found[7] = None
    return tuple(found)
