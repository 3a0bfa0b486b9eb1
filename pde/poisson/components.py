"""Connected components of large grids in one pass over memory, compiled by numba; `nullspace` has the readable form.

A *run* is a stretch of linked cells along the last axis. Two rows of cells are joined by looking for one link in every
overlap of two runs, and most overlaps show theirs at once: little more is read than the links along the last axis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..compiled import compile_once

Array = np.ndarray[Any, Any]


def label_rows(unknown, x, y, z, nx, ny, wraps, starts, stops, firsts, parent):
    """Find the runs; write their ranges and components, and the first one of every row; return how many.

    unknown, links x, y, z : (rows, cells); a link without an unknown on both of its ends is none, so `unknown` itself
        may stand for all three where all unknowns side by side are linked
    """
    nz, count = unknown.shape[1], 0
    for row in range(unknown.shape[0]):
        firsts[row] = count
        k = 0
        while k < nz:
            if not unknown[row, k]:
                k += 1
                continue
            starts[count], parent[count] = k, count
            # extend the run while the next cell is linked to this one
            while k < nz - 1 and z[row, k] > 0 and unknown[row, k + 1]:
                k += 1
            k += 1
            stops[count] = k
            count += 1
        firsts[row + 1] = count
        for d in range(5):  # rows below along both axes, wraps of all three
            i, j = row // ny, row % ny
            # `other` is the row to compare with; `links` the row that stores the links between the two: the lower one,
            # but with a wrap the last
            other, links = row, row
            if d == 0 and i > 0:
                other = links = row - ny
            elif d == 1 and j > 0:
                other = links = row - 1
            elif d == 2 and wraps[0] and i == nx - 1:
                other = j
            elif d == 3 and wraps[1] and j == ny - 1:
                other = i * ny
            elif d < 4 or not wraps[2] or z[row, nz - 1] <= 0 or not (unknown[row, 0] and unknown[row, nz - 1]):
                continue
            a, b = firsts[row], firsts[other]
            if d == 4:
                # a periodic last axis joins the row's last run to its first; there is nothing to search
                a, b = count - 1, firsts[row]
            # merge of two sorted lists: both rows' runs in order, each overlap once
            while a < firsts[row + 1] and b < firsts[other + 1]:
                linked = d == 4
                for k in range(max(starts[a], starts[b]), min(stops[a], stops[b])):
                    if (x[links, k] if d == 0 or d == 2 else y[links, k]) > 0:
                        linked = True
                    if linked:
                        break
                if linked:
                    # union by the smaller number, paths halved on the way: a root is the first run of its component
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
                # the run that ends first has no further overlap
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


def find_grounded(extras, limit, starts, stops, firsts, of_run, singular):
    """Clear `singular` for components with an extra above the limit; tell whether others are left with one below it."""
    left, doubtful = singular.shape[0], False
    for row in range(firsts.shape[0] - 1):
        for s in range(firsts[row], firsts[row + 1]):
            if not singular[of_run[s]]:
                continue
            most = some = False
            for extra in extras:
                for k in range(starts[s], stops[s]):
                    most |= extra[row, k] > limit
                    some |= extra[row, k] > 0
            if most:
                singular[of_run[s]] = False
                left -= 1
            doubtful |= some
            if left == 0:
                return False
    return doubtful


def write_runs(starts, stops, firsts, runs):
    """Write the run of every cell, -1 without unknown."""
    for row in range(firsts.shape[0] - 1):
        runs[row, :] = -1
        for s in range(firsts[row], firsts[row + 1]):
            runs[row, starts[s] : stops[s]] = s


def find_grounded_cells(cells, nx, ny, fixed, wraps, starts, stops, firsts, of_run, singular):
    """Clear `singular` for components with a face towards p = 0: next to OPEN (2), or on a fixed side.

    fixed : (3, 2), whether the ends of an axis are Dirichlet sides
    """
    left, nz = singular.shape[0], cells.shape[1]
    for row in range(firsts.shape[0] - 1):
        i, j = row // ny, row % ny
        for s in range(firsts[row], firsts[row + 1]):
            if not singular[of_run[s]]:
                continue
            start, stop = starts[s], stops[s]
            found = (fixed[0, 0] and i == 0) or (fixed[0, 1] and i == nx - 1)
            found |= (fixed[1, 0] and j == 0) or (fixed[1, 1] and j == ny - 1)
            found |= (fixed[2, 0] and start == 0) or (fixed[2, 1] and stop == nz)
            if start > 0 or wraps[2]:
                found |= cells[row, start - 1 if start > 0 else nz - 1] == 2
            if stop < nz or wraps[2]:
                found |= cells[row, stop if stop < nz else 0] == 2
            for side in range(4):
                if found:
                    break
                u, v = i + (side == 0) - (side == 1), j + (side == 2) - (side == 3)
                if (0 <= u < nx or wraps[0]) and (0 <= v < ny or wraps[1]):
                    other = (u % nx) * ny + v % ny
                    for k in range(start, stop):
                        found |= cells[other, k] == 2
            if found:
                singular[of_run[s]] = False
                left -= 1
                if left == 0:
                    return


def subtract_means(g, starts, stops, firsts, of_run, singular, totals, counts):
    """Subtract from rows of cells, in place, their mean over each singular component; totals, counts come in as 0."""
    for row in range(firsts.shape[0] - 1):
        for s in range(firsts[row], firsts[row + 1]):
            component = of_run[s]
            if singular[component]:
                total = 0.0
                for k in range(starts[s], stops[s]):
                    total += g[row, k]
                totals[component] += total
                counts[component] += stops[s] - starts[s]
    for row in range(firsts.shape[0] - 1):
        for s in range(firsts[row], firsts[row + 1]):
            component = of_run[s]
            if singular[component]:
                mean = totals[component] / counts[component]
                for k in range(starts[s], stops[s]):
                    g[row, k] -= mean


class Runs(NamedTuple):
    """Ranges of the runs along their rows, the first run of every row, the component of every run, the grid."""

    starts: Array
    stops: Array
    firsts: Array
    of_run: Array
    shape: tuple[int, ...]

    def of_cells(self) -> Array:
        """Return the run of every cell, -1 without unknown."""
        runs = np.empty((len(self.firsts) - 1, self.shape[-1]), np.int32)
        compile_once(write_runs)(self.starts, self.stops, self.firsts, runs)
        return runs.reshape(self.shape)


def label_runs_compiled(unknown: Array, links: list[Array], periodic: tuple[bool, ...]) -> Runs:
    """Return the runs and the component of every run, as `nullspace.label_runs`.

    Examples
    --------
    >>> ones = np.ones((2, 1, 3))
    >>> found = label_runs_compiled(ones > 0, [ones * 0, ones * 0, ones * [1, 0, 0]], (False,) * 3)
    >>> found.of_cells().tolist(), found.of_run.tolist()
    ([[[0, 0, 1]], [[2, 2, 3]]], [0, 1, 2, 3])
    """
    nx, ny, nz = unknown.shape
    rows, cells = (nx * ny, nz), unknown.size
    starts, stops, parent = (np.empty(cells, np.int32) for _ in range(3))  # memory is taken where it is written
    flat = (np.ascontiguousarray(v).reshape(rows) for v in (unknown, *links))
    firsts = np.empty(rows[0] + 1, np.int32)
    count = compile_once(label_rows)(*flat, nx, ny, np.array(periodic), starts, stops, firsts, parent)
    return Runs(starts[:count].copy(), stops[:count].copy(), firsts, parent[:count].copy(), unknown.shape)


def find_ungrounded_compiled(extras: list[Array], limit: float, runs: Runs) -> tuple[Array, bool]:
    """Return which components have no extra above the limit, and whether any of them may have some below it."""
    flat = tuple(np.ascontiguousarray(g).reshape(-1, runs.shape[-1]) for g in extras)
    singular = np.ones(int(runs.of_run.max(initial=-1)) + 1, dtype=bool)
    return singular, compile_once(find_grounded)(flat, limit, *runs[:4], singular)


def find_ungrounded_cells(cells: Array, dirichlet: Array, periodic: tuple[bool, ...], runs: Runs) -> Array:
    """Return which components of voxels have no face towards p = 0; dirichlet : (3, 2), of the sides."""
    nx, ny, nz = runs.shape
    singular = np.ones(int(runs.of_run.max(initial=-1)) + 1, dtype=bool)
    compile_once(find_grounded_cells)(cells.reshape(-1, nz), nx, ny, dirichlet, np.array(periodic), *runs[:4], singular)
    return singular


def subtract_component_means(g: Array, runs: Runs, singular: Array) -> Array:
    """Return a grid minus its mean over each singular component; nothing else changes.

    Examples
    --------
    >>> runs = label_runs_compiled(np.ones((1, 1, 3)) > 0, [np.ones((1, 1, 3))] * 3, (False,) * 3)
    >>> subtract_component_means(np.array([[[1.0, 2.0, 6.0]]]), runs, np.array([True])).tolist()
    [[[-2.0, -1.0, 3.0]]]
    """
    out = np.array(g, order="C")
    sums = np.zeros(len(singular)), np.zeros(len(singular))
    compile_once(subtract_means)(out.reshape(-1, runs.shape[-1]), *runs[:4], singular, *sums)
    return out


def compile_components(in_bytes: bool) -> None:
    """Compile for voxels or for double precision, so that no solve has to."""
    ones = np.ones((1, 1, 2))
    runs = label_runs_compiled(ones > 0, [ones > 0 if in_bytes else ones] * 3, (False,) * 3)
    runs.of_cells()
    subtract_component_means(ones, runs, np.ones(1, bool))
    if in_bytes:
        find_ungrounded_cells(np.ones((1, 1, 2), np.uint8), np.zeros((3, 2), bool), (False,) * 3, runs)
    else:
        find_ungrounded_compiled([ones] * 4, 0.0, runs)
