"""Set-up of a coarse operator on a GPU (Triton): both classical ones, then the learned blend of the two.

`_sums` reads the fine level once and writes, per coarse cell, links of both rules, ground, shift and seven facts
(children; open paths and sums of squared paths per axis); `_links` and `_grounds` evaluate the perceptrons;
`_diagonal` adds up. Axes are numbers at run time, as in `fine_level`; features and their order those of `network`.
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
    half_resistance,
    has_partner,
    inner_of,
    inverse,
    link_of,
    number,
    output,
    place,
    ratio,
    second_layer,
    shift_of,
    sigmoid,
)

BOUND, CUT = tl.constexpr(3.0), tl.constexpr(0.01)  # as in `network`


@triton.jit
def paths_up(w, g, paths, D, c, p, m, t, f, periodic, n, live, CELLS: tl.constexpr):
    """Return what a fine cell adds to its coarse link: by the uniform rule, by the resistor rule."""
    link, last = link_of(w, g, D, c, n, live, CELLS), p == m - 1
    joined = live & (link > 0) & ((p % 2 == 1) | (last & number(periodic, p)))
    # the lower cell of an interface stores its path, but at the single last cell of an odd ring the upper one does
    at = tl.where(p % 2 == 1, c, above(c, p, m, t))
    series = tl.load(paths + D * n + at, mask=joined & number(f - 1, p), other=0)
    half = 0.5 * has_partner(p, m).to(tl.float32)
    half_up = 0.5 * has_partner(tl.where(last, 0, p + 1), m).to(tl.float32)
    uniform = tl.where(joined, link / (1 + half + half_up), 0.0)
    return tl.where(f == 2, uniform, link), tl.where(f == 2, series, link)


@triton.jit
def ground_up(w, g, D, c, p, m, t, f, n, live, CELLS: tl.constexpr):
    """Return what a fine cell adds to its coarse ground: in series with the half block behind it."""
    value = ground_of(w, g, D, c, n, live, CELLS)
    r = tl.where(f == 2, half_resistance(inner_of(w, g, D, c, p, m, t, n, live, CELLS)), 0.0)
    return tl.where(value > 0, 1 / (1 / tl.where(value > 0, value, 1.0) + r), 0.0)


@triton.jit
def child(ci, cj, ck, u: tl.constexpr, nx, ny, nz, fx, fy, fz, live):
    """Return the three indices of child u of a coarse cell, its flat index, and whether it exists."""
    a: tl.constexpr = u // 4
    b: tl.constexpr = u // 2 % 2
    d: tl.constexpr = u % 2
    i, j, k = fx * ci + a, fy * cj + b, fz * ck + d
    there = live & number(a < fx, i) & number(b < fy, i) & number(d < fz, i) & (i < nx) & (j < ny) & (k < nz)
    return (i * ny + j) * nz + k, there


@triton.jit(
    do_not_specialize=["D", "m", "t", "f", "periodic", "n", "nx", "ny", "nz", "fx", "fy", "fz", "cx", "cy", "cz"]
)
def _sums(
    w, g, h, q, paths, uniform, series, grounds, shifts, facts, D, m, t, f, periodic, n, nx, ny, nz, fx, fy, fz, cx, cy,
    cz, B: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """One axis D; what belongs to none is written each time."""
    o, total = tl.program_id(0) * B + tl.arange(0, B), cx * cy * cz
    live = o < total
    ci, cj, ck = place(o, cy, cz)
    zero = tl.zeros_like(o).to(tl.float32)
    links, path, ground, opened, squares, children, shift = zero, zero, zero, zero, zero, zero, zero
    for u in tl.static_range(8):
        c, there = child(ci, cj, ck, u, nx, ny, nz, fx, fy, fz, live)
        p = c // t % m
        straight, circuit = paths_up(w, g, paths, D, c, p, m, t, f, periodic, n, there, CELLS)
        links += tl.where(there, straight, 0.0)
        circuit = tl.where(there, circuit, 0.0)
        path += circuit
        opened += (circuit > 0).to(tl.float32)
        squares += circuit * circuit
        ground += tl.where(there, ground_up(w, g, D, c, p, m, t, f, n, there, CELLS), 0.0)
        children += (there & (diag_of(w, g, q, c, there, CELLS) > 0)).to(tl.float32)
        shift += shift_of(h, c, there, CELLS)
    couples = m > f  # a periodic axis of one block couples to itself: no link
    tl.store(uniform + D * total + o, tl.where(couples, links, 0.0), mask=live)
    tl.store(series + D * total + o, tl.where(couples, path, 0.0), mask=live)
    tl.store(grounds + D * total + o, ground, mask=live)
    tl.store(facts + (1 + D) * total + o, opened, mask=live)
    tl.store(facts + (4 + D) * total + o, squares, mask=live)
    tl.store(facts + o, children / (fx * fy * fz), mask=live)
    tl.store(shifts + o, shift, mask=live)


@triton.jit(do_not_specialize=["n", "nx", "ny", "nz"])
def _diagonal(w, g, h, diag, n, nx, ny, nz, B: tl.constexpr):
    """Write diag = links on both sides + ground + shift."""
    c = tl.program_id(0) * B + tl.arange(0, B)
    live = c < n
    i, j, k = place(c, ny, nz)
    x, y, z = below(c, i, nx, ny * nz), below(c, j, ny, nz), below(c, k, nz, 1)
    links = tl.load(w + c, mask=live, other=0) + tl.load(w + x, mask=live, other=0)
    links += tl.load(w + n + c, mask=live, other=0) + tl.load(w + n + y, mask=live, other=0)
    links += tl.load(w + 2 * n + c, mask=live, other=0) + tl.load(w + 2 * n + z, mask=live, other=0)
    ground = tl.load(g + c, mask=live, other=0) + tl.load(g + n + c, mask=live, other=0)
    ground += tl.load(g + 2 * n + c, mask=live, other=0)
    tl.store(diag + c, links + ground + tl.load(h + c, mask=live, other=0), mask=live)


# --- the learned blend ------------------------------------------------------------------------------------------------


@triton.jit
def pair_of(w, D, c, p, m, t, n, live):
    """Return the sum of the links on both sides."""
    return tl.load(w + D * n + c, mask=live, other=0) + tl.load(w + D * n + below(c, p, m, t), mask=live, other=0)


@triton.jit
def transverse(w, D, c, me, te, mf, tf, n, live):
    """Return the sum of the links of a cell across axis D; e and f are the other axes."""
    e, f = (D + 1) % 3, (D + 2) % 3
    return pair_of(w, e, c, c // te % me, me, te, n, live) + pair_of(w, f, c, c // tf % mf, mf, tf, n, live)


@triton.jit
def ground_share(g, q, c, n, live):
    """Return ground as a fraction of the diagonal, and the inverse diagonal."""
    inv = inverse(tl.load(q + c, mask=live, other=0))
    ground = tl.load(g + c, mask=live, other=0) + tl.load(g + n + c, mask=live, other=0)
    return (ground + tl.load(g + 2 * n + c, mask=live, other=0)) * inv, inv


@triton.jit(do_not_specialize=["D", "f", "periodic", "m", "t", "me", "te", "mf", "tf", "n"])
def _links(
    uniform, series, g, h, q, facts, net, result, D, f, periodic, m, t, me, te, mf, tf, n,
    B: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    """Write the learned link of every coarse cell and its upper neighbour along axis D."""
    c = tl.program_id(0) * B + tl.arange(0, B)
    live = c < n
    p = c // t % m
    up, lo = above(c, p, m, t), below(c, p, m, t)
    exists, before = live & (number(periodic, p) | (p < m - 1)), live & (number(periodic, p) | (p > 0))
    r = tl.load(series + D * n + c, mask=live, other=0)
    u = tl.load(uniform + D * n + c, mask=live, other=0)
    u_lo = tl.load(uniform + D * n + lo, mask=before, other=0)
    u_hi = tl.load(uniform + D * n + up, mask=exists, other=0)
    d0, d1 = tl.load(q + c, mask=live, other=0), tl.load(q + up, mask=exists, other=0)
    g0, inv0 = ground_share(g, q, c, n, live)
    g1, inv1 = ground_share(g, q, up, n, exists)
    t0, t1 = transverse(series, D, c, me, te, mf, tf, n, live), transverse(series, D, up, me, te, mf, tf, n, exists)
    c0, c1 = tl.load(facts + c, mask=live, other=0), tl.load(facts + up, mask=exists, other=0)
    shift = tl.load(h + c, mask=live, other=0) * inv0 + tl.load(h + up, mask=exists, other=0) * inv1
    count = tl.where(f == 2, 4.0, 8.0)
    squares = tl.maximum(tl.load(facts + (4 + D) * n + c, mask=live, other=0) * count, 1e-37)
    low, high = tl.minimum(d0, d1), tl.maximum(d0, d1)
    rows = first_layer(net, 16, H, B)
    rows = feed(rows, net, 0, ratio(r, u), H)
    rows = feed(rows, net, 1, tl.load(facts + (1 + D) * n + c, mask=live, other=0) / count, H)
    rows = feed(rows, net, 2, tl.minimum(r * r / squares, 1.0), H)
    rows = feed(rows, net, 3, ratio(r, low), H)
    rows = feed(rows, net, 4, ratio(r, high), H)
    rows = feed(rows, net, 5, ratio(u, u_lo) * ratio(u, u_hi), H)
    rows = feed(rows, net, 6, ratio(u, u_lo) + ratio(u, u_hi), H)
    rows = feed(rows, net, 7, ratio(r, tl.minimum(t0, t1)), H)
    rows = feed(rows, net, 8, ratio(r, tl.maximum(t0, t1)), H)
    rows = feed(rows, net, 9, tl.minimum(g0, g1), H)
    rows = feed(rows, net, 10, tl.maximum(g0, g1), H)
    rows = feed(rows, net, 11, shift, H)
    rows = feed(rows, net, 12, tl.minimum(c0, c1), H)
    rows = feed(rows, net, 13, tl.maximum(c0, c1), H)
    rows = feed(rows, net, 14, ratio(low, high), H)
    rows = feed(rows, net, 15, tl.zeros_like(r) + tl.where(f == 2, 1.0, 0.0), H)
    hidden = second_layer(rows, net, 16, H)
    share = sigmoid(output(hidden, net, 0, 16, H, 2))
    factor = tl.exp(tl.minimum(tl.maximum(output(hidden, net, 1, 16, H, 2), -BOUND), BOUND))
    value = (share * u + (1 - share) * r) * factor
    tl.store(result + D * n + c, tl.where((r == 0) & (value < CUT * u), 0.0, value), mask=live)


@triton.jit(do_not_specialize=["n", "nx", "ny", "nz"])
def _grounds(series, g, h, q, facts, net, g_new, h_new, n, nx, ny, nz, B: tl.constexpr, H: tl.constexpr):
    """Write the learned ground and shift of every coarse cell."""
    c = tl.program_id(0) * B + tl.arange(0, B)
    live = c < n
    i, j, k = place(c, ny, nz)
    inv = inverse(tl.load(q + c, mask=live, other=0))
    gx, gy = tl.load(g + c, mask=live, other=0), tl.load(g + n + c, mask=live, other=0)
    gz = tl.load(g + 2 * n + c, mask=live, other=0)
    px, py = pair_of(series, 0, c, i, nx, ny * nz, n, live), pair_of(series, 1, c, j, ny, nz, n, live)
    pz = pair_of(series, 2, c, k, nz, 1, n, live)
    ground, pairs = gx + gy + gz, px + py + pz
    ax, ay, az, fx, fy, fz = gx * inv, gy * inv, gz * inv, px * inv, py * inv, pz * inv
    rows = first_layer(net, 9, H, B)
    rows = feed(rows, net, 0, ground * inv, H)
    shift = tl.load(h + c, mask=live, other=0)
    rows = feed(rows, net, 1, shift * inv, H)
    rows = feed(rows, net, 2, tl.maximum(tl.maximum(ax, ay), az), H)
    rows = feed(rows, net, 3, ax * ax + ay * ay + az * az, H)
    rows = feed(rows, net, 4, tl.maximum(tl.maximum(fx, fy), fz), H)
    rows = feed(rows, net, 5, fx * fx + fy * fy + fz * fz, H)
    rows = feed(rows, net, 6, fx * ax + fy * ay + fz * az, H)
    rows = feed(rows, net, 7, tl.load(facts + c, mask=live, other=0), H)
    rows = feed(rows, net, 8, ratio(ground, pairs), H)
    y = output(second_layer(rows, net, 9, H), net, 0, 9, H, 1)
    e = tl.exp(tl.minimum(tl.maximum(y, -BOUND), BOUND))
    tl.store(g_new + c, e * gx, mask=live)
    tl.store(g_new + n + c, e * gy, mask=live)
    tl.store(g_new + 2 * n + c, e * gz, mask=live)
    tl.store(h_new + c, e * shift, mask=live)
