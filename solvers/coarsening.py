"""Classical coarsening of conductances: where the learned rule starts, and the baselines it must beat.

Between the centres of two blocks current flows through half of the inner link of each block and the link that joins them,

    path = 1 / ( r + 1/w_out + r' ),        r = 1/(2 w_in),   r = 0 for a cell without a partner in its block

(``resistor``), or, as if the medium were uniform, r = 1/(2 w_out) (``geometric``). The coarse link is the sum over the
parallel paths. The prolongation weight towards the outer neighbour is what the same circuit gives: r / (r + 1/w_out + r'),
1/4 in a uniform medium. Conductances to p = 0 are put in series with r, since a plain sum makes a Dirichlet side
twice too strong per level; shifts add up. On a box all of this is the textbook's cell-centred multigrid.

Alcouffe, Brandt, Dendy and Painter, SIAM J. Sci. Stat. Comput. 2 (1981), for the circuit; McAdams et al., SCA 2010, for
geometric multigrid on voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .kernels.reference import Stencil, Transfer, block_sum, neighbour, outer, position

# an axis is coarsened if its mean link is at least this fraction of the strongest one; halving an axis changes ratios by 4,
# so anything between 1/4 and 1 comes back to balance (ours)
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

    inner, outer_link : conductance to the partner and to the outer neighbour; r : half the inner resistance;
    path : conductance between the block centres through the cell's upper link, at interfaces only;
    blocked : a partner with an unknown that no link reaches; alone : no partner holds an unknown.
    """

    inner: Tensor
    outer_link: Tensor
    r: Tensor
    r_outer: Tensor
    path: Tensor
    uniform_path: Tensor
    blocked: Tensor
    alone: Tensor
    interface: Tensor
    partner_index: Tensor


def circuit(op: Stencil, d: int) -> Circuit:
    """Read the circuit of a coarsened axis d off a stencil."""
    w, periodic, n = op.links[d], op.periodic[d], op.size[d]
    k = position(w, d)
    even, last = k % 2 == 0, k == n - 1
    has_partner = ~(even & last)
    zero = torch.zeros_like(w)
    below = neighbour(w, d, -1, periodic)
    inner = torch.where(even, w, neighbour(w, d, -1)) * has_partner
    outer_link = torch.where(even, below, w)
    partner_mask = torch.where(even, neighbour(op.mask, d, 1), neighbour(op.mask, d, -1))
    alone = (partner_mask == 0) & (op.mask > 0)
    blocked = (partner_mask > 0) & (inner == 0) & (op.mask > 0)
    r = torch.where(inner > 0, 0.5 / torch.where(inner > 0, inner, 1), zero)
    interface = (~even | (last & periodic)).expand_as(w)
    joined = interface & (w > 0)
    safe = torch.where(joined, w, 1)
    free = ~(blocked | neighbour(blocked.to(w.dtype), d, 1, periodic).bool())
    path = torch.where(joined & free, 1 / (r + 1 / safe + neighbour(r, d, 1, periodic)), zero)
    half = 0.5 * has_partner.to(w.dtype).expand_as(w)
    uniform = torch.where(joined, w / (1 + half + neighbour(half, d, 1, periodic)), zero)
    r_outer = outer(r, d, periodic)
    return Circuit(inner, outer_link, r, r_outer, path, uniform, blocked, alone, interface, half)


def resistor_weight(c: Circuit) -> Tensor:
    """a = r / (r + 1/w_out + r')."""
    joined = c.outer_link > 0
    total = c.r + 1 / torch.where(joined, c.outer_link, 1) + c.r_outer
    return torch.where(joined & (c.r > 0), c.r / total, 0)


def geometric_weight(c: Circuit, d: int, periodic: bool) -> Tensor:
    """1/4 (1/3 towards a block of one cell) where the outer link is open."""
    total = 1 + c.partner_index + outer(c.partner_index, d, periodic)
    return torch.where(c.outer_link > 0, c.partner_index / total, 0)


def coarse_stencil(op: Stencil, factors: tuple[int, int, int], paths: list[Tensor], circuits: list) -> Stencil:
    """Sum parallel paths; put conductances to p = 0 in series with the half block behind them; add up shifts."""
    links, ground = [], []
    for d in range(3):
        w = block_sum(paths[d], factors)
        if w.shape[d - 3] == 1:  # a periodic axis of one block couples to itself: no link
            w = torch.zeros_like(w)
        links.append(w)
        g = op.ground[d]
        if factors[d] == 2:
            positive = g > 0
            g = torch.where(positive, 1 / (1 / torch.where(positive, g, 1) + circuits[d].r), 0)
        ground.append(block_sum(g, factors))
    return Stencil(links, ground, block_sum(op.shift, factors), op.periodic)


def classical(op: Stencil, factors: tuple[int, int, int], kind: str) -> tuple[Tensor, Transfer, Stencil]:
    """Damping s = 1, transfer and coarse operator of the ``"geometric"`` or ``"resistor"`` rule."""
    circuits = [circuit(op, d) if f == 2 else None for d, f in enumerate(factors)]
    weights: list[Tensor | None] = []
    paths = []
    for d, c in enumerate(circuits):
        if c is None:
            weights.append(None)
            paths.append(op.links[d])
        else:
            weights.append(resistor_weight(c) if kind == "resistor" else geometric_weight(c, d, op.periodic[d]))
            paths.append(c.path if kind == "resistor" else c.uniform_path)
    transfer = Transfer(weights, factors, op.mask, op.periodic)
    return op.mask, transfer, coarse_stencil(op, factors, paths, circuits)
