"""`krylearn bench`: what a user measures on a machine or a system of their own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..measure.console import UsageError
from .options import HERE, WEIGHTS, add_command, add_group, check_count, check_device, check_tolerance, check_weights


def add_to(commands: Any) -> None:
    """Describe `krylearn bench`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    text = (
        "Measure, print a table, append records. Start with `krylearn bench solvers --quick`: which solver for which "
        "system on this machine. Your own matrix: `krylearn bench solvers --matrix A.mtx --shape NX NY NZ`."
    )
    experiments = add_group(
        commands, "bench", "measure, print a table, append records", text, "experiments", "EXPERIMENT"
    )
    text = "which solver for which system on this machine: ours and all rivals, a live table, a page with pictures"
    add = add_command(experiments, "solvers", _solvers, text).add_argument
    add("--quick", action="store_true", help="small grids: about a minute on two cores")
    add("--device", default="cpu", help="of our solves, cpu or cuda; rivals run where they can")
    add("--rtol", type=check_tolerance, default=1e-6, help="tolerance on the true relative residual")
    add("--matrix", type=Path, help="measure this system instead: .mtx, .mtx.gz or scipy.sparse.save_npz's .npz")
    add(
        "--system",
        type=Path,
        metavar="FILE.py",
        help="or this one: system() returns (matrix or Poisson, b)",
    )
    add("--rival", type=Path, action="append", default=[], metavar="FILE.py", help="your solver: setup(system)")
    add("--rhs", type=Path, help="its right-hand side (default: A times seeded noise)")
    add(
        "--shape",
        type=check_count,
        nargs="+",
        metavar="N",
        help="its grid: NX NY or NX NY NZ; else only rivals run",
    )
    add("--cells", type=Path, help=".npy of 0 SOLID, 1 FLUID, 2 OPEN, or booleans; if rows number FLUID cells only")
    add("--order", choices=("C", "F"), default="C", help="C: last axis fastest; F: x fastest")
    add(
        "--records",
        type=Path,
        help="file to append to (default: in krylearn-records or bench/studies/records)",
    )
    add("--minutes", type=float, help="begin no further system after so many")
    add("--resume", action="store_true", help="go on with the last run of the records: nothing is measured twice")
    add("--html", type=Path, default=Path("krylearn-report.html"), help="page to write")
    text = "iterations on every scene family: geometric, resistor, tuned, learned"
    add = add_command(experiments, "families", _families, text).add_argument
    add("--size", type=check_count, default=64, help="cells per axis")
    add("--dim", type=int, choices=(2, 3), default=3, help="number of axes")
    add("--seeds", type=check_count, default=5, help="scenes per family, of the test stream")
    add("--families", nargs="+", metavar="FAMILY", help="scene families (default: all)")
    names = ("geometric", "resistor", "tuned", "learned", "pyamg-rs")
    add("--methods", nargs="+", metavar="METHOD", choices=names, help=f"default: all of {', '.join(names)}")
    add("--rhs", choices=("white", "divergence", "points"), default="white", help="right-hand side")
    add(
        "--records",
        type=Path,
        help="file to append to (default: families.jsonl or families_2d.jsonl in bench/studies/records)",
    )
    text = "one large system: ours against SciPy's cg with PyAMG, solves paired"
    add = add_command(experiments, "headline", _headline, text).add_argument
    add("--size", type=check_count, default=128, help="cells per axis")
    add("--family", default="free_surface", help="scene family")
    add("--rtol", type=check_tolerance, default=1e-8, help="tolerance on the true relative residual")
    add("--pairs", type=check_count, default=3, help="timed pairs, of which the median counts")
    add("--weights", type=check_weights, help=WEIGHTS)
    add("--records", type=Path, help="file to append to (default: headline.jsonl in bench/studies/records)")
    text = "every check and benchmark of the CUDA kernels in one go; needs a CUDA device, or --interpret"
    add = add_command(experiments, "cuda", _cuda, text).add_argument
    add(
        "--size",
        type=check_count,
        nargs="+",
        metavar="N",
        help="cells per axis (128 256 384 512; interpreted: 16)",
    )
    add(
        "--rtol",
        type=check_tolerance,
        nargs="+",
        help="tolerances on the true relative residual (1e-6 and 1e-10)",
    )
    add("--minutes", type=float, default=7.0, help="no new case is begun after so many")
    add("--interpret", action="store_true", help="run the kernels on the CPU, by Triton's interpreter: no time is kept")
    add(
        "--records",
        type=Path,
        help="file to append to (default: cuda.jsonl in bench/studies/records; interpreted: none)",
    )
    add("--html", type=Path, help="page to write of what came back (default with records: krylearn-cuda.html)")
    text = "bandwidth of every kernel, against a copy measured in the same run"
    add = add_command(experiments, "kernels", _kernels, text).add_argument
    add("--quick", action="store_true", help="two small grids")
    add("--device", default="cpu", help="cpu or cuda")
    add("--records", type=Path, help="file to append to (default: kernels.jsonl)")
    add = add_command(
        experiments, "noise", _noise, "a solve paired with itself: what a ratio is worth here"
    ).add_argument
    add("--pairs", type=check_count, default=20, help="pairs A B A B")
    add("--size", type=check_count, default=48, help="cells per axis")
    add("--records", type=Path, default=HERE / "noise.jsonl", help="file to append to")


