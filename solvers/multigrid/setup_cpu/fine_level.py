"""Set-up of one fine level, a row of blocks at a time: damping, weights in eight bits, both classical coarse operators.

Columns of what the network reads are filled for the (up to four) rows of cells in a row of blocks. Where surroundings
repeat themselves, as in cell-type problems, they are hashed and only new ones evaluated.
"""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel, strip_kernel
from ...kernels.cpu.lanes import (
    WIDTH,
    any_positive,
    larger,
    load,
    nearest,
    smaller,
    splat,
    store,
    store_all,
    where_positive,
)
from .classical_sums import coarse_row, sum_space
from .deduplicate import EVALUATE_CHANGED, EVALUATE_UNIQUE, NO_UNKNOWN, UNCHANGED, find_changed_vectors
from .perceptron import (
    CHUNK,
    HALF,
    ONE,
    TINY,
    ZERO,
    exponential,
    fourth_root,
    hidden_units,
    network_space,
    output_unit,
    ratio,
)  # fmt: skip
from .row_features import (
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

DAMPING_BIAS = np.float32(3)
LEAST, MOST, BITS, SIX = np.float32(1e-4), np.float32(1 - 1e-3), np.float32(255), np.float32(1 / 6)


# --- features and network of the cells in one vector of columns -------------------------------------------------------


@inlined_kernel
def side_sums(g, k, inv):
    """Return the sum of w/diag₊ over both sides of an axis, and that of w²/(diag diag₊)."""
    low, high = load(g, (LOW, k)), load(g, (HIGH, k))
    below, above = low / larger(load(g, (DIAG_LOW, k)), TINY), high / larger(load(g, (DIAG_HIGH, k)), TINY)
    return below + above, (low * inv) * below + (high * inv) * above


@inlined_kernel
def damping_features(own, axes, factors, k, x):
    """Write the nine features of `network.damping_features`, ground and shift last; return sums and how many."""
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
    """Write the sixteen features of `network.weight_features`, mostly 0 ones last; return how many, the weight."""
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
def evaluate_columns(own, axes, k, factors, damping, weight, x, hidden, value):
    """Write the weights (0, 1, 2) and sd (3) of the cells in one vector of columns; 0 where there is no unknown."""
    diag = load(own, (0, k))
    sums, features = damping_features(own, axes, factors, k, x)
    hidden_units(x, features, damping, hidden)
    s = BITS / (ONE + exponential(ZERO - output_unit(0, damping, hidden) - DAMPING_BIAS))
    store(value, (3, k), where_positive(diag, larger(nearest(s), ONE) / (BITS * larger(diag, TINY)), ZERO))
    for d in range(3):
        if factors[d] == 2:
            g = axes[d]
            features, resistor = weight_features(own, g, k, sums, x)
            hidden_units(x, features, weight, hidden)
            gate, correction = output_unit(0, weight, hidden), output_unit(1, weight, hidden)
            blend = blended_weight(load(g, (LINK, k)), resistor, load(g, (GEOMETRIC, k)), gate, correction)
            store(value, (d, k), where_positive(diag, blend, ZERO))


# --- results ----------------------------------------------------------------------------------------------------------


@row_kernel
def put_damping(c, value, damping):
    """Write sd of a cell, as a number or as a multiple of 1/unit rounded down."""
    sd, steps, unit = damping
    if steps.shape[0]:
        steps[c] = np.uint16(np.float64(value) * unit)
    else:
        sd[c] = value


@inlined_kernel
def put_row(first, low, high, factors, value, results):
    """Write the results of cells low..high of a row."""
    damping, a = results
    for k in range(low, high):
        put_damping(first + k, value[3, k], damping)
    for d in range(3):
        if factors[d] == 2:
            for k in range(low, high):
                a[d, first + k] = np.uint8(value[d, k])


@row_kernel
def put_cell(c, m, value, results):
    """Write the results in column m to cell c."""
    damping, a = results
    put_damping(c, value[3, m], damping)
    a[0, c], a[1, c], a[2, c] = np.uint8(value[0, m]), np.uint8(value[1, m]), np.uint8(value[2, m])


@row_kernel
def copy_cell(c, s, results):
    """Copy the results of cell s to cell c; none if s < 0."""
    (sd, steps, _), a = results
    if steps.shape[0]:
        steps[c] = steps[s] if s >= 0 else np.uint16(0)
    else:
        sd[c] = sd[s] if s >= 0 else ZERO
    for d in range(3):
        a[d, c] = a[d, s] if s >= 0 else np.uint8(0)


@inlined_kernel
def append_block(block, nz, rows, factors, owns, columns, count, batch):
    """Append the cells of a block to a batch; also those without an unknown, whose old results must be cleared."""
    cells, own, axes = batch
    for r in range(4):
        for k in range(block * factors[2], min((block + 1) * factors[2], nz)):
            if rows[r] >= 0:
                cells[count] = rows[r] * nz + k
                own[0, count], own[1, count] = owns[r, 0, k], owns[r, 1, k]
                for d in range(3):
                    for f in range(COLUMNS):
                        axes[d, f, count] = columns[r, d, f, k]
                count += 1
    return count


@inlined_kernel
def append_new_blocks(representatives, span, first, nz, rows, factors, owns, columns, count, batch):
    """Append the cells of the new blocks of a row to a batch."""
    for k in range(span[0], span[1]):
        if representatives[k] == first + k:
            count = append_block(k, nz, rows, factors, owns, columns, count, batch)
    return count


@inlined_kernel
def copy_cells(representatives, span, index, problem, blocks, results):
    """Copy damping and weights to those blocks of a row of blocks that look like an earlier one."""
    _, _, _, _, size, factors, _ = problem
    ny, nz, n = size[1], size[2], blocks[2]
    i, j = index // blocks[1] * factors[0], index % blocks[1] * factors[1]
    last, source = -1, 0
    for u in range(min(factors[0], size[0] - i)):
        for v in range(min(factors[1], ny - j)):
            row = ((i + u) * ny + j + v) * nz
            for k in range(span[0], span[1]):
                s = representatives[k]
                if s == UNCHANGED or s == index * n + k:
                    continue
                if s != last and s >= 0:
                    other, last = s // n, s
                    x, y = other // blocks[1] * factors[0], other % blocks[1] * factors[1]
                    source = (x * ny + y) * nz + (s - other * n) * factors[2]
                c, t = row + k * factors[2], source + (u * ny + v) * nz
                for m in range(min(factors[2], nz - k * factors[2])):
                    copy_cell(c + m, t + m if s >= 0 else NO_UNKNOWN, results)


@inlined_kernel
def copy_sums(representatives, span, first, sums):
    """Copy both classical coarse operators to a row of blocks; 0 without unknowns."""
    uniform, path, grounds, shifts, facts = sums
    for k in range(span[0], span[1]):
        c, s = first + k, representatives[k]
        if s == UNCHANGED or s == c:
            continue
        if s == NO_UNKNOWN:
            for d in range(3):
                uniform[d, c] = path[d, c] = grounds[d, c] = 0
            for f in range(7):
                facts[f, c] = 0
            shifts[c] = 0
        else:
            for d in range(3):
                uniform[d, c], path[d, c], grounds[d, c] = uniform[d, s], path[d, s], grounds[d, s]
            for f in range(7):
                facts[f, c] = facts[f, s]
            shifts[c] = shifts[s]


@strip_kernel
def copy_results(start, stop, ranges, problem, coarse, representatives, results, sums):
    """Copy results in rows start..stop to those blocks that look like an earlier one."""
    n = coarse[2]
    for index in range(start, stop):
        if ranges[index, 1] > 0:
            here = representatives[index * n : (index + 1) * n]
            copy_cells(here, ranges[index], index, problem, coarse, results)
            copy_sums(here, ranges[index], index * n, sums)


@strip_kernel
def fine_level(start, stop, problem, coarse, mode, changed, new, representatives, nets, results, sums):
    """Write damping, the eight-bit weights a, and both classical coarse operators, for rows of blocks.

    mode, changed : which blocks to visit, see `deduplicate`
    new, representatives : of blocks to be evaluated once per hash
    results : (sd, steps, unit), a, as the last set-up left them, or zeros
    """
    _, _, _, _, size, factors, periodic = problem
    nz, n, once = size[2], coarse[2], mode == EVALUATE_UNIQUE
    space, rows, owns, columns = column_space(nz)
    width = owns.shape[2]
    totals = sum_space(width, nz, periodic[2], factors[2] == 2, n)
    room = 4 * width + CHUNK
    x, hidden, value = network_space(nets[0][1].shape[0], room)
    batch = np.zeros(room, np.int64), np.ones((2, room), np.float32), np.ones((3, COLUMNS, room), np.float32)
    count, low, high = 0, 0, width
    for index in range(start, stop):
        if mode == EVALUATE_CHANGED:
            low, high = find_changed_vectors(changed[index * n : (index + 1) * n], factors[2])
        if once:
            high = new[index, 1]
        if high > low:
            here = representatives[index * n : (index + 1) * n] if once else representatives[:0]
            fill_block_row(index, problem, coarse, space, rows, owns, columns)
            coarse_row(index, problem, coarse, space, totals, rows, owns, columns, here, new[index], sums)
        if once and high > 0:
            here = representatives[index * n : (index + 1) * n]
            count = append_new_blocks(here, new[index], index * n, nz, rows, factors, owns, columns, count, batch)
        # evaluate the batch, when it is full or the work ends; or, row by row, the columns as they are
        for r in range(4):
            ready = count if r == 0 and (count >= CHUNK or index == stop - 1) else 0
            ready = ready if once else (high if high > low and rows[r] >= 0 else 0)
            own, axes = (batch[1], batch[2]) if once else (owns[r], columns[r])
            for k in range(low, ready, WIDTH):
                if any_positive(load(own, (0, k))):
                    evaluate_columns(own, axes, k, factors, nets[0], nets[1], x, hidden, value)
                else:
                    value[:, k : k + WIDTH] = 0
            if ready and once:
                for k in range(count):
                    put_cell(batch[0][k], k, value, results)
                count = 0
            elif ready:
                put_row(rows[r] * nz, low, min(ready, nz), factors, value, results)
