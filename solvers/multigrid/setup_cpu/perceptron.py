"""What set-up kernels share: perceptrons over lanes of cells, and neighbours by flat index.

Grids are flat C-ordered arrays; ``size`` and ``stride`` have one entry per axis, a neighbour's index wraps as in `cpu`.
The functions repeat `coefficients.Perceptron` on `lanes`; a perceptron reads its features from, and writes its hidden
units into, arrays of one vector each.
"""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import ordered_row_kernel as row_kernel, strip_kernel
from ...kernels.cpu.lanes import (
    WIDTH,
    larger,
    load,
    nearest,
    root,
    smaller,
    splat,
    store,
    store_all,
    two_to,
    where_positive,
)

CHUNK = 64  # cells whose surroundings are gathered at a time
TINY = np.float32(1e-37)
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
LEAST_RATIO, LARGEST_RATIO = np.float32(1e-4 / (1 + 1e-4)), np.float32(1 / (1 + 1e-4))
LEAK = np.float32(0.1)
LOG2E, FURTHEST, NEAREST = np.float32(1.4426950408889634), np.float32(100), np.float32(-100)
# 2^f on [-1/2, 1/2], Taylor in f ln 2: 1e-7 relative
P1, P2, P3 = (np.float32(c) for c in (0.693147181, 0.240226507, 0.0555041087))
P4, P5, P6 = (np.float32(c) for c in (9.6181291e-3, 1.3333558e-3, 1.54035e-4))


@row_kernel
def exponential(v):
    """Return e^v within 2^±100."""
    t = smaller(larger(v * LOG2E, NEAREST), FURTHEST)
    n = nearest(t)
    f = t - n
    return (ONE + f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * (P5 + f * P6)))))) * two_to(n)


@row_kernel
def fourth_root(x):
    """Return x^¼; of 1e-37 where x is less."""
    return root(root(larger(x, TINY)))


@row_kernel
def ratio(x, y):
    """Return x / (x + y) of two fourth roots, as `coefficients.ratio`."""
    return smaller(larger(x / (x + y), LEAST_RATIO), LARGEST_RATIO)


@row_kernel
def dense(x, row, count, w, b, out, layer):
    """Write the leaky ReLU of b + the first `count` features x times w (features, width), eight units at a time."""
    for o in range(0, b.shape[0], 8):
        s0, s1, s2, s3 = splat(b[o]), splat(b[o + 1]), splat(b[o + 2]), splat(b[o + 3])
        s4, s5, s6, s7 = splat(b[o + 4]), splat(b[o + 5]), splat(b[o + 6]), splat(b[o + 7])
        for f in range(count):
            v = load(x, (row, f * WIDTH))
            s0, s1, s2, s3 = s0 + v * w[f, o], s1 + v * w[f, o + 1], s2 + v * w[f, o + 2], s3 + v * w[f, o + 3]
            s4, s5, s6, s7 = s4 + v * w[f, o + 4], s5 + v * w[f, o + 5], s6 + v * w[f, o + 6], s7 + v * w[f, o + 7]
        s0, s1, s2, s3 = larger(s0, s0 * LEAK), larger(s1, s1 * LEAK), larger(s2, s2 * LEAK), larger(s3, s3 * LEAK)
        s4, s5, s6, s7 = larger(s4, s4 * LEAK), larger(s5, s5 * LEAK), larger(s6, s6 * LEAK), larger(s7, s7 * LEAK)
        store_all(out, (layer, o * WIDTH), (s0, s1, s2, s3, s4, s5, s6, s7))


@row_kernel
def hidden_units(x, count, layers, hidden):
    """Evaluate both hidden layers for the first `count` features; the others are 0."""
    dense(x, 0, count, layers[0], layers[1], hidden, 0)
    dense(hidden, 0, layers[2].shape[0], layers[2], layers[3], hidden, 1)


