"""The partition of `multigrid.pieces` compiled: the same pieces, block by block, in parallel.

Links of a level are rows of a compressed sparse matrix (begin, index, w, axis); what counts and indexes has no sign,
since compiled code looks at every signed index whether it counts from the end. `member` lists unknowns label by label
from `first[label]` on, and `position` says where an unknown stands in the list of its label.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numba
import numpy as np

from ...kernels.cpu.compile import kernel, ordered_row_kernel as row_kernel, over_strips, pool, strip_kernel
from ..pieces import FOREIGN, LARGEST, ROUNDS, choose_targets

Array = np.ndarray[Any, Any]


def collect_strips(function: Callable[..., Any], tasks: int, *arguments: Any) -> list[Any]:
    """Call a strip kernel that returns something for all tasks on several threads; return the results in order."""
    threads = min(numba.get_num_threads(), tasks)
    strips = 1 if threads <= 1 else min(tasks, 4 * threads)
    bounds = list(pairwise(tasks * k // strips for k in range(strips + 1)))
    if strips == 1:
        return [function(*bounds[0], *arguments)]
    return [v.result() for v in [pool().submit(function, *each, *arguments) for each in bounds]]


def joined_rows(parts: list[tuple[Array, ...]]) -> tuple[Array, ...]:
    """Join rows of strips, (entries per row, values ...): return where rows begin, and the values."""
    counts, *values = ([p[k] for p in parts] for k in range(len(parts[0])))
    begin = np.zeros(sum(map(len, counts)) + 1, np.uint32)
    np.cumsum(np.concatenate(counts), out=begin[1:])
    return begin, *(np.concatenate(v) for v in values)


@kernel(parallel=False)
def count_labels(labels, first):
    """Count labels >= 0 into first[label + 1], then sum up."""
    for i in range(labels.size):
        if labels[i] >= 0:
            first[labels[i] + 1] += 1
    for label in range(first.size - 1):
        first[label + 1] += first[label]


@kernel(parallel=False)
def list_members(labels, first, member, position):
    """List what has each label, in order; write the place in the list of its label."""
    filled = np.zeros(first.size - 1, np.uint32)
    for i in range(labels.size):
        label = labels[i]
        if label >= 0:
            position[i] = filled[label]
            member[first[label] + filled[label]] = i
            filled[label] += 1


def members_of(labels: Array, count: int) -> tuple[Array, Array, Array]:
    """Return first, member, position for labels below `count`; negative ones belong nowhere.

    Examples
    --------
    >>> [v.tolist() for v in members_of(np.array([1, 0, -1, 1], np.int32), 2)]
    [[0, 1, 3], [1, 0, 3], [0, 0, 0, 1]]
    """
    first = np.zeros(count + 1, np.uint32)
    count_labels(labels, first)
    member, position = np.empty(first[-1], np.uint32), np.zeros(labels.size, np.uint32)
    list_members(labels, first, member, position)
    return first, member, position


@kernel(parallel=False)
def number_labels(labels, bins, numbers):
    """Give numbers to labels in the order in which they first occur (negative ones stay); return how many."""
    known, count = np.full(bins, -1, np.int32), 0
    for i in range(labels.size):
        label = labels[i]
        if label < 0:
            numbers[i] = -1
            continue
        if known[label] < 0:
            known[label] = count
            count += 1
        numbers[i] = known[label]
    return count


@row_kernel
def find_best(p, m, alive, between, sums, foreign, best, partner):
    """Write how strongly cluster p is tied to the one that it would rather be part of, 0 if there is none."""
    best[p], partner[p] = 0.0, -1
    if foreign[p]:
        return
    for at in range(m):
        o = alive[at]
        # the lighter of two gives itself to the heavier; of equal ones, the later
        if between[p, o] > 0 and (sums[p] < sums[o] or (sums[p] == sums[o] and p > o)):
            strength = between[p, o] / sums[p]
            if strength > best[p]:
                best[p], partner[p] = strength, o


@row_kernel
def merge_greedily(k, between, sums, foreign, merge, cluster, best, partner, alive):
    """Merge clusters of k members, the strongest pair first; between and sums change. See `multigrid.pieces`.

    best, partner : room; what every cluster would do next, so that only rows that a merger changes are searched again
    alive : room; what is a cluster still, in order
    """
    for q in range(k):
        cluster[q], alive[q] = q, q
    for q in range(k):
        find_best(q, k, alive, between, sums, foreign, best, partner)
    for m in range(k - 1, 0, -1):  # so many clusters are left after the next merger
        gone, light, strongest = -1, np.uint32(0), 0.0
        for at in range(m + 1):
            p = alive[at]
            if best[p] > strongest:
                strongest, light, gone = best[p], p, at
        if gone < 0 or strongest < merge:
            return
        heavy = np.uint32(partner[light])
        for at in range(gone, m):
            alive[at] = alive[at + 1]
        for at in range(m):
            o = alive[at]
            if o != heavy and between[light, o] > 0:
                between[heavy, o] += between[light, o]
                between[o, heavy] = between[heavy, o]
        for q in range(k):
            if cluster[q] == light:
                cluster[q] = heavy
        sums[heavy] += sums[light]
        for at in range(m):
            p = alive[at]
            if foreign[p]:
                continue
            if p == heavy or partner[p] == light or partner[p] == heavy:
                find_best(p, m, alive, between, sums, foreign, best, partner)
            elif between[p, heavy] > 0 and sums[p] <= sums[heavy]:
                strength = between[p, heavy] / sums[p]
                if strength > best[p] or (strength == best[p] and heavy < partner[p]):
                    if sums[p] < sums[heavy] or p > heavy:
                        best[p], partner[p] = strength, heavy


@strip_kernel
def merge_blocks(start, stop, blocks, block, links, diag, merge, foreign_factor, largest, root):
    """Write a representative of the cluster of every member of the blocks start..stop: steps 1 and 2."""
    (first, member, position), (begin, index, w) = blocks, links
    between, sums, best = np.zeros((largest, largest)), np.empty(largest), np.empty(largest)
    cluster, alive = np.empty(largest, np.uint32), np.empty(largest, np.uint32)
    partner, foreign = np.empty(largest, np.int32), np.empty(largest, np.bool_)
    for b in range(start, stop):
        low, k = np.int64(first[b]), np.int64(first[b + 1]) - np.int64(first[b])
        if k == 1:
            root[member[low]] = member[low]
            continue
        for q in range(k):
            for other in range(k):
                between[q, other] = 0.0
        least, most, inside, any_foreign = np.inf, 0.0, 0, False
        for q in range(k):
            i = member[low + q]
            sums[q], within, beyond = diag[i], 0.0, 0.0
            most = max(most, diag[i])
            for t in range(begin[i], begin[i + 1]):
                j, v = index[t], w[t]
                if block[j] == b:
                    between[q, position[j]] += v
                    within, least, inside = max(within, v), min(least, v), inside + 1
                else:
                    beyond = max(beyond, v)
            foreign[q] = beyond > foreign_factor * within
            any_foreign |= foreign[q]
        # in a whole cube (square) without weak links nothing can stop the merging before all is one
        whole = (k == 8 and inside == 24) or (k == 4 and inside == 8)
        if whole and not any_foreign and least >= merge * most:
            for q in range(k):
                root[member[low + q]] = member[low]
            continue
        merge_greedily(k, between, sums, foreign, merge, cluster, best, partner, alive)
        for q in range(k):
            root[member[low + q]] = member[low + cluster[q]]


@strip_kernel
def link_pieces(start, stop, pieces, piece, links, diag, best, value, total):
    """Return the links between pieces start..stop and others, row by row; write the strongest of each piece.

    best, value, total : the other piece with the most links, what these are, and the sum of diagonals
    """
    (first, member), (begin, index, w) = pieces, links
    counts, used = np.zeros(stop - start, np.int32), 0
    slot, to, sums = np.full(total.size, -1, np.int32), np.empty(8192, np.uint32), np.empty(8192)
    for p in range(start, stop):
        before, own, room = used, 0.0, 0
        for s in range(first[p], first[p + 1]):
            own += diag[member[s]]
            room += np.int64(begin[member[s] + 1]) - np.int64(begin[member[s]])
        while used + room > to.size:
            to, sums = np.append(to, np.empty_like(to)), np.append(sums, np.empty_like(sums))
        for s in range(first[p], first[p + 1]):
            i = member[s]
            for t in range(begin[i], begin[i + 1]):
                q = piece[index[t]]
                if q == p:
                    continue
                at = slot[q]
                if at < 0:
                    slot[q], to[used], sums[used] = used, q, w[t]
                    used += 1
                else:
                    sums[np.uint32(at)] += w[t]
        most, other = 0.0, 0
        for c in range(before, used):
            if sums[c] > most or (sums[c] == most and to[c] < other):
                most, other = sums[c], to[c]
            slot[to[c]] = -1
        best[p], value[p], total[p], counts[p - start] = other, most, own, used - before
    return counts, to[:used].copy(), sums[:used].copy()


@kernel(parallel=False)
def follow_labels(labels, numbers):
    """Replace labels >= 0 by their numbers."""
    for i in range(labels.size):
        if labels[i] >= 0:
            labels[i] = numbers[labels[i]]


def choose_joins(piece: Array, best: Array, value: Array, total: Array) -> tuple[int, Array] | None:
    """Let pieces join others, in place: return how many are left and the new number of each, None if none moves.

    best, value, total : see `multigrid.pieces.choose_targets`
    """
    target = choose_targets(best, value, total)
    if (target == np.arange(target.size)).all():
        return None
    label = np.empty(target.size, np.int32)
    count = number_labels(target.astype(np.int32), target.size, label)
    follow_labels(piece, label)
    return count, label


def find_pieces(block: Array, blocks: int, links: tuple[Array, ...], diag: Array, merge: float) -> tuple[Array, int]:
    """Return the piece of every unknown (-1 where the block is negative) and how many there are: steps 1 to 3.

    block : int32, below `blocks`, each of any number of members: more than `LARGEST` are taken in groups
    """
    first, member, position = members_of(block, blocks)
    largest = int(np.diff(first).max(initial=1))
    if largest > LARGEST:
        groups = largest // LARGEST + 1
        block = np.where(block >= 0, block * groups + position // LARGEST, -1).astype(np.int32)
        blocks *= groups
        first, member, position = members_of(block, blocks)
        largest = LARGEST
    root = np.full(block.size, -1, np.int32)
    parts = (first, member, position), block, links, diag
    over_strips(merge_blocks, blocks, *parts, merge, FOREIGN if merge else np.inf, largest, root)
    piece = np.empty_like(root)
    count = number_labels(root, block.size, piece)
    label, size = piece, count  # of unknowns at first, later of the pieces of the round before
    for _ in range(ROUNDS):
        best, (value, total) = np.empty(size, np.int32), np.empty((2, size))
        args = members_of(label, size)[:2], label.view(np.uint32), links, diag
        links, diag = joined_rows(collect_strips(link_pieces, size, *args, best, value, total)), total
        joined = choose_joins(piece, best, value, total)
        if joined is None:
            break
        size, label = joined
    return piece, size
