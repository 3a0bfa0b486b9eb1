"""What set-up kernels share: perceptrons over chunks of cells, and neighbours by flat index.

Grids are flat C-ordered arrays; ``size`` and ``stride`` have one entry per axis, a neighbour's index wraps as in `cpu`.
The functions repeat `coarsening.circuit` and `coefficients.Perceptron` cell by cell; loops write one array each and
read few, so that they become vector instructions.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import ordered_row_kernel as row_kernel
from .cpu_jit import strip_kernel

CHUNK = 64  # cells per chunk: the features of one chunk stay in the first-level cache
WIDTH = np.uint64(CHUNK)
TINY = np.float32(1e-37)
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
SMALLEST, LARGEST = np.float32(1e-16), np.float32(1e16)
LEAK = np.float32(0.1)
LOG2E, RANGE = np.float32(1.4426950408889634), np.float32(100)
# 2^f on [-1/2, 1/2], Taylor in f ln 2: 1e-7 relative
P1, P2, P3 = (np.float32(c) for c in (0.693147181, 0.240226507, 0.0555041087))
P4, P5, P6 = (np.float32(c) for c in (9.6181291e-3, 1.3333558e-3, 1.54035e-4))


@row_kernel
def exponential(v, bits):
    """Replace a chunk v by e^v within 2^±100, in vector instructions; `bits` is an int32 chunk of work space."""
    for k in range(CHUNK):
        t = min(max(v[k] * LOG2E, -RANGE), RANGE)
        bits[k] = np.int32(t + HALF if t > 0 else t - HALF)
    for k in range(CHUNK):
        t = min(max(v[k] * LOG2E, -RANGE), RANGE)
        f = t - np.float32(bits[k])
        v[k] = ONE + f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * (P5 + f * P6)))))
    for k in range(CHUNK):
        bits[k] = (bits[k] + np.int32(127)) << np.int32(23)
    power = bits.view(np.float32)
    for k in range(CHUNK):
        v[k] *= power[k]


@row_kernel
def ratio(x, y, out):
    """Write x^¼ / (x^¼ + y^¼) for a chunk, as `coefficients.ratio`."""
    for k in range(CHUNK):
        q = min(max(max(y[k], TINY) / max(x[k], TINY), SMALLEST), LARGEST)
        out[k] = ONE / (ONE + np.sqrt(np.sqrt(q)))


@row_kernel
def dense(w, b, x, out):
    """Write out = w x + b for the columns of a chunk, four rows by four at a time.

    x and out are flat, (rows * CHUNK,), and their indices unsigned: known distances and no wrap of negative indices
    make vector instructions of the loop.
    """
    for o in range(0, w.shape[0], 4):
        o0 = np.uint64(o) * WIDTH
        o1, o2, o3 = o0 + WIDTH, o0 + WIDTH + WIDTH, o0 + WIDTH + WIDTH + WIDTH
        out[o * CHUNK : (o + 1) * CHUNK] = b[o]
        out[(o + 1) * CHUNK : (o + 2) * CHUNK] = b[o + 1]
        out[(o + 2) * CHUNK : (o + 3) * CHUNK] = b[o + 2]
        out[(o + 3) * CHUNK : (o + 4) * CHUNK] = b[o + 3]
        for f in range(0, w.shape[1], 4):
            f0 = np.uint64(f) * WIDTH
            f1, f2, f3 = f0 + WIDTH, f0 + WIDTH + WIDTH, f0 + WIDTH + WIDTH + WIDTH
            w00, w01, w02, w03 = w[o, f], w[o, f + 1], w[o, f + 2], w[o, f + 3]
            w10, w11, w12, w13 = w[o + 1, f], w[o + 1, f + 1], w[o + 1, f + 2], w[o + 1, f + 3]
            w20, w21, w22, w23 = w[o + 2, f], w[o + 2, f + 1], w[o + 2, f + 2], w[o + 2, f + 3]
            w30, w31, w32, w33 = w[o + 3, f], w[o + 3, f + 1], w[o + 3, f + 2], w[o + 3, f + 3]
            for k in range(WIDTH):
                x0, x1, x2, x3 = x[f0 + k], x[f1 + k], x[f2 + k], x[f3 + k]
                out[o0 + k] += w00 * x0 + w01 * x1 + w02 * x2 + w03 * x3
                out[o1 + k] += w10 * x0 + w11 * x1 + w12 * x2 + w13 * x3
                out[o2 + k] += w20 * x0 + w21 * x1 + w22 * x2 + w23 * x3
                out[o3 + k] += w30 * x0 + w31 * x1 + w32 * x2 + w33 * x3


@row_kernel
def leaky(v):
    """Apply the leaky ReLU in place."""
    for k in range(v.shape[0]):
        v[k] = max(v[k], LEAK * v[k])


@row_kernel
def perceptron(x, layers, hidden, out):
    """Evaluate features (f, chunk) -> hidden -> hidden -> out (o, chunk), all flat; all widths multiples of four."""
    w1, b1, w2, b2, w3, bias = layers
    first, second = hidden[0, : w1.shape[0] * CHUNK], hidden[1, : w2.shape[0] * CHUNK]
    dense(w1, b1, x, first)
    leaky(first)
    dense(w2, b2, first, second)
    leaky(second)
    dense(w3, bias, second, out)


@row_kernel
def below(c, p, n, t):
    """Index of the lower neighbour of cell c at position p along an axis of n cells with stride t."""
    return c - t if p > 0 else c + (n - 1) * t


@row_kernel
def above(c, p, n, t):
    """Index of the upper neighbour."""
    return c + t if p < n - 1 else c - (n - 1) * t


@row_kernel
def locate(c, size, position):
    """Write the position of flat index c."""
    cell, nz, ny = np.uint32(c), np.uint32(size[2]), np.uint32(size[1])  # 32-bit division is several times faster
    row = cell // nz
    plane = row // ny
    position[2] = cell - row * nz
    position[1] = row - plane * ny
    position[0] = plane


@strip_kernel
def sum_diagonal(start, stop, w, ground, shift, size, stride, diag):
    """Write diag = links on both sides + ground + shift for rows start..stop, summed in fp64."""
    ny, nz = size[1], size[2]
    for row in range(start, stop):
        first = row * nz
        x = below(first, row // ny, size[0], stride[0])
        y = below(first, row % ny, ny, stride[1])
        for k in range(nz):
            c, z = first + k, (first + k - 1 if k > 0 else first + nz - 1)
            total = np.float64(shift[c]) + (ground[0, c] + ground[1, c] + ground[2, c])
            total += np.float64(w[0, c]) + w[0, x + k]
            total += np.float64(w[1, c]) + w[1, y + k]
            total += np.float64(w[2, c]) + w[2, z]
            diag[c] = total


@strip_kernel
def scale_into(start, stop, source, factor, divisor, target):
    """Write target = factor source / divisor in the target's dtype (truncated if integer), for rows start..stop."""
    for row in range(start, stop):
        for k in range(source.shape[1]):
            target[row, k] = source[row, k] * factor / divisor


@strip_kernel
def link_sums(start, stop, w, nz, sums):
    """Write the sum of the links and the number of positive ones, per axis, for rows start..stop: (rows, 3, 2)."""
    for row in range(start, stop):
        for d in range(3):
            links = w[d, row * nz : (row + 1) * nz]
            total, count = 0.0, 0.0
            for k in range(nz):
                total += links[k]
                count += 1.0 if links[k] > 0 else 0.0
            sums[row, d, 0], sums[row, d, 1] = total, count
