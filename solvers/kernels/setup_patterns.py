"""Which cells see the same surroundings: everything that the network reads, hashed, so that it is evaluated once.

The *mark* of a cell condenses its row of the matrix (links on six sides, ground, shift, diagonal) and which of its
neighbours hold an unknown. The *key* of a block condenses the marks of its cells and of the cells around it, and
whether it lies at an end of an axis: more than what the network and the classical coarsenings read there. The key of a
coarse cell condenses those of the blocks that its learned operator depends on. Equal keys mean equal results: of
another block, or of the same block in the set-up before.

Different surroundings have different keys but for a chance of about 10⁻⁸ among a million. A mistake would cost
convergence, never correctness: the cycle is symmetric and definite whatever weights it has.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import inlined_kernel, strip_kernel
from .cpu_jit import ordered_row_kernel as row_kernel
from .lanes import WIDTH
from .setup import above, below

SLOTS = 32768  # of a table; each task has one of its own
# odd multipliers, fixed for all time
PRIMES = (np.random.default_rng(2026).integers(1 << 62, size=40, dtype=np.uint64) * np.uint64(2)) | np.uint64(1)
KEPT, EMPTY = -2, -1
EVERYTHING, ONCE, CHANGED = range(3)  # evaluate everywhere, once per key that changed, everywhere where a key changed
FINAL = np.uint64(0xD6E8FEB86659FD93)
S29, S32 = np.uint64(29), np.uint64(32)


@row_kernel
def clear(total):
    """Set a row of hashes to zero."""
    for k in range(total.shape[0]):
        total[k] = 0


@row_kernel
def add_bits(total, bits, factor):
    """Add a row of 32-bit patterns times an odd factor to a row of hashes."""
    for k in range(total.shape[0]):
        total[k] += np.uint64(bits[k]) * factor


@row_kernel
def add_hashes(total, hashes, factor):
    """Add a row of hashes times an odd factor."""
    for k in range(total.shape[0]):
        total[k] += hashes[k] * factor


@row_kernel
def finish(total, diag, out):
    """Mix the bits of a row of hashes; 0 where there is no unknown."""
    for k in range(total.shape[0]):
        h = total[k]
        h = (h ^ (h >> S32)) * FINAL
        out[k] = (h ^ (h >> S29)) if diag[k] > 0 else np.uint64(0)


@row_kernel
def representative(key, index, keys, values):
    """Return an index that came with this key not long ago: `index` itself if there is none; no key is 0.

    The table has four places for a key and forgets what stood in the first of them.
    """
    mask = np.uint64(keys.shape[0] - 1)
    slot = (key >> S32) & mask
    for probe in range(4):
        place = (slot + np.uint64(probe)) & mask
        if keys[place] == key:
            return values[place]
        if keys[place] == 0:
            slot = place
            break
    keys[slot], values[slot] = key, index
    return index


@row_kernel
def add_flags(total, diag, factor):
    """Add an odd factor where there is an unknown."""
    for k in range(total.shape[0]):
        total[k] += factor if diag[k] > 0 else np.uint64(0)


@inlined_kernel
def marks_of_row(row, problem, total, out):
    """Write the marks of a row of cells."""
    w, ground, shift, diag, size, periodic = problem
    ny, nz = size[1], size[2]
    first, stop = row * nz, (row + 1) * nz
    positions, steps = (row // ny, row % ny), (ny * nz, nz)
    clear(total)
    for d in range(3):
        add_bits(total, w[d, first:stop].view(np.uint32), PRIMES[d])
        add_bits(total, ground[d, first:stop].view(np.uint32), PRIMES[3 + d])
    add_bits(total, shift[first:stop].view(np.uint32), PRIMES[6])
    add_bits(total, diag[first:stop].view(np.uint32), PRIMES[7])
    for d in range(2):
        p, n, t = positions[d], size[d], steps[d]
        low, high = below(first, p, n, t), above(first, p, n, t)
        add_bits(total, w[d, low : low + nz].view(np.uint32), PRIMES[8 + d])
        if p > 0 or periodic[d]:
            add_flags(total, diag[low : low + nz], PRIMES[11 + d])
        if p < n - 1 or periodic[d]:
            add_flags(total, diag[high : high + nz], PRIMES[14 + d])
    along = w[2, first:stop].view(np.uint32)
    add_bits(total[1:], along, PRIMES[10])
    total[0] += np.uint64(along[nz - 1]) * PRIMES[10]
    add_flags(total[1:], diag[first:stop], PRIMES[13])
    add_flags(total[: nz - 1], diag[first + 1 : stop], PRIMES[16])
    if periodic[2]:
        total[0] += PRIMES[13] if diag[stop - 1] > 0 else np.uint64(0)
        total[nz - 1] += PRIMES[16] if diag[first] > 0 else np.uint64(0)
    finish(total, diag[first:stop], out[first:stop])


@strip_kernel
def cell_marks(start, stop, problem, out):
    """Write the marks of rows start..stop."""
    total = np.empty(problem[4][2], np.uint64)
    for row in range(start, stop):
        marks_of_row(row, problem, total, out)


@row_kernel
def place(p, n):
    """Tell the ends of an axis of n blocks from one another and from the middle."""
    return (1 if p == 0 else 0) + (2 if p == n - 1 else 0) + (4 if p == n - 2 else 0)


@inlined_kernel
def gather_marks(i, j, low, high, marks, size, factors, periodic, own, cross):
    """Sum the marks of cells low..high of a row of blocks, row by row of cells, and those of the rows around it."""
    nx, ny, nz = size[0], size[1], size[2]
    x, y = i * factors[0], j * factors[1]
    fx, fy = min(factors[0], nx - x), min(factors[1], ny - y)
    own, cross = own[low:high], cross[low:high]
    clear(own)
    clear(cross)
    for u in range(fx):
        for v in range(fy):
            c = ((x + u) * ny + y + v) * nz
            add_hashes(own, marks[c + low : c + high], PRIMES[2 * u + v])
    for v in range(fy):
        for side in range(2):
            inside = x + fx < nx if side else x > 0
            if inside or periodic[0]:
                c = (((x + fx) % nx if side else (x + nx - 1) % nx) * ny + y + v) * nz
                add_hashes(cross, marks[c + low : c + high], PRIMES[4 + 2 * side + v])
    for u in range(fx):
        for side in range(2):
            inside = y + fy < ny if side else y > 0
            if inside or periodic[1]:
                c = ((x + u) * ny + ((y + fy) % ny if side else (y + ny - 1) % ny)) * nz
                add_hashes(cross, marks[c + low : c + high], PRIMES[8 + 2 * side + u])


@row_kernel
def mixed(h):
    """Mix the bits of a hash that is not 0."""
    h = (h ^ (h >> S32)) * FINAL
    return (h ^ (h >> S29)) | np.uint64(1)


@inlined_kernel
def block_keys(index, low, high, marks, problem, blocks, space, keys):
    """Write the keys of blocks low..high of a row of blocks; 0 where a block holds no unknown."""
    size, factors, periodic = problem[4], problem[5], problem[6]
    own, cross = space
    i, j = index // blocks[1], index % blocks[1]
    nz, n, f = size[2], blocks[2], factors[2]
    first, last = (0, nz) if periodic[2] else (max(low * f - 1, 0), min(high * f + 1, nz))
    gather_marks(i, j, first, last, marks, size, factors, periodic, own, cross)
    here = np.uint64(1 + place(i, blocks[0]) + 8 * place(j, blocks[1])) * PRIMES[12]
    for k in range(low, high):
        c = k * f
        inner, outer = own[c] * PRIMES[13], cross[c] * PRIMES[14] + here
        if f == 2 and c + 1 < nz:
            inner, outer = inner + own[c + 1] * PRIMES[15], outer + cross[c + 1] * PRIMES[16]
        if c > 0:
            outer += own[c - 1] * PRIMES[17]
        if c + f < nz:
            outer += own[c + f] * PRIMES[18]
        end = k == 0 or k >= n - 2
        if end:
            outer += np.uint64(place(k, n)) * PRIMES[19]
        if end and periodic[2]:
            outer += own[nz - 1] * PRIMES[17] if k == 0 else np.uint64(0)
            outer += own[0] * PRIMES[18] if k == n - 1 else np.uint64(0)
        keys[k - low] = mixed(inner + outer) if inner != 0 else np.uint64(0)


@row_kernel
def note(row, first, keys, changed):
    """Store a row of keys, and which of them are others than before."""
    for k in range(row.shape[0]):
        changed[first + k] = row[k] != keys[first + k]
    for k in range(row.shape[0]):
        keys[first + k] = row[k]


@inlined_kernel
def range_around(index, ranges, size, factors, blocks, periodic):
    """Return which blocks of a row of blocks have a changed mark in or around them."""
    nx, ny, nz = size[0], size[1], size[2]
    x, y = index // blocks[1] * factors[0], index % blocks[1] * factors[1]
    low, high = nz, 0
    for u in range(-1, factors[0] + 1):
        for v in range(-1, factors[1] + 1):
            row = (x + u + nx) % nx * ny + (y + v + ny) % ny
            if ranges[row, 1] > 0:
                low, high = min(low, ranges[row, 0]), max(high, ranges[row, 1])
    if high == 0:
        return 0, 0
    if periodic and (low == 0 or high == nz):
        return 0, blocks[2]
    return max(low - 1, 0) // factors[2], min((high + factors[2]) // factors[2], blocks[2])


@strip_kernel
def find_block_keys(start, stop, problem, blocks, ranges, marks, keys, changed):
    """Write the keys of the blocks of rows start..stop, and which of them changed.

    ranges : per row of cells, from where to where marks changed, (0, 0) if none did; `changed` comes in as False
    """
    nz, n = problem[4][2], blocks[2]
    space, row = (np.empty(nz, np.uint64), np.empty(nz, np.uint64)), np.empty(n, np.uint64)
    for index in range(start, stop):
        low, high = range_around(index, ranges, problem[4], problem[5], blocks, problem[6][2])
        if high > low:
            block_keys(index, low, high, marks, problem, blocks, space, row)
            note(row[: high - low], index * n + low, keys, changed)


@strip_kernel
def cell_signatures(start, stop, keys, size, out):
    """Write what the classical operators in rows start..stop of coarse cells depend on: keys of blocks, and below."""
    ny, nz = size[1], size[2]
    total = np.empty(nz, np.uint64)
    for row in range(start, stop):
        first = row * nz
        own = keys[first : first + nz]
        x, y = below(first, row // ny, size[0], ny * nz), below(first, row % ny, ny, nz)
        clear(total)
        add_hashes(total, own, PRIMES[0])
        add_hashes(total, keys[x : x + nz], PRIMES[1])
        add_hashes(total, keys[y : y + nz], PRIMES[2])
        add_hashes(total[1:], own, PRIMES[3])
        total[0] += own[nz - 1] * PRIMES[3]
        for k in range(nz):
            out[first + k] = mixed(total[k]) if own[k] != 0 else np.uint64(0)


@strip_kernel
def find_cell_keys(start, stop, signatures, size, periodic, keys, changed):
    """Write the keys of coarse cells in rows start..stop: their signatures and those of neighbours that exist."""
    ny, nz = size[1], size[2]
    row_keys, steps = np.empty(nz, np.uint64), (ny * nz, nz)
    for row in range(start, stop):
        first, positions = row * nz, (row // ny, row % ny)
        own = signatures[first : first + nz]
        clear(row_keys)
        add_hashes(row_keys, own, PRIMES[20])
        for d in range(2):
            p, n, t = positions[d], size[d], steps[d]
            if n > 1 and (p > 0 or periodic[d]):
                low = below(first, p, n, t)
                add_hashes(row_keys, signatures[low : low + nz], PRIMES[21 + d])
            if n > 1 and (p < n - 1 or periodic[d]):
                high = above(first, p, n, t)
                add_hashes(row_keys, signatures[high : high + nz], PRIMES[24 + d])
        if nz > 1:
            add_hashes(row_keys[1:], own, PRIMES[23])
            add_hashes(row_keys[: nz - 1], own[1:], PRIMES[26])
            if periodic[2]:
                row_keys[0] += own[nz - 1] * PRIMES[23]
                row_keys[nz - 1] += own[0] * PRIMES[26]
        for k in range(nz):
            row_keys[k] = mixed(row_keys[k]) if own[k] != 0 else np.uint64(0)
        note(row_keys, first, keys, changed)


@inlined_kernel
def find_new(first, tracks, table, places):
    """Write at which block or cell those of a row find their results; count those that have none yet.

    KEPT : what they had, EMPTY : there is no unknown.
    """
    keys, changed = tracks
    new = 0
    for k in range(places.shape[0]):
        c = first + k
        if not changed[c]:
            places[k] = KEPT
        elif keys[c] == 0:
            places[k] = EMPTY
        else:
            places[k] = representative(keys[c], c, table[0], table[1])
            new += places[k] == c
    return new


@row_kernel
def changed_range(changed, factor):
    """Return from which to which cell of a row, in whole vectors, something changed; blocks of `factor` cells."""
    low, high = changed.shape[0], 0
    for k in range(changed.shape[0]):
        if changed[k]:
            low, high = min(low, k), k + 1
    if high == 0:
        return 0, 0
    return low * factor // WIDTH * WIDTH, (high * factor + WIDTH - 1) // WIDTH * WIDTH