def _families(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..solvers.families import run_families

    output = options.records or records_of("families" if options.dim == 3 else "families_2d")
    facts = {name: getattr(options, name) for name in ("dim", "families", "methods")}
    facts |= {"kind": options.rhs, "output": output}
    run_families(options.size, options.seeds, **facts)
    return 0


def _headline(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..solvers.headline import run_headline

    output = options.records or records_of("headline")
    facts = {name: getattr(options, name) for name in ("family", "rtol", "pairs", "weights")}
    run_headline(options.size, output=output, **facts)
    return 0


def _cuda(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..solvers.cuda import run_cuda

    output = options.records or (None if options.interpret else records_of("cuda"))
    facts = {"interpret": options.interpret, "minutes": options.minutes, "output": output}
    try:
        return run_cuda(options.size, tolerances=options.rtol, **facts)
    finally:  # of whatever came back, also where the run was ended
        if output is not None and output.exists():
            from ..report.html import write_page

            write_page(options.html or Path("krylearn-cuda.html"), output)


def _solvers(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..report.html import write_page
    from ..rivals.plugins import load_rival
    from ..solvers.compare import run_solvers, system_problem

    if options.matrix and options.system:
        raise UsageError("got both --matrix and --system; expected one system")
    problem = _problem(options) if options.matrix else system_problem(options.system) if options.system else None
    usual = HERE / "solvers.jsonl" if options.quick or problem else records_of("solvers")
    output = options.records or usual
    facts = {"quick": options.quick, "device": check_device(options.device), "rtol": options.rtol}
    facts |= {"minutes": options.minutes, "resume": options.resume}
    run_solvers(problem=problem, more=[load_rival(path) for path in options.rival], output=output, **facts)
    write_page(options.html, output)
    return 0


def _problem(options: argparse.Namespace) -> Any:
    from ..solvers.file_problem import file_problem

    facts = {name: getattr(options, name) for name in ("rhs", "shape", "cells", "order")}
    return file_problem(options.matrix, **facts)


def _kernels(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..solvers.kernel_speed import run_kernels

    output = options.records or (HERE / "kernels.jsonl" if options.quick else records_of("kernels"))
    run_kernels(quick=options.quick, device=check_device(options.device), output=output)
    return 0


def _noise(options: argparse.Namespace) -> int:
    from ..solvers.kernel_speed import run_noise

    run_noise(pairs=options.pairs, size=options.size, output=options.records)
    return 0
