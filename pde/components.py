"""Connected components of large grids in one pass over memory, compiled by numba; `nullspace` has the readable form.

A *run* is a stretch of linked cells along the last axis. Two rows of cells are joined by looking for one link in every
overlap of two runs, and most overlaps show theirs at once: little more is read than the links along the last axis.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def label_rows(unknown, x, y, z, nx, ny, wraps, runs, starts, stops, firsts, parent):
    """Find the runs; write their ranges and components, and the first one of every row; return how many.

    unknown, links x, y, z and runs : (rows, cells); a link without an unknown on both of its ends is none, so `unknown`
        itself may stand for all three where all unknowns side by side are linked
    """
    nz, count = unknown.shape[1], 0
    for row in range(unknown.shape[0]):
        firsts[row] = count
        k = 0
        while k < nz:
            if not unknown[row, k]:
                runs[row, k] = -1
                k += 1
                continue
            starts[count], parent[count] = k, count
            while k < nz - 1 and z[row, k] > 0 and unknown[row, k + 1]:
                k += 1
            k += 1
            stops[count] = k
            runs[row, starts[count] : k] = count
            count += 1
        firsts[row + 1] = count
        for d in range(5):  # rows below along both axes, wraps of all three
            i, j = row // ny, row % ny
            other, links = row, row
            if d == 0 and i > 0:
                other = links = row - ny
            elif d == 1 and j > 0:
                other = links = row - 1
            elif d == 2 and wraps[0] and i == nx - 1:
                other = j
            elif d == 3 and wraps[1] and j == ny - 1:
                other = i * ny
            elif d < 4 or not wraps[2] or z[row, nz - 1] <= 0 or not unknown[row, 0]:
                continue
            a, b = firsts[row], firsts[other]
            if d == 4:
                a, b = runs[row, nz - 1], runs[row, 0]
            while a < firsts[row + 1] and b < firsts[other + 1]:
                linked = d == 4
                for k in range(max(starts[a], starts[b]), min(stops[a], stops[b])):
                    if (x[links, k] if d == 0 or d == 2 else y[links, k]) > 0:
                        linked = True
                    if linked:
                        break
                if linked:
                    s, t = a, b
                    while parent[s] != s:
                        parent[s] = parent[parent[s]]
                        s = parent[s]
                    while parent[t] != t:
                        parent[t] = parent[parent[t]]
                        t = parent[t]
                    parent[max(s, t)] = min(s, t)
                if d == 4:
                    break
                if stops[a] < stops[b]:
                    a += 1
                else:
                    b += 1
    components = 0
    for s in range(count):  # a parent comes before its children
        if parent[s] == s:
            parent[s], components = components, components + 1
        else:
            parent[s] = parent[parent[s]]
    return count


def find_earth(extras, limit, runs, of_run, singular):
    """Clear `singular` for components with an extra above the limit; tell whether others are left with one below it."""
    left, doubtful = singular.shape[0], False
    for row in range(runs.shape[0]):
        for extra in extras:
            some = False
            for k in range(runs.shape[1]):
                some |= extra[row, k] > 0
            if not some:
                continue
            for k in range(runs.shape[1]):
                if extra[row, k] > limit:
                    component = of_run[runs[row, k]]
                    left -= singular[component]
                    singular[component] = False
                elif extra[row, k] > 0:
                    doubtful = True
        if left == 0:
            return False
    return doubtful and left > 0


@cache
def compiled() -> tuple[Any, Any]:
    """Return `label_rows` and `find_earth` as machine code, kept on disk where a cache can be written."""
    import numba

    made = []
    for function in (label_rows, find_earth):
        try:
            made.append(numba.njit(cache=True, nogil=True)(function))
        except RuntimeError:  # "cannot cache function: no locator available"
            made.append(numba.njit(nogil=True)(function))
    return made[0], made[1]


def label(unknown: Array, links: list[Array], periodic: tuple[bool, ...]) -> tuple[Array, Array]:
    """Return the run of every cell (-1: no unknown), and the component of every run, as `nullspace.label`.

    Examples
    --------
    >>> ones = np.ones((2, 1, 3))
    >>> runs, of_run = label(ones > 0, [ones * 0, ones * 0, ones * [1, 0, 0]], (False,) * 3)
    >>> runs.tolist(), of_run.tolist()
    ([[[0, 0, 1]], [[2, 2, 3]]], [0, 1, 2, 3])
    """
    nx, ny, nz = unknown.shape
    rows, cells = (nx * ny, nz), unknown.size
    runs = np.empty(rows, np.int32)
    starts, stops, parent = (np.empty(cells, np.int32) for _ in range(3))  # memory is taken where it is written
    flat = (np.ascontiguousarray(v).reshape(rows) for v in (unknown, *links))
    firsts = np.empty(rows[0] + 1, np.int32)
    count = compiled()[0](*flat, nx, ny, np.array(periodic), runs, starts, stops, firsts, parent)
    return runs.reshape(unknown.shape), parent[:count].copy()


def earthed(extras: list[Array], limit: float, runs: Array, of_run: Array, count: int) -> tuple[Array, bool]:
    """Return which components have no extra above the limit, and whether any of them may have some below it."""
    rows = (-1, runs.shape[-1])
    singular = np.ones(count, dtype=bool)
    flat = tuple(np.ascontiguousarray(g).reshape(rows) for g in extras)
    return singular, compiled()[1](flat, limit, runs.reshape(rows), of_run, singular)


def compile_components() -> None:
    """Compile for double precision and for bytes, so that no solve has to."""
    ones = np.ones((1, 1, 2))
    label(ones > 0, [ones > 0] * 3, (False,) * 3)
    runs, of_run = label(ones > 0, [ones] * 3, (False,) * 3)
    earthed([ones] * 4, 0.0, runs, of_run, 1)
