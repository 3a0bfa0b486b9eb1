"""A linear system in torch terms: what the driver and the recurrences see, whatever arrays the caller holds.

A `Poisson` operator becomes a system on its internal grid, anything else one on flat vectors. A and b are scaled by
powers of two if what a recurrence computes from them could overflow or underflow, which changes no digit of the result
as long as x itself can be represented; `System.returned` says whether it can.

Rows of a matrix without neighbours are no part of the grid: they are solved here, x = b / d, and belong to both norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.pde.poisson import vectors
from krylearn.pde.poisson.arrays import times_power_of_two
from krylearn.pde.poisson.fields import Deviation
from krylearn.pde.poisson.units import moderate, power_of_extreme

from ..kernels import product_for
from ..multigrid.preconditioner import NeuralMultigrid
from .arrays import common_dtype, dtype_char, from_torch, library_of, to_torch, torch_map

Map = Callable[[torch.Tensor], torch.Tensor]


class CountedMap:
    """A map that counts its products in `.calls`; `.operator` is what the caller passed.

    `.goal` is a norm of the residual that the driver will find small enough: a recurrence may stop updating there.

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
    power : M is multiplied by this power of two, since A was divided by it; only an `apply` that takes it is asked to

    Examples
    --------
    >>> M = Preconditioner(lambda r: 3 * r)
    >>> M(2.0), M.exact
    (6.0, None)
    """

    def __init__(
        self,
        apply: Callable,
        operator: Any = None,
        project: Map | None = None,
        exact: Callable | None = None,
        power: int = 0,
    ):
        self.apply: Map = partial(apply, power=power) if power else apply
        self.operator, self.project, self.power = operator, project, power
        self.exact = exact and Preconditioner(exact, operator, project, power=power)

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
    lost : norm of what no x changes: of the part of `given` that was projected out, and of b - d x at uncoupled rows
    nullspace : dimension of the null space that was projected out
    norm_b, norm_reachable : norms of the caller's right-hand side and of b
    b_exponent, x_exponent : the caller's b and x are these powers of two times what is in here
    guess_is_lost : A x0 is so much larger than b that nothing of b is left in b - A x0: zero is a better guess
    guess_is_doubtful : that may be so, unless what is large in A x0 cancels
    deviation : what the caller's matrix has more than A, or None
    operator, preconditioner : the caller's A and M
    export : tensor -> the caller's array;  alone : norms of b and of b - d x at uncoupled rows
    """

    A: CountedMap
    given: torch.Tensor
    x: torch.Tensor
    double: torch.dtype
    export: Callable[[torch.Tensor], Any]
    unknowns: int
    project: Map | None = None
    nullspace: int = 0
    b_exponent: int = 0
    x_exponent: int = 0
    alone: tuple[float, float] = (0.0, 0.0)
    guess_is_lost: bool = False
    guess_is_doubtful: bool = False
    deviation: Deviation | None = None
    operator: Any = None
    preconditioner: Any = None

    def __post_init__(self) -> None:
        self.b, lost = self.given, 0.0
        given = self.norm_reachable = self._norm(self.given)
        if self.project:
            self.b = self.project(self.given)
            reachable = self.b if self.b.dtype == self.double else self.project(self.given.to(self.double))
            lost, self.norm_reachable = self._norm(self.given - reachable), self._norm(reachable)
        self.norm_b, self.lost = math.hypot(given, self.alone[0]), math.hypot(lost, self.alone[1])

    def _norm(self, v: torch.Tensor) -> float:
        return float(torch.linalg.vector_norm(v.to(self.double)))

    @property
    def scale(self) -> float:
        """What norms of residuals in here have to be multiplied by."""
        return math.ldexp(1.0, self.b_exponent)

    def remove_null_space(self, x: torch.Tensor) -> None:
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
        r = r if self.deviation is None else r - self.deviation.product(x)
        true = self._norm(r)
        reachable = self._norm(self.project(r)) if self.project else true
        return math.hypot(true, self.alone[1]), reachable

    def refine(self, x: torch.Tensor) -> None:
        """Make the solution of A y = b what it is for the caller's matrix, by what that has more than A, at x near y.

        Only where A was read from a matrix: then a restart is a step of iterative refinement.
        """
        if self.deviation is not None:
            rest = (self.given.to(self.double) - self.deviation.product(x.to(self.double))).to(self.given.dtype)
            self.b = self.project(rest) if self.project else rest

    @property
    def semidefinite(self) -> bool:
        """Whether A is known to be symmetric and positive semidefinite: a Poisson operator without negative shift."""
        A = self.A.operator
        return isinstance(A, Poisson) and (A.voxels is not None or not bool((A.shift < 0).any()))

    @property
    def is_matrix(self) -> bool:
        """Whether A is anything but a Poisson operator, so that nothing is known of it."""
        return not isinstance(self.operator, Poisson)

    def describe_mismatch(self) -> str:
        """Say that M was set up for another operator than A, if it was; else ""."""
        M, A = self.preconditioner, self.operator
        if not (isinstance(M, NeuralMultigrid) and isinstance(A, Poisson)):
            return ""
        A = A.dominant()
        same = M.A is A or (
            M.A.shape == A.shape and torch.equal(M.A.unknown, A.unknown) and torch.equal(M.A.diag, A.diag)
        )
        return "" if same else "M was set up for another operator: call M.update(A), or leave M to cg"

    def finish(self, x: torch.Tensor) -> Any:
        """Return x to the caller."""
        return self.export(times_power_of_two(x, self.x_exponent))

    def returned(self, x: torch.Tensor) -> torch.Tensor:
        """Return x as the caller gets it, in the terms of the system: where it under- or overflows, it differs."""
        if not self.x_exponent:
            return x
        return times_power_of_two(times_power_of_two(x, self.x_exponent), -self.x_exponent)

    def wrap_callback(self, callback: Callable | None) -> Callable | None:
        """Wrap the caller's callback: it gets the same live array each time."""
        if callback is None:
            return None
        live = self.finish(self.x)
        shared = not self.x_exponent and _same_memory(live, self.x)

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
    system = build(A, b, nullspace=nullspace, guess=0.0 if x0 is None or isinstance(x0, str) else largest(to_torch(x0)))
    if M is None and not is_poisson and hasattr(A, "psolve"):
        M = A.psolve  # SciPy's convention
    system.preconditioner = M
    if is_poisson and getattr(M, "serves_meanwhile", False):  # until kernels are compiled
        system.A.apply = system.A.operator.apply
    precondition = None if M is None else _bind_preconditioner(A, b, M, system)
    if x0 is not None and not system.guess_is_lost:
        system.x.copy_(_initial_guess(A, x0, system, precondition))
        if system.guess_is_doubtful and not _is_sensible(system):
            system.x.zero_()
    return system, precondition


