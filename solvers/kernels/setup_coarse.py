"""Set-up of a coarse operator: the learned blend of the two classical ones, evaluated once per pattern."""

from __future__ import annotations

import numpy as np

from .cpu_jit import ordered_row_kernel as row_kernel
from .cpu_jit import strip_kernel
from .lanes import WIDTH, any_positive, larger, load, smaller, splat, store, store_all, where_positive
from .setup import (
    CHUNK,
    ONE,
    TINY,
    ZERO,
    above,
    answer,
    below,
    exponential,
    fourth_root,
    hidden_units,
    locate,
    ratio,
)  # fmt: skip
from .setup_patterns import PRIMES, SLOTS, STRIP, add_bits, clear, finish, representative

LEAST, BOUND, CUT = np.float32(-3), np.float32(3), np.float32(0.01)  # as in `coefficients`
# rows of what is gathered per axis, of the face above a cell: both coarse links, what their neighbours are, both cells'
# diagonals, links across, ground and shift as fractions of the diagonal, children; open paths, squares
(
    LINK,
    UNIFORM,
    LOWER,
    UPPER,
    DIAG,
    DIAG_O,
    ACROSS,
    ACROSS_O,
    EARTH,
    EARTH_O,
    SHIFTS,
    CHILDREN,
    CHILDREN_O,
    OPEN,
    SQUARES,
) = range(15)


@row_kernel
def signatures_of_row(row, seen, size, out):
    """Write the signatures of a row of coarse cells."""
    uniform, path, ground, shift, facts = seen
    ny, nz = size[1], size[2]
    total, ones = np.empty(nz, np.uint64), np.ones(nz, np.float32)
    start, stop = row * nz, (row + 1) * nz
    i, j = row // ny, row % ny
    lows = (row - ny if i > 0 else row + (size[0] - 1) * ny, row - 1 if j > 0 else row + ny - 1)
    clear(total)
    for d in range(3):
        add_bits(total, uniform[d, start:stop], PRIMES[d])
        add_bits(total, path[d, start:stop], PRIMES[3 + d])
        add_bits(total, ground[d, start:stop], PRIMES[6 + d])
    for f in range(7):
        add_bits(total, facts[f, start:stop], PRIMES[9 + f])
    add_bits(total, shift[start:stop], PRIMES[16])
    add_bits(total, path[0, lows[0] * nz : (lows[0] + 1) * nz], PRIMES[17])
    add_bits(total, path[1, lows[1] * nz : (lows[1] + 1) * nz], PRIMES[18])
    add_bits(total[1:], path[2, start : stop - 1], PRIMES[19])
    total[0] += np.uint64(path[2, stop - 1]) * PRIMES[19]
    finish(total, ones, out[start:stop])


@strip_kernel
def cell_signatures(start, stop, seen, size, out):
    """Write the signatures of rows start..stop of coarse cells; the arguments are the bits of fp32 arrays."""
    for row in range(start, stop):
        signatures_of_row(row, seen, size, out)


@row_kernel
def pattern(c, signatures, position, size, stride, periodic):
    """Condense what the features of cell c depend on: its signature and those of its neighbours, where they exist."""
    h = signatures[c] * PRIMES[20]
    for d in range(3):
        n, t, p = size[d], stride[d], position[d]
        if n > 1:
            if p > 0 or periodic[d]:
                h += signatures[below(c, p, n, t)] * PRIMES[21 + d]
            if p < n - 1 or periodic[d]:
                h += signatures[above(c, p, n, t)] * PRIMES[24 + d]
    return h


@row_kernel
def across(path, c, d, position, size, stride):
    """Sum of the links of a coarse cell across axis d."""
    total = ZERO
    for e in range(3):
        if e != d:
            total += path[e, c] + path[e, below(c, position[e], size[e], stride[e])]
    return total


