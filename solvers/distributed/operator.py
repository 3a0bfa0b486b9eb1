"""`DistributedPoisson`: the operator of `krylearn.pde.Poisson` with every rank holding its own cells only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from krylearn.pde.poisson.grid import Kinds, parse_boundary

from . import builders
from .builders import Fields, local_array
from .halo import from_rank_order, make_vector, to_rank_order
from .matrices import assemble_operator
from .null_space import DistributedNullSpace
from .partition import Array, Partition
from .petsc_library import collective_errors, free_at_exit, load_petsc
from .product import StencilProduct


class DistributedPoisson:
    """A grid-structured symmetric positive (semi)definite operator on several ranks; build it with a `from_...` method.

    The formulas, boundaries and null spaces are those of `krylearn.pde.Poisson`. Every rank passes the part of the data
    that its `Partition` gives it, and gets the same part of a solution: no process ever holds the whole. All methods
    are collective: every rank calls them. Vectors are arrays over own cells, NumPy or torch.

    Attributes
    ----------
    part : Partition;  fields : Fields, conductances of own cells;  spacing, boundary : as in `Poisson`
    unknowns : number of unknowns on all ranks
    nullspace : DistributedNullSpace, of components that may span ranks

    Examples
    --------
    A program for ``mpirun -n 4 python -m mpi4py program.py``::

        part = Partition((400, 300, 200))
        A = DistributedPoisson.from_coefficients(np.load("kappa.npy", mmap_mode="r")[part.own], part)
        x, info = cg(A, np.ones(part.own_shape), rtol=1e-8)
    """

    def __init__(self, part: Partition, fields: Fields, spacing: tuple[Any, ...], boundary: Kinds) -> None:
        load_petsc()
        self.product = StencilProduct(part, fields)
        free_at_exit(self.product)
        fields = builders.thin_fields(fields._replace(links=self.product.links))  # kept once
        self.part, self.fields, self.spacing, self.boundary = part, fields, spacing, boundary
        self.grid_shape, self.comm = part.grid_shape, part.comm
        self.diag = self.product.diag
        with collective_errors(part.comm):
            if self.diag.size and not np.isfinite(self.diag.max()):
                raise ValueError("got conductances that overflow float64; expected finite sums: rescale kappa")
        self.unknowns = int(part.comm.allreduce(int(fields.unknown.sum())))
        self.cache: dict[Any, Any] = {}

    # --- builders -----------------------------------------------------------------------------------------------------
    @classmethod
    def from_cells(
        cls, cells: Any, part: Partition, spacing: Any = 1.0, boundary: Any = "neumann", shift: Any = None
    ) -> DistributedPoisson:
        """Build the pressure operator of a fluid from this rank's `Cell` codes, ``codes[part.own]``."""
        part, kinds = _with_boundary(part, boundary, "neumann")
        fields, h = builders.from_coefficients(part, None, spacing, kinds, shift, cells)
        return cls(part, fields, h, kinds)

    @classmethod
    def from_coefficients(
        cls,
        kappa: Any,
        part: Partition,
        spacing: Any = 1.0,
        boundary: Any = "dirichlet",
        shift: Any = None,
        *,
        cells: Any = None,
    ) -> DistributedPoisson:
        """Build -div(kappa grad) + shift from this rank's coefficients, ``kappa[part.own]``."""
        part, kinds = _with_boundary(part, boundary, "dirichlet")
        fields, h = builders.from_coefficients(part, kappa, spacing, kinds, shift, cells)
        return cls(part, fields, h, kinds)

    @classmethod
    def from_faces(
        cls, faces: Sequence[Any], part: Partition, extra: Any = None, boundary: Any = "neumann", *, spacing: Any = 1.0
    ) -> DistributedPoisson:
        """Build from the conductances of all faces of this rank's cells: n + 1 entries along each array's own axis.

        A face between two ranks is passed by both. The outer entries of the grid couple to p = 0 outside, or wrap.
        """
        part, kinds = _with_boundary(part, boundary, "neumann")
        fields = builders.from_faces(part, faces, extra, kinds)
        with collective_errors(part.comm):
            h = builders.axis_sizes(spacing, part.grid_shape)
        return cls(part, fields, h, kinds)

    @classmethod
    def from_operator(cls, A: Poisson, part: Partition) -> DistributedPoisson:
        """Distribute an operator that every rank holds whole: for systems that one machine holds, and for tests."""
        with collective_errors(part.comm):
            if A.grid_shape != part.grid_shape:
                raise ValueError(f"got a partition of {part.grid_shape}; expected one of {A.grid_shape}")
        own = tuple(slice(lo, hi) for lo, hi in part.ranges)
        links, ground = (
            np.stack([v.detach().cpu().double().numpy()[own] for v in values], -1) for values in (A.links, A.ground)
        )
        shift, unknown = A.shift.detach().cpu().double().numpy()[own].copy(), A.unknown.cpu().numpy()[own].copy()
        fields = Fields(links, ground, shift, unknown)
        return cls(replace(part, periodic=A.periodic), fields, A.spacing, A.boundary)

    @classmethod
    def from_files(
        cls,
        kappa: str | Path | None = None,
        cells: str | Path | None = None,
        *,
        comm: Any = None,
        ranks: Sequence[int] | None = None,
        cuts: Sequence[Sequence[int]] | None = None,
        spacing: Any = 1.0,
        boundary: Any = None,
        shift: Any = None,
    ) -> DistributedPoisson:
        """Build from .npy files of the whole grid, of which every rank maps and reads its own part only.

        kappa : coefficients, or None for 1;  cells : `Cell` codes, or None;  boundary : as in `from_coefficients` if
        there are coefficients, else as in `from_cells`
        """
        from .petsc_library import world

        comm = world() if comm is None else comm
        with collective_errors(comm):
            if kappa is None and cells is None:
                raise ValueError("got neither kappa nor cells; expected the path of at least one .npy file")
            mapped = [None if path is None else np.load(path, mmap_mode="r") for path in (kappa, cells)]
            shapes = {v.shape for v in mapped if v is not None}
            if len(shapes) > 1:
                raise ValueError(f"got kappa and cells of shapes {sorted(shapes)}; expected one grid")
            part = Partition(shapes.pop(), comm, ranks, cuts)
            own = [None if v is None else np.array(v[part.own]) for v in mapped]
            if own[1] is not None and own[1].dtype == bool:
                own[1] = own[1].astype(np.uint8)
        if own[0] is None:
            return cls.from_cells(own[1], part, spacing, boundary or "neumann", shift)
        return cls.from_coefficients(own[0], part, spacing, boundary or "dirichlet", shift, cells=own[1])

    # --- facts --------------------------------------------------------------------------------------------------------
    @cached_property
    def nullspace(self) -> DistributedNullSpace:
        """The constants on every component without ground, found at first use. Collective."""
        f = self.fields
        return DistributedNullSpace(self.part, f.unknown, f.links, f.shift + f.ground.sum(-1), self.diag)

    @cached_property
    def mat(self) -> Any:
        """The operator as a PETSc AIJ matrix, numbered as a DMDA; rows without an unknown hold a 1. Collective."""
        return assemble_operator(self.part, self.fields, self.diag)

    def __matmul__(self, x: Any) -> Any:
        """Return A x, in the shape and type of x. Collective."""
        v, y = self.to_vector(x), make_vector(self.part)
        self.product.mult(None, v, y)
        out = self.from_vector(y, x)
        v.destroy(), y.destroy()
        return out

    def rhs(self, f: Any = 0.0) -> Array:
        """Return b at own cells for a source per unit volume, a number or an array over own cells."""
        with collective_errors(self.comm):
            own = np.full(self.part.internal_shape, float(f)) if np.ndim(f) == 0 else local_array(f, "f", self.part)
        return (own * builders.cell_volumes(self.part, self.spacing) * self.fields.unknown).reshape(self.part.own_shape)

    # --- vectors ------------------------------------------------------------------------------------------------------
    def to_internal(self, values: Any, name: str = "b") -> Array:
        """Return this rank's part of a vector on internal axes, zero where there is no unknown. Collective."""
        with collective_errors(self.comm):
            own = local_array(values, name, self.part)
        return np.where(self.fields.unknown, own, 0.0)

    def to_vector(self, values: Any, name: str = "b") -> Any:
        """Return a PETSc vector. Collective."""
        v = make_vector(self.part)
        v.setArray(to_rank_order(self.to_internal(values, name)))
        return v

    def from_internal(self, own: Array, like: Any) -> Any:
        """Return an array over own cells in the shape and type of `like`."""
        out = np.ascontiguousarray(own * self.fields.unknown).reshape(self.part.own_shape)
        if isinstance(like, torch.Tensor):
            return torch.from_numpy(out).to(like.dtype if like.is_floating_point() else torch.float64)
        dtype = np.asarray(like).dtype
        return out.astype(dtype) if dtype.kind == "f" else out

    def from_vector(self, v: Any, like: Any) -> Any:
        """Return this rank's part of a PETSc vector in the shape and type of `like`."""
        return self.from_internal(from_rank_order(v.getArray(readonly=True), self.part.internal_shape), like)

    def __repr__(self) -> str:
        return f"DistributedPoisson(grid_shape={self.grid_shape}, unknowns={self.unknowns}, ranks={self.comm.size})"


def _with_boundary(part: Partition, boundary: Any, default: str) -> tuple[Partition, Kinds]:
    """Return the partition with the axes that wrap, and the kinds of the sides."""
    with collective_errors(part.comm):
        kinds = parse_boundary(boundary, len(part.grid_shape), default)
    wraps = [low == "periodic" for low, _ in kinds]
    if len(wraps) == 2:
        wraps.insert(1, False)
    x, y, z = wraps
    return replace(part, periodic=(x, y, z)), kinds
