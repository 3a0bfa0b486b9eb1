"""Conductances of one level as the CUDA kernels read them: stored, or two bytes per cell where that says it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .reference import neighbour

MOST = 4  # conductances of one axis that may add up on a diagonal: two links, or two Dirichlet sides of twice that


@dataclass(frozen=True)
class Couplings:
    """What kernels read of an operator.

    Attributes
    ----------
    arrays : (x links, y links, z links, diagonal), or for cells (open links, the conductance of each axis, the same
        again, how many conductances add up to the diagonal)
    cells : which of the two;  size : cells per axis
    """

    arrays: tuple[Tensor, Tensor, Tensor, Tensor]
    cells: bool
    size: tuple[int, int, int]

    @classmethod
    def stored(cls, links: Any, diag: Tensor, dtype: torch.dtype) -> Couplings:
        """Take links and diagonal as they are."""
        x, y, z = (w.to(dtype).contiguous() for w in links)
        return cls((x, y, z, diag.to(dtype).contiguous()), False, tuple(diag.shape))  # type: ignore[arg-type]

    @classmethod
    def of_cells(cls, codes: Codes, dtype: torch.dtype, exponent: int = 0) -> Couplings:
        """Take open links and counts, with conductances divided by 2^exponent."""
        values = torch.ldexp(codes.conductance.double(), torch.tensor(-exponent)).to(dtype)
        return cls((codes.open, values, values, codes.count), True, tuple(codes.open.shape))  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Bytes kept, each array once."""
        return sum({t.data_ptr(): t.nbytes for t in self.arrays}.values())


@dataclass(frozen=True)
class Codes:
    """Six bits of open links and three counts in base 5 per cell, one conductance per axis."""

    open: Tensor
    count: Tensor
    conductance: Tensor


def cell_codes(A: Any) -> Codes | None:
    """Return the codes of a cell-type operator, None for any other; remembered on the operator.

    Cell-type: along each axis all positive links are equal, what goes to p = 0 are whole multiples of the same
    conductance, and there is no shift. So are fluids around obstacles, below free surfaces and between Dirichlet sides.

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.pde import Poisson
    >>> codes = cell_codes(Poisson.from_cells(np.array([[1, 1, 2], [1, 0, 1]])))
    >>> codes.open.flatten().tolist(), codes.count.flatten().tolist()
    ([17, 32, 0, 2, 0, 0], [26, 50, 0, 1, 0, 1])
    """
    if "cell codes" not in A.cache:
        A.cache["cell codes"] = _encode(A)
    return A.cache["cell codes"]


def _encode(A: Any) -> Codes | None:
    """Find the codes, or that there are none."""
    if bool((A.shift != 0).any()):
        return None
    open_links = torch.zeros(A.diag.shape, dtype=torch.uint8, device=A.device)
    count = torch.zeros_like(open_links)
    conductance = [w.max() for w in A.links]
    for d, (w, ground, c) in enumerate(zip(A.links, A.ground, conductance, strict=True)):
        # a length of one has no links: take its unit from what goes to p = 0
        unit = torch.where(c > 0, c, ground.max())
        conductance[d] = unit
        grounds = torch.round(ground / torch.where(unit > 0, unit, 1))
        upper, lower = w > 0, neighbour(w, d, -1, True) > 0
        total = grounds + upper + lower
        fits = (~upper | (w == unit)) & (ground == grounds * unit) & (total <= MOST)
        if not bool(fits.all()):
            return None
        open_links |= upper.to(torch.uint8) << (2 * d) | lower.to(torch.uint8) << (2 * d + 1)
        count += total.to(torch.uint8) * 5**d
    return Codes(open_links.contiguous(), count.contiguous(), torch.stack(conductance))


def couplings_of(A: Any, dtype: torch.dtype) -> Couplings:
    """Return the couplings of a Poisson operator for a product in `dtype`; codes if there are any."""
    codes = cell_codes(A)
    return Couplings.stored(A.links, A.diag, dtype) if codes is None else Couplings.of_cells(codes, dtype)
