"""Both classical coarse operators of a fine level, and what the learned blend reads besides: one pass, row by row."""

from __future__ import annotations

import numpy as np

from .cpu_jit import ordered_row_kernel as row_kernel
from .cpu_jit import strip_kernel
from .setup import HALF, ONE, TINY, ZERO
from .setup_paths import around_row, row_space


@row_kernel
def add(total, row, factor):
    """Add a row times a factor."""
    for k in range(row.shape[0]):
        total[k] += factor * row[k]


@row_kernel
def add_paths(paths, total):
    """Add a row of conductances, how many are open, and their squares, to three rows."""
    add(total[1], paths, ONE)
    for k in range(paths.shape[0]):
        total[3, k] += ONE if paths[k] > 0 else ZERO
    for k in range(paths.shape[0]):
        total[4, k] += paths[k] * paths[k]


@row_kernel
def add_ground(ground, inner, total):
    """Add conductances to p = 0 in series with half the inner link."""
    for k in range(ground.shape[0]):
        r = HALF / max(inner[k], TINY) if inner[k] > 0 else ZERO
        total[k] += ONE / (ONE / max(ground[k], TINY) + r) if ground[k] > 0 else ZERO


@row_kernel
def any_positive(row):
    """Tell whether a row has a positive entry."""
    largest = ZERO
    for k in range(row.shape[0]):
        largest = max(largest, row[k])
    return largest > 0


@row_kernel
def add_upper(path, first, links, p, n, periodic, total):
    """Add what leaves a row of cells upwards, across rows: only the upper cells of a block do."""
    if p & 1 or (p == n - 1 and periodic):
        own = HALF if p & 1 else ZERO
        other = HALF if (p + 1 if p < n - 1 else 0) < n - 1 else ZERO
        add(total[0], links, ONE / (ONE + own + other))
        # the lower cell of an interface stores it as its outer path, but not the single last cell of an odd periodic
        # axis: there the upper cell does
        add_paths(path if p & 1 else first, total)


@row_kernel
def add_along(path, link, periodic, straight, total):
    """Add what leaves blocks upwards along a row."""
    n = link.shape[0]
    for k in range(n):
        straight[k] = path[k] if k & 1 else ZERO
    if n & 1 and periodic:
        straight[n - 1] = path[0]
    add_paths(straight, total)
    for k in range(n):
        straight[k] = HALF * link[k] if k & 1 else ZERO
    if n & 1:  # next to, or in, the block of one cell at the end
        if n > 1:
            straight[n - 2] = link[n - 2] / np.float32(1.5)
        straight[n - 1] = link[n - 1] / np.float32(1.5) if periodic else ZERO
    add(total[0], straight, ONE)


@row_kernel
def collect(row, factor, out):
    """Add up the cells of blocks along a row."""
    n, m = row.shape[0], out.shape[0]
    if factor == 1:
        for k in range(m):
            out[k] = row[k]
        return
    for k in range(n // 2):
        out[k] = row[2 * k] + row[2 * k + 1]
    if n & 1:
        out[m - 1] = row[n - 1]


@row_kernel
def sums_of_row(index, problem, results):
    """Write one row of both coarse operators."""
    fine, paths, size, factors, periodic, coarse = problem
    w, ground, shift, diag = fine
    uniform, path, grounds, shifts, facts = results
    nx, ny, nz = size[0], size[1], size[2]
    space = row_space(nz)
    total, straight = np.zeros((3, 5, nz), np.float32), np.empty(nz, np.float32)  # per axis: see `collect` below
    cells = np.zeros((2, nz), np.float32)
    for u in range(factors[0] * factors[1]):
        i, j = (
            (index // coarse[1]) * factors[0] + u % factors[0],
            (index % coarse[1]) * factors[1] + u // factors[0],
        )
        if i >= nx or j >= ny:
            continue
        row = i * ny + j
        start, stop = row * nz, (row + 1) * nz
        for k in range(nz):
            cells[0, k] += ONE if diag[start + k] > 0 else ZERO
        add(cells[1], shift[start:stop], ONE)
        for d in range(3):
            own, links = paths[d, start:stop], w[d, start:stop]
            g = ground[d, start:stop]
            grounded = any_positive(g)
            if factors[d] == 1:
                add(total[d, 0], links, ONE)
                add_paths(links, total[d])
                if grounded:
                    add(total[d, 2], g, ONE)
                continue
            if grounded:
                add_ground(g, around_row(d, w, diag, row, size, space)[0], total[d, 2])
            if d == 0:
                first = paths[0, j * nz : (j + 1) * nz]
                add_upper(own, first, links, i, nx, periodic[0], total[0])
            elif d == 1:
                first = paths[1, i * ny * nz : (i * ny + 1) * nz]
                add_upper(own, first, links, j, ny, periodic[1], total[1])
            else:
                add_along(own, links, periodic[2], straight, total[2])
    begin, end = index * coarse[2], (index + 1) * coarse[2]
    for d in range(3):
        collect(total[d, 0], factors[2], uniform[d, begin:end])
        collect(total[d, 1], factors[2], path[d, begin:end])
        collect(total[d, 2], factors[2], grounds[d, begin:end])
        collect(total[d, 3], factors[2], facts[1 + d, begin:end])
        collect(total[d, 4], factors[2], facts[4 + d, begin:end])
        if coarse[d] == 1:  # a periodic axis of one block couples to itself: no link
            for k in range(begin, end):
                uniform[d, k] = path[d, k] = 0
    collect(cells[1], factors[2], shifts[begin:end])
    collect(cells[0], factors[2], facts[0, begin:end])
    for k in range(begin, end):
        facts[0, k] /= np.float32(factors[0] * factors[1] * factors[2])


@strip_kernel
def coarse_sums(start, stop, problem, results):
    """Write both classical coarse operators, and `facts`: children; open paths and sum of squared paths per axis.

    For rows start..stop of coarse cells.
    """
    for index in range(start, stop):
        sums_of_row(index, problem, results)
