"""The command line of training: `krylearn train [multigrid | steps | dcdm | npsdo]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..measure.console import UsageError, console
from .options import add_command, check_count, check_rate

METHODS = ("multigrid", "steps", "dcdm", "npsdo")
COMMON = ("dimension", "steps", "seed", "output", "resume", "device")
OWN = {
    "multigrid": ("families", "sizes", "architecture", "start"),
    "steps": ("families", "matrices", "architecture", "lr"),
    "dcdm": (
        "sizes", "size", "ritz_vectors", "theta", "right_hand_sides", "batch", "lr", "schedule", "precision",
        "start",
    ),
    "npsdo": (
        "families", "sizes", "levels", "symmetric", "scenes", "ritz_vectors", "right_hand_sides", "passes", "batch",
        "lr", "schedule",
    ),
}  # fmt: skip
FLAGS = {"sizes": "--grid", "dimension": "--dim"}


def add_to(commands: Any) -> None:
    """Describe `krylearn train`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    text = (
        "train weights: NeuralMultigrid's on grids (multigrid) or step sizes on pieces (steps), or those of a "
        "published method; needs krylearn[train]"
    )
    made = add_command(commands, "train", train, text)
    made.add_argument("method", nargs="?", choices=METHODS, default="multigrid", help="what to train")
    add = made.add_argument_group("every method").add_argument
    add("--dim", dest="dimension", type=int, choices=(2, 3), help="dimension of the grids (default: 3)")
    add(
        "--grid", dest="sizes", type=check_count, nargs="+", metavar="N",
        help="cells per axis of the training grids: one, for multigrid one or more",
    )  # fmt: skip
    add("--steps", type=check_count, help="optimiser steps")
    add("--seed", type=int, help="of initialisation and of the stream of systems or right-hand sides")
    add("--output", type=Path, default=Path("checkpoints"), help="folder for checkpoints, weights and their card")
    add("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    add("--device", default="cpu", help="torch device")
    add = made.add_argument_group("multigrid, steps and npsdo").add_argument
    add(
        "--families", nargs="+", metavar="FAMILY",
        help="scene families (default: all; npsdo: three of fluids; steps with --matrices: none)",
    )  # fmt: skip
    add = made.add_argument_group("steps").add_argument
    add(
        "--matrices", type=Path, metavar="DIR",
        help="train on your own matrices: all .npz, .mtx and .mtx.gz files there; --dim says of which dimension",
    )  # fmt: skip
    add = made.add_argument_group("multigrid and dcdm").add_argument
    add("--start", type=Path, help="weights to continue from (.safetensors), with a new schedule")
    add = made.add_argument_group("multigrid and steps").add_argument
    add("--architecture", choices=("network", "constants"), help="a network (default), or the best constants")
    add = made.add_argument_group("dcdm and npsdo").add_argument
    add("--ritz-vectors", type=check_count, metavar="M", help="steps of Lanczos per operator")
    add("--right-hand-sides", type=check_count, metavar="COUNT", help="of an epoch (dcdm: 20,000) or scene (npsdo)")
    add("--batch", type=check_count, help="right-hand sides per step")
    add("--lr", type=check_rate, help="learning rate of Adam, the peak of one cycle")
    add("--schedule", choices=("one-cycle", "constant"), help="of the learning rate; constant is the published one")
    add = made.add_argument_group("dcdm").add_argument
    add("--size", type=int, choices=(64, 128), help="which of the published networks (default: 64)")
    add("--theta", type=int, help="the lowest M/2 + THETA Ritz vectors weigh nine times as much (default: M/20)")
    add("--precision", choices=("float32", "bfloat16"), help="of a training step")
    add = made.add_argument_group("npsdo").add_argument
    add("--levels", type=check_count, help="how often the grid is halved (default: 4)")
    add("--symmetric", action="store_true", default=None, help="the variant that cg may use")
    add("--scenes", type=check_count, help="scenes per family")
    add("--passes", type=check_count, help="epochs over the right-hand sides of a scene before the next (default: 5)")


def arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the method's training function gets; refuse options of another method.

    Examples
    --------
    >>> facts = dict.fromkeys({name for names in OWN.values() for name in names} | set(COMMON))
    >>> arguments(argparse.Namespace(**facts | {"method": "dcdm", "sizes": [64], "batch": 10}))
    {'batch': 10, 'grid': 64}
    """
    known = (*COMMON, *OWN[options.method])
    every = dict.fromkeys(name for names in OWN.values() for name in names)
    given = {name: getattr(options, name) for name in (*COMMON, *every) if getattr(options, name) is not None}
    foreign = [FLAGS.get(name, "--" + name.replace("_", "-")) for name in given if name not in known]
    if foreign:
        raise UsageError(f"got {', '.join(foreign)} for {options.method}; see `krylearn train --help`")
    if options.method == "steps":
        if options.device != "cpu":
            raise UsageError(f"got --device {options.device} for steps; expected cpu")
        given.pop("device", None)
        if given.pop("architecture", "network") == "constants":
            given["hidden"] = 0
        if "matrices" in given:
            given["matrices"] = load_systems(given["matrices"], given.get("dimension", 3))
    elif options.method != "multigrid" and "sizes" in given:
        sizes = given.pop("sizes")
        if len(sizes) != 1:
            raise UsageError(f"got --grid {' '.join(map(str, sizes))} for {options.method}; expected one size")
        given["grid"] = sizes[0]
    return given


def load_systems(folder: Path, dimension: int) -> dict[str, Any]:
    """Read every matrix of a folder as an operator on the grid that it shows; refuse what is on none.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, scipy.sparse as sp
    >>> from krylearn.pde import Poisson
    >>> folder = Path(tempfile.mkdtemp())
    >>> sp.save_npz(folder / "mine.npz", sp.csr_matrix(Poisson.from_coefficients(np.ones((9, 8))).matrix()))
    >>> load_systems(folder, 2)["mine"].grid_shape
    (9, 8)
    """
    from krylearn.pde import Poisson
    from krylearn.solvers.front_door.prepared import Prepared

    from ..solvers.system_files import load_matrix

    paths = sorted(p for p in folder.glob("*") if p.name.endswith((".npz", ".mtx", ".mtx.gz")))
    if not paths:
        raise UsageError(f"got --matrices {folder} without a matrix; expected .npz, .mtx or .mtx.gz files in it")
    systems = {}
    for path in paths:
        try:
            operator = Prepared(load_matrix(path)).operator
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} is outside the class that krylearn solves: {error}") from error
        if not isinstance(operator, Poisson):
            raise UsageError(f"{path} shows no grid; expected a matrix of a 2D or 3D grid: leave it out")
        if len(operator.grid_shape) != dimension:
            raise UsageError(f"{path} is on a grid {operator.grid_shape}; expected {dimension} axes: say --dim")
        systems[path.stem] = operator
    return systems


def train(options: argparse.Namespace) -> int:
    """Train; Ctrl-C is exit code 130 and names the checkpoint to continue from."""
    given = arguments(options)
    try:
        path = _function(options.method)(**given)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        raise UsageError(str(error)) from error
    except KeyboardInterrupt as stopped:  # the message names the checkpoint to continue from
        console.print(str(stopped))
        return 130
    console.print(f"weights: {path}")
    return 0


def _function(method: str) -> Callable[..., Path]:
    if method == "dcdm":
        from krylearn.solvers.published.dcdm_training import train_dcdm

        return train_dcdm
    if method == "npsdo":
        from krylearn.solvers.published.npsdo_training import train_npsdo

        return train_npsdo
    if method == "steps":
        from krylearn.solvers.training.steps import train_steps

        return train_steps
    from krylearn.solvers.training import train as train_multigrid

    return train_multigrid
