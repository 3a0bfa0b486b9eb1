"""Batches of systems for training: a pure function of (seed, step), so that a killed run resumes where it was.

Systems come from the *train* stream of the scene families, or from the user's own builders. A batch holds systems of
one family on one grid (they must coarsen alike), with right-hand sides from white noise to smooth loads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from krylearn.pde import FAMILIES, Poisson, scene
from torch import Tensor

from ..kernels.reference import Stencil
from ..multigrid.coarsening import choose_factors
from ..multigrid.preconditioner import power_of_two, stencil_of

Prepared = tuple[Stencil, Callable[[Tensor], Tensor] | None, tuple[bool, bool, bool], tuple[int, int, int]]
Builder = Callable[[tuple[int, ...], int], Poisson]
VALIDATION = 1_000_000  # seeds of the train stream from here on are held out for validation


def builders(families: Sequence[str] | Mapping[str, Builder] | None) -> dict[str, Builder]:
    """Map names to ``build(shape, seed)``: all shipped families, some of them, or the user's own functions."""
    if isinstance(families, Mapping):
        return dict(families)
    names = list(FAMILIES) if families is None else list(families)
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        raise ValueError(f"got families {unknown or names}; expected names out of {', '.join(FAMILIES)}")
    return {name: partial(train_scene, name) for name in names}


def train_scene(name: str, shape: tuple[int, ...], seed: int) -> Poisson:
    """Build a scene of the train stream."""
    return scene(name, shape, seed, stream="train")


@dataclass(frozen=True)
class Systems:
    """Where batches come from.

    builds : per family a function of (shape, seed); dimension : 2 or 3; sizes : cells per axis to choose from;
    seed : of the whole stream; pool : scenes per family and size (drawn again and again with new right-hand sides)
    """

    builds: dict[str, Builder]
    dimension: int
    sizes: tuple[int, ...]
    seed: int
    pool: int = 64
    cells: int = 2 * 32**3

    def batch(self, step: int) -> tuple[str, Stencil, Tensor]:
        """Make family, stacked operators and right-hand sides of one step; every family once in each sweep over all."""
        names = list(self.builds)
        sweep, place = divmod(step, len(names))
        name = names[np.random.default_rng((self.seed, 1, sweep)).permutation(len(names))[place]]
        rng = np.random.default_rng((self.seed, 2, step))
        size = self.sizes[rng.integers(len(self.sizes))]
        shape = tuple(int(n) for n in np.maximum(size - rng.integers(0, 3, self.dimension) * (rng.random() < 0.3), 4))
        count = int(np.clip(self.cells // math.prod(shape), 1, 8))
        return (name, *self.assemble(name, shape, rng.integers(0, self.pool, count).tolist(), rng))

    def assemble(
        self, name: str, shape: tuple[int, ...], seeds: list[int], rng: np.random.Generator
    ) -> tuple[Stencil, Tensor]:
        """Stack those scenes that coarsen like the first one, each with a right-hand side."""
        scenes = [self.prepared(name, shape, seed) for seed in seeds]
        alike = [s for s in scenes if s[2:4] == scenes[0][2:4]]
        ops = [op for op, *_ in alike]
        stack = Stencil(
            [torch.stack([op.links[d] for op in ops]) for d in range(3)],
            [torch.stack([op.ground[d] for op in ops]) for d in range(3)],
            torch.stack([op.shift for op in ops]),
            ops[0].periodic,
        )
        loads = [load(op, project, rng) for op, project, *_ in alike]
        return stack, torch.stack(loads)

    def prepared(self, name: str, shape: tuple[int, ...], seed: int) -> Prepared:
        """Build a scene in fp32, its null-space projection, periodicity, first coarsening; kept for the next time."""
        return _prepared(self.builds[name], shape, seed)


@lru_cache(maxsize=4096)
def _prepared(build: Builder, shape: tuple[int, ...], seed: int) -> Prepared:
    A = build(shape, seed)
    op = stencil_of(A, power_of_two(float(A.diag.max())))
    project = A.nullspace.project if A.nullspace else None
    return op, project, op.periodic, choose_factors(op)


def load(op: Stencil, project: Callable[[Tensor], Tensor] | None, rng: np.random.Generator) -> Tensor:
    """Draw a right-hand side: white noise, noise in the energy's scale, or noise on patches of 4 cells (smooth)."""
    noise = torch.from_numpy(rng.standard_normal(op.size, dtype=np.float32))
    kind = rng.integers(3)
    if kind == 1:
        noise = noise * op.diag.sqrt()
    elif kind == 2:
        coarse = torch.from_numpy(rng.standard_normal([-(-n // 4) for n in op.size], dtype=np.float32))
        for d, n in enumerate(op.size):
            coarse = coarse.repeat_interleave(4, d).narrow(d, 0, n)
        noise = coarse + 0.1 * noise
    b = noise * op.mask
    return (project(b.double()).float() if project else b) * op.mask
