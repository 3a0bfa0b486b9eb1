"""`Poisson.from_matrix`: find the conductances in an assembled matrix, or say where it is no such stencil.

Every off-diagonal entry must couple neighbours of the grid (or the two ends of an axis, which makes it periodic), be
equal to its mirror image and not positive. A diagonal below the sum of its row's off-diagonals is a negative shift.
All comparisons allow 64 rounding errors of the matrix's dtype, relative to the smaller diagonal entry.

What a diagonal has in excess is split into directions, because boundary conductances and shifts coarsen differently:
what all inner cells have in common is shift; the rest of a cell goes in equal parts to `ground` through its sides
without an unknown behind them (a side of the box, a SOLID or OPEN cell), and to shift where it has no such side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch

from . import assembly
from .conductances import Conductances, as_triple
from .fields import Deviation, PoissonFields, Uncoupled
from .grid import Cell, Kinds, check_grid_shape, internal_axes, internal_shape, parse_cells
from .stencil_scan import SINGLE, Scanned, common_shift, scan

Array = np.ndarray
SYMMETRY = "equal ones: symmetrise the assembly, and eliminate columns together with rows (move a_ij x_j to b)"


@dataclass
class Stencil:
    """What is known about the matrix while it is being recognised; cells are flat indices of the internal grid."""

    grid_shape: tuple[int, ...]
    numbering: Array  # cell of each row
    order: str
    eps: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Internal shape of the grid."""
        return internal_shape(self.grid_shape)

    def place(self, row: Any) -> str:
        """Describe a row for an error message."""
        at = tuple(int(i) for i in np.unravel_index(int(self.numbering[row]), self.grid_shape))
        return f"row {int(row)} (cell {at})"


def from_matrix(
    matrix: Any, shape: Any, cells: Any, order: str, eps: float | None = None, numbering: Array | None = None
) -> dict[str, Any]:
    """Return the fields of a `Poisson` with this matrix; see `Poisson.from_matrix`.

    eps : rounding unit of the numbers in the matrix; None: of its dtype
    numbering : flat cell of each row, if that is neither `order` nor `order` and `cells`
    """
    grid_shape = check_grid_shape(shape)
    csr = _checked(matrix)
    plain = numbering is None and order == "C" and csr.shape[0] == int(np.prod(grid_shape))
    if numbering is None:
        fluid, numbering = _numbering(csr.shape[0], grid_shape, cells, order)
    else:
        fluid = np.zeros(int(np.prod(grid_shape)), dtype=bool)
        fluid[numbering] = True
    rounding = float(np.finfo(csr.dtype).eps) if eps is None else eps
    inside, flat = internal_shape(grid_shape), len(grid_shape) == 2
    found = scan(csr, inside, flat, fluid, None if plain else numbering, rounding)
    if found is None or _is_doubtful(found, fluid):
        found = _read_slowly(csr, Stencil(grid_shape, numbering, order, rounding), fluid)
    fields = _fields(found, grid_shape, fluid, numbering, plain, csr.dtype)
    if eps is None:  # else the caller judges
        fields["deviation"] = _deviation(csr, found, numbering, PoissonFields(**fields))
    return fields


def recognise_at_once(
    csr: scipy.sparse.csr_array, grid_shape: tuple[int, ...], eps: float, sign: float
) -> tuple[dict[str, Any], Scanned] | None:
    """Return the fields of sign times a matrix whose rows are cells in order, and what was read; None if it is not so.

    csr : in double precision;  sign : of its diagonal

    Examples
    --------
    >>> line = scipy.sparse.diags_array([np.ones(5), -2.0 * np.ones(6), np.ones(5)], offsets=[-1, 0, 1])
    >>> negative = scipy.sparse.csr_array(scipy.sparse.kronsum(line, line))
    >>> fields, _ = recognise_at_once(negative, (6, 6), 2.2e-16, -1.0)
    >>> fields["boundary"]
    (('dirichlet', 'dirichlet'), ('dirichlet', 'dirichlet'))
    >>> recognise_at_once(negative, (6, 6), 2.2e-16, 1.0) is None
    True
    """
    found = scan(csr, internal_shape(grid_shape), len(grid_shape) == 2, None, None, eps, sign)
    if found is None or _is_doubtful(found, None):
        return None
    return _fields(found, grid_shape, None, np.arange(found.read.size), True, csr.dtype), found


