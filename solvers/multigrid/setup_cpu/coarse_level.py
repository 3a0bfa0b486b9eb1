"""Set-up of a coarse operator: the learned blend of the two classical ones, evaluated once per pattern."""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel, strip_kernel
from ...kernels.cpu.lanes import WIDTH, any_positive, larger, load, smaller, splat, store, store_all, where_positive
from ...kernels.cpu.neighbours import above, below
from .deduplicate import EVALUATE_CHANGED, EVALUATE_UNIQUE, NO_UNKNOWN, UNCHANGED, find_changed_vectors
from .perceptron import (
    CHUNK,
    ONE,
    TINY,
    ZERO,
    exponential,
    fourth_root,
    hidden_units,
    network_space,
    output_unit,
    ratio,
)

LEAST, BOUND, CUT = np.float32(-3), np.float32(3), np.float32(0.01)  # as in `network`
# rows of what is gathered per axis, of the face above a cell: both coarse links, what their neighbours are, both cells'
# diagonals, links across, ground and shift as fractions of the diagonal, children; open paths, squares
(
    LINK,
    UNIFORM,
    LOWER,
    UPPER,
    DIAG,
    DIAG_O,
    ACROSS,
    ACROSS_O,
    GROUND_SHARE,
    GROUND_SHARE_O,
    SHIFTS,
    CHILDREN,
    CHILDREN_O,
    OPEN,
    SQUARES,
) = range(15)


