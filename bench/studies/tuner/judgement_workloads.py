"""Ten workloads that no version of the tuner has been run on: written down before it was changed, used once at the end.

Kinds that the design workloads do not have; half with a constant lr, half with a cosine to zero; 300 to 5,000 steps.
Each is judged by one number, `measure`: a loss on held-out data, less `floor`, what the best conceivable model
would leave there (noise that cannot be predicted), stated here beforehand; 0 where it is not known. All data are
generated from seeds or come from the scikit-learn wheel.

    name         what is trained                                       steps  lr        loss that is measured
    burgers      physics-informed network, viscous Burgers equation     3000  constant  mean residual and initial square
    communities  graph convolutions, nodes of a random block graph       300  cosine    cross-entropy of hidden nodes
    words        causal transformer on words of the Python reference    2000  cosine    cross-entropy
    diffusion    denoising network, three rings in the plane            5000  constant  noise prediction, all levels
    table        perceptron with weight decay 0.1 on 160 rows           1000  constant  mean squares less the noise
    finetune     BatchNorm network, digits 0-4 first, then 5-9           400  cosine    cross-entropy of digits 5-9
    experts      mixture of four experts with a soft gate               1500  constant  mean squares less the noise
    contrastive  InfoNCE between two noisy views of a latent vector      800  cosine    InfoNCE on fixed pairs
    autoencoder  64-6-64 bottleneck with tanh on digits of 8x8          1200  constant  mean squares
    noisy        regression with noise of Student's t, three degrees     600  cosine    Huber loss less the noise's own
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import workload_data as data
from .workload_models import Block

FUNCTIONAL = nn.functional


class JudgedTask(NamedTuple):
    """A model with fresh weights, batch -> loss, generator -> batch, and () -> loss on held-out data."""

    model: nn.Module
    loss: Callable[[Any], Tensor]
    draw: Callable[[torch.Generator], Any]
    held_out: Callable[[], Tensor]


@dataclass(frozen=True)
class JudgedWorkload:
    """One workload: steps, whether the lr is annealed, the floor of its measure, its weight decay."""

    name: str
    make: Callable[[], JudgedTask]
    steps: int
    annealed: bool
    floor: float = 0.0
    weight_decay: float = 0.0

    def task(self, seed: int) -> JudgedTask:
        """Return the task with the weights of a seed; torch's own generator is left as it was.

        Examples
        --------
        >>> work = JUDGED["experts"]
        >>> task = work.task(1)
        >>> task.loss(task.draw(torch.Generator().manual_seed(0))).dim(), work.measure(task) > 0
        (0, True)
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def measure(self, task: JudgedTask) -> float:
        """Return the held-out loss above the floor, in evaluation mode; NaN and infinity as they come.

        Examples
        --------
        >>> JUDGED["table"].measure(JUDGED["table"].task(0)) > 0
        True
        """
        was = task.model.training
        task.model.eval()
        value = float(task.held_out().detach())
        task.model.train(was)
        return value - self.floor

    def factor(self, step: int) -> float:
        """Return what the schedule makes of the lr.

        Examples
        --------
        >>> JUDGED["table"].factor(999), round(JUDGED["noisy"].factor(300), 6)
        (1.0, 0.5)
        """
        return 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.annealed else 1.0


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(x: Tensor, y: Tensor, size: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (size,), generator=generator)
        return x[rows], y[rows]

    return draw


def _dense(*widths: int, between: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), between())]
    return nn.Sequential(*layers[:-1])


