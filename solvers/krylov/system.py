"""A linear system in torch terms: what the driver and the recurrences see, whatever arrays the caller holds.

A `Poisson` operator becomes a system on its internal grid, anything else one on flat vectors. Both are scaled by a
power of two if the norm of b could overflow or underflow, which changes no digit of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson

from ..kernels import product_for
from ..multigrid.preconditioner import NeuralMultigrid
from .arrays import common_dtype, dtype_char, from_torch, library_of, to_torch, torch_map

Map = Callable[[torch.Tensor], torch.Tensor]


class CountedMap:
    """A map that counts its products in `.calls`; `.operator` is what the caller passed.

    `.goal` is a norm of the residual that the driver will find small enough: a recurrence may stand still there.

    >>> A = CountedMap(lambda v: 2 * v)
    >>> A(1.0), A.calls
    (2.0, 1)
    """

    def __init__(self, apply: Map, operator: Any = None):
        self.apply, self.operator, self.calls, self.goal = apply, operator, 0, 0.0

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        """Return A v."""
        self.calls += 1
        return self.apply(v)


class Preconditioner:
    """M between tensors of a system, with the null space taken out on both sides.

    Attributes
    ----------
    operator : what the caller passed;  project : removes the null space, or None
    exact : the same in full precision, or None if there is no such thing

    Examples
    --------
    >>> M = Preconditioner(lambda r: 3 * r)
    >>> M(2.0), M.exact
    (6.0, None)
    """

    def __init__(self, apply: Map, operator: Any = None, project: Map | None = None, exact: Map | None = None):
        self.apply, self.operator, self.project = apply, operator, project
        self.exact = exact and Preconditioner(exact, operator, project)

    def __call__(self, r: torch.Tensor) -> torch.Tensor:
        """Return M r."""
        return self.apply(r) if self.project is None else self.project(self.apply(self.project(r)))


@dataclass
class System:
    """A x = b inside. Vectors are tensors of one dtype and device; b is the part of `given` that A can reach.

    Attributes
    ----------
    A : CountedMap;  b, x : tensors, x is the initial guess and belongs to the system
    double : dtype for b - A x;  project : removes the null space, or None
    lost : norm of the part of `given` that was projected out;  nullspace : its dimension
    norm_b, norm_reachable : norms of `given` and of b
    scale : power of two that b was divided by;  export : tensor -> the caller's array
    """

    A: CountedMap
    given: torch.Tensor
    x: torch.Tensor
    double: torch.dtype
    export: Callable[[torch.Tensor], Any]
    unknowns: int
    project: Map | None = None
    nullspace: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.b, self.lost = self.given, 0.0
        self.norm_b = self.norm_reachable = self._norm(self.given)
        if self.project:
            self.b = self.project(self.given)
            reachable = self.b if self.b.dtype == self.double else self.project(self.given.to(self.double))
            self.lost, self.norm_reachable = self._norm(self.given - reachable), self._norm(reachable)

    def _norm(self, v: torch.Tensor) -> float:
        return float(torch.linalg.vector_norm(v.to(self.double)))

    def gauge(self, x: torch.Tensor) -> None:
        """Remove from x, in place, its part in the null space."""
        if self.project:
            x.copy_(self.project(x))

    def residual(self, x: torch.Tensor) -> tuple[float, float]:
        """Return ‖b - A x‖ for b as given, and for what A can reach; in double precision where A allows it."""
        b, x = self.given.to(self.double), x.to(self.double)
        if hasattr(self.A.apply, "residual"):  # needs no memory of its own
            self.A.calls += 1
            r = self.A.apply.residual(b, x)
        else:
            r = b - self.A(x)
        true = self._norm(r)
        return true, self._norm(self.project(r)) if self.project else true

    def finish(self, x: torch.Tensor) -> Any:
        """Return x to the caller."""
        return self.export(x if self.scale == 1.0 else x * self.scale)

    def watcher(self, callback: Callable | None) -> Callable | None:
        """Wrap the caller's callback: it gets the same live array each time."""
        if callback is None:
            return None
        live = self.finish(self.x)
        shared = self.scale == 1.0 and _same_memory(live, self.x)

        def watch(x: torch.Tensor) -> None:
            if not shared:
                live[...] = self.finish(x)
            callback(live)

        return watch