@row_kernel
def gather(c, m, problem, position, own, pairs, axes):
    """Copy what the features of coarse cell c and of the faces above it read into column m."""
    uniform, path, ground, shift, diag, facts, size, stride, _, periodic = problem
    own[0, m], own[1, m], own[2, m] = diag[c], shift[c], facts[0, c]
    inv = ONE / diag[c] if diag[c] > 0 else ZERO
    for d in range(3):
        n, t, p = size[d], stride[d], position[d]
        up, lo = above(c, p, n, t), below(c, p, n, t)
        g = axes[d]
        pairs[d, m], pairs[3 + d, m] = path[d, c] + path[d, lo], ground[d, c]
        g[LINK, m], g[UNIFORM, m] = path[d, c], uniform[d, c]
        if uniform[d, c] == 0 and path[d, c] == 0:
            continue
        exists = periodic[d] or p < n - 1
        inv_o = ONE / diag[up] if diag[up] > 0 else ZERO
        g[LOWER, m] = uniform[d, lo] if p > 0 or periodic[d] else ZERO
        g[UPPER, m] = uniform[d, up] if exists else ZERO
        g[DIAG, m], g[DIAG_O, m] = diag[c], (diag[up] if exists else ZERO)
        g[ACROSS, m] = across(path, c, d, position, size, stride)
        position[d] = p + 1 if p < n - 1 else 0
        g[ACROSS_O, m] = across(path, up, d, position, size, stride) if exists else ZERO
        position[d] = p
        g[EARTH, m] = (ground[0, c] + ground[1, c] + ground[2, c]) * inv
        g[EARTH_O, m] = (ground[0, up] + ground[1, up] + ground[2, up]) * inv_o if exists else ZERO
        g[SHIFTS, m] = shift[c] * inv + (shift[up] * inv_o if exists else ZERO)
        g[CHILDREN, m], g[CHILDREN_O, m] = facts[0, c], (facts[0, up] if exists else ZERO)
        g[OPEN, m], g[SQUARES, m] = facts[1 + d, c], facts[4 + d, c]


@row_kernel
def link_features(g, k, factor, x):
    """Write the sixteen features of `coefficients.link_features`, ground and shift last; return how many."""
    count = np.float32(4) if factor == 2 else np.float32(8)
    link, uniform, children, children_o = (
        load(g, (LINK, k)),
        load(g, (UNIFORM, k)),
        load(g, (CHILDREN, k)),
        load(g, (CHILDREN_O, k)),
    )
    rl, ru = fourth_root(link), fourth_root(uniform)
    diag, diag_o = fourth_root(load(g, (DIAG, k))), fourth_root(load(g, (DIAG_O, k)))
    across, across_o = fourth_root(load(g, (ACROSS, k))), fourth_root(load(g, (ACROSS_O, k)))
    low, high = smaller(diag, diag_o), larger(diag, diag_o)
    lower, upper = ratio(ru, fourth_root(load(g, (LOWER, k)))), ratio(ru, fourth_root(load(g, (UPPER, k))))
    earth, earth_o, shifts = load(g, (EARTH, k)), load(g, (EARTH_O, k)), load(g, (SHIFTS, k))
    features = (
        ratio(rl, ru), load(g, (OPEN, k)) / count,
        smaller(link * link / larger(load(g, (SQUARES, k)) * count, TINY), ONE), ratio(rl, low), ratio(rl, high),
        lower * upper, lower + upper, ratio(rl, smaller(across, across_o)), ratio(rl, larger(across, across_o)),
        smaller(children, children_o), larger(children, children_o), ratio(low, high), splat(np.float32(factor - 1)),
        smaller(earth, earth_o), larger(earth, earth_o), shifts,
    )  # fmt: skip
    store_all(x, (0, 0), features)
    return 16 if any_positive(earth + earth_o + shifts) else 13


@row_kernel
def ground_features(own, pairs, k, x):
    """Write the nine features of `coefficients.ground_features`; tell whether there is ground or shift."""
    diag, shift = load(own, (0, k)), load(own, (1, k))
    inv = where_positive(diag, ONE / larger(diag, TINY), ZERO)
    earth, links, most_ground, most_link = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
    grounds, squares, products = splat(ZERO), splat(ZERO), splat(ZERO)
    for d in range(3):
        link, ground = load(pairs, (d, k)), load(pairs, (3 + d, k))
        f, g = link * inv, ground * inv
        earth, links = earth + ground, links + link
        most_ground, most_link = larger(most_ground, g), larger(most_link, f)
        grounds, squares, products = grounds + g * g, squares + f * f, products + f * g
    features = (
        earth * inv, shift * inv, most_ground, grounds, most_link, squares, products, load(own, (2, k)),
        ratio(fourth_root(earth), fourth_root(links)),
    )  # fmt: skip
    store_all(x, (0, 0), features)
    return any_positive(earth + shift)


