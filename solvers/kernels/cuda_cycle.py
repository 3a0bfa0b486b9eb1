"""The V-cycle over the CUDA kernels: the arrays of all levels are allocated once, at set-up.

Memory per cell of a level in fp32: links 12 and diagonal 4 (cell-type: codes 2), damping 1, transfer 3, work 12 bytes;
32 (18) B, with all levels of a box coarsened along every axis 37 (23) B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import cuda, cuda_transfer
from .cuda_couplings import Codes, Couplings, cell_codes
from .reference import OMEGA

if TYPE_CHECKING:
    from ..hierarchy import Hierarchy, Level


class CudaLevel:
    """Contiguous arrays of one level and its work space."""

    def __init__(self, level: Level, codes: Codes | None = None, exponent: int = 0) -> None:
        op, t = level.op, level.transfer
        if op.diag.numel() >= 2**31:
            raise ValueError(f"got {op.diag.numel()} cells; expected fewer than 2^31: the kernels index in 32 bits")
        self.size, self.factors, self.periodic = op.size, t.factors, op.periodic
        if codes is None:
            self.op = Couplings.stored(op.links, op.diag, op.diag.dtype)
        else:
            self.op = Couplings.of_cells(codes, op.diag.dtype, exponent)
        self.s = torch.round(level.s * 255).to(torch.uint8).contiguous()
        self.a = torch.zeros((3, *op.size), dtype=torch.uint8, device=op.diag.device)
        for d, weight in enumerate(t.weights):
            if weight is not None:
                self.a[d] = torch.round(weight * 255).to(torch.uint8)
        self.b, self.x, self.y = (torch.zeros_like(op.diag) for _ in range(3))

    @property
    def nbytes(self) -> int:
        """Bytes kept for this level."""
        return self.op.nbytes + sum(t.nbytes for t in (self.s, self.a, self.b, self.x, self.y))


class CudaCycle:
    """The map b -> M b over all levels; the result lives in work space and is overwritten by the next call.

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
        self.levels, self.inverse = levels, inverse.contiguous()
        self.bottom_b, self.bottom_x = inverse.new_zeros(bottom), inverse.new_zeros(bottom)

    @classmethod
    def from_hierarchy(cls, h: Hierarchy, codes: Codes | None = None, exponent: int = 0) -> CudaCycle:
        """Take over a quantised hierarchy; codes: of the finest level before it was divided by 2^exponent."""
        levels = [CudaLevel(level, None if l else codes, exponent) for l, level in enumerate(h.levels)]
        return cls(levels, h.bottom.size, h.inverse)

    @property
    def input(self) -> Tensor:
        """Where a caller may write b of the finest level to save a copy."""
        return self.levels[0].b if self.levels else self.bottom_b

    @property
    def nbytes(self) -> int:
        """Bytes kept for all levels."""
        return sum(v.nbytes for v in self.levels) + self.inverse.nbytes + 2 * self.bottom_b.nbytes

    def __call__(self, b: Tensor, sums: Tensor | None = None) -> Tensor:
        """Apply the cycle; with `sums` also write the partial sums of b.z, see `sums_written`."""
        with torch.cuda.device_of(b):
            return self._descend(b, 0, sums)

    def apply(self, b: Tensor) -> Tensor:
        """Return M b as a tensor of its own."""
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
        return cuda.programs(self.levels[0].size) if self.levels else 0

    def _descend(self, b: Tensor, l: int, sums: Tensor | None = None) -> Tensor:
        if l == len(self.levels):
            cuda_transfer.multiply(self.inverse, b, self.bottom_x)
            return self.bottom_x
        v = self.levels[l]
        coarse = self.levels[l + 1].b if l + 1 < len(self.levels) else self.bottom_b
        cuda.smooth_from_zero(v.op, v.s, b, v.x)
        cuda.residual(v.op, v.x, b, v.y)
        cuda_transfer.restrict(v.y, v.a, v.factors, v.periodic, coarse)
        correction = self._descend(coarse, l + 1)
        cuda_transfer.prolong_add(correction, v.a, v.s, v.factors, v.periodic, v.x)
        cuda.smooth(v.op, v.s, v.x, b, v.y, OMEGA[1])
        cuda.smooth(v.op, v.s, v.y, b, v.x, OMEGA[0], sums)
        return v.x


PEAK_NETWORK, PEAK_CLASSICAL = 460, 170  # bytes per cell of the finest level at the peak of a set-up


def bytes_needed(cells: int, network: bool) -> int:
    """Estimate the device memory that a set-up needs at its peak, beyond the operator.

    The torch rule keeps features and hidden layers of all cells of the finest level at once. Measured on a CPU, where
    torch allocates the same tensors (tests/solvers/test_cuda_setup.py).

    Examples
    --------
    >>> bytes_needed(64**3, network=False) < bytes_needed(64**3, network=True)
    True
    """
    return cells * (PEAK_NETWORK if network else PEAK_CLASSICAL)


def device_cycle(A: Any, exponent: int, hierarchy: Callable[[], Hierarchy], network: bool) -> CudaCycle:
    """Set up the cycle of a Poisson operator on its device.

    Parameters
    ----------
    hierarchy : builds the quantised levels of A divided by 2^exponent
    network : whether it evaluates a network, which takes more memory

    Raises
    ------
    torch.cuda.OutOfMemoryError
        with the bytes that a set-up needs, and those that are free
    """
    try:
        cycle = CudaCycle.from_hierarchy(hierarchy(), cell_codes(A), exponent)
        if A.device.type == "cuda":
            torch.cuda.synchronize(A.device)  # set-up is timed by the host
        return cycle
    except torch.cuda.OutOfMemoryError as error:
        need, free = bytes_needed(A.diag.numel(), network), "an unknown number"
        if A.device.type == "cuda":
            free = f"{torch.cuda.mem_get_info(A.device)[0]:,}"
        raise torch.cuda.OutOfMemoryError(
            f"set-up ran out of memory: it needs about {need:,} bytes on {A.device}, {free} are free; expected a "
            "smaller grid or a larger device: set up on the CPU (A.to('cpu')), or use plain CG (M='none')"
        ) from error
