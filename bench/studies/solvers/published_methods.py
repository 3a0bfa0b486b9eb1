"""`krylearn study published`: the published learned methods beside what they compete with, costs of training included.

Closed boxes with obstacles (family "neumann", test stream): pure Neumann systems, on which the deep conjugate direction
method was published, with obstacles that its network never saw. Every method stops by the same rule, ‖b - Ax‖ <= rtol
‖b‖ with b - Ax computed. Set-up and solve are apart; the median over the scenes counts. A method whose weights were
trained also has the hours, and the number of solves after which they pay against plain CG and against the fastest
method that needs no training: it may well be never.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import DCDM, NPSDO, NeuralMultigrid, cg, dcdm
from krylearn.solvers.multigrid.weight_files import card_of

from ...measure.console import console, progress, table
from ...measure.record import Record, append, new_run
from ...measure.timers import peak_bytes
from ...measure.timing import iterations_to, timed, true_relative_residual
from ...rivals.loops import LibraryLoop, System
from ...rivals.petsc import one_rank
from ...rivals.table import PEERS, PETSC, Peer
from ...solvers.contest import compressed, relative, rival
from .published_table import COUNTS, HEADER, counted, groups, rows, title

PUBLISHED, MULTIGRID = "krylearn.solvers.published", "krylearn.solvers.multigrid"  # who ships the weights
FAMILY = "neumann"
SIZES, SEEDS = (32, 64), 2
MAXITER = 1000
PATIENCE = 150  # directions from a network: what takes more is of no use to anybody


class Method(NamedTuple):
    """One of ours: its name and words, what sets it up, who solves, and the shipped weights, if it has any."""

    name: str
    config: str
    setup: Callable[[Poisson], Any]
    by: str = "cg"
    weights: str = ""


def _multigrid(weights: str | None, A: Poisson) -> NeuralMultigrid:
    return NeuralMultigrid(A, weights=weights)


def _larger(A: Poisson) -> DCDM:
    return DCDM(A, size=128)


def _symmetric(A: Poisson) -> NPSDO:
    return NPSDO(A, symmetric=True)


METHODS = (
    Method("krylearn CG", "cg, no preconditioner", lambda A: "none"),
    Method("krylearn geometric", "cg, V-cycle by the geometric rule", partial(_multigrid, "geometric")),
    Method("krylearn resistor", "cg, V-cycle by the resistor rule", partial(_multigrid, "resistor")),
    Method("krylearn tuned", "cg, V-cycle with the best constants", partial(_multigrid, "tuned"), "cg", "3d-tuned-v1"),
    Method("krylearn NeuralMultigrid", "cg, learned V-cycle", partial(_multigrid, None), "cg", "3d-network-v1"),
    Method("DCDM 64", "dcdm, window 2, DCDMNetwork(64) in float32", DCDM, "dcdm", "dcdm-3d-64-v1"),
    Method("DCDM 128", "dcdm, window 2, DCDMNetwork(128) in float32", _larger, "dcdm", "dcdm-3d-128-v1"),
    Method("NPSDO", "dcdm, window 2, NPSDONetwork(4), stencils kept", NPSDO, "dcdm", "npsdo-3d-v1"),
    Method("NPSDO symmetric", "cg, NPSDONetwork(4), tied", _symmetric, "cg", "npsdo-3d-symmetric-v1"),
)


def petsc_icc(system: System) -> LibraryLoop:
    """PETSc's incomplete Cholesky factors without fill, under its own conjugate gradients."""
    return one_rank(system, {"pc_type": "icc"})


RIVALS = (
    PEERS["scipy-cg"],
    PEERS["scipy-cg-jacobi"],
    PEERS["scipy-cg-ilu"],
    Peer("petsc-icc", "PETSc cg, ICC(0)", "petsc4py", petsc_icc, install=PETSC),
    PEERS["pyamg-sa"],
    PEERS["pyamg-rs"],
)


