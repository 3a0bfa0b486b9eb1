"""The command line: `krylearn demo | solve | train | bench | report | spectrum | warmup`.

Each command imports what it needs when it runs, so that `krylearn --help` is quick. Exit codes: 0 done (a solve
converged), 1 done but not converged, or a check failed, 2 input that cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..measure.console import UsageError
from .bench_command import add_commands
from .curvature_command import add_bench_curvature, add_spectrum
from .train_command import add_train

NAMES = ("geometric", "resistor", "tuned", "pieces")
WEIGHTS = "of the preconditioner: a file, geometric, resistor or tuned (default: the shipped network)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str; those of the process by default

    Returns
    -------
    int : the exit code

    Examples
    --------
    >>> main(["solve", "no-such-file.mtx", "b.txt", "--shape", "4", "4"])
    2
    """
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except (UsageError, ImportError) as error:
        print(f"krylearn {options.command}: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Describe all commands.

    Examples
    --------
    >>> parser().parse_args(["demo", "--quick"]).quick
    True
    """
    top = argparse.ArgumentParser(prog="krylearn", description="Learned components for Krylov methods.")
    top.set_defaults(command="")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_demo, _add_solve):
        add(commands)
    add_train(commands, _command)
    for add in (_add_bench, _add_report, _add_spectrum, _add_warmup):
        add(commands)
    return top


def _command(commands: argparse._SubParsersAction, name: str, run: object, text: str) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.set_defaults(run=run, command=name)
    return made


def _weights(value: str) -> str:
    """Accept a name, or a file that can be read: found out before any work is done."""
    if value in NAMES:
        return value
    from krylearn.solvers.multigrid.weight_files import load_weights

    try:
        load_weights(value)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{error}; or one of {', '.join(NAMES)}") from error
    return value


def _add_demo(commands: argparse._SubParsersAction) -> None:
    add = _command(commands, "demo", _demo, "simulate smoke past a moving obstacle, compare solvers").add_argument
    add("--shape", type=int, nargs=3, metavar=("NX", "NY", "NZ"), help="grid, z up (default: over 500,000 unknowns)")
    add("--steps", type=int, help="steps of the simulation (default: 60)")
    add("--output", type=Path, default=Path("demo-output"), help="folder for pictures and records")
    add("--quick", action="store_true", help="a small grid and few steps")
    add("--weights", type=_weights, help=WEIGHTS)
    add(
        "--publish",
        action="store_true",
        help="also append to bench/studies/records and renew docs/images (in a checkout)",
    )


def _demo(options: argparse.Namespace) -> int:
    from ..report.readme import publish_demo, records_of
    from .demo import run_demo

    also = records_of("demo") if options.publish else None
    facts = {"output": options.output, "quick": options.quick, "weights": options.weights, "also": also}
    run_demo(options.shape, options.steps, **facts)
    if options.publish:
        publish_demo(options.output)
    return 0


def _add_solve(commands: argparse._SubParsersAction) -> None:
    text = "solve a system out of files: a 5-point or 7-point matrix of existing simulation code"
    add = _command(commands, "solve", _solve, text).add_argument
    add("matrix", type=Path, help="Matrix Market .mtx or .mtx.gz, or scipy.sparse.save_npz's .npz")
    add("rhs", type=Path, help=".mtx, .npy, .npz (one array) or .txt")
    add("--shape", type=int, nargs="+", required=True, metavar="N", help="grid: NX NY or NX NY NZ")
    add("--cells", type=Path, help=".npy of 0 SOLID, 1 FLUID, 2 OPEN, or booleans; if rows number FLUID cells only")
    add("--order", choices=("C", "F"), default="C", help="C: last axis fastest; F: x fastest")
    add("--rtol", type=float, default=1e-6, help="tolerance on the true relative residual")
    add("--weights", type=_weights, help=WEIGHTS)
    add("-o", "--output", type=Path, help="write the solution: .npy, .txt or .mtx")


def _solve(options: argparse.Namespace) -> int:
    from .solve_command import solve_files

    facts = {name: getattr(options, name) for name in ("cells", "order", "rtol", "output", "weights")}
    return solve_files(options.matrix, options.rhs, tuple(options.shape), **facts)


def _add_bench(commands: argparse._SubParsersAction) -> None:
    text = (
        "Measure, print a table, append records. Start with `krylearn bench solvers --quick`: which solver for which "
        "system on this machine. Your own matrix: `krylearn bench solvers --matrix A.mtx --shape NX NY NZ`."
    )
    bench = commands.add_parser("bench", help="measure, print a table, append records", description=text)

    def listing(options: argparse.Namespace) -> int:
        bench.print_help()
        return 0

    bench.set_defaults(run=listing, command="bench")
    experiments = bench.add_subparsers(title="experiments", metavar="EXPERIMENT")
    text = "iterations on every scene family: geometric, resistor, tuned, learned"
    add = _command(experiments, "families", _families, text).add_argument
    add("--size", type=int, default=64, help="cells per axis")
    add("--dim", type=int, choices=(2, 3), default=3, help="number of axes")
    add("--seeds", type=int, default=5, help="scenes per family, of the test stream")
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
    add = _command(experiments, "headline", _headline, text).add_argument
    add("--size", type=int, default=128, help="cells per axis")
    add("--family", default="free_surface", help="scene family")
    add("--rtol", type=float, default=1e-8, help="tolerance on the true relative residual")
    add("--pairs", type=int, default=3, help="timed pairs, of which the median counts")
    add("--weights", type=_weights, help=WEIGHTS)
    add("--records", type=Path, help="file to append to (default: headline.jsonl in bench/studies/records)")
    text = "every check and benchmark of the CUDA kernels in one go; needs a CUDA device, or --interpret"
    add = _command(experiments, "cuda", _cuda, text).add_argument
    add("--size", type=int, nargs="+", metavar="N", help="cells per axis (default: 128 256 384 512; interpreted: 16)")
    add("--rtol", type=float, nargs="+", help="tolerances on the true relative residual (default: 1e-6 and 1e-10)")
    add("--minutes", type=float, default=9.0, help="no new case is begun after so many")
    add("--interpret", action="store_true", help="run the kernels on the CPU, by Triton's interpreter: no time is kept")
    add(
        "--records",
        type=Path,
        help="file to append to (default: cuda.jsonl in bench/studies/records; interpreted: none)",
    )
    add_commands(experiments, _command)
    add_bench_curvature(experiments, _command)


def _families(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..solvers.families import run_families

    output = options.records or records_of("families" if options.dim == 3 else "families_2d")
    facts = {name: getattr(options, name) for name in ("dim", "families", "methods")}
    facts |= {"kind": options.rhs, "output": output}
    run_families(options.size, options.seeds, **facts)
    return 0


def _headline(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..solvers.headline import run_headline

    output = options.records or records_of("headline")
    facts = {name: getattr(options, name) for name in ("family", "rtol", "pairs", "weights")}
    run_headline(options.size, output=output, **facts)
    return 0


def _cuda(options: argparse.Namespace) -> int:
    from ..report.readme import records_of
    from ..solvers.cuda import run_cuda

    output = options.records or (None if options.interpret else records_of("cuda"))
    facts = {"interpret": options.interpret, "minutes": options.minutes, "output": output}
    return run_cuda(options.size, tolerances=options.rtol, **facts)


def _add_report(commands: argparse._SubParsersAction) -> None:
    text = "write the tables of README and docs, and docs/images, again from the committed records"
    add = _command(commands, "report", _report, text).add_argument
    add("--check", action="store_true", help="change nothing; exit with 1 if a page differs from the records")
    add("--html", type=Path, help="instead: write a self-contained page about the last run of a record file")
    add("--records", type=Path, default=Path("krylearn-records/solvers.jsonl"), help="of the page")
    add("--before", type=Path, help="older records: the page says what changed beyond the noise")
    add("--png", type=Path, help="folder that gets the page's figures as files too")


def _report(options: argparse.Namespace) -> int:
    if options.html:
        from ..report.html import write_page

        write_page(options.html, options.records, before=options.before, pictures=options.png)
        return 0
    from ..report.readme import write_report

    return write_report(check=options.check)


def _add_spectrum(commands: argparse._SubParsersAction) -> None:
    add_spectrum(commands, _command)


def _add_warmup(commands: argparse._SubParsersAction) -> None:
    _command(commands, "warmup", _warmup, "compile the kernels now, so that the first solve need not")


def _warmup(options: argparse.Namespace) -> int:
    from .warmup import warmup

    warmup()
    return 0
