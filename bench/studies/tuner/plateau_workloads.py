"""Three more workloads to design with: they begin on a plateau or at a saddle, where short trials show nothing.

None is among the ten that tuners are compared on (`workloads`): another factorisation, a recurrent network for another
task, a deep narrow perceptron. `krylearn study training --stages ablation` runs variants of the tuner on them.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from . import workload_data as data, workload_models as models
from .workloads import Pair, Workload


class Order(nn.Module):
    """A GRU over (n, length, 2), and a dense layer on its last state.

    Examples
    --------
    >>> Order()(torch.zeros(3, 20, 2)).shape
    torch.Size([3, 4])
    """

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(2, width, batch_first=True), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores (n, 4)."""
        return self.head(self.cell(x)[0][:, -1])


def marked_signs(count: int = 4000, length: int = 20) -> Pair:
    """Return noisy sequences in which two places are marked; the class says which signs stand there.

    Examples
    --------
    >>> x, y = marked_signs(8)
    >>> x.shape, int(x[:, :, 1].sum()), bool(((0 <= y) & (y < 4)).all())
    (torch.Size([8, 20, 2]), 16, True)
    """
    own = torch.Generator().manual_seed(11)
    x = torch.zeros(count, length, 2)
    x[:, :, 0] = 0.5 * torch.randn(count, length, generator=own)
    first = torch.randint(0, length // 2, (count,), generator=own)
    second = torch.randint(length // 2, length, (count,), generator=own)
    sign = torch.randint(0, 2, (count, 2), generator=own)
    rows = torch.arange(count)
    for k, place in enumerate((first, second)):
        x[rows, place] = torch.stack([2.0 * sign[:, k] - 1, torch.ones(count)], 1)
    return x, 2 * sign[:, 0] + sign[:, 1]


def entries(rows: int = 100, columns: int = 200, rank: int = 3) -> Pair:
    """Return places and noisy entries of a matrix of low rank, 35 % of them.

    Examples
    --------
    >>> where, values = entries(10, 20)
    >>> where.shape[1], len(where) == len(values)
    (2, True)
    """
    own = torch.Generator().manual_seed(13)
    left, right = (torch.randn(n, rank, generator=own) for n in (rows, columns))
    where = (torch.rand(rows, columns, generator=own) < 0.35).nonzero()
    where = where[torch.randperm(len(where), generator=own)]
    noise = 0.3 * torch.randn(len(where), generator=own)
    return where, (left @ right.T / rank**0.5)[where[:, 0], where[:, 1]] + noise


def deep() -> nn.Sequential:
    """Make seven narrow dense layers with tanh between them, from 64 to 10.

    Examples
    --------
    >>> deep()(torch.zeros(2, 64)).shape
    torch.Size([2, 10])
    """
    widths = [64, *6 * [32], 10]
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


PLATEAUS = [
    Workload("saddle", "design", lambda: models.Factors(100, 200, 5), nn.functional.mse_loss,
             lambda: data.split(entries()), 500, 64, 10.0, "factorisation of a noisy 100 x 200 matrix of rank 3"),
    Workload("order", "design", Order, nn.functional.cross_entropy,
             lambda: data.split(marked_signs()), 500, 64, 3.0, "GRU that tells two marked signs in noise"),
    Workload("deep", "design", deep, nn.functional.cross_entropy,
             lambda: data.split(data.digits()), 400, 32, 1.0, "seven narrow layers with tanh on digits of 8x8"),
]  # fmt: skip
