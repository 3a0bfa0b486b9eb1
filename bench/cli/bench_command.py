"""More of the command line: `krylearn bench solvers | kernels | noise | warmstarts | batch-scaling | training`."""

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
        help="file to append to (default: in krylearn-records or bench/studies/records)",
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
    text = "what a starting guess made of earlier solutions saves in sequences of fluid steps"
    add = command(experiments, "warmstarts", _warm_starts, text).add_argument
    add("--shape", type=int, nargs=3, default=[48, 40, 56], metavar=("NX", "NY", "NZ"), help="grid, z up")
    add("--steps", type=int, default=50, help="steps of each sequence, of which the first ten do not count")
    add("--records", type=Path, help="file to append to (default: warmstarts.jsonl in bench/studies/records)")
    text = "what learning is worth in seconds: four sets of weights in the same kernels, every family"
    add = command(experiments, "rules", _rules, text).add_argument
    add("--size", type=int, default=128, help="cells per axis")
    add("--families", nargs="+", metavar="FAMILY", help="scene families (default: all)")
    add("--records", type=Path, help="file to append to (default: rules.jsonl in bench/studies/records)")
    text = "what limits the cycle: iterations with parts of it replaced by better ones, hard families"
    add = command(experiments, "ablations", _ablations, text).add_argument
    add("--size", type=int, default=32, help="cells per axis; the cycles are assembled as matrices")
    add("--seeds", type=int, default=2, help="scenes per family, of the test stream")
    add("--families", nargs="+", metavar="FAMILY", help="scene families (default: the hard ones)")
    add("--records", type=Path, help="file to append to (default: ablations.jsonl in bench/studies/records)")
    text = "a moving obstacle, set up anew at every step: ours against PyAMG"
    add = command(experiments, "sequence", _sequence, text).add_argument
    add("--size", type=int, default=96, help="cells per axis")
    add("--steps", type=int, default=50, help="systems")
    add("--records", type=Path, help="file to append to (default: sequence.jsonl in bench/studies/records)")
    text = "the published learned methods beside classical ones: iterations, times, memory, what training costs"
    add = command(experiments, "published", _published, text).add_argument
    add("--size", type=int, nargs="+", default=[32, 64], metavar="N", help="cells per axis, one or more")
    add("--seeds", type=int, default=2, help="scenes per size, of the test stream")
    add("--families", nargs="+", default=["neumann"], metavar="FAMILY", help="scene families")
    kinds = ("white", "divergence", "points")
    add("--rhs", nargs="+", choices=kinds, default=["white"], help="right-hand sides")
    add("--rtol", type=float, default=1e-4, help="tolerance on the true relative residual, of every method")
    add("--methods", nargs="+", metavar="METHOD", help='names as in the table, for example "krylearn CG" DCDM')
    add("--repeats", type=int, default=1, help="timed solves per scene")
    add("--counts", action="store_true", help="only iterations, nothing timed; records go to publishedcounts.jsonl")
    add("--records", type=Path, help="file to append to (default: published.jsonl in bench/studies/records)")
    text = "the best lr at batch sizes 16 to 1024, measured on three small tasks, against every scaling rule"
    add = command(experiments, "batch-scaling", _batch_scaling, text).add_argument
    add("--tasks", nargs="+", metavar="TASK", choices=("digits", "waves", "characters"), help="default: all three")
    add("--methods", nargs="+", metavar="METHOD", choices=("sgd", "adamw"), help="default: both")
    add("--sizes", type=int, nargs="+", metavar="B", help="batch sizes, the base 128 among them (default: all seven)")
    add("--seeds", type=int, nargs="+", metavar="SEED", help="of initial parameters and order (default: three)")
    add("--fresh", action="store_true", help="begin a new run; otherwise the last one is continued where it was")
    add("--records", type=Path, help="file to append to (default: batch_scaling.jsonl in bench/studies/records)")
    add("--png", type=Path, help="also draw the optima and the rules into this file")
    text = "ten small workloads: the tuner against 15-point grids and learning-rate-free rivals; resumable"
    add = command(experiments, "training", _training, text).add_argument
    add("--workloads", nargs="+", metavar="WORKLOAD", help="names (default: all ten)")
    add("--stages", nargs="+", choices=TRAINING_STAGES, help="default: all six")
    add("--quick", action="store_true", help="only the quadratic, and only the tuner; a database of its own")
    add("--trace", type=Path, metavar="PNG", help="only draw lr, loss and sharpness of one run into this file")
    add("--database", type=Path, help="of runs; what it holds is not run again (default: bench/studies/records/runs)")
    add("--records", type=Path, help="file for the summary (default: training.jsonl in bench/studies/records)")


