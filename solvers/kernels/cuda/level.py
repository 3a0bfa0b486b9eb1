"""One level of the CUDA cycle: its operator, smoother and transfer as the kernels read them, and its work space."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..reference import Stencil, Transfer
from .formats import LEVEL, TABLE, CellFormat16, Couplings

SHORT = 2**16  # so many patterns have a 16-bit id
MOST = 2**29  # cells: the kernels index arrays of three axes, and of seven facts per coarse cell, in 32 bits


class CudaLevel:
    """Contiguous arrays of one level and its work space.

    Parameters
    ----------
    op : Couplings of form LEVEL or TABLE
    a : transfer weights in units of 1/255: (3, cells) uint8, or per pattern three bytes of an int32
    factors, periodic : per axis
    dtype : of the vectors: float32 or float64

    Attributes
    ----------
    b, r : right-hand side, and residual after the first step, then z
    second, e : residual after the second step, and the correction; both lie in `scratch`, which is free between calls
        (with an `identity_transfer`, e is the z of the next)
    """

    b: Tensor
    r: Tensor
    second: Tensor
    e: Tensor
    scratch: Tensor

    def __init__(self, op: Couplings, a: Tensor, factors: Any, periodic: Any, dtype: torch.dtype) -> None:
        self.op, self.a, self.size, self.dtype = op, a.contiguous(), op.size, dtype
        self.factors, self.periodic = tuple(map(int, factors)), tuple(map(bool, periodic))
        refuse_if_large(self.cells)

    def repeat(self) -> CudaLevel:
        """Share the arrays, with the identity as transfer, before work space is made: see `hierarchy.Level.repeat`."""
        level = copy.copy(self)
        level.factors = (1, 1, 1)
        return level

    @property
    def identity_transfer(self) -> bool:
        """Whether the transfer is the identity: the next level is this one, smoothed once more."""
        return self.factors == (1, 1, 1)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.size[0] * self.size[1] * self.size[2]

    def allocate(self) -> CudaLevel:
        """Make the work space, once set-up has given back its own; returns self."""
        self.b, self.r = (torch.zeros(self.size, dtype=self.dtype, device=self.a.device) for _ in range(2))
        self.scratch = torch.zeros(2 * self.cells, dtype=self.dtype, device=self.a.device)
        self.second, self.e = (half.view(self.size) for half in self.scratch.chunk(2))
        return self

    @classmethod
    def stored(
        cls, links: Any, extra: Tensor, s: Tensor, a: Tensor, factors: Any, periodic: Any, storage: torch.dtype,
        dtype: torch.dtype,
    ) -> CudaLevel:  # fmt: skip
        """Store conductances in `storage`; the diagonal is the sum of what was stored, so rows still add up.

        Rounding every conductance by a factor in [1 - d, 1 + d] changes A by as much in the sense of quadratic forms,
        so the condition of M A changes by at most (1 + d)/(1 - d): d = 2^-9 = 0.2 % for bfloat16, whose range is that
        of float32. float16 is not offered: its range of ten decades is too small for media of high contrast.
        """
        x, y, z = (w.to(storage).contiguous() for w in links)
        e = extra.to(storage).contiguous()
        diag = e.to(dtype, copy=True)
        for d, w in enumerate((x, y, z)):
            diag += w.to(dtype)
            diag += torch.roll(w, 1, d).to(dtype)  # the link behind the last cell is 0 where the axis does not wrap
        sd = torch.where(diag > 0, s / torch.where(diag > 0, diag, 1), 0).to(storage).contiguous()
        op = Couplings(LEVEL, (x, y, z, e, sd), tuple(extra.shape))  # type: ignore[arg-type]
        return cls(op, a, factors, periodic, dtype)

    @classmethod
    def find_patterns(
        cls, codes: CellFormat16, s: Tensor, a: Tensor, factors: Any, periodic: Any, dtype: torch.dtype
    ) -> CudaLevel:
        """Find the patterns of a cell-type level; s, a : damping and weights in units of 1/255."""
        keys, ids = torch.unique(pattern_keys(codes.code, s, a), return_inverse=True)
        return cls.from_patterns(codes, keys, ids, factors, periodic, dtype)

    @classmethod
    def from_patterns(
        cls, codes: CellFormat16, keys: Tensor, ids: Tensor, factors: Any, periodic: Any, dtype: torch.dtype
    ) -> CudaLevel:
        """Take over pattern ids and the key of each pattern."""
        short = torch.uint16 if len(keys) <= SHORT else torch.int32
        table = (keys & 0x1FFF).int()
        diag = diagonal_of(table, codes.conductance)
        s = (keys >> 13 & 255).double() / 255
        sd = torch.where(diag > 0, s / torch.where(diag > 0, diag, 1), 0).to(dtype)
        names = ids.view(codes.code.shape).to(short)
        op = Couplings(TABLE, (names, codes.conductance.to(dtype), table, sd, sd), tuple(names.shape))  # type: ignore[arg-type]
        return cls(op, (keys >> 21).int(), factors, periodic, dtype)

    @classmethod
    def from_tensors(
        cls,
        op: Stencil,
        s: Tensor,
        t: Transfer,
        storage: torch.dtype,
        codes: CellFormat16 | None = None,
        exponent: int = 0,
    ) -> CudaLevel:
        """Take over a level of torch tensors whose damping s and weights are multiples of 1/255.

        codes : of a cell-type operator before it was divided by 2^exponent
        """
        a = torch.zeros((3, *op.size), dtype=torch.uint8, device=op.diag.device)
        for d, weight in enumerate(t.weights):
            if weight is not None:
                a[d] = torch.round(weight * 255).to(torch.uint8)
        dtype = op.diag.dtype
        if codes is not None:
            steps = torch.round(s * 255).to(torch.uint8)
            return cls.find_patterns(codes.scaled(exponent), steps, a, t.factors, op.periodic, dtype)
        extra = op.ground[0] + op.ground[1] + op.ground[2] + op.shift
        return cls.stored(op.links, extra, s, a, t.factors, op.periodic, storage, dtype)

    def lend_to_repeat(self, below: CudaLevel) -> None:
        """Share buffers with the repeated level below: its b is our `second`, our correction its result; no copies.

        So the identity costs nothing: b of the next visit is what the second step left, the correction is its z.
        """
        self.scratch = torch.zeros_like(self.second).flatten()
        self.second, self.e = self.scratch.view(self.size), below.r
        below.b = self.second

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All memory of this level; what levels share is in several."""
        return (*self.op.arrays, self.a, self.b, self.r, self.scratch)


def refuse_if_large(cells: int) -> None:
    """Raise a ValueError where 32-bit indices would not do.

    Examples
    --------
    >>> refuse_if_large(512**3)
    """
    if cells >= MOST:
        raise ValueError(f"got {cells} cells; expected fewer than 2^29: the CUDA kernels index in 32 bits; use the CPU")


def pattern_keys(code: Tensor, s: Tensor, a: Tensor) -> Tensor:
    """Return 45 bits per cell: code (13), damping (8), transfer weights of the three axes (8 each)."""
    key = code.long() | s.long() << 13
    for d in range(3):
        key |= a[d].long() << (21 + 8 * d)
    return key


def diagonal_of(code: Tensor, conductance: Tensor) -> Tensor:
    """Return the diagonal that codes stand for, in the dtype of the conductances.

    Examples
    --------
    >>> diagonal_of(torch.tensor([64 * (1 + 5 * 2 + 25 * 3)]), torch.tensor([1.0, 10.0, 100.0])).tolist()
    [321.0]
    """
    n = code >> 6
    x, y, z = conductance
    return x * (n % 5) + y * (n // 5 % 5) + z * (n // 25)
