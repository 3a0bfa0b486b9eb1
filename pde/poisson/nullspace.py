"""The null space of a `Poisson`: the constants on every connected component that nothing ties to a value."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from torch import Tensor

from . import components
from .cells import Voxels, cut
from .fields import PoissonFields, Slot

EPS = np.finfo(np.float64).eps
SMALL = 2_000  # cells up to which NumPy is fast enough and numba need not be loaded


class Components(NamedTuple):
    """Run of every cell, -1 without unknown, or how to find it; component of every run; whether one is singular."""

    runs: np.ndarray | components.Runs
    of_run: np.ndarray
    singular: np.ndarray

    def of_cells(self) -> np.ndarray:
        """Return the run of every cell."""
        return self.runs.of_cells() if isinstance(self.runs, components.Runs) else self.runs


COMPONENTS: Slot[Components] = Slot("components", travels=True)


class NullSpace:
    """Constants per singular component, found when first asked for.

    A component is a set of unknowns connected by positive links. It is singular if its extras (ground and shift) sum
    to at most 64 eps times the sum of its diagonal: an assembled matrix carries its rounding there.

    Attributes
    ----------
    dimension : number of singular components; `bool(nullspace)` asks whether there is one
    singular : their ids, ascending;  labels : component of each cell of the internal grid, -1 without unknown

    Examples
    --------
    >>> from krylearn.pde import Poisson
    >>> A = Poisson.from_cells([[1, 0, 1], [1, 0, 2]])         # left: closed; right: below an OPEN cell
    >>> A.nullspace.dimension, A.nullspace.labels[:, 0].tolist()
    (1, [[0, -1, 1], [0, -1, -1]])
    >>> A.nullspace.project(A.to_grid([[1.0, 0, 5.0], [3.0, 0, 0]]))[:, 0].tolist()
    [[-1.0, 0.0, 5.0], [1.0, 0.0, 0.0]]
    """

    def __init__(self, A: PoissonFields) -> None:
        self._found = COMPONENTS.compute_once(A, lambda: find_components(A))
        self._device = A.device
        self.singular: tuple[int, ...] = tuple(np.flatnonzero(self._found.singular).tolist())
        self.dimension = len(self.singular)

    def __bool__(self) -> bool:
        return self.dimension > 0

    def __repr__(self) -> str:
        return f"NullSpace(dimension={self.dimension}, components={len(self._found.singular)})"

    @cached_property
    def labels(self) -> Tensor:
        """Component of each cell of the internal grid, -1 where there is no unknown."""
        return self._of_cell(self._found.of_run)

    def _of_cell(self, of_run: np.ndarray, nothing: int = -1) -> Tensor:
        """Bring a value of every run to its cells."""
        return torch.from_numpy(np.append(of_run, of_run.dtype.type(nothing))[self._found.of_cells()]).to(self._device)

    @cached_property
    def _slots(self) -> Tensor:
        """Per cell: 1 + position of its component among the singular ones; 0 for all others."""
        slot = np.zeros(len(self._found.singular), dtype=np.int64)
        slot[list(self.singular)] = 1 + np.arange(self.dimension)
        return self._of_cell(slot[self._found.of_run], nothing=0)

    @cached_property
    def _inverse_counts(self) -> Tensor:
        counts = np.bincount(self._slots.cpu().numpy().ravel())[1:]
        return torch.from_numpy(np.concatenate(([0.0], 1.0 / counts))).to(self._device)

    def project(self, g: Tensor) -> Tensor:
        """Return g, (..., internal grid), minus its mean over each singular component; nothing else changes."""
        if not self.dimension:
            return g
        runs = self._found.runs
        if isinstance(runs, components.Runs) and g.is_cpu and g.dim() == 3 and not g.requires_grad:
            return torch.from_numpy(components.subtract_component_means(g.numpy(), runs, self._found.singular))
        if self.dimension == 1:
            mask = self._slots > 0
            total = torch.where(mask, g, 0).sum((-3, -2, -1), keepdim=True, dtype=torch.float64)
            return g - torch.where(mask, total * self._inverse_counts[1], 0).to(g.dtype)
        slots = self._slots.flatten()
        flat = g.reshape(-1, slots.numel()).to(torch.float64)
        sums = flat.new_zeros(len(flat), self.dimension + 1).index_add(1, slots, flat)
        means = (sums * self._inverse_counts).index_select(1, slots)
        return g - means.reshape(g.shape).to(g.dtype)


NULLSPACE: Slot[NullSpace] = Slot("null space")


def find_components(A: PoissonFields) -> Components:
    """Find the components of A, on the host; of a large grid by compiled kernels."""
    unknown = A.unknown.cpu().numpy()
    large = unknown.size > SMALL
    if A.voxels is not None:
        return (_find_in_cells_compiled if large else _find_in_cells)(A.voxels.to("cpu"), unknown, A.periodic)
    links = [w.detach().cpu().numpy() for w in A.links]
    extras = [g.detach().cpu().numpy() for g in (A.shift, *A.ground)]
    if extras[0].min(initial=0.0) < 0:  # a negative shift does not belong to the constants either
        extras[0] = np.abs(extras[0])
    limit = 64 * EPS * float(A.diag.detach().sum())
    # one extra above that fraction of the whole diagonal makes its component regular; where all others are 0 nothing
    # has to be summed
    if large:
        runs = components.label_runs_compiled(unknown, links, A.periodic)
        singular, doubtful = components.find_ungrounded_compiled(extras, limit, runs)
        found = Components(runs, runs.of_run, singular)
    else:
        of_cells, of_run = label_runs(unknown, links, A.periodic)
        singular, doubtful = find_ungrounded(extras, limit, of_cells, of_run, int(of_run.max(initial=-1)) + 1)
        found = Components(of_cells, of_run, singular)
    return found._replace(singular=_compare_sums(A, found, extras)) if doubtful else found


def _compare_sums(A: PoissonFields, found: Components, extras: list[np.ndarray]) -> np.ndarray:
    """Tell which components have extras of at most 64 eps times the sum of their diagonal."""
    runs, count = found.of_cells(), len(found.singular)
    of_cell = found.of_run[runs[runs >= 0]]
    total, diag = extras[0] + extras[1] + extras[2] + extras[3], A.diag.detach().cpu().numpy()
    extra, diag = (np.bincount(of_cell, weights[runs >= 0], minlength=count) for weights in (total, diag))
    return extra <= 64 * EPS * diag


def _find_in_cells(voxels: Voxels, unknown: np.ndarray, periodic: tuple[bool, ...]) -> Components:
    """Find them from bytes; one face towards p = 0 makes a component regular."""
    runs, of_run = label_runs(unknown, [voxels.linked_along(d) for d in range(3)], periodic)
    singular = np.ones(int(of_run.max(initial=-1)) + 1, dtype=bool)
    singular[of_run[runs[voxels.grounded()]]] = False
    return Components(runs, of_run, singular)


def _find_in_cells_compiled(voxels: Voxels, unknown: np.ndarray, periodic: tuple[bool, ...]) -> Components:
    """Do the same by compiled kernels: unknowns side by side are linked."""
    runs = components.label_runs_compiled(unknown, [unknown] * 3, periodic)
    dirichlet = np.array([[kind == "dirichlet" for kind in pair] for pair in voxels.kinds])
    return Components(
        runs, runs.of_run, components.find_ungrounded_cells(voxels.cells.numpy(), dirichlet, periodic, runs)
    )


def find_ungrounded(
    extras: list[np.ndarray], limit: float, runs: np.ndarray, of_run: np.ndarray, count: int
) -> tuple[np.ndarray, bool]:
    """Return which components have no extra above the limit, and whether any of them may have some below it."""
    singular, doubtful = np.ones(count, dtype=bool), False
    for g in extras:
        large = g > limit
        singular[of_run[runs[large]]] = False
        doubtful |= np.count_nonzero(g) != np.count_nonzero(large)
    return singular, doubtful and bool(singular.any())


def label_runs(
    unknown: np.ndarray, links: list[np.ndarray], periodic: tuple[bool, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the run of every cell (-1: no unknown), and the component of every run.

    A run is a stretch of linked cells along the last axis; components are those of the graph of runs, which has one
    edge per stretch of links between two of them.
    """
    links = [w > 0 for w in links]
    first = unknown.copy()
    first[..., 1:] &= ~links[2][..., :-1]
    runs = np.where(unknown, np.cumsum(first, dtype=np.int32).reshape(first.shape) - 1, -1)
    pairs = []
    for d in range(2):
        lower, upper = cut(d, None, -1), cut(d, 1, None)
        edge, along = links[d][lower].copy(), links[2][..., :-1]
        edge[..., 1:] &= ~(links[d][lower][..., :-1] & along[lower] & along[upper])
        pairs.append((runs[lower][edge], runs[upper][edge]))
    wraps = [(d, w[cut(d, -1, None)]) for d, w in enumerate(links) if periodic[d]]
    pairs += [(runs[cut(d, -1, None)][w], runs[cut(d, 0, 1)][w]) for d, w in wraps]
    return runs, _join_runs(int(runs.max(initial=-1)) + 1, pairs)


def _join_runs(count: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    rows, columns = (np.concatenate([p[k] for p in pairs]) for k in (0, 1))
    graph = scipy.sparse.coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
