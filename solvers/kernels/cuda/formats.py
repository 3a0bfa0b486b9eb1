"""Conductances as the CUDA kernels read them: stored, or two bytes per cell where that says it all.

    form     arrays (w0, w1, w2, e, sd)                                              read per cell, fp32 (bf16)
    -------  ----------------------------------------------------------------------  --------------------------
    STORED   three links, diagonal; no damping                                       16 B: the outer operator
    CODES    code; three conductances; no damping                                     2 B: the same, cell-type
    LEVEL    three links, extra (ground + shift), s/diag per cell                    20 B (10): a level of the cycle
    TABLE    pattern id; three conductances, code of a pattern, s/diag of a pattern   2 B: the same, cell-type

A *code* is 16 bits of a cell-type operator: which of the six links are open (6 bits), and how many conductances per
axis add up to the diagonal (three digits in base 5, 7 bits). A *pattern* is a code with damping and transfer weights;
cells with equal surroundings share one, so a level stores an id per cell and a small table, which stays in cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import pattern_format as cuda_codes

STORED, CODES, LEVEL, TABLE = range(4)


@dataclass(frozen=True)
class Couplings:
    """What kernels read of an operator: its form, five arrays as in the table above, cells per axis."""

    form: int
    arrays: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    size: tuple[int, int, int]

    @classmethod
    def stored(cls, links: Any, diag: Tensor, dtype: torch.dtype) -> Couplings:
        """Take links and diagonal as they are."""
        x, y, z = (w.to(dtype).contiguous() for w in links)
        d = diag.to(dtype).contiguous()
        return cls(STORED, (x, y, z, d, d), tuple(diag.shape))  # type: ignore[arg-type]

    @classmethod
    def of_cells(cls, codes: Codes, dtype: torch.dtype) -> Couplings:
        """Take codes and the conductance of each axis."""
        c = codes.conductance.to(dtype)
        return cls(CODES, (codes.code, c, c, c, c), tuple(codes.code.shape))  # type: ignore[arg-type]

    @property
    def nbytes(self) -> int:
        """Bytes kept, each array once."""
        return sum({t.data_ptr(): t.nbytes for t in self.arrays}.values())


@dataclass(frozen=True)
class Codes:
    """The 16-bit code of every cell (internal grid), and one conductance per axis (fp64)."""

    code: Tensor
    conductance: Tensor

    def scaled(self, exponent: int) -> Codes:
        """Divide the conductances by 2^exponent."""
        return Codes(self.code, self.conductance * math.ldexp(1.0, -exponent))


def cell_codes(A: Any) -> Codes | None:
    """Return the codes of a cell-type operator, None for any other; remembered on the operator.

    Cell-type: along each axis all positive links are equal, what goes to p = 0 are whole multiples of the same
    conductance, at most four in all, and there is no shift. So are fluids around obstacles, below free surfaces and
    between Dirichlet sides. One pass over the operator (56 bytes per cell in fp64), two looks of the host.

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.pde import Poisson
    >>> codes = cell_codes(Poisson.from_cells(np.array([[1, 1, 2], [1, 0, 1]])))        # doctest: +SKIP
    >>> [(c & 63, c >> 6) for c in codes.code.flatten().tolist()]                        # doctest: +SKIP
    [(17, 26), (32, 50), (0, 0), (2, 1), (0, 0), (0, 1)]
    """
    if "cell codes" not in A.cache:
        found = cuda_codes.encode(A)
        A.cache["cell codes"] = None if found is None else Codes(*found)
    return A.cache["cell codes"]


def couplings_of(A: Any, dtype: torch.dtype) -> Couplings:
    """Return the couplings of a Poisson operator for a product in `dtype`; codes if there are any."""
    codes = cell_codes(A)
    return Couplings.stored(A.links, A.diag, dtype) if codes is None else Couplings.of_cells(codes, dtype)
