"""The network that turns local conductances into damping, prolongation weights and coarse conductances.

Four small perceptrons, shared by all cells, axes and levels, see only ratios of nearby conductances, so their output
does not change when the system is scaled, and turns with the axes and mirrors of the grid. Damping sees a cell's links
and the diagonals of its neighbours; a prolongation weight sees the cell, its outer neighbour and the coarse face
between their blocks; a coarse link sees the two coarse cells that it joins and their links. The last three blend or
correct the classical formulas of `coarsening`:

    damping       s   = σ(y₀ + 3)                                                   per cell, in (0, 1)
    weight        a_d = σ(logit(g·geometric + (1-g)·resistor) + y₂),    g = σ(y₁)   per cell, coarsened axis
    coarse link   w_d = (g·geometric + (1-g)·resistor) · exp(y₄),       g = σ(y₃)   per coarse face
    ground, shift     multiplied by exp(y₅)                                         per coarse cell

``hidden=0`` drops the perceptrons and keeps one constant per output: the best *tuned constants*, against which whatever
is credited to learning is measured. Zero output weights reproduce a blend of the classical rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..kernels.reference import Stencil, Transfer, block_expand, block_sum, neighbour, outer, position
from .coarsening import Circuit, circuit, coarse_stencil, geometric_weight, resistor_weight

Circuits = list[Circuit | None]

BOUND = 3.0  # |log correction| of a coarse conductance
# below this fraction of the geometric link a blocked face stays closed: a nearly closed face would create a contrast
# that fp32 cannot resolve
CUT = 0.01
DAMPING_FEATURES, WEIGHT_FEATURES, LINK_FEATURES, GROUND_FEATURES = 9, 16, 16, 9


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """Compute x^¼ / (x^¼ + y^¼): a bounded, division-safe stand-in for log(x/y) over many decades; 1/2 for 0/0."""
    x, y = x.clamp_min(1e-37), y.clamp_min(1e-37)
    return 1 / (1 + (y / x).clamp(1e-16, 1e16).sqrt().sqrt())


def total(terms: Iterable[Tensor]) -> Tensor:
    """Add tensors one after the other."""
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


class Perceptron(nn.Module):
    """features -> hidden -> hidden -> outputs, leaky ReLU; or one learned constant per output (hidden = 0)."""

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        sizes = (features, hidden, hidden) if hidden else ()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))
        self.last = nn.Linear(hidden, outputs, bias=False) if hidden else None
        if self.last is not None:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (features, ...) to outputs (outputs, ...)."""
        y = self.bias.view(-1, *([1] * (x.dim() - 1)))
        if self.last is None:
            return y.expand(-1, *x.shape[1:])
        v = x.flatten(1).T
        for layer in self.layers:
            v = nn.functional.leaky_relu(layer(v), 0.1)
        return y + self.last(v).T.unflatten(1, x.shape[1:])


