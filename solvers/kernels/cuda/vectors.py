"""Vector updates and scalars of conjugate gradients on a GPU (Triton): no scalar visits the host.

`scalars` is one fp64 tensor; the kernel that adds up partial sums also computes what the next kernel needs of them:

    RR r.r   RZ r.z   PAP p.Ap   ALPHA RZ/PAP   BETA RZ/RZ of the step before   FACTOR what r is multiplied by for the
    cycle, a power of two near 1/norm(r)   SCALE what the cycle's z is multiplied by   LIMIT the tolerance for norm(r)

The same kernel tests norm(r) <= LIMIT and then, or where r.r is not finite, sets `stop`: from there on no kernel of a
step changes anything, so x, r and the scalars are those of the first step that met the tolerance, however many steps
the host has launched before it looks.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETED, run

RR, RZ, PAP, ALPHA, BETA, FACTOR, SCALE, LIMIT = range(8)
_RR, _RZ, _PAP, _ALPHA = tl.constexpr(RR), tl.constexpr(RZ), tl.constexpr(PAP), tl.constexpr(ALPHA)
_BETA, _FACTOR, _SCALE, _LIMIT = tl.constexpr(BETA), tl.constexpr(FACTOR), tl.constexpr(SCALE), tl.constexpr(LIMIT)
BLOCK = 4096 if INTERPRETED else 1024


# --- scalars ----------------------------------------------------------------------------------------------------------


@triton.jit
def add_partial_sums(sums, count, B: tl.constexpr):
    """Add up the partial sums, in an order that depends on nothing but their number."""
    lane = tl.arange(0, B)
    t = tl.zeros((B,), tl.float64)
    for first in range(0, count, B):
        t += tl.load(sums + first + lane, mask=first + lane < count, other=0)
    return tl.sum(t)


@triton.jit
def power_near_inverse_norm(rr):
    """Return 2^-e with 2^(e-1) <= sqrt(rr) < 2^e; 1 for zero, infinity and NaN."""
    bits = (rr.to(tl.int64, bitcast=True) >> 52) & 2047
    e = (bits - 1021) >> 1  # the exponent of rr, halved and rounded up
    factor = ((1023 - e) << 52).to(tl.float64, bitcast=True)
    return tl.where((rr > 0) & (bits < 2047) & (bits > 0), factor, 1.0)


@triton.jit
def divide_or_nan(u, v):
    """Return u/v; NaN for v = 0."""
    return tl.where(v != 0, u / tl.where(v != 0, v, 1), float("nan"))


@triton.jit
def _finish_rz(sums, scalars, stop, count, shrink, HAVE: tl.constexpr, B: tl.constexpr):
    if tl.load(stop) == 0:
        factor = tl.load(scalars + _FACTOR)
        old = tl.load(scalars + _RZ)
        scale = tl.load(shrink) / factor
        rz = tl.load(scalars + _RR)
        if HAVE:  # else z = r, whose product is there
            rz = add_partial_sums(sums, count, B) / factor * scale
        tl.store(scalars + _RZ, rz)
        tl.store(scalars + _SCALE, scale)
        tl.store(scalars + _BETA, divide_or_nan(rz, old))


@triton.jit
def _finish_pap(sums, scalars, stop, count, SCALED: tl.constexpr, B: tl.constexpr):
    stopped = tl.load(stop)
    tl.store(stop + 1, stopped)  # what `_advance` asks: the step that meets the tolerance still moves x
    if stopped == 0:
        pap = add_partial_sums(sums, count, B)
        tl.store(scalars + _PAP, pap)
        tl.store(scalars + _ALPHA, divide_or_nan(tl.load(scalars + _RZ), pap))
        if SCALED:  # asked before r is updated, so from the norm before
            tl.store(scalars + _FACTOR, power_near_inverse_norm(tl.load(scalars + _RR)))


@triton.jit
def _finish_rr(sums, scalars, stop, count, FIRST: tl.constexpr, SCALED: tl.constexpr, B: tl.constexpr):
    if FIRST:
        rr = add_partial_sums(sums, count, B)
        tl.store(scalars + _RR, rr)
        tl.store(scalars + _RZ, float("inf"))  # beta = 0: no special first step
        tl.store(scalars + _FACTOR, power_near_inverse_norm(rr) if SCALED else 1.0)
        tl.store(stop, tl.where(tl.sqrt(rr) > tl.load(scalars + _LIMIT), 0.0, 1.0))
    elif tl.load(stop) == 0:
        rr = add_partial_sums(sums, count, B)
        tl.store(scalars + _RR, rr)
        tl.store(stop, tl.where(tl.sqrt(rr) > tl.load(scalars + _LIMIT), 0.0, 1.0))


# --- vectors ----------------------------------------------------------------------------------------------------------


@triton.jit
def find_lanes(n, B: tl.constexpr):
    """Return this program's flat indices, and which of them exist."""
    o = tl.program_id(0) * B + tl.arange(0, B)
    return o, o < n


@triton.jit
def _dot(u, v, sums, stop, n, B: tl.constexpr):
    if tl.load(stop) == 0:
        o, live = find_lanes(n, B)
        a = tl.load(u + o, mask=live, other=0).to(tl.float64)
        tl.store(sums + tl.program_id(0), tl.sum(a * tl.load(v + o, mask=live, other=0).to(tl.float64)))


@triton.jit
def _scaled_copy(r, b, scalars, n, B: tl.constexpr):
    o, live = find_lanes(n, B)
    v = tl.load(r + o, mask=live, other=0)
    tl.store(b + o, (v * tl.load(scalars + _FACTOR).to(v.dtype)).to(b.dtype.element_ty), mask=live)


