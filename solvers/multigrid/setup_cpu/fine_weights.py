"""Damping and prolongation weights of the cells in one vector of columns: features and network."""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel
from ...kernels.cpu.lanes import any_positive, larger, load, nearest, smaller, splat, store, store_all, where_positive
from .perceptron import HALF, ONE, TINY, ZERO, answer, exponential, fourth_root, hidden_units, ratio
from .row_features import (
    ALONE,
    ALONE_O,
    BLOCKED,
    DIAG_HIGH,
    DIAG_LOW,
    DIAG_O,
    GEOMETRIC,
    GROUND,
    HIGH,
    INNER,
    INNER_O,
    LINK,
    LOW,
    MEAN,
    PATH,
)

DAMPING_BIAS = np.float32(3)
LEAST, MOST, BITS, SIX = np.float32(1e-4), np.float32(1 - 1e-3), np.float32(255), np.float32(1 / 6)


@inlined_kernel
def side_sums(g, k, inv):
    """Return the sum of w/diag₊ over both sides of an axis, and that of w²/(diag diag₊)."""
    low, high = load(g, (LOW, k)), load(g, (HIGH, k))
    below, above = low / larger(load(g, (DIAG_LOW, k)), TINY), high / larger(load(g, (DIAG_HIGH, k)), TINY)
    return below + above, (low * inv) * below + (high * inv) * above


@inlined_kernel
def damping_features(own, axes, factors, k, x):
    """Write the nine features of `coefficients.damping_features`, ground and shift last; return sums and how many."""
    inv = ONE / larger(load(own, (0, k)), TINY)
    ground, inner, link, most_inner, most_link = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
    squares, row, square = splat(ZERO), splat(ZERO), splat(ZERO)
    for d in range(3):
        g = axes[d]
        ground = ground + load(g, (GROUND, k)) * inv
        if factors[d] == 2:
            i, o = load(g, (INNER, k)) * inv, load(g, (LINK, k)) * inv
            inner, link, squares = inner + i, link + o, squares + (i * i + o * o)
            most_inner, most_link = larger(most_inner, i), larger(most_link, o)
        r, q = side_sums(g, k, inv)
        row, square = row + r, square + q
    shift = load(own, (1, k)) * inv
    row = smaller(row * SIX, ONE)
    store_all(x, (0, 0), (inner, link, most_inner, most_link, squares, row, square, ground, shift))
    return (inv, ground, shift, inner, link), (9 if any_positive(ground + shift) else 7)


@inlined_kernel
def resistor_weight(inner, link, inner_o, path):
    """Return r / (r + 1/link + r')."""
    r = where_positive(inner, HALF / larger(inner, TINY), ZERO)
    r_o = where_positive(inner_o, HALF / larger(inner_o, TINY), ZERO)
    value = where_positive(path, r * path, r / (r + ONE / larger(link, TINY) + r_o))
    return where_positive(link, value, ZERO)


@inlined_kernel
def weight_features(own, g, k, sums, y):
    """Write the sixteen features of `coefficients.weight_features`, mostly 0 ones last; return how many, the weight."""
    inv, ground, shift, inner_sum, link_sum = sums
    inner, link, inner_o, path = load(g, (INNER, k)), load(g, (LINK, k)), load(g, (INNER_O, k)), load(g, (PATH, k))
    alone, alone_o, blocked = load(g, (ALONE, k)), load(g, (ALONE_O, k)), load(g, (BLOCKED, k))
    resistor = resistor_weight(inner, link, inner_o, path)
    ri, rl, ro = fourth_root(inner), fourth_root(link), fourth_root(inner_o)
    i, l = inner * inv, link * inv
    features = (
        ratio(ri, rl), ratio(rl, ro), ratio(ri, ro), ratio(fourth_root(path), fourth_root(load(g, (MEAN, k)))),
        ratio(fourth_root(load(own, (0, k))), fourth_root(load(g, (DIAG_O, k)))), i, l, inner_sum - i, link_sum - l,
        resistor, load(g, (GROUND, k)) * inv, ground, shift, alone, alone_o, blocked,
    )  # fmt: skip
    store_all(y, (0, 0), features)
    return (16 if any_positive(ground + shift + alone + alone_o + blocked) else 10), resistor


@inlined_kernel
def blended_weight(link, resistor, geometric, gate, correction):
    """Return the eight-bit weight σ(logit(g geometric + (1-g) resistor) + y₁), g = σ(y₀); 0 where there is no link."""
    g = ONE / (ONE + exponential(ZERO - gate))
    mix = smaller(larger(g * geometric + (ONE - g) * resistor, LEAST), MOST)
    odds = mix * exponential(correction)
    return where_positive(link, nearest(BITS * (odds / (odds + (ONE - mix)))), ZERO)


@row_kernel
def evaluate(own, axes, k, factors, damping, weight, x, hidden, value):
    """Write the weights (0, 1, 2) and sd (3) of the cells in one vector of columns; 0 where there is no unknown."""
    diag = load(own, (0, k))
    sums, features = damping_features(own, axes, factors, k, x)
    hidden_units(x, features, damping, hidden)
    s = BITS / (ONE + exponential(ZERO - answer(0, damping, hidden) - DAMPING_BIAS))
    store(value, (3, k), where_positive(diag, larger(nearest(s), ONE) / (BITS * larger(diag, TINY)), ZERO))
    for d in range(3):
        if factors[d] == 2:
            g = axes[d]
            features, resistor = weight_features(own, g, k, sums, x)
            hidden_units(x, features, weight, hidden)
            gate, correction = answer(0, weight, hidden), answer(1, weight, hidden)
            blend = blended_weight(load(g, (LINK, k)), resistor, load(g, (GEOMETRIC, k)), gate, correction)
            store(value, (d, k), where_positive(diag, blend, ZERO))