def _burgers(points: int = 128, viscosity: float = 0.03) -> JudgedTask:
    """Make u(x, t) of u_t + u u_x = ν u_xx on [-1, 1] x [0, 1], u(x, 0) = -sin(πx), u = 0 at the ends."""
    net = _dense(2, 32, 32, 32, 1, between=nn.Tanh)

    def parts(inside: Tensor, start: Tensor) -> Tensor:
        where = inside.clone().requires_grad_(True)
        u = net(where) * (1 - where[:, :1] ** 2)
        with torch.enable_grad():
            first = torch.autograd.grad(u.sum(), where, create_graph=True)[0]
            second = torch.autograd.grad(first[:, 0].sum(), where, create_graph=True)[0][:, :1]
        residual = first[:, 1:] + u * first[:, :1] - viscosity * second
        at_start = torch.cat([start, torch.zeros_like(start)], 1)
        initial = net(at_start) * (1 - start**2) + torch.sin(math.pi * start)
        return residual.square().mean() + 10 * initial.square().mean()

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inside = torch.rand(points, 2, generator=generator) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
        return inside, 2 * torch.rand(points // 4, 1, generator=generator) - 1

    def loss(batch: Any) -> Tensor:
        with torch.enable_grad():
            return parts(*batch)

    fixed = draw(_generator(70_001)), draw(_generator(70_002))
    return JudgedTask(net, loss, draw, lambda: (loss(fixed[0]) + loss(fixed[1])) / 2)


class GraphNetwork(nn.Module):
    """Two graph convolutions with a given normalised adjacency.

    Examples
    --------
    >>> GraphNetwork(torch.eye(5), 3, 2)(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    adjacency: Tensor

    def __init__(self, adjacency: Tensor, inside: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.first, self.second = nn.Linear(inside, 32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores of all nodes."""
        return self.adjacency @ self.second((self.adjacency @ self.first(x)).relu())


def _communities(nodes: int = 600, classes: int = 5) -> JudgedTask:
    """Make a random graph of communities with weak features; some nodes are labelled in training, others hidden."""
    own = _generator(71_003)
    labels = torch.arange(nodes) % classes
    same = labels[:, None] == labels[None]
    links = torch.rand(nodes, nodes, generator=own) < torch.where(same, 0.05, 0.006)
    links = (links.triu(1) | links.triu(1).T | torch.eye(nodes, dtype=torch.bool)).float()
    degree = links.sum(1).rsqrt()
    adjacency = degree[:, None] * links * degree[None]
    x = FUNCTIONAL.one_hot(labels, 16).float() * 0.5 + torch.randn(nodes, 16, generator=own)
    order = torch.randperm(nodes, generator=own)
    seen, hidden = order[:200], order[200:]
    net = GraphNetwork(adjacency, 16, classes)

    def draw(generator: torch.Generator) -> Tensor:
        return seen[torch.randint(len(seen), (64,), generator=generator)]

    def loss(nodes_: Tensor) -> Tensor:
        return FUNCTIONAL.cross_entropy(net(x)[nodes_], labels[nodes_])

    return JudgedTask(net, loss, draw, lambda: loss(hidden))


class WordTransformer(nn.Module):
    """Causal transformer on word codes, (n, length) -> (n, words, length).

    Examples
    --------
    >>> WordTransformer(50, 8)(torch.zeros(2, 8, dtype=torch.long)).shape
    torch.Size([2, 50, 8])
    """

    def __init__(self, words: int, length: int, width: int = 32) -> None:
        super().__init__()
        self.code, self.place = nn.Embedding(words, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(Block(width, 4, True), Block(width, 4, True), nn.LayerNorm(width))
        self.head = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of the next words."""
        return self.head(self.blocks(self.code(x) + self.place)).transpose(1, 2)


def _words(vocabulary: int = 256, length: int = 24) -> JudgedTask:
    """Make words of the shipped text: the most frequent ones, the rest as one class."""
    codes = data.text()[0].reshape(-1)
    text = "".join(chr(int(c) + 31) if c else " " for c in codes)
    found = text.split()
    counts: dict[str, int] = {}
    for word in found:
        counts[word] = counts.get(word, 0) + 1
    known = {word: k + 1 for k, word in enumerate(sorted(counts, key=lambda w: (-counts[w], w))[: vocabulary - 1])}
    stream = torch.tensor([known.get(word, 0) for word in found])
    cut = round(0.8 * len(stream))
    net = WordTransformer(vocabulary, length)

    def windows(starts: Tensor) -> tuple[Tensor, Tensor]:
        places = starts[:, None] + torch.arange(length)
        return stream[places], stream[places + 1]

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return windows(torch.randint(cut - length - 1, (16,), generator=generator))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return FUNCTIONAL.cross_entropy(net(batch[0]), batch[1])

    held = windows(torch.arange(cut, len(stream) - length - 1, length))
    return JudgedTask(net, loss, draw, lambda: loss(held))


def _diffusion(size: int = 128) -> JudgedTask:
    """Make a network that predicts the noise mixed into points of three rings, at a level it is told."""
    net = _dense(4, 64, 64, 64, 2)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        angle = 2 * math.pi * torch.rand(size, generator=generator)
        radius = torch.tensor([0.4, 1.0, 1.6])[torch.randint(3, (size,), generator=generator)]
        points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
        return points, torch.rand(size, 1, generator=generator), torch.randn(size, 2, generator=generator)

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        points, level, noise = batch
        angle = 0.5 * math.pi * level
        mixed = angle.cos() * points + angle.sin() * noise
        return FUNCTIONAL.mse_loss(net(torch.cat([mixed, angle.cos(), angle.sin()], 1)), noise)

    fixed = [draw(_generator(72_000 + k)) for k in range(16)]
    return JudgedTask(net, loss, draw, lambda: torch.stack([loss(each) for each in fixed]).mean())


def _table(rows: int = 160, features: int = 30, noise: float = 0.5) -> JudgedTask:
    """Make a small table: few features matter, pairs of them interact, and the rows are few."""
    own = _generator(73_001)
    x = torch.randn(rows + 2000, features, generator=own)
    y = x[:, 0] - 0.7 * x[:, 1] + 0.8 * x[:, 2] * x[:, 3] + noise * torch.randn(rows + 2000, generator=own)
    net = nn.Sequential(_dense(features, 32, 32, 1), nn.Flatten(0))
    draw = _rows(x[:rows], y[:rows], 32)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return FUNCTIONAL.mse_loss(net(batch[0]), batch[1])

    return JudgedTask(net, loss, draw, lambda: loss((x[rows:], y[rows:])))


def _finetune() -> JudgedTask:
    """Make a BatchNorm network that has learned digits 0 to 4, with a fresh head for 5 to 9."""
    x, y = data.digits()
    old, new = y < 5, y >= 5
    body = nn.Sequential(
        nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32), nn.BatchNorm1d(32), nn.ReLU()
    )
    head = nn.Linear(32, 5)
    pretrained = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)
    own, draw_old = _generator(74_001), _rows(x[old], y[old], 32)
    for _ in range(150):
        pretrained.zero_grad()
        inputs, targets = draw_old(own)
        FUNCTIONAL.cross_entropy(head(body(inputs)), targets).backward()
        pretrained.step()
    net = nn.Sequential(body, nn.Linear(32, 5))
    net.zero_grad()
    (train_x, train_y), held = data.split((x[new], y[new] - 5))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return FUNCTIONAL.cross_entropy(net(batch[0]), batch[1])

    return JudgedTask(net, loss, _rows(train_x, train_y, 32), lambda: loss(held))


class Experts(nn.Module):
    """A soft mixture of small networks.

    Examples
    --------
    >>> Experts(4, 3)(torch.ones(2, 4)).shape
    torch.Size([2])
    """

    def __init__(self, inside: int, count: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inside, count)
        self.each = nn.ModuleList(_dense(inside, 16, 1) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed value per row."""
        values = torch.cat([expert(x) for expert in self.each], 1)
        return (self.gate(x).softmax(1) * values).sum(1)


def _experts(rows: int = 3000, noise: float = 0.3) -> JudgedTask:
    """Make a function that is another one in each quadrant of its first two inputs."""
    own = _generator(75_001)
    x = torch.randn(rows + 2000, 8, generator=own)
    maps = torch.randn(4, 8, generator=own)
    quadrant = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    y = torch.sin((maps[quadrant] * x).sum(1)) + noise * torch.randn(rows + 2000, generator=own)
    net = Experts(8, 4)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return FUNCTIONAL.mse_loss(net(batch[0]), batch[1])

    return JudgedTask(net, loss, _rows(x[:rows], y[:rows], 64), lambda: loss((x[rows:], y[rows:])))


def _contrastive(size: int = 64) -> JudgedTask:
    """Make an encoder that tells which two noisy views belong to one latent vector."""
    own = _generator(76_001)
    lift = torch.randn(6, 40, generator=own) / 6**0.5
    net = _dense(40, 64, 16)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        latent = torch.tanh(torch.randn(size, 6, generator=generator)) @ lift
        return tuple(latent + 0.3 * torch.randn(size, 40, generator=generator) for _ in range(2))  # type: ignore[return-value]

    def loss(views: tuple[Tensor, Tensor]) -> Tensor:
        a, b = (FUNCTIONAL.normalize(net(view), dim=1) for view in views)
        return FUNCTIONAL.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))

    fixed = [draw(_generator(76_100 + k)) for k in range(16)]
    return JudgedTask(net, loss, draw, lambda: torch.stack([loss(each) for each in fixed]).mean())


