"""Three more tasks, written down before anything was trained on them: they judge `auto`, and nothing is chosen by them.

textures  oriented stripes of eight directions in 12x12 noise, a perceptron with GELU (a convolution took too long)
pointers  sequences of 16 symbols, the answer is the symbol that the first one points to, one layer of attention
mixture   sixteen noisy clouds in 20 dimensions with a tenth of the labels wrong, a wide perceptron with LayerNorm
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .task import Task

SIZE, DIRECTIONS, SYMBOLS, LENGTH, CLOUDS, DIMENSIONS = 12, 8, 16, 16, 16, 20
SAMPLES = 128 * 1024


def _texture_network() -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE * SIZE, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, DIRECTIONS))


def make_textures() -> Task:
    """Draw stripes of a direction, with any phase and one of many widths, in white noise.

    Examples
    --------
    >>> make_textures().inputs.shape
    torch.Size([16384, 144])
    """
    rng = torch.Generator().manual_seed(20264)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(DIRECTIONS, (count,), generator=rng)
        angle = (labels * math.pi / DIRECTIONS)[:, None, None]
        wave = 0.6 + 0.8 * torch.rand(count, 1, 1, generator=rng)
        phase = 2 * math.pi * torch.rand(count, 1, 1, generator=rng)
        stripes = torch.sin(wave * (angle.cos() * columns + angle.sin() * rows) + phase)
        return (stripes + 1.2 * torch.randn(count, SIZE, SIZE, generator=rng)).flatten(1), labels

    return Task("textures", *draw(16_384), *draw(4_096), _texture_network, SAMPLES)


class Pointer(nn.Module):
    """Embedded symbols with places, one attention from the first place, a perceptron behind it.

    Examples
    --------
    >>> Pointer()(torch.zeros(3, 16, dtype=torch.long)).shape
    torch.Size([3, 16])
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(SYMBOLS, width), nn.Embedding(LENGTH, width)
        self.asks, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, SYMBOLS))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of symbols (n, SYMBOLS)."""
        h = self.symbols(x) + self.places.weight
        scores = (self.keys(h) @ self.asks(h[:, :1]).transpose(1, 2))[:, :, 0] / h.shape[-1] ** 0.5
        return self.head((scores.softmax(1)[:, :, None] * self.values(h)).sum(1))


def make_pointers() -> Task:
    """Draw sequences in which the first symbol names the place of the answer; a twentieth of the answers are wrong.

    Examples
    --------
    >>> task = make_pointers()
    >>> told = task.inputs[torch.arange(16384), task.inputs[:, 0]] == task.targets
    >>> 0.9 < float(told.float().mean()) < 1
    True
    """
    rng = torch.Generator().manual_seed(20265)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randint(SYMBOLS, (count, LENGTH), generator=rng)
        x[:, 0] = torch.randint(1, LENGTH, (count,), generator=rng)
        y = x[torch.arange(count), x[:, 0]]
        wrong = torch.rand(count, generator=rng) < 0.05
        return x, torch.where(wrong, torch.randint(SYMBOLS, (count,), generator=rng), y)

    return Task("pointers", *draw(16_384), *draw(4_096), Pointer, SAMPLES)


def _mixture_network() -> nn.Module:
    return nn.Sequential(nn.Linear(DIMENSIONS, 96), nn.LayerNorm(96), nn.ReLU(), nn.Linear(96, CLOUDS))


def make_mixture() -> Task:
    """Draw points of overlapping clouds; a tenth of the labels are wrong.

    Examples
    --------
    >>> make_mixture().inputs.shape
    torch.Size([16384, 20])
    """
    rng = torch.Generator().manual_seed(20266)
    centres = 0.7 * torch.randn(2, CLOUDS, DIMENSIONS, generator=rng)  # every class has two clouds

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(CLOUDS, (count,), generator=rng)
        which = torch.randint(2, (count,), generator=rng)
        x = centres[which, labels] + torch.randn(count, DIMENSIONS, generator=rng)
        wrong = torch.rand(count, generator=rng) < 0.1
        return x, torch.where(wrong, torch.randint(CLOUDS, (count,), generator=rng), labels)

    return Task("mixture", *draw(16_384), *draw(4_096), _mixture_network, SAMPLES)
