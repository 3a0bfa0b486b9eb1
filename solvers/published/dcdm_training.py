"""Training of the deep conjugate direction network, as published: Ritz right-hand sides, one line search, Adam.

    loss = mean over the batch of ‖b - s A g‖²,   g = f(b),   s = gᵀb / gᵀA g,   ‖b‖ = 1

the squared residual after one exact line search: no solutions are needed, and the scale of g does not matter. (s
minimises the A-norm of the error, not the residual.) Published: the empty box with walls all around at 64³ or 128³,
20,000 right-hand sides of 10,000 Ritz vectors, batches of 10, Adam at 1e-4, up to 1,000 epochs.

What fewer steps want instead was measured on small grids (docs/dcdm.md): a peak rate of 2e-3 in one cycle. Training in
bfloat16 ends at three times the loss, since rounding of the direction is white noise, which A amplifies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from torch import Tensor, nn

from ..training.checkpoints import check_place
from ..training.loop import LICENCE, grid_dot, require_lightning
from .dcdm_method import load_network, save_network
from .dcdm_network import SIZES, DCDMNetwork
from .loop import SCHEDULES, RitzStream, fit_on_ritz
from .ritz import scaled_theta, stored_basis


def propose(network: nn.Module, A: Poisson, b: Tensor) -> Tensor:
    """Return the network's directions for a batch (batch, *internal grid); zero where there is no unknown."""
    flat = len(A.grid_shape) == 2
    g = network(b.squeeze(-2) if flat else b).float()
    return (g.unsqueeze(-2) if flat else g) * A.unknown


def line_search_loss(A: Poisson, b: Tensor, g: Tensor) -> Tensor:
    """Mean over the batch of ‖b - s A g‖² with the s of an exact line search along g.

    Parameters
    ----------
    A : Poisson; b, g : (batch, *internal grid), right-hand sides and proposed directions

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((4, 4)))
    >>> g = torch.rand(3, 4, 1, 4)
    >>> float(line_search_loss(A.to(dtype="float32"), A.apply(g).float() * -7, g).round(decimals=5))
    0.0
    """
    image = A.apply(g)
    s = grid_dot(g, b) / grid_dot(g, image)
    return (b - s * image).square().sum((-1, -2, -3)).mean()


def train_dcdm(
    dimension: int = 3,
    *,
    grid: int = 32,
    size: int = 64,
    ritz_vectors: int | None = None,
    theta: int | None = None,
    right_hand_sides: int = 20_000,
    steps: int | None = None,
    batch: int = 10,
    lr: float | None = None,
    schedule: str = "one-cycle",
    precision: str = "float32",
    start: str | Path | None = None,
    seed: int = 20261,
    output: str | Path = "checkpoints",
    resume: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """Train a `DCDMNetwork` on Ritz right-hand sides of the empty box and write it with its card; resumable.

    Parameters
    ----------
    dimension : 2 or 3
    grid : cells per axis
    size : 64 or 128; which of the two published networks
    ritz_vectors : m, steps of Lanczos; default 10,000 as published where a quarter of the cells are as many, else 1,500
        or fewer
    theta : the lowest m/2 + theta Ritz vectors weigh nine times as much; default m/20, the published proportion
    right_hand_sides : of an epoch
    steps : optimiser steps; default one epoch
    batch : right-hand sides per step, 10 as published
    lr, schedule : of Adam. "one-cycle" with a peak of 2e-3, or "constant", as published, with 1e-4
    precision : "float32"; "bfloat16" halves the time of a step, and does not train as far
    start : safetensors file to continue from, with a new schedule
    seed : of initial weights, start vector and right-hand sides
    output : directory for checkpoints, curves (``metrics.csv``) and the result
    resume : continue from the last checkpoint in `output`, with the same settings
    device : "cpu" or "cuda"
    progress : show a progress bar

    Returns
    -------
    Path
        of the .safetensors file; load it with ``DCDM(A, weights=path)``

    Raises
    ------
    ImportError
        without Lightning: ``pip install "krylearn[train]"``
    ValueError
        for values that make no sense, and for a checkpoint of other settings
    KeyboardInterrupt
        after Ctrl-C, naming the last checkpoint

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = train_dcdm(2, grid=8, ritz_vectors=20, steps=2, output=folder, progress=False)
    ...     path.name
    'dcdm-2d-64.safetensors'
    """
    m = default_ritz_vectors(grid**dimension) if ritz_vectors is None else ritz_vectors
    _validate(dimension, grid, size, m, right_hand_sides, batch, schedule, precision)
    require_lightning()
    check_place(Path(output), f"dcdm-{dimension}d-{size}", resume=resume)
    steps = -(-right_hand_sides // batch) if steps is None else steps
    settings = {
        "dimension": dimension,
        "size": size,
        "grid": grid,
        "ritz_vectors": m,
        "theta": scaled_theta(m) if theta is None else theta,
        "right_hand_sides": right_hand_sides,
        "steps": steps,
        "batch": batch,
        "learning_rate": lr or (2e-3 if schedule == "one-cycle" else 1e-4),
        "schedule": schedule,
        "precision": precision,
        "started_from": Path(start).name if start else None,
        "seed": seed,
    }
    A = Poisson.from_cells(np.ones((grid,) * dimension)).to(device)
    basis = stored_basis(A, m, Path(output) / "ritz-basis.safetensors", theta=theta, seed=seed)
    network = DCDMNetwork(size, dimension, generator=torch.Generator().manual_seed(seed))
    if start:
        network.load_state_dict(load_network(start).state_dict())
    network.to(device)
    A = A.to(dtype="float32")
    facts = fit_on_ritz(
        network, lambda A, b: line_search_loss(A, b, propose(network, A, b)),
        RitzStream([A], [basis], right_hand_sides, batch, seed), settings,
        output=Path(output), resume=resume, device=device, progress=progress, checks=2,
    )  # fmt: skip
    seen = {
        "matrices": "the empty box, walls all around",
        "ritz_vectors_kept": len(basis.values),
        "low": basis.low,
        "basis_hours": round(basis.seconds / 3600, 3),
    }
    card: dict[str, Any] = {"name": f"dcdm-{dimension}d-{size}", **settings, **seen, **facts, "licence": LICENCE}
    return save_network(network, Path(output) / f"dcdm-{dimension}d-{size}", card)


def default_ritz_vectors(cells: int) -> int:
    """Return m: 10,000 as published where the grid is large enough, else what a small machine can hold.

    >>> default_ritz_vectors(64**3), default_ritz_vectors(32**3), default_ritz_vectors(16**2)
    (10000, 1500, 64)
    """
    return 10_000 if cells >= 40_000 else min(1500, max(2, cells // 4))


def _validate(
    dimension: int, grid: int, size: int, m: int, count: int, batch: int, schedule: str, precision: str
) -> None:
    """Refuse what makes no sense before any work is done."""
    if dimension not in (2, 3) or size not in SIZES:
        raise ValueError(f"got dimension={dimension}, size={size}; expected 2 or 3, and 64 or 128")
    if grid < 4 or not 2 <= m <= grid**dimension or count < 1 or batch < 1:
        raise ValueError(
            f"got grid={grid}, ritz_vectors={m}, right_hand_sides={count}, batch={batch}; "
            f"expected grid >= 4, from 2 to grid^{dimension} Ritz vectors, and positive numbers"
        )
    if schedule not in SCHEDULES or precision not in ("float32", "bfloat16"):
        raise ValueError(
            f"got schedule={schedule!r}, precision={precision!r}; expected one of {', '.join(SCHEDULES)}, "
            "and float32 or bfloat16"
        )
