"""Set-up of one fine level: damping and prolongation weights of every cell, straight into the eight bits of the cycle.

The perceptrons are evaluated once per pattern of surroundings (`setup_patterns`), in chunks: first the numbers around
each cell are gathered into columns, then features, perceptrons and results are computed a row of columns at a time.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import ordered_row_kernel as row_kernel
from .cpu_jit import strip_kernel
from .setup import (
    CHUNK,
    HALF,
    ONE,
    TINY,
    ZERO,
    exponential,
    locate,
    perceptron,
    ratio,
)
from .setup_patterns import SLOTS, STRIP, representative

# rows of what is gathered per axis: links below and above and the diagonals there; inner and outer link, the outer
# neighbour's inner link; path through this cell, mean of the parallel ones; diagonal of the outer neighbour; who stands
# alone; blocked; geometric weight; ground
LOW, HIGH, DIAG_LOW, DIAG_HIGH, INNER, LINK, INNER_O, PATH, MEAN, DIAG_O, ALONE, ALONE_O, BLOCKED, GEOMETRIC, GROUND = (
    range(15)
)
DAMPING_BIAS = np.float32(3)
LEAST, MOST, BITS, SIX = np.float32(1e-4), np.float32(1 - 1e-3), np.float32(255), np.float32(1 / 6)


@row_kernel
def gather_sides(cells, count, position, w, diag, ground, n, t, g):
    """Copy links, neighbours' diagonals and ground of one axis into the first columns."""
    wrap = (n - 1) * t
    for m in range(count):
        c, p = cells[m], position[m]
        lo, hi = (c - t if p > 0 else c + wrap), (c + t if p < n - 1 else c - wrap)
        g[LOW, m], g[HIGH, m], g[DIAG_LOW, m], g[DIAG_HIGH, m] = w[lo], w[c], diag[lo], diag[hi]
        g[GROUND, m] = ground[c]


@row_kernel
def gather_circuit(cells, count, position, w, diag, path, n, t, periodic, g):
    """Copy what the circuit of a coarsened axis consists of, around each cell, into the first columns."""
    for m in range(count):
        c, p = cells[m], position[m]
        odd = p & 1
        paired, exists = odd or p < n - 1, periodic or (p < n - 1 if odd else p > 0)
        partner = (g[DIAG_LOW, m] if odd else g[DIAG_HIGH, m]) if paired else ZERO
        inner = (g[LOW, m] if odd else g[HIGH, m]) if paired else ZERO
        po = (p + 1 if p < n - 1 else 0) if odd else (p - 1 if p > 0 else n - 1)
        o = c + (po - p) * t
        paired_o = po & 1 or po < n - 1
        pair_o = o - t if po & 1 else (o + t if paired_o else o)
        inner_o, partner_o = w[pair_o if po & 1 else o], diag[pair_o]
        diag_o = g[DIAG_HIGH, m] if odd else g[DIAG_LOW, m]
        g[INNER, m], g[LINK, m], g[PATH, m] = inner, (g[HIGH, m] if odd else g[LOW, m]), path[c]
        g[INNER_O, m] = inner_o if exists and paired_o else ZERO
        g[DIAG_O, m] = diag_o if exists else ZERO
        g[ALONE, m] = ONE if partner == 0 else ZERO
        g[ALONE_O, m] = ONE if exists and diag_o > 0 and (partner_o == 0 or not paired_o) else ZERO
        g[BLOCKED, m] = ONE if inner == 0 and partner > 0 else ZERO
        half, half_o = (HALF if paired else ZERO), (HALF if paired_o else ZERO)
        g[GEOMETRIC, m] = half / (ONE + half + half_o)


@row_kernel
def gather_mean(cells, count, position, path, d, size, stride, factors, mean):
    """Write the mean of the paths through the parallel cells of the coarse face."""
    e, f = (d + 1) % 3, (d + 2) % 3
    te, tf, ne, nf = stride[e], stride[f], size[e], size[f]
    one_e, one_f = factors[e] == 1, factors[f] == 1
    for m in range(count):
        c, pe, pf = cells[m], position[e, m], position[f, m]
        # from a cell to the other one of the pair, if there is one
        to_e = 0 if one_e or (not pe & 1 and pe == ne - 1) else (-te if pe & 1 else te)
        to_f = 0 if one_f or (not pf & 1 and pf == nf - 1) else (-tf if pf & 1 else tf)
        total = path[c]
        if to_f != 0:
            total += path[c + to_f]
        if to_e != 0:
            total += path[c + to_e]
            if to_f != 0:
                total += path[c + to_e + to_f]
        mean[m] = total
    scale = ONE / np.float32(factors[e] * factors[f])
    for m in range(CHUNK):
        mean[m] *= scale


