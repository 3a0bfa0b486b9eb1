"""Which cells see the same surroundings: everything that the network reads, hashed, so that it is evaluated once.

A *signature* condenses what the features of one cell are made of; the *pattern* of a block (fine level) or a cell
(coarse level) the signatures that belong to it. Equal surroundings have equal patterns. Different ones have
different patterns but for a chance of about 10⁻⁸ among a million; a mistake would cost convergence, never correctness:
the cycle is symmetric and definite whatever weights it has.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import inlined_kernel
from .cpu_jit import ordered_row_kernel as row_kernel
from .setup_columns import DIAG_HIGH, DIAG_LOW, FLAGS, GROUND, HIGH, INNER_O, LOW, PATH

SLOTS = 32768  # of a table; each task has one of its own
# odd multipliers, fixed for all time
PRIMES = (np.random.default_rng(2026).integers(1 << 62, size=40, dtype=np.uint64) * np.uint64(2)) | np.uint64(1)
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
    """Return an index that came with this key not long ago: `index` itself if there is none.

    The table has four places for a key and forgets what stood in the first of them.
    """
    mask = np.uint64(keys.shape[0] - 1)
    key |= np.uint64(1)  # 0 marks a free slot
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


@inlined_kernel
def signatures(nz, factors, own, axes, total):
    """Write the signatures of a row of cells."""
    own_bits, axes_bits = own.view(np.uint32), axes.view(np.uint32)
    clear(total)
    add_bits(total, own_bits[0], PRIMES[0])
    add_bits(total, own_bits[1], PRIMES[1])
    for d in range(3):
        for f, column in enumerate((LOW, HIGH, DIAG_LOW, DIAG_HIGH, GROUND)):
            add_bits(total, axes_bits[d, column], PRIMES[2 + 5 * d + f])
        if factors[d] == 2:
            for f, column in enumerate((INNER_O, PATH, FLAGS)):
                add_bits(total, axes_bits[d, column], PRIMES[17 + 3 * d + f])
    finish(total, own[0], total)


@inlined_kernel
def block_patterns(rows, nz, factors, owns, columns, totals, patterns):
    """Write the patterns of a row of blocks; 0 where a block holds no unknown."""
    clear(patterns)
    for r in range(4):
        if rows[r] >= 0:
            total = totals[r]
            signatures(nz, factors, owns[r], columns[r], total)
            for k in range(0, nz, factors[2]):
                patterns[k // factors[2]] += total[k] * PRIMES[26 + 2 * r]
            if factors[2] == 2:
                for k in range(1, nz, 2):
                    patterns[k // 2] += total[k] * PRIMES[27 + 2 * r]
