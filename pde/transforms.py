"""Exact solves on full boxes with a constant coefficient, by fast trigonometric transforms.

There A is a sum of one tridiagonal matrix per axis plus a constant, so products of these vectors are its eigenvectors
(cells i = 0 .. n-1, conductance c, sides: N = Neumann, D = Dirichlet on the face, half a cell away):

    sides     transform   vector                   angle t_k           eigenvalue
    --------  ----------  -----------------------  ------------------  -----------------
    N, N      DCT-II      cos(t_k (i + 1/2))       pi k / n            4 c sin(t_k / 2)^2
    D, D      DST-II      sin(t_k (i + 1/2))       pi (k + 1) / n      the same
    N, D      DCT-IV      cos(t_k (i + 1/2))       pi (k + 1/2) / n    the same
    D, N      DST-IV      sin(t_k (i + 1/2))       pi (k + 1/2) / n    the same
    periodic  FFT         exp(i t_k i)             2 pi k / n          the same

Schumann and Sweet, J. Comput. Phys. 20 (1976). O(n log n); the reference for every other solver, and the
fastest where it applies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from .poisson.fields import Slot
from .poisson.operator import Poisson

TYPES = {"NN": ("dct", 2), "DD": ("dst", 2), "ND": ("dct", 4), "DN": ("dst", 4)}
FIRST_ANGLE = {"NN": 0.0, "DD": 1.0, "ND": 0.5, "DN": 0.5}


@dataclass(frozen=True)
class Box:
    """Per internal axis the conductance and the sides ("NN", "DN", ..., "P"), and what adds to the whole diagonal."""

    conductance: tuple[float, ...]
    sides: tuple[str, ...]
    shift: float

    def eigenvalues(self, d: int, n: int) -> np.ndarray:
        """Eigenvalues along one axis, in the order of its transform."""
        kind, k = self.sides[d], np.arange(n)
        angle = 2 * math.pi * k / n if kind == "P" else math.pi * (k + FIRST_ANGLE[kind]) / n
        return 4 * self.conductance[d] * np.sin(angle / 2) ** 2


BOX: Slot[Box | None] = Slot("box")


def is_box(A: Poisson) -> bool:
    """Tell whether A is a full box with constant coefficients, up to 64 rounding errors; cached.

    Examples
    --------
    >>> is_box(Poisson.from_cells(np.ones((4, 6)), boundary={"x": "periodic", "y-": "dirichlet"}))
    True
    >>> is_box(Poisson.from_cells([[1, 1, 0], [1, 1, 1]]))
    False
    """
    return _box_of(A) is not None


def _box_of(A: Poisson) -> Box | None:
    return BOX.compute_once(A, lambda: _find_box(A))


def solve_box(A: Poisson, b: Any, workers: int | None = None) -> Any:
    """Solve A x = b exactly on a box.

    Cost: O(n log n) on the CPU (SciPy's transforms). On other devices, and for a b that requires gradients, the
    transforms are products with dense bases, n (nx + ny + nz) multiplications, in torch and differentiable in b.

    Parameters
    ----------
    A : Poisson for which `is_box(A)` holds, else ValueError
    b : flat or grid-shaped, batches first, NumPy or torch
    workers : threads of the CPU transforms; -1 for all (SciPy's convention)

    Returns
    -------
    x like b; with a null space the solution of zero mean, in the least-squares sense if b's mean is not zero

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((5, 7)), spacing=(1.0, 2.0), boundary={"x-": "neumann"})
    >>> x = np.arange(35.0)
    >>> bool(np.allclose(solve_box(A, A @ x), x))
    True
    """
    box = _box_of(A)
    if box is None:
        raise ValueError(
            f"got {A!r}, which is no full box with constant coefficients; expected is_box(A): use krylearn.solvers.cg"
        )
    grid = A.to_grid(b)
    if grid.device.type == "cpu" and not grid.requires_grad and grid.dtype in (torch.float32, torch.float64):
        return A.from_grid(torch.from_numpy(_solve_fast(box, grid.numpy(), workers)), b)
    return A.from_grid(_solve_dense(box, grid), b)


def _solve_fast(box: Box, b: np.ndarray, workers: int | None) -> np.ndarray:
    shape = b.shape[-3:]
    real = [d for d in range(3) if shape[d] > 1 and box.sides[d] != "P"]
    wrapping = [d - 3 for d in range(3) if shape[d] > 1 and box.sides[d] == "P"]
    values = [box.eigenvalues(d, n) for d, n in enumerate(shape)]
    for d in real:
        name, kind = TYPES[box.sides[d]]
        b = getattr(scipy.fft, name)(b, kind, axis=d - 3, norm="ortho", workers=workers)
    if wrapping:
        last = wrapping[-1]
        values[last] = values[last][: shape[last] // 2 + 1]  # rfftn keeps half of the last axis
        b = scipy.fft.rfftn(b, axes=wrapping, workers=workers)
    b = b * _inverse_eigenvalues(values, box.shift).astype(b.real.dtype)
    if wrapping:
        b = scipy.fft.irfftn(b, s=[shape[d] for d in wrapping], axes=wrapping, workers=workers)
    for d in real:
        name, kind = TYPES[box.sides[d]]
        b = getattr(scipy.fft, "i" + name)(b, kind, axis=d - 3, norm="ortho", workers=workers)
    return b


def _solve_dense(box: Box, b: Tensor) -> Tensor:
    shape = b.shape[-3:]
    bases = [torch.from_numpy(_dense_basis(box.sides[d], n)).to(b) for d, n in enumerate(shape)]
    values = [_real_order(box.eigenvalues(d, n), box.sides[d]) for d, n in enumerate(shape)]
    b = torch.einsum("...ijk,ia,jb,kc->...abc", b, *bases)
    b = b * torch.from_numpy(_inverse_eigenvalues(values, box.shift)).to(b)
    return torch.einsum("...abc,ia,jb,kc->...ijk", b, *bases)


def _inverse_eigenvalues(values: list[np.ndarray], shift: float) -> np.ndarray:
    """Return 1 / eigenvalues on the grid; 0 where they are 0, which gives the solution of zero mean."""
    x, y, z = values
    total = x[:, None, None] + y[:, None] + z + shift
    return np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)


def _dense_basis(kind: str, n: int) -> np.ndarray:
    """Return orthonormal eigenvectors as columns; pairs of cosine and sine for a periodic axis."""
    if n == 1:
        return np.ones((1, 1))
    if kind != "P":
        name, number = TYPES[kind]
        return np.ascontiguousarray(getattr(scipy.fft, name)(np.eye(n), number, axis=1, norm="ortho"))
    k, i = np.arange(n), np.arange(n)[:, None]
    frequency = (k + 1) // 2  # 0, 1, 1, 2, 2, ...
    angle = 2 * math.pi * frequency * i / n
    vectors = np.where(k % 2 == 1, np.cos(angle), np.where(k == 0, 1.0, np.sin(angle)))
    return vectors / np.linalg.norm(vectors, axis=0)


def _real_order(values: np.ndarray, kind: str) -> np.ndarray:
    return values[(np.arange(len(values)) + 1) // 2] if kind == "P" else values


def _find_box(A: Poisson) -> Box | None:
    """Read the constants off one cell or side, then compare them with every entry of A."""
    if not A.full:
        return None
    noise = 64 * float(np.finfo(A.dtype).eps) * float(A.diag.max())
    conductance, sides = [], []
    extra = A.shift + sum(A.ground)  # from_matrix cannot always tell its parts; the sum is enough
    middle = tuple(n // 2 for n in A.unknown.shape)
    total = torch.zeros_like(extra)
    for d, n in enumerate(A.unknown.shape):
        inner = A.links[d] if A.periodic[d] and n > 1 else A.links[d].narrow(d, 0, n - 1)
        c = float(inner.flatten()[0]) if inner.numel() else 0.0
        if inner.numel() and float((inner - c).abs().max()) > noise:
            return None
        line = extra[tuple(slice(None) if axis == d else m for axis, m in enumerate(middle))]
        line = line - (line[middle[d]] if n > 2 else line.min())
        ends = ["D" if abs(float(line[k]) - 2 * c) <= noise < 2 * c else "N" for k in (0, -1)]
        sides.append("P" if A.periodic[d] and n > 1 else "NN" if n == 1 else "".join(ends))
        conductance.append(c)
        for k, end in zip((0, n - 1), ends, strict=True):
            if n > 1 and end == "D":
                total.narrow(d, k, 1).add_(2 * c)
    rest = extra - total
    shift = float(rest[middle])
    if shift < -noise or float((rest - shift).abs().max()) > noise:
        return None
    return Box(tuple(conductance), tuple(sides), shift if shift > noise else 0.0)