class CoefficientNetwork(nn.Module):
    """A rule of `hierarchy.build` with learned weights.

    Parameters
    ----------
    hidden : int
        Width of the perceptrons; 0 for tuned constants.

    Examples
    --------
    >>> sum(p.numel() for p in CoefficientNetwork(hidden=0).parameters())
    6
    """

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.hidden = hidden
        self.damping = Perceptron(DAMPING_FEATURES, hidden, 1)
        self.weight = Perceptron(WEIGHT_FEATURES, hidden, 2)
        self.link = Perceptron(LINK_FEATURES, hidden, 2)
        self.ground = Perceptron(GROUND_FEATURES, hidden, 1)

    def forward(self, op: Stencil, factors: tuple[int, int, int]) -> tuple[Tensor, Transfer, Stencil]:
        """Return damping, transfer and coarse operator of one level."""
        circuits = [circuit(op, d) if f == 2 else None for d, f in enumerate(factors)]
        sums = Sums(op, circuits)
        s = torch.sigmoid(self.damping(damping_features(op, sums))[0] + 3) * op.mask
        weights: list[Tensor | None] = [None, None, None]
        for d, c in enumerate(circuits):
            if c is not None:
                y = self.weight(weight_features(op, c, d, sums, factors))
                weights[d] = blend_weight(c, d, op.periodic[d], y)
        return s, Transfer(weights, factors, op.mask, op.periodic), self.coarse(op, factors, circuits)

    def coarse(self, op: Stencil, factors: tuple[int, int, int], circuits: Circuits) -> Stencil:
        """Blend and correct the two classical coarse operators."""
        paths = series_paths(op, circuits)
        uniform_paths = [w if c is None else c.uniform_path for w, c in zip(op.links, circuits, strict=True)]
        series = coarse_stencil(op, factors, paths, circuits)
        uniform = coarse_stencil(op, factors, uniform_paths, circuits)
        children = block_sum(op.mask, factors) / (factors[0] * factors[1] * factors[2])
        links = []
        for d in range(3):
            faces = face_features(paths[d], series.links[d], factors, 4.0 if circuits[d] is not None else 8.0)
            y = self.link(link_features(d, uniform, series, children, faces, factors))
            g = torch.sigmoid(y[0])
            blend = g * uniform.links[d] + (1 - g) * series.links[d]
            link = blend * torch.exp(y[1].clamp(-BOUND, BOUND))
            links.append(torch.where((series.links[d] == 0) & (link < CUT * uniform.links[d]), 0, link))
        e = torch.exp(self.ground(ground_features(series, children))[0].clamp(-BOUND, BOUND))
        return Stencil(links, [g * e for g in series.ground], series.shift * e, op.periodic)


def series_paths(op: Stencil, circuits: Circuits) -> list[Tensor]:
    """Return per axis the conductances whose sums are the coarse links of the resistor rule."""
    return [w if c is None else c.path for w, c in zip(op.links, circuits, strict=True)]


def blend_weight(c: Circuit, d: int, periodic: bool, y: Tensor) -> Tensor:
    """Blend both formulas for the prolongation weight, correct it in the logit; 0 where there is no outer link."""
    g = torch.sigmoid(y[0])
    mix = (g * geometric_weight(c, d, periodic) + (1 - g) * resistor_weight(c)).clamp(1e-4, 1 - 1e-3)
    return torch.sigmoid(torch.logit(mix) + y[1]) * (c.outer_link > 0)


class Sums:
    """Per cell: inner and outer links, ground and shift as fractions of the diagonal, per axis and summed."""

    def __init__(self, op: Stencil, circuits: Circuits) -> None:
        zero = torch.zeros_like(op.diag)
        self.inner = [c.inner * op.inv if c is not None else zero for c in circuits]
        self.outer = [c.outer_link * op.inv if c is not None else zero for c in circuits]
        self.total_inner, self.total_outer = total(self.inner), total(self.outer)
        self.ground = total(op.ground) * op.inv
        self.shift = op.shift * op.inv


def damping_features(op: Stencil, sums: Sums) -> Tensor:
    """Compute nine numbers per cell, symmetric in the axes."""
    row, square = torch.zeros_like(op.diag), torch.zeros_like(op.diag)  # sums of w/diag₊ and of w²/(diag diag₊)
    for d, w in enumerate(op.links):
        for v, inv in (
            (w, neighbour(op.inv, d, 1, op.periodic[d])),
            (neighbour(w, d, -1, op.periodic[d]), neighbour(op.inv, d, -1, op.periodic[d])),
        ):
            row = row + v * inv
            square = square + (v * op.inv) * (v * inv)
    inner, outer_ = torch.stack(sums.inner), torch.stack(sums.outer)
    return torch.stack(
        [
            sums.ground,
            sums.shift,
            sums.total_inner,
            sums.total_outer,
            inner.amax(0),
            outer_.amax(0),
            (inner * inner + outer_ * outer_).sum(0),
            row.clamp_max(6) / 6,
            square,
        ]
    )


