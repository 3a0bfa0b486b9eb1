"""Set-up of one fine level: damping and prolongation weights of every cell, straight into the eight bits of the cycle.

`outer_paths` walks the circuits once; `fine_level` evaluates the perceptrons in chunks. Where the medium is uniform as
far as the features see (*quiet* blocks: the bulk of every cell-type problem), they are evaluated once and copied.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .cpu import kernel, row_kernel
from .setup import (
    CHUNK,
    above,
    below,
    half_resistance,
    inner_link,
    is_alone,
    is_blocked,
    locate,
    outer_cell,
    perceptron,
    quotient,
    ratios,
    series,
    sigmoid,
)

STRIP = 512  # cells that one task looks through for those that are not quiet


@kernel
def outer_paths(w, ground, shift, diag, size, stride, factors, usual, path, flags):
    """Write the conductance of the circuit through the outer link of every cell, and which cells are all usual.

    A cell is flagged if all its links are the usual ones (the largest of their axis) and nothing leads to p = 0.
    """
    for strip in numba.prange((diag.size + STRIP - 1) // STRIP):
        position = np.empty(3, np.int64)
        for c in range(strip * STRIP, min(strip * STRIP + STRIP, diag.size)):
            locate(c, size, position)
            same = diag[c] > 0 and shift[c] == 0
            for d in range(3):
                n, t, p = size[d], stride[d], position[d]
                lo = below(c, p, n, t)
                same = same and ground[d, c] == 0 and (n == 1 or (w[d, c] == usual[d] and w[d, lo] == usual[d]))
                if factors[d] == 2:
                    o, po = outer_cell(c, p, n, t)
                    link = np.float64(w[d, c]) if p & 1 else np.float64(w[d, lo])
                    if link == 0:
                        path[d, c] = 0
                    elif (
                        link == usual[d]
                        and inner_link(w, d, c, p, n, t) == link
                        and inner_link(w, d, o, po, n, t) == link
                    ):
                        path[d, c] = 0.5 * link
                    else:
                        path[d, c] = series(w, d, diag, c, p, o, po, n, t, link)
            flags[c] = 1 if same else 0


@kernel
def flag_blocks(flags, size, stride, factors, coarse, blocks):
    """Mark the blocks that are complete and whose cells are all flagged."""
    for index in numba.prange(coarse[0] * coarse[1] * coarse[2]):
        block = np.empty(3, np.int64)
        locate(index, coarse, block)
        ok = True
        for u in range(factors[0]):
            for v in range(factors[1]):
                for q in range(factors[2]):
                    i, j, k = block[0] * factors[0] + u, block[1] * factors[1] + v, block[2] * factors[2] + q
                    inside = i < size[0] and j < size[1] and k < size[2]
                    ok = ok and inside and flags[i * stride[0] + j * stride[1] + k * stride[2]] == 1
        blocks[index] = 1 if ok else 0


@row_kernel
def mean_path(path, c, d, position, size, stride, factors):
    """Mean of the paths through the parallel cells of the coarse face."""
    total = 0.0
    e, f = (d + 1) % 3, (d + 2) % 3
    for u in range(factors[e]):
        for v in range(factors[f]):
            pe = (position[e] & -factors[e]) + u
            pf = (position[f] & -factors[f]) + v
            if pe < size[e] and pf < size[f]:
                total += path[d, c + (pe - position[e]) * stride[e] + (pf - position[f]) * stride[f]]
    return total / (factors[e] * factors[f])


@row_kernel
def weight_row(x, m, c, d, w, ground, shift, diag, path, position, size, stride, factors, periodic, sums):
    """Write sixteen features of cell c and axis d into column m; return both classical weights and the outer link."""
    n, t, p = size[d], stride[d], position[d]
    inner = inner_link(w, d, c, p, n, t)
    o, po = outer_cell(c, p, n, t)
    exists = periodic[d] or (p < n - 1 if p & 1 else p > 0)
    link = np.float64(w[d, c]) if p & 1 else np.float64(w[d, o])
    inner_o = inner_link(w, d, o, po, n, t) if exists else 0.0
    r, r_o = half_resistance(inner), half_resistance(inner_o)
    inv = sums[2]
    resistor = r * path[d, c] if path[d, c] > 0 else (r / (r + 1.0 / link + r_o) if link > 0 and r > 0 else 0.0)
    half = 0.5 if p & 1 or p < n - 1 else 0.0
    half_o = (0.5 if po & 1 or po < n - 1 else 0.0) if exists else 0.0
    x[d, 0, m] = quotient(link, inner)
    x[d, 1, m] = quotient(inner_o, link)
    x[d, 2, m] = quotient(inner_o, inner)
    x[d, 3, m] = quotient(mean_path(path, c, d, position, size, stride, factors), np.float64(path[d, c]))
    x[d, 4, m] = quotient(np.float64(diag[o]) if exists else 0.0, np.float64(diag[c]))
    x[d, 5, m] = inner * inv
    x[d, 6, m] = link * inv
    x[d, 7, m] = ground[d, c] * inv
    x[d, 8, m] = (ground[0, c] + ground[1, c] + ground[2, c]) * inv
    x[d, 9, m] = shift[c] * inv
    x[d, 10, m] = sums[0] - inner * inv
    x[d, 11, m] = sums[1] - link * inv
    x[d, 12, m] = 1.0 if is_alone(diag, c, p, n, t) else 0.0
    x[d, 13, m] = 1.0 if exists and is_alone(diag, o, po, n, t) else 0.0
    x[d, 14, m] = 1.0 if is_blocked(diag, inner, c, p, n, t) else 0.0
    x[d, 15, m] = resistor
    return resistor, (half / (1.0 + half + half_o) if link > 0 else 0.0), link


@row_kernel
def damping_row(x, m, c, w, ground, shift, diag, position, size, stride, factors, sums):
    """Write the nine damping features of cell c into column m, and the sums over inner and outer links into `sums`."""
    inv = 1.0 / diag[c]
    row, square, inner_max, outer_max, squares = 0.0, 0.0, 0.0, 0.0, 0.0
    sums[0] = sums[1] = 0.0
    sums[2] = inv
    for d in range(3):
        n, t, p = size[d], stride[d], position[d]
        lo, hi = below(c, p, n, t), above(c, p, n, t)
        w_lo, w_hi = np.float64(w[d, lo]), np.float64(w[d, c])
        if w_lo > 0:
            v = w_lo / diag[lo]
            row += v
            square += w_lo * inv * v
        if w_hi > 0:
            v = w_hi / diag[hi]
            row += v
            square += w_hi * inv * v
        if factors[d] == 2:
            inner = inner_link(w, d, c, p, n, t) * inv
            link = (w_hi if p & 1 else w_lo) * inv
            sums[0] += inner
            sums[1] += link
            inner_max, outer_max = max(inner_max, inner), max(outer_max, link)
            squares += inner * inner + link * link
    x[0, m] = (ground[0, c] + ground[1, c] + ground[2, c]) * inv
    x[1, m] = shift[c] * inv
    x[2, m] = sums[0]
    x[3, m] = sums[1]
    x[4, m] = inner_max
    x[5, m] = outer_max
    x[6, m] = squares
    x[7, m] = min(row, 6.0) / 6.0
    x[8, m] = square


@row_kernel
def evaluate(
    cells, count, w, ground, shift, diag, path, size, stride, factors, periodic, damping, weight, sd, a, space
):
    """Write sd and a of a list of cells that hold unknowns."""
    x, axes, hidden, y, classical, position, sums = space
    for m in range(count):
        c = cells[m]
        locate(c, size, position)
        damping_row(x, m, c, w, ground, shift, diag, position, size, stride, factors, sums)
        for d in range(3):
            if factors[d] == 2:
                resistor, geometric, link = weight_row(
                    axes, m, c, d, w, ground, shift, diag, path, position, size, stride, factors, periodic, sums
                )
                classical[d, 0, m] = resistor if link > 0 else -1.0
                classical[d, 1, m] = geometric
    perceptron(x, damping, hidden, y)
    for m in range(count):
        s = max(np.rint(255.0 * sigmoid(y[0, m] + 3.0)), 1.0) / 255.0
        sd[cells[m]] = s / diag[cells[m]]
    for d in range(3):
        if factors[d] == 2:
            for f in range(5):
                ratios(axes[d, f])
            perceptron(axes[d], weight, hidden, y)
        for m in range(count):
            value = 0.0
            if factors[d] == 2 and classical[d, 0, m] >= 0:
                g = sigmoid(y[0, m])
                mix = min(max(g * classical[d, 1, m] + (1.0 - g) * classical[d, 0, m], 1e-4), 1.0 - 1e-3)
                value = sigmoid(math.log(mix / (1.0 - mix)) + y[1, m])
            a[d, cells[m]] = np.uint8(np.rint(255.0 * value))


@row_kernel
def work_space(width):
    """Arrays of one task."""
    return (
        np.zeros((9, CHUNK), np.float32), np.ones((3, 16, CHUNK), np.float32), np.empty((2, width, CHUNK), np.float32),
        np.empty((2, CHUNK), np.float32), np.zeros((3, 2, CHUNK)), np.zeros(3, np.int64), np.zeros(3),
    )  # fmt: skip


@kernel
def fine_level(
    w, ground, shift, diag, path, quiet, example, size, stride, factors, coarse, periodic, damping, weight, sd, a
):
    """Write sd = s/diag and the eight-bit weights a of one level; `example` is a cell of a quiet block, or -1."""
    usual = np.full(1, example)
    if example >= 0:
        space = work_space(damping[0].shape[0])
        evaluate(usual, 1, w, ground, shift, diag, path, size, stride, factors, periodic, damping, weight, sd, a, space)
    total = diag.size
    for strip in numba.prange((total + STRIP - 1) // STRIP):
        space, cells, count = work_space(damping[0].shape[0]), np.empty(CHUNK, np.int64), 0
        position = np.empty(3, np.int64)
        for c in range(strip * STRIP, min(strip * STRIP + STRIP, total)):
            locate(c, size, position)
            block = (position[0] >> (factors[0] - 1)) * coarse[1] + (position[1] >> (factors[1] - 1))
            if example >= 0 and quiet[block * coarse[2] + (position[2] >> (factors[2] - 1))] == 1:
                if c != example:
                    sd[c] = sd[example]
                    for d in range(3):
                        a[d, c] = a[d, example]
            elif diag[c] == 0:
                sd[c] = 0
                for d in range(3):
                    a[d, c] = 0
            else:
                cells[count] = c
                count += 1
                if count == CHUNK:
                    evaluate(
                        cells,
                        count,
                        w,
                        ground,
                        shift,
                        diag,
                        path,
                        size,
                        stride,
                        factors,
                        periodic,
                        damping,
                        weight,
                        sd,
                        a,
                        space,
                    )
                    count = 0
        evaluate(
            cells, count, w, ground, shift, diag, path, size, stride, factors, periodic, damping, weight, sd, a, space
        )
