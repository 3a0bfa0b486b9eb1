"""Training of the coefficient network through the iteration that uses it: differentiate k steps of preconditioned CG.

    loss = log( k / decades ),   decades = log10 ‖b‖ / ‖r_k‖ in the norm of D^(-1/2)

that is, the logarithm of the number of steps that one decade costs: a tenth fewer iterations counts the same on an
easy and on a hard family. Taken after half of the steps and after all of them. No Lanczos basis, no solutions, no
labels. One command (``krylearn train``), one seed, resumable, CPU or CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.reference import Stencil, apply
from ..multigrid.hierarchy import COARSEST, Rule, build, v_cycle
from ..multigrid.network import CoefficientNetwork
from ..multigrid.weight_files import load_weights, save_weights
from .checkpoints import check_place
from .data import VALIDATION, Builder, Systems, builders
from .loop import LICENCE, describe_run, grid_dot, require_lightning, run, training_module

# of the shipped weights; later steps moved no score by 1 % (constants) or few (networks)
STEPS = {("network", 3): 3000, ("network", 2): 2500, ("constants", 3): 400, ("constants", 2): 600}
Measure = Callable[[int, torch.device], tuple[str, Tensor]]


def decades(op: Stencil, rule: Rule, b: Tensor, steps: int) -> Tensor:
    """Return the decades, per system, that PCG gained after steps/2 and after all steps, as rows."""
    h = build(op, rule)
    x_dot = grid_dot(b * op.inv, b)
    r, z = b, v_cycle(h, b)
    p, rz = z, grid_dot(b, z)
    rows = []
    for k in range(1, steps + 1):
        q = apply(op, p)
        alpha = rz / grid_dot(p, q)
        r = r - alpha * q
        if k in (steps // 2, steps):
            rows.append(-0.5 * torch.log10((grid_dot(r * op.inv, r) / x_dot).flatten()))
        if k < steps:
            z = v_cycle(h, r)
            rz, old = grid_dot(r, z), rz
            p = z + rz / old * p
    return torch.stack(rows)


def cost(reduction: Tensor, steps: int) -> Tensor:
    """Return the mean log of the steps per decade, finite also where the residual grew."""
    rate = reduction / torch.tensor([[steps // 2], [steps]], device=reduction.device)
    return -torch.log(torch.nn.functional.softplus(rate * 20) / 20).mean()


def to_device(op: Stencil, device: torch.device) -> Stencil:
    """Move a stencil to the device of the module."""
    if op.shift.device == device:
        return op
    return Stencil(
        [w.to(device) for w in op.links], [g.to(device) for g in op.ground], op.shift.to(device), op.periodic
    )


def train(
    dimension: int = 3,
    *,
    families: Sequence[str] | Mapping[str, Builder] | None = None,
    sizes: Sequence[int] | None = None,
    steps: int | None = None,
    seed: int = 20261,
    output: str | Path = "checkpoints",
    resume: bool = False,
    device: str = "cpu",
    architecture: str = "network",
    hidden: int = 16,
    start: str | Path | None = None,
    lr: float | None = None,
    cg_steps: int = 7,
    progress: bool = True,
) -> Path:
    """Train a rule for `NeuralMultigrid` and write it with its card; resumable.

    Parameters
    ----------
    dimension : 2 or 3
    families : None (all), names out of `krylearn.pde.FAMILIES`, or your own: name -> ``build(shape, seed) -> Poisson``
    sizes : grid sizes to train on, cells per axis (at least 8 in 3D and 14 in 2D); default (16, 32, 48) in 3D and
        (32, 64, 128) in 2D
    steps : optimiser steps; default those of the shipped weights (`STEPS`), 25 minutes on one core in 3D
    seed : of initial weights and of the stream of systems
    output : directory for checkpoints, curves (``metrics.csv``) and the result
    resume : continue from the last checkpoint in `output`, with the same settings; on a CPU the result is bit for bit
        that of an uninterrupted run
    device : "cpu" or "cuda"
    architecture : "network", or "constants" for the best tuned constants (six numbers)
    hidden : width of the perceptrons
    start : safetensors file to fine-tune from
    lr : peak learning rate of Adam's one-cycle schedule; default 5e-3 (constants 3e-2)
    cg_steps : steps of PCG that are differentiated through, at least 2
    progress : show a progress bar

    Returns
    -------
    Path
        of the .safetensors file; load it with ``NeuralMultigrid(A, weights=path)``

    Raises
    ------
    ImportError
        without Lightning: ``pip install "krylearn[train]"``
    ValueError
        for unknown names or values, and for a checkpoint of other settings or one that cannot be read
    FileExistsError
        where an earlier run has left its checkpoint or weights, without `resume`
    KeyboardInterrupt
        after Ctrl-C, naming the last checkpoint

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = train(2, families=["blocks"], sizes=(16,), steps=2, output=folder, progress=False)
    ...     path.name
    '2d-network.safetensors'
    """
    steps = STEPS.get((architecture, dimension), 1) if steps is None else steps
    if dimension not in (2, 3) or architecture not in ("network", "constants") or steps < 1 or cg_steps < 2:
        raise ValueError(
            f"got dimension={dimension}, architecture={architecture!r}, steps={steps}, cg_steps={cg_steps}; "
            "expected 2 or 3, 'network' or 'constants', steps >= 1, cg_steps >= 2"
        )
    sizes = tuple(sizes) if sizes else ((16, 32, 48) if dimension == 3 else (32, 64, 128))
    check_sizes(sizes, dimension)
    require_lightning()
    output = Path(output)
    check_place(output, f"{dimension}d-{architecture}", resume=resume)
    systems = Systems(builders(families), dimension, sizes, seed, cells=2 * 32**3 if dimension == 3 else 2 * 128**2)
    network = start_network(start, seed, hidden if architecture == "network" else 0)
    settings = {
        "dimension": dimension,
        "families": list(systems.builds),
        "sizes": list(sizes),
        "steps": steps,
        "seed": seed,
        "cg_steps": cg_steps,
        "learning_rate": lr or (5e-3 if architecture == "network" else 3e-2),
        "parameters": sum(p.numel() for p in network.parameters()),
        "started_from": Path(start).name if start else None,
    }
    trainer, module = run(
        lambda: training_module(network, *measures(network, systems, cg_steps), settings), output, steps,
        resume=resume, checks=len(systems.builds), device=device, progress=progress,
    )  # fmt: skip
    card = {"name": f"{dimension}d-{architecture}", **settings, **facts(trainer, module, systems, device)}
    return save_weights(network, output / f"{dimension}d-{architecture}", card)


def check_sizes(sizes: Sequence[int], dimension: int) -> None:
    """Refuse grids that are inverted as a whole: no weight would have a gradient there."""
    least = next(n for n in range(6, COARSEST) if (n - 2) ** dimension > COARSEST)  # batches vary sizes by up to 2
    if min(sizes) < least:
        raise ValueError(
            f"got sizes={tuple(sizes)}; expected {least} or more cells per axis in {dimension}D: "
            f"grids of up to {COARSEST} cells are inverted exactly and teach nothing"
        )


def start_network(start: str | Path | None, seed: int, hidden: int) -> CoefficientNetwork:
    """Load or initialise the network to train, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = load_weights(start) if start else CoefficientNetwork(hidden)
    return network.train().requires_grad_(True)


