"""Set-up of a coarse operator: both classical ones (`coarse_sums`), then the learned blend of the two (`coarse_level`).

Coarse cells that look like all others as far as the features see (*quiet*) are evaluated once and copied.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .cpu_jit import kernel, row_kernel
from .setup import CHUNK, above, below, half_resistance, inner_link, locate, perceptron, quotient, ratios, sigmoid

STRIP = 1024  # coarse cells per task
BOUND, CUT = 3.0, 0.01  # as in `coefficients`


@kernel
def coarse_sums(
    w, ground, shift, diag, fine_path, size, stride, factors, periodic, coarse, uniform, path, grounds, shifts, facts
):
    """Write both classical coarse operators, and `facts`: children; open paths and sum of squared paths per axis."""
    cells = coarse[0] * coarse[1] * coarse[2]
    for index in numba.prange(cells):
        block, position = np.zeros(3, np.int64), np.zeros(3, np.int64)
        locate(index, coarse, block)
        total = np.zeros((5, 3))  # uniform, series, ground, open paths, squares
        children, shift_sum = 0.0, 0.0
        for u in range(factors[0] * factors[1] * factors[2]):
            position[0] = block[0] * factors[0] + u % factors[0]
            position[1] = block[1] * factors[1] + (u // factors[0]) % factors[1]
            position[2] = block[2] * factors[2] + u // (factors[0] * factors[1])
            if position[0] >= size[0] or position[1] >= size[1] or position[2] >= size[2]:
                continue
            c = position[0] * stride[0] + position[1] * stride[1] + position[2] * stride[2]
            if diag[c] == 0:
                continue
            children += 1.0
            shift_sum += shift[c]
            for d in range(3):
                n, t, p = size[d], stride[d], position[d]
                g, link = np.float64(ground[d, c]), np.float64(w[d, c])
                if factors[d] == 1:
                    total[2, d] += g
                    total[0, d] += link
                    straight = link
                else:
                    if g > 0:
                        total[2, d] += 1.0 / (1.0 / g + half_resistance(inner_link(w, d, c, p, n, t)))
                    straight = 0.0
                    if p & 1 or (p == n - 1 and periodic[d]):
                        po = p + 1 if p < n - 1 else 0
                        # the lower cell of an interface stores it as its outer path, but not the single last cell of
                        # an odd periodic axis: there the upper cell does
                        straight = np.float64(fine_path[d, c if p & 1 else above(c, p, n, t)])
                        half = 0.5 if p & 1 else 0.0
                        half_o = 0.5 if po < n - 1 else 0.0
                        total[0, d] += link / (1.0 + half + half_o)
                total[1, d] += straight
                total[3, d] += 1.0 if straight > 0 else 0.0
                total[4, d] += straight * straight
        for d in range(3):
            alone = coarse[d] == 1  # a periodic axis of one block couples to itself: no link
            uniform[d, index] = 0.0 if alone else total[0, d]
            path[d, index] = 0.0 if alone else total[1, d]
            grounds[d, index] = total[2, d]
            facts[1 + d, index] = total[3, d]
            facts[4 + d, index] = total[4, d]
        shifts[index] = shift_sum
        facts[0, index] = children / (factors[0] * factors[1] * factors[2])


@row_kernel
def transverse(path, c, d, position, size, stride):
    """Sum of the links of a coarse cell across axis d."""
    total = 0.0
    for e in range(3):
        if e != d:
            total += np.float64(path[e, c]) + path[e, below(c, position[e], size[e], stride[e])]
    return total


@row_kernel
def one_ratio(x, y):
    """Compute a single ratio feature."""
    return 1.0 / (1.0 + math.sqrt(math.sqrt(quotient(y, x))))


@row_kernel
def link_row(x, m, c, d, uniform, path, ground, shift, diag, facts, position, size, stride, factors, periodic, other):
    """Write the sixteen features of the coarse face above cell c along axis d into column m."""
    n, t, p = size[d], stride[d], position[d]
    up, lo = above(c, p, n, t), below(c, p, n, t)
    exists = periodic[d] or p < n - 1
    for e in range(3):
        other[e] = position[e]
    other[d] = p + 1 if p < n - 1 else 0
    r, u = np.float64(path[d, c]), np.float64(uniform[d, c])
    count = 4.0 if factors[d] == 2 else 8.0
    d0, d1 = np.float64(diag[c]), np.float64(diag[up]) if exists else 0.0
    inv0, inv1 = (1.0 / d0 if d0 > 0 else 0.0), (1.0 / d1 if d1 > 0 else 0.0)
    g0 = (ground[0, c] + ground[1, c] + ground[2, c]) * inv0
    g1 = (ground[0, up] + ground[1, up] + ground[2, up]) * inv1
    t0 = transverse(path, c, d, position, size, stride)
    t1 = transverse(path, up, d, other, size, stride) if exists else 0.0
    c0, c1 = np.float64(facts[0, c]), np.float64(facts[0, up]) if exists else 0.0
    u_lo = np.float64(uniform[d, lo]) if p > 0 or periodic[d] else 0.0
    u_hi = np.float64(uniform[d, up]) if exists else 0.0
    x[d, 0, m] = quotient(u, r)
    x[d, 1, m] = facts[1 + d, c] / count
    x[d, 2, m] = min(r * r / max(np.float64(facts[4 + d, c]) * count, 1e-37), 1.0)
    x[d, 3, m] = quotient(min(d0, d1), r)
    x[d, 4, m] = quotient(max(d0, d1), r)
    lower, upper = one_ratio(u, u_lo), one_ratio(u, u_hi)
    x[d, 5, m] = lower * upper
    x[d, 6, m] = lower + upper
    x[d, 7, m] = quotient(min(t0, t1), r)
    x[d, 8, m] = quotient(max(t0, t1), r)
    x[d, 9, m] = min(g0, g1)
    x[d, 10, m] = max(g0, g1)
    x[d, 11, m] = shift[c] * inv0 + shift[up] * inv1
    x[d, 12, m] = min(c0, c1)
    x[d, 13, m] = max(c0, c1)
    x[d, 14, m] = quotient(max(d0, d1), min(d0, d1))
    x[d, 15, m] = factors[d] - 1.0


@row_kernel
def ground_row(x, m, c, path, ground, shift, diag, facts, position, size, stride):
    """Write the nine features of a coarse cell into column m."""
    inv = 1.0 / diag[c] if diag[c] > 0 else 0.0
    g_sum, g_max, g_square, f_max, f_square, both, pairs = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for d in range(3):
        pair = np.float64(path[d, c]) + path[d, below(c, position[d], size[d], stride[d])]
        g, f = ground[d, c] * inv, pair * inv
        pairs += pair
        g_sum += ground[d, c]
        g_max, f_max = max(g_max, g), max(f_max, f)
        g_square += g * g
        f_square += f * f
        both += f * g
    x[0, m] = g_sum * inv
    x[1, m] = shift[c] * inv
    x[2, m] = g_max
    x[3, m] = g_square
    x[4, m] = f_max
    x[5, m] = f_square
    x[6, m] = both
    x[7, m] = facts[0, c]
    x[8, m] = one_ratio(g_sum, pairs)


@kernel
def flag_usual(uniform, path, ground, shift, facts, size, usual, flags):
    """Mark the coarse cells whose own links are the usual ones, with nothing to p = 0 and all children."""
    for c in numba.prange(flags.size):
        same = facts[0, c] == 1 and shift[c] == 0
        for d in range(3):
            straight = uniform[d, c] == usual[d] and path[d, c] == usual[d]
            same = same and ground[d, c] == 0 and (size[d] == 1 or straight)
        flags[c] = 1 if same else 0


@row_kernel
def evaluate(cells, problem, link, earth, results, space):
    """Write the learned links, ground and shift of a list of at most CHUNK coarse cells."""
    uniform, path, ground, shift, diag, facts, size, stride, factors, periodic = problem
    w, g_out, s_out = results
    x, axes, hidden, y, position, other = space
    for m in range(cells.size):
        c = cells[m]
        locate(c, size, position)
        ground_row(x, m, c, path, ground, shift, diag, facts, position, size, stride)
        for d in range(3):
            if uniform[d, c] > 0 or path[d, c] > 0:
                link_row(
                    axes, m, c, d, uniform, path, ground, shift, diag, facts, position, size, stride, factors, periodic,
                    other,
                )  # fmt: skip
    perceptron(x, earth, hidden, y)
    for m in range(cells.size):
        e = math.exp(min(max(np.float64(y[0, m]), -BOUND), BOUND))
        for d in range(3):
            g_out[d, cells[m]] = ground[d, cells[m]] * e
        s_out[cells[m]] = shift[cells[m]] * e
    for d in range(3):
        for f in (0, 3, 4, 7, 8, 14):
            ratios(axes[d, f])
        perceptron(axes[d], link, hidden, y)
        for m in range(cells.size):
            c, g = cells[m], sigmoid(y[0, m])
            blend = g * uniform[d, c] + (1.0 - g) * path[d, c]
            value = blend * math.exp(min(max(np.float64(y[1, m]), -BOUND), BOUND))
            w[d, c] = 0.0 if path[d, c] == 0 and value < CUT * uniform[d, c] else value


@row_kernel
def work_space(width):
    """Arrays of one task."""
    return (
        np.zeros((9, CHUNK), np.float32), np.ones((3, 16, CHUNK), np.float32), np.empty((2, width, CHUNK), np.float32),
        np.empty((2, CHUNK), np.float32), np.zeros(3, np.int64), np.zeros(3, np.int64),
    )  # fmt: skip


@row_kernel
def sort_out(start, stop, example, quiet, problem, results, cells):
    """Copy the example to quiet cells, zero those that couple to nothing, list all others; return their number."""
    uniform, diag = problem[0], problem[4]
    w, g_out, s_out = results
    usual, count = np.zeros(3, np.float32), 0
    if example >= 0:
        usual[:] = w[:, example]
    for c in range(start, stop):
        if example >= 0 and quiet[c] == 1:
            if c != example:  # other tasks are reading it
                for d in range(3):
                    w[d, c], g_out[d, c] = usual[d], 0
                s_out[c] = 0
        elif diag[c] == 0 and uniform[0, c] + uniform[1, c] + uniform[2, c] == 0:
            for d in range(3):
                w[d, c] = g_out[d, c] = 0
            s_out[c] = 0
        else:
            cells[count] = c
            count += 1
    return count


@kernel
def coarse_level(problem, quiet, example, link, earth, results):
    """Write the learned links, ground and shift of the coarse level; `example` is a quiet cell, or -1."""
    total, width = problem[4].size, link[0].shape[0]
    if example >= 0:
        evaluate(np.full(1, example), problem, link, earth, results, work_space(width))
    for strip in numba.prange((total + STRIP - 1) // STRIP):
        cells, start = np.empty(STRIP, np.int64), strip * STRIP
        count = sort_out(start, min(start + STRIP, total), example, quiet, problem, results, cells)
        if count:
            space = work_space(width)
            for first in range(0, count, CHUNK):
                evaluate(cells[first : min(first + CHUNK, count)], problem, link, earth, results, space)
