"""Step sizes of the cycle over pieces, level by level, from what a level looks like: what training adds to the rule.

The rule smooths every level by the same two damped Jacobi steps and takes the coarse correction as it is. Which steps
are best, and by how much the correction should be stretched, depends on the level: whether pieces are whole blocks or
pairs of cells, how even links and diagonals are, how much is held to p = 0. A small network sees seven ratios of a
level (`describe_rows`, over at most `ROWS` unknowns, so a set-up hardly pays for it) and those of the next, and returns
two step sizes and the factor of the correction. Applying the cycle costs what it did: the factor is folded into the
operators of the levels below.

The cycle stays symmetric positive definite for **any** weights of the network. With t in (0, 2] an eigenvalue of
diag⁻¹ A (Gershgorin), two steps a, b leave (1 - a t)(1 - b t) of an error. `bound_steps` keeps that above -1 (its least
value is 1 - (a + b)² / (4ab), so b <= 5.8 a suffices for a <= b) and below 1 (it is convex and 1 at t = 0, so its value
at t = 2, (2a - 1)(2b - 1), decides). A positive factor of the coarse cycle keeps that cycle positive definite.

Where ratios lie outside what training has seen, steps fade back to the rule's.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels.reference import OMEGA
from . import weight_files as storage
from .pieces import Array, inverse

ARCHITECTURE = "steps-1"
SHIPPED = {3: "3d-steps-v1"}  # in two dimensions the rule takes its own steps
RATIOS = 7  # of a level
HEADS = 3  # the finest level, the next, and all below that
INPUTS = 2 * RATIOS + HEADS + 1
ROWS = 4096  # unknowns of a level that are looked at
FIRST, SECOND, CORRECTION = (0.57, 0.08), (1.8, 0.45), (1.0, 0.35)  # what an output of 0 means, and how far others go
FADE = 1.0  # standard deviations outside of the range of training over which steps fade back to the rule's


class StepSizes(NamedTuple):
    """Two Jacobi steps of a level, and the factor of the correction that comes from the next.

    Examples
    --------
    >>> RULE
    StepSizes(first=0.57, second=1.4, correction=1.0)
    """

    first: float
    second: float
    correction: float


RULE = StepSizes(*OMEGA, 1.0)


def bound_steps(first: float, second: float) -> tuple[float, float]:
    """Return the nearest step sizes for which |(1 - first t)(1 - second t)| < 1 on (0, 2].

    Examples
    --------
    >>> bound_steps(0.57, 1.4), bound_steps(0.1, 9.0)
    ((0.57, 1.4), (0.35, 2.03))
    """
    a = min(max(float(first), 0.35), 0.65)
    b = min(max(float(second), a), 5.8 * a)
    if a > 0.501:
        b = min(b, 0.5 + 0.49 / (2 * a - 1))  # (2a - 1)(2b - 1) <= 0.98
    return a, b


# --- what a level looks like ------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Some rows of an operator: own diagonals, and per link its row, value and the diagonal at its other end."""

    diag: Array
    row: Array
    w: Array
    other: Array


def describe_rows(rows: Rows, shrinks: float, coarse: float) -> Array:
    """Return the seven ratios of a level, all bounded, none with a unit.

    shrinks : unknowns of the level over those of the next; coarse : the same of the sums of diagonals, upside down

    Examples
    --------
    >>> rows = Rows(np.ones(2), np.array([0, 1]), np.array([0.5, 0.5]), np.ones(2))
    >>> describe_rows(rows, 8.0, 0.25).round(2).tolist()
    [1.0, 0.5, 0.25, 1.0, 0.5, 0.25, 0.17]
    """
    n, diag, row, w, other = rows.diag.size, rows.diag, rows.row, rows.w, rows.other
    if not n or not w.size:
        return np.array([np.log(max(shrinks, 1.0)) / np.log(8), 1.0, 0.0, 1.0, 0.0, min(coarse, 1.0), 0.0])
    own = diag[row]
    held = np.clip(1 - np.bincount(row, w, n) * inverse(diag), 0, 1)
    strongest = np.zeros(n)
    np.maximum.at(strongest, row, w / own)
    return np.array([
        np.log(max(shrinks, 1.0)) / np.log(8),  # how many cells make a piece
        held.mean(),  # what is held to p = 0
        float((w / own * (w / other)).sum()) / n,  # how few neighbours count: the trace of the squared Jacobi matrix
        (np.minimum(own, other) / np.maximum(own, other)).mean(),  # how even diagonals are
        strongest.mean(),
        min(coarse, 1.0),
        min(w.size / n / 6, 3.0),  # how many neighbours there are
    ])  # fmt: skip


