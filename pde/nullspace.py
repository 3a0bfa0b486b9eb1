"""The null space of a `Poisson`: the constants on every connected component that nothing ties to a value."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage
import scipy.sparse
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .poisson import Poisson

EPS = np.finfo(np.float64).eps


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

    def __init__(self, A: Poisson) -> None:
        if "components" not in A.facts:
            A.facts["components"] = _components(A)
        self._labels, self._counts, self._is_singular = A.facts["components"]
        self._device = A.device
        self.singular: tuple[int, ...] = tuple(np.flatnonzero(self._is_singular).tolist())
        self.dimension = len(self.singular)

    def __bool__(self) -> bool:
        return self.dimension > 0

    def __repr__(self) -> str:
        return f"NullSpace(dimension={self.dimension}, components={len(self._counts)})"

    @cached_property
    def labels(self) -> Tensor:
        """Component of each cell of the internal grid, -1 where there is no unknown."""
        return torch.from_numpy(self._labels).to(self._device)

    @cached_property
    def _slots(self) -> Tensor:
        """Per cell: 1 + position of its component among the singular ones; 0 for all others."""
        slot = np.zeros(len(self._counts) + 1, dtype=np.int64)  # the last entry serves label -1
        slot[list(self.singular)] = 1 + np.arange(self.dimension)
        return torch.from_numpy(slot[self._labels]).to(self._device)

    @cached_property
    def _inverse_counts(self) -> Tensor:
        counts = self._counts[list(self.singular)]
        return torch.from_numpy(np.concatenate(([0.0], 1.0 / counts))).to(self._device)

    def project(self, g: Tensor) -> Tensor:
        """Return g, (..., internal grid), minus its mean over each singular component; nothing else changes."""
        if not self.dimension:
            return g
        if self.dimension == 1:
            mask = self._slots > 0
            total = torch.where(mask, g, 0).sum((-3, -2, -1), keepdim=True, dtype=torch.float64)
            return g - torch.where(mask, total * self._inverse_counts[1], 0).to(g.dtype)
        slots = self._slots.flatten()
        flat = g.reshape(-1, slots.numel()).to(torch.float64)
        sums = flat.new_zeros(len(flat), self.dimension + 1).index_add(1, slots, flat)
        means = (sums * self._inverse_counts).index_select(1, slots)
        return g - means.reshape(g.shape).to(g.dtype)


def _components(A: Poisson) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (labels, number of cells per component, whether it is singular), on the host."""
    unknown = A.unknown.cpu().numpy()
    links = [w.detach().cpu().numpy() > 0 for w in A.links]
    labels, count = _label(unknown, links, A.periodic)
    extras = (A.shift + sum(A.ground)).detach().cpu().numpy()[unknown]
    of_cell = labels[unknown]
    cells, extra, diag = (
        np.bincount(of_cell, weights, minlength=count)
        for weights in (None, extras, A.diag.detach().cpu().numpy()[unknown])
    )
    return labels, cells, extra <= 64 * EPS * diag


def _label(unknown: np.ndarray, links: list[np.ndarray], periodic: tuple[bool, ...]) -> tuple[np.ndarray, int]:
    """Label the components: as an image where no link between unknowns is 0, as a graph otherwise."""
    inner = [w[_cut(d, None, -1)] for d, w in enumerate(links)]
    open_everywhere = all(
        np.array_equal(w, unknown[_cut(d, None, -1)] & unknown[_cut(d, 1, None)]) for d, w in enumerate(inner)
    )
    wraps = [(d, w[_cut(d, -1, None)]) for d, w in enumerate(links) if periodic[d]]
    if open_everywhere:
        labels, count = scipy.ndimage.label(unknown)
        labels = labels.astype(np.int32) - 1
        return _merge_wraps(labels, count, wraps)
    index = np.arange(unknown.size, dtype=np.int32).reshape(unknown.shape)
    pairs = [(index[_cut(d, None, -1)][w], index[_cut(d, 1, None)][w]) for d, w in enumerate(inner)]
    pairs += [(index[_cut(d, -1, None)][w], index[_cut(d, 0, 1)][w]) for d, w in wraps]
    found = _connect(unknown.size, pairs)[unknown.ravel()]
    values, compact = np.unique(found, return_inverse=True)
    labels = np.full(unknown.shape, -1, dtype=np.int32)
    labels[unknown] = compact
    return labels, len(values)


def _merge_wraps(labels: np.ndarray, count: int, wraps: list[tuple[int, np.ndarray]]) -> tuple[np.ndarray, int]:
    if count < 2 or not wraps:
        return labels, count
    pairs = [(labels[_cut(d, -1, None)][w], labels[_cut(d, 0, 1)][w]) for d, w in wraps]
    merged = np.append(_connect(count, pairs), -1)  # label -1 stays
    return merged[labels].astype(np.int32), int(merged.max()) + 1


def _connect(count: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    rows, columns = (np.concatenate([p[k] for p in pairs]) for k in (0, 1))
    graph = scipy.sparse.coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]


def _cut(d: int, start: int | None, stop: int | None) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if axis == d else slice(None) for axis in range(3))
