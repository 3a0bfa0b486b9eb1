"""Set-up of a coarse operator: the learned blend of the two classical ones, evaluated once per pattern."""

from __future__ import annotations

import numpy as np

from .cpu_jit import ordered_row_kernel as row_kernel
from .cpu_jit import strip_kernel
from .setup import CHUNK, ONE, TINY, ZERO, above, below, exponential, locate, perceptron, ratio
from .setup_patterns import PRIMES, SLOTS, STRIP, add_bits, clear, finish, representative

BOUND, CUT = np.float32(3), np.float32(0.01)  # as in `coefficients`
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
def lower_of(a, b, out):
    """Write the smaller of two chunks."""
    for k in range(CHUNK):
        out[k] = min(a[k], b[k])


@row_kernel
def upper_of(a, b, out):
    """Write the larger of two chunks."""
    for k in range(CHUNK):
        out[k] = max(a[k], b[k])


@row_kernel
def link_features(g, factor, space, x):
    """Write the sixteen features of `coefficients.link_features`."""
    low, high = space[0], space[1]
    count = np.float32(4) if factor == 2 else np.float32(8)
    ratio(g[LINK], g[UNIFORM], x[0])
    for k in range(CHUNK):
        x[1, k] = g[OPEN, k] / count
    for k in range(CHUNK):
        x[2, k] = min(g[LINK, k] * g[LINK, k] / max(g[SQUARES, k] * count, TINY), ONE)
    lower_of(g[DIAG], g[DIAG_O], low)
    upper_of(g[DIAG], g[DIAG_O], high)
    ratio(g[LINK], low, x[3])
    ratio(g[LINK], high, x[4])
    ratio(low, high, x[14])
    ratio(g[UNIFORM], g[LOWER], low)
    ratio(g[UNIFORM], g[UPPER], high)
    for k in range(CHUNK):
        x[5, k] = low[k] * high[k]
    for k in range(CHUNK):
        x[6, k] = low[k] + high[k]
    lower_of(g[ACROSS], g[ACROSS_O], low)
    upper_of(g[ACROSS], g[ACROSS_O], high)
    ratio(g[LINK], low, x[7])
    ratio(g[LINK], high, x[8])
    lower_of(g[EARTH], g[EARTH_O], x[9])
    upper_of(g[EARTH], g[EARTH_O], x[10])
    x[11] = g[SHIFTS]
    lower_of(g[CHILDREN], g[CHILDREN_O], x[12])
    upper_of(g[CHILDREN], g[CHILDREN_O], x[13])
    x[15] = np.float32(factor - 1)


@row_kernel
def ground_features(own, pairs, space, x):
    """Write the nine features of `coefficients.ground_features`."""
    earth, links = space[0], space[1]
    x[:9] = 0
    earth[:] = 0
    links[:] = 0
    for d in range(3):
        f, g = x[9], x[10]
        for k in range(CHUNK):
            f[k] = pairs[d, k] / own[0, k] if own[0, k] > 0 else ZERO
        for k in range(CHUNK):
            g[k] = pairs[3 + d, k] / own[0, k] if own[0, k] > 0 else ZERO
        for k in range(CHUNK):
            earth[k] += pairs[3 + d, k]
        for k in range(CHUNK):
            links[k] += pairs[d, k]
        for k in range(CHUNK):
            x[0, k] += g[k]
        for k in range(CHUNK):
            x[2, k] = max(x[2, k], g[k])
        for k in range(CHUNK):
            x[3, k] += g[k] * g[k]
        for k in range(CHUNK):
            x[4, k] = max(x[4, k], f[k])
        for k in range(CHUNK):
            x[5, k] += f[k] * f[k]
        for k in range(CHUNK):
            x[6, k] += f[k] * g[k]
    for k in range(CHUNK):
        x[1, k] = own[1, k] / own[0, k] if own[0, k] > 0 else ZERO
    x[7] = own[2]
    ratio(earth, links, x[8])
    x[9] = 0
    x[10] = 0


@row_kernel
def clamped_exponential(y, bits):
    """Replace a chunk by e^y, |y| at most BOUND."""
    for k in range(CHUNK):
        y[k] = min(max(y[k], -BOUND), BOUND)
    exponential(y, bits)


@row_kernel
def blended_link(link, uniform, y, bits, out):
    """Write (g uniform + (1-g) series) e^y₁ with g = σ(y₀); a blocked face stays closed if it is hardly opened."""
    for k in range(CHUNK):
        y[0, k] = -y[0, k]
    exponential(y[0], bits)
    clamped_exponential(y[1], bits)
    for k in range(CHUNK):
        gate = ONE / (ONE + y[0, k])
        out[k] = (gate * uniform[k] + (ONE - gate) * link[k]) * y[1, k]
    for k in range(CHUNK):
        out[k] = ZERO if link[k] == 0 and out[k] < CUT * uniform[k] else out[k]


@row_kernel
def evaluate(cells, count, problem, link, earth, results, space):
    """Write the learned links, ground and shift of the first `count` coarse cells of a list."""
    ground, shift, size, factors = problem[2], problem[3], problem[6], problem[8]
    w, g_out, s_out = results
    own, pairs, axes, x, hidden, y, two, value, bits, position, flat = space
    for m in range(count):
        locate(cells[m], size, position)
        gather(cells[m], m, problem, position, own, pairs, axes)
    ground_features(own, pairs, two, x)
    perceptron(flat[0], earth, hidden, flat[1])
    clamped_exponential(y[0], bits)
    for m in range(count):
        c, e = cells[m], y[0, m]
        g_out[0, c], g_out[1, c], g_out[2, c], s_out[c] = (
            ground[0, c] * e,
            ground[1, c] * e,
            ground[2, c] * e,
            shift[c] * e,
        )
    for d in range(3):
        link_features(axes[d], factors[d], two, x)
        perceptron(flat[0], link, hidden, flat[1])
        blended_link(axes[d, LINK], axes[d, UNIFORM], y, bits, value)
        for m in range(count):
            w[d, cells[m]] = value[m]
    x[9:12] = 0


@row_kernel
def work_space(width):
    """Arrays of one task."""
    x, y = np.zeros((16, CHUNK), np.float32), np.zeros((4, CHUNK), np.float32)
    return (
        np.ones((3, CHUNK), np.float32), np.ones((6, CHUNK), np.float32), np.ones((3, 15, CHUNK), np.float32), x,
        np.empty((2, width * CHUNK), np.float32), y, np.empty((2, CHUNK), np.float32), np.empty(CHUNK, np.float32),
        np.empty(CHUNK, np.int32), np.zeros(3, np.int64), (x.reshape(16 * CHUNK), y.reshape(4 * CHUNK)),
    )  # fmt: skip


@row_kernel
def coarse_strip(strip, problem, signatures, link, earth, results):
    """Evaluate what is new among the coarse cells of one strip, copy the rest."""
    uniform, diag, size, stride, periodic = problem[0], problem[4], problem[6], problem[7], problem[9]
    w, g_out, s_out = results
    start, stop = strip * STRIP, min(strip * STRIP + STRIP, diag.size)
    keys, values = np.zeros(SLOTS, np.uint64), np.empty(SLOTS, np.int64)
    position, cells, first_of = np.empty(3, np.int64), np.zeros(CHUNK, np.int64), np.empty(STRIP, np.int64)
    space = work_space(link[0].shape[0])
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
