"""Training of the network that chooses step sizes for levels of pieces (`multigrid.step_sizes`): `train_steps`.

A level has three numbers to learn and a system nine (levels below the third share theirs), so the derivative of the
count of CG steps, interpolated between residuals, is taken by differences: ten short solves per system, with the whole
method in the loop and nothing to differentiate through. The network gets that derivative by backpropagation. The loss
is the mean of the logarithm of steps over those of the untrained rule; systems that the rule solves as well count
twice.

Systems come from the train stream of all families and field cases, and from matrices of the user's own. The batch of a
step, its right-hand sides included, is a function of (seed, step), so a run that was killed resumes exactly.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from krylearn.pde import FAMILIES, Poisson, scene
from krylearn.pde.poisson.units import moderate
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case

from ..files import write_bytes
from ..multigrid.graph_hierarchy import build_graphs, ratios_of
from ..multigrid.pieces import MERGE, Array, graph_of, inverse
from ..multigrid.step_sizes import HEADS, RULE, StepNetwork, StepSizes, bound_steps, inputs_of, save_steps
from .checkpoints import LAST, CheckpointError, check_place
from .data import VALIDATION
from .loop import LICENCE, check_settings, describe_run

STEPS = 600
SHAPES = {
    3: (((16, 16, 16), 4), ((24, 24, 24), 2), ((20, 18, 10), 1)),
    2: (((48, 48), 3), ((96, 96), 2), ((64, 40), 1)),
}  # cells, and how many scenes of each family
CHECKED = {3: (20, 20, 20), 2: (64, 64)}
CELLS = 80_000  # unknowns per step of training
DIFFERENCES = (0.01, 0.04, 0.02)  # of first step, second step and correction
TOLERANCE, LIMIT = 1e-6, 80
EVERY = 50  # steps between checkpoints


@dataclass(frozen=True)
class TrainingSystem:
    """A system with the levels that the untrained rule gives it; levels : operator, 1/diagonal, P, Pᵀ, visits."""

    name: str
    levels: list[tuple[Any, Array, Any, Any, int]]
    bottom: Array
    ratios: Array
    singular: bool

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return self.levels[0][1].size


def prepare(name: str, A: Poisson, merge: float = MERGE) -> TrainingSystem | None:
    """Set up the levels of a system; None where there are none to learn on.

    merge : the threshold from which on clusters inside a block are merged

    Examples
    --------
    >>> prepare("box", scene("open_box", (12, 12), 0)).n  # the top layer is open
    132
    """
    A = moderate(A.detach().dominant())[0]
    graph, _ = graph_of(A, 1 / float(A.diag.max()))
    h = build_graphs(graph, merge=merge)
    if not h.levels:
        return None
    levels = []
    for level in h.levels:
        P = sp.csr_array(level.prolongation)
        levels.append((level.graph.matrix(), inverse(level.graph.diag), P, sp.csr_array(P.T), level.visits))
    return TrainingSystem(name, levels, h.inverse, ratios_of(h), bool(A.nullspace))


def apply_cycle(system: TrainingSystem, steps: Sequence[StepSizes], b: Array, l: int = 0, visit: int = 0) -> Array:
    """Return M b; steps : of the first levels, the last of them for all below."""
    A, d, P, R, visits = system.levels[l]
    first, second, correction = steps[min(l, len(steps) - 1)]
    x = first * d * b
    x = x + second * d * (b - A @ x)
    r = b - A @ x
    if visit + 1 < visits:
        x = x + apply_cycle(system, steps, r, l, visit + 1)
    else:
        below = R @ r
        last = l + 1 == len(system.levels)
        x = x + correction * (P @ (system.bottom @ below if last else apply_cycle(system, steps, below, l + 1)))
    x = x + second * d * (b - A @ x)
    return x + first * d * (b - A @ x)


def count_steps(system: TrainingSystem, steps: Sequence[StepSizes], b: Array) -> float:
    """Return how many CG steps reach the tolerance, interpolated between two residuals.

    Examples
    --------
    >>> system = prepare("box", scene("open_box", (12, 12), 0))
    >>> bool(3 < count_steps(system, [RULE], np.random.default_rng(1).standard_normal(system.n)) < 9)
    True
    """
    A, goal = system.levels[0][0], float(np.log10(TOLERANCE))
    x, r, norm, before = np.zeros_like(b), b.copy(), float(np.linalg.norm(b)), 0.0
    z = apply_cycle(system, steps, r)
    p, rz = z, float(r @ z)
    for k in range(LIMIT):
        q = A @ p
        alpha = rz / float(p @ q)
        x, r = x + alpha * p, r - alpha * q
        now = float(np.log10(max(float(np.linalg.norm(r)) / norm, 1e-300)))
        if now <= goal:
            return k + (before - goal) / (before - now)
        before = now
        z = apply_cycle(system, steps, r)
        fresh = float(r @ z)
        if not fresh > 0:  # rounding has eaten the residual
            break
        p, rz = z + fresh / rz * p, fresh
    return float(LIMIT)


def draw_load(system: TrainingSystem, rng: np.random.Generator) -> Array:
    """Return white noise, or the operator times it: always where the operator is singular or contrast is extreme."""
    b = rng.standard_normal(system.n)
    if system.singular or "image" in system.name or "reservoir" in system.name or rng.random() < 0.3:
        return np.asarray(system.levels[0][0] @ b)
    return b


def bounded(numbers: Array) -> list[StepSizes]:
    """Return the step sizes of three levels from what the network says (3, 3)."""
    return [StepSizes(*bound_steps(a, b), float(c)) for a, b, c in numbers]


def differentiate(system: TrainingSystem, numbers: Array, b: Array) -> tuple[float, Array]:
    """Return the logarithm of the ratio of steps to those of the rule, and its derivative by the numbers (3, 3)."""
    here = count_steps(system, bounded(numbers), b)
    slope = np.zeros((HEADS, 3))
    for l in range(min(HEADS, len(system.levels))):
        for k, e in enumerate(DIFFERENCES):
            moved = numbers.copy()
            moved[l, k] += e
            slope[l, k] = np.log(count_steps(system, bounded(moved), b) / here) / e
    return float(np.log(here / count_steps(system, [RULE], b))), np.clip(slope, -3, 3)


# --- systems ----------------------------------------------------------------------------------------------------------


def names_of(families: Sequence[str] | None) -> list[str]:
    """Return names of families and field cases; all by default."""
    known = [*FAMILIES, *FIELD_CASES]
    names = known if families is None else list(families)
    unknown = [name for name in names if name not in known]
    if unknown or (not names and families is not None and len(families)):
        raise ValueError(f"got families {unknown}; expected names out of {', '.join(known)}")
    return names


def build_pool(names: Sequence[str], shapes: Sequence[tuple[tuple[int, ...], int]], first: int) -> list[TrainingSystem]:
    """Build scenes of the train stream, with seeds from `first` on, each shape with seeds of its own."""
    pool, seed = [], first
    for shape, count in shapes:
        for _ in range(count):
            for name in names:
                A = (scene if name in FAMILIES else field_case)(name, shape, seed, "train")
                pool.append(prepare(name, A))
            seed += 1
    return [system for system in pool if system is not None]


def batches(pool: Sequence[TrainingSystem], seed: int, step: int) -> tuple[list[TrainingSystem], np.random.Generator]:
    """Return the systems of a step, about `CELLS` unknowns of them, and a generator for their right-hand sides."""
    rng, chosen = np.random.default_rng((seed, 2, step)), list[TrainingSystem]()
    for k in rng.permutation(len(pool)):
        chosen.append(pool[k])
        if sum(system.n for system in chosen) >= CELLS:
            break
    return chosen, rng


# --- training ---------------------------------------------------------------------------------------------------------


def train_steps(
    dimension: int = 3,
    *,
    families: Sequence[str] | None = None,
    matrices: Mapping[str, Poisson] | None = None,
    shapes: Sequence[tuple[tuple[int, ...], int]] | None = None,
    steps: int | None = None,
    seed: int = 20261,
    output: str | Path = "checkpoints",
    resume: bool = False,
    hidden: int = 12,
    lr: float = 0.03,
    progress: bool = True,
) -> Path:
    """Train the network that chooses the step sizes of levels of pieces, and write it with its card; resumable.

    Parameters
    ----------
    dimension : 2 or 3
    families : names out of `FAMILIES` and `FIELD_CASES`; None: all, or none if there are matrices
    matrices : systems of your own, by name; they are trained on beside the families
    shapes : grids and how many scenes of every family on each; default `SHAPES`
    steps : optimiser steps
    seed : of initial weights, batches and right-hand sides
    output : directory for checkpoint and result
    resume : continue from the checkpoint in `output`, with the same settings; bit for bit an uninterrupted run
    hidden : width of the network; 0: nine constants, whatever a level looks like
    lr : peak learning rate of Adam's one-cycle schedule
    progress : print a line every ten steps

    Returns
    -------
    Path
        of the .safetensors file; use it by ``NeuralMultigrid(A, weights=path)``

    Raises
    ------
    ValueError
        for unknown names or values, and for a checkpoint of other settings
    FileExistsError
        where an earlier run has left its checkpoint or weights, without `resume`

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = train_steps(2, families=["blocks"], shapes=[((16, 16), 1)], steps=2, output=folder, progress=False)
    ...     path.name
    '2d-steps.safetensors'
    """
    steps = STEPS if steps is None else steps
    if dimension not in (2, 3) or steps < 1 or hidden < 0:
        raise ValueError(f"got dimension={dimension}, steps={steps}, hidden={hidden}; expected 2 or 3, >= 1, >= 0")
    output, own = Path(output), matrices or {}
    check_place(output, f"{dimension}d-steps", resume=resume)
    names = [] if own and families is None else names_of(families)
    shapes = SHAPES[dimension] if shapes is None else tuple((tuple(shape), int(count)) for shape, count in shapes)
    settings = {
        "dimension": dimension, "families": names, "matrices": sorted(own),
        "shapes": [list(map(str, s)) for s in shapes], "steps": steps, "seed": seed, "hidden": hidden,
        "learning_rate": lr,
    }  # fmt: skip
    mine = [system for name, A in sorted(own.items()) if (system := prepare(name, A)) is not None]
    pool = [*build_pool(names, shapes, 0), *mine]
    if not pool:
        raise ValueError("got no system with levels to learn on; expected larger grids or matrices")
    run = Run(pool, settings)
    if resume:
        run.load(output / LAST)
    for loss in run.steps():
        if run.done % EVERY == 0 or run.done == steps:
            run.save(output / LAST)
        if progress and run.done % 10 == 0:
            print(
                f"step {run.done} of {steps}: steps over the rule's {np.exp(loss):.3f}, {run.seconds:.0f} s", flush=True
            )
    checked = [*build_pool(names, ((CHECKED[dimension], 1),), VALIDATION), *mine]
    card = {
        "name": f"{dimension}d-steps", **settings, "licence": LICENCE, **describe_run(run.seconds, "cpu"),
        "scenes": f"train stream, seeds from 0; validation {CHECKED[dimension]}, seed {VALIDATION}",
        "steps_over_those_of_the_rule": {name: round(v, 3) for name, v in score(run.network, checked).items()},
    }  # fmt: skip
    return save_steps(run.network, output / f"{dimension}d-steps", card)


def score(network: StepNetwork, systems: Sequence[TrainingSystem]) -> dict[str, float]:
    """Return CG steps over those of the rule per name, the geometric mean over its systems."""
    logarithms: dict[str, list[float]] = {}
    for k, system in enumerate(systems):
        b = draw_load(system, np.random.default_rng((5, k)))
        ratio = count_steps(system, network.steps_of(system.ratios), b) / count_steps(system, [RULE], b)
        logarithms.setdefault(system.name, []).append(float(np.log(ratio)))
    return {name: float(np.exp(np.mean(values))) for name, values in logarithms.items()}


class Run:
    """Network, optimiser and how far they are; everything else is a function of the settings."""

    def __init__(self, pool: list[TrainingSystem], settings: dict[str, Any]) -> None:
        self.pool, self.settings, self.done = pool, settings, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings["seed"])
            self.network = StepNetwork(settings["hidden"])
        self.inputs = [inputs_of(system.ratios) for system in pool]
        self.network.see(np.concatenate([x[: len(s.ratios)] for x, s in zip(self.inputs, pool, strict=True)]))
        self.place = {id(system): k for k, system in enumerate(pool)}
        rate, total = settings["learning_rate"], settings["steps"]
        self.optimizer = torch.optim.Adam(self.network.parameters(), rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=total + 1)
        self.before, self.began = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time trained so far, interrupted runs included."""
        return self.before + time.perf_counter() - self.began

    def steps(self) -> Iterator[float]:
        """Take the remaining steps; yield the loss of each."""
        while self.done < self.settings["steps"]:
            chosen, rng = batches(self.pool, self.settings["seed"], self.done)
            x = torch.from_numpy(np.stack([self.inputs[self.place[id(system)]] for system in chosen])).float()
            out = self.network(x)
            numbers, slopes, losses = out.detach().double().numpy(), [], []
            for system, own in zip(chosen, numbers, strict=True):
                loss, slope = differentiate(system, own, draw_load(system, rng))
                losses.append(loss)
                slopes.append(slope * (2.0 if loss > -0.03 else 1.0))  # never worse than the rule
            self.optimizer.zero_grad()
            out.backward(torch.from_numpy(np.stack(slopes) / len(chosen)).float())
            self.optimizer.step()
            self.schedule.step()
            self.done += 1
            yield float(np.mean(losses))

    def save(self, path: Path) -> None:
        """Write a checkpoint whole or not at all."""
        held = {
            "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(), "done": self.done, "seconds": self.seconds,
            "settings": self.settings,
        }  # fmt: skip
        # what `check_checkpoint` looks for in every training's checkpoint
        held |= {"state_dict": {}, "global_step": self.done, "loops": {}}
        buffer = io.BytesIO()
        torch.save(held, buffer)
        write_bytes(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        held = torch.load(path, map_location="cpu", weights_only=True)
        if "done" not in held:
            raise CheckpointError(f"{path} is the checkpoint of another kind of training; expected one of steps")
        check_settings(held["settings"], self.settings)
        self.network.load_state_dict(held["network"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.schedule.load_state_dict(held["schedule"])
        self.done, self.before, self.began = held["done"], held["seconds"], time.perf_counter()