@row_kernel
def bounded_exponential(y):
    """Return e^y, |y| at most BOUND."""
    return exponential(smaller(larger(y, LEAST), BOUND))


@row_kernel
def blended_link(link, uniform, gate, correction):
    """Return (g uniform + (1-g) series) e^y₁ with g = σ(y₀); a blocked face stays closed if it is hardly opened."""
    g = ONE / (ONE + exponential(ZERO - gate))
    out = (g * uniform + (ONE - g) * link) * bounded_exponential(correction)
    return where_positive(link + larger(out - CUT * uniform, ZERO), out, ZERO)


@row_kernel
def evaluate(cells, count, problem, link, earth, results, space):
    """Write the learned links, ground and shift of the first `count` coarse cells of a list."""
    ground, shift, size, factors = problem[2], problem[3], problem[6], problem[8]
    w, g_out, s_out = results
    own, pairs, axes, position, x, hidden, value = space
    for m in range(count):
        locate(cells[m], size, position)
        gather(cells[m], m, problem, position, own, pairs, axes)
    for k in range(0, count, WIDTH):
        factor = splat(ONE)
        if ground_features(own, pairs, k, x):
            hidden_units(x, 9, earth, hidden)
            factor = bounded_exponential(answer(0, earth, hidden))
        store(value, (3, k), factor)
        for d in range(3):
            hidden_units(x, link_features(axes[d], k, factors[d], x), link, hidden)
            gate, correction = answer(0, link, hidden), answer(1, link, hidden)
            store(value, (d, k), blended_link(load(axes, (d, LINK, k)), load(axes, (d, UNIFORM, k)), gate, correction))
    for m in range(count):
        c, e = cells[m], value[3, m]
        s_out[c] = shift[c] * e
        for d in range(3):
            w[d, c], g_out[d, c] = value[d, m], ground[d, c] * e


@row_kernel
def work_space(width):
    """Arrays of one task."""
    return (
        np.ones((3, CHUNK), np.float32), np.ones((6, CHUNK), np.float32), np.ones((3, 15, CHUNK), np.float32),
        np.zeros(3, np.int64), np.empty((1, 16 * WIDTH), np.float32), np.empty((2, width * WIDTH), np.float32),
        np.empty((4, CHUNK), np.float32),
    )  # fmt: skip


@row_kernel
def coarse_strip(strip, problem, signatures, link, earth, results):
    """Evaluate what is new among the coarse cells of one strip, copy the rest."""
    uniform, diag, size, stride, periodic = problem[0], problem[4], problem[6], problem[7], problem[9]
    w, g_out, s_out = results
    start, stop = strip * STRIP, min(strip * STRIP + STRIP, diag.size)
    keys, values = np.zeros(SLOTS, np.uint64), np.empty(SLOTS, np.int64)
    position, cells, first_of = np.empty(3, np.int64), np.zeros(CHUNK, np.int64), np.empty(STRIP, np.int64)
    space = work_space(link[1].shape[0])
    count = 0
    for c in range(start, stop):
        first_of[c - start] = c
        if diag[c] == 0 and uniform[0, c] + uniform[1, c] + uniform[2, c] == 0:
            continue
        locate(c, size, position)
        key = pattern(c, signatures, position, size, stride, periodic)
        first_of[c - start] = representative(key, c, keys, values)
        if first_of[c - start] == c:
            cells[count] = c
            count += 1
            if count == CHUNK:
                evaluate(cells, count, problem, link, earth, results, space)
                count = 0
    if count:
        evaluate(cells, count, problem, link, earth, results, space)
    for c in range(start, stop):
        s = first_of[c - start]
        if s != c:
            for d in range(3):
                w[d, c], g_out[d, c] = w[d, s], g_out[d, s]
            s_out[c] = s_out[s]


@strip_kernel
def coarse_level(start, stop, problem, signatures, link, earth, results):
    """Write the learned links, ground and shift of strips start..stop of the coarse level; they come in as zeros."""
    for strip in range(start, stop):
        coarse_strip(strip, problem, signatures, link, earth, results)