@strip_kernel
def sum_link_pairs(start, stop, ranges, path, ground, shift, diag, size, pairs, fractions):
    """Write the sum of both links of a coarse cell per axis, and ground and shift as fractions of its diagonal."""
    ny, nz = size[1], size[2]
    for row in range(start, stop):
        begin, end = ranges[row, 0], ranges[row, 1]
        first = row * nz
        lows = (
            below(first, row // ny, size[0], ny * nz),
            below(first, row % ny, ny, nz),
        )
        for k in range(begin, end):
            c = first + k
            inv = ONE / diag[c] if diag[c] > 0 else ZERO
            fractions[0, c], fractions[1, c] = (ground[0, c] + ground[1, c] + ground[2, c]) * inv, shift[c] * inv
        for d in range(2):
            for k in range(begin, end):
                pairs[d, first + k] = path[d, first + k] + path[d, lows[d] + k]
        for k in range(max(begin, 1), end):
            pairs[2, first + k] = path[2, first + k] + path[2, first + k - 1]
        if begin == 0 and end > 0:
            pairs[2, first] = path[2, first] + path[2, first + nz - 1]


@row_kernel
def fill_axis(d, first, low, high, keep_low, keep_high, problem, own, g):
    """Fill the columns of one axis: of cells from `first` on, whose neighbours begin at `low` and `high`."""
    uniform, path, _, _, diag, facts, pairs, fractions = problem
    e, f = (d + 1) % 3, (d + 2) % 3
    for k in range(0, g.shape[1], WIDTH):
        c, o = first + k, high + k
        store(g, (LINK, k), load(path, (d, c)))
        store(g, (UNIFORM, k), load(uniform, (d, c)))
        store(g, (LOWER, k), load(uniform, (d, low + k)) * keep_low)
        store(g, (UPPER, k), load(uniform, (d, o)) * keep_high)
        store(g, (DIAG, k), load(diag, c))
        store(g, (DIAG_O, k), load(diag, o) * keep_high)
        store(g, (ACROSS, k), load(pairs, (e, c)) + load(pairs, (f, c)))
        store(g, (ACROSS_O, k), (load(pairs, (e, o)) + load(pairs, (f, o))) * keep_high)
        store(g, (GROUND_SHARE, k), load(fractions, (0, c)))
        store(g, (GROUND_SHARE_O, k), load(fractions, (0, o)) * keep_high)
        store(g, (SHIFTS, k), load(fractions, (1, c)) + load(fractions, (1, o)) * keep_high)
        store(g, (CHILDREN, k), load(facts, (0, c)))
        store(g, (CHILDREN_O, k), load(facts, (0, o)) * keep_high)
        store(g, (OPEN, k), load(facts, (1 + d, c)))
        store(g, (SQUARES, k), load(facts, (4 + d, c)))


@inlined_kernel
def fill_ends(first, nz, keep, problem, g):
    """Correct the ends of the axis along the row, which wrap or have no neighbour."""
    uniform, _, _, _, diag, facts, pairs, fractions = problem
    last = first + nz - 1
    g[LOWER, 0] = uniform[2, last] * keep
    k = nz - 1
    g[UPPER, k], g[DIAG_O, k] = uniform[2, first] * keep, diag[first] * keep
    g[ACROSS_O, k], g[GROUND_SHARE_O, k] = (pairs[0, first] + pairs[1, first]) * keep, fractions[0, first] * keep
    g[SHIFTS, k], g[CHILDREN_O, k] = fractions[1, last] + fractions[1, first] * keep, facts[0, first] * keep


@inlined_kernel
def fill_row(row, problem, size, periodic, own, axes):
    """Fill the columns of a row of coarse cells."""
    _, _, ground, shift, diag, facts, pairs, _ = problem
    ny, nz = size[1], size[2]
    first = row * nz
    for k in range(0, own.shape[1], WIDTH):
        store(own, (0, k), load(diag, first + k))
        store(own, (1, k), load(shift, first + k))
        store(own, (2, k), load(facts, (0, first + k)))
        for d in range(3):
            store(own, (3 + d, k), load(pairs, (d, first + k)))
            store(own, (6 + d, k), load(ground, (d, first + k)))
    position, step = (row // ny, row % ny), (ny * nz, nz)
    for d in range(2):
        p, n, t = position[d], size[d], step[d]
        keep_low, keep_high = (ONE if periodic[d] or p > 0 else ZERO), (ONE if periodic[d] or p < n - 1 else ZERO)
        fill_axis(d, first, below(first, p, n, t), above(first, p, n, t), keep_low, keep_high, problem, own, axes[d])
    fill_axis(2, first, first - 1, first + 1, ONE, ONE, problem, own, axes[2])
    fill_ends(first, nz, ONE if periodic[2] else ZERO, problem, axes[2])


@inlined_kernel
def link_features(g, k, factor, x):
    """Write the sixteen features of `network.link_features`, ground and shift last; return how many."""
    count = np.float32(4) if factor == 2 else np.float32(8)
    link, uniform, children, children_o = (
        load(g, (LINK, k)),
        load(g, (UNIFORM, k)),
        load(g, (CHILDREN, k)),
        load(g, (CHILDREN_O, k)),
    )
    rl, ru = fourth_root(link), fourth_root(uniform)
    diag, diag_o = fourth_root(load(g, (DIAG, k))), fourth_root(load(g, (DIAG_O, k)))
    across, across_o = fourth_root(load(g, (ACROSS, k))), fourth_root(load(g, (ACROSS_O, k)))
    low, high = smaller(diag, diag_o), larger(diag, diag_o)
    lower, upper = ratio(ru, fourth_root(load(g, (LOWER, k)))), ratio(ru, fourth_root(load(g, (UPPER, k))))
    ground_share, ground_share_o, shifts = (
        load(g, (GROUND_SHARE, k)),
        load(g, (GROUND_SHARE_O, k)),
        load(g, (SHIFTS, k)),
    )
    features = (
        ratio(rl, ru), load(g, (OPEN, k)) / count,
        smaller(link * link / larger(load(g, (SQUARES, k)) * count, TINY), ONE), ratio(rl, low), ratio(rl, high),
        lower * upper, lower + upper, ratio(rl, smaller(across, across_o)), ratio(rl, larger(across, across_o)),
        smaller(children, children_o), larger(children, children_o), ratio(low, high), splat(np.float32(factor - 1)),
        smaller(ground_share, ground_share_o), larger(ground_share, ground_share_o), shifts,
    )  # fmt: skip
    store_all(x, (0, 0), features)
    return 16 if any_positive(ground_share + ground_share_o + shifts) else 13


@inlined_kernel
def ground_features(own, k, x):
    """Write the nine features of `network.ground_features`; tell whether there is ground or shift."""
    diag, shift = load(own, (0, k)), load(own, (1, k))
    inv = where_positive(diag, ONE / larger(diag, TINY), ZERO)
    ground_sum, links, most_ground, most_link = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
    grounds, squares, products = splat(ZERO), splat(ZERO), splat(ZERO)
    for d in range(3):
        link, ground = load(own, (3 + d, k)), load(own, (6 + d, k))
        f, g = link * inv, ground * inv
        ground_sum, links = ground_sum + ground, links + link
        most_ground, most_link = larger(most_ground, g), larger(most_link, f)
        grounds, squares, products = grounds + g * g, squares + f * f, products + f * g
    features = (
        ground_sum * inv, shift * inv, most_ground, grounds, most_link, squares, products, load(own, (2, k)),
        ratio(fourth_root(ground_sum), fourth_root(links)),
    )  # fmt: skip
    store_all(x, (0, 0), features)
    return any_positive(ground_sum + shift)


@row_kernel
def bounded_exponential(y):
    """Return e^y, |y| at most BOUND."""
    return exponential(smaller(larger(y, LEAST), BOUND))


@inlined_kernel
def blended_link(link, uniform, gate, correction):
    """Return (g uniform + (1-g) series) e^y₁ with g = σ(y₀); a blocked face stays closed if it is hardly opened."""
    g = ONE / (ONE + exponential(ZERO - gate))
    out = (g * uniform + (ONE - g) * link) * bounded_exponential(correction)
    return where_positive(link + larger(out - CUT * uniform, ZERO), out, ZERO)


@row_kernel
def evaluate_columns(own, axes, k, factors, nets, x, hidden, value):
    """Write the learned links (0, 1, 2), and by what ground and shift are multiplied (3), of one vector of columns."""
    link_net, ground_net = nets
    factor = splat(ONE)
    if ground_features(own, k, x):
        hidden_units(x, 9, ground_net, hidden)
        factor = bounded_exponential(output_unit(0, ground_net, hidden))
    store(value, (3, k), factor)
    for d in range(3):
        g = axes[d]
        hidden_units(x, link_features(g, k, factors[d], x), link_net, hidden)
        gate, correction = output_unit(0, link_net, hidden), output_unit(1, link_net, hidden)
        store(value, (d, k), blended_link(load(g, (LINK, k)), load(g, (UNIFORM, k)), gate, correction))


@inlined_kernel
def write_cell(c, m, ground, shift, value, results):
    """Write the results of cell c from column m."""
    w, g_out, s_out = results
    for d in range(3):
        w[d, c], g_out[d, c] = value[d, m], ground[d, c] * value[3, m]
    s_out[c] = shift[c] * value[3, m]


@inlined_kernel
def append_new_cells(first, span, own, axes, representatives, count, batch):
    """Append the new cells of a row to a batch."""
    cells, own_batch, axes_batch = batch
    for k in range(span[0], span[1]):
        if representatives[k] == first + k:
            cells[count] = first + k
            for f in range(9):
                own_batch[f, count] = own[f, k]
            for d in range(3):
                for f in range(15):
                    axes_batch[d, f, count] = axes[d, f, k]
            count += 1
    return count


@strip_kernel
def copy_links(start, stop, ranges, n, representatives, results):
    """Copy results in rows start..stop to those cells that look like an earlier one."""
    w, g_out, s_out = results
    for row in range(start, stop):
        for c in range(row * n + ranges[row, 0], row * n + ranges[row, 1]):
            s = representatives[c]
            if s == NO_UNKNOWN:
                for d in range(3):
                    w[d, c] = g_out[d, c] = 0
                s_out[c] = 0
            elif s != UNCHANGED and s != c:
                for d in range(3):
                    w[d, c], g_out[d, c] = w[d, s], g_out[d, s]
                s_out[c] = s_out[s]


@strip_kernel
def coarse_level(start, stop, problem, grid, mode, changed, new, representatives, factors, nets, results):
    """Write the learned links, ground and shift of rows start..stop of the coarse level.

    grid : size, periodic;  mode, changed : which cells to visit, see `deduplicate`
    new, representatives : of cells to be evaluated once per hash;  results : as the last set-up left them, or zeros
    """
    size, periodic = grid
    nz, once = size[2], mode == EVALUATE_UNIQUE
    width = (nz + WIDTH - 1) // WIDTH * WIDTH
    own, axes = np.ones((9, width), np.float32), np.ones((3, 15, width), np.float32)
    room = width + CHUNK
    batch = np.zeros(room, np.int64), np.ones((9, room), np.float32), np.ones((3, 15, room), np.float32)
    x, hidden, value = network_space(nets[0][1].shape[0], room)
    count, low, high = 0, 0, nz
    _, _, ground, shift, _, _, _, _ = problem
    for row in range(start, stop):
        if mode == EVALUATE_CHANGED:
            low, high = find_changed_vectors(changed[row * nz : (row + 1) * nz], 1)
            high = min(high, nz)
        if new[row, 1] > 0 if once else high > low:
            fill_row(row, problem, size, periodic, own, axes)
            if once:
                count = append_new_cells(
                    row * nz, new[row], own, axes, representatives[row * nz : (row + 1) * nz], count, batch
                )
        ready = (count if count >= CHUNK or row == stop - 1 else 0) if once else high
        columns = (batch[1], batch[2]) if once else (own, axes)
        for k in range(low, ready, WIDTH):
            evaluate_columns(columns[0], columns[1], k, factors, nets, x, hidden, value)
        for k in range(low, ready):
            write_cell(batch[0][k] if once else row * nz + k, k, ground, shift, value, results)
        count = 0 if ready else count
