"""Set-up of the learned hierarchy on the CPU: `coefficients` evaluated by fused, parallel kernels, same results to rounding.

Level by level: damping and prolongation weights of every fine cell, straight into the eight bits that the cycle reads
(`fine_level`); both classical coarse operators (`coarse_sums`); the learned blend of the two (`coarse_level`).

Cells are handled in chunks: features of a chunk, one row per feature, then the perceptron over the chunk in fp32. Grids are flat
C-ordered arrays; ``size`` and ``stride`` have one entry per axis. A neighbour's index wraps, as in `cpu`.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .cpu import kernel, row_kernel

CHUNK = 64  # cells per chunk: the features of one chunk stay in the first-level cache
BOUND = 3.0


@row_kernel
def ratio(x, y):
    """Compute x^¼ / (x^¼ + y^¼), as `coefficients.ratio`."""
    q = max(y, 1e-37) / max(x, 1e-37)
    return 1.0 / (1.0 + math.sqrt(math.sqrt(min(max(q, 1e-16), 1e16))))


@row_kernel
def sigmoid(y):
    """Compute 1 / (1 + e^-y)."""
    return 1.0 / (1.0 + math.exp(-y))


@row_kernel
def perceptron(x, layers, hidden, out, count):
    """Evaluate features (f, chunk) -> hidden -> hidden -> out (o, chunk), leaky ReLU."""
    w1, b1, w2, b2, w3, bias = layers
    zero, leak = np.float32(0), np.float32(0.1)
    first, second = hidden[0], hidden[1]
    for o in range(w1.shape[0]):
        row = first[o]
        row[:] = b1[o]
        for f in range(w1.shape[1]):
            v, xf = w1[o, f], x[f]
            for k in range(CHUNK):
                row[k] += v * xf[k]
        for k in range(CHUNK):
            row[k] = max(row[k], zero) + leak * min(row[k], zero)
    for o in range(w2.shape[0]):
        row = second[o]
        row[:] = b2[o]
        for f in range(w2.shape[1]):
            v, xf = w2[o, f], first[f]
            for k in range(CHUNK):
                row[k] += v * xf[k]
        for k in range(CHUNK):
            row[k] = max(row[k], zero) + leak * min(row[k], zero)
    for o in range(w3.shape[0]):
        row = out[o]
        row[:] = bias[o]
        for f in range(w3.shape[1]):
            v, xf = w3[o, f], second[f]
            for k in range(CHUNK):
                row[k] += v * xf[k]


@row_kernel
def below(c, p, n, t):
    """Index of the lower neighbour of cell c at position p along an axis of n cells with stride t."""
    return c - t if p > 0 else c + (n - 1) * t


@row_kernel
def above(c, p, n, t):
    """Index of the upper neighbour."""
    return c + t if p < n - 1 else c - (n - 1) * t


@row_kernel
def inner_link(w, c, p, n, t):
    """Conductance to the partner in the block, 0 without one."""
    if p % 2 == 1:
        return np.float64(w[c - t])
    return np.float64(w[c]) if p < n - 1 else 0.0


@row_kernel
def half_resistance(inner):
    """Half the resistance of the inner link."""
    return 0.5 / inner if inner > 0 else 0.0


@row_kernel
def is_blocked(diag, inner, c, p, n, t):
    """Tell whether the partner holds an unknown that no link reaches."""
    if inner > 0 or diag[c] == 0 or (p % 2 == 0 and p == n - 1):
        return False
    return diag[c - t if p % 2 == 1 else c + t] > 0


@row_kernel
def is_alone(diag, c, p, n, t):
    """Tell whether a cell with an unknown has no partner with one."""
    if diag[c] == 0:
        return False
    if p % 2 == 0 and p == n - 1:
        return True
    return diag[c - t if p % 2 == 1 else c + t] == 0


@row_kernel
def series(w, diag, c, p, o, po, n, t, link):
    """Conductance between two block centres through the link of cells c and o; 0 if either half is cut off."""
    if link == 0:
        return 0.0
    i, j = inner_link(w, c, p, n, t), inner_link(w, o, po, n, t)
    if is_blocked(diag, i, c, p, n, t) or is_blocked(diag, j, o, po, n, t):
        return 0.0
    return 1.0 / (half_resistance(i) + 1.0 / link + half_resistance(j))


@row_kernel
def outer_cell(c, p, n, t):
    """Index and position of the outer neighbour (wrapped)."""
    if p % 2 == 1:
        return above(c, p, n, t), (p + 1 if p < n - 1 else 0)
    return below(c, p, n, t), (p - 1 if p > 0 else n - 1)


@row_kernel
def outer_path(w, diag, c, p, n, t):
    """Conductance between the centres of this block and the next, through this cell."""
    o, po = outer_cell(c, p, n, t)
    link = np.float64(w[c]) if p % 2 == 1 else np.float64(w[o])
    return series(w, diag, c, p, o, po, n, t, link)


@row_kernel
def mean_path(w, diag, c, d, position, size, stride, factors):
    """Mean of `outer_path` over the parallel cells of the coarse face."""
    total, count = 0.0, 1.0
    e, f = (d + 1) % 3, (d + 2) % 3
    for u in range(factors[e]):
        for v in range(factors[f]):
            pe = (position[e] // factors[e]) * factors[e] + u
            pf = (position[f] // factors[f]) * factors[f] + v
            if pe < size[e] and pf < size[f]:
                other = c + (pe - position[e]) * stride[e] + (pf - position[f]) * stride[f]
                total += outer_path(w, diag, other, position[d], size[d], stride[d])
    count = factors[e] * factors[f]
    return total / count


@row_kernel
def weight_row(x, m, c, d, w, ground, shift, diag, position, size, stride, factors, periodic, sums):
    """Write the sixteen features of cell c and axis d into column m; returns resistor and geometric weight."""
    n, t, p = size[d], stride[d], position[d]
    inner = inner_link(w[d], c, p, n, t)
    o, po = outer_cell(c, p, n, t)
    exists = periodic[d] or (p < n - 1 if p % 2 == 1 else p > 0)
    link = np.float64(w[d][c]) if p % 2 == 1 else np.float64(w[d][o])
    inner_o = inner_link(w[d], o, po, n, t) if exists else 0.0
    r, r_o = half_resistance(inner), half_resistance(inner_o)
    inv = 1.0 / diag[c]
    resistor = r / (r + 1.0 / link + r_o) if link > 0 and r > 0 else 0.0
    half = 0.5 if p % 2 == 1 or p < n - 1 else 0.0
    half_o = (0.5 if po % 2 == 1 or po < n - 1 else 0.0) if exists else 0.0
    x[0, m] = ratio(inner, link)
    x[1, m] = ratio(link, inner_o)
    x[2, m] = ratio(inner, inner_o)
    x[3, m] = ratio(outer_path(w[d], diag, c, p, n, t), mean_path(w[d], diag, c, d, position, size, stride, factors))
    x[4, m] = ratio(np.float64(diag[c]), np.float64(diag[o]) if exists else 0.0)
    x[5, m] = inner * inv
    x[6, m] = link * inv
    x[7, m] = ground[d][c] * inv
    x[8, m] = (ground[0][c] + ground[1][c] + ground[2][c]) * inv
    x[9, m] = shift[c] * inv
    x[10, m] = sums[0] - inner * inv
    x[11, m] = sums[1] - link * inv
    x[12, m] = 1.0 if is_alone(diag, c, p, n, t) else 0.0
    x[13, m] = 1.0 if exists and is_alone(diag, o, po, n, t) else 0.0
    x[14, m] = 1.0 if is_blocked(diag, inner, c, p, n, t) else 0.0
    x[15, m] = resistor
    return resistor, (half / (1.0 + half + half_o) if link > 0 else 0.0), link


@row_kernel
def damping_row(x, m, c, w, ground, shift, diag, position, size, stride, factors, sums):
    """Write the nine damping features of cell c into column m, and the sums over inner and outer links into `sums`."""
    inv = 1.0 / diag[c]
    row, square, inner_max, outer_max, squares = 0.0, 0.0, 0.0, 0.0, 0.0
    sums[0] = sums[1] = 0.0
    for d in range(3):
        n, t, p = size[d], stride[d], position[d]
        lo, hi = below(c, p, n, t), above(c, p, n, t)
        w_lo, w_hi = np.float64(w[d][lo]), np.float64(w[d][c])
        if w_lo > 0:
            row += w_lo / diag[lo]
            square += w_lo * inv * w_lo / diag[lo]
        if w_hi > 0:
            row += w_hi / diag[hi]
            square += w_hi * inv * w_hi / diag[hi]
        if factors[d] == 2:
            inner = inner_link(w[d], c, p, n, t) * inv
            link = (w_hi if p % 2 == 1 else w_lo) * inv
            sums[0] += inner
            sums[1] += link
            inner_max, outer_max = max(inner_max, inner), max(outer_max, link)
            squares += inner * inner + link * link
    x[0, m] = (ground[0][c] + ground[1][c] + ground[2][c]) * inv
    x[1, m] = shift[c] * inv
    x[2, m] = sums[0]
    x[3, m] = sums[1]
    x[4, m] = inner_max
    x[5, m] = outer_max
    x[6, m] = squares
    x[7, m] = min(row, 6.0) / 6.0
    x[8, m] = square


@row_kernel
def locate(c, size, position):
    """Write the position of flat index c."""
    position[2] = c % size[2]
    position[1] = (c // size[2]) % size[1]
    position[0] = c // (size[2] * size[1])


@kernel
def fine_level(w, ground, shift, diag, size, stride, factors, periodic, damping, weight, sd, a):
    """Write sd = s/diag and the eight-bit weights a of one level."""
    total = diag.size
    for chunk in numba.prange((total + CHUNK - 1) // CHUNK):
        x, axes = np.zeros((9, CHUNK), np.float32), np.zeros((3, 16, CHUNK), np.float32)
        hidden, y = np.empty((2, damping[0].shape[0], CHUNK), np.float32), np.empty((2, CHUNK), np.float32)
        classical = np.zeros((3, 2, CHUNK))
        position, sums = np.zeros(3, np.int64), np.zeros(2)
        start, busy = chunk * CHUNK, False
        count = min(CHUNK, total - start)
        for m in range(count):
            c = start + m
            if diag[c] > 0:
                busy = True
                locate(c, size, position)
                damping_row(x, m, c, w, ground, shift, diag, position, size, stride, factors, sums)
                for d in range(3):
                    if factors[d] == 2:
                        resistor, geometric, link = weight_row(
                            axes[d], m, c, d, w, ground, shift, diag, position, size, stride, factors, periodic, sums
                        )
                        classical[d, 0, m] = resistor if link > 0 else -1.0
                        classical[d, 1, m] = geometric
        if not busy:
            sd[start : start + count] = 0
            for d in range(3):
                a[d, start : start + count] = 0
            continue
        perceptron(x, damping, hidden, y, count)
        for m in range(count):
            c = start + m
            s = max(np.rint(255.0 * sigmoid(y[0, m] + 3.0)), 1.0) / 255.0
            sd[c] = s / diag[c] if diag[c] > 0 else 0.0
        for d in range(3):
            if factors[d] == 2:
                perceptron(axes[d], weight, hidden, y, count)
            for m in range(count):
                c, value = start + m, 0.0
                if factors[d] == 2 and diag[c] > 0 and classical[d, 0, m] >= 0:
                    g = sigmoid(y[0, m])
                    mix = min(max(g * classical[d, 1, m] + (1.0 - g) * classical[d, 0, m], 1e-4), 1.0 - 1e-3)
                    value = sigmoid(math.log(mix / (1.0 - mix)) + y[1, m])
                a[d, c] = np.uint8(np.rint(255.0 * value))


@kernel
def coarse_sums(w, ground, shift, diag, size, stride, factors, periodic, coarse, uniform, path, grounds, shifts, facts):
    """Write both classical coarse operators, and per coarse cell: children, open paths and sum of squared paths per axis."""
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
                g, link = np.float64(ground[d][c]), np.float64(w[d][c])
                if factors[d] == 1:
                    total[2, d] += g
                    total[0, d] += link
                    straight = link
                else:
                    if g > 0:
                        total[2, d] += 1.0 / (1.0 / g + half_resistance(inner_link(w[d], c, p, n, t)))
                    straight = 0.0
                    if p % 2 == 1 or (p == n - 1 and periodic[d]):
                        po = p + 1 if p < n - 1 else 0
                        straight = series(w[d], diag, c, p, above(c, p, n, t), po, n, t, link)
                        half = 0.5 if p % 2 == 1 else 0.0
                        half_o = 0.5 if po < n - 1 else 0.0
                        total[0, d] += link / (1.0 + half + half_o)
                total[1, d] += straight
                total[3, d] += 1.0 if straight > 0 else 0.0
                total[4, d] += straight * straight
        for d in range(3):
            alone = coarse[d] == 1  # a periodic axis of one block couples to itself: no link
            uniform[d][index] = 0.0 if alone else total[0, d]
            path[d][index] = 0.0 if alone else total[1, d]
            grounds[d][index] = total[2, d]
            facts[1 + d, index] = total[3, d]
            facts[4 + d, index] = total[4, d]
        shifts[index] = shift_sum
        facts[0, index] = children / (factors[0] * factors[1] * factors[2])


@kernel
def sum_diagonal(w, ground, shift, size, stride, diag):
    """Write diag = links on both sides + ground + shift."""
    for c in numba.prange(diag.size):
        position = np.zeros(3, np.int64)
        locate(c, size, position)
        total = shift[c] + (ground[0][c] + ground[1][c] + ground[2][c])
        for d in range(3):
            total += w[d][c] + w[d][below(c, position[d], size[d], stride[d])]
        diag[c] = total


@row_kernel
def transverse(path, c, d, position, size, stride):
    """Sum of the links of a coarse cell across axis d."""
    total = 0.0
    for e in range(3):
        if e != d:
            total += np.float64(path[e][c]) + path[e][below(c, position[e], size[e], stride[e])]
    return total


@row_kernel
def link_row(x, m, c, d, uniform, path, ground, shift, diag, facts, position, size, stride, factors, periodic, other):
    """Write the sixteen features of the coarse face above cell c along axis d into column m."""
    n, t, p = size[d], stride[d], position[d]
    up, lo = above(c, p, n, t), below(c, p, n, t)
    exists = periodic[d] or p < n - 1
    for e in range(3):
        other[e] = position[e]
    other[d] = p + 1 if p < n - 1 else 0
    r, u = np.float64(path[d][c]), np.float64(uniform[d][c])
    count = 4.0 if factors[d] == 2 else 8.0
    d0, d1 = np.float64(diag[c]), np.float64(diag[up]) if exists else 0.0
    inv0, inv1 = (1.0 / d0 if d0 > 0 else 0.0), (1.0 / d1 if d1 > 0 else 0.0)
    g0 = (ground[0][c] + ground[1][c] + ground[2][c]) * inv0
    g1 = (ground[0][up] + ground[1][up] + ground[2][up]) * inv1
    t0 = transverse(path, c, d, position, size, stride)
    t1 = transverse(path, up, d, other, size, stride) if exists else 0.0
    c0, c1 = np.float64(facts[0, c]), np.float64(facts[0, up]) if exists else 0.0
    u_lo = np.float64(uniform[d][lo]) if p > 0 or periodic[d] else 0.0
    u_hi = np.float64(uniform[d][up]) if exists else 0.0
    x[0, m] = ratio(r, u)
    x[1, m] = facts[1 + d, c] / count
    x[2, m] = min(r * r / max(np.float64(facts[4 + d, c]) * count, 1e-37), 1.0)
    x[3, m] = ratio(r, min(d0, d1))
    x[4, m] = ratio(r, max(d0, d1))
    x[5, m] = ratio(u, u_lo) * ratio(u, u_hi)
    x[6, m] = ratio(u, u_lo) + ratio(u, u_hi)
    x[7, m] = ratio(r, min(t0, t1))
    x[8, m] = ratio(r, max(t0, t1))
    x[9, m] = min(g0, g1)
    x[10, m] = max(g0, g1)
    x[11, m] = shift[c] * inv0 + shift[up] * inv1
    x[12, m] = min(c0, c1)
    x[13, m] = max(c0, c1)
    x[14, m] = ratio(min(d0, d1), max(d0, d1))
    x[15, m] = factors[d] - 1.0


@row_kernel
def ground_row(x, m, c, path, ground, shift, diag, facts, position, size, stride):
    """Write the nine features of a coarse cell into column m."""
    inv = 1.0 / diag[c] if diag[c] > 0 else 0.0
    g_sum, g_max, g_square, f_max, f_square, both, pairs = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for d in range(3):
        pair = np.float64(path[d][c]) + path[d][below(c, position[d], size[d], stride[d])]
        g, f = ground[d][c] * inv, pair * inv
        pairs += pair
        g_sum += ground[d][c]
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
    x[8, m] = ratio(g_sum, pairs)


@kernel
def coarse_level(uniform, path, ground, shift, diag, facts, size, stride, factors, periodic, link, earth, w, g_out, s_out):
    """Write the learned links, ground and shift of the coarse level."""
    total = diag.size
    for chunk in numba.prange((total + CHUNK - 1) // CHUNK):
        x, axes = np.zeros((9, CHUNK), np.float32), np.zeros((3, 16, CHUNK), np.float32)
        hidden, y = np.empty((2, link[0].shape[0], CHUNK), np.float32), np.empty((2, CHUNK), np.float32)
        position, other = np.zeros(3, np.int64), np.zeros(3, np.int64)
        start = chunk * CHUNK
        count = min(CHUNK, total - start)
        for m in range(count):
            c = start + m
            locate(c, size, position)
            ground_row(x, m, c, path, ground, shift, diag, facts, position, size, stride)
            for d in range(3):
                if uniform[d][c] > 0 or path[d][c] > 0:
                    link_row(
                        axes[d], m, c, d, uniform, path, ground, shift, diag, facts, position, size, stride, factors, periodic, other
                    )
        perceptron(x, earth, hidden, y, count)
        for m in range(count):
            e = math.exp(min(max(np.float64(y[0, m]), -BOUND), BOUND))
            for d in range(3):
                g_out[d][start + m] = ground[d][start + m] * e
            s_out[start + m] = shift[start + m] * e
        for d in range(3):
            perceptron(axes[d], link, hidden, y, count)
            for m in range(count):
                c, g = start + m, sigmoid(y[0, m])
                blend = g * uniform[d][c] + (1.0 - g) * path[d][c]
                w[d][c] = blend * math.exp(min(max(np.float64(y[1, m]), -BOUND), BOUND))


@kernel
def scale_into(source, factor, target):
    """Write target = factor source in the target's dtype."""
    for row in numba.prange(source.shape[0]):
        for k in range(source.shape[1]):
            target[row, k] = source[row, k] * factor
