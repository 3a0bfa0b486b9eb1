"""Classical coarsening of conductances: where the learned rule starts, and the baselines it must beat.

Inner and outer link, partner, alone and blocked are drawn in docs/internals.md. Between the centres of two blocks
current flows through half of the inner link of each block and the link that joins them,

    path = 1 / ( r + 1/w_out + r' ),        r = 1/(2 w_in),   r = 0 for a cell without a partner in its block

(``resistor``; no current through a partner that no link reaches), or, as if the medium were uniform, r = 1/(2 w_out)
(``geometric``). The coarse link is the sum over the parallel paths. The prolongation weight towards the outer neighbour
is what the same circuit gives: r / (r + 1/w_out + r'), 1/4 in a uniform medium. Conductances to p = 0 are put in series
with r, since a plain sum makes a Dirichlet side twice too strong per level; shifts add up. On a box with even sides all
of this is the textbook's cell-centred multigrid.

Alcouffe, Brandt, Dendy and Painter, SIAM J. Sci. Stat. Comput. 2 (1981), for the circuit; McAdams et al., SCA 2010, for
geometric multigrid on voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.reference import Stencil, Transfer, block_sum, neighbour, outer, position

# an axis is coarsened if its mean link is at least this fraction of the strongest one; halving an axis changes ratios
# by 4, so anything between 1/4 and 1 comes back to balance (ours)
SEMI = 0.3


def choose_factors(op: Stencil) -> tuple[int, int, int]:
    """Return 1 or 2 per axis: coarsen the strongly coupled axes only, until the grid is isotropic (semi-coarsening)."""
    counts = [int((w > 0).sum()) for w in op.links]
    means = [float(w.detach().sum()) / c if c else 0.0 for w, c in zip(op.links, counts, strict=True)]
    return balanced_factors(means, op.size)


def balanced_factors(means: Sequence[float], size: Sequence[int]) -> tuple[int, int, int]:
    """Return 2 for the axes whose mean link comes near the strongest one; for all long axes if nothing couples."""
    candidates = [m if n > 1 else 0.0 for m, n in zip(means, size, strict=True)]
    strongest = max(candidates)
    if strongest == 0:
        return tuple(2 if n > 1 else 1 for n in size)  # type: ignore[return-value]
    return tuple(2 if m >= SEMI * strongest else 1 for m in candidates)  # type: ignore[return-value]


@dataclass(frozen=True)
class Circuit:
    """What one coarsened axis looks like from each fine cell; all arrays are fine grids.

    inner, outer_link : conductance to the partner and to the outer neighbour; r, r_outer : half the inner resistance,
    here and at the outer neighbour; path, uniform_path : conductance between the block centres through the cell's upper
    link, at interfaces only, by the resistor and the geometric formula; blocked : the partner holds an unknown, but no
    link reaches it; alone : no partner holds an unknown; half : 1/2, or 0 in a block of one cell.
    """

    inner: Tensor
    outer_link: Tensor
    r: Tensor
    r_outer: Tensor
    path: Tensor
    uniform_path: Tensor
    blocked: Tensor
    alone: Tensor
    half: Tensor


def circuit(op: Stencil, d: int) -> Circuit:
    """Read the circuit of a coarsened axis d off a stencil."""
    w, periodic, n = op.links[d], op.periodic[d], op.size[d]
    # blocks are cells (0, 1), (2, 3), ...: an even cell's partner is above it, an odd one's below; links are stored at
    # the lower of their two cells
    k = position(w, d)
    even, last = k % 2 == 0, k == n - 1
    has_partner = ~(even & last)
    inner = torch.where(even, w, neighbour(w, d, -1)) * has_partner
    outer_link = torch.where(even, neighbour(w, d, -1, periodic), w)
    partner_mask = torch.where(even, neighbour(op.mask, d, 1), neighbour(op.mask, d, -1))
    alone = (partner_mask == 0) & (op.mask > 0)
    blocked = (partner_mask > 0) & (inner == 0) & (op.mask > 0)
    r = torch.where(inner > 0, 0.5 / torch.where(inner > 0, inner, 1), 0)  # the inner where: no NaN in gradients
    half = 0.5 * has_partner.to(w.dtype).expand_as(w)
    joined = (~even | (last & periodic)) & (w > 0)  # upper links that lead to the next block
    # a cell that its partner's links do not reach stands for no block: no path leads through it
    free = ~(blocked | neighbour(blocked.to(w.dtype), d, 1, periodic).bool())
    resistance = r + 1 / torch.where(joined, w, 1) + neighbour(r, d, 1, periodic)
    path = torch.where(joined & free, 1 / resistance, 0)
    uniform_path = torch.where(joined, w / (1 + half + neighbour(half, d, 1, periodic)), 0)
    return Circuit(inner, outer_link, r, outer(r, d, periodic), path, uniform_path, blocked, alone, half)


def resistor_weight(c: Circuit) -> Tensor:
    """Compute the prolongation weight r / (r + 1/w_out + r')."""
    joined = c.outer_link > 0
    total = c.r + 1 / torch.where(joined, c.outer_link, 1) + c.r_outer
    return torch.where(joined & (c.r > 0), c.r / total, 0)


def geometric_weight(c: Circuit, d: int, periodic: bool) -> Tensor:
    """Return 1/4 (1/3 next to a block of one cell, 0 in it) where the outer link is open, else 0."""
    return torch.where(c.outer_link > 0, c.half / (1 + c.half + outer(c.half, d, periodic)), 0)


def coarse_stencil(
    op: Stencil, factors: tuple[int, int, int], paths: Sequence[Tensor], circuits: Sequence[Circuit | None]
) -> Stencil:
    """Sum parallel paths; put conductances to p = 0 in series with the half block behind them; add up shifts."""
    links, ground = [], []
    for d in range(3):
        w = block_sum(paths[d], factors)
        if w.shape[d - 3] == 1:  # a periodic axis of one block couples to itself: no link
            w = torch.zeros_like(w)
        links.append(w)
        g, c = op.ground[d], circuits[d]
        if c is not None:
            g = torch.where(g > 0, 1 / (1 / torch.where(g > 0, g, 1) + c.r), 0)
        ground.append(block_sum(g, factors))
    return Stencil(links, ground, block_sum(op.shift, factors), op.periodic)


def classical(op: Stencil, factors: tuple[int, int, int], kind: str) -> tuple[Tensor, Transfer, Stencil]:
    """Return damping s = 1, transfer and coarse operator of the ``"geometric"`` or ``"resistor"`` rule."""
    circuits = [circuit(op, d) if f == 2 else None for d, f in enumerate(factors)]
    weights: list[Tensor | None] = [None, None, None]
    paths = list(op.links)
    for d, c in enumerate(circuits):
        if c is not None and kind == "resistor":
            weights[d], paths[d] = resistor_weight(c), c.path
        elif c is not None:
            weights[d], paths[d] = geometric_weight(c, d, op.periodic[d]), c.uniform_path
    transfer = Transfer(weights, factors, op.mask, op.periodic)
    return op.mask, transfer, coarse_stencil(op, factors, paths, circuits)
