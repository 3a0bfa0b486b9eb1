"""`Poisson`: cell-centred finite volumes for -div(kappa grad p) + shift p = f on a Cartesian grid.

    (A p)_i = diag_i p_i - sum_j w_ij p_j,    diag_i = sum_j w_ij + ground_i + shift_i,    b_i = f_i x volume

Rows are integrated over the cell. With h = cell size along the face's normal and area = volume / h:

    face between                           conductance w
    -------------------------------------  ---------------------------------------------------------------
    FLUID i and FLUID j                    2 kappa_i kappa_j / (kappa_i + kappa_j) x area / h
    FLUID i and a Dirichlet side           kappa_i x area / (h / 2)    p is fixed on the face
    FLUID i and OPEN                       kappa_i x area / h          p is fixed at the centre of the OPEN cell
    FLUID and SOLID, or a Neumann side     0
    last and first cell, periodic axis     as between two FLUID cells; with 2 cells both faces count, with 1 none
    the cell itself (shift)                shift x volume, on the diagonal

`unequal_cells` has the table for cells of different sizes, Robin sides and cells of given value. Symmetric, and
positive semidefinite where no shift is negative, since every w and ground is >= 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from . import assembly, boundary_values, conductances, recognise, unequal_cells, vectors
from .arrays import times_power_of_two
from .boundary_values import LIBRARY
from .cells import keep_cells
from .conductances import Conductances, without_negative_shift
from .fields import Deviation, PoissonFields, Slot, Uncoupled
from .grid import torch_dtype
from .nullspace import NULLSPACE, NullSpace
from .unequal_cells import is_unequal

DETACHED: Slot[Poisson] = Slot("detached")
DOMINANT: Slot[Poisson] = Slot("without its negative shift")


@dataclass(frozen=True, eq=False, repr=False)
class Poisson(PoissonFields):
    """A grid-structured symmetric positive (semi)definite operator; build it with a `from_...` class method.

    Vectors are flat `(..., n)` or grid-shaped `(..., *grid_shape)`, NumPy or torch, batches first; an answer has the
    shape, type, dtype and device of what came in. n counts all cells (after `from_matrix`: the matrix's own rows);
    entries of cells without an unknown are ignored on input and zero on output.
    Several vectors are rows, (k, n), or columns, (n, k): `vectors.apply_map` has the table.
    Tensors that require gradients keep their history: `krylearn.solvers.solve` differentiates with respect to them.

    Attributes
    ----------
    links : three tensors on the internal grid (2D: (nx, 1, ny)); links[d][i] couples cell i with the next one along
        internal axis d, the last entry is the wrap of a periodic axis; positive only between two unknowns
    ground : three tensors: conductance from a cell to p = 0 through its faces normal to d (OPEN cells, Dirichlet sides)
    shift : tensor: what else adds to the diagonal
    unknown : bool tensor; diag : tensor, zero where there is no unknown
    sides : per axis the part of `ground` that belongs to the low and to the high side of the box
    uncoupled : of a matrix, rows with a diagonal entry alone: equations like all others, but no part of the stencil
    deviation : of a matrix, what it has more than the operator (rounding), or None; solves are judged on the matrix
    open : bool tensor of OPEN cells, or None;  numbering : internal cell of each row, or None for C order
    voxels : the cells that a cell-type operator was built from: its conductances are then computed at first use; or
        None. None of these tensors is to be changed in place: diag, null space and solvers would not know.

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((4, 5)))
    >>> A
    Poisson(grid_shape=(4, 5), unknowns=20, dtype=float64, device=cpu, nullspace=0)
    >>> float((A @ np.ones(20)).sum())                # what leaks through 18 Dirichlet faces of conductance 2
    36.0
    """

    # --- builders ---------------------------------------------------------------------------------------------------
    @classmethod
    def from_cells(
        cls,
        cells: Any,
        spacing: Any = 1.0,
        boundary: Any = "neumann",
        shift: Any = None,
        *,
        fixed: Any = None,
        dtype: Any = np.float64,
    ) -> Poisson:
        """Build the pressure operator of a fluid (kappa = 1) around obstacles and below a free surface.

        Parameters
        ----------
        cells : (nx, ny) or (nx, ny, nz) array of `Cell` codes, or booleans (True = FLUID)
        spacing : cell size: one number, or for each axis a number, an array of n sizes along it, or an array on the
            grid (the length of every cell: orthogonal coordinates, ``(R dlat, R cos(lat) dlon)``)
        boundary : "neumann", "dirichlet", "periodic", ("robin", alpha), or a dict such as {"x": "periodic",
            "z+": "dirichlet", "z-": ("robin", 2.5)}; sides that a dict does not name are Neumann. Robin: kappa dp/dn =
            alpha (g - p), n outward, with g from `rhs(dirichlet=...)`; alpha a number or an array on that side
        shift : None, number or array of numbers per unit volume; below 0 as long as A stays definite
        fixed : boolean mask of cells that hold no unknown but a value, which `rhs(f, fixed=values)` is given. As in
            every cell without an unknown x is 0 there: ``np.where(fixed, values, x)`` puts the values in
        dtype : float64 or float32

        Raises
        ------
        ValueError
            for unknown codes, an array without FLUID, bad spacing, boundary or shift

        Examples
        --------
        >>> A = Poisson.from_cells(np.array([[1, 1, 2], [1, 0, 1]]))    # an obstacle in the middle, OPEN in a corner
        >>> A.unknowns, A.nullspace.dimension, A.matrix().diagonal().tolist()
        (4, 0, [2.0, 2.0, 0.0, 1.0, 0.0, 1.0])
        """
        arguments = cells, spacing, boundary, shift, torch_dtype(dtype)
        if is_unequal(spacing, boundary, fixed):
            fields = unequal_cells.from_coefficients(None, spacing, boundary, shift, cells, fixed, torch_dtype(dtype))
        else:
            fields = keep_cells(*arguments) or conductances.from_cells(*arguments)
        return cls(**fields)._made_of(cells)

    @classmethod
    def from_coefficients(
        cls,
        kappa: Any,
        spacing: Any = 1.0,
        boundary: Any = "dirichlet",
        shift: Any = None,
        *,
        cells: Any = None,
        fixed: Any = None,
        dtype: Any = np.float64,
    ) -> Poisson:
        """Build -div(kappa grad) + shift from one coefficient per cell.

        Parameters
        ----------
        kappa : (nx, ny) or (nx, ny, nz) array of numbers >= 0
        spacing, boundary, shift, fixed, dtype : as in `from_cells`, but sides that a dict does not name are Dirichlet
        cells : optional `Cell` codes for obstacles and free surfaces inside the medium. Without it every cell is
            FLUID, except that a cell with kappa = 0 and no shift holds no unknown.

        Examples
        --------
        >>> A = Poisson.from_coefficients([[1.0, 3.0]], spacing=(1.0, 0.5), boundary="neumann", shift=2.0)
        >>> A.matrix().toarray().tolist()             # 1.5 = harmonic mean, area / distance = 2, volume = 0.5
        [[4.0, -3.0], [-3.0, 4.0]]
        """
        arguments = kappa, spacing, boundary, shift, cells
        if is_unequal(spacing, boundary, fixed):
            fields = unequal_cells.from_coefficients(*arguments, fixed, torch_dtype(dtype))
        else:
            fields = conductances.from_coefficients(*arguments, torch_dtype(dtype))
        return cls(**fields)._made_of(kappa)

    @classmethod
    def from_faces(
        cls,
        faces: Sequence[Any],
        extra: Any = None,
        boundary: Any = "neumann",
        *,
        cells: Any = None,
        fixed: Any = None,
        spacing: Any = 1.0,
        dtype: Any = np.float64,
    ) -> Poisson:
        """Build the operator from conductances, e.g. cut-cell areas / distances (nothing is multiplied in here).

        Parameters
        ----------
        faces : one array per axis with n + 1 entries along it. An end entry couples to p = 0 outside; along a periodic
            axis both ends are the one wrapping face and must be equal. A cell without any positive conductance or
            extra holds no unknown.
        extra : None, number or array >= 0 that adds to the diagonal
        boundary : only "periodic" has a meaning here; what a side is, its end entries say (0 = no flux)
        cells : optional `Cell` codes: faces of SOLID cells are closed, those of OPEN ones lead to a given value
        fixed : as in `from_cells`
        spacing : used by `rhs` alone
        dtype : float64 or float32

        Examples
        --------
        >>> A = Poisson.from_faces([np.zeros((2, 3)), [[1.0, 2.0, 0.0, 0.0]]])     # one row of three cells
        >>> A.unknowns, A.matrix().toarray().tolist()
        (2, [[3.0, -2.0, 0.0], [-2.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
        """
        fields = conductances.from_faces(faces, extra, spacing, boundary, torch_dtype(dtype))
        if cells is not None:
            fields = unequal_cells.cut_faces(fields, cells)
        if fixed is not None:
            fields = unequal_cells.fix_cells(fields, fixed)
        return cls(**fields)._made_of(*faces)

    @classmethod
    def from_matrix(cls, matrix: Any, shape: Any, cells: Any = None, order: str = "C") -> Poisson:
        """Recognise the 5-point or 7-point matrix of existing simulation code; see `recognise.from_matrix`.

        Parameters
        ----------
        matrix : SciPy sparse matrix or array (any format), real, n by n; its rows are the n of the operator
        shape : (nx, ny) or (nx, ny, nz)
        cells : optional `Cell` codes or booleans on the grid. If n is the number of FLUID cells, rows are numbered
            over these alone, in `order`; if n is the number of cells, over all of them.
        order : "C" (last axis fastest) or "F" (x fastest)

        Returns
        -------
        Poisson
            A @ x equals matrix @ x to 64 rounding errors. Every row is an equation, one without neighbours too
            (x = b / d), unless `cells` says that it holds no unknown: there x is ignored and the answer is 0.

        Raises
        ------
        ValueError
            if the matrix is not such a stencil; the message names the row, the expectation and the remedy

        Examples
        --------
        >>> csr = Poisson.from_cells(np.ones((3, 4)), boundary="dirichlet").matrix()
        >>> A = Poisson.from_matrix(csr, shape=(3, 4))
        >>> float(abs(A.matrix() - csr).max())
        0.0
        """
        return cls(**recognise.from_matrix(matrix, shape, cells, order))._made_of(matrix)

    # --- null space -------------------------------------------------------------------------------------------------
    @property
    def nullspace(self) -> NullSpace:
        """The constants on every component without ground; found at first use."""
        return NULLSPACE.compute_once(self, lambda: NullSpace(self))

    def component_labels(self) -> Tensor:
        """Return the connected component (by positive links) of every cell of the internal grid, -1 without unknown."""
        return self.nullspace.labels

    # --- products ---------------------------------------------------------------------------------------------------
    def apply(self, x: Tensor) -> Tensor:
        """Return A x for x on the internal grid, masked, with leading batch dimensions; differentiable in x."""
        y = self.diag * x
        for d, w in enumerate(self.links):
            axis, n = d - 3, w.shape[d]
            if n > 1:
                w_inner = w.narrow(d, 0, n - 1)
                y.narrow(axis, 0, n - 1).sub_(w_inner * x.narrow(axis, 1, n - 1))
                y.narrow(axis, 1, n - 1).sub_(w_inner * x.narrow(axis, 0, n - 1))
            if n > 1 and self.periodic[d]:
                wrap = w.narrow(d, n - 1, 1)
                y.narrow(axis, n - 1, 1).sub_(wrap * x.narrow(axis, 0, 1))
                y.narrow(axis, 0, 1).sub_(wrap * x.narrow(axis, n - 1, 1))
        return y

    def matvec(self, x: Any) -> Any:
        """Return A x in the shape, type, dtype and device of x; `vectors.apply_map` says what shapes mean.

        >>> Poisson.from_cells(np.ones((2, 2))).matvec(np.array([1.0, 0.0, 0.0, 0.0])).tolist()
        [2.0, -1.0, -1.0, 0.0]
        """
        return vectors.apply_map(self, x, self.apply, lambda v, alone: alone.diag * v)

    rmatvec = matvec
    __matmul__ = matvec
    __call__ = matvec

    def matmat(self, X: Any) -> Any:
        """Return A X for X of shape (n, k), one vector per column: what ``A @ X`` does too."""
        return self.matvec(X)

    rmatmat = matmat

    # --- conversions ------------------------------------------------------------------------------------------------
    def to_grid(self, v: Any) -> Tensor:
        """Return v, flat or grid-shaped, as a masked tensor on the internal grid; batches first."""
        return vectors.to_grid(self, v)

    def from_grid(self, g: Tensor, like: Any) -> Any:
        """Return an internal grid in the shape, array type and dtype of `like`."""
        return vectors.from_grid(self, g, like)

    def matrix(self, unknowns: bool = False) -> scipy.sparse.csr_array:
        """Return the assembled CSR, n by n with empty rows where there is no unknown, or over the unknowns alone.

        >>> Poisson.from_cells([[1, 1], [0, 1]]).matrix(unknowns=True).toarray().tolist()
        [[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]]
        """
        return assembly.matrix(self, unknowns)

    def rhs(self, f: Any = 0.0, dirichlet: Any = None, flux: Any = None, fixed: Any = None) -> Any:
        """Return b for the source f per unit volume and the values on the boundary; see `boundary_values.rhs`.

        Parameters
        ----------
        f : number, flat or grid-shaped array; b has its shape and type. A number gives an array on the grid, of the
            library that the operator was built from. An operator from a matrix has cells of volume 1
        dirichlet : values of p where it is fixed (0 where not given): a number for all of them, or a dict of numbers or
            arrays. Keys are sides ("x-", or "x" for both; array: the grid without that axis) and "open" (array: the
            grid, read at OPEN cells).
        flux : dict of inward fluxes kappa dp/dn per unit area (n outward) through Neumann sides, keys as above
        fixed : values of the cells that were built as `fixed`: a number or an array on the grid, read there

        Examples
        --------
        >>> A = Poisson.from_coefficients(np.ones((1, 4)), boundary={"x": "neumann"}, spacing=0.25)
        >>> A.rhs(np.zeros((1, 4)), dirichlet={"y+": 3.0}).tolist()     # kappa x area / (h / 2) = 2
        [[0.0, 0.0, 0.0, 6.0]]
        """
        return boundary_values.rhs(self, f, dirichlet, flux, fixed)

    def flux(self, x: Any, dirichlet: Any = None, flux: Any = None, fixed: Any = None) -> tuple[Any, ...]:
        """Return what flows through each face, -kappa dp/dn x area, per axis and towards larger indices.

        Velocities, currents and effective conductivities: what flows out of a cell is what its right-hand side puts in.

        Parameters
        ----------
        x : flat or grid-shaped array, batches first
        dirichlet, flux, fixed : what `rhs` was given

        Returns
        -------
        one array per axis, on the grid with n + 1 entries along that axis, in the library of x

        Examples
        --------
        >>> A = Poisson.from_coefficients(np.ones((1, 3)), boundary={"x": "neumann"})
        >>> A.flux(np.array([[2.5, 1.5, 0.5]]), dirichlet={"y-": 3.0})[1].tolist()         # from p = 3 to p = 0
        [[1.0, 1.0, 1.0, 1.0]]
        """
        return boundary_values.face_fluxes(self, x, dirichlet, flux, fixed)

    def _made_of(self, *arrays: Any) -> Poisson:
        """Remember the library of the builder's arguments."""
        LIBRARY.put(self, "torch" if any(isinstance(v, Tensor) for v in arrays) else "numpy")
        return self

    def to(self, device: Any = None, dtype: Any = None) -> Poisson:
        """Return the operator on another device or in another precision (float64, float32); self if nothing changes.

        >>> Poisson.from_cells(np.ones((2, 2))).to(dtype=torch.float32).dtype
        dtype('float32')
        """
        device = self.device if device is None else torch.device(device)
        dtype = self.torch_dtype if dtype is None else torch_dtype(dtype)
        if device == self.device and dtype == self.torch_dtype:
            return self

        def move(t: Tensor) -> Tensor:
            return t.to(device, dtype) if t.is_floating_point() else t.to(device)

        return self._map_tensors(move)

    def _map_tensors(self, change: Callable[[Tensor], Tensor]) -> Poisson:
        """Return the operator whose tensors are the changed ones; facts that hold for both go along."""

        def apply(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(apply(v) for v in value)
            return change(value) if isinstance(value, Tensor) else value

        deviation = self.deviation and Deviation(*apply(tuple(self.deviation)))
        changed = Poisson(
            self.grid_shape,
            self.spacing,
            self.boundary,
            apply(self.unknown),
            Conductances(*apply(tuple(self.conductances))),
            apply(self.open),
            apply(self.numbering),
            self.uncoupled and Uncoupled(*apply(tuple(self.uncoupled))),
            # in another precision an operator is one of its own, no longer what was read from a matrix
            deviation if deviation and deviation.values.dtype == self.torch_dtype else None,
        )
        changed.facts.update(self.facts)
        return changed

    def scaled(self, exponent: int) -> Poisson:
        """Return 2^exponent A, exact as long as nothing leaves the range of the dtype.

        >>> Poisson.from_cells(np.ones((2, 2))).scaled(3).diag.max()
        tensor(16., dtype=torch.float64)
        """
        return self._map_tensors(lambda t: times_power_of_two(t, exponent) if t.is_floating_point() else t)

    def detach(self) -> Poisson:
        """Return the same operator without a history for gradients; self if there is none.

        >>> A = Poisson.from_coefficients(torch.ones(2, 2, dtype=torch.float64, requires_grad=True))
        >>> A.diag.requires_grad, A.detach().diag.requires_grad, A.detach().detach() is A.detach()
        (True, False, True)
        """
        if self.voxels is not None or not self.diag.requires_grad:
            return self
        return DETACHED.compute_once(self, lambda: self._map_tensors(Tensor.detach))

    def dominant(self) -> Poisson:
        """Return the operator without what is negative in its shift, of which preconditioners are made; self if it can.

        >>> A = Poisson.from_coefficients(np.ones((2, 2)), shift=-0.5)
        >>> A.diag.min().item(), A.dominant().diag.min().item()
        (5.5, 6.0)
        """
        if self.voxels is not None or not bool((self.shift < 0).any()):
            return self
        return DOMINANT.compute_once(self, lambda: replace(self, source=without_negative_shift(self.conductances)))

    def __repr__(self) -> str:
        known = f", nullspace={self.nullspace.dimension}" if self.unknowns <= 10**5 else ""
        return (
            f"Poisson(grid_shape={self.grid_shape}, unknowns={self.unknowns}, dtype={self.dtype}, "
            f"device={self.device}{known})"
        )
