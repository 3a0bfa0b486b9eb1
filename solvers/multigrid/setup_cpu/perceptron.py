"""The network's perceptrons, evaluated over lanes of cells.

The functions repeat `network.Perceptron` on `lanes`; a perceptron reads its features from, and writes its hidden
units into, arrays of one vector each.
"""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import ordered_row_kernel as row_kernel
from ...kernels.cpu.lanes import (
    WIDTH,
    larger,
    load,
    nearest,
    root,
    smaller,
    splat,
    store_all,
    two_to,
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
    """Return x / (x + y) of two fourth roots, as `network.ratio`."""
    return smaller(larger(x / (x + y), LEAST_RATIO), LARGEST_RATIO)


@row_kernel
def hidden_layer(x, row, count, w, b, out, layer):
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
    hidden_layer(x, 0, count, layers[0], layers[1], hidden, 0)
    hidden_layer(hidden, 0, layers[2].shape[0], layers[2], layers[3], hidden, 1)


@row_kernel
def output_unit(o, layers, hidden):
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