def _is_sensible(system: System) -> bool:
    """Tell whether something of b is left in b - A x0 after rounding."""
    calls = system.A.calls
    size, _ = system.residual(system.x)
    system.A.calls = calls
    return size * torch.finfo(system.b.dtype).eps <= system.norm_b


def matrix_system(A: Any, b: Any, *, nullspace: Any = None, guess: float = 0.0) -> System:
    """Make a system of flat vectors from whatever SciPy, CuPy or torch call a matrix or an operator.

    guess : largest entry of x0

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
    size = _largest_entry(A)
    exponent = power_of_extreme(size, dtype)
    if exponent:
        plain, apply = apply, lambda v: times_power_of_two(plain(v), -exponent)
    return _scale_system(
        A=CountedMap(apply, A), b=v.reshape(-1).to(dtype, copy=True), double=double, unknowns=shape[0],
        export=lambda x: from_torch(x, library), project=project, nullspace=dimension, exponent=exponent,
        guess=guess * size, operator=A,
    )  # fmt: skip


def poisson_system(A: Poisson, b: Any, *, nullspace: Any = "auto", guess: float = 0.0) -> System:
    """Make a system on the internal grid of a Poisson operator; x will have the shape and array type of b.

    >>> import numpy as np
    >>> A = Poisson.from_coefficients(np.ones((4, 5)))
    >>> poisson_system(A, np.ones(20)).b.shape
    torch.Size([4, 1, 5])
    """
    grid, alone = vectors.to_parts(A, b)
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
    inside, exponent = moderate(A)
    rows = None if alone is None else A.uncoupled  # b has such entries exactly where A has such rows
    uncoupled = None if alone is None or rows is None else (alone.to(dtype), rows.solution(alone.to(dtype)))

    def export(x: torch.Tensor) -> Any:
        like = x.new_empty(()).expand(shape)
        return from_torch(vectors.from_parts(A, x, None if uncoupled is None else uncoupled[1], like), library)

    return _scale_system(
        A=CountedMap(product_for(inside, grid.device), inside), b=grid.to(dtype, copy=True), double=torch.float64,
        unknowns=A.unknowns, export=export, project=project, nullspace=A.nullspace.dimension if project else 0,
        exponent=exponent, guess=guess * math.ldexp(1.0, exponent), uncoupled=uncoupled,
        uncoupled_diag=None if rows is None else rows.diag, operator=A, deviation=inside.deviation,
    )  # fmt: skip


def largest(v: torch.Tensor) -> float:
    """Return the largest finite magnitude in a tensor.

    >>> largest(torch.tensor([-3.0, 2.0, float("nan")]))
    3.0
    """
    size = float(v.abs().max()) if v.numel() else 0.0
    return size if math.isfinite(size) else float(torch.where(torch.isfinite(v), v.abs(), 0).max())


def _largest_entry(A: Any) -> float:
    """Return the largest magnitude of a matrix, 0 of what does not show its entries."""
    if isinstance(A, torch.Tensor):
        return largest(A.values() if A.layout is torch.sparse_csr else A.coalesce().values() if A.is_sparse else A)
    values = A if isinstance(A, np.ndarray) else getattr(A, "data", None)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fciu" or not values.size:
        return 0.0
    return float(abs(values).max())


def _scale_system(
    *, b: torch.Tensor, exponent: int, guess: float, uncoupled: Any = None, uncoupled_diag: Any = None, **facts: Any
) -> System:
    """Make the system, after scaling b by a power of two if its norm, or that of A x0, needs that.

    exponent : that of A inside, which is A / 2^exponent;  guess : size of A x0
    uncoupled : b and x at uncoupled rows, whose diagonal is uncoupled_diag
    """
    far, limit, lost = (200, 1000, 400) if b.dtype in (torch.float64, torch.complex128) else (20, 120, 30)
    found = math.frexp(max(largest(b), largest(uncoupled[0]) if uncoupled else 0.0))[1]
    beyond = math.frexp(guess)[1] - found if 0 < guess < math.inf else 0
    found += beyond if 0 < beyond <= lost else 0
    b_exponent = max(-limit, min(found, limit)) if abs(found) > far else 0
    b = times_power_of_two(b, -b_exponent)
    alone = (0.0, 0.0)
    if uncoupled:
        given, x = (times_power_of_two(v.double(), -b_exponent) for v in uncoupled)
        rest = given - times_power_of_two(uncoupled_diag.double(), 0) * x
        alone = (float(torch.linalg.vector_norm(given)), float(torch.linalg.vector_norm(rest)))
    return System(
        given=b,
        guess_is_lost=guess > 0 and beyond > lost,
        guess_is_doubtful=math.ldexp(torch.finfo(b.dtype).eps, min(beyond, 1000)) > 1,
        x=torch.zeros_like(b),
        b_exponent=b_exponent,
        x_exponent=b_exponent - exponent,
        alone=alone,
        **facts,
    )


def _bind_preconditioner(A: Any, b: Any, M: Any, system: System) -> Preconditioner:
    """Return M between tensors of the system; refuse what cannot belong to A."""
    shape = getattr(M, "shape", None)
    expected = A.shape if isinstance(A, Poisson) else (system.b.numel(),) * 2
    if shape is not None and tuple(shape) != tuple(expected):
        raise ValueError(f"M has shape {tuple(shape)}, A {tuple(expected)}; expected the same: build M from this A")
    if isinstance(M, torch.Tensor) and M.device != system.b.device:
        raise ValueError(
            f"M is on {M.device}, b on {system.b.device}; expected one device: move one of them with .to()"
        )
    power = system.b_exponent - system.x_exponent  # of A; M is that many times larger
    if isinstance(A, Poisson):
        if isinstance(M, NeuralMultigrid) and M.A.grid_shape == A.grid_shape and M.A.device == A.device:
            return Preconditioner(M.apply, M, system.project, M.exact, power)  # on internal grids, no conversion
        apply = _grid_map(A, M, library_of(b))
    else:
        apply = torch_map(_torch_operator(M, system.b.dtype), library_of(b), "M")
    return Preconditioner((lambda r: times_power_of_two(apply(r), power)) if power else apply, M, system.project)


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
    return times_power_of_two(x.to(system.double), -system.x_exponent).to(system.b.dtype)


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
    if not bool(torch.isfinite(N).all()):
        raise ValueError("got NaN or infinity in nullspace; expected finite vectors")
    sizes = N.abs().amax(0)
    N = N[:, sizes > 0] / sizes[sizes > 0]  # zero columns span nothing, and the unit of a column does not matter
    if not N.shape[1]:
        return None, 0
    basis, singular, _ = torch.linalg.svd(N / torch.linalg.vector_norm(N, dim=0), full_matrices=False)
    basis = basis[:, singular > 1e-10 * singular[0]]  # neither do columns that depend on others
    return (lambda v: v - (basis @ (basis.mH @ v.to(basis.dtype))).to(v.dtype)), basis.shape[1]


def _same_memory(array: Any, x: torch.Tensor) -> bool:
    """Tell whether a change of x shows in the array."""
    return to_torch(array).data_ptr() == x.data_ptr()