@row_kernel
def gather(cells, count, problem, position, own, axes):
    """Copy what the features of a list of cells read into columns."""
    w, ground, shift, diag, path, size, stride, factors, periodic = problem
    for m in range(count):
        c = cells[m]
        cell, nz, ny = np.uint32(c), np.uint32(size[2]), np.uint32(size[1])
        row = cell // nz
        position[2, m], position[0, m] = cell - row * nz, row // ny
        position[1, m] = row - (row // ny) * ny
        own[0, m], own[1, m] = diag[c], shift[c]
    for d in range(3):
        g, n, t = axes[d], size[d], stride[d]
        gather_sides(cells, count, position[d], w[d], diag, ground[d], n, t, g)
        if factors[d] == 2:
            gather_circuit(cells, count, position[d], w[d], diag, path[d], n, t, periodic[d], g)
            gather_mean(cells, count, position, path[d], d, size, stride, factors, g[MEAN])
        else:
            g[INNER], g[LINK] = 0, 0


@row_kernel
def product_sum(a, b, out):
    """Add a b to a chunk."""
    for k in range(CHUNK):
        out[k] += a[k] * b[k]


@row_kernel
def largest(a, b, out):
    """Raise a chunk to at least a b."""
    for k in range(CHUNK):
        out[k] = max(out[k], a[k] * b[k])


@row_kernel
def squared(a, b, out):
    """Add (a b)² to a chunk."""
    for k in range(CHUNK):
        out[k] += (a[k] * b[k]) * (a[k] * b[k])


@row_kernel
def share(w, diag, sevenths, inv, x, row, square):
    """Add w/diag₊ to one chunk and w²/(diag diag₊) to another; `x` is work space."""
    for k in range(CHUNK):
        x[k] = w[k] / max(diag[k], TINY)
    for k in range(CHUNK):
        row[k] += x[k] * sevenths
    for k in range(CHUNK):
        square[k] += (w[k] * inv[k]) * x[k]


@row_kernel
def damping_features(own, axes, factors, inv, x):
    """Write the nine features of `coefficients.damping_features`; row 9 is work space."""
    for k in range(CHUNK):
        inv[k] = ONE / max(own[0, k], TINY)
    x[:9] = 0
    for d in range(3):
        g = axes[d]
        product_sum(g[GROUND], inv, x[0])
        if factors[d] == 2:
            product_sum(g[INNER], inv, x[2])
            product_sum(g[LINK], inv, x[3])
            largest(g[INNER], inv, x[4])
            largest(g[LINK], inv, x[5])
            squared(g[INNER], inv, x[6])
            squared(g[LINK], inv, x[6])
        share(g[LOW], g[DIAG_LOW], SIX, inv, x[9], x[7], x[8])
        share(g[HIGH], g[DIAG_HIGH], SIX, inv, x[9], x[7], x[8])
    product_sum(own[1], inv, x[1])
    for k in range(CHUNK):
        x[7, k] = min(x[7, k], ONE)
    x[9] = 0


@row_kernel
def resistor_weight(inner, link, inner_o, path, out):
    """Write r / (r + 1/link + r')."""
    for k in range(CHUNK):
        r = HALF / max(inner[k], TINY) if inner[k] > 0 else ZERO
        r_o = HALF / max(inner_o[k], TINY) if inner_o[k] > 0 else ZERO
        value = r * path[k] if path[k] > 0 else r / (r + ONE / max(link[k], TINY) + r_o)
        out[k] = value if link[k] > 0 else ZERO


@row_kernel
def weight_features(own, g, inv, x, y):
    """Write the sixteen features of `coefficients.weight_features` into y, with the damping features x at hand."""
    ratio(g[INNER], g[LINK], y[0])
    ratio(g[LINK], g[INNER_O], y[1])
    ratio(g[INNER], g[INNER_O], y[2])
    ratio(g[PATH], g[MEAN], y[3])
    ratio(own[0], g[DIAG_O], y[4])
    y[5:8] = 0
    product_sum(g[INNER], inv, y[5])
    product_sum(g[LINK], inv, y[6])
    product_sum(g[GROUND], inv, y[7])
    y[8], y[9] = x[0], x[1]
    for k in range(CHUNK):
        y[10, k] = x[2, k] - y[5, k]
    for k in range(CHUNK):
        y[11, k] = x[3, k] - y[6, k]
    y[12], y[13], y[14] = g[ALONE], g[ALONE_O], g[BLOCKED]
    resistor_weight(g[INNER], g[LINK], g[INNER_O], g[PATH], y[15])


@row_kernel
def blended_weight(link, resistor, geometric, y, bits, out):
    """Write the eight-bit weight: σ(logit(g geometric + (1-g) resistor) + y₁), g = σ(y₀); 0 where there is no link."""
    for k in range(CHUNK):
        y[0, k] = -y[0, k]
    exponential(y[0], bits)
    exponential(y[1], bits)
    for k in range(CHUNK):
        gate = ONE / (ONE + y[0, k])
        y[0, k] = min(max(gate * geometric[k] + (ONE - gate) * resistor[k], LEAST), MOST)
    for k in range(CHUNK):
        odds = y[0, k] * y[1, k]
        out[k] = BITS * (odds / (odds + (ONE - y[0, k]))) if link[k] > 0 else ZERO


@row_kernel
def evaluate(cells, count, problem, damping, weight, results, space):
    """Write sd and a of the first `count` cells of a list; they hold unknowns."""
    diag, factors = problem[3], problem[7]
    sd, a = results
    own, axes, inv, x, y, hidden, out, value, bits, position, flat = space
    gather(cells, count, problem, position, own, axes)
    damping_features(own, axes, factors, inv, x)
    perceptron(flat[0], damping, hidden, flat[2])
    for k in range(CHUNK):
        out[0, k] = -out[0, k] - DAMPING_BIAS
    exponential(out[0], bits)
    for m in range(count):
        sd[cells[m]] = max(np.rint(BITS / (ONE + out[0, m])), ONE) / BITS / diag[cells[m]]
    for d in range(3):
        if factors[d] == 2:
            weight_features(own, axes[d], inv, x, y)
            perceptron(flat[1], weight, hidden, flat[2])
            blended_weight(axes[d, LINK], y[15], axes[d, GEOMETRIC], out, bits, value)
            for m in range(count):
                a[d, cells[m]] = np.uint8(np.rint(value[m]))


@row_kernel
def work_space(width):
    """Arrays of one task."""
    x, y, out = np.zeros((12, CHUNK), np.float32), np.zeros((16, CHUNK), np.float32), np.zeros((4, CHUNK), np.float32)
    flat = (x.reshape(12 * CHUNK), y.reshape(16 * CHUNK), out.reshape(4 * CHUNK))
    return (
        np.ones((2, CHUNK), np.float32), np.ones((3, 15, CHUNK), np.float32), np.empty(CHUNK, np.float32), x, y,
        np.empty((2, width * CHUNK), np.float32), out, np.empty(CHUNK, np.float32), np.empty(CHUNK, np.int32),
        np.zeros((3, CHUNK), np.int64), flat,
    )  # fmt: skip


@row_kernel
def corner(block, coarse, size, stride, factors, position):
    """Return the first cell of a block, and how many cells it has along each axis."""
    locate(block, coarse, position)
    first = 0
    for d in range(3):
        start = position[d] * factors[d]
        first += start * stride[d]
        position[d] = min(factors[d], size[d] - start)
    return first


@row_kernel
def copy_block(source, target, extent, stride, sd, a):
    """Copy the results of one block to another."""
    for u in range(extent[0]):
        for v in range(extent[1]):
            shift = u * stride[0] + v * stride[1]
            for k in range(extent[2]):
                s, t = source + shift + k, target + shift + k
                sd[t], a[0, t], a[1, t], a[2, t] = sd[s], a[0, s], a[1, s], a[2, s]


@row_kernel
def fine_strip(strip, problem, patterns, coarse, damping, weight, results):
    """Evaluate what is new among the blocks of one strip, copy the rest."""
    diag, size, stride, factors = problem[3], problem[5], problem[6], problem[7]
    sd, a = results
    start, stop = strip * STRIP, min(strip * STRIP + STRIP, patterns.size)
    keys, values = np.zeros(SLOTS, np.uint64), np.empty(SLOTS, np.int64)
    extent, cells = np.empty(3, np.int64), np.zeros(CHUNK, np.int64)
    first_of = np.empty(STRIP, np.int64)
    space = work_space(damping[0].shape[0])
    count = 0
    for block in range(start, stop):
        first_of[block - start] = representative(patterns[block], block, keys, values)
        if first_of[block - start] != block:
            continue
        first = corner(block, coarse, size, stride, factors, extent)
        for u in range(extent[0]):
            for v in range(extent[1]):
                for k in range(extent[2]):
                    c = first + u * stride[0] + v * stride[1] + k
                    if diag[c] > 0:
                        cells[count] = c
                        count += 1
                        if count == CHUNK:
                            evaluate(cells, count, problem, damping, weight, results, space)
                            count = 0
    if count:
        evaluate(cells, count, problem, damping, weight, results, space)
    for block in range(start, stop):
        origin = first_of[block - start]
        if origin != block:
            target = corner(block, coarse, size, stride, factors, extent)
            copy_block(corner(origin, coarse, size, stride, factors, extent), target, extent, stride, sd, a)


@strip_kernel
def fine_level(start, stop, problem, patterns, coarse, damping, weight, results):
    """Write sd = s/diag and the eight-bit weights a for strips start..stop of a level; both come in as zeros."""
    for strip in range(start, stop):
        fine_strip(strip, problem, patterns, coarse, damping, weight, results)
