"""Mazes: corridors several cells wide between walls one cell thick, carved by recursive backtracking."""

from __future__ import annotations

import numpy as np

from .geometries import FLUID, OPEN, SOLID, Cells
from .media import box_extents, draw_integer

Passage = tuple[tuple[int, ...], int]  # a room and the axis along which it opens to the next room


def _carve_tree(rooms: tuple[int, ...], rng: np.random.Generator) -> list[Passage]:
    """Passages of a spanning tree of the rooms, by depth-first search from the first room."""
    stack, seen, passages = [(0,) * len(rooms)], {(0,) * len(rooms)}, []
    while stack:
        room = stack[-1]
        steps = []
        for axis in range(len(rooms)):
            for sign in (1, -1):
                there = tuple(k + sign * (a == axis) for a, k in enumerate(room))
                if 0 <= there[axis] < rooms[axis] and there not in seen:
                    steps.append((axis, there))
        if not steps:
            stack.pop()
            continue
        axis, there = steps[draw_integer(rng, (0, len(steps) - 1))]
        passages.append((min(room, there), axis))
        seen.add(there)
        stack.append(there)
    return passages


def _open_loops(rooms: tuple[int, ...], rng: np.random.Generator, fraction: float) -> list[Passage]:
    """Open a random fraction of all walls, so that some mazes are no trees."""
    chosen = []
    for room in np.ndindex(*rooms):
        for axis, draw in enumerate(rng.random(len(rooms))):
            if draw < fraction and room[axis] + 1 < rooms[axis]:
                chosen.append((room, axis))
    return chosen


def maze(
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    rooms: tuple[int, int] = (4, 10),
    loops: float = 0.05,
    open_top: float = 0.5,
) -> Cells:
    """Maze of corridors with walls one cell thick, open at the whole top or at one exit in it.

    `rooms` counts rooms along the mean box length; fewer where the grid cannot hold a wall and a corridor for each.

    Examples
    --------
    >>> cells = maze((12, 12), np.random.default_rng(31415))
    >>> sorted(np.unique(cells).tolist())
    [0, 1, 2]
    """
    wanted, top_is_open = draw_integer(rng, rooms), rng.random() < open_top
    inside = (*shape[:-1], shape[-1] - 1)  # the top layer is not part of the maze: it holds the exit
    counts = tuple(
        max(1, min(round(wanted * float(e)), n // 2)) for n, e in zip(inside, box_extents(shape), strict=True)
    )
    edges = [[j * n // m for j in range(m + 1)] for n, m in zip(inside, counts, strict=True)]
    cells = np.full(shape, FLUID, np.uint8)
    for axis, walls in enumerate(edges):  # a room starts with its wall, except the first, which the box closes
        np.moveaxis(cells, axis, 0)[walls[1:-1]] = SOLID
    exit_draw = rng.random(len(shape) - 1)
    for room, axis in _carve_tree(counts, rng) + _open_loops(counts, rng, loops):
        window = [slice(e[k] + (k > 0), e[k + 1]) for e, k in zip(edges, room, strict=True)]
        window[axis] = slice(edges[axis][room[axis] + 1], edges[axis][room[axis] + 1] + 1)
        cells[tuple(window)] = FLUID
    if top_is_open:
        cells[..., -1] = OPEN
        return cells
    cells[..., -1] = SOLID
    exit_room = [min(int(u * m), m - 1) for u, m in zip(exit_draw, counts[:-1], strict=True)]
    exit_window = [slice(e[k] + (k > 0), e[k + 1]) for e, k in zip(edges[:-1], exit_room, strict=True)]
    cells[..., -1][tuple(exit_window)] = OPEN
    return cells
