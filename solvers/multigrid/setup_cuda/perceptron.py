"""What set-up kernels share on a GPU (Triton): the medium of a level, the circuit of an axis, perceptrons over lanes.

A *medium* is four arrays (w, g, h, q): three links, three grounds, shift and diagonal per cell in fp32, or, for a
cell-type operator (CELLS), its codes and three conductances (`formats`), the other two unused. A lane is a cell;
indices are flat, neighbours wrap. The formulas are those of `coarsening.circuit` and `network`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...kernels.cuda.launch import INTERPRETED

# cells per program: 16 hidden units of each in the registers of a thread; the interpreter takes many at once
LANES = 4096 if INTERPRETED else 128
WIDTH = 16  # tl.dot takes no narrower layers; those of other widths are padded with zeros


def packed(perceptron: Any, features: int, device: torch.device) -> Tensor:
    """Return the numbers of a perceptron as the kernels read them, layers padded to a common width H.

    In this order: first layer (features, H), its bias (H), second layer (H, H), its bias, last layer (outputs, H), its
    bias. A constant perceptron gets zeros.
    """
    bias = perceptron.bias.detach().float()
    width = width_of(perceptron)
    if perceptron.last is None:
        nothing = bias.new_zeros((features + 2 + width + len(bias)) * width)
        return torch.cat([nothing, bias]).to(device)
    first, second = perceptron.layers
    wide = [
        padded(first.weight.T, (features, width)), padded(first.bias, (width,)),
        padded(second.weight, (width, width)), padded(second.bias, (width,)),
        padded(perceptron.last.weight, (len(bias), width)),
    ]  # fmt: skip
    return torch.cat([t.flatten() for t in (*wide, bias)]).to(device)


def width_of(perceptron: Any) -> int:
    """Return the padded width of the hidden layers."""
    hidden = 1 if perceptron.last is None else perceptron.last.weight.shape[1]
    return max(WIDTH, triton.next_power_of_2(hidden))


def padded(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Append zeros up to a shape."""
    t = t.detach().float()
    out = t.new_zeros(shape)
    out[tuple(slice(0, n) for n in t.shape)] = t
    return out


# --- perceptrons ------------------------------------------------------------------------------------------------------


@triton.jit
def first_layer(net, F: tl.constexpr, H: tl.constexpr, B: tl.constexpr):
    """Return the biases of the first layer for all lanes: (H, B), to which `feed` adds features."""
    return tl.load(net + F * H + tl.arange(0, H))[:, None] + tl.zeros((H, B), tl.float32)


@triton.jit
def feed(rows, net, f: tl.constexpr, x, H: tl.constexpr):
    """Add the share of feature f, one value per lane."""
    return rows + tl.load(net + f * H + tl.arange(0, H))[:, None] * x[None, :]


@triton.jit
def leaky(x):
    """Leaky ReLU."""
    return tl.where(x > 0, x, 0.1 * x)


@triton.jit
def second_layer(rows, net, F: tl.constexpr, H: tl.constexpr):
    """Return the activations of the second layer, (H, B)."""
    h = tl.arange(0, H)
    base = net + F * H + H
    matrix = tl.load(base + h[:, None] * H + h[None, :])
    # three products in 11 bits each: as good as fp32, on tensor cores
    hidden = tl.dot(matrix, leaky(rows), input_precision="tf32x3")
    return leaky(hidden + tl.load(base + H * H + h)[:, None])


@triton.jit
def output(rows, net, o: tl.constexpr, F: tl.constexpr, H: tl.constexpr, O: tl.constexpr):
    """Return output o of every lane."""
    last = net + F * H + H + H * H + H
    return tl.sum(tl.load(last + o * H + tl.arange(0, H))[:, None] * rows, 0) + tl.load(last + O * H + o)


@triton.jit
def sigmoid(y):
    """1 / (1 + e^-y), without overflow."""
    e = tl.exp(-tl.abs(y))
    return tl.where(y >= 0, 1, e) / (1 + e)


@triton.jit
def ratio(x, y):
    """x^¼ / (x^¼ + y^¼), clamped as in `network.ratio`."""
    x, y = tl.maximum(x, 1e-37), tl.maximum(y, 1e-37)
    quotient = y / tl.maximum(x, 1e-16 * y)  # at most 1e16, without overflow
    return 1 / (1 + tl.sqrt(tl.sqrt(tl.maximum(quotient, 1e-16))))


@triton.jit
def inverse(x):
    """1/x, 0 for 0."""
    return tl.where(x > 0, 1 / tl.where(x > 0, x, 1), 0)


