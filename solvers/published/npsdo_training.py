"""Training of NPSDO's operator, as published but for size: Ritz right-hand sides of several scenes, no line search.

    loss = mean over the batch of ‖r - A P r‖₂,   ‖r‖ = 1        (not squared: P has to get the scale right)

Published: 106 matrices of 11 scenes at 128³, per matrix 1,600 steps of Lanczos and 800 right-hand sides with the factor
9 on the lowest 60 %, five passes over those of one matrix before the next; Adam at 1e-4, batches of 128; five to
seven days. Here the scenes are those of the *train* stream at a size of choice. Departures: Lanczos starts from A times
noise, not from a frame's right-hand side; Adam's rate runs through one cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from krylearn.pde import FAMILIES, Poisson, scene
from torch import Tensor

from ..training.checkpoints import check_place
from ..training.loop import LICENCE, require_lightning
from .loop import SCHEDULES, RitzStream, fit_on_ritz
from .npsdo_method import apply_on_grid, save_npsdo
from .npsdo_network import NPSDONetwork, geometry_image
from .ritz import ritz_basis

LOWEST = 0.6  # the part of the Ritz vectors that gets the factor


def residual_loss(A: Poisson, r: Tensor, z: Tensor) -> Tensor:
    """Mean over the batch of ‖r - A z‖₂.

    Examples
    --------
    >>> import numpy as np
    >>> A = Poisson.from_coefficients(np.ones((4, 4)))
    >>> z = torch.rand(3, 4, 1, 4, dtype=torch.float64)
    >>> float(residual_loss(A, A.apply(z), z))
    0.0
    """
    return torch.linalg.vector_norm((r - A.apply(z)).flatten(1), dim=1).mean()


def train_npsdo(
    dimension: int = 3,
    *,
    grid: int = 32,
    levels: int = 4,
    symmetric: bool = False,
    families: Sequence[str] = ("neumann", "obstacles", "free_surface"),
    scenes: int = 3,
    ritz_vectors: int = 400,
    right_hand_sides: int = 640,
    passes: int = 5,
    steps: int | None = None,
    batch: int = 16,
    lr: float | None = None,
    schedule: str = "one-cycle",
    seed: int = 20261,
    output: str | Path = "checkpoints",
    resume: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Train an `NPSDONetwork` on scenes of the train stream and write it with its card; resumable.

    Parameters
    ----------
    dimension, grid : of the scenes: 2 or 3, cells per axis
    levels, symmetric : as in `NPSDONetwork`
    families, scenes : names out of `krylearn.pde.FAMILIES`, and how many scenes of each
    ritz_vectors : steps of Lanczos per matrix (1,600 as published)
    right_hand_sides, passes : per matrix, and how often they are gone through before the next matrix
    steps : optimiser steps; default one visit to every matrix
    batch : 128 as published
    lr, schedule : of Adam: "one-cycle" with a peak of 1e-3, or "constant", as published, with 1e-4
    seed, output, resume, device, progress : as in `train_dcdm`

    Returns
    -------
    Path
        of the .safetensors file; load it with ``NPSDO(A, weights=path)``

    Raises
    ------
    ImportError, ValueError, KeyboardInterrupt : as in `train_dcdm`

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     facts = dict(grid=8, levels=2, scenes=1, ritz_vectors=9, steps=2, output=folder, progress=False)
    ...     train_npsdo(2, families=["neumann"], **facts).name
    'npsdo-2d.safetensors'
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown or not families or min(scenes, ritz_vectors, right_hand_sides, passes, batch) < 1 or grid < 4:
        raise ValueError(
            f"got families={list(families)}, scenes={scenes}, grid={grid}, batch={batch}; expected names out of "
            f"{', '.join(FAMILIES)}, grid >= 4 and positive numbers"
        )
    if schedule not in SCHEDULES:
        raise ValueError(f"got schedule={schedule!r}; expected one of {', '.join(SCHEDULES)}")
    require_lightning()
    name = f"npsdo-{dimension}d{'-symmetric' if symmetric else ''}"
    check_place(Path(output), name, resume=resume)
    visits = -(-right_hand_sides // batch) * passes * scenes * len(families)
    settings = {
        "dimension": dimension,
        "levels": levels,
        "symmetric": symmetric,
        "grid": grid,
        "families": list(families),
        "scenes": scenes,
        "ritz_vectors": ritz_vectors,
        "right_hand_sides": right_hand_sides,
        "passes": passes,
        "steps": visits if steps is None else steps,
        "batch": batch,
        "learning_rate": lr or (1e-3 if schedule == "one-cycle" else 1e-4),
        "schedule": schedule,
        "precision": "float32",
        "seed": seed,
    }
    generator = torch.Generator().manual_seed(seed)
    network = NPSDONetwork(levels, dimension, symmetric=symmetric, generator=generator).to(device)
    stream = _stream(settings, device)
    facts = fit_on_ritz(
        network, NPSDOLoss(network), stream, settings,
        output=Path(output), resume=resume, device=device, progress=progress, checks=len(stream.operators),
    )  # fmt: skip
    card: dict[str, Any] = {"name": name, **settings, "stream": "train, seeds from 0", **facts, "licence": LICENCE}
    card["basis_hours"] = round(sum(basis.seconds for basis in stream.bases) / 3600, 3)
    return save_npsdo(network, Path(output) / name, card)


class NPSDOLoss:
    """The loss of a batch on one operator; images of geometries are kept, stencils are remade as weights change."""

    def __init__(self, network: NPSDONetwork) -> None:
        self.network = network
        self.images: dict[int, Tensor] = {}

    def __call__(self, A: Poisson, r: Tensor) -> Tensor:
        """Return the mean of ‖r - A P r‖."""
        if id(A) not in self.images:
            self.images[id(A)] = geometry_image(A, 2**self.network.levels)
        stencils = self.network.stencils(self.images[id(A)])
        return residual_loss(A, r, apply_on_grid(self.network, stencils, A, r))


def _stream(settings: dict[str, Any], device: str) -> RitzStream:
    """Build scenes and Ritz vectors."""
    operators, bases, m = [], [], settings["ritz_vectors"]
    shape = (settings["grid"],) * settings["dimension"]
    for k in range(settings["scenes"]):
        for family in settings["families"]:  # one of each in turn
            A = scene(family, shape, k, stream="train").to(device)
            steps = min(m, A.unknowns)
            bases.append(ritz_basis(A, steps, theta=round((LOWEST - 0.5) * steps), seed=settings["seed"] + k))
            operators.append(A.to(dtype="float32"))
    return RitzStream(
        operators, bases, settings["right_hand_sides"], settings["batch"], settings["seed"], settings["passes"]
    )
