"""The ten small networks of the training workloads; plain modules, initialised as torch does."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


class LeNet(nn.Sequential):
    """Two convolutions and two dense layers on (n, 1, 28, 28).

    Examples
    --------
    >>> LeNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 6, 5, stride=2), nn.ReLU(), nn.Conv2d(6, 16, 5, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


class PreActBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), with a projection where the width changes.

    Examples
    --------
    >>> PreActBlock(2, 4, 2)(torch.zeros(3, 2, 8, 8)).shape
    torch.Size([3, 4, 4, 4])
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        same = inside == outside and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (n, inside, h, w)."""
        y = self.norm1(x).relu()
        return self.skip(y) + self.conv2(self.norm2(self.conv1(y)).relu())


class PreActResNet(nn.Sequential):
    """Pre-activation residual network with BatchNorm: a stem and three blocks on (n, 1, 28, 28).

    Examples
    --------
    >>> PreActResNet()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), PreActBlock(8, 8, 1), PreActBlock(8, 16, 2),
            PreActBlock(16, 32, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(32, 10),
        )  # fmt: skip


class Attention(nn.Module):
    """Self-attention by matrix products (any torch differentiates it twice), causal if asked.

    Examples
    --------
    >>> Attention(8, 2)(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (n, length, width)."""
        n, length, width = x.shape
        q, k, v = self.mix(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if self.causal:
            scores = scores + torch.full((length, length), -torch.inf).triu(1)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """Pre-norm transformer block.

    Examples
    --------
    >>> Block(8, 2)(torch.zeros(1, 5, 8)).shape
    torch.Size([1, 5, 8])
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.dense = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (n, length, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.dense(self.norm2(x))


class TinyViT(nn.Module):
    """Vision transformer: 16 patches of 7x7, two blocks of width 32, on (n, 1, 28, 28).

    Examples
    --------
    >>> TinyViT()(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(Block(width, 2), Block(width, 2), nn.LayerNorm(width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (n, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.blocks(tokens).mean(1))


class CharTransformer(nn.Module):
    """Causal transformer on characters: two blocks of width 32, (n, length) -> scores (n, 96, length).

    Examples
    --------
    >>> CharTransformer()(torch.zeros(2, 32, dtype=torch.long)).shape
    torch.Size([2, 96, 32])
    """

    def __init__(self, width: int = 32, length: int = 32) -> None:
        super().__init__()
        self.code = nn.Embedding(96, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(Block(width, 2, True), Block(width, 2, True), nn.LayerNorm(width))
        self.head = nn.Linear(width, 96)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores; classes in the second dimension, as cross-entropy wants them."""
        return self.head(self.blocks(self.code(x) + self.place)).transpose(1, 2)


class SignalCNN(nn.Sequential):
    """Three strided convolutions on (n, 1, 40).

    Examples
    --------
    >>> SignalCNN()(torch.zeros(2, 1, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__(
            nn.Conv1d(1, width, 5, 2, 1), nn.ReLU(), nn.Conv1d(width, width, 3, 2, 1), nn.ReLU(),
            nn.Conv1d(width, width, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * width, 10),
        )  # fmt: skip


class SignalGRU(nn.Module):
    """A GRU over (n, 1, 40), four samples a step, and a dense layer on its last state.

    Examples
    --------
    >>> SignalGRU()(torch.zeros(2, 1, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (n, 10)."""
        return self.head(self.cell(x.reshape(len(x), 10, 4))[0][:, -1])


def perceptron(*widths: int) -> nn.Sequential:
    """Make dense layers with ReLU between them.

    Examples
    --------
    >>> len(perceptron(4, 8, 2))
    3
    """
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TabularNet(nn.Sequential):
    """Dense layers with dropout on (n, 30): without it, 455 cases are learned by heart.

    Examples
    --------
    >>> TabularNet()(torch.zeros(2, 30)).shape
    torch.Size([2, 2])
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Dropout(0.3), nn.Linear(30, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, width), nn.ReLU(),
            nn.Dropout(0.5), nn.Linear(width, 2),
        )  # fmt: skip


class Factors(nn.Module):
    """Matrix factorisation: entry (i, j) is the dot product of two learned rows.

    Examples
    --------
    >>> Factors(3, 4)(torch.tensor([[0, 1], [2, 3]])).shape
    torch.Size([2])
    """

    def __init__(self, rows: int = 150, columns: int = 120, rank: int = 6) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(0.1 * torch.randn(n, rank)) for n in (rows, columns))

    def forward(self, where: Tensor) -> Tensor:
        """Return the entries at (n, 2) places."""
        return (self.rows[where[:, 0]] * self.columns[where[:, 1]]).sum(1)


class Quadratic(nn.Module):
    """Λ^(1/2) (Qθ - x): half its squared norm is a quadratic with curvatures Λ = 10/i^1.5 and the optimum Qθ = E x.

    Examples
    --------
    >>> Quadratic()(torch.zeros(2, 48)).shape
    torch.Size([2, 48])
    """

    root: Tensor
    turn: Tensor

    def __init__(self, size: int = 48) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(size))
        own = torch.Generator().manual_seed(5)
        self.register_buffer("turn", torch.linalg.qr(torch.randn(size, size, generator=own))[0])
        self.register_buffer("root", (10 / torch.arange(1, size + 1) ** 1.5).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled distances (n, size) from the samples."""
        return self.root * (self.turn @ self.theta - x)


def quadratic_data(samples: int = 2048, size: int = 48) -> tuple[Tensor, Tensor]:
    """Return samples (n, size) of deviation 1 and mean exactly 0, so that the optimum is known, and zeros.

    Examples
    --------
    >>> float(quadratic_data(8)[0].mean(0).abs().max()) < 1e-6
    True
    """
    x = torch.randn(samples, size, generator=torch.Generator().manual_seed(6))
    return x - x.mean(0), torch.zeros(samples, size)
