"""What set-up kernels share: perceptrons over chunks, neighbours by flat index, the circuit of a coarsened axis.

Grids are flat C-ordered arrays; ``size`` and ``stride`` have one entry per axis, a neighbour's index wraps as in `cpu`.
The functions repeat `coarsening.circuit` and `coefficients.Perceptron` cell by cell.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .cpu_jit import kernel, row_kernel

CHUNK = 64  # cells per chunk: the features of one chunk stay in the first-level cache


@row_kernel
def sigmoid(y):
    """Compute 1 / (1 + e^-y)."""
    return 1.0 / (1.0 + math.exp(-y))


@row_kernel
def quotient(y, x):
    """Compute y/x, clamped: `ratios` turns it into a feature."""
    return min(max(max(y, 1e-37) / max(x, 1e-37), 1e-16), 1e16)


@row_kernel
def ratios(row):
    """Turn a row of quotients y/x into x^¼ / (x^¼ + y^¼), as `coefficients.ratio`."""
    one = np.float32(1)
    for k in range(row.shape[0]):
        row[k] = one / (one + np.sqrt(np.sqrt(row[k])))


@row_kernel
def dense(w, b, x, out):
    """Write out = w x + b for the columns of a chunk."""
    for o in range(w.shape[0]):
        row = out[o]
        row[:] = b[o]
        for f in range(w.shape[1]):
            v, xf = w[o, f], x[f]
            for k in range(CHUNK):
                row[k] += v * xf[k]


@row_kernel
def leaky(rows):
    """Apply the leaky ReLU in place."""
    zero, leak = np.float32(0), np.float32(0.1)
    for o in range(rows.shape[0]):
        row = rows[o]
        for k in range(CHUNK):
            row[k] = max(row[k], zero) + leak * min(row[k], zero)


@row_kernel
def perceptron(x, layers, hidden, out):
    """Evaluate features (f, chunk) -> hidden -> hidden -> out (o, chunk), leaky ReLU."""
    w1, b1, w2, b2, w3, bias = layers
    first, second = hidden[0, : w1.shape[0]], hidden[1, : w2.shape[0]]
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
def inner_link(w, d, c, p, n, t):
    """Conductance to the partner in the block, 0 without one."""
    if p & 1:
        return np.float64(w[d, c - t])
    return np.float64(w[d, c]) if p < n - 1 else 0.0


@row_kernel
def half_resistance(inner):
    """Half the resistance of the inner link."""
    return 0.5 / inner if inner > 0 else 0.0


@row_kernel
def is_blocked(diag, inner, c, p, n, t):
    """Tell whether the partner holds an unknown that no link reaches."""
    if inner > 0 or diag[c] == 0 or (not p & 1 and p == n - 1):
        return False
    return diag[c - t if p & 1 else c + t] > 0


@row_kernel
def is_alone(diag, c, p, n, t):
    """Tell whether a cell with an unknown has no partner with one."""
    if diag[c] == 0:
        return False
    if not p & 1 and p == n - 1:
        return True
    return diag[c - t if p & 1 else c + t] == 0


@row_kernel
def series(w, d, diag, c, p, o, po, n, t, link):
    """Conductance between two block centres through the link of cells c and o; 0 if either half is cut off."""
    if link == 0:
        return 0.0
    i, j = inner_link(w, d, c, p, n, t), inner_link(w, d, o, po, n, t)
    if is_blocked(diag, i, c, p, n, t) or is_blocked(diag, j, o, po, n, t):
        return 0.0
    return 1.0 / (half_resistance(i) + 1.0 / link + half_resistance(j))


@row_kernel
def outer_cell(c, p, n, t):
    """Index and position of the outer neighbour (wrapped)."""
    if p & 1:
        return above(c, p, n, t), (p + 1 if p < n - 1 else 0)
    return below(c, p, n, t), (p - 1 if p > 0 else n - 1)


@row_kernel
def locate(c, size, position):
    """Write the position of flat index c."""
    cell, nz, ny = np.uint32(c), np.uint32(size[2]), np.uint32(size[1])  # 32-bit division is several times faster
    row = cell // nz
    plane = row // ny
    position[2] = cell - row * nz
    position[1] = row - plane * ny
    position[0] = plane


@kernel
def sum_diagonal(w, ground, shift, size, stride, diag):
    """Write diag = links on both sides + ground + shift, by rows: the order of additions ignores the threads."""
    ny, nz = size[1], size[2]
    for row in numba.prange(size[0] * ny):
        start = row * nz
        x = below(start, row // ny, size[0], stride[0])
        y = below(start, row % ny, ny, stride[1])
        for k in range(nz):
            c, z = start + k, (start + k - 1 if k > 0 else start + nz - 1)
            links = (w[0, c] + w[0, x + k]) + (w[1, c] + w[1, y + k]) + (w[2, c] + w[2, z])
            diag[c] = links + (ground[0, c] + ground[1, c] + ground[2, c]) + shift[c]


@kernel
def scale_into(source, factor, target):
    """Write target = factor source in the target's dtype."""
    for row in numba.prange(source.shape[0]):
        for k in range(source.shape[1]):
            target[row, k] = source[row, k] * factor


@kernel
def flag_quiet(flags, size, stride, periodic, quiet):
    """Mark the cells that are flagged together with all their neighbours along axes of more than one cell."""
    for c in numba.prange(flags.size):
        position = np.empty(3, np.int64)
        locate(c, size, position)
        ok = flags[c] == 1
        for d in range(3):
            p, n, t = position[d], size[d], stride[d]
            if n > 1 and ok:
                ok = (
                    (periodic[d] or (p > 0 and p < n - 1))
                    and flags[below(c, p, n, t)] == 1
                    and flags[above(c, p, n, t)] == 1
                )
        quiet[c] = 1 if ok else 0
