"""Set-up of one fine level: damping and prolongation weights of every cell, straight into the eight bits of the cycle.

`outer_paths` walks the circuits once; `fine_level` evaluates the perceptrons in chunks. Where the medium is uniform as
far as the features see (*quiet* blocks: the bulk of every cell-type problem), they are evaluated once and copied.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .cpu_jit import kernel, row_kernel
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

STRIP = 4096  # cells per task


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
                straight = w[d, c] == usual[d] and w[d, lo] == usual[d]
                same = same and ground[d, c] == 0 and (n == 1 or straight)
                if factors[d] == 2:
                    o, po = outer_cell(c, p, n, t)
                    link = np.float64(w[d, c]) if p & 1 else np.float64(w[d, lo])
                    if link == 0:
                        path[d, c] = 0
                    elif straight and (p & 1 or p < n - 1) and inner_link(w, d, o, po, n, t) == link:
                        path[d, c] = 0.5 * link  # uniform: 1 / (1/2w + 1/w + 1/2w)
                    else:
                        path[d, c] = series(w, d, diag, c, p, o, po, n, t, link)
            flags[c] = 1 if same else 0


@row_kernel
def axis_indices(block, d, size, stride, factors, periodic, steps):
    """Write the flat offsets of a block's cells along axis d, and before and behind it; tell if all exist."""
    n, f, start = size[d], factors[d], block * factors[d]
    steps[d, 0], steps[d, 1] = start * stride[d], (start + f - 1) * stride[d]
    if n == 1:
        steps[d, 2] = steps[d, 3] = 0
        return True
    before, behind = start - 1, start + f
    steps[d, 2] = (before if before >= 0 else n - 1) * stride[d]
    steps[d, 3] = (behind if behind < n else 0) * stride[d]
    paired = f == 1 or not n & 1 or (before >= 0 and behind < n - 1)  # neighbours have partners too
    return paired and behind <= n and (periodic[d] or (before >= 0 and behind < n))


@kernel
def flag_blocks(flags, size, stride, factors, coarse, periodic, quiet):
    """Mark the blocks whose cells, and all cells at their faces, are flagged: all that the features see."""
    for index in numba.prange(coarse[0] * coarse[1] * coarse[2]):
        block, steps = np.empty(3, np.int64), np.empty((3, 4), np.int64)
        locate(index, coarse, block)
        ok = True
        for d in range(3):
            ok = axis_indices(block[d], d, size, stride, factors, periodic, steps) and ok
        for u in range(2):
            for v in range(2):
                ok = (
                    ok
                    and flags[steps[0, u] + steps[1, v] + steps[2, 0]] + flags[steps[0, u] + steps[1, v] + steps[2, 1]]
                    == 2
                )
        for d in range(3):
            e, f = (d + 1) % 3, (d + 2) % 3
            for u in range(2):
                for v in range(2):
                    if ok:
                        c = steps[e, u] + steps[f, v]
                        ok = flags[c + steps[d, 2]] + flags[c + steps[d, 3]] == 2
        quiet[index] = 1 if ok else 0


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
def evaluate(cells, problem, damping, weight, results, space):
    """Write sd and a of a list of at most CHUNK cells that hold unknowns."""
    w, ground, shift, diag, path, size, stride, factors, periodic = problem
    sd, a = results
    x, axes, hidden, y, classical, position, sums = space
    for m in range(cells.size):
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
    for m in range(cells.size):
        s = max(np.rint(255.0 * sigmoid(y[0, m] + 3.0)), 1.0) / 255.0
        sd[cells[m]] = s / diag[cells[m]]
    for d in range(3):
        if factors[d] == 2:
            for f in range(5):
                ratios(axes[d, f])
            perceptron(axes[d], weight, hidden, y)
        for m in range(cells.size):
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


@row_kernel
def sort_out(start, stop, example, quiet, coarse, problem, results, cells):
    """Copy the example to quiet cells, zero those without an unknown, list all others; return their number."""
    diag, size, factors = problem[3], problem[5], problem[7]
    sd, a = results
    position, count = np.empty(3, np.int64), 0
    usual = np.float32(0)
    weights = np.zeros(3, np.uint8)
    if example >= 0:
        usual, weights[:] = sd[example], a[:, example]
    for c in range(start, stop):
        if diag[c] == 0:
            sd[c] = a[0, c] = a[1, c] = a[2, c] = 0
            continue
        locate(c, size, position)
        block = (position[0] >> (factors[0] - 1)) * coarse[1] + (position[1] >> (factors[1] - 1))
        if example >= 0 and quiet[block * coarse[2] + (position[2] >> (factors[2] - 1))] == 1:
            if c != example:  # other tasks are reading it
                sd[c], a[0, c], a[1, c], a[2, c] = usual, weights[0], weights[1], weights[2]
        else:
            cells[count] = c
            count += 1
    return count


@kernel
def fine_level(problem, quiet, example, coarse, damping, weight, results):
    """Write sd = s/diag and the eight-bit weights a of one level; `example` is a cell of a quiet block, or -1."""
    total, width = problem[3].size, damping[0].shape[0]
    if example >= 0:
        evaluate(np.full(1, example), problem, damping, weight, results, work_space(width))
    for strip in numba.prange((total + STRIP - 1) // STRIP):
        cells, start = np.empty(STRIP, np.int64), strip * STRIP
        count = sort_out(start, min(start + STRIP, total), example, quiet, coarse, problem, results, cells)
        if count:
            space = work_space(width)
            for first in range(0, count, CHUNK):
                evaluate(cells[first : min(first + CHUNK, count)], problem, damping, weight, results, space)