@triton.jit
def number(x, like):
    """Whether a number is not 0, as a condition per lane: those on numbers have another type in the interpreter."""
    return (0 * like + x) != 0


# --- the medium -------------------------------------------------------------------------------------------------------


@triton.jit
def digit(code, D):
    """Return how many conductances of axis D add up on the diagonal."""
    return (code >> 6) // (1 + 4 * D + 8 * D * (D - 1)) % 5  # 1, 5, 25


@triton.jit
def link_of(w, g, D, o, n, live, CELLS: tl.constexpr):
    """Return the upper link along axis D."""
    if CELLS:
        code = tl.load(w + o, mask=live, other=0).to(tl.int32)
        return tl.where((code >> (2 * D)) & 1 != 0, tl.load(g + D), 0)
    else:
        return tl.load(w + D * n + o, mask=live, other=0)


@triton.jit
def ground_of(w, g, D, o, n, live, CELLS: tl.constexpr):
    """Return the conductance to p = 0 along axis D."""
    if CELLS:
        code = tl.load(w + o, mask=live, other=0).to(tl.int32)
        bits = (code >> (2 * D)) & 3
        return tl.load(g + D) * (digit(code, D) - (bits & 1) - (bits >> 1)).to(tl.float32)
    else:
        return tl.load(g + D * n + o, mask=live, other=0)


@triton.jit
def grounds_of(w, g, o, n, live, CELLS: tl.constexpr):
    """Return the conductance to p = 0, all axes added."""
    x, y = ground_of(w, g, 0, o, n, live, CELLS), ground_of(w, g, 1, o, n, live, CELLS)
    return x + y + ground_of(w, g, 2, o, n, live, CELLS)


@triton.jit
def shift_of(h, o, live, CELLS: tl.constexpr):
    """Return the shift."""
    if CELLS:
        return tl.zeros_like(o).to(tl.float32)
    else:
        return tl.load(h + o, mask=live, other=0)


@triton.jit
def diag_of(w, g, q, o, live, CELLS: tl.constexpr):
    """Return the diagonal."""
    if CELLS:
        code = tl.load(w + o, mask=live, other=0).to(tl.int32)
        x, y, z = digit(code, 0).to(tl.float32), digit(code, 1).to(tl.float32), digit(code, 2).to(tl.float32)
        return tl.load(g) * x + tl.load(g + 1) * y + tl.load(g + 2) * z
    else:
        return tl.load(q + o, mask=live, other=0)


# --- the circuit of an axis -------------------------------------------------------------------------------------------


@triton.jit
def place(c, ny, nz):
    """Return the three indices of flat index c."""
    row = c // nz
    return row // ny, row % ny, c % nz


@triton.jit
def above(c, p, m, t):
    """Return the upper neighbour of cell c at position p of an axis of m cells with stride t."""
    return tl.where(p < m - 1, c + t, c - (m - 1) * t)


@triton.jit
def below(c, p, m, t):
    """Return the lower neighbour."""
    return tl.where(p > 0, c - t, c + (m - 1) * t)


@triton.jit
def has_partner(p, m):
    """Whether another cell lies in the block."""
    return (p % 2 == 1) | (p < m - 1)


@triton.jit
def inner_of(w, g, D, c, p, m, t, n, live, CELLS: tl.constexpr):
    """Return the conductance to the partner in the block, 0 without one."""
    lower = tl.where(p % 2 == 0, c, c - t)
    return link_of(w, g, D, lower, n, live & has_partner(p, m), CELLS) * has_partner(p, m).to(tl.float32)


@triton.jit
def partner_diag(w, g, q, c, p, m, t, live, CELLS: tl.constexpr):
    """Return the diagonal of the partner, 0 without one."""
    there = live & has_partner(p, m)
    value = diag_of(w, g, q, tl.where(p % 2 == 0, c + t, c - t), there, CELLS)
    return tl.where(there, value, 0)


@triton.jit
def half_resistance(inner):
    """Half the resistance of the inner link."""
    return tl.where(inner > 0, 0.5 / tl.where(inner > 0, inner, 1), 0)


@triton.jit
def outer_cell(c, p, m, t):
    """Return index and position of the outer neighbour (wrapped)."""
    even = p % 2 == 0
    position = tl.where(even, tl.where(p > 0, p - 1, m - 1), tl.where(p < m - 1, p + 1, 0))
    return tl.where(even, below(c, p, m, t), above(c, p, m, t)), position
