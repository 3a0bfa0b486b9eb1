"""Connected components that may span ranks, and the projection away from their constants.

Every rank labels the components of its own cells. Those that touch another rank's are joined through the links across
the cuts: the pairs are gathered and joined on every rank alike. All others stay the business of their rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from krylearn.pde.poisson.nullspace import EPS, label_runs

from .halo import bring
from .partition import Array, Partition


class DistributedNullSpace:
    """Constants on every component whose ground and shift vanish (at most 64 eps times the sum of its diagonal).

    Attributes
    ----------
    dimension : number of singular components, of all ranks
    labels : (own cells on internal axes) singular component of each cell, or -1; numbers of this rank
    """

    def __init__(self, part: Partition, unknown: Array, links: Array, extra: Array, diag: Array) -> None:
        self.comm = part.comm
        runs, of_run = _label(unknown, links)
        labels = np.where(runs >= 0, np.append(of_run, -1)[runs], -1)
        count = int(labels.max(initial=-1)) + 1
        group, shared = _join(part, labels, count, links)
        inside = labels >= 0
        sums = np.zeros((3, shared + np.count_nonzero(group >= shared)))
        for row, values in zip(sums, (extra[inside], diag[inside], np.ones(np.count_nonzero(inside))), strict=True):
            row += np.bincount(group[labels[inside]], values, len(row))
        sums[:, :shared] = self.comm.allreduce(sums[:, :shared])
        singular = (sums[2] > 0) & (sums[0] <= 64 * EPS * sums[1])
        at = np.full(len(singular) + 1, -1)
        at[:-1][singular] = np.arange(np.count_nonzero(singular))
        # components of several ranks come first
        self._spanning = int(np.count_nonzero(singular[:shared]))
        self._counts = sums[2][singular]
        local = np.count_nonzero(singular[shared:])
        self.dimension = int(self.comm.allreduce(int(local))) + self._spanning
        if self.dimension:  # else nobody asks
            self.labels = np.where(inside, at[np.append(group, -1)[labels]], -1).astype(np.int32)

    def project(self, own: Array) -> Array:
        """Return an array over own cells minus its mean over each singular component; collective."""
        if not self.dimension:
            return own
        inside = self.labels >= 0
        totals = np.bincount(self.labels[inside], own[inside], len(self._counts))
        if self._spanning:
            totals[: self._spanning] = self.comm.allreduce(totals[: self._spanning])
        means = np.append(totals / self._counts, 0.0)
        return own - means[self.labels]


def _label(unknown: Array, links: Array) -> tuple[Array, Array]:
    """Label the own cells; links : (..., 3), the last along each axis leads to another rank and is left out."""
    if not unknown.size:
        return np.full(unknown.shape, -1), np.zeros(0, dtype=np.int64)
    inner = [links[..., d].copy() for d in range(3)]
    for d, w in enumerate(inner):
        np.moveaxis(w, d, 0)[-1] = 0
    return label_runs(unknown, inner, (False, False, False))


def _join(part: Partition, labels: Array, count: int, links: Array) -> tuple[Array, int]:
    """Return the group of each of this rank's components, those of several ranks first, and how many these are.

    Groups of several ranks have the same numbers on all of them; the others follow, in numbers of this rank.
    """
    comm = part.comm
    first = comm.exscan(count) or 0
    box = part.ghosted()
    around = bring(part, box, np.where(labels >= 0, labels + first, -1).astype(np.float64)).astype(np.int64)
    pairs: Any = []
    for d in range(3):
        last = np.moveaxis(links[..., d], d, 0)[-1:] if labels.size else np.zeros((0, 0, 0))
        upper = [slice(a.start, a.stop) for a in box.axes]
        upper[d] = slice(box.axes[d].stop, box.axes[d].stop + 1)
        there = np.moveaxis(around[tuple(upper)], d, 0)
        if not last.size or not there.size:
            continue
        here = np.moveaxis(labels, d, 0)[-1:]
        linked = last > 0
        pairs.append(np.stack([here[linked] + first, there[linked]], 1))
    found = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *pairs]), axis=0)
    edges = np.concatenate(comm.allgather(found))
    nodes, ends = np.unique(edges, return_inverse=True)
    ends = ends.reshape(edges.shape)
    graph = scipy.sparse.coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(nodes),) * 2)
    shared, of_node = scipy.sparse.csgraph.connected_components(graph, directed=False) if len(nodes) else (0, nodes)
    group = np.full(count, -1)
    own = (nodes >= first) & (nodes < first + count)
    group[nodes[own] - first] = of_node[own]
    rest = group < 0
    group[rest] = shared + np.arange(np.count_nonzero(rest))
    return group, shared