@lru_cache(maxsize=64)
def choose_rows(n: int) -> Array:
    """Return which of n unknowns are looked at: spread without a pattern, the same ones each time.

    Examples
    --------
    >>> choose_rows(3).tolist(), choose_rows(10**6).size
    ([0, 1, 2], 4096)
    """
    return np.arange(n) if n <= ROWS else np.sort(np.random.default_rng(20_251).choice(n, ROWS, replace=False))


def rows_of_matrix(begin: Array, index: Array, w: Array, diag: Array) -> Rows:
    """Return some rows of compressed links."""
    chosen = choose_rows(diag.size)
    start, stop = begin[chosen].astype(np.int64), begin[chosen + 1].astype(np.int64)
    counts = stop - start
    at = np.arange(counts.sum()) + np.repeat(start - np.cumsum(counts) + counts, counts)
    row, diag = np.repeat(np.arange(chosen.size), counts), diag.astype(np.float64)
    return Rows(diag[chosen], row, w[at].astype(np.float64), diag[index[at]])


def rows_of_grid(links: Array, diag: Array) -> Rows:
    """Return some rows of an operator on a grid: links (3, nx, ny, nz) lead to the next cell, the last one wraps."""
    cells = np.flatnonzero(diag.reshape(-1) > 0)
    place = np.unravel_index(cells[choose_rows(cells.size)], diag.shape)
    row, values, others = [], [], []
    for d, n in enumerate(diag.shape):
        up, down = list(place), list(place)
        up[d], down[d] = (place[d] + 1) % n, (place[d] - 1) % n
        for w, neighbour in ((links[d][place], up), (links[d][tuple(down)], down)):
            some = np.flatnonzero(w > 0)
            row.append(some)
            values.append(w[some])
            others.append(diag[tuple(neighbour)][some])
    return Rows(diag[place], *map(np.concatenate, (row, values, others)))


# --- the network ------------------------------------------------------------------------------------------------------


def inputs_of(ratios: Array) -> Array:
    """Return (3, inputs): of the first three levels their ratios, those of the next, which level it is.

    Examples
    --------
    >>> inputs_of(np.ones((1, RATIOS)))[0].astype(int).tolist()
    [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
    """
    x = np.zeros((HEADS, INPUTS))
    for l in range(min(len(ratios), HEADS)):
        x[l, :RATIOS], x[l, 2 * RATIOS + l] = ratios[l], 1
        if l + 1 < len(ratios):
            x[l, RATIOS : 2 * RATIOS], x[l, -1] = ratios[l + 1], 1
    return x


