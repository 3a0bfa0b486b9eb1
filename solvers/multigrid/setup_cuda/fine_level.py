"""Set-up of one fine level on a GPU (Triton): the circuits, then damping and transfer weights by the network.

`_paths` writes the conductance of the circuit through the outer link of every cell along an axis; `_damping` and
`_weights` evaluate the perceptrons, for a list of cells or for all. Features and their order are those of
`network`. Axes are numbers at run time (an axis has m cells, stride t, factor f), so that one compilation serves
all; a kernel handles one perceptron, since two would not fit into the registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .perceptron import (
    above,
    below,
    diag_of,
    feed,
    first_layer,
    ground_of,
    grounds_of,
    half_resistance,
    has_partner,
    inner_of,
    inverse,
    link_of,
    number,
    outer_cell,
    output,
    partner_diag,
    ratio,
    second_layer,
    shift_of,
    sigmoid,
)


@triton.jit
def outer_link_of(w, g, D, c, p, m, t, n, live, CELLS: tl.constexpr):
    """Return the link to the outer neighbour."""
    return link_of(w, g, D, tl.where(p % 2 == 0, below(c, p, m, t), c), n, live, CELLS)


@triton.jit(do_not_specialize=["D", "m", "t", "n"])
def _paths(w, g, q, paths, D, m, t, n, B: tl.constexpr, CELLS: tl.constexpr):
    c = tl.program_id(0) * B + tl.arange(0, B)
    live = c < n
    p = c // t % m
    o, po = outer_cell(c, p, m, t)
    link = outer_link_of(w, g, D, c, p, m, t, n, live, CELLS)
    near, far = inner_of(w, g, D, c, p, m, t, n, live, CELLS), inner_of(w, g, D, o, po, m, t, n, live, CELLS)
    # no current through a partner that no link reaches
    cut = (near == 0) & (partner_diag(w, g, q, c, p, m, t, live, CELLS) > 0)
    cut |= (far == 0) & (partner_diag(w, g, q, o, po, m, t, live, CELLS) > 0)
    resistance = half_resistance(near) + 1 / tl.where(link > 0, link, 1) + half_resistance(far)
    tl.store(paths + c, tl.where((link > 0) & ~cut, 1 / resistance, 0.0), mask=live)


@triton.jit
def axis_shares(w, g, D, c, p, m, t, f, n, inv, live, CELLS: tl.constexpr):
    """Return inner and outer link along an axis as fractions of the diagonal; 0 where it is not coarsened."""
    w_lo, w_hi = link_of(w, g, D, below(c, p, m, t), n, live, CELLS), link_of(w, g, D, c, n, live, CELLS)
    even, inv = p % 2 == 0, tl.where(f == 2, inv, 0.0)
    return inv * tl.where(even, w_hi, w_lo) * has_partner(p, m).to(tl.float32), inv * tl.where(even, w_lo, w_hi)


@triton.jit
def row_sums(w, g, q, D, c, p, m, t, n, inv, live, CELLS: tl.constexpr):
    """Return along an axis the sums of w/diag₊ and of w²/(diag diag₊)."""
    lo, hi = below(c, p, m, t), above(c, p, m, t)
    w_lo, w_hi = link_of(w, g, D, lo, n, live, CELLS), link_of(w, g, D, c, n, live, CELLS)
    v_lo, v_hi = w_lo * inverse(diag_of(w, g, q, lo, live, CELLS)), w_hi * inverse(diag_of(w, g, q, hi, live, CELLS))
    return v_lo + v_hi, inv * (w_lo * v_lo + w_hi * v_hi)


@triton.jit
def cell_of(cells, count, B: tl.constexpr, LISTED: tl.constexpr):
    """Return lane, cell, and whether there is one."""
    lane = tl.program_id(0) * B + tl.arange(0, B)
    live = lane < count
    if LISTED:
        return lane, tl.load(cells + lane, mask=live, other=0), live
    else:
        return lane, lane, live


@triton.jit(do_not_specialize=["count", "n", "nx", "ny", "nz", "fx", "fy", "fz"])
def _damping(
    w, g, h, q, net, cells, result, count, n, nx, ny, nz, fx, fy, fz,
    B: tl.constexpr, H: tl.constexpr, CELLS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    lane, c, live = cell_of(cells, count, B, LISTED)
    i, j, k, tx = c // (ny * nz), c // nz % ny, c % nz, ny * nz
    d = diag_of(w, g, q, c, live, CELLS)
    inv = inverse(d)
    ix, ox = axis_shares(w, g, 0, c, i, nx, tx, fx, n, inv, live, CELLS)
    iy, oy = axis_shares(w, g, 1, c, j, ny, nz, fy, n, inv, live, CELLS)
    iz, oz = axis_shares(w, g, 2, c, k, nz, 1, fz, n, inv, live, CELLS)
    vx, sx = row_sums(w, g, q, 0, c, i, nx, tx, n, inv, live, CELLS)
    vy, sy = row_sums(w, g, q, 1, c, j, ny, nz, n, inv, live, CELLS)
    vz, sz = row_sums(w, g, q, 2, c, k, nz, 1, n, inv, live, CELLS)
    rows = first_layer(net, 9, H, B)
    rows = feed(rows, net, 0, grounds_of(w, g, c, n, live, CELLS) * inv, H)
    rows = feed(rows, net, 1, shift_of(h, c, live, CELLS) * inv, H)
    rows = feed(rows, net, 2, ix + iy + iz, H)
    rows = feed(rows, net, 3, ox + oy + oz, H)
    rows = feed(rows, net, 4, tl.maximum(tl.maximum(ix, iy), iz), H)
    rows = feed(rows, net, 5, tl.maximum(tl.maximum(ox, oy), oz), H)
    rows = feed(rows, net, 6, ix * ix + ox * ox + (iy * iy + oy * oy) + (iz * iz + oz * oz), H)
    rows = feed(rows, net, 7, tl.minimum(vx + vy + vz, 6.0) / 6, H)
    rows = feed(rows, net, 8, sx + sy + sz, H)
    y = output(second_layer(rows, net, 9, H), net, 0, 9, H, 1)
    s = tl.maximum(tl.floor(255 * sigmoid(y + 3) + 0.5), 1.0)
    tl.store(result + lane, tl.where(d > 0, s, 0.0).to(tl.uint8), mask=live)


@triton.jit
def mean_path(paths, c, te, me, fe, tf, mf, ff, live):
    """Return the mean of the paths through the parallel cells of the coarse face; e and f are the other axes."""
    pe, pf = c // te % me, c // tf % mf
    total = tl.zeros_like(c).to(tl.float32)
    for u in tl.static_range(2):
        for v in tl.static_range(2):
            e, f = pe // fe * fe + u, pf // ff * ff + v
            there = live & number(u < fe, c) & number(v < ff, c) & (e < me) & (f < mf)
            total += tl.load(paths + c + (e - pe) * te + (f - pf) * tf, mask=there, other=0)
    return total / (fe * ff)


@triton.jit(do_not_specialize=["D", "periodic", "m", "t", "me", "te", "fe", "mf", "tf", "ff", "count", "n"])
def _weights(
    w, g, h, q, paths, net, cells, result, count, n, D, periodic, m, t, me, te, fe, mf, tf, ff,
    B: tl.constexpr, H: tl.constexpr, CELLS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Axis D; e = (D + 1) % 3 and f = (D + 2) % 3 are the other ones."""
    lane, c, live = cell_of(cells, count, B, LISTED)
    p = c // t % m
    o, po = outer_cell(c, p, m, t)
    exists = live & (number(periodic, p) | tl.where(p % 2 == 0, p > 0, p < m - 1))
    d, d_far = diag_of(w, g, q, c, live, CELLS), diag_of(w, g, q, o, exists, CELLS)
    d_far = tl.where(exists, d_far, 0.0)
    inv = inverse(d)
    link = outer_link_of(w, g, D, c, p, m, t, n, live, CELLS)
    near = inner_of(w, g, D, c, p, m, t, n, live, CELLS)
    far = tl.where(exists, inner_of(w, g, D, o, po, m, t, n, exists, CELLS), 0.0)
    partner = partner_diag(w, g, q, c, p, m, t, live, CELLS)
    partner_far = partner_diag(w, g, q, o, po, m, t, exists, CELLS)
    r, r_far = half_resistance(near), half_resistance(far)
    resistor = tl.where((link > 0) & (r > 0), r / (r + 1 / tl.where(link > 0, link, 1) + r_far), 0.0)
    path = tl.load(paths + c, mask=live, other=0)
    inner_e, outer_e = axis_shares(w, g, (D + 1) % 3, c, c // te % me, me, te, fe, n, inv, live, CELLS)
    inner_f, outer_f = axis_shares(w, g, (D + 2) % 3, c, c // tf % mf, mf, tf, ff, n, inv, live, CELLS)
    rows = first_layer(net, 16, H, B)
    rows = feed(rows, net, 0, ratio(near, link), H)
    rows = feed(rows, net, 1, ratio(link, far), H)
    rows = feed(rows, net, 2, ratio(near, far), H)
    rows = feed(rows, net, 3, ratio(path, mean_path(paths, c, te, me, fe, tf, mf, ff, live)), H)
    rows = feed(rows, net, 4, ratio(d, d_far), H)
    rows = feed(rows, net, 5, near * inv, H)
    rows = feed(rows, net, 6, link * inv, H)
    rows = feed(rows, net, 7, ground_of(w, g, D, c, n, live, CELLS) * inv, H)
    rows = feed(rows, net, 8, grounds_of(w, g, c, n, live, CELLS) * inv, H)
    rows = feed(rows, net, 9, shift_of(h, c, live, CELLS) * inv, H)
    rows = feed(rows, net, 10, inner_e + inner_f, H)
    rows = feed(rows, net, 11, outer_e + outer_f, H)
    rows = feed(rows, net, 12, ((d > 0) & (partner == 0)).to(tl.float32), H)
    rows = feed(rows, net, 13, ((d_far > 0) & (partner_far == 0)).to(tl.float32), H)
    rows = feed(rows, net, 14, ((d > 0) & (partner > 0) & (near == 0)).to(tl.float32), H)
    rows = feed(rows, net, 15, resistor, H)
    hidden = second_layer(rows, net, 16, H)
    half = 0.5 * has_partner(p, m).to(tl.float32)
    half_far = tl.where(exists, 0.5 * has_partner(po, m).to(tl.float32), 0.0)
    geometric = tl.where(link > 0, half / (1 + half + half_far), 0.0)
    share = sigmoid(output(hidden, net, 0, 16, H, 2))
    mix = tl.minimum(tl.maximum(share * geometric + (1 - share) * resistor, 1e-4), 1 - 1e-3)
    value = sigmoid(tl.log(mix / (1 - mix)) + output(hidden, net, 1, 16, H, 2))
    tl.store(result + lane, tl.where(link > 0, tl.floor(255 * value + 0.5), 0.0).to(tl.uint8), mask=live)