def open_system(A: Any, b: Any, x0: Any, M: Any, *, nullspace: Any = "auto") -> tuple[System, Preconditioner | None]:
    """Return the system and the preconditioner in its terms (None: the identity); refuse what does not fit together."""
    if isinstance(nullspace, str) and nullspace != "auto":
        raise ValueError(f'nullspace is {nullspace!r}; expected "auto", None, or vectors that span it')
    is_poisson = isinstance(A, Poisson)
    build = poisson_system if is_poisson else matrix_system
    system = build(A, b, nullspace=nullspace)
    if M is None and not is_poisson and hasattr(A, "psolve"):
        M = A.psolve  # SciPy's convention
    precondition = None if M is None else _preconditioner(A, b, M, system)
    if x0 is not None:
        system.x.copy_(_initial_guess(A, x0, system, precondition))
    return system, precondition


def matrix_system(A: Any, b: Any, *, nullspace: Any = None) -> System:
    """Make a system of flat vectors from whatever SciPy, CuPy or torch call a matrix or an operator.

    >>> import numpy as np
    >>> matrix_system(np.diag([1.0, 2.0]), [3, 4]).b
    tensor([3., 4.], dtype=torch.float64)
    """
    library = library_of(b)
    v = to_torch(b)
    shape = tuple(getattr(A, "shape", None) or (v.numel(), v.numel()))
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"A has shape {shape}; expected a square matrix")
    if v.shape not in ((shape[1],), (shape[1], 1)):
        raise ValueError(f"b has shape {tuple(v.shape)}, A {shape}; expected b ({shape[1]},) or ({shape[1]}, 1)")
    if isinstance(A, torch.Tensor) and A.device != v.device:
        raise ValueError(f"A is on {A.device}, b on {v.device}; expected one device: move one of them with .to()")
    dtype = common_dtype(*([A] if dtype_char(A) else []), v)
    apply = torch_map(_torch_operator(A, dtype), library, "A")
    double = torch.promote_types(dtype, torch.float64) if dtype_char(A) else dtype  # bare callables may want b's dtype
    project, dimension = _span_projection(nullspace, v, dtype)
    return _scaled(
        A=CountedMap(apply, A), b=v.reshape(-1).to(dtype, copy=True), double=double, unknowns=shape[0],
        export=lambda x: from_torch(x, library), project=project, nullspace=dimension,
    )  # fmt: skip


def poisson_system(A: Poisson, b: Any, *, nullspace: Any = "auto") -> System:
    """Make a system on the internal grid of a Poisson operator; x will have the shape and array type of b.

    >>> import numpy as np
    >>> A = Poisson.from_coefficients(np.ones((4, 5)))
    >>> poisson_system(A, np.ones(20)).b.shape
    torch.Size([4, 1, 5])
    """
    grid = A.to_grid(b)
    if grid.dim() != 3:
        raise ValueError(
            f"b has shape {tuple(b.shape)}; expected ({A.shape[0]},) or {A.grid_shape}: loop, or use solve()"
        )
    dtype = torch.promote_types(A.torch_dtype, grid.dtype)
    if not isinstance(nullspace, str) and nullspace is not None:
        raise ValueError(
            'got vectors for nullspace; a Poisson operator knows its own: pass "auto", or None to ignore it'
        )
    project = A.nullspace.project if nullspace == "auto" and A.nullspace else None
    shape = tuple(b.shape if isinstance(b, torch.Tensor) else np.shape(b))
    if shape == (A.shape[0], 1) != A.grid_shape:
        shape = shape[:1]  # SciPy's x is (n,) for a b of one column
    library = library_of(b)

    product = product_for(A, grid.device)

    def export(x: torch.Tensor) -> Any:
        return from_torch(A.from_grid(x, x.new_empty(()).expand(shape)), library)

    return _scaled(
        A=CountedMap(product, A), b=grid.to(dtype, copy=True), double=torch.float64, unknowns=A.unknowns,
        export=export, project=project, nullspace=A.nullspace.dimension if project else 0,
    )  # fmt: skip