class StepNetwork(nn.Module):
    """From the inputs of three levels to their step sizes: one hidden layer, shared; hidden = 0: constants.

    Examples
    --------
    >>> network = StepNetwork(4)
    >>> [round(v, 3) for v in network.steps_of(np.ones((2, RATIOS)))[1]]
    [0.57, 1.4, 1.0]
    """

    mean: Tensor
    deviation: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.hidden = hidden
        start = [0.0, float(np.arctanh(np.log(OMEGA[1] / SECOND[0]) / SECOND[1])), 0.0]  # the rule
        self.bias = nn.Parameter(torch.tensor([start] * HEADS))
        self.inner = nn.Linear(INPUTS, hidden) if hidden else None
        self.outer = nn.Linear(hidden, 3, bias=False) if hidden else None
        if self.outer is not None:
            nn.init.zeros_(self.outer.weight)
        # of the inputs that training saw; before it, nothing is outside
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("deviation", torch.ones(INPUTS))
        self.register_buffer("least", torch.full((INPUTS,), -1e9))
        self.register_buffer("most", torch.full((INPUTS,), 1e9))

    def versions(self) -> tuple[int, ...]:
        """Return numbers that are others once a parameter or buffer has been changed."""
        return tuple(t._version for t in (*self.parameters(), *self.buffers()))

    def see(self, inputs: Array) -> None:
        """Note mean, deviation and range of inputs (..., inputs): rows of levels that are there."""
        x = torch.from_numpy(inputs).float()
        self.mean.copy_(x.mean(0))
        self.deviation.copy_((x.std(0) if len(x) > 1 else torch.zeros(INPUTS)) + 1e-3)
        self.mean[2 * RATIOS :], self.deviation[2 * RATIOS :] = 0.0, 1.0
        self.least.copy_(x.amin(0))
        self.most.copy_(x.amax(0))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., 3, 3): per level first step, second step, correction."""
        y = self.bias.expand(*x.shape[:-1], 3)
        if self.inner is not None and self.outer is not None:
            y = y + self.outer(torch.tanh(self.inner(((x - self.mean) / self.deviation).clamp(-4, 4))))
        t = torch.tanh(y)
        out = (
            FIRST[0] + FIRST[1] * t[..., 0],
            SECOND[0] * torch.exp(SECOND[1] * t[..., 1]),
            CORRECTION[0] * torch.exp(CORRECTION[1] * t[..., 2]),
        )
        outside = torch.maximum(self.least - x, x - self.most) / self.deviation
        known = (1 - outside[..., : 2 * RATIOS].amax(-1).clamp_min(0) / FADE).clamp_min(0)
        return torch.stack([rule + known * (v - rule) for v, rule in zip(out, RULE, strict=True)], -1)

    def steps_of(self, ratios: Array) -> list[StepSizes]:
        """Return the step sizes of every level from the ratios of all levels (levels, 7), fine to coarse."""
        with torch.no_grad():
            out = self.forward(torch.from_numpy(inputs_of(ratios)).float()).double().tolist()
        chosen = [out[min(l, HEADS - 1)] for l in range(len(ratios))]
        return [StepSizes(*bound_steps(first, second), correction) for first, second, correction in chosen]


def scales_of(steps: list[StepSizes]) -> list[float]:
    """Return by what the operators of all levels and of the bottom are multiplied so that corrections are stretched.

    Examples
    --------
    >>> scales_of([StepSizes(0.57, 1.4, 2.0), StepSizes(0.57, 1.4, 0.5)])
    [1.0, 0.5, 1.0]
    """
    return (1 / np.cumprod([1.0, *(s.correction for s in steps)])).tolist()


# --- files ------------------------------------------------------------------------------------------------------------


def save_steps(network: StepNetwork, path: str | Path, card: dict[str, Any]) -> Path:
    """Write a network and its card, as `weight_files.save_weights`."""
    facts = {"architecture": ARCHITECTURE, "hidden": str(network.hidden), "dimension": str(card.get("dimension", ""))}
    return storage.write_tensors(network.state_dict(), facts, path, card)


def load_steps(path: str | Path) -> StepNetwork:
    """Read a network; errors as `weight_files.load_weights`.

    Examples
    --------
    >>> import tempfile
    >>> load_steps(save_steps(StepNetwork(5), Path(tempfile.mkdtemp()) / "steps", {})).hidden
    5
    """
    tensors, facts = storage.read_tensors(path, ARCHITECTURE)
    hidden = facts.get("hidden", "none")
    if not (hidden.isascii() and hidden.isdigit() and int(hidden[:9]) <= storage.WIDEST):
        raise ValueError(f"{Path(path).name} has hidden={hidden!r:.40}; expected a width; {storage.REMEDY}")
    return storage.fill(lambda: StepNetwork(int(hidden)), tensors, facts, Path(path))


@lru_cache(maxsize=4)
def shipped_steps(dimension: int) -> StepNetwork | None:
    """Read the network that came with the package; None where none did."""
    if dimension not in SHIPPED:
        return None
    name = SHIPPED[dimension]
    with resources.as_file(resources.files(__package__) / "weights" / f"{name}.safetensors") as path:
        return load_steps(path)