def _fields(
    found: Scanned, grid_shape: tuple[int, ...], fluid: Array | None, numbering: Array, plain: bool, number: np.dtype
) -> dict[str, Any]:
    """Return the fields of a `Poisson`; numbering : cell of each row, `plain` if they are in order."""
    uncoupled = None if found.unknown.all() else _uncoupled(found.unknown, fluid, numbering, found.read)
    dtype = torch.float32 if number == np.float32 else torch.float64
    return {
        "grid_shape": grid_shape,
        "spacing": (1.0,) * len(grid_shape),
        "boundary": _kinds(found.ground, found.wraps, internal_axes(len(grid_shape))),
        "unknown": torch.from_numpy(found.unknown),
        "source": Conductances(
            as_triple(torch.from_numpy(w).to(dtype) for w in found.links),
            as_triple(torch.from_numpy(g).to(dtype) for g in found.ground),
            torch.from_numpy(found.shift).to(dtype),
            tuple(
                (torch.from_numpy(low).to(dtype), torch.from_numpy(high).to(dtype))
                for low, high in (_sides(found, d) for d in range(3))
            ),
        ),
        "numbering": None if plain else torch.from_numpy(numbering),
        "uncoupled": None if uncoupled is None else Uncoupled(uncoupled[0], uncoupled[1].to(dtype)),
    }


def _deviation(csr: Any, found: Scanned, numbering: Array, A: PoissonFields) -> Deviation | None:
    """Return the matrix minus the operator read from it: on the diagonal, and where both triangles differ elsewhere.

    The triangles are compared in single precision only: in double their difference is what a product loses, too.
    """
    if csr.dtype == np.float32 and _is_skew(csr.astype(np.float64)):
        more = scipy.sparse.coo_array(csr.astype(np.float64) - assembly.matrix(A).astype(np.float64))
        rows, columns, values = numbering[more.row], numbering[more.col], more.data
        keep = (values != 0) & found.unknown.ravel()[rows]
        rows, columns, values = rows[keep], columns[keep], values[keep]
    else:
        change = np.where(found.unknown, found.read - A.diag.numpy(), 0.0).ravel()
        rows = columns = np.flatnonzero(change)
        values = change[rows]
    if not len(rows):
        return None
    return Deviation(torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(values).to(A.torch_dtype))


def _is_skew(csr: Any) -> bool:
    """Tell whether a matrix differs from its transpose: from the products of both with a random vector."""
    v = np.random.default_rng(0).uniform(1, 2, csr.shape[0])
    along, across = csr @ v, csr.T @ v
    return bool((np.abs(along - across) > 1e-12 * np.abs(csr.diagonal())).any())


def _is_doubtful(found: Scanned, fluid: Array | None) -> bool:
    """Whether the slow reader has to look: no positive diagonal, a negative one, or an empty row of a FLUID cell."""
    empty = not bool(found.unknown.all())
    if (empty and bool((found.read[~found.unknown] < 0).any())) or not bool((found.read > 0).any()):
        return True
    return fluid is not None and bool((found.read.ravel()[fluid & ~found.unknown.ravel()] == 0).any())


