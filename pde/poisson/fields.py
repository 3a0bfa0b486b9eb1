"""`PoissonFields`: what a Poisson operator consists of, as plain data on the internal grid.

Modules that assemble, scatter vectors or look for a null space read these fields; `operator.Poisson` extends them by
behaviour. Results derived from an operator are kept with it in a typed `Slot`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .cells import Voxels
from .conductances import Conductances, Triple
from .grid import Kinds, internal_axes

T = TypeVar("T")


class Uncoupled(NamedTuple):
    """Rows of a matrix that consist of a diagonal entry alone, d x = b; they are no part of the stencil.

    cells : flat cells of the internal grid, ascending;  diag : the entries, > 0 or, of empty rows, 0
    """

    cells: Tensor
    diag: Tensor

    @property
    def inverse(self) -> Tensor:
        """1 / d; of an empty row 1, so that a preconditioner stays definite there."""
        return 1 / torch.where(self.diag > 0, self.diag, 1)

    def solution(self, b: Tensor) -> Tensor:
        """Return x with d x = b for values (..., m) at these rows, in the wider dtype: 0 where d is 0."""
        return torch.where(self.diag > 0, b / torch.where(self.diag > 0, self.diag, 1), 0)


class Deviation(NamedTuple):
    """What a matrix has more than the operator that was read from it: rounding of sums, and of both triangles.

    rows, columns : flat cells of the internal grid;  values : the entries, in the precision of the operator

    >>> one = torch.tensor([0])
    >>> Deviation(one, one, torch.tensor([0.5])).product(torch.full((2, 1, 1), 4.0)).flatten().tolist()
    [2.0, 0.0]
    """

    rows: Tensor
    columns: Tensor
    values: Tensor

    def product(self, x: Tensor) -> Tensor:
        """Return the product with x on the internal grid, with leading batch dimensions."""
        flat = x.reshape(*x.shape[:-3], -1)
        y = torch.zeros_like(flat)
        y.index_add_(-1, self.rows, flat[..., self.columns] * self.values.to(x.dtype))
        return y.reshape(x.shape)


@dataclass(frozen=True, eq=False, repr=False)
class PoissonFields:
    """The data of an operator; `Poisson` documents them.

    Attributes
    ----------
    uncoupled : rows of a matrix without neighbours, or None; `unknown` is False there
    deviation : the matrix that the operator was read from minus the operator, or None: a solve is judged on the matrix
    source : the conductances, or the cells that they are computed from when one of them is first asked for
    cache : results derived from the operator; neither copied by `.to` nor pickled. Read and write it by a `Slot`.
    facts : the same for results that neither precision nor device changes; go along with `.to`

    Examples
    --------
    >>> one = torch.ones(2, 1, 1)
    >>> none = torch.zeros(2, 1, 1)
    >>> given = Conductances((torch.tensor([3.0, 0.0]).reshape(2, 1, 1), none, none), (none, none, none), one)
    >>> A = PoissonFields((2, 1), (1.0, 1.0), (("neumann", "neumann"),) * 2, one > 0, given)
    >>> A.diag.flatten().tolist()
    [4.0, 4.0]
    """

    grid_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    boundary: Kinds
    unknown: Tensor
    source: Conductances | Voxels
    open: Tensor | None = None
    numbering: Tensor | None = None
    uncoupled: Uncoupled | None = None
    deviation: Deviation | None = None
    cache: dict[str, Any] = field(init=False, default_factory=dict)
    facts: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.source, Conductances) and not bool(torch.isfinite(self.diag.max())):
            raise ValueError(f"got conductances that overflow {self.dtype}; expected finite sums: rescale kappa")
        if isinstance(self.source, Conductances) and float(self.diag.detach().min()) < 0:
            low = float(self.diag.detach().min())
            raise ValueError(f"got a shift that makes a diagonal {low:g}; expected > 0: A would be indefinite")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": {}}

    # --- conductances -----------------------------------------------------------------------------------------------
    @property
    def voxels(self) -> Voxels | None:
        """The cells that the operator was built from, None if it was built from conductances."""
        return self.source if isinstance(self.source, Voxels) else None

    @cached_property
    def conductances(self) -> Conductances:
        """The conductances; of voxels computed when first asked for."""
        return self.source if isinstance(self.source, Conductances) else self.source.conductances()

    @property
    def links(self) -> Triple:
        """links[d][i] couples cell i with the next one along internal axis d."""
        return self.conductances.links

    @property
    def ground(self) -> Triple:
        """Conductance from a cell to p = 0 through its faces normal to d."""
        return self.conductances.ground

    @property
    def shift(self) -> Tensor:
        """What else adds to the diagonal."""
        return self.conductances.shift

    @property
    def sides(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """The part of `ground` that belongs to the sides of the box."""
        return self.conductances.sides

    @cached_property
    def diag(self) -> Tensor:
        """The diagonal, zero where there is no unknown."""
        diag = self.shift.clone()
        for d, (w, ground) in enumerate(zip(self.links, self.ground, strict=True)):
            last = w.shape[d] - 1
            diag += ground
            diag += w
            diag.narrow(d, 1, last).add_(w.narrow(d, 0, last))
            diag.narrow(d, 0, 1).add_(w.narrow(d, last, 1))  # 0 unless the axis wraps
        return diag

    # --- facts ------------------------------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        n = self.unknown.numel() if self.numbering is None else self.numbering.numel()
        return (n, n)

    @cached_property
    def unknowns(self) -> int:
        """Number of cells that hold an unknown."""
        alone = 0 if self.uncoupled is None else int((self.uncoupled.diag > 0).sum())
        return int(self.unknown.sum()) + alone

    @cached_property
    def full(self) -> bool:
        """Whether every cell holds an unknown."""
        in_numpy = self.voxels is not None and self.unknown.is_cpu  # NumPy looks at bytes thirty times faster
        return bool((self.unknown.numpy() if in_numpy else self.unknown).all())

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of the conductances."""
        return self.source.dtype if isinstance(self.source, Voxels) else self.source.shift.dtype

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of the conductances (SciPy asks for it)."""
        return np.dtype(np.float32) if self.torch_dtype == torch.float32 else np.dtype(np.float64)

    @property
    def device(self) -> torch.device:
        """Where the operator is."""
        return self.unknown.device

    @property
    def periodic(self) -> tuple[bool, bool, bool]:
        """Whether each internal axis wraps."""
        wraps = [False, False, False]
        for d, (low, _) in zip(internal_axes(len(self.grid_shape)), self.boundary, strict=True):
            wraps[d] = low == "periodic"
        return (wraps[0], wraps[1], wraps[2])


class Slot(Generic[T]):
    """A typed place for one result derived from an operator, declared by the module that computes it.

    name : unique among all slots;  travels : whether the result holds in every precision and on every device

    Examples
    --------
    >>> CELLS = Slot[int]("number of cells")
    >>> one, none = torch.ones(2, 1, 1), torch.zeros(2, 1, 1)
    >>> given = Conductances((none,) * 3, (none,) * 3, one)
    >>> A = PoissonFields((2, 1), (1.0, 1.0), (("neumann", "neumann"),) * 2, one > 0, given)
    >>> CELLS.get(A), CELLS.compute_once(A, lambda: 2), CELLS.get(A)
    (None, 2, 2)
    """

    def __init__(self, name: str, travels: bool = False) -> None:
        self.name, self.travels = name, travels

    def _values(self, A: PoissonFields) -> dict[str, Any]:
        return A.facts if self.travels else A.cache

    def is_filled(self, A: PoissonFields) -> bool:
        """Tell whether the result, which may be None, has been computed."""
        return self.name in self._values(A)

    def get(self, A: PoissonFields) -> T | None:
        """Return what is kept, or None."""
        return self._values(A).get(self.name)

    def put(self, A: PoissonFields, value: T) -> T:
        """Keep a result and return it."""
        self._values(A)[self.name] = value
        return value

    def clear(self, A: PoissonFields) -> None:
        """Forget what is kept."""
        self._values(A).pop(self.name, None)

    def compute_once(self, A: PoissonFields, compute: Callable[[], T]) -> T:
        """Return what is kept; compute it if nothing is. Threads that ask at once get the same, whoever was first."""
        return self._values(A)[self.name] if self.is_filled(A) else self._values(A).setdefault(self.name, compute())
