"""Where blocks and coarse cells find their results: kept, evaluated, or those of another with the same key."""

from __future__ import annotations

import numpy as np

from ...kernels.cpu.compile import inlined_kernel, ordered_row_kernel as row_kernel, strip_kernel
from ...kernels.cpu.lanes import WIDTH
from .hashes import S32

SLOTS = 32768  # of a table, at most
KEPT, EMPTY = -2, -1
EVERYTHING, ONCE, CHANGED = range(3)  # evaluate everywhere, once per key that changed, everywhere where a key changed


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


@strip_kernel
def find_places(start, stop, spans, n, tracks, places, new):
    """Write where blocks or cells in the spans find their results, and the spans of those that have none yet.

    One table for all rows, so that equal keys are evaluated once whatever the number of threads; hardly any work.
    """
    most = 0
    for index in range(start, stop):
        most += spans[index, 1] - spans[index, 0]
    slots = 64
    while slots < SLOTS and slots < 4 * most:
        slots *= 2
    table = np.zeros(slots, np.uint64), np.empty(slots, np.int64)
    for index in range(start, stop):
        low, high = spans[index, 0], spans[index, 1]
        here = places[index * n : (index + 1) * n]
        found = find_new(index * n + low, tracks, table, here[low:high])
        new[index, 0], new[index, 1] = 0, 0
        if found > 0:
            while here[low] != index * n + low:
                low += 1
            while here[high - 1] != index * n + high - 1:
                high -= 1
            new[index, 0], new[index, 1] = low, high


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
