"""`krylearn demo`: its options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import WEIGHTS, add_command, check_count, check_weights


def add_to(commands: Any) -> None:
    """Describe `krylearn demo`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    add = add_command(commands, "demo", run_demo, "simulate smoke past a moving obstacle, compare solvers").add_argument
    add(
        "--shape",
        type=check_count,
        nargs=3,
        metavar=("NX", "NY", "NZ"),
        help="grid, z up (over 500,000 unknowns)",
    )
    add("--steps", type=check_count, help="steps of the simulation (default: 60)")
    add("--output", type=Path, default=Path("demo-output"), help="folder for pictures and records")
    add("--quick", action="store_true", help="a small grid and few steps")
    add("--weights", type=check_weights, help=WEIGHTS)
    add(
        "--publish",
        action="store_true",
        help="also append to bench/studies/records and renew docs/images (in a checkout)",
    )


def run_demo(options: argparse.Namespace) -> int:
    """Simulate, compare, and with --publish renew the committed records and pictures."""
    from ..measure.record import records_of
    from ..report.readme import publish_demo
    from ..solvers.demo import run_demo as simulate

    also = records_of("demo") if options.publish else None
    facts = {"output": options.output, "quick": options.quick, "weights": options.weights, "also": also}
    simulate(options.shape, options.steps, **facts)
    if options.publish:
        publish_demo(options.output)
    return 0