def _read_slowly(csr: Any, grid: Stencil, fluid: Array | None) -> Scanned:
    """Do what `scan` does, in NumPy; errors name the row, the expectation and the remedy."""
    rows, columns, values = _entries(csr)
    off, n = rows != columns, csr.shape[0]
    diag = np.zeros(n)
    diag[rows[~off]] = values[~off]
    rows, columns, values = rows[off], columns[off], values[off].astype(np.float64)
    _check_sign(grid, diag, rows)
    following, preceding, periodic = _sort_by_direction(grid, rows, columns, values)
    row_of = np.full(int(np.prod(grid.grid_shape)), -1)
    row_of[grid.numbering] = np.arange(n)
    links = _links(grid, row_of, diag, following, preceding)
    on_grid = np.zeros(row_of.size)
    on_grid[grid.numbering] = diag
    on_grid = on_grid.reshape(grid.shape)
    unknown = _unknown(grid, fluid, on_grid, links, row_of)
    surplus = _surplus(grid, on_grid, links, unknown, row_of)
    shift, ground = _split(surplus, unknown, periodic, internal_axes(len(grid.grid_shape)))
    return Scanned(links, ground, shift, unknown, periodic, on_grid)


def _checked(matrix: Any) -> scipy.sparse.csr_array:
    """Return the matrix as CSR of single or double precision, duplicates allowed."""
    if not (scipy.sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
        raise TypeError(f"got a {type(matrix).__name__}; expected a sparse matrix: use scipy.sparse.csr_array")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"got a matrix of shape {matrix.shape}; expected a square one")
    if matrix.dtype.kind not in "fiub":
        raise TypeError(f"got a matrix of dtype {matrix.dtype}; expected real numbers")
    return scipy.sparse.csr_array(matrix, dtype=np.float32 if matrix.dtype == np.float32 else np.float64)


def _entries(csr: Any) -> tuple[Array, Array, Array]:
    """Return rows, columns and values of the non-zeros, duplicates summed."""
    if not csr.has_canonical_format:
        csr = csr.copy()  # the caller's matrix stays as it is
        csr.sum_duplicates()
    rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    bad = np.flatnonzero(~np.isfinite(csr.data))
    if bad.size:
        k = bad[0]
        raise ValueError(f"got {csr.data[k]} in row {rows[k]}, column {csr.indices[k]}; expected finite entries")
    keep = csr.data != 0
    return rows[keep], csr.indices[keep].astype(np.int64), csr.data[keep]


def _numbering(n: int, grid_shape: tuple[int, ...], cells: Any, order: str) -> tuple[Array | None, Array]:
    """Return (FLUID mask if cells are given, cell of each row)."""
    if order not in ("C", "F"):
        raise ValueError(f'got order {order!r}; expected "C" (last axis fastest) or "F" (x fastest)')
    total = int(np.prod(grid_shape))
    numbering = np.arange(total).reshape(grid_shape).ravel(order="F" if order == "F" else "C")
    fluid = None if cells is None else (parse_cells(cells, grid_shape).cpu().numpy() == Cell.FLUID).ravel()
    if n == total:
        return fluid, numbering
    if fluid is None:
        raise ValueError(
            f"got {n} rows for a grid {grid_shape} of {total} cells; expected {total}: correct shape, "
            "or pass cells if only FLUID cells are numbered"
        )
    if n != int(fluid.sum()):
        raise ValueError(
            f"got {n} rows for a grid {grid_shape} with {int(fluid.sum())} FLUID cells of {total}; "
            "expected either number: correct shape or cells"
        )
    return fluid, numbering[fluid[numbering]]


def _check_sign(grid: Stencil, diag: Array, rows: Array) -> None:
    coupled = np.zeros(len(diag), dtype=bool)
    coupled[rows] = True
    relevant = diag[coupled] if coupled.any() else diag
    if (relevant <= 0).all() and (relevant < 0).any():
        raise ValueError(
            "got a negative-definite matrix (its diagonal is < 0); expected a positive one: pass -A and -b"
        )
    wrong = np.flatnonzero((diag < 0) | (coupled & (diag <= 0)))
    if wrong.size:
        raise ValueError(f"got diagonal {diag[wrong[0]]:g} in {grid.place(wrong[0])}; expected > 0: A must be definite")


