"""Three small trained networks whose every Hessian eigenvalue is known: what curvature estimates are judged by.

A perceptron and a convolutional network with BatchNorm on 8x8 digits, a transformer on characters of the Python
reference. Small, so that the Hessian can be formed and solved in full; the products are those of any size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from krylearn.optim import hessian
from torch import Tensor, nn
from torch.nn import functional

from ..tuner.workload_data import digits, text


class Block(nn.Module):
    """A transformer block whose attention is torch's fused one: no double backward unless it is told to do without."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, width) to the same."""
        batch, length, width = x.shape
        parts = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed(self.norms[1](x))


class Characters(nn.Module):
    """A transformer that predicts the next character; logits (batch, classes, length), as cross_entropy likes them."""

    def __init__(self, width: int, heads: int = 2, length: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(96, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.block, self.norm, self.head = Block(width, heads), nn.LayerNorm(width), nn.Linear(width, 96)

    def forward(self, x: Tensor) -> Tensor:
        """Map codes (batch, length) to logits."""
        return self.head(self.norm(self.block(self.embed(x) + self.place))).transpose(1, 2)


def perceptron(a: int, b: int) -> nn.Module:
    """Two hidden layers.

    Examples
    --------
    >>> perceptron(8, 4)(torch.ones(2, 64)).shape
    torch.Size([2, 10])
    """
    return nn.Sequential(nn.Linear(64, a), nn.Tanh(), nn.Linear(a, b), nn.Tanh(), nn.Linear(b, 10))


def convolutional(a: int, b: int) -> nn.Module:
    """Three convolutions, each with BatchNorm.

    Examples
    --------
    >>> convolutional(3, 4)(torch.ones(2, 64)).shape
    torch.Size([2, 10])
    """

    def layer(i: int, o: int, *more: nn.Module) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), *more]

    body = [*layer(1, a), *layer(a, b, nn.MaxPool2d(2)), *layer(b, b, nn.MaxPool2d(2))]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *body, nn.Flatten(), nn.Linear(4 * b, 10))


@dataclass(frozen=True)
class Case:
    """A network, its curvature batch, and the eigenvalues (ascending, float64) of the Hessian of its mean loss.

    The network is in evaluation mode: some rivals know no other, and all are to have the same operator.
    """

    name: str
    model: nn.Module
    batch: tuple[Tensor, Tensor]
    eigenvalues: np.ndarray

    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy

    @property
    def unknowns(self) -> int:
        """Number of parameters."""
        return len(self.eigenvalues)


# name: (network at full and at quick size, data, samples of the curvature batch, training steps, batch size, lr)
CASES: dict[str, Any] = {
    "perceptron": (lambda q: perceptron(*((16, 8) if q else (56, 32))), digits, 512, 300, 64, 0.1),
    "cnn with batchnorm": (lambda q: convolutional(*((4, 6) if q else (12, 16))), digits, 256, 150, 64, 0.05),
    "transformer": (lambda q: Characters(4 if q else 12), text, 24, 300, 32, 0.5),
}


def make_case(name: str, *, quick: bool = False) -> Case:
    """Train a network, and solve its Hessian on a batch of other samples in full.

    Examples
    --------
    >>> make_case("perceptron", quick=True).unknowns                    # doctest: +SKIP
    1266
    """
    model, batch = train(name, quick=quick)
    return Case(name, model, batch, all_eigenvalues(model, batch))


def train(name: str, *, quick: bool = False, seed: int = 27_017) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Train a network with SGD and momentum; return it and a batch of other samples.

    Examples
    --------
    >>> train("transformer", quick=True)[1][0].shape                    # doctest: +SKIP
    torch.Size([24, 32])
    """
    build, data, samples, steps, size, lr = CASES[name]
    x, y = data()
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(quick)
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    steps = steps // 3 if quick else steps
    for step in range(steps):
        rows = torch.randint(samples, len(x), (size,), generator=rng)
        sgd.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / 20)
        sgd.zero_grad()
        functional.cross_entropy(model(x[rows]), y[rows]).backward()
        sgd.step()
    sgd.zero_grad()
    return model.eval(), (x[:samples].contiguous(), y[:samples].contiguous())


def all_eigenvalues(model: nn.Module, batch: tuple[Tensor, Tensor]) -> np.ndarray:
    """Form the Hessian, BatchNorm with its running statistics, and return all its eigenvalues.

    Products are in the model's precision; that they are the Hessian's is tested against dense second derivatives.

    Examples
    --------
    >>> all_eigenvalues(nn.Linear(1, 2), (torch.ones(3, 1), torch.tensor([0, 1, 1]))).shape
    (4,)
    """
    options: dict[str, Any] = {"method": "double-backward", "batchnorm": "running", "block": 16}
    dense = hessian(model, functional.cross_entropy, batch, **options).matrix().double()
    return torch.linalg.eigvalsh((dense + dense.T) / 2).numpy()