def ours(
    method: Method,
    A: Poisson,
    b: Any,
    *,
    rtol: float,
    seed: int = 0,
    repeats: int = 1,
    counts: bool = False,
    problem: str = FAMILY,
) -> Record:
    """Set one of ours up and solve, timed apart; with `counts`, once and without a clock.

    Examples
    --------
    >>> A = scene("neumann", (8, 8, 8), 0)
    >>> ours(METHODS[0], A, right_hand_side(A), rtol=1e-4, counts=True).status
    'CONVERGED'
    """
    peak = None
    if not counts:  # also the warm-up
        peak = peak_bytes(lambda: solve(method, A, b, method.setup(A), rtol))[0]
    setup, M = timed(partial(method.setup, A), repeats=repeats, warmup=0)
    timing, (x, info) = timed(partial(solve, method, A, b, M, rtol), repeats=repeats, warmup=0)
    record = Record(
        method=method.name, problem=problem, unknowns=A.unknowns, tolerance=rtol, status=info.reason.name,
        experiment="published", config=method.config, seed=seed, shape=A.grid_shape,
        setup_s=None if counts else setup.median, solve_s=None if counts else timing.median, repeats=repeats,
        iterations=iterations_to(info.residuals, rtol), products=info.matvecs,
        true_relres=true_relative_residual(A, x, b), peak_bytes=peak,
        more={"residuals": relative(info.residuals), "count": info.iterations, "notes": list(info.notes)},
    )  # fmt: skip
    if method.weights:
        card = card_of(method.weights, PUBLISHED if method.weights.startswith(("dcdm", "npsdo")) else MULTIGRID)
        hours = card.get("cpu_hours", card["hours"]) + card.get("basis_hours", 0.0)
        record.more |= {"weights": method.weights, "training_hours": round(hours, 3)}
    return record


def solve(method: Method, A: Poisson, b: Any, M: Any, rtol: float) -> Any:
    """Solve by `dcdm` or `cg` with what was set up."""
    if method.by == "dcdm":
        return dcdm(A, b, M, rtol=rtol, maxiter=PATIENCE)
    return cg(A, b, M=M, rtol=rtol, maxiter=MAXITER)


def run_published(
    sizes: Sequence[int] = SIZES,
    seeds: int = SEEDS,
    *,
    families: Sequence[str] = (FAMILY,),
    kinds: Sequence[str] = ("white",),
    methods: Sequence[str] | None = None,
    rtol: float = 1e-4,
    repeats: int = 1,
    counts: bool = False,
    output: Path,
) -> list[Record]:
    """Measure all methods, append the records, print the tables.

    Parameters
    ----------
    sizes : cells per axis;  seeds : scenes per size, of the test stream
    families, kinds : of scenes and right-hand sides, as in `krylearn.pde.scene` and `right_hand_side`
    methods : names, ours or rivals'; None for all
    rtol : the tolerance of every method, 1e-4 as published
    repeats : timed solves per scene
    counts : iterations of ours only, nothing timed
    output : Path; file of records

    Examples
    --------
    >>> run_published((32, 64), output=Path("published.jsonl"))         # doctest: +SKIP
    """
    chosen = [m for m in METHODS if not methods or m.name in methods]
    peers = [] if counts else [p for p in RIVALS if not methods or p.name in methods]
    places = list(product(families, kinds, sizes, range(seeds)))
    for method in chosen:  # compilers and libraries are loaded before anything is measured
        ours(method, scene(FAMILY, (8, 8, 8), 0), right_hand_side(scene(FAMILY, (8, 8, 8), 0)).numpy(), rtol=rtol)
    run, records = new_run(), []
    with progress() as bar:
        task = bar.add_task("published", total=len(places) * (len(chosen) + len(peers)), note="")
        for family, kind, size, seed in places:
            A = scene(family, (size,) * 3, seed)
            b = right_hand_side(A, kind, seed).numpy()
            found: list[Record] = []
            for method in chosen:
                bar.update(task, note=f"{family} {size}³, seed {seed}, {method.name}")
                found.append(ours(method, A, b, rtol=rtol, seed=seed, repeats=repeats, counts=counts, problem=family))
                bar.advance(task)
            for peer in peers:
                bar.update(task, note=f"{family} {size}³, seed {seed}, {peer.name}")
                found.append(theirs(peer, A, b, rtol=rtol, seed=seed, repeats=repeats, problem=family))
                bar.advance(task)
            for record in found:
                record.more |= {"run": run, "rhs": kind}
            records += found
    append(output, records)
    show([record.line() for record in records], counts)
    return records


def theirs(peer: Peer, A: Poisson, b: Any, *, rtol: float, seed: int, repeats: int, problem: str) -> Record:
    """Set a rival up and solve, timed apart, by the same rule."""
    matrix, rhs, _ = compressed(A, b)
    facts: dict[str, Any] = {"problem": problem, "experiment": "published", "seed": seed, "shape": A.grid_shape}
    return rival(peer, System(matrix, A), rhs, None, rtol=rtol, pairs=repeats, **facts)


def show(lines: Sequence[dict], only_counts: bool) -> None:
    """Print the tables."""
    if only_counts:
        console.print(table("iterations", COUNTS, counted(lines)))
        return
    for found in groups(lines):
        console.print(table(title(found), HEADER, rows(found)))