def _autoencoder() -> JudgedTask:
    """Make a narrow autoencoder on digits."""
    x, y = data.digits()
    (train_x, _), (held, _) = data.split((x, y))
    net = _dense(64, 40, 6, 40, 64, between=nn.Tanh)

    def draw(generator: torch.Generator) -> Tensor:
        return train_x[torch.randint(len(train_x), (32,), generator=generator)]

    def loss(batch: Tensor) -> Tensor:
        return FUNCTIONAL.mse_loss(net(batch), batch)

    return JudgedTask(net, loss, draw, lambda: loss(held))


def _noisy(rows: int = 4000) -> JudgedTask:
    """Make a regression whose noise has heavy tails, under Huber's loss."""
    own = _generator(77_001)
    x = torch.rand(rows + 4000, 5, generator=own) * 2 - 1
    normal, chi = torch.randn(rows + 4000, generator=own), torch.randn(rows + 4000, 3, generator=own).square().sum(1)
    y = torch.sin(3 * x[:, 0]) * x[:, 1] + x[:, 2].abs() + 0.5 * normal / (chi / 3).sqrt()
    net = nn.Sequential(_dense(5, 48, 48, 1), nn.Flatten(0))

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return FUNCTIONAL.huber_loss(net(batch[0]), batch[1])

    return JudgedTask(net, loss, _rows(x[:rows], y[:rows], 16), lambda: loss((x[rows:], y[rows:])))


