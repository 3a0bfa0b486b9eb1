"""Deduplication: blocks and coarse cells keep their results, are evaluated, or copy those of one with the same hash."""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel, strip_kernel
from ...kernels.cpu.lanes import WIDTH
from .hashes import S32

SLOTS = 32768  # of a table, at most
UNCHANGED, NO_UNKNOWN = -2, -1  # instead of the index of a representative
EVALUATE_ALL, EVALUATE_UNIQUE, EVALUATE_CHANGED = range(3)  # everywhere; once per new hash; where a hash changed


@row_kernel
def find_representative(key, index, table_keys, table_values):
    """Look a hash up in a 4-way table; return the first index that came with it, `index` itself if there is none.

    Hashes are non-zero. A full set of four forgets the entry in its first place.
    """
    mask = np.uint64(table_keys.shape[0] - 1)
    slot = (key >> S32) & mask
    for probe in range(4):
        place = (slot + np.uint64(probe)) & mask
        if table_keys[place] == key:
            return table_values[place]
        if table_keys[place] == 0:
            slot = place
            break
    table_keys[slot], table_values[slot] = key, index
    return index


@inlined_kernel
def find_row_representatives(first, history, table, representatives):
    """Write the representatives of the blocks or cells of a row; count those that represent themselves.

    UNCHANGED : keep the results of the last set-up;  NO_UNKNOWN : results are 0
    """
    hashes, changed = history
    new = 0
    for k in range(representatives.shape[0]):
        c = first + k
        if not changed[c]:
            representatives[k] = UNCHANGED
        elif hashes[c] == 0:
            representatives[k] = NO_UNKNOWN
        else:
            representatives[k] = find_representative(hashes[c], c, table[0], table[1])
            new += representatives[k] == c
    return new


@strip_kernel
def find_representatives(start, stop, ranges, n, history, representatives, new_ranges):
    """Write the representatives of blocks or cells in the ranges, and the ranges of those to be evaluated.

    One table for all rows, in one thread: equal hashes are evaluated once whatever the number of threads.
    """
    most = 0
    for index in range(start, stop):
        most += ranges[index, 1] - ranges[index, 0]
    slots = 64
    while slots < SLOTS and slots < 4 * most:
        slots *= 2
    table = np.zeros(slots, np.uint64), np.empty(slots, np.int64)
    for index in range(start, stop):
        low, high = ranges[index, 0], ranges[index, 1]
        here = representatives[index * n : (index + 1) * n]
        found = find_row_representatives(index * n + low, history, table, here[low:high])
        new_ranges[index, 0], new_ranges[index, 1] = 0, 0
        if found > 0:
            while here[low] != index * n + low:
                low += 1
            while here[high - 1] != index * n + high - 1:
                high -= 1
            new_ranges[index, 0], new_ranges[index, 1] = low, high


@row_kernel
def find_changed_vectors(changed, factor):
    """Return from which to which cell of a row, in whole vectors, something changed; blocks of `factor` cells."""
    low, high = changed.shape[0], 0
    for k in range(changed.shape[0]):
        if changed[k]:
            low, high = min(low, k), k + 1
    if high == 0:
        return 0, 0
    return low * factor // WIDTH * WIDTH, (high * factor + WIDTH - 1) // WIDTH * WIDTH
