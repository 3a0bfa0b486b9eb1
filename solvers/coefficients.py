"""The network that turns local conductances into damping, prolongation weights and coarse conductances.

Three small perceptrons, shared by all cells, axes and levels, see only ratios of conductances within a cell, its block and
the next block (radius 1 on the finest level), so their output does not change when the system is scaled, and turns
with the axes and mirrors of the grid. Each blends the two classical formulas of `coarsening` and corrects the blend:

    damping       s   = σ(y₀ + 3)                                    per cell, in (0, 1)
    weight        a_d = σ( logit(g·geometric + (1-g)·resistor) + y₂ ),   g = σ(y₁)      per cell and coarsened axis
    coarse link   w_d = (g·geometric + (1-g)·resistor) · exp(y₄),        g = σ(y₃)      per coarse face
    ground, shift     multiplied by exp(y₅)                                             per coarse cell

``hidden=0`` drops the perceptrons and keeps one constant per output: the best *tuned constants*, against which whatever is
credited to learning is measured. Zero output weights reproduce a blend of the classical rules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .coarsening import Circuit, circuit, coarse_stencil, geometric_weight, resistor_weight
from .kernels.reference import Stencil, Transfer, block_expand, block_sum, neighbour, outer

BOUND = 3.0  # |log correction| of a coarse conductance
DAMPING_FEATURES, WEIGHT_FEATURES, LINK_FEATURES, GROUND_FEATURES = 9, 16, 16, 9


def ratio(x: Tensor, y: Tensor) -> Tensor:
    """x^¼ / (x^¼ + y^¼), 0 where x is: a bounded, division-safe stand-in for log(x/y) over many decades."""
    x, y = x.clamp_min(1e-37), y.clamp_min(1e-37)
    return 1 / (1 + (y / x).clamp(1e-16, 1e16).sqrt().sqrt())


class Perceptron(nn.Module):
    """features -> hidden -> hidden -> outputs, leaky ReLU; or one learned constant per output (hidden = 0)."""

    def __init__(self, features: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        sizes = (features, hidden, hidden) if hidden else ()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))
        self.last = nn.Linear(hidden, outputs, bias=False) if hidden else None
        if self.last is not None:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x : (features, ...) -> (outputs, ...)."""
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
        """Coefficients of one level."""
        circuits = [circuit(op, d) if f == 2 else None for d, f in enumerate(factors)]
        sums = Sums(op, circuits)
        s = torch.sigmoid(self.damping(damping_features(op, sums))[0] + 3) * op.mask
        weights: list[Tensor | None] = [None, None, None]
        paths = list(op.links)
        for d, c in enumerate(circuits):
            if c is not None:
                y = self.weight(weight_features(op, c, d, sums, factors))
                weights[d] = blend_weight(c, d, op.periodic[d], y)
        transfer = Transfer(weights, factors, op.mask, op.periodic)
        uniform = coarse_stencil(op, factors, [op.links[d] if c is None else c.uniform_path for d, c in enumerate(circuits)], circuits)
        series = coarse_stencil(op, factors, [op.links[d] if c is None else c.path for d, c in enumerate(circuits)], circuits)
        return s, transfer, self.coarse(op, factors, uniform, series, circuits)

    def coarse(self, op, factors, uniform: Stencil, series: Stencil, circuits) -> Stencil:
        """Blend and correct the two classical coarse operators."""
        children = block_sum(op.mask, factors) / (factors[0] * factors[1] * factors[2])
        links = []
        for d in range(3):
            y = self.link(link_features(op, d, uniform, series, children, factors, circuits))
            g = torch.sigmoid(y[0])
            blend = g * uniform.links[d] + (1 - g) * series.links[d]
            links.append(blend * torch.exp(y[1].clamp(-BOUND, BOUND)))
        e = torch.exp(self.ground(ground_features(series, children))[0].clamp(-BOUND, BOUND))
        return Stencil(links, [g * e for g in series.ground], series.shift * e, op.periodic)


def blend_weight(c: Circuit, d: int, periodic: bool, y: Tensor) -> Tensor:
    """The prolongation weight: a blend of both formulas, corrected in the logit; 0 where there is no outer link."""
    g = torch.sigmoid(y[0])
    mix = (g * geometric_weight(c, d, periodic) + (1 - g) * resistor_weight(c)).clamp(1e-4, 1 - 1e-3)
    return torch.sigmoid(torch.logit(mix) + y[1]) * (c.outer_link > 0)


