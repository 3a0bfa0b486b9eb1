"""The part of the command line that measures solvers, kernels and the noise: `krylearn bench solvers|kernels|noise`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path("krylearn-records")  # of quick runs and of systems out of files: not what a release is judged by


def add_commands(experiments: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Describe the commands; `command` makes one.

    Examples
    --------
    >>> add_commands(argparse.ArgumentParser().add_subparsers(), lambda group, name, run, text: group.add_parser(name))
    """
    text = "which solver for which system on this machine: ours and all rivals, a live table, a page with pictures"
    add = command(experiments, "solvers", _solvers, text).add_argument
    add("--quick", action="store_true", help="small grids: under three minutes on two cores")
    add("--device", default="cpu", help="of our solves, cpu or cuda; rivals run where they can")
    add("--rtol", type=float, default=1e-6, help="tolerance on the true relative residual")
    add("--matrix", type=Path, help="measure this system instead: .mtx, .mtx.gz or scipy.sparse.save_npz's .npz")
    add("--rhs", type=Path, help="its right-hand side (default: A times seeded noise)")
    add("--shape", type=int, nargs="+", metavar="N", help="its grid: NX NY or NX NY NZ; without it only rivals run")
    add("--cells", type=Path, help=".npy of 0 SOLID, 1 FLUID, 2 OPEN, or booleans; if rows number FLUID cells only")
    add("--order", choices=("C", "F"), default="C", help="C: last axis fastest; F: x fastest")
    add(
        "--records",
        type=Path,
        help="file to append to (default: in krylearn-records or bench/records)",
    )
    add("--html", type=Path, default=Path("krylearn-report.html"), help="page to write")
    text = "bandwidth of every kernel, against a copy measured in the same run"
    add = command(experiments, "kernels", _kernels, text).add_argument
    add("--quick", action="store_true", help="two small grids")
    add("--device", default="cpu", help="cpu or cuda")
    add("--records", type=Path, help="file to append to (default: kernels.jsonl)")
    add = command(experiments, "noise", _noise, "a solve paired with itself: what a ratio is worth here").add_argument
    add("--pairs", type=int, default=20, help="pairs A B A B")
    add("--size", type=int, default=48, help="cells per axis")
    add("--records", type=Path, default=HERE / "noise.jsonl", help="file to append to")


def _device(name: str) -> str:
    import torch

    from .console import UsageError

    if name != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"got device {name}, but torch sees no CUDA device; expected cpu on this machine")
    return name


def _solvers(options: argparse.Namespace) -> int:
    from .compare_solvers import run_solvers
    from .page import write_page
    from .report import records_of

    problem = _problem(options) if options.matrix else None
    usual = HERE / "solvers.jsonl" if options.quick or problem else records_of("solvers")
    output = options.records or usual
    facts = {"quick": options.quick, "device": _device(options.device), "rtol": options.rtol}
    run_solvers(problem=problem, output=output, **facts)
    write_page(options.html, output)
    return 0


def _problem(options: argparse.Namespace) -> Any:
    from .file_problem import file_problem

    facts = {name: getattr(options, name) for name in ("rhs", "shape", "cells", "order")}
    return file_problem(options.matrix, **facts)


def _kernels(options: argparse.Namespace) -> int:
    from .kernel_speed import run_kernels
    from .report import records_of

    output = options.records or (HERE / "kernels.jsonl" if options.quick else records_of("kernels"))
    run_kernels(quick=options.quick, device=_device(options.device), output=output)
    return 0


def _noise(options: argparse.Namespace) -> int:
    from .kernel_speed import run_noise

    run_noise(pairs=options.pairs, size=options.size, output=options.records)
    return 0