@row_kernel
def answer(o, layers, hidden):
    """Return output o of a perceptron whose hidden units are there."""
    w, bias = layers[4], layers[5]
    even, odd = splat(bias[o]), splat(ZERO)
    for f in range(0, w.shape[1], 2):
        even = even + load(hidden, (1, f * WIDTH)) * w[o, f]
        odd = odd + load(hidden, (1, (f + 1) * WIDTH)) * w[o, f + 1]
    return even + odd


@row_kernel
def network_space(width, cells):
    """Arrays for features, hidden units and results of up to so many cells."""
    return (
        np.empty((1, 16 * WIDTH), np.float32),
        np.empty((2, width * WIDTH), np.float32),
        np.zeros((4, cells), np.float32),
    )


@row_kernel
def below(c, p, n, t):
    """Index of the lower neighbour of cell c at position p along an axis of n cells with stride t."""
    return c - t if p > 0 else c + (n - 1) * t


@row_kernel
def above(c, p, n, t):
    """Index of the upper neighbour."""
    return c + t if p < n - 1 else c - (n - 1) * t


@row_kernel
def four_sides(row, nx, ny):
    """Return the position of a row of cells across rows, and the rows below and above it along both axes."""
    i, j = row // ny, row % ny
    return (i, j), (below(row, i, nx, ny), above(row, i, nx, ny), below(row, j, ny, 1), above(row, j, ny, 1))


@row_kernel
def add_pairs(above, below, total):
    """Add the links of a row on both sides of an axis; few arrays at a time, or they are not added by vectors."""
    for k in range(total.shape[0]):
        total[k] += np.float64(above[k]) + below[k]


@strip_kernel
def sum_diagonal(start, stop, spans, w, ground, shift, size, stride, diag):
    """Write diag = links on both sides + ground + shift for the spans of rows start..stop, summed in fp64."""
    ny, nz = size[1], size[2]
    total, low = np.empty(nz, np.float64), np.empty(nz, np.float32)
    for row in range(start, stop):
        begin, end = spans[row, 0], spans[row, 1]
        first = row * nz
        x = below(first, row // ny, size[0], stride[0])
        y = below(first, row % ny, ny, stride[1])
        for k in range(begin, end):
            c = first + k
            total[k] = np.float64(shift[c]) + (ground[0, c] + ground[1, c] + ground[2, c])
        part = total[begin:end]
        add_pairs(w[0, first + begin : first + end], w[0, x + begin : x + end], part)
        add_pairs(w[1, first + begin : first + end], w[1, y + begin : y + end], part)
        for k in range(max(begin, 1), end):
            low[k] = w[2, first + k - 1]
        if begin == 0:
            low[0] = w[2, first + nz - 1]
        add_pairs(w[2, first + begin : first + end], low[begin:end], part)
        for k in range(begin, end):
            diag[first + k] = total[k]


@strip_kernel
def scale_rows(start, stop, spans, sources, factor, divisor, targets):
    """Write the spans of rows start..stop of several arrays, times factor / divisor, in the targets' dtype."""
    for f in range(len(sources)):
        source, target = sources[f], targets[f]
        for row in range(start, stop):
            for k in range(spans[row, 0], spans[row, 1]):
                target[row, k] = source[row, k] * factor / divisor


@strip_kernel
def link_sums(start, stop, w, nz, sums):
    """Write the sum of the links and the number of positive ones, per axis, for rows start..stop: (rows, 3, 2)."""
    part = np.empty((2, WIDTH), np.float32)
    for row in range(start, stop):
        for d in range(3):
            total, count = splat(ZERO), splat(ZERO)
            whole = nz - nz % WIDTH
            for k in range(0, whole, WIDTH):
                v = load(w, (d, row * nz + k))
                total, count = total + v, count + where_positive(v, ONE, ZERO)
            store(part, (0, 0), total)
            store(part, (1, 0), count)
            for k in range(nz - whole):
                v = w[d, row * nz + whole + k]
                part[0, k] += v
                part[1, k] += ONE if v > 0 else ZERO
            for f in range(2):
                sums[row, d, f] = 0
                for k in range(WIDTH):
                    sums[row, d, f] += part[f, k]