@triton.jit
def _direction(p, z, scalars, stop, n, B: tl.constexpr):
    if tl.load(stop) == 0:
        o, live = find_lanes(n, B)
        v = tl.load(p + o, mask=live, other=0)
        scale, beta = tl.load(scalars + _SCALE).to(v.dtype), tl.load(scalars + _BETA).to(v.dtype)
        tl.store(p + o, scale * tl.load(z + o, mask=live, other=0).to(v.dtype) + beta * v, mask=live)


@triton.jit
def _update_residual(r, q, b, sums, scalars, stop, n, SCALED: tl.constexpr, B: tl.constexpr):
    if tl.load(stop) == 0:
        o, live = find_lanes(n, B)
        v = tl.load(r + o, mask=live, other=0)
        v -= tl.load(scalars + _ALPHA).to(v.dtype) * tl.load(q + o, mask=live, other=0)
        tl.store(r + o, v, mask=live)
        if SCALED:
            tl.store(b + o, (v * tl.load(scalars + _FACTOR).to(v.dtype)).to(b.dtype.element_ty), mask=live)
        wide = tl.where(live, v.to(tl.float64), 0)
        tl.store(sums + tl.program_id(0), tl.sum(wide * wide))


@triton.jit
def _advance(x, p, scalars, stop, n, B: tl.constexpr):
    if tl.load(stop + 1) == 0:
        o, live = find_lanes(n, B)
        alpha, v = tl.load(scalars + _ALPHA), tl.load(x + o, mask=live, other=0)
        step = alpha.to(v.dtype) * tl.load(p + o, mask=live, other=0)
        tl.store(x + o, v + tl.where(tl.abs(alpha) < float("inf"), step, 0), mask=live)


# --- what the host calls ----------------------------------------------------------------------------------------------


class Vectors:
    """Scalars and partial sums of one system, and the kernels over flat vectors of its length.

    Parameters
    ----------
    b : a vector of the system;  sums : how many partial sums the kernels over grids may write
    exponent : what the cycle's result is to be divided by, as a power of two

    Attributes
    ----------
    scalars : (8,) fp64 as listed above;  stop : (2,) fp64, not 0 once the tolerance is met, and a step later
    """

    def __init__(self, b: Tensor, sums: int, exponent: int = 0) -> None:
        self.n, self.programs = b.numel(), triton.cdiv(b.numel(), BLOCK)
        self.sums = torch.zeros(max(sums, self.programs), dtype=torch.float64, device=b.device)
        self.scalars = torch.zeros(8, dtype=torch.float64, device=b.device)
        self.stop = torch.zeros(2, dtype=torch.float64, device=b.device)
        self.shrink = torch.full((1,), math.ldexp(1.0, -exponent), dtype=torch.float64, device=b.device)

    @property
    def nbytes(self) -> int:
        """Bytes kept: partial sums and scalars."""
        return sum(t.nbytes for t in (self.sums, self.scalars, self.stop, self.shrink))

    def dot(self, u: Tensor, v: Tensor) -> None:
        """Write the partial sums of u.v."""
        run(_dot, self.programs, u, v, self.sums, self.stop, self.n, B=BLOCK)

    def start(self, r: Tensor, b: Tensor | None, limit: float = 0.0) -> None:
        """Compute r.r, and the cycle's first right-hand side b where there is a cycle; norm(r) <= limit is the end."""
        self.stop.zero_()
        # a trifle less: what the device finds converged, the host must find so too
        self.scalars[LIMIT].fill_(limit * (1 - 2.0**-50))
        self.dot(r, r)
        self.finish_rr(first=True, scaled=b is not None)
        if b is not None:
            run(_scaled_copy, self.programs, r, b, self.scalars, self.n, B=BLOCK)

    def finish_rz(self, sums: int) -> None:
        """Compute r.z, beta and the scale of z; sums = 0: z is r."""
        run(_finish_rz, 1, self.sums, self.scalars, self.stop, sums, self.shrink, HAVE=sums > 0, B=1024)

    def finish_pap(self, sums: int, scaled: bool) -> None:
        """Compute p.Ap, alpha and the factor of the next right-hand side."""
        run(_finish_pap, 1, self.sums, self.scalars, self.stop, sums, SCALED=scaled, B=1024)

    def finish_rr(self, first: bool = False, scaled: bool = False) -> None:
        """Compute r.r, and whether it meets the tolerance."""
        run(_finish_rr, 1, self.sums, self.scalars, self.stop, self.programs, FIRST=first, SCALED=scaled, B=1024)

    def direction(self, p: Tensor, z: Tensor) -> None:
        """Compute p = scale z + beta p."""
        run(_direction, self.programs, p, z, self.scalars, self.stop, self.n, B=BLOCK)

    def update_residual(self, r: Tensor, q: Tensor, b: Tensor | None) -> None:
        """Step r -= alpha q, write b = factor r and the partial sums of r.r."""
        some = r if b is None else b
        arguments = (r, q, some, self.sums, self.scalars, self.stop, self.n)
        run(_update_residual, self.programs, *arguments, SCALED=b is not None, B=BLOCK)

    def advance(self, x: Tensor, p: Tensor) -> None:
        """Step x += alpha p, unless alpha is not finite: x stays the last finite iterate."""
        run(_advance, self.programs, x, p, self.scalars, self.stop, self.n, B=BLOCK)
