"""Three small training tasks for studies that need thousands of runs: offline, seeded, under a second per run.

digits      8x8 digits of scikit-learn moved by up to one pixel, a perceptron with two hidden layers: nearly solved
waves       noisy one-dimensional signals of ten shapes, drawn here, a convolutional network: errors remain
characters  the next character of Python's own documentation, an embedding and a perceptron: mostly noise

Held-out data come from other images, other draws, other pages. After Greydanus and Kobak (MNIST-1D), arXiv 2011.14439,
and Bengio et al., JMLR 3 (2003). The text is that of the running Python (`pydoc_data`), so it differs between versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor, nn

from .fresh_tasks import make_mixture, make_pointers, make_textures
from .task import Task

PIXELS, LENGTH, CONTEXT, LETTERS = 64, 40, 8, 64


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(PIXELS, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))


def _convolutional() -> nn.Module:
    first, second = nn.Conv1d(1, 8, 5, 2, 2), nn.Conv1d(8, 16, 5, 2, 2)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(LENGTH // 4 * 16, 10))


def _character_network() -> nn.Module:
    hidden = nn.Linear(CONTEXT * 12, 64)
    return nn.Sequential(nn.Embedding(LETTERS, 12), nn.Flatten(), hidden, nn.Tanh(), nn.Linear(64, LETTERS))


def _digits() -> Task:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digits need scikit-learn: pip install "krylearn[bench]"') from error
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32) / 8 - 1
    labels = torch.tensor(found.target)
    images = nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    moved = torch.stack([images[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], 1).flatten(2)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(20261))
    train, held = order[:1300], order[1300:]
    data = [(moved[part].flatten(0, 1), labels[part].repeat_interleave(9)) for part in (train, held)]
    return Task("digits", *data[0], *data[1], _perceptron, 256 * 1024)


def _smooth(noise: Tensor, width: int) -> Tensor:
    """Average periodic signals (..., L) over `width` neighbours, twice; keeps unit variance of white noise."""
    kernel = torch.ones(1, 1, width)
    for _ in range(2):
        padded = nn.functional.pad(noise.flatten(0, -2)[:, None], (width // 2, width // 2), mode="circular")
        noise = nn.functional.conv1d(padded, kernel)[:, 0].reshape(noise.shape)
    return noise / noise.std(-1, keepdim=True)


def _waves() -> Task:
    rng = torch.Generator().manual_seed(20262)
    shapes = _smooth(torch.randn(10, LENGTH, generator=rng), 5)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(10, (count,), generator=rng)
        shift = torch.randint(-6, 7, (count, 1), generator=rng)
        at = (torch.arange(LENGTH) + shift) % LENGTH
        size = 0.6 + 0.8 * torch.rand(count, 1, generator=rng)
        slow = _smooth(torch.randn(count, LENGTH, generator=rng), 9)
        white = torch.randn(count, LENGTH, generator=rng)
        return (size * shapes[labels].gather(1, at) + 0.5 * slow + 0.4 * white)[:, None], labels

    return Task("waves", *draw(16_384), *draw(4_096), _convolutional, 256 * 1024)


def _characters() -> Task:
    from pydoc_data import topics

    pages = [topics.topics[name] for name in sorted(topics.topics)]
    text = "".join(pages)
    counts: dict[str, int] = {}
    for letter in text:
        counts[letter] = counts.get(letter, 0) + 1
    common = sorted(counts, key=lambda letter: (-counts[letter], letter))[: LETTERS - 1]
    number = {letter: k for k, letter in enumerate(common)}
    codes = torch.tensor([number.get(letter, LETTERS - 1) for letter in text])
    windows = codes.unfold(0, CONTEXT + 1, 1)
    cut = int(0.9 * len(windows))
    train, held = windows[: cut - CONTEXT], windows[cut:]
    held = held[torch.randperm(len(held), generator=torch.Generator().manual_seed(20263))[:8192]]
    return Task("characters", train[:, :-1], train[:, -1], held[:, :-1], held[:, -1], _character_network, 256 * 1024)


TASKS: Mapping[str, Callable[[], Task]] = {"digits": _digits, "waves": _waves, "characters": _characters}
FRESH: Mapping[str, Callable[[], Task]] = {
    "textures": make_textures,
    "pointers": make_pointers,
    "mixture": make_mixture,
}


@cache
def small_task(name: str) -> Task:
    """Return a task by name, made once per process.

    Raises
    ------
    ValueError
        For an unknown name.
    ImportError
        For digits without scikit-learn.

    Examples
    --------
    >>> task = small_task("characters")
    >>> task.made(7)(task.inputs[:5]).shape
    torch.Size([5, 64])
    """
    known = {**TASKS, **FRESH}
    if name not in known:
        raise ValueError(f"got task {name!r}; expected one of {', '.join(known)}")
    return known[name]()
