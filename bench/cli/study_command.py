"""`krylearn study NAME`: the evidence behind the pages, repeated in a checkout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import HERE, Run, add_command, add_group, check_count, check_tolerance

TRAINING_STAGES = ("tuner", "grid", "rivals", "seeds", "robustness", "ablation")


def add_to(commands: Any) -> None:
    """Describe `krylearn study`.

    Examples
    --------
    >>> add_to(argparse.ArgumentParser().add_subparsers())
    """
    text = "The evidence behind the pages, in a checkout of the repository: what `krylearn report` makes tables of."
    studies = add_group(commands, "study", "repeat a study of the pages (in a checkout)", text, "studies", "NAME")
    text = "what learning is worth in seconds: four sets of weights in the same kernels, every family"
    add = _add_study(studies, "rules", _rules, text).add_argument
    add("--size", type=check_count, default=128, help="cells per axis")
    add("--families", nargs="+", metavar="FAMILY", help="scene families (default: all)")
    add("--records", type=Path, help="file to append to (default: rules.jsonl in bench/studies/records)")
    text = "what limits the cycle: iterations with parts of it replaced by better ones, hard families"
    add = _add_study(studies, "ablations", _ablations, text).add_argument
    add("--size", type=check_count, default=32, help="cells per axis; the cycles are assembled as matrices")
    add("--seeds", type=check_count, default=2, help="scenes per family, of the test stream")
    add("--families", nargs="+", metavar="FAMILY", help="scene families (default: the hard ones)")
    add("--records", type=Path, help="file to append to (default: ablations.jsonl in bench/studies/records)")
    text = "iterations with grid levels and with pieces, scene families and systems of real codes, PyAMG beside them"
    add = _add_study(studies, "coarsenings", _coarsenings, text).add_argument
    add("--sizes", type=check_count, nargs="+", default=[64], metavar="N", help="cells per axis, one or more")
    add("--dim", type=int, choices=(2, 3), default=3, help="axes")
    add("--seeds", type=check_count, default=5, help="systems per name, of the test stream")
    add("--systems", nargs="+", metavar="NAME", help="scene families and field cases (default: all)")
    add("--methods", nargs="+", metavar="METHOD", help="columns of the table, as they are called there (default: all)")
    add("--again", action="store_true", help="measure once more what the last run holds; otherwise it is continued")
    add("--fresh", action="store_true", help="begin a new run")
    add("--records", type=Path, help="file to append to (default: coarsenings.jsonl in bench/studies/records)")
    text = (
        "what learning adds on pieces: the rule, trained constants, the trained network, another threshold; and seconds"
    )
    add = _add_study(studies, "steps", _steps, text).add_argument
    add("--size", type=check_count, default=32, help="cells per axis")
    add("--seeds", type=check_count, default=3, help="systems per name, of the test stream")
    add("--systems", nargs="+", metavar="NAME", help="scene families and field cases (default: all)")
    add("--records", type=Path, help="file to append to (default: steps.jsonl in bench/studies/records)")
    text = "other people's packages: their default, their fastest own mode, ours; in an environment that has them"
    add = _add_study(studies, "integrations", _integrations, text).add_argument
    add("--packages", nargs="+", metavar="PACKAGE", help="names as pip has them (default: all that are installed)")
    add("--jobs", type=check_count, default=1, help="packages at the same time; processor time is measured")
    add(
        "--limit", type=float, default=120.0, help="processor seconds of a direct method on a large grid (default: 120)"
    )
    add("--records", type=Path, help="file to append to (default: integrations.jsonl in bench/studies/records)")
    text = "ours beside GAMG, BoomerAMG and PFMG on several ranks, under mpirun: times, memory, messages"
    add = _add_study(studies, "ranks", _ranks, text).add_argument
    add("--size", type=check_count, default=96, help="cells per axis")
    add("--repeats", type=check_count, default=4, help="runs per method, of which the fastest counts")
    add("--systems", nargs="+", metavar="NAME", help="scene families and field cases (default: four)")
    add("--methods", nargs="+", metavar="METHOD", help='names as in the table, for example krylearn "PETSc GAMG"')
    add("--records", type=Path, help="file to append to (default: ranks.jsonl in bench/studies/records)")
    text = "a moving obstacle, set up anew at every step: ours against PyAMG"
    add = _add_study(studies, "sequence", _sequence, text).add_argument
    add("--size", type=check_count, default=96, help="cells per axis")
    add("--steps", type=check_count, default=50, help="systems")
    add("--records", type=Path, help="file to append to (default: sequence.jsonl in bench/studies/records)")
    text = "what a starting guess made of earlier solutions saves in sequences of fluid steps"
    add = _add_study(studies, "warmstarts", _warm_starts, text).add_argument
    add("--shape", type=check_count, nargs=3, default=[48, 40, 56], metavar=("NX", "NY", "NZ"), help="grid, z up")
    add("--steps", type=check_count, default=50, help="steps of each sequence, of which the first ten do not count")
    add("--records", type=Path, help="file to append to (default: warmstarts.jsonl in bench/studies/records)")
    text = "the published learned methods beside classical ones: iterations, times, memory, what training costs"
    add = _add_study(studies, "published", _published, text).add_argument
    add("--size", type=check_count, nargs="+", default=[32, 64], metavar="N", help="cells per axis, one or more")
    add("--seeds", type=check_count, default=2, help="scenes per size, of the test stream")
    add("--families", nargs="+", default=["neumann"], metavar="FAMILY", help="scene families")
    kinds = ("white", "divergence", "points")
    add("--rhs", nargs="+", choices=kinds, default=["white"], help="right-hand sides")
    add("--rtol", type=check_tolerance, default=1e-4, help="tolerance on the true relative residual, of every method")
    add("--methods", nargs="+", metavar="METHOD", help='names as in the table, for example "krylearn CG" DCDM')
    add("--repeats", type=check_count, default=1, help="timed solves per scene")
    add("--counts", action="store_true", help="only iterations, nothing timed; records go to publishedcounts.jsonl")
    add("--records", type=Path, help="file to append to (default: published.jsonl in bench/studies/records)")
    text = "top eigenvalue and density of Hessians against PyHessian, curvlinops, hessian-eigenthings, at equal error"
    add = _add_study(studies, "curvature", _curvature, text).add_argument
    add("--quick", action="store_true", help="smaller networks, fewer seeds and pairs")
    add("--records", type=Path, help="file to append to (default: curvature.jsonl)")
    text = "the best lr at batch sizes 16 to 1024, measured on three small tasks, against every scaling rule"
    add = _add_study(studies, "batch-scaling", _batch_scaling, text).add_argument
    tasks = ("digits", "waves", "characters", "textures", "pointers", "mixture")
    add("--tasks", nargs="+", metavar="TASK", choices=tasks, help="default: the first three; the others judge `auto`")
    add("--methods", nargs="+", metavar="METHOD", choices=("sgd", "adamw"), help="default: both")
    add(
        "--sizes",
        type=check_count,
        nargs="+",
        metavar="B",
        help="batch sizes, the base 128 among them (all seven)",
    )
    add("--seeds", type=int, nargs="+", metavar="SEED", help="of initial parameters and order (default: three)")
    add("--fresh", action="store_true", help="begin a new run; otherwise the last one is continued where it was")
    add("--records", type=Path, help="file to append to (default: batch_scaling.jsonl in bench/studies/records)")
    add("--png", type=Path, help="also draw the optima and the rules into this file")
    text = "ten small workloads: the tuner against 15-point grids and learning-rate-free rivals; resumable"
    add = _add_study(studies, "training", _training, text).add_argument
    add("--workloads", nargs="+", metavar="WORKLOAD", help="names (default: all ten)")
    add("--stages", nargs="+", choices=TRAINING_STAGES, help="default: all six")
    add("--quick", action="store_true", help="only the quadratic, and only the tuner; a database of its own")
    add("--trace", type=Path, metavar="PNG", help="only draw lr, loss and sharpness of one run into this file")
    add("--database", type=Path, help="of runs; what it holds is not run again (default: bench/studies/records/runs)")
    add("--records", type=Path, help="file for the summary (default: training.jsonl in bench/studies/records)")
    text = "what the tuner costs: an idle step by number of groups, whole runs on models of half a millisecond"
    add = _add_study(studies, "overhead", _overhead, text).add_argument
    add("--steps", type=check_count, default=2000, help="of a run")
    add("--pairs", type=check_count, default=5, help="of runs, with and without the tuner")
    add("--records", type=Path, help="file to append to (default: overhead.jsonl in bench/studies/records)")
    text = "Muon and AdamW in one run, both lrs learned, against a grid over both; resumable"
    add = _add_study(studies, "two-scales", _two_scales, text).add_argument
    add("--database", type=Path, help="of runs; what it holds is not run again (default: bench/studies/records/runs)")
    add("--records", type=Path, help="file for the summary (default: two_scales.jsonl in bench/studies/records)")


def _add_study(studies: Any, name: str, run: Run, text: str) -> argparse.ArgumentParser:
    """Describe a study that says where it is to be had if it is not here: the wheel leaves `bench/studies` out."""

    def run_in_checkout(options: argparse.Namespace) -> int:
        from importlib.util import find_spec

        from ..measure.console import UsageError

        if find_spec("krylearn.bench.studies") is None:
            raise UsageError("studies are not installed; run this in a checkout of the repository (pip install -e .)")
        return run(options)

    return add_command(studies, name, run_in_checkout, text)


def _integrations(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.integrations.compare import run_integrations

    output = options.records or records_of("integrations")
    run_integrations(options.packages, jobs=options.jobs, limit=options.limit, output=output)
    return 0


def _warm_starts(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.solvers.warm_starts import run_warm_starts

    output = options.records or records_of("warmstarts")
    run_warm_starts(shape=tuple(options.shape), steps=options.steps, output=output)
    return 0


def _published(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.solvers.published_methods import run_published

    output = options.records or records_of("publishedcounts" if options.counts else "published")
    facts = {name: getattr(options, name) for name in ("methods", "families", "rtol", "repeats", "counts")}
    run_published(options.size, options.seeds, kinds=options.rhs, output=output, **facts)
    return 0


def _rules(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.solvers.rules import run_rules

    run_rules(options.size, families=options.families, output=options.records or records_of("rules"))
    return 0


def _ablations(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.solvers.cycle_ablations import run_ablations

    output = options.records or records_of("ablations")
    run_ablations(options.size, options.seeds, families=options.families, output=output)
    return 0


def _steps(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.solvers.learned_steps import run_steps

    output = options.records or records_of("steps")
    run_steps(options.size, options.seeds, systems=options.systems, output=output)
    return 0


def _coarsenings(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.solvers.coarsenings import run_coarsenings

    output = options.records or records_of("coarsenings")
    names = ("dim", "systems", "methods", "again", "fresh")
    run_coarsenings(options.sizes, options.seeds, output=output, **{name: getattr(options, name) for name in names})
    return 0


def _ranks(options: argparse.Namespace) -> int:
    from krylearn.solvers.distributed.petsc_library import ending_all_ranks, world

    from ..measure.record import records_of
    from ..studies.solvers.rank_contest import run_contest

    names = ("systems", "methods")
    given = {name: getattr(options, name) for name in names}
    with ending_all_ranks(world(), "krylearn study ranks"):
        run_contest(options.size, options.repeats, output=options.records or records_of("ranks"), **given)
    return 0


def _sequence(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.solvers.sequence import run_sequence

    run_sequence(options.size, options.steps, output=options.records or records_of("sequence"))
    return 0


def _batch_scaling(options: argparse.Namespace) -> int:
    from ..measure.console import UsageError
    from ..measure.record import records_of
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
    from ..measure.record import records_of
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


def _overhead(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.tuner.overhead import run_overhead

    run_overhead(output=options.records or records_of("overhead"), steps=options.steps, pairs=options.pairs)
    return 0


def _two_scales(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.tuner.two_scales import run_two_scales

    here = records_of("two_scales")
    run_two_scales(options.database or here.parent / "runs" / "two_scales.jsonl", options.records or here)
    return 0


def _curvature(options: argparse.Namespace) -> int:
    from ..measure.record import records_of
    from ..studies.curvature.compare import run_curvature

    usual = HERE / "curvature.jsonl" if options.quick else records_of("curvature")
    run_curvature(quick=options.quick, output=options.records or usual)
    return 0