def measures(network: CoefficientNetwork, systems: Systems, cg_steps: int) -> tuple[Measure, Measure]:
    """Return the loss of a training step and the steps per decade on held-out systems, one family per index."""

    def loss_of(step: int, device: torch.device) -> tuple[str, Tensor]:
        name, op, b = systems.batch(step)
        return name, cost(decades(to_device(op, device), network, b.to(device), cg_steps), cg_steps)

    def check(index: int, device: torch.device) -> tuple[str, Tensor]:
        name = list(systems.builds)[index % len(systems.builds)]
        shape = (32, 32, 32) if systems.dimension == 3 else (96, 96)
        op, b = systems.assemble(name, shape, [VALIDATION + index], np.random.default_rng((5, index)))
        value = decades(to_device(op, device), network, b.to(device), 8)[-1].mean()
        return name, 8 / value.clamp_min(1e-3)

    return loss_of, check


def facts(trainer: Any, module: Any, systems: Systems, device: str) -> dict[str, Any]:
    """Collect what the card says beside the settings."""
    scores = {k.split("/")[1]: round(float(v), 3) for k, v in trainer.callback_metrics.items() if "validation/" in k}
    return {
        "scenes": f"train stream, seeds 0 to {systems.pool - 1} per family and size; validation from {VALIDATION}",
        **describe_run(module.seconds, device),
        "final_steps_per_decade": scores,
        "licence": LICENCE,
    }
