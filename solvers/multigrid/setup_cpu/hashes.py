"""Which cells see the same surroundings: everything that the network reads, hashed, so that it is evaluated once.

Three stages. A *cell hash* condenses a cell's row of the matrix (links on six sides, ground, shift, diagonal) and which
of its neighbours hold an unknown. A *block hash* condenses the hashes of its cells and of the cells around it, and
whether the block lies at an end of an axis: more than what the network and the classical coarsenings read there. A
*coarse hash* condenses the hashes of the blocks that a coarse cell's learned operator depends on, by way of
*classical hashes*: of what its classical operators depend on. Equal hashes mean equal results: those of another block,
or of the same block in the set-up before.

Different surroundings have different hashes but for a chance of about 10⁻⁸ among a million. A mistake would cost
convergence, never correctness: the cycle is symmetric and definite whatever weights it has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel, over_strips, strip_kernel
from ...kernels.cpu.neighbours import above, below, four_sides

# odd multipliers, fixed for all time
PRIMES = (np.random.default_rng(2026).integers(1 << 62, size=40, dtype=np.uint64) * np.uint64(2)) | np.uint64(1)
FINAL = np.uint64(0xD6E8FEB86659FD93)
S29, S32 = np.uint64(29), np.uint64(32)


@row_kernel
def clear_hashes(total):
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
def finish_hashes(total, diag, out):
    """Mix the bits of a row of hashes; 0 where there is no unknown."""
    for k in range(total.shape[0]):
        h = total[k]
        h = (h ^ (h >> S32)) * FINAL
        out[k] = (h ^ (h >> S29)) if diag[k] > 0 else np.uint64(0)


@row_kernel
def add_flags(total, diag, factor):
    """Add an odd factor where there is an unknown."""
    for k in range(total.shape[0]):
        total[k] += factor if diag[k] > 0 else np.uint64(0)


@inlined_kernel
def hash_cells_of_row(row, low, high, problem, total, out):
    """Write the hashes of cells low..high of a row."""
    w, ground, shift, diag, size, periodic = problem
    ny, nz = size[1], size[2]
    first = row * nz
    start, stop = first + low, first + high
    positions, steps = (row // ny, row % ny), (ny * nz, nz)
    clear_hashes(total)
    for d in range(3):
        add_bits(total, w[d, start:stop].view(np.uint32), PRIMES[d])
        add_bits(total, ground[d, start:stop].view(np.uint32), PRIMES[3 + d])
    add_bits(total, shift[start:stop].view(np.uint32), PRIMES[6])
    add_bits(total, diag[start:stop].view(np.uint32), PRIMES[7])
    for d in range(2):
        p, n, t = positions[d], size[d], steps[d]
        before, after = below(first, p, n, t), above(first, p, n, t)
        add_bits(total, w[d, before + low : before + high].view(np.uint32), PRIMES[8 + d])
        if p > 0 or periodic[d]:
            add_flags(total, diag[before + low : before + high], PRIMES[11 + d])
        if p < n - 1 or periodic[d]:
            add_flags(total, diag[after + low : after + high], PRIMES[14 + d])
    along, inner, last = w[2, first : first + nz].view(np.uint32), max(low, 1), min(high, nz - 1)
    add_bits(total[inner - low :], along[inner - 1 : high - 1], PRIMES[10])
    add_flags(total[inner - low :], diag[first + inner - 1 : stop - 1], PRIMES[13])
    add_flags(total[: last - low], diag[start + 1 : first + last + 1], PRIMES[16])
    if low == 0:
        total[0] += np.uint64(along[nz - 1]) * PRIMES[10]
        total[0] += PRIMES[13] if periodic[2] and diag[first + nz - 1] > 0 else np.uint64(0)
    if high == nz:
        total[nz - 1 - low] += PRIMES[16] if periodic[2] and diag[first] > 0 else np.uint64(0)
    finish_hashes(total, diag[start:stop], out[start:stop])


@strip_kernel
def find_cell_hashes(start, stop, ranges, problem, out):
    """Write the cell hashes in the ranges of rows start..stop."""
    _, _, _, _, size, _ = problem
    space = np.empty(size[2], np.uint64)
    for row in range(start, stop):
        low, high = ranges[row, 0], ranges[row, 1]
        if high > low:
            hash_cells_of_row(row, low, high, problem, space[: high - low], out)


@row_kernel
def locate_end(p, n):
    """Tell the ends of an axis of n blocks from one another and from the middle."""
    return (1 if p == 0 else 0) + (2 if p == n - 1 else 0) + (4 if p == n - 2 else 0)


@inlined_kernel
def gather_cell_hashes(i, j, low, high, cell_hashes, size, factors, periodic, own, cross):
    """Sum the hashes of cells low..high of a row of blocks, row by row of cells, and those of the rows around it."""
    nx, ny, nz = size[0], size[1], size[2]
    x, y = i * factors[0], j * factors[1]
    fx, fy = min(factors[0], nx - x), min(factors[1], ny - y)
    own, cross = own[low:high], cross[low:high]
    clear_hashes(own)
    clear_hashes(cross)
    for u in range(fx):
        for v in range(fy):
            c = ((x + u) * ny + y + v) * nz
            add_hashes(own, cell_hashes[c + low : c + high], PRIMES[2 * u + v])
    for v in range(fy):
        for side in range(2):
            inside = x + fx < nx if side else x > 0
            if inside or periodic[0]:
                c = (((x + fx) % nx if side else (x + nx - 1) % nx) * ny + y + v) * nz
                add_hashes(cross, cell_hashes[c + low : c + high], PRIMES[4 + 2 * side + v])
    for u in range(fx):
        for side in range(2):
            inside = y + fy < ny if side else y > 0
            if inside or periodic[1]:
                c = ((x + u) * ny + ((y + fy) % ny if side else (y + ny - 1) % ny)) * nz
                add_hashes(cross, cell_hashes[c + low : c + high], PRIMES[8 + 2 * side + u])


@row_kernel
def mix_bits(h):
    """Mix the bits of a hash that is not 0."""
    h = (h ^ (h >> S32)) * FINAL
    return (h ^ (h >> S29)) | np.uint64(1)


@inlined_kernel
def hash_blocks_of_row(index, low, high, cell_hashes, problem, blocks, space, block_hashes):
    """Write the hashes of blocks low..high of a row of blocks; 0 where a block holds no unknown."""
    _, _, _, _, size, factors, periodic = problem
    own, cross = space
    i, j = index // blocks[1], index % blocks[1]
    nz, n, f = size[2], blocks[2], factors[2]
    first, last = (0, nz) if periodic[2] else (max(low * f - 1, 0), min(high * f + 1, nz))
    gather_cell_hashes(i, j, first, last, cell_hashes, size, factors, periodic, own, cross)
    here = np.uint64(1 + locate_end(i, blocks[0]) + 8 * locate_end(j, blocks[1])) * PRIMES[12]
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
            outer += np.uint64(locate_end(k, n)) * PRIMES[19]
        if end and periodic[2]:
            outer += own[nz - 1] * PRIMES[17] if k == 0 else np.uint64(0)
            outer += own[0] * PRIMES[18] if k == n - 1 else np.uint64(0)
        block_hashes[k - low] = mix_bits(inner + outer) if inner != 0 else np.uint64(0)


@row_kernel
def store_hashes(row, first, stored, changed):
    """Store the new hashes of a row and flag those that differ from the previous ones."""
    for k in range(row.shape[0]):
        changed[first + k] = row[k] != stored[first + k]
    for k in range(row.shape[0]):
        stored[first + k] = row[k]


@inlined_kernel
def find_dirty_blocks(index, ranges, size, factors, blocks, periodic):
    """Return the range of blocks of a row of blocks that have a changed cell in or around them."""
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
def find_block_hashes(start, stop, problem, blocks, ranges, cell_hashes, block_hashes, changed):
    """Write the hashes of the blocks of rows start..stop, and which of them changed.

    ranges : per row of cells, from where to where cell hashes changed, (0, 0) if none did; `changed` comes in as False
    """
    _, _, _, _, size, factors, periodic = problem
    nz, n = size[2], blocks[2]
    space, row = (np.empty(nz, np.uint64), np.empty(nz, np.uint64)), np.empty(n, np.uint64)
    for index in range(start, stop):
        low, high = find_dirty_blocks(index, ranges, size, factors, blocks, periodic[2])
        if high > low:
            hash_blocks_of_row(index, low, high, cell_hashes, problem, blocks, space, row)
            store_hashes(row[: high - low], index * n + low, block_hashes, changed)


@strip_kernel
def find_classical_hashes(start, stop, ranges, block_hashes, size, out):
    """Write hashes of what the classical operators in the ranges depend on: a block and the blocks below it."""
    ny, nz = size[1], size[2]
    space = np.empty(nz, np.uint64)
    for row in range(start, stop):
        low, high = ranges[row, 0], ranges[row, 1]
        if high <= low:
            continue
        first, total = row * nz, space[: high - low]
        own, inner = block_hashes[first : first + nz], max(low, 1)
        x, y = below(first, row // ny, size[0], ny * nz), below(first, row % ny, ny, nz)
        clear_hashes(total)
        add_hashes(total, own[low:high], PRIMES[0])
        add_hashes(total, block_hashes[x + low : x + high], PRIMES[1])
        add_hashes(total, block_hashes[y + low : y + high], PRIMES[2])
        add_hashes(total[inner - low :], own[inner - 1 : high - 1], PRIMES[3])
        if low == 0:
            total[0] += own[nz - 1] * PRIMES[3]
        for k in range(low, high):
            out[first + k] = mix_bits(total[k - low]) if own[k] != 0 else np.uint64(0)


@strip_kernel
def find_coarse_hashes(start, stop, ranges, classical_hashes, size, periodic, coarse_hashes, changed):
    """Write the hashes of coarse cells in the ranges: of their classical hash and those of neighbours that exist.

    changed : comes in as False
    """
    ny, nz = size[1], size[2]
    space, steps = np.empty(nz, np.uint64), (ny * nz, nz)
    for row in range(start, stop):
        low, high = ranges[row, 0], ranges[row, 1]
        if high <= low:
            continue
        first, positions, row_hashes = row * nz, (row // ny, row % ny), space[: high - low]
        own, inner, last = classical_hashes[first : first + nz], max(low, 1), min(high, nz - 1)
        clear_hashes(row_hashes)
        add_hashes(row_hashes, own[low:high], PRIMES[20])
        for d in range(2):
            p, n, t = positions[d], size[d], steps[d]
            if n > 1 and (p > 0 or periodic[d]):
                before = below(first, p, n, t)
                add_hashes(row_hashes, classical_hashes[before + low : before + high], PRIMES[21 + d])
            if n > 1 and (p < n - 1 or periodic[d]):
                after = above(first, p, n, t)
                add_hashes(row_hashes, classical_hashes[after + low : after + high], PRIMES[24 + d])
        add_hashes(row_hashes[inner - low :], own[inner - 1 : high - 1], PRIMES[23])
        add_hashes(row_hashes[: max(last - low, 0)], own[low + 1 : last + 1], PRIMES[26])
        if nz > 1 and periodic[2]:
            if low == 0:
                row_hashes[0] += own[nz - 1] * PRIMES[23]
            if high == nz:
                row_hashes[nz - 1 - low] += own[0] * PRIMES[26]
        for k in range(high - low):
            row_hashes[k] = mix_bits(row_hashes[k]) if own[low + k] != 0 else np.uint64(0)
        store_hashes(row_hashes, first + low, coarse_hashes, changed)


# --- of the finest level of a cell-type problem, from its bytes; only where something changed -------------------------
# Nearly everything in the row of such a cell are six bits. Ground and shift are looked at bit by bit, and remembered as
# one hash per row of cells.

NONE = np.uint16(0)
LINK_X, LINK_Y, LINK_Z, LOW_X, LOW_Y, LOW_Z, UNKNOWN = (np.uint16(1 << b) for b in range(7))
FILLED_BELOW, FILLED_ABOVE = np.uint16(2048), np.uint16(4096)  # along the row; across rows 128 to 1024


@inlined_kernel
def find_row_neighbours(row, size, periodic):
    """Return the rows below and above across rows, and the bits that say that there is an unknown (0: no such row)."""
    nx, ny = size[0], size[1]
    (i, j), rows = four_sides(row, nx, ny)
    bits = (
        np.uint16(128) if i > 0 or periodic[0] else NONE,
        np.uint16(256) if i < nx - 1 or periodic[0] else NONE,
        np.uint16(512) if j > 0 or periodic[1] else NONE,
        np.uint16(1024) if j < ny - 1 or periodic[1] else NONE,
    )
    return rows, bits


@inlined_kernel
def write_surroundings(row, problem, bits):
    """Write links on six sides, whether there is an unknown, and at which neighbours there is one, in 13 bits."""
    x, y, z, diag, size, periodic = problem
    nz = size[2]
    (x0, x1, y0, y1), (bx0, bx1, by0, by1) = find_row_neighbours(row, size, periodic)
    for k in range(nz):
        c = (LINK_X if x[row, k] != 0 else NONE) | (LINK_Y if y[row, k] != 0 else NONE)
        c |= (LINK_Z if z[row, k] != 0 else NONE) | (UNKNOWN if diag[row, k] != 0 else NONE)
        c |= (LOW_X if x[x0, k] != 0 else NONE) | (LOW_Y if y[y0, k] != 0 else NONE)
        c |= (bx0 if diag[x0, k] != 0 else NONE) | (bx1 if diag[x1, k] != 0 else NONE)
        bits[k] = c | (by0 if diag[y0, k] != 0 else NONE) | (by1 if diag[y1, k] != 0 else NONE)
    for k in range(1, nz):
        bits[k] |= (LOW_Z if z[row, k - 1] != 0 else NONE) | (FILLED_BELOW if diag[row, k - 1] != 0 else NONE)
    for k in range(nz - 1):
        bits[k] |= FILLED_ABOVE if diag[row, k + 1] != 0 else NONE
    bits[0] |= LOW_Z if z[row, nz - 1] != 0 else NONE
    if periodic[2]:
        bits[0] |= FILLED_BELOW if diag[row, nz - 1] != 0 else NONE
        bits[nz - 1] |= FILLED_ABOVE if diag[row, 0] != 0 else NONE


@inlined_kernel
def hash_ground_of_row(row, extras):
    """Condense the bits of ground and shift of a row; 0 if there are none."""
    some = np.uint64(0)
    for extra in extras:
        for k in range(extra.shape[1]):
            some |= np.uint64(extra[row, k])
    h = np.uint64(0)
    if some != 0:
        for f, extra in enumerate(extras):
            for k in range(extra.shape[1]):
                v = np.uint64(extra[row, k]) * PRIMES[f]
                h += (v ^ (v >> S32)) * (FINAL + np.uint64(2 * k))
        h |= np.uint64(1)
    return h


@row_kernel
def find_differing_range(row, before):
    """Return from where to where two rows differ, (0, 0) if they do not."""
    some = False
    for k in range(row.shape[0]):
        some |= row[k] != before[k]
    if not some:
        return 0, 0
    low, high = 0, row.shape[0]
    while row[low] == before[low]:
        low += 1
    while row[high - 1] == before[high - 1]:
        high -= 1
    return low, high


@strip_kernel
def hash_changed_cells(start, stop, problem, extras, before, cell_hashes, ranges):
    """Write the cell hashes of rows start..stop where they changed, and `ranges`: from where to where they did.

    extras : the bits of ground and shift; before : surroundings of cells and hashes of rows of the last set-up
    """
    bits_before, row_hashes = before
    _, _, _, _, size, _ = problem
    nz = size[2]
    bits = np.empty(nz, np.uint16)
    for row in range(start, stop):
        write_surroundings(row, problem, bits)
        h = hash_ground_of_row(row, extras)
        low, high = find_differing_range(bits, bits_before[row])
        if h != row_hashes[row]:
            low, high = 0, nz
        ranges[row, 0], ranges[row, 1], row_hashes[row] = low, high, h
        for k in range(low, high):
            bits_before[row, k] = bits[k]
            total = np.uint64(bits[k]) * PRIMES[0]
            if h != 0:
                for f, extra in enumerate(extras):
                    total += np.uint64(extra[row, k]) * PRIMES[1 + f]
            cell_hashes[row * nz + k] = mix_bits(total) if bits[k] & UNKNOWN else np.uint64(0)


class ByteHashes:
    """Cell hashes of the finest level of a cell-type problem, and what they were found from."""

    def __init__(self, grid: Any) -> None:
        nz = grid.size[2]
        self.bits_before, self.row_hashes = np.zeros((grid.rows, nz), np.uint16), np.zeros(grid.rows, np.uint64)
        self.cell_hashes, self.ranges = np.zeros(grid.diag.size, np.uint64), np.zeros((grid.rows, 2), np.int64)

    def find_hashes(self, source: Any) -> tuple[Any, Any]:
        """Return the cell hashes, and per row from where to where they changed."""
        bytes_of = tuple(v.reshape(source.rows) for v in (*source.cell_bytes.links, source.cell_bytes.diag))
        kind = np.uint64 if source.values[0].itemsize == 8 else np.uint32
        extras = tuple(v.view(kind) for v in source.extras)
        problem = (*bytes_of, np.array(source.size), np.array(source.periodic))
        before = self.bits_before, self.row_hashes
        over_strips(hash_changed_cells, len(self.row_hashes), problem, extras, before, self.cell_hashes, self.ranges)
        return self.cell_hashes, self.ranges
