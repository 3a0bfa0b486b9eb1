"""Find the grid in the pattern of a matrix: neighbours along an axis lie a fixed number of rows apart.

A grid (nx, ny, nz) numbered with its last axis fastest has couplings at distances 1, nz and ny nz, and nz - 1,
(ny - 1) nz, (nx - 1) ny nz where an axis wraps. Numbering with x fastest is the same grid with its axes reversed, so
the order needs no guess. A mask whose cells alone are numbered leaves no such distances: `cell_search` looks for those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from krylearn.pde.compiled import compile_once

Array = np.ndarray[Any, Any]
MOST = 24  # distances that a 7-point grid can have, and a few more


def find_distances(indptr, indices, data, step, distances):
    """Collect the distances from every `step`-th row to the columns above it; return how many there are."""
    found, largest = 0, len(distances)
    for row in range(0, len(indptr) - 1, step):
        for e in range(indptr[row], indptr[row + 1]):
            distance = indices[e] - row
            if distance <= 0 or data[e] == 0:
                continue
            k = 0
            while k < found and distances[k] != distance:
                k += 1
            if k == found:
                if found == largest:
                    return largest + 1
                distances[found] = distance
                found += 1
    return found


def grids_of(csr: Any, step: int = 1) -> Iterator[tuple[int, ...]]:
    """Yield the shapes of grids that the distances allow, the most likely first; nothing if there are too many.

    step : look at every `step`-th row only. A shape that is found so has to be tried, as every other; one that is not
        may be found by looking at all of them.

    Examples
    --------
    >>> import scipy.sparse
    >>> line = scipy.sparse.diags_array([-np.ones(3), 2 * np.ones(4), -np.ones(3)], offsets=[-1, 0, 1])
    >>> next(grids_of(scipy.sparse.csr_array(scipy.sparse.kronsum(line, line))))
    (4, 4)
    """
    n = csr.shape[0]
    distances = np.zeros(MOST, dtype=np.int64)
    found = compile_once(find_distances)(csr.indptr, csr.indices, csr.data, step, distances)
    if found > MOST:
        return
    known = set(distances[:found].tolist())
    yield from sorted(_grids(n, known), key=lambda shape: (len(shape), min(shape) == 1))


def _grids(n: int, known: set[int]) -> Iterator[tuple[int, ...]]:
    """Yield every shape whose neighbours and ends have these distances and no others."""
    strides = sorted(s for s in known | {n} if n % s == 0 and s > 1)
    for rows in strides:  # 2D: (n / rows, rows)
        if known <= _distances((n // rows, rows)):
            yield (n // rows, rows)
    for rows in strides:
        for planes in strides:
            if rows < planes < n and planes % rows == 0 and known <= _distances((n // planes, planes // rows, rows)):
                yield (n // planes, planes // rows, rows)


def _distances(shape: tuple[int, ...]) -> set[int]:
    """Return all distances between neighbours, and between the ends of axes."""
    allowed, stride = set(), 1
    for size in reversed(shape):
        allowed |= {stride, stride * (size - 1)} if size > 1 else set()
        stride *= size
    return allowed
