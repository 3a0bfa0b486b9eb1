"""Seeded right-hand sides for any operator, and the random streams that scenes and right-hand sides share."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from ..poisson.operator import Poisson
from .media import draw_integer

Stream = Literal["train", "test"]
STREAMS: dict[str, int] = {"train": 0, "test": 1}
ENTROPY = 20230706  # any fixed number; changing it changes every scene


def generator(name: str, seed: int, stream: str) -> np.random.Generator:
    """Return the random stream of one (name, seed, stream); no two triples share draws.

    Examples
    --------
    >>> a, b = (generator("mazes", 31415, stream).random() for stream in ("train", "test"))
    >>> a == b
    False
    """
    if stream not in STREAMS:
        raise ValueError(f"stream is {stream!r}; expected one of {sorted(STREAMS)}")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected a non-negative integer")
    key = (
        zlib.crc32(name.encode()),
        STREAMS[stream],
        seed,
    )  # hash the name, not its index: reordering the manifest must not change scenes
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy=ENTROPY, spawn_key=key)))


def _draw_white(A: Poisson, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(tuple(A.unknown.shape))


def _draw_points(A: Poisson, rng: np.random.Generator) -> np.ndarray:
    """Three to eight sources and sinks of strength 1."""
    where = np.flatnonzero(A.unknown.cpu().numpy())
    b = np.zeros(A.unknown.numel())
    for place, sign in rng.random((draw_integer(rng, (3, 8)), 2)):
        b[where[int(place * len(where))]] += 1.0 if sign < 0.5 else -1.0
    return b.reshape(tuple(A.unknown.shape))


def _draw_velocity(shape: tuple[int, ...], rng: np.random.Generator, waves: int = 6, highest: int = 4) -> np.ndarray:
    """One component of a smooth random velocity: a few plane waves, amplitudes falling with the wave number."""
    total = np.zeros(shape)
    for _ in range(waves):
        k = [draw_integer(rng, (-highest, highest)) for _ in shape]
        amplitude = rng.standard_normal() / (1.0 + sum(j * j for j in k)) ** 0.5
        phases = [np.exp(2j * np.pi * j * (np.arange(n) + 0.5) / n) for j, n in zip(k, shape, strict=True)]
        wave = phases[0][:, None, None] * phases[1][None, :, None] * phases[2] * np.exp(2j * np.pi * rng.random())
        total += amplitude * wave.real
    return total


def _draw_divergence(A: Poisson, rng: np.random.Generator) -> np.ndarray:
    """Net inflow of a smooth velocity through the faces that carry flow; walls carry none."""
    shape = tuple(A.unknown.shape)
    spacing = A.spacing if len(A.spacing) == 3 else (A.spacing[0], 1.0, A.spacing[1])
    b = np.zeros(shape)
    for axis in range(3):
        if shape[axis] == 1:
            continue
        flux = _draw_velocity(shape, rng) * (float(np.prod(spacing)) / float(spacing[axis]))
        inner = flux * (A.links[axis].cpu().numpy() > 0)
        b += np.roll(inner, 1, axis) - inner - flux * (A.ground[axis].cpu().numpy() > 0)
    return b


KINDS: dict[str, Callable[[Poisson, np.random.Generator], np.ndarray]] = {
    "white": _draw_white,
    "divergence": _draw_divergence,
    "points": _draw_points,
}


def right_hand_side(A: Poisson, kind: str = "white", seed: int = 0, stream: Stream = "test") -> torch.Tensor:
    """Draw a right-hand side that A can match: zero without unknown, mean zero on every singular component.

    Parameters
    ----------
    A : Poisson
    kind : "white" (Gaussian noise), "divergence" (of a smooth velocity field), "points" (three to eight sources)
    seed, stream : as in `scene`

    Returns
    -------
    torch.Tensor, float64, of shape A.grid_shape, on A's device

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((6, 6, 6)), boundary="neumann")
    >>> b = right_hand_side(A, "white", seed=31415)
    >>> tuple(b.shape), abs(float(b.sum())) < 1e-12
    ((6, 6, 6), True)
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    values = KINDS[kind](A, generator(f"right_hand_side/{kind}", seed, stream))
    b = torch.as_tensor(values, dtype=torch.float64, device=A.device) * A.unknown
    return A.nullspace.project(b).reshape(A.grid_shape)
