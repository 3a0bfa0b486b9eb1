"""Find cells of a grid whose rows alone are in a matrix: a mask that nobody handed over.

Only some cells of a box are numbered (fluid around obstacles), with the last axis or the first one fastest, so
distances between neighbours vary from row to row and `grid_search` finds nothing. But the graph tells:

* A cell has at most three neighbours with higher numbers. In their order they lie along the fast, the middle and the
  slow axis, and the one along the fast axis has the next number.
* Two of them and the cell that both share close a square, whose opposite edges lie along one axis. So an axis that is
  known somewhere is known along all squares in a row.
* What remains (corridors as wide as one cell) is told by the planes: an edge along the slow axis leaves its plane.

Then cells are placed one beside the other, component by component. Any placing without contradiction will do, the
original or not: between cells that are not coupled there is a wall.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from krylearn.pde.compiled import compile_once

Array = np.ndarray[Any, Any]
FAST, MIDDLE, SLOW = 1, 2, 4  # bits of the axes that an edge may lie along
PASSES = 50  # over all rows, of each kind: geometries need fewer than ten
EMPTIEST = 16  # cells of the box for each row: beyond, the box would cost more than it gains


@dataclass(frozen=True)
class Placing:
    """Where the rows of a matrix lie.

    shape : (nx, ny) or (nx, ny, nz);  numbering : (n,) flat cell of each row, different ones
    """

    shape: tuple[int, ...]
    numbering: Array


def find_neighbours(indptr, indices, data, above, below):
    """Write the neighbours above and below each row, the nearest number first, -1 for none; False: one has too many."""
    for row in range(len(indptr) - 1):
        for e in range(indptr[row], indptr[row + 1]):
            other = indices[e]
            if other == row or data[e] == 0:
                continue
            slots = above[row] if other > row else below[row]
            distance = abs(other - row)
            k = 0
            while k < 3 and slots[k] >= 0 and abs(slots[k] - row) < distance:
                k += 1
            if k < 3 and slots[k] == other:  # a duplicate
                continue
            if slots[2] >= 0:
                return False
            for m in range(2, k, -1):
                slots[m] = slots[m - 1]
            slots[k] = other
    return True


def number_edges(above, below, edges_below):
    """Write the number of the edge to each neighbour below; that of the k-th edge up from a row is 3 row + k."""
    for row in range(len(above)):
        for k in range(3):
            other = above[row, k]
            for m in range(3):
                if other >= 0 and below[other, m] == row:
                    edges_below[other, m] = 3 * row + k


def find_squares(above, pairs):
    """Write opposite edges of all squares, (6 n, 2); return how many pairs there are, or -1 if this is no grid.

    Two cells on a grid that have a neighbour below in common have at most one above.
    """
    count = 0
    for row in range(len(above)):  # the lowest number of a square: its two neighbours lie above it
        for a in range(2):
            for b in range(a + 1, 3):
                j, k = above[row, a], above[row, b]
                if j < 0 or k < 0:
                    continue
                found = 0
                for s in range(3):
                    for t in range(3):
                        if above[j, s] >= 0 and above[j, s] == above[k, t]:
                            found += 1
                            if found > 1:
                                return -1
                            pairs[count, 0], pairs[count, 1] = 3 * row + a, 3 * k + t
                            pairs[count + 1, 0], pairs[count + 1, 1] = 3 * row + b, 3 * j + s
                            count += 2
    return count


def restrict_axes(above, edges_below, kind, allowed):
    """Cross out axes until nothing changes: the three of a row lie along different ones, in order. False: none is left.

    After many passes the rest is left as it is; whatever is placed in the end is looked at as a whole.
    kind : class of each edge, whose edges are parallel;  allowed : for each class, the axes left
    """
    edges = np.empty(3, dtype=np.int64)
    for _ in range(PASSES):
        changed = False
        for row in range(len(above)):
            for up in range(2):
                count = 0
                for k in range(3):
                    if up and above[row, k] >= 0:
                        edges[count] = kind[3 * row + k]
                        count += 1
                    elif not up and edges_below[row, k] >= 0:
                        edges[count] = kind[edges_below[row, k]]
                        count += 1
                least = 1  # the lowest axis that the edge before leaves
                for k in range(count):
                    kept = allowed[edges[k]] & ~(least - 1)
                    if kept == 0:
                        return False
                    changed |= kept != allowed[edges[k]]
                    allowed[edges[k]] = kept
                    least = 2 * (kept & -kept)
                most = 4
                for k in range(count - 1, -1, -1):
                    kept = allowed[edges[k]] & (2 * most - 1)
                    if kept == 0:
                        return False
                    changed |= kept != allowed[edges[k]]
                    allowed[edges[k]] = kept
                    highest = 4 if kept & 4 else (2 if kept & 2 else 1)
                    most = highest // 2
        if not changed:
            break
    return True


def narrow_planes(above, kind, allowed, inside, begins, limit):
    """Decide between the middle and the slow axis by where planes begin; tell whether anything was decided.

    A plane is a range of rows. Edges within a plane pass the beginning of none, edges along the slow axis that of one.

    inside : (n + 2,) differences of the number of reasons why no plane begins at a row; kept from call to call
    begins : (n + 1, 2) work
    limit : where nothing speaks for either, take the slow axis for distances in number beyond it; 0: leave it open
    """
    n, decided = len(above), False
    for row in range(n):
        for k in range(3):
            if above[row, k] >= 0 and allowed[kind[3 * row + k]] <= MIDDLE:
                inside[row + 1] += 1
                inside[above[row, k] + 1] -= 1
    # begins[row] : how many rows up to this one may begin a plane, how many of them are known to
    passed, possible = 0, 0
    for row in range(n):
        passed += inside[row]
        possible += passed == 0
        begins[row, 0], begins[row, 1] = possible, 0
    for row in range(n):
        for k in range(3):
            other = above[row, k]
            if other >= 0 and allowed[kind[3 * row + k]] == SLOW and begins[other, 0] - begins[row, 0] == 1:
                low, high = row, other  # the only one that may: its place by bisection
                while high - low > 1:
                    middle = (low + high) // 2
                    if begins[middle, 0] > begins[row, 0]:
                        high = middle
                    else:
                        low = middle
                begins[high, 1] = 1
    known = 0
    for row in range(n):
        known += begins[row, 1]
        begins[row, 1] = known
    for row in range(n):
        for k in range(3):
            other = above[row, k]
            if other < 0:
                continue
            which = kind[3 * row + k]
            if allowed[which] == SLOW and begins[other, 1] > begins[row, 1]:  # no second one beside the known one
                low, high = row, other
                while high - low > 1:
                    middle = (low + high) // 2
                    if begins[middle, 1] > begins[row, 1]:
                        high = middle
                    else:
                        low = middle
                decided |= begins[other, 0] - begins[row, 0] > 1
                inside[row + 1] += 1
                inside[high] -= 1
                inside[high + 1] += 1
                inside[other + 1] -= 1
            if allowed[which] == MIDDLE | SLOW:
                if begins[other, 1] > begins[row, 1]:
                    allowed[which], decided = SLOW, True
                elif begins[other, 0] == begins[row, 0]:
                    allowed[which], decided = MIDDLE, True
                elif limit > 0:
                    allowed[which], decided = SLOW if other - row > limit else MIDDLE, True
    return decided


def place_cells(above, below, edges_below, kind, allowed, at, component, queue):
    """Walk from cell to cell; at : (n, 3) slow, middle, fast; return how many components, or -1 at a contradiction."""
    count = 0
    for first in range(len(above)):
        if component[first] >= 0:
            continue
        component[first], queue[0], head, tail = count, first, 0, 1
        while head < tail:
            row = queue[head]
            head += 1
            for k in range(6):
                other = above[row, k] if k < 3 else below[row, k - 3]
                if other < 0:
                    continue
                edge = 3 * row + k if k < 3 else edges_below[row, k - 3]
                axis = allowed[kind[edge]]
                d = 2 if axis == FAST else (1 if axis == MIDDLE else 0)
                step = 1 if k < 3 else -1
                if component[other] < 0:
                    component[other] = count
                    queue[tail] = other
                    tail += 1
                    for c in range(3):
                        at[other, c] = at[row, c] + (step if c == d else 0)
                else:
                    for c in range(3):
                        if at[other, c] != at[row, c] + (step if c == d else 0):
                            return -1
        count += 1
    return count


def find_cells(csr: Any) -> Placing | None:
    """Place the rows of a matrix in a box so that coupled ones are neighbours; None if that was not possible.

    csr : SciPy CSR with a symmetric pattern, rows numbered along the axes. O(n) time; about 100 B for each row

    Examples
    --------
    >>> import scipy.sparse
    >>> ring = np.array([[0, 1], [1, 2], [0, 3], [2, 4], [3, 5], [4, 7], [5, 6], [6, 7]])  # 3 x 3 without its centre
    >>> pattern = scipy.sparse.coo_array((np.ones(8), ring.T), (8, 8))
    >>> found = find_cells(scipy.sparse.csr_array(pattern + pattern.T))
    >>> found.shape, found.numbering.tolist()
    ((3, 3), [0, 1, 2, 3, 5, 6, 7, 8])
    """
    n = csr.shape[0]
    above, below, edges_below = (np.full((n, 3), -1, dtype=np.int64) for _ in range(3))
    if not compile_once(find_neighbours)(csr.indptr, csr.indices, csr.data, above, below):
        return None
    compile_once(number_edges)(above, below, edges_below)
    if not (above >= 0).sum() == (below >= 0).sum() == (edges_below >= 0).sum():
        return None  # the pattern is not symmetric
    pairs = np.empty((6 * n, 2), dtype=np.int64)
    count = compile_once(find_squares)(above, pairs)
    if count < 0:
        return None
    pairs = pairs[:count]
    same = scipy.sparse.coo_array((np.ones(len(pairs), dtype=bool), pairs.T), (3 * n, 3 * n))
    kind = scipy.sparse.csgraph.connected_components(same, directed=False)[1].astype(np.int64)
    graph = above, below, edges_below, kind
    if (above[:, 2] < 0).all() and (below[:, 2] < 0).all():  # perhaps in a plane
        at = _place(*graph, FAST | MIDDLE)
        found = None if at is None else _pack(at[0][:, [1, 0, 2]], at[1])
        if found is not None:
            return Placing(found.shape[::2], found.numbering)
    at = _place(*graph, FAST | MIDDLE | SLOW)
    return None if at is None else _pack(*at)


def _place(above: Array, below: Array, edges_below: Array, kind: Array, axes: int) -> tuple[Array, Array] | None:
    """Return (at, component) with at : (n, 3), if edges lie along these axes; None at a contradiction."""
    n = len(above)
    allowed = np.full(int(kind.max()) + 1, axes, dtype=np.int64)
    # along the fast axis lies the next number or nothing
    allowed[kind.reshape(n, 3)[above > np.arange(1, n + 1)[:, None]]] &= MIDDLE | SLOW
    restrict = compile_once(restrict_axes)
    if not restrict(above, edges_below, kind, allowed):
        return None
    nearest = kind[::3][above[:, 0] >= 0]
    allowed[nearest[(allowed[nearest] & FAST) > 0]] = FAST  # where it is still possible, it is what is tried
    if not restrict(above, edges_below, kind, allowed):
        return None
    inside, begins = np.zeros(n + 2, dtype=np.int64), np.empty((n + 1, 2), dtype=np.int64)
    for guess in (False, True):
        limit = _between_rows_and_planes(above, allowed[kind].reshape(n, 3)) if guess else 0
        for _ in range(PASSES):
            if not compile_once(narrow_planes)(above, kind, allowed, inside, begins, limit):
                break
            if not restrict(above, edges_below, kind, allowed):
                return None
    at, component, queue = np.zeros((n, 3), dtype=np.int64), np.full(n, -1, dtype=np.int64), np.empty(n, dtype=np.int64)
    count = compile_once(place_cells)(above, below, edges_below, kind, allowed, at, component, queue)
    return (at, component) if count > 0 else None


def _between_rows_and_planes(above: Array, axes: Array) -> int:
    """Return a distance in number between those of neighbours along the middle and along the slow axis."""
    distances = above - np.arange(len(above))[:, None]
    typical = []
    for axis, power in ((MIDDLE, 1 / 3), (SLOW, 2 / 3)):
        known = distances[(above >= 0) & (axes == axis)]
        typical.append(np.median(known) if known.size else len(above) ** power)
    return max(1, int(math.sqrt(typical[0] * typical[1])))


def _pack(at: Array, component: Array) -> Placing | None:
    """Put the boxes of all components into one: along the fast axis, then the middle one, then the slow one."""
    count = int(component.max()) + 1
    low = np.full((count, 3), np.iinfo(np.int64).max)
    high = np.full((count, 3), np.iinfo(np.int64).min)
    np.minimum.at(low, component, at)
    np.maximum.at(high, component, at)
    sizes = high - low + 1
    room = sizes.max(0)
    many = (sizes > 1).any(1)  # single cells fill what is left
    origin, corner, slab, shelf = np.zeros((count, 3), dtype=np.int64), np.zeros(3, dtype=np.int64), 0, 0
    order = np.lexsort((-sizes[:, 2], -sizes[:, 1], -sizes[:, 0]))
    for c in order[many[order]]:
        size = sizes[c]
        if corner[2] + size[2] > room[2]:  # the next shelf
            corner[1], corner[2], shelf = corner[1] + shelf, 0, 0
        if corner[1] + size[1] > room[1]:  # the next slab
            corner[:], slab, shelf = (corner[0] + slab, 0, 0), 0, 0
        origin[c] = corner
        corner[2] += size[2]
        slab, shelf = max(slab, size[0]), max(shelf, size[1])
    layer = int(room[1] * room[2])
    length = max(int((origin[:, 0] + sizes[:, 0]).max()), -(-len(at) // layer))
    shape = (length, int(room[1]), int(room[2]))
    total = math.prod(shape)
    if total > max(EMPTIEST * len(at), 4096):
        return None
    cells = at - low[component] + origin[component]
    numbering = np.ravel_multi_index(tuple(cells.T), shape)
    single = ~many[component]
    taken = np.bincount(numbering[~single], minlength=total)
    numbering[single] = np.flatnonzero(taken == 0)[: int(single.sum())]
    return Placing(shape, numbering) if taken.max(initial=0) <= 1 else None