class Sums:
    """Per cell sums over axes, as fractions of the diagonal."""

    def __init__(self, op: Stencil, circuits: list[Circuit | None]) -> None:
        zero = torch.zeros_like(op.diag)
        self.inner = [c.inner * op.inv if c is not None else zero for c in circuits]
        self.outer = [c.outer_link * op.inv if c is not None else zero for c in circuits]
        self.total_inner, self.total_outer = sum(self.inner), sum(self.outer)
        self.ground = sum(op.ground) * op.inv
        self.shift = op.shift * op.inv


def damping_features(op: Stencil, sums: Sums) -> Tensor:
    """Nine numbers per cell, symmetric in the axes."""
    row, square = torch.zeros_like(op.diag), torch.zeros_like(op.diag)
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
    """Sixteen numbers per cell and coarsened axis."""
    periodic = op.periodic[d]
    inner_outer = outer(c.inner, d, periodic)
    diag_outer = outer(op.diag, d, periodic)
    # the path through this cell's own interface, against the mean over the parallel paths of the coarse face
    even_path = outer_value(c.path, d, periodic)
    transverse = tuple(1 if e == d else f for e, f in enumerate(factors))
    mean = block_expand(block_sum(even_path, transverse), transverse, op.size) / (transverse[0] * transverse[1] * transverse[2])
    weight = resistor_weight(c)
    return torch.stack(
        [
            ratio(c.inner, c.outer_link),
            ratio(c.outer_link, inner_outer),
            ratio(c.inner, inner_outer),
            ratio(even_path, mean),
            ratio(op.diag, diag_outer),
            sums.inner[d],
            sums.outer[d],
            op.ground[d] * op.inv,
            sums.ground,
            sums.shift,
            sums.total_inner - sums.inner[d],
            sums.total_outer - sums.outer[d],
            c.alone.to(weight.dtype),
            outer(c.alone.to(weight.dtype), d, periodic),
            c.blocked.to(weight.dtype),
            weight,
        ]
    )


def outer_value(x: Tensor, d: int, periodic: bool) -> Tensor:
    """Bring a value stored at the lower cell of a link to both cells of the outer link."""
    below = neighbour(x, d, -1, periodic)
    even = (torch.arange(x.shape[d - 3], device=x.device) % 2 == 0).view([-1 if e == d else 1 for e in range(3)])
    return torch.where(even, below, x)


def link_features(op, d: int, uniform: Stencil, series: Stencil, children: Tensor, factors, circuits) -> Tensor:
    """Sixteen numbers per coarse face, symmetric in its two sides."""
    periodic = op.periodic[d]

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        up = neighbour(x, d, 1, periodic)
        return torch.minimum(x, up), torch.maximum(x, up)

    w = uniform.links[d]
    open_paths = block_sum(((circuits[d].path if circuits[d] is not None else op.links[d]) > 0).to(w.dtype), factors)
    best = (circuits[d].path if circuits[d] is not None else op.links[d])
    square = block_sum(best * best, factors)
    count = 4.0 if circuits[d] is not None else 8.0
    spread = series.links[d] ** 2 / (square * count).clamp_min(1e-37)  # 1 for equal parallel paths, 1/count for a single one
    below, above = neighbour(w, d, -1, periodic), neighbour(w, d, 1, periodic)
    transverse = sum(series.links[e] + neighbour(series.links[e], e, -1, op.periodic[e]) for e in range(3) if e != d)
    shift_low, shift_high = both(series.shift * series.inv)
    ground_low, ground_high = both(sum(series.ground) * series.inv)
    diag_low, diag_high = both(series.diag)
    trans_low, trans_high = both(transverse)
    child_low, child_high = both(children)
    return torch.stack(
        [
            ratio(series.links[d], w),
            open_paths / count,
            spread.clamp(0, 1),
            ratio(series.links[d], diag_low),
            ratio(series.links[d], diag_high),
            ratio(w, below) * ratio(w, above),
            ratio(w, below) + ratio(w, above),
            ratio(series.links[d], trans_low),
            ratio(series.links[d], trans_high),
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
    """Nine numbers per coarse cell, symmetric in the axes."""
    pairs = [series.links[d] + neighbour(series.links[d], d, -1, series.periodic[d]) for d in range(3)]
    fractions = torch.stack([p * series.inv for p in pairs])
    grounds = torch.stack([g * series.inv for g in series.ground])
    return torch.stack(
        [
            sum(series.ground) * series.inv,
            series.shift * series.inv,
            grounds.amax(0),
            (grounds * grounds).sum(0),
            fractions.amax(0),
            (fractions * fractions).sum(0),
            (fractions * grounds).sum(0),
            children,
            ratio(sum(series.ground), sum(pairs)),
        ]
    )
