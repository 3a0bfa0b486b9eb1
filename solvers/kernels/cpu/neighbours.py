"""Neighbours by flat index on C-ordered grids; every axis wraps, as links do."""

from __future__ import annotations

from .compile import ordered_row_kernel as row_kernel


@row_kernel
def below(c, p, n, t):
    """Index of the lower neighbour of cell c at position p along an axis of n cells with stride t."""
    return c - t if p > 0 else c + (n - 1) * t


@row_kernel
def above(c, p, n, t):
    """Index of the upper neighbour."""
    return c + t if p < n - 1 else c - (n - 1) * t


@row_kernel
def four_sides(row, nx, ny):
    """Return the position of a row of cells across rows, and the rows below and above it along both axes."""
    i, j = row // ny, row % ny
    return (i, j), (below(row, i, nx, ny), above(row, i, nx, ny), below(row, j, ny, 1), above(row, j, ny, 1))