def _scaled(*, b: torch.Tensor, **facts: Any) -> System:
    """Make the system, after scaling b by a power of two if its norm needs that."""
    exponent = math.frexp(float(b.abs().max()))[1] if b.numel() else 0
    far, limit = (200, 1000) if b.dtype in (torch.float64, torch.complex128) else (20, 120)
    scale = 1.0
    if abs(exponent) > far and bool(torch.isfinite(b).all()):
        scale = math.ldexp(1.0, max(-limit, min(exponent, limit)))
        b = b * (1 / scale)
    return System(given=b, x=torch.zeros_like(b), scale=scale, **facts)


def _preconditioner(A: Any, b: Any, M: Any, system: System) -> Preconditioner:
    """Return M between tensors of the system; refuse what cannot belong to A."""
    shape = getattr(M, "shape", None)
    expected = A.shape if isinstance(A, Poisson) else (system.b.numel(),) * 2
    if shape is not None and tuple(shape) != tuple(expected):
        raise ValueError(f"M has shape {tuple(shape)}, A {tuple(expected)}; expected the same: build M from this A")
    if isinstance(M, torch.Tensor) and M.device != system.b.device:
        raise ValueError(
            f"M is on {M.device}, b on {system.b.device}; expected one device: move one of them with .to()"
        )
    if isinstance(A, Poisson):
        if isinstance(M, NeuralMultigrid) and M.A.grid_shape == A.grid_shape and M.A.device == A.device:
            return Preconditioner(M.apply, M, system.project, M.exact)  # on internal grids, no conversion
        apply = _grid_map(A, M, library_of(b))
    else:
        apply = torch_map(_torch_operator(M, system.b.dtype), library_of(b), "M")
    return Preconditioner(apply, M, system.project)


def _grid_map(A: Poisson, M: Any, library: str) -> Map:
    """Return M, which takes flat vectors, as a map on the internal grid."""
    flat_map = torch_map(M, library, "M")

    def apply(r: torch.Tensor) -> torch.Tensor:
        flat = A.from_grid(r, r.new_empty(()).expand(A.shape[0]))
        return A.to_grid(flat_map(flat))

    return apply


def _initial_guess(A: Any, x0: Any, system: System, M: Map | None) -> torch.Tensor:
    """Return x0, or M b for "Mb", in the system's terms."""
    if isinstance(x0, str):
        if x0 != "Mb":
            raise ValueError(f'x0 is {x0!r}; expected an array, None, or "Mb"')
        return M(system.b) if M else system.b
    if isinstance(A, Poisson):
        x = A.to_grid(x0)
    else:
        x, n = to_torch(x0), system.b.numel()
        if x.shape not in ((n,), (n, 1)):
            raise ValueError(f"x0 has shape {tuple(x.shape)}; expected ({n},) or ({n}, 1)")
        x = x.reshape(-1)
    if x.shape != system.b.shape:
        raise ValueError(f"x0 has shape {tuple(x.shape)}; expected that of b, {tuple(system.b.shape)}")
    if x.device != system.b.device:
        raise ValueError(
            f"x0 is on {x.device}, b on {system.b.device}; expected one device: move one of them with .to()"
        )
    if x.is_complex() and not system.b.is_complex():
        raise TypeError("x0 is complex, A and b are real; pass its real part")
    return x.to(system.b.dtype) / system.scale


def _torch_operator(op: Any, dtype: torch.dtype) -> Any:
    """Bring a torch matrix to the working precision, which torch's products insist on."""
    return op.to(dtype) if isinstance(op, torch.Tensor) and op.dtype != dtype else op


def _span_projection(nullspace: Any, b: torch.Tensor, dtype: torch.dtype) -> tuple[Map | None, int]:
    """Return the orthogonal projection away from the given vectors, and their number."""
    if nullspace is None or isinstance(nullspace, str):
        return None, 0
    N = to_torch(nullspace).to(b.device, torch.promote_types(dtype, torch.float64))
    N = N.reshape(-1, 1) if N.dim() == 1 else N
    if N.dim() != 2 or N.shape[0] != b.numel():
        raise ValueError(f"nullspace has shape {tuple(N.shape)}; expected ({b.numel()},) or ({b.numel()}, k)")
    basis = torch.linalg.qr(N).Q
    return (lambda v: v - (basis @ (basis.mH @ v.to(basis.dtype))).to(v.dtype)), basis.shape[1]


def _same_memory(array: Any, x: torch.Tensor) -> bool:
    """Tell whether a change of x shows in the array."""
    return to_torch(array).data_ptr() == x.data_ptr()
