"""Ten training workloads, offline and small, to judge optimizers with: five to design with, five to judge with.

Which is which was fixed before any tuner was run. A run takes one to three seconds on one core. All entrants get the
same number of gradients, the same batches per seed, and the same schedule: cosine to zero over the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import workload_data as data, workload_models as models

Pair = tuple[Tensor, Tensor]


class Task(NamedTuple):
    """A model with fresh weights, its loss (outputs, targets) -> scalar, and its data."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    train: Pair
    validation: Pair


@dataclass(frozen=True)
class Workload:
    """One workload: what is trained on what, for how long.

    `purpose` is "design" or "judgement"; `sgd` is the middle of the grid of lr/(1-β) for SGD, which is centred on the
    workload so that the grid's best is inside it; `batch` and `steps` count samples and gradients.
    """

    name: str
    purpose: str
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    data: Callable[[], tuple[Pair, Pair]]
    steps: int
    batch: int
    sgd: float
    about: str

    def task(self, seed: int) -> Task:
        """Return the task with the weights of a seed; torch's own generator is left as it was.

        Examples
        --------
        >>> task = WORKLOADS["quadratic"].task(0)
        >>> round(validation_loss(task), 1) > 1
        True
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.model()
        return Task(model, self.loss, *self.data())

    def batches(self, task: Task, seed: int, batch: int | None = None) -> Iterator[Pair]:
        """Yield shuffled batches without end; the order hangs on the seed alone.

        Examples
        --------
        >>> work = WORKLOADS["quadratic"]
        >>> next(work.batches(work.task(0), 0))[0].shape
        torch.Size([32, 48])
        """
        x, y = task.train
        size = batch or self.batch
        generator = torch.Generator().manual_seed(1000 + seed)
        while True:
            order = torch.randperm(len(x), generator=generator)
            for k in range(0, len(x) - size + 1, size):
                yield x[order[k : k + size]], y[order[k : k + size]]


def schedule(step: int, steps: int) -> float:
    """Return the factor on lr that all entrants share: cosine from 1 to 0.

    Examples
    --------
    >>> schedule(0, 10), schedule(5, 10)
    (1.0, 0.5)
    """
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def mean_loss(task: Task, pair: Pair, chunk: int = 1000) -> float:
    """Return the mean loss over a data set, in evaluation mode; NaN and infinity as they come.

    Examples
    --------
    >>> task = WORKLOADS["quadratic"].task(0)
    >>> mean_loss(task, task.train) > mean_loss(task, task.validation)
    True
    """
    was = task.model.training
    task.model.eval()
    total = 0.0
    with torch.no_grad():
        for x, y in zip(pair[0].split(chunk), pair[1].split(chunk), strict=True):
            total += float(task.loss(task.model(x), y)) * len(x)
    task.model.train(was)
    return total / len(pair[0])


def validation_loss(task: Task) -> float:
    """Return the mean loss over the validation data.

    Examples
    --------
    >>> validation_loss(WORKLOADS["quadratic"].task(0)) > 0
    True
    """
    return mean_loss(task, task.validation)


def training_loss(task: Task, samples: int = 1000) -> float:
    """Return the mean loss over the first training samples, in evaluation mode.

    Examples
    --------
    >>> training_loss(WORKLOADS["quadratic"].task(0)) > 0
    True
    """
    return mean_loss(task, (task.train[0][:samples], task.train[1][:samples]))


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over samples of half the squared norm of what is left.

    Examples
    --------
    >>> float(half_square(torch.ones(3, 4), torch.zeros(3, 4)))
    2.0
    """
    return 0.5 * (outputs - targets).square().sum(1).mean()


def _quadratic() -> tuple[Pair, Pair]:
    """Validate with one sample at the mean: the loss is then exactly the distance from the best possible one."""
    train = models.quadratic_data()
    return train, (torch.zeros(1, 48), torch.zeros(1, 48))


def _perceptron(*widths: int) -> Callable[[], nn.Module]:
    return lambda: models.perceptron(*widths)


def _of(source: Callable[[], Pair]) -> Callable[[], tuple[Pair, Pair]]:
    return lambda: data.split(source())


_entropy = nn.functional.cross_entropy
_ALL = [
    Workload("lenet", "design", models.LeNet, _entropy, _of(data.mnist), 400, 32, 0.3, "LeNet on 5,000 MNIST digits"),
    Workload("resnet", "design", models.PreActResNet, _entropy, _of(data.mnist), 250, 32, 1.0,
             "pre-activation ResNet with BatchNorm on 5,000 MNIST digits"),
    Workload("mlp", "design", _perceptron(64, 48, 48, 10), _entropy, _of(data.digits), 500, 32, 1.0,
             "perceptron on 1,797 digits of 8x8"),
    Workload("characters", "design", models.CharTransformer, _entropy, _of(data.text), 300, 16, 1.0,
             "causal transformer on characters of the Python reference"),
    Workload("quadratic", "design", models.Quadratic, half_square, _quadratic, 500, 32, 0.3,
             "noisy quadratic of condition 333 with known optimum; the loss is the excess over it"),
    Workload("vit", "judgement", models.TinyViT, _entropy, _of(data.mnist), 400, 32, 1.0,
             "vision transformer on 5,000 MNIST digits"),
    Workload("cnn1d", "judgement", models.SignalCNN, _entropy, _of(data.mnist1d), 800, 64, 1.0,
             "convolutions on MNIST-1D"),
    Workload("gru", "judgement", models.SignalGRU, _entropy, _of(data.mnist1d), 500, 64, 3.0, "GRU on MNIST-1D"),
    Workload("tabular", "judgement", models.TabularNet, _entropy, _of(data.cancer), 200, 32, 0.3,
             "perceptron with dropout on 569 cases of breast cancer"),
    Workload("factors", "judgement", models.Factors, nn.functional.mse_loss, _of(data.ratings), 600, 128, 10.0,
             "factorisation of a noisy 150 x 120 matrix of rank 4, 40 % seen"),
]  # fmt: skip
WORKLOADS = {work.name: work for work in _ALL}
