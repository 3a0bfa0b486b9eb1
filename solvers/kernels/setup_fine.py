"""Set-up of one fine level, a row of blocks at a time: damping, weights in eight bits, both classical coarse operators.

Columns of what the network reads are filled for the (up to four) rows of cells in a row of blocks. Where surroundings
repeat themselves, as in cell-type problems, they are hashed and only new ones evaluated.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import inlined_kernel, strip_kernel
from .cpu_jit import ordered_row_kernel as row_kernel
from .lanes import WIDTH, any_positive, larger, load, nearest, smaller, splat, store, store_all, where_positive
from .setup import CHUNK, HALF, ONE, TINY, ZERO, answer, exponential, fourth_root, hidden_units, network_space, ratio
from .setup_columns import (
    ALONE,
    ALONE_O,
    BLOCKED,
    COLUMNS,
    DIAG_HIGH,
    DIAG_LOW,
    DIAG_O,
    GEOMETRIC,
    GROUND,
    HIGH,
    INNER,
    INNER_O,
    LINK,
    LOW,
    MEAN,
    PATH,
    column_space,
    fill_block_row,
)  # fmt: skip
from .setup_patterns import SLOTS, block_patterns, representative
from .setup_sums import coarse_row, sum_space

DAMPING_BIAS = np.float32(3)
LEAST, MOST, BITS, SIX = np.float32(1e-4), np.float32(1 - 1e-3), np.float32(255), np.float32(1 / 6)


@inlined_kernel
def side_sums(g, k, inv):
    """Return the sum of w/diag₊ over both sides of an axis, and that of w²/(diag diag₊)."""
    low, high = load(g, (LOW, k)), load(g, (HIGH, k))
    below, above = low / larger(load(g, (DIAG_LOW, k)), TINY), high / larger(load(g, (DIAG_HIGH, k)), TINY)
    return below + above, (low * inv) * below + (high * inv) * above


@inlined_kernel
def damping_features(own, axes, factors, k, x):
    """Write the nine features of `coefficients.damping_features`, ground and shift last; return sums and how many."""
    inv = ONE / larger(load(own, (0, k)), TINY)
    ground, inner, link, most_inner, most_link = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
    squares, row, square = splat(ZERO), splat(ZERO), splat(ZERO)
    for d in range(3):
        g = axes[d]
        ground = ground + load(g, (GROUND, k)) * inv
        if factors[d] == 2:
            i, o = load(g, (INNER, k)) * inv, load(g, (LINK, k)) * inv
            inner, link, squares = inner + i, link + o, squares + (i * i + o * o)
            most_inner, most_link = larger(most_inner, i), larger(most_link, o)
        r, q = side_sums(g, k, inv)
        row, square = row + r, square + q
    shift = load(own, (1, k)) * inv
    row = smaller(row * SIX, ONE)
    store_all(x, (0, 0), (inner, link, most_inner, most_link, squares, row, square, ground, shift))
    return (inv, ground, shift, inner, link), (9 if any_positive(ground + shift) else 7)


@inlined_kernel
def resistor_weight(inner, link, inner_o, path):
    """Return r / (r + 1/link + r')."""
    r = where_positive(inner, HALF / larger(inner, TINY), ZERO)
    r_o = where_positive(inner_o, HALF / larger(inner_o, TINY), ZERO)
    value = where_positive(path, r * path, r / (r + ONE / larger(link, TINY) + r_o))
    return where_positive(link, value, ZERO)


@inlined_kernel
def weight_features(own, g, k, sums, y):
    """Write the sixteen features of `coefficients.weight_features`, mostly 0 ones last; return how many, the weight."""
    inv, ground, shift, inner_sum, link_sum = sums
    inner, link, inner_o, path = load(g, (INNER, k)), load(g, (LINK, k)), load(g, (INNER_O, k)), load(g, (PATH, k))
    alone, alone_o, blocked = load(g, (ALONE, k)), load(g, (ALONE_O, k)), load(g, (BLOCKED, k))
    resistor = resistor_weight(inner, link, inner_o, path)
    ri, rl, ro = fourth_root(inner), fourth_root(link), fourth_root(inner_o)
    i, l = inner * inv, link * inv
    features = (
        ratio(ri, rl), ratio(rl, ro), ratio(ri, ro), ratio(fourth_root(path), fourth_root(load(g, (MEAN, k)))),
        ratio(fourth_root(load(own, (0, k))), fourth_root(load(g, (DIAG_O, k)))), i, l, inner_sum - i, link_sum - l,
        resistor, load(g, (GROUND, k)) * inv, ground, shift, alone, alone_o, blocked,
    )  # fmt: skip
    store_all(y, (0, 0), features)
    return (16 if any_positive(ground + shift + alone + alone_o + blocked) else 10), resistor


@inlined_kernel
def blended_weight(link, resistor, geometric, gate, correction):
    """Return the eight-bit weight σ(logit(g geometric + (1-g) resistor) + y₁), g = σ(y₀); 0 where there is no link."""
    g = ONE / (ONE + exponential(ZERO - gate))
    mix = smaller(larger(g * geometric + (ONE - g) * resistor, LEAST), MOST)
    odds = mix * exponential(correction)
    return where_positive(link, nearest(BITS * (odds / (odds + (ONE - mix)))), ZERO)


@row_kernel
def evaluate(own, axes, k, factors, damping, weight, x, hidden, value):
    """Write the weights (0, 1, 2) and sd (3) of the cells in one vector of columns; 0 where there is no unknown."""
    diag = load(own, (0, k))
    sums, features = damping_features(own, axes, factors, k, x)
    hidden_units(x, features, damping, hidden)
    s = BITS / (ONE + exponential(ZERO - answer(0, damping, hidden) - DAMPING_BIAS))
    store(value, (3, k), where_positive(diag, larger(nearest(s), ONE) / (BITS * larger(diag, TINY)), ZERO))
    for d in range(3):
        if factors[d] == 2:
            g = axes[d]
            features, resistor = weight_features(own, g, k, sums, x)
            hidden_units(x, features, weight, hidden)
            gate, correction = answer(0, weight, hidden), answer(1, weight, hidden)
            blend = blended_weight(load(g, (LINK, k)), resistor, load(g, (GEOMETRIC, k)), gate, correction)
            store(value, (d, k), where_positive(diag, blend, ZERO))


@inlined_kernel
def put_row(first, nz, factors, value, results):
    """Write the results of a row of cells."""
    sd, a = results
    for k in range(nz):
        sd[first + k] = value[3, k]
    for d in range(3):
        if factors[d] == 2:
            for k in range(nz):
                a[d, first + k] = np.uint8(value[d, k])


@inlined_kernel
def put_cells(cells, count, value, results):
    """Write the results of the first `count` cells of a list."""
    sd, a = results
    for m in range(count):
        c = cells[m]
        sd[c] = value[3, m]
        a[0, c], a[1, c], a[2, c] = np.uint8(value[0, m]), np.uint8(value[1, m]), np.uint8(value[2, m])


@inlined_kernel
def enlist(block, nz, rows, factors, owns, columns, count, batch):
    """Append the cells of a block to a batch."""
    cells, own, axes = batch
    for r in range(4):
        for k in range(block * factors[2], min((block + 1) * factors[2], nz)):
            if rows[r] >= 0 and owns[r, 0, k] > 0:
                cells[count] = rows[r] * nz + k
                own[0, count], own[1, count] = owns[r, 0, k], owns[r, 1, k]
                for d in range(3):
                    for f in range(COLUMNS):
                        axes[d, f, count] = columns[r, d, f, k]
                count += 1
    return count


@inlined_kernel
def new_cells(first_of, nz, rows, factors, owns, columns, table, hashes, count, batch):
    """Append what is new among one row of blocks to a batch; remember where the others find their values."""
    totals, patterns = hashes
    block_patterns(rows, nz, factors, owns, columns, totals, patterns)
    for block in range(patterns.shape[0]):
        first = rows[0] * nz + block * factors[2]
        first_of[block] = representative(patterns[block], first, table[0], table[1]) if patterns[block] else first
        if patterns[block] and first_of[block] == first:
            count = enlist(block, nz, rows, factors, owns, columns, count, batch)
    return count


@inlined_kernel
def copy_blocks(first_of, row, size, factors, results):
    """Copy results to those blocks of a row of blocks that looked like an earlier one."""
    sd, a = results
    ny, nz = size[1], size[2]
    for block in range(first_of.shape[0]):
        first = row * nz + block * factors[2]
        shift = first_of[block] - first
        if shift:
            for u in range(min(factors[0], size[0] - row // ny)):
                for v in range(min(factors[1], ny - row % ny)):
                    t = first + (u * ny + v) * nz
                    for c in range(t, t + min(factors[2], nz - block * factors[2])):
                        sd[c] = sd[c + shift]
                        a[0, c], a[1, c], a[2, c] = a[0, c + shift], a[1, c + shift], a[2, c + shift]


@strip_kernel
def fine_level(start, stop, problem, coarse, repeats, nets, results, sums):
    """Write sd = s/diag, the eight-bit weights a, and both classical coarse operators, for rows of blocks.

    sd and a come in as zeros. repeats : 1 where surroundings are expected to repeat themselves, else 0
    """
    size, factors, periodic = problem[4], problem[5], problem[6]
    ny, nz, n = size[1], size[2], coarse[2]
    space, rows, owns, columns = column_space(nz)
    width = owns.shape[2]
    totals = sum_space(width, nz, periodic[2], factors[2] == 2)
    room = 4 * width + CHUNK
    x, hidden, value = network_space(nets[0][1].shape[0], room)
    table = np.zeros(SLOTS * repeats, np.uint64), np.empty(SLOTS * repeats, np.int64)
    batch = np.zeros(room, np.int64), np.ones((2, room), np.float32), np.ones((3, COLUMNS, room), np.float32)
    hashes = np.zeros((4, width), np.uint64), np.empty(n, np.uint64)
    first_of, count = np.empty((stop - start) * n * repeats, np.int64), 0
    for index in range(start, stop):
        fill_block_row(index, problem, coarse, space, rows, owns, columns)
        coarse_row(index, problem, coarse, space, totals, rows, owns, columns, sums)
        if repeats:
            here = first_of[(index - start) * n : (index - start + 1) * n]
            count = new_cells(here, nz, rows, factors, owns, columns, table, hashes, count, batch)
        for r in range(4):  # the rows of cells; or the batch, if it is full
            ready = count if r == 0 and (count >= CHUNK or index == stop - 1) else 0
            ready = ready if repeats else (width if rows[r] >= 0 else 0)
            own, axes = (batch[1], batch[2]) if repeats else (owns[r], columns[r])
            for k in range(0, ready, WIDTH):
                if any_positive(load(own, (0, k))):
                    evaluate(own, axes, k, factors, nets[0], nets[1], x, hidden, value)
                else:
                    value[:, k : k + WIDTH] = 0
            if ready and repeats:
                put_cells(batch[0], count, value, results)
                count = 0
            elif ready:
                put_row(rows[r] * nz, nz, factors, value, results)
    if repeats:
        for index in range(start, stop):
            row = (index // coarse[1]) * factors[0] * ny + (index % coarse[1]) * factors[1]
            copy_blocks(first_of[(index - start) * n : (index - start + 1) * n], row, size, factors, results)
