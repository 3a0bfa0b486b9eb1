"""`cg_steps` over the fused CPU kernels: the same recurrence, its vector updates merged, in place.

    q = A p with p.q | x += alpha p, r -= alpha q, r.r and the cycle's right-hand side | z = M r | r.z | p = z + beta p

Per unknown and step 15 words of the outer dtype (and 3 of the cycle's), the four words of A included. The cycle gets r
divided by a power of two near its norm, so that fp32 never under- or overflows and a scaled system takes the same
steps. Reductions do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Step:
    """What the kernels need of A, and one partial sum per row."""

    links: tuple[Any, ...]

    def __init__(self, operator: Any, b: Tensor, bytes_allowed: bool = False) -> None:
        from .cell_bytes import find_cell_bytes

        given_in_bytes = operator.voxels is not None  # then the bytes are the operator
        codes = find_cell_bytes(operator) if bytes_allowed or given_in_bytes else None
        self.unit = 1.0 if codes is None else codes.unit  # q = A p / unit
        if codes is not None:
            self.links, self.diag = codes.links, codes.diag
        else:
            self.links = tuple(w.to(b.dtype).contiguous().numpy() for w in operator.links)
            self.diag = operator.diag.to(b.dtype).contiguous().numpy()
        self.sums = np.empty(b.shape[0] * b.shape[1])
        self.kind = np.dtype(str(b.dtype).removeprefix("torch.")).type

    def rows(self, t: Tensor) -> Any:
        """View a contiguous grid as rows along z."""
        return t.numpy().reshape(-1, t.shape[-1])

    def total(self) -> float:
        """Sum over rows, in a fixed order."""
        return float(self.sums.sum())


class FusedProduct:
    """x -> A x for one internal grid of a Poisson operator on the CPU."""

    def __init__(self, operator: Any) -> None:
        self.operator = operator

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x in memory of its own."""
        from .compile import threads_for
        from .smoothing import apply_dot

        s, x, y = Step(self.operator, x), x.contiguous(), torch.empty_like(x)
        with threads_for(x.numel()):
            apply_dot(s.diag, s.links, x.numpy(), y.numpy(), s.sums)
        return y if s.unit == 1 else y.mul_(s.unit)

    def residual(self, b: Tensor, x: Tensor) -> Tensor:
        """Return b - A x, with no memory beside the result."""
        y = self(x)
        return torch.sub(b, y, out=y)


def fused_cg_steps(A: Any, b: Tensor, x: Tensor, M: Any) -> Iterator[tuple[Tensor, Tensor, float, tuple[Any, ...]]]:
    """Yield the states of `cg_steps` for a Poisson operator on the CPU.

    Parameters
    ----------
    A : counted map whose `operator` is the Poisson operator
    b, x : contiguous internal grids; x is updated in place
    M : None or a map; its `operator` may be a NeuralMultigrid, whose cycle then runs without conversions
    """
    from .compile import threads_for
    from .smoothing import apply_dot
    from .threads import PACE
    from .vectors import dot_rows, update_direction, update_solution

    with preconditioner(M, b) as apply_m:  # whose work space nobody else gets until this solve ends
        r = b - A(x) if bool(x.any()) else b.clone()
        p, q, s = torch.zeros_like(b), torch.empty_like(b), Step(A.operator, b, bytes_allowed=True)
        kind, x_rows, r_rows, p_rows, q_rows = s.kind, s.rows(x), s.rows(r), s.rows(p), s.rows(q)
        rr, rz = float(torch.linalg.vector_norm(r.double())) ** 2, math.inf
        apply_m.load(r, rr)
        yield x, r, rr, ()
        with_threads = PACE.step if isinstance(apply_m, Cycle) else threads_for  # other maps take who knows how long
        while True:
            with with_threads(b.numel()):
                z_rows, scale = apply_m(r, rr)
                dot_rows(r_rows, z_rows, s.sums)
                rz, rz_old = scale * s.total(), rz
                update_direction(p_rows, z_rows, kind(scale), kind(rz / rz_old if rz_old else math.nan))
                apply_dot(s.diag, s.links, p.numpy(), q.numpy(), s.sums)
                A.calls += 1
                pAp = s.unit * s.total()
                alpha = rz / pAp if pAp else math.nan
                if math.isfinite(alpha):
                    steps = kind(alpha), kind(alpha * s.unit), kind(apply_m.factor(rr))
                    update_solution(x_rows, r_rows, p_rows, q_rows, *steps, apply_m.rows, s.sums)
                    rr = s.total()
                else:  # x stays the last finite iterate
                    r.fill_(math.nan)
                    rr = math.nan
            yield x, r, rr, (rz, pAp)


class Cycle:
    """z = M r by a fused V-cycle: the update of r has already written the cycle's right-hand side."""

    def __init__(self, cycle: Any, operator: Any, power: int = 0) -> None:
        self.cycle, self.exponent, self.mantissa = cycle, operator.exponent - power, operator.mantissa
        self.power, self.loan = 0, cycle.borrow() if hasattr(cycle, "borrow") else None

    def __enter__(self) -> Cycle:
        """Borrow the work space of the cycle, where it lends some."""
        if self.loan is not None:
            self.cycle = self.loan.__enter__()
        self.input = self.cycle.input  # asked for once: of some cycles it is new memory each time
        self.rows = self.input.reshape(-1, self.input.shape[-1])
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self.loan is not None:
            self.loan.__exit__()

    def factor(self, rr: float) -> float:
        """Return the power of two that brings r to about norm 1; asked before r is written, so from the norm before."""
        self.power = math.frexp(math.sqrt(rr))[1] if 0 < rr < math.inf else 0
        return math.ldexp(1.0, -self.power)

    def load(self, r: Tensor, rr: float) -> None:
        """Write the first right-hand side."""
        self.input[...] = (r * self.factor(rr)).numpy()

    def __call__(self, r: Tensor, rr: float) -> tuple[Any, float]:
        """Return z as rows along z, and its scale."""
        z = self.cycle(self.input)
        return z.reshape(-1, z.shape[-1]), math.ldexp(1.0 / self.mantissa, self.power - self.exponent)


class Map:
    """z = M r by any map on internal grids; None is the identity."""

    def __init__(self, M: Any, b: Tensor) -> None:
        self.M = M
        self.rows = np.empty((b.shape[0] * b.shape[1], b.shape[2]), np.float32)  # nobody reads it

    def __enter__(self) -> Map:
        """Borrow nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give nothing back."""

    def factor(self, rr: float) -> float:
        """Return 1: nothing to scale."""
        return 1.0

    def load(self, r: Tensor, rr: float) -> None:
        """Do nothing: r is read when the map is applied."""

    def __call__(self, r: Tensor, rr: float) -> tuple[Any, float]:
        """Return z as rows along z, and its scale."""
        z = r if self.M is None else self.M(r).contiguous()
        return z.numpy().reshape(-1, z.shape[-1]), 1.0


def preconditioner(M: Any, b: Tensor) -> Cycle | Map:
    """Take the fused cycle where M has one for these grids, else the map itself."""
    operator: Any = getattr(M, "operator", None)
    fused = getattr(operator, "fused", None)
    if fused is None or operator.A.unknown.shape != b.shape or not getattr(fused, "levels", True):
        return Map(M, b)
    return Cycle(fused, operator, getattr(M, "power", 0))