def weight_features(op: Stencil, c: Circuit, d: int, sums: Sums, factors: tuple[int, int, int]) -> Tensor:
    """Compute sixteen numbers per cell and coarsened axis."""
    periodic = op.periodic[d]
    inner_outer = outer(c.inner, d, periodic)
    # the path through this cell's own interface, against the mean over the parallel paths of the coarse face
    path = outer_value(c.path, d, periodic)
    transverse = tuple(1 if e == d else f for e, f in enumerate(factors))
    mean = block_expand(block_sum(path, transverse), transverse, op.size) / math.prod(transverse)
    weight, alone = resistor_weight(c), c.alone.to(op.diag.dtype)
    return torch.stack(
        [
            ratio(c.inner, c.outer_link),
            ratio(c.outer_link, inner_outer),
            ratio(c.inner, inner_outer),
            ratio(path, mean),
            ratio(op.diag, outer(op.diag, d, periodic)),
            sums.inner[d],
            sums.outer[d],
            op.ground[d] * op.inv,
            sums.ground,
            sums.shift,
            sums.total_inner - sums.inner[d],
            sums.total_outer - sums.outer[d],
            alone,
            outer(alone, d, periodic),
            c.blocked.to(weight.dtype),
            weight,
        ]
    )


def outer_value(x: Tensor, d: int, periodic: bool) -> Tensor:
    """Bring a value stored at the lower cell of a link to both cells of the outer link."""
    return torch.where(position(x, d) % 2 == 0, neighbour(x, d, -1, periodic), x)


def face_features(paths: Tensor, link: Tensor, factors: tuple[int, int, int], count: float) -> tuple[Tensor, Tensor]:
    """Compute how many parallel paths a coarse face has, and (Σw)²/Σw², as fractions of `count`."""
    is_open = block_sum((paths > 0).to(link.dtype), factors)
    square = block_sum(paths * paths, factors)
    return is_open / count, (link**2 / (square * count).clamp_min(1e-37)).clamp(0, 1)


def link_features(
    d: int,
    uniform: Stencil,
    series: Stencil,
    children: Tensor,
    faces: tuple[Tensor, Tensor],
    factors: tuple[int, int, int],
) -> Tensor:
    """Compute sixteen numbers per coarse face, symmetric in its two sides."""
    periodic = series.periodic[d]

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        up = neighbour(x, d, 1, periodic)
        return torch.minimum(x, up), torch.maximum(x, up)

    w, link = uniform.links[d], series.links[d]
    below, above = neighbour(w, d, -1, periodic), neighbour(w, d, 1, periodic)
    transverse = total(series.links[e] + series.lower[e] for e in range(3) if e != d)
    shift_low, shift_high = both(series.shift * series.inv)
    ground_low, ground_high = both(total(series.ground) * series.inv)
    diag_low, diag_high = both(series.diag)
    trans_low, trans_high = both(transverse)
    child_low, child_high = both(children)
    return torch.stack(
        [
            ratio(link, w),
            *faces,
            ratio(link, diag_low),
            ratio(link, diag_high),
            ratio(w, below) * ratio(w, above),
            ratio(w, below) + ratio(w, above),
            ratio(link, trans_low),
            ratio(link, trans_high),
            ground_low,
            ground_high,
            shift_low + shift_high,
            child_low,
            child_high,
            ratio(diag_low, diag_high),
            torch.full_like(w, factors[d] - 1.0),
        ]
    )


def ground_features(series: Stencil, children: Tensor) -> Tensor:
    """Compute nine numbers per coarse cell, symmetric in the axes."""
    pairs = [w + below for w, below in zip(series.links, series.lower, strict=True)]
    fractions = torch.stack([p * series.inv for p in pairs])
    grounds = torch.stack([g * series.inv for g in series.ground])
    return torch.stack(
        [
            total(series.ground) * series.inv,
            series.shift * series.inv,
            grounds.amax(0),
            (grounds * grounds).sum(0),
            fractions.amax(0),
            (fractions * fractions).sum(0),
            (fractions * grounds).sum(0),
            children,
            ratio(total(series.ground), total(pairs)),
        ]
    )