TRAINING_STAGES = ("tuner", "grid", "rivals", "seeds", "robustness", "ablation")


def _device(name: str) -> str:
    import torch

    from ..measure.console import UsageError

    if name != "cpu" and not torch.cuda.is_available():
        raise UsageError(f"got device {name}, but torch sees no CUDA device; expected cpu on this machine")
    return name


def _solvers(options: argparse.Namespace) -> int:
    from ..report.html import write_page
    from ..report.readme import records_of
    from ..solvers.compare import run_solvers

    problem = _problem(options) if options.matrix else None
    usual = HERE / "solvers.jsonl" if options.quick or problem else records_of("solvers")
    output = options.records or usual
    facts = {"quick": options.quick, "device": _device(options.device), "rtol": options.rtol}
    run_solvers(problem=problem, output=output, **facts)
    write_page(options.html, output)
    return 0


def _warm_starts(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..studies.solvers.warm_starts import run_warm_starts

    output = options.records or records_of("warmstarts")
    run_warm_starts(shape=tuple(options.shape), steps=options.steps, output=output)
    return 0


def _problem(options: argparse.Namespace) -> Any:
    from ..solvers.file_problem import file_problem

    facts = {name: getattr(options, name) for name in ("rhs", "shape", "cells", "order")}
    return file_problem(options.matrix, **facts)


def _published(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..studies.solvers.published_methods import run_published

    output = options.records or records_of("publishedcounts" if options.counts else "published")
    facts = {name: getattr(options, name) for name in ("methods", "families", "rtol", "repeats", "counts")}
    run_published(options.size, options.seeds, kinds=options.rhs, output=output, **facts)
    return 0


def _rules(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..studies.solvers.rules import run_rules

    run_rules(options.size, families=options.families, output=options.records or records_of("rules"))
    return 0


def _ablations(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..studies.solvers.cycle_ablations import run_ablations

    output = options.records or records_of("ablations")
    run_ablations(options.size, options.seeds, families=options.families, output=output)
    return 0


def _sequence(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..studies.solvers.sequence import run_sequence

    run_sequence(options.size, options.steps, output=options.records or records_of("sequence"))
    return 0


def _kernels(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..solvers.kernel_speed import run_kernels

    output = options.records or (HERE / "kernels.jsonl" if options.quick else records_of("kernels"))
    run_kernels(quick=options.quick, device=_device(options.device), output=output)
    return 0


def _noise(options: argparse.Namespace) -> int:
    from ..solvers.kernel_speed import run_noise

    run_noise(pairs=options.pairs, size=options.size, output=options.records)
    return 0


def _batch_scaling(options: argparse.Namespace) -> int:
    from ..measure.console import UsageError
    from ..report.readme import records_of
    from ..studies.batch_scaling.tables import run_batch_scaling

    names = ("tasks", "methods", "sizes", "seeds", "fresh", "png")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    try:
        run_batch_scaling(output=options.records or records_of("batch_scaling"), **given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return 0


def _training(options: argparse.Namespace) -> int:
    from ..measure.console import UsageError
    from ..report.readme import records_of
    from ..studies.tuner.compare import STAGES, run_training
    from ..studies.tuner.trace import draw_trace
    from ..studies.tuner.workloads import WORKLOADS

    if options.trace:
        draw_trace(options.trace)
        return 0
    unknown = set(options.workloads or ()) - set(WORKLOADS)
    if unknown:
        raise UsageError(f"got the workloads {sorted(unknown)}; expected some of {', '.join(WORKLOADS)}")
    here = HERE if options.quick else records_of("training").parent / "runs"
    database = options.database or here / "training.jsonl"
    usual = HERE / "training_summary.jsonl" if options.quick else records_of("training")
    names = ["quadratic"] if options.quick else options.workloads
    stages = ("tuner",) if options.quick else options.stages or STAGES
    run_training(workloads=names, stages=stages, database=database, output=options.records or usual)
    return 0
