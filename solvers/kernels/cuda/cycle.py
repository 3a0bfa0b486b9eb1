"""The V-cycle over the CUDA kernels: the arrays of all levels are allocated once, at set-up.

Memory per cell of a level in fp32 (bf16): links 12 (6), extra 4 (2), s/diag 4 (2), transfer 3 and work space 16 bytes,
together 39 (29); of a cell-type level 2 and 16. All levels of a box coarsened along every axis 45 (33), or 24 (22); the
third and fourth of the four work vectors are lent to `conjugate_gradients` between applications.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..reference import OMEGA
from ..turns import Turn
from .launch import make_stop, programs
from .level import CudaLevel
from .small_levels import SmallLevels, count_small_levels
from .smoothing import correct, relax
from .transfer import FINISH, finish, multiply, prolong, restrict

CUDA = Turn()  # of work space on devices, which one thread at a time writes to


class CudaCycle:
    """The map b -> M b over all levels; the result lives in work space and is overwritten by the next call.

    Parameters
    ----------
    levels : fine to coarse;  bottom : cells per axis of the coarsest;  inverse : of that, dense

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.pde import Poisson
    >>> from krylearn.solvers import NeuralMultigrid
    >>> A = Poisson.from_cells(np.ones((16, 16, 16)), boundary="dirichlet")
    >>> cycle = NeuralMultigrid(A.to("cuda")).fused                                      # doctest: +SKIP
    >>> cycle.nbytes / A.unknowns                                                        # doctest: +SKIP
    """

    def __init__(self, levels: list[CudaLevel], bottom: tuple[int, ...], inverse: Tensor) -> None:
        self.levels, self.inverse = [v.allocate() for v in levels], inverse.contiguous()
        for v, below in pairwise(levels):
            if v.identity_transfer:
                v.lend_to_repeat(below)
        self.bottom_b, self.bottom_x = inverse.new_zeros(bottom), inverse.new_zeros(bottom)
        self.go = make_stop(inverse.device)
        self.cut = len(levels) - count_small_levels(levels)  # from here on one kernel does it all
        last = levels[self.cut :]
        self.tail = SmallLevels(last, self.inverse, self.bottom_b, self.bottom_x) if last else None

    @property
    def input(self) -> Tensor:
        """Where a caller may write b of the finest level to save a copy."""
        return self.levels[0].b if self.levels else self.bottom_b

    @property
    def nbytes(self) -> int:
        """Bytes kept for all levels."""
        own = (t for v in self.levels for t in v.tensors)
        held = {t.data_ptr(): t.nbytes for t in (*own, self.inverse, self.bottom_b, self.bottom_x)}
        return sum(held.values())

    def lend_vector(self, b: Tensor) -> Tensor | None:
        """Return memory for a vector like b that the cycle only uses while it runs; None if there is too little."""
        if not self.levels:
            return None
        free = self.levels[0].scratch.view(b.dtype)
        return free[: b.numel()].view(b.shape) if free.numel() >= b.numel() else None

    def __call__(self, b: Tensor, sums: Tensor | None = None, stop: Tensor | None = None) -> Tensor:
        """Apply the cycle; with `sums` also write the partial sums of b.z, see `sums_written`; do nothing if `stop`."""
        with torch.cuda.device_of(b):
            return self._descend(b, 0, self.go if stop is None else stop, sums)

    def apply(self, b: Tensor) -> Tensor:
        """Return M b as a tensor of its own; several threads may ask at once, and wait for one another."""
        with CUDA:
            return self(b.contiguous()).clone()

    def scaled_apply(self, r: Tensor, exponent: int) -> Tensor:
        """Apply the cycle to an internal grid of any scale, r/2^e in and z 2^(e - exponent) out, without the host.

        Leading axes are batches. Zeros and what is not finite pass through the cycle as they are.
        """
        largest = r.abs().amax()
        e = torch.where(torch.isfinite(largest), torch.frexp(largest).exponent, 0)
        b = torch.ldexp(r, -e).to(self.input.dtype)
        z = torch.stack([self.apply(v) for v in b.reshape(-1, *b.shape[-3:])]).view(b.shape)
        return torch.ldexp(z.to(r.dtype), e - exponent)

    def sums_written(self) -> int:
        """How many partial sums of b.z a call writes; 0 if there is no level that could."""
        return programs(self.levels[0].size, FINISH) if self.levels else 0

    def _descend(self, b: Tensor, l: int, stop: Tensor, sums: Tensor | None = None) -> Tensor:
        if self.tail is not None and l == self.cut:
            return self.tail(stop)
        if l == len(self.levels):
            multiply(self.inverse, b, self.bottom_x, stop)
            return self.bottom_x
        v = self.levels[l]
        coarse = self.levels[l + 1].b if l + 1 < len(self.levels) else self.bottom_b
        relax(v.op, b, v.r, OMEGA[0], stop)
        relax(v.op, v.r, v.second, OMEGA[1], stop)
        if not v.identity_transfer:
            restrict(v.op, v.second, v.a, v.factors, v.periodic, coarse, stop)
        c = self._descend(coarse, l + 1, stop)
        if not v.identity_transfer:
            prolong(v.op, c, v.a, v.factors, v.periodic, v.e, stop)
        correct(v.op, v.e, v.second, stop)
        finish(v.op, c, v.a, v.factors, v.periodic, b, v.second, v.r, stop, sums)
        return v.r