def _sort_by_direction(
    grid: Stencil, rows: Array, columns: Array, values: Array
) -> tuple[list[Array], list[Array], list[bool]]:
    """Return per axis the couplings seen from a cell to the next one and to the one before, and which axes wrap.

    The offset between two cells identifies axis and direction; only along axes of 2 cells do wrap and step coincide,
    and there they are the same pair.
    """
    here, there = grid.numbering[rows], grid.numbering[columns]
    offset, known = there - here, np.zeros(len(rows), dtype=bool)
    size, stride, periodic = int(np.prod(grid.shape)), int(np.prod(grid.shape)), [False] * 3
    following, preceding = ([np.zeros(size) for _ in range(3)] for _ in range(2))
    for d, n in enumerate(grid.shape):
        stride //= n
        if n == 1:
            continue
        for table, sign, last in ((following, 1, n - 1), (preceding, -1, 0)):
            for wrap in (False, True) if n > 2 else (False,):
                step = sign * stride * (1 - n if wrap else 1)
                k = np.flatnonzero(offset == step)
                at_last = (here[k] // stride) % n == last
                k = k[at_last] if wrap else k[~at_last]
                table[d][here[k]] = -values[k]
                known[k] = True
                periodic[d] |= wrap and k.size > 0
    stranger = np.flatnonzero(~known)
    if stranger.size:
        k, other = stranger[0], "F" if grid.order == "C" else "C"
        points = 2 * len(grid.grid_shape) + 1
        raise ValueError(
            f"got an entry {values[k]:g} that couples {grid.place(rows[k])} with {grid.place(columns[k])}, "
            f"which are not neighbours; expected a {points}-point stencil on {grid.grid_shape} "
            f"in order {grid.order!r}: check shape, try order={other!r}, or pass cells if only FLUID cells are numbered"
        )
    return following, preceding, periodic


def _links(grid: Stencil, row_of: Array, diag: Array, following: list[Array], preceding: list[Array]) -> list[Array]:
    """Return the conductances after comparing both triangles; they must be symmetric and not negative."""
    diag_of = np.zeros(row_of.size)
    diag_of[grid.numbering] = diag
    links = []
    for d in range(3):
        w, mirror = (a.reshape(grid.shape) for a in (following[d], preceding[d]))
        mirror = np.roll(mirror, -1, d)
        local = diag_of.reshape(grid.shape)
        tolerance = 64 * grid.eps * np.minimum(local, np.roll(local, -1, d))
        index = np.arange(row_of.size).reshape(grid.shape)
        for wrong, remedy in (
            (np.abs(w - mirror) > tolerance, SYMMETRY),
            (w < -tolerance, "no entry > 0 off the diagonal: this is no finite-volume Laplacian"),
        ):
            if wrong.any():
                at = tuple(np.argwhere(wrong)[0])
                i, j = row_of[index[at]], row_of[np.roll(index, -1, d)[at]]
                fact = f"{0 - w[at]:g} from {grid.place(i)} to {grid.place(j)} and {0 - mirror[at]:g} back"
                raise ValueError(f"got {fact}; expected {remedy}")
        links.append(np.maximum((w + mirror) / 2, 0))
    return links


def _unknown(grid: Stencil, fluid: Array | None, diag: Array, links: list[Array], row_of: Array) -> Array:
    """Return which cells are coupled to others; a row that is not is an equation of its own, see `_uncoupled`."""
    coupled = sum(w + np.roll(w, 1, d) for d, w in enumerate(links)) > 0
    if fluid is not None:
        mask = fluid.reshape(grid.shape)
        wrong = coupled & ~mask
        if wrong.any():
            row = row_of[np.flatnonzero(wrong)[0]]
            raise ValueError(
                f"got {grid.place(row)} coupled to a neighbour; expected no coupling, since cells says that it is "
                "not FLUID: correct cells or order"
            )
        return coupled | (mask & (diag <= 0))  # without a diagonal: a component with a null space of its own
    if not (diag > 0).any():
        raise ValueError("got a matrix without non-zero rows; expected at least one unknown")
    return coupled


def _uncoupled(
    unknown: Array, fluid: Array | None, numbering: Array, diag: Array
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return cells and diagonal of the rows without neighbours, but for those that `cells` calls SOLID or OPEN."""
    alone = np.zeros(unknown.size, dtype=bool)
    alone[numbering] = True
    alone &= ~unknown.ravel()
    if fluid is not None:
        alone &= fluid
    if not alone.any():
        return None
    cells = np.flatnonzero(alone)
    return torch.from_numpy(cells), torch.from_numpy(diag.ravel()[cells])


def _surplus(grid: Stencil, diag: Array, links: list[Array], unknown: Array, row_of: Array) -> Array:
    """Return diagonal minus couplings, rounding removed.

    A surplus may be negative (a shift < 0): whether A is definite all the same, a solve finds out. But where all
    negative ones may be the rounding of single precision, the matrix is no such thing.
    """
    sums = sum(w + np.roll(w, 1, d) for d, w in enumerate(links))
    surplus = np.where(unknown, diag - sums, 0.0)
    surplus = np.where(np.abs(surplus) > 64 * grid.eps * diag, surplus, 0.0)
    negative = surplus < 0
    if negative.any() and (surplus[negative] > -SINGLE * diag[negative]).all() and np.ptp(surplus[unknown]) > 0:
        k = np.flatnonzero(negative)[0]
        raise ValueError(
            f"got diagonal {diag.flat[k]:.17g} in {grid.place(row_of[k])}, less than the sum {sums.flat[k]:.17g} "
            "of its couplings; expected at least that sum: pass matrix.astype(numpy.float32) if it has single precision"
        )
    return surplus


def _split(surplus: Array, unknown: Array, periodic: list[bool], axes: tuple[int, ...]) -> tuple[Array, list[Array]]:
    """Split the surplus into shift and, per axis, ground through sides that have no unknown behind them."""
    missing = [np.zeros(unknown.shape, dtype=np.int8) for _ in range(3)]
    for d in axes:
        low, high = np.roll(unknown, 1, d), np.roll(unknown, -1, d)
        if not periodic[d]:
            _slab(low, d, 0)[:] = False
            _slab(high, d, -1)[:] = False
        missing[d] = np.where(unknown, (~low).astype(np.int8) + ~high, 0)
    count = missing[0] + missing[1] + missing[2]
    inner = surplus[unknown & (count == 0)]
    common = common_shift(inner.min(), inner.max(), surplus[unknown].min()) if inner.size else 0.0
    rest = surplus - common * unknown
    divided = (count > 0) & (rest >= 0)
    share = np.divide(rest, count, out=np.zeros_like(rest), where=divided)
    return np.where(divided, common * unknown, surplus), [share * m for m in missing]


def _sides(found: Scanned, d: int) -> tuple[Array, Array]:
    """Return what of the ground lies on the two sides of the box; half of it where the other neighbour lacks too."""
    low, high = _slab(found.ground[d], d, 0)[:], _slab(found.ground[d], d, -1)[:]
    n = found.unknown.shape[d]
    if found.wraps[d]:
        low, high = 0 * low, 0 * high
    elif n == 1:
        low, high = low / 2, high / 2
    else:
        low = np.where(_slab(found.unknown, d, 1), low, low / 2)
        high = np.where(_slab(found.unknown, d, -2), high, high / 2)
    return np.expand_dims(low, d), np.expand_dims(high, d)


def _kinds(ground: list[Array], periodic: list[bool], axes: tuple[int, ...]) -> Kinds:
    """Name the sides of the box by what was found there."""

    def kind(d: int, end: int) -> str:
        return "periodic" if periodic[d] else "dirichlet" if (_slab(ground[d], d, end) > 0).any() else "neumann"

    return tuple((kind(d, 0), kind(d, -1)) for d in axes)


def _slab(a: Array, d: int, at: int) -> Array:
    """Return a view of one layer."""
    return np.moveaxis(a, d, 0)[at]