def _huber_of_noise() -> float:
    """Return the mean Huber loss of half of Student's t with three degrees: the floor of `noisy`, by quadrature."""
    t = torch.linspace(-400, 400, 2_000_001, dtype=torch.float64)
    density = 2 / (math.pi * math.sqrt(3)) / (1 + t**2 / 3) ** 2
    return float(torch.trapezoid(density * FUNCTIONAL.huber_loss(0.5 * t, torch.zeros_like(t), reduction="none"), t))


JUDGED = {
    work.name: work
    for work in (
        JudgedWorkload("burgers", _burgers, 3000, annealed=False),
        JudgedWorkload("communities", _communities, 300, annealed=True),
        JudgedWorkload("words", _words, 2000, annealed=True),
        JudgedWorkload("diffusion", _diffusion, 5000, annealed=False),
        JudgedWorkload("table", _table, 1000, annealed=False, floor=0.25, weight_decay=0.1),
        JudgedWorkload("finetune", _finetune, 400, annealed=True),
        JudgedWorkload("experts", _experts, 1500, annealed=False, floor=0.09),
        JudgedWorkload("contrastive", _contrastive, 800, annealed=True),
        JudgedWorkload("autoencoder", _autoencoder, 1200, annealed=False),
        JudgedWorkload("noisy", _noisy, 600, annealed=True, floor=_huber_of_noise()),
    )
}
