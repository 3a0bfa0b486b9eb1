"""First pass over a fine level, row by row: the circuit through every outer link, and what each cell looks like.

`outer_paths` writes conductances and signatures, `block_patterns` condenses the signatures that a block's features
depend on: its cells and those at its faces.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import ordered_row_kernel as row_kernel
from .cpu_jit import strip_kernel
from .setup import HALF, ONE, TINY, ZERO
from .setup_patterns import PRIMES, add_bits, add_hashes, clear, finish


@row_kernel
def path_row(inner, link, inner_o, partner, partner_o, out):
    """Write 1 / (r + 1/link + r') for a row; 0 where there is no link or a partner is blocked."""
    for k in range(out.shape[0]):
        w, i, o = link[k], inner[k], inner_o[k]
        r = HALF / max(i, TINY) if i > 0 else ZERO
        r_o = HALF / max(o, TINY) if o > 0 else ZERO
        value = HALF * w if i == w and o == w else ONE / (r + ONE / max(w, TINY) + r_o)
        blocked = (i == 0 and partner[k] > 0) or (o == 0 and partner_o[k] > 0)
        out[k] = ZERO if w == 0 or blocked else value


@row_kernel
def padded(row, wide):
    """Copy a row with the two values that follow on either side if it wraps."""
    n = row.shape[0]
    for k in range(n):
        wide[k + 2] = row[k]
    wide[0], wide[1], wide[n + 2], wide[n + 3] = row[n - 2], row[n - 1], row[0], row[1]


@row_kernel
def along_row(w, diag, wide, around):
    """Write inner link, outer link, outer neighbour's inner link, both partners' diagonals along the last axis."""
    n = w.shape[0]
    inner, link, inner_o, partner, partner_o = around
    padded(w, wide)
    for k in range(n):
        inner[k] = wide[k + 1] if k & 1 else wide[k + 2]
    for k in range(n):
        link[k] = wide[k + 2] if k & 1 else wide[k + 1]
    for k in range(n):
        inner_o[k] = wide[k + 3] if k & 1 else wide[k]
    padded(diag, wide)
    for k in range(n):
        partner[k] = wide[k + 1] if k & 1 else wide[k + 3]
    for k in range(n):
        partner_o[k] = wide[k + 4] if k & 1 else wide[k]
    if n & 1:  # the last cell is a block of its own
        inner[n - 1] = partner[n - 1] = inner_o[n - 2] = partner_o[n - 2] = inner_o[0] = partner_o[0] = 0


@row_kernel
def across_rows(w, diag, row, p, n, step, nz, zeros):
    """Return the same five rows for an axis across the rows, `step` rows per cell."""
    own = w[row * nz : (row + 1) * nz]
    low = row - step if p > 0 else row + (n - 1) * step
    low_row = w[low * nz : (low + 1) * nz]
    if p & 1:
        inner, link, partner = low_row, own, diag[low * nz : (low + 1) * nz]
        o, po = (row + step, p + 1) if p < n - 1 else (row - (n - 1) * step, 0)
    else:
        inner, link, partner = zeros, low_row, zeros
        if p < n - 1:
            inner, partner = own, diag[(row + step) * nz : (row + step + 1) * nz]
        o, po = (low, p - 1) if p > 0 else (low, n - 1)
    inner_o, partner_o = zeros, zeros
    if po & 1:
        inner_o, partner_o = w[(o - step) * nz : (o - step + 1) * nz], diag[(o - step) * nz : (o - step + 1) * nz]
    elif po < n - 1:
        inner_o, partner_o = w[o * nz : (o + 1) * nz], diag[(o + step) * nz : (o + step + 1) * nz]
    return inner, link, inner_o, partner, partner_o


@row_kernel
def around_row(d, w, diag, row, size, space):
    """Return the five rows of the circuit of axis d around a row; `space` is of `row_space`."""
    zeros, wide, room = space
    ny, nz = size[1], size[2]
    if d == 0:
        return across_rows(w[0], diag, row, row // ny, size[0], ny, nz, zeros)
    if d == 1:
        return across_rows(w[1], diag, row, row % ny, ny, 1, nz, zeros)
    around = (room[0], room[1], room[2], room[3], room[4])
    along_row(w[2, row * nz : (row + 1) * nz], diag[row * nz : (row + 1) * nz], wide, around)
    return around


@row_kernel
def row_space(nz):
    """Arrays that `around_row` works in: zeros, a row with two cells on either side, five rows."""
    return np.zeros(nz, np.float32), np.empty(nz + 4, np.float32), np.empty((5, nz), np.float32)


@row_kernel
def paths_of_row(row, problem, path, signatures):
    """Write paths and signatures of one row."""
    w, _, _, diag, bits, size, factors = problem
    nx, ny, nz = size[0], size[1], size[2]
    w_bits, ground_bits, shift_bits, path_bits = bits
    space, total = row_space(nz), np.empty(nz, np.uint64)
    start, stop = row * nz, (row + 1) * nz
    i, j = row // ny, row % ny
    lows = (row - ny if i > 0 else row + (nx - 1) * ny, row - 1 if j > 0 else row + ny - 1)
    clear(total)
    for d in range(3):
        out = path[d, start:stop]
        if factors[d] == 2:
            inner, link, inner_o, partner, partner_o = around_row(d, w, diag, row, size, space)
            path_row(inner, link, inner_o, partner, partner_o, out)
            for k in range(nz):
                total[k] += PRIMES[d] if partner[k] == 0 else np.uint64(0)
            add_bits(total, path_bits[d, start:stop], PRIMES[3 + d])
        else:
            for k in range(nz):
                out[k] = 0
        add_bits(total, w_bits[d, start:stop], PRIMES[6 + d])
        add_bits(total, ground_bits[d, start:stop], PRIMES[9 + d])
    add_bits(total, shift_bits[start:stop], PRIMES[12])
    add_bits(total, w_bits[0, lows[0] * nz : (lows[0] + 1) * nz], PRIMES[13])
    add_bits(total, w_bits[1, lows[1] * nz : (lows[1] + 1) * nz], PRIMES[14])
    add_bits(total[1:], w_bits[2, start : stop - 1], PRIMES[15])
    total[0] += np.uint64(w_bits[2, stop - 1]) * PRIMES[15]
    finish(total, diag[start:stop], signatures[start:stop])


@strip_kernel
def outer_paths(start, stop, problem, path, signatures):
    """Write the circuits through the outer links of all cells of rows start..stop, and the cells' signatures."""
    for row in range(start, stop):
        paths_of_row(row, problem, path, signatures)


@row_kernel
def place(block, n, factor, periodic):
    """Condense where a block stands along an axis, as far as its features depend on it."""
    start, blocks = block * factor, (n + factor - 1) // factor
    odd = factor == 2 and n & 1
    first, last = start == 0, start + factor >= n
    # wrap or wall on either side; a block of one cell here or next to here
    kind = (1 if first and not periodic else 0) + (2 if last and not periodic else 0)
    kind += (4 if odd and block == blocks - 1 else 0) + (8 if odd and block == blocks - 2 else 0)
    return np.uint64(kind + (16 if odd and periodic and first else 0))


@row_kernel
def patterns_of_row(index, signatures, places, patterns):
    """Write the patterns of one row of blocks."""
    size, factors, coarse, periodic = places
    ny, nz = size[1], size[2]
    fz = factors[2]
    own, side = np.zeros(2 * coarse[2] + 2, np.uint64), np.zeros(2 * coarse[2] + 2, np.uint64)
    block = (index // coarse[1], index % coarse[1])
    first = (block[0] * factors[0], block[1] * factors[1])
    for u in range(-1, factors[0] + 1):
        for v in range(-1, factors[1] + 1):
            inside = (0 <= u < factors[0], 0 <= v < factors[1])
            i, j = first[0] + u, first[1] + v
            if periodic[0]:
                i %= size[0]
            if periodic[1]:
                j %= ny
            if 0 <= i < size[0] and 0 <= j < ny and (inside[0] or inside[1]):
                row = signatures[(i * ny + j) * nz : (i * ny + j + 1) * nz]
                factor = PRIMES[(u + 1) * 4 + v + 1]
                if inside[0] and inside[1]:
                    add_hashes(own[1 : nz + 1], row, factor)
                else:
                    add_hashes(side[1 : nz + 1], row, factor)
    if periodic[2]:
        own[0], own[nz + 1] = own[nz], own[1]
    here = place(block[0], size[0], factors[0], periodic[0]) * PRIMES[20]
    here += place(block[1], ny, factors[1], periodic[1]) * PRIMES[21]
    for k in range(coarse[2]):
        s = k * fz + 1
        h = own[s] * PRIMES[22] + own[s - 1] * PRIMES[23] + own[s + fz] * PRIMES[24] + side[s] * PRIMES[25]
        if fz == 2:
            h += own[s + 1] * PRIMES[26] + side[s + 1] * PRIMES[27]
        h += here + place(k, nz, fz, periodic[2]) * PRIMES[28]
        patterns[index * coarse[2] + k] = h


@strip_kernel
def block_patterns(start, stop, signatures, places, patterns):
    """Write the patterns of rows start..stop of blocks."""
    for index in range(start, stop):
        patterns_of_row(index, signatures, places, patterns)
