"""The hierarchy of graph levels and the symmetric V-cycle over it as sparse products in torch, on any device.

Slow and obvious: what the fused kernels of `kernels.cpu.graph_levels` are compared with, and what runs where there are
none. `pieces` says how a level is coarsened.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from . import pieces
from .hierarchy import COARSEST, visits
from .setup_choice import share_of_isolated
from .step_sizes import RATIOS, RULE, StepNetwork, describe_rows, rows_of_matrix, scales_of

Array = np.ndarray[Any, Any]

SHRINKS = 0.8  # a level that keeps more of its unknowns than this is merged harder
LARGEST_INVERSE = 1024  # unknowns of a level that is inverted densely where coarsening ends early


@dataclass(frozen=True)
class GraphLevel:
    """One level above the coarsest: operator, prolongation to it from the next level, how often it is smoothed."""

    graph: pieces.Graph
    prolongation: sp.csr_array
    visits: int


@dataclass(frozen=True)
class GraphHierarchy:
    """Levels from fine to coarse, the coarsest graph and its symmetric generalised inverse (m, m).

    isolated : the largest share of isolated unknowns on any level, see `share_of_isolated`
    """

    levels: list[GraphLevel]
    bottom: pieces.Graph
    inverse: Array
    isolated: float = 0.0

    @property
    def work(self) -> float:
        """Smoothing steps of a cycle in units of one on the finest level, counted in stored numbers."""
        stored = [(level.graph.n + level.graph.w.size) * level.visits for level in self.levels]
        return sum(stored) / max(stored[0], 1) if stored else 1.0


def graph_visits(reduction: float) -> int:
    """Return how often a graph level is smoothed that has `reduction` times fewer unknowns than the finest.

    As grid levels where coefficients vary, but the first one once: twice costs a tenth of an iteration and saves less
    than a hundredth of them (11 families and field cases at 64 cubed).

    Examples
    --------
    >>> [graph_visits(8.0**l) for l in range(4)]
    [1, 1, 2, 4]
    """
    return visits(reduction / 1.5, varying=True)


def build_graphs(graph: pieces.Graph, coarsest: int = COARSEST, merge: float = pieces.MERGE) -> GraphHierarchy:
    """Coarsen by pieces until at most `coarsest` unknowns are left, or nothing can be merged any more.

    merge : the threshold of step 1 of `pieces`
    """
    levels, n, total, isolated = [], graph.n, graph.diag, 0.0
    while graph.n > coarsest:
        coarse_cell, block = pieces.find_blocks(graph.cell, pieces.find_factors(graph))
        piece = pieces.find_pieces(graph, block, merge)
        # links so uneven that hardly anything merges: drop the threshold, or work per cycle grows without a bound
        if piece.max() + 1 > SHRINKS * graph.n:
            piece = pieces.find_pieces(graph, block, merge=0.0)
        prolongation, coarse = pieces.coarsen(graph, piece, coarse_cell)
        # neither unknowns nor cells become fewer: end here, the bottom is inverted whatever its size
        if coarse.n > 0.95 * graph.n and (coarse_cell.max(0) == graph.cell.max(0)).all():
            break
        levels.append(GraphLevel(graph, prolongation, graph_visits(n / graph.n)))
        total = prolongation.T @ total
        isolated = max(isolated, share_of_isolated(coarse.diag, total))
        graph = coarse
    return GraphHierarchy(levels, graph, bottom_inverse(graph), isolated)


def ratios_of(h: GraphHierarchy) -> Array:
    """Return what the levels look like (levels, 7), see `step_sizes.describe_rows`."""
    graphs = [*(level.graph for level in h.levels), h.bottom]
    ratios = []
    for graph, below in pairwise(graphs):
        matrix = sp.csr_array(sp.coo_array((graph.w, (graph.row, graph.col)), shape=(graph.n, graph.n)))
        rows = rows_of_matrix(matrix.indptr, matrix.indices, matrix.data, graph.diag)
        ratios.append(describe_rows(rows, graph.n / max(below.n, 1), below.diag.sum() / max(graph.diag.sum(), 1e-300)))
    return np.array(ratios).reshape(-1, RATIOS)


def bottom_inverse(graph: pieces.Graph) -> Array:
    """D^(-1/2) (D^(-1/2) A D^(-1/2))⁺ D^(-1/2), see `hierarchy.generalised_inverse`; of many unknowns a diagonal."""
    root = np.sqrt(pieces.inverse(graph.diag))
    if graph.n > LARGEST_INVERSE:
        return np.diag(0.5 * root**2)  # 0.5: below the inverse of A, whatever A is
    scaled = root[:, None] * graph.matrix().toarray() * root
    scaled = 0.5 * (scaled + scaled.T)
    # torch's: NumPy's own threads wait for one another actively, which on busy cores takes a hundred times longer
    inverse = torch.linalg.pinv(torch.from_numpy(scaled), rtol=1e-13, hermitian=True).numpy()
    return root[:, None] * inverse * root


class SparseCycle:
    """The map b -> M b over a graph hierarchy, as sparse products of torch on internal grids.

    cells : flat cells of the unknowns on the internal grid of this size; network : what chooses the step sizes
    """

    def __init__(
        self, h: GraphHierarchy, cells: Array, size: tuple[int, ...], dtype: torch.dtype, device: torch.device,
        network: StepNetwork | None = None,
    ) -> None:  # fmt: skip
        self.size, self.cells = size, torch.from_numpy(cells).to(device)
        self.visits = [level.visits for level in h.levels]
        self.sizes = [*(level.graph.n for level in h.levels), h.bottom.n]
        self.steps = [RULE for _ in h.levels] if network is None else network.steps_of(ratios_of(h))
        scales = scales_of(self.steps)
        matrices = [level.graph.matrix() * scale for level, scale in zip(h.levels, scales, strict=False)]
        self.operators = [on_device(matrix, dtype, device) for matrix in matrices]
        self.inverse_diagonals = [
            torch.from_numpy(pieces.inverse(level.graph.diag * scale)).to(device, dtype)[:, None]
            for level, scale in zip(h.levels, scales, strict=False)
        ]
        self.prolongations = [on_device(level.prolongation, dtype, device) for level in h.levels]
        self.restrictions = [on_device(level.prolongation.T, dtype, device) for level in h.levels]
        self.inverse = torch.from_numpy(h.inverse / scales[-1]).to(device, dtype)

    def describe(self) -> list[str]:
        """One line per level, fine to coarse."""
        lines = [f"{n} unknowns, smoothed {v} times" for n, v in zip(self.sizes[:-1], self.visits, strict=True)]
        return [*lines, f"{self.sizes[-1]} unknowns, inverted"]

    def apply(self, b: Tensor) -> Tensor:
        """Return M b for b (..., nx, ny, nz) as a tensor of its own; batches are columns of the products."""
        flat = b.reshape(-1, self.size[0] * self.size[1] * self.size[2])
        z = torch.zeros_like(flat)
        columns = flat[:, self.cells].T
        z[:, self.cells] = (self.descend(columns, 0) if self.visits else self.inverse @ columns).T
        return z.view(b.shape)

    def descend(self, b: Tensor, l: int, visit: int = 0) -> Tensor:
        """Apply the cycle from level l on: two Jacobi steps, a correction, the two steps in reverse order."""
        if l == len(self.operators):
            return self.inverse @ b
        A, d, (first, second, _) = self.operators[l], self.inverse_diagonals[l], self.steps[l]
        x = first * d * b
        x = x + second * d * (b - A @ x)
        r = b - A @ x
        # the same level again in place of a descent (`hierarchy.visits`); the order is its own mirror image
        if visit + 1 < self.visits[l]:
            x = x + self.descend(r, l, visit + 1)
        else:
            x = x + self.prolongations[l] @ self.descend(self.restrictions[l] @ r, l + 1)
        x = x + second * d * (b - A @ x)
        return x + first * d * (b - A @ x)


def on_device(matrix: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a SciPy matrix as a sparse tensor."""
    coo = sp.coo_array(matrix)
    index = torch.from_numpy(np.stack(coo.coords).astype(np.int64))
    values = torch.from_numpy(coo.data)
    return torch.sparse_coo_tensor(index, values, coo.shape, check_invariants=False).coalesce().to(device, dtype)
