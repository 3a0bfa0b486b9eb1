"""Which cells see the same surroundings: everything that the network reads, hashed, so that it is evaluated once.

A *signature* condenses what is stored at one cell; the *pattern* of a block (fine level) or a cell (coarse level)
condenses the signatures that its features depend on. Equal surroundings have equal patterns. Different ones have
different patterns but for a chance of about 10⁻⁸ among a million; a mistake would cost convergence, never correctness:
the cycle is symmetric and definite whatever weights it has.
"""

from __future__ import annotations

import numpy as np

from .cpu_jit import ordered_row_kernel as row_kernel

STRIP = 4096  # blocks per task, each with a table of its own: results do not depend on the number of threads
SLOTS = 4 * STRIP
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
    """Return the first index that came with this key: `index` itself if none did."""
    mask = np.uint64(keys.shape[0] - 1)
    key |= np.uint64(1)  # 0 marks a free slot
    slot = (key >> S32) & mask
    while keys[slot] != 0:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + np.uint64(1)) & mask
    keys[slot], values[slot] = key, index
    return index
