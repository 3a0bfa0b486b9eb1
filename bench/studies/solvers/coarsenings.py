"""`krylearn study coarsenings`: iterations to 1e-6 and 1e-8 with grid levels and with pieces, families and field cases.

The rules and the network on levels that are grids, pieces without a learned number, the default that chooses between
network and pieces, and PyAMG's Ruge-Stuben and smoothed aggregation as shipped. Both tolerances are read off one solve.
Right-hand sides are white noise; of images A times white noise, since there rounding of b would decide.

A run is continued where it was: what the last run of the file holds is not measured again, unless asked to, and then
the last measurement counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels.cpu.traffic import cost_of

from ...measure.console import console, count, progress, table
from ...measure.record import Record, append, latest, new_run, read
from ...measure.timing import iterations_to, true_relative_residual
from ...rivals.loops import ScipyLoop
from ...solvers.families import mean_iterations

WEIGHTS: dict[str, str | None] = {
    "geometric": "geometric", "resistor": "resistor", "tuned": "tuned", "network": "network",
    "pieces": "untrained pieces",
    "default": None,
}  # fmt: skip
AMG = ("pyamg-rs", "pyamg-sa")
METHODS = (*WEIGHTS, *AMG)
TOLERANCES = (1e-6, 1e-8)
HEADER = ("system", *METHODS)
LIMIT = 300


def build(name: str, shape: tuple[int, ...], seed: int) -> tuple[Poisson, Any]:
    """Return a system of the test stream and its right-hand side.

    Examples
    --------
    >>> build("image_30", (6, 6), 0)[0].grid_shape
    (6, 6)
    """
    A = scene(name, shape, seed) if name in FAMILIES else field_case(name, shape, seed)
    b = right_hand_side(A, "white", seed)
    return A, A @ b if "image" in name else b


def measure(name: str, shape: tuple[int, ...], seed: int, method: str) -> list[Record]:
    """Solve one system by one method; one record per tolerance.

    Examples
    --------
    >>> [r.status for r in measure("open_box", (8, 8, 8), 0, "pieces")]
    ['CONVERGED', 'CONVERGED']
    """
    A, b = build(name, shape, seed)
    facts: dict[str, Any] = {"experiment": "coarsenings", "seed": seed, "shape": shape}
    if method in AMG:
        import pyamg

        matrix = A.matrix(unknowns=True)
        b = np.asarray(b).reshape(-1)[np.asarray(A.unknown).reshape(-1)]
        make = pyamg.ruge_stuben_solver if method == "pyamg-rs" else pyamg.smoothed_aggregation_solver
        watched = ScipyLoop(matrix, make(matrix).aspreconditioner(), LIMIT).watch(b, TOLERANCES[-1], math.inf)
        residuals, relres = tuple(watched.residuals), true_relative_residual(matrix, watched.x, b)
        more: dict[str, Any] = {}
        config = "as shipped, rhs white"
    else:
        M = NeuralMultigrid(A, WEIGHTS[method])
        x, info = cg(A, b, rtol=TOLERANCES[-1], maxiter=LIMIT, M=M)
        residuals, relres = info.residuals, true_relative_residual(A, x, b)
        config = f"{'pieces' if M.uses_pieces else 'grids'}, {M.info.precision}, rhs white"
        more = {name: round(value, 2) for name, value in cost_of(M.fused)._asdict().items()}
    records = []
    for rtol in TOLERANCES:
        taken = iterations_to(residuals, rtol)
        met = taken is not None and math.isfinite(taken) and relres <= rtol
        status = "CONVERGED" if met else "MAXITER"
        records.append(
            Record(label_of(method), name, A.unknowns, rtol, status, config=config, more=dict(more),
                   iterations=taken if met else None, true_relres=relres, **facts)
        )  # fmt: skip
    return records


def run_coarsenings(
    sizes: Sequence[int] = (64,),
    seeds: int = 5,
    *,
    dim: int = 3,
    systems: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    again: bool = False,
    fresh: bool = False,
    output: Path,
) -> None:
    """Measure what the last run lacks, seed by seed, append every record as it comes, print the tables.

    Parameters
    ----------
    sizes : cells per axis
    systems, methods : names; None: all
    again : measure what is there once more; fresh : begin a new run

    Examples
    --------
    >>> run_coarsenings((64, 128), output=Path("coarsenings.jsonl"))           # doctest: +SKIP
    """
    names, wanted = list(systems or (*FAMILIES, *FIELD_CASES)), list(methods or METHODS)
    before = [] if fresh else latest(read(output))
    run = before[-1]["more"]["run"] if before else new_run()
    there: set[tuple[Any, ...]] = set() if again else {key(line)[:4] for line in before}
    todo = [
        (name, (size,) * dim, seed, method)
        for seed in range(seeds) for size in sizes for name in names for method in wanted
        if (label_of(method), name, (size,) * dim, seed) not in there
    ]  # fmt: skip
    with progress() as bar:
        task = bar.add_task("coarsenings", total=len(todo), note="")
        for name, shape, seed, method in todo:
            bar.update(task, note=f"{name}, {shape[0]}^{len(shape)}, seed {seed}, {method}")
            found = measure(name, shape, seed, method)
            for record in found:
                record.more["run"] = run
            append(output, found)
            bar.advance(task)
    lines = latest(read(output))
    for _, own in by_shape(lines):
        console.print(table(title(own), *measured(own)))
    if growth(lines):
        console.print(table("iterations by size", *growth_table(lines)))


def label_of(method: str) -> str:
    """Return what records call a method.

    Examples
    --------
    >>> label_of("pieces"), label_of("pyamg-rs")
    ('krylearn pieces', 'pyamg-rs')
    """
    return method if method in AMG else f"krylearn {method}"


def key(line: dict[str, Any]) -> tuple[str, str, tuple[int, ...], int, float]:
    """Return what a record measured: method, system, shape, seed, tolerance.

    Examples
    --------
    >>> key({"method": "m", "problem": "p", "shape": [8, 8], "seed": 0, "tolerance": 1e-6})
    ('m', 'p', (8, 8), 0, 1e-06)
    """
    return line["method"], line["problem"], tuple(line["shape"]), line["seed"], line["tolerance"]


def by_shape(lines: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[int, ...], list[dict[str, Any]]]]:
    """Yield the shapes of a run and their records, of each measurement the last one.

    Examples
    --------
    >>> line = {"method": "m", "problem": "p", "shape": [8, 8], "seed": 0, "tolerance": 1e-6}
    >>> list(by_shape([line | {"iterations": 7}, line | {"iterations": 6}]))[0][1][0]["iterations"]
    6
    """
    last = {key(line): line for line in lines}
    for shape in sorted({k[2] for k in last}, key=lambda s: (-len(s), s)):
        yield shape, [line for k, line in last.items() if k[2] == shape]


def title(lines: Sequence[dict[str, Any]]) -> str:
    """Say what the records of one shape hold.

    Examples
    --------
    >>> title([{"shape": [8, 8], "seed": 0, "method": "m", "problem": "p"}])
    'Iterations to 1e-06 / 1e-08, 8 x 8, means over 1 seed of the test stream'
    """
    grid, tolerances = " x ".join(map(str, lines[0]["shape"])), " / ".join(f"{rtol:g}" for rtol in TOLERANCES)
    seeds: dict[tuple[str, str], set[int]] = {}
    for line in lines:
        seeds.setdefault((line["method"], line["problem"]), set()).add(line["seed"])
    numbers = sorted({len(s) for s in seeds.values()})
    several = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return f"Iterations to {tolerances}, {grid}, means over {several} seed{'s' * (numbers[-1] > 1)} of the test stream"


def summary(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Mean iterations to both tolerances per system and method, as rows of text.

    A failure on any seed shows as "-", and nothing where nobody has measured.

    Examples
    --------
    >>> line = {"problem": "mazes", "method": "krylearn pieces", "iterations": 9.0, "status": "CONVERGED"}
    >>> summary([line | {"tolerance": 1e-6}, line | {"tolerance": 1e-8}])[0][4:6]
    ['', '9.0 / 9.0']
    """
    rows, there = [], {(line["problem"], line["method"]) for line in lines}
    for name in in_order(lines):
        pairs = [[mean_of(lines, name, label_of(method), rtol) for rtol in TOLERANCES] for method in METHODS]
        ran = [(name, label_of(method)) in there for method in METHODS]
        rows.append(
            [name, *(" / ".join(map(count, pair)) if some else "" for pair, some in zip(pairs, ran, strict=True))]
        )
    return rows


def measured(lines: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of `summary` without the methods that nobody has run.

    Examples
    --------
    >>> line = {"problem": "mazes", "method": "krylearn pieces", "iterations": 9.0, "status": "CONVERGED"}
    >>> measured([line | {"tolerance": 1e-6}, line | {"tolerance": 1e-8}])
    (['system', 'pieces'], [['mazes', '9.0 / 9.0']])
    """
    there = {line["method"] for line in lines}
    kept = [0, *(1 + k for k, method in enumerate(METHODS) if label_of(method) in there)]
    return [HEADER[k] for k in kept], [[row[k] for k in kept] for row in summary(lines)]


def in_order(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the systems of some records in the order of the manifests.

    Examples
    --------
    >>> in_order([{"problem": "ocean"}, {"problem": "mazes"}, {"problem": "ocean"}])
    ['mazes', 'ocean']
    """
    there = {line["problem"] for line in lines}
    return [name for name in (*FAMILIES, *FIELD_CASES) if name in there]


def mean_of(lines: Sequence[dict[str, Any]], name: str, label: str, rtol: float) -> float | None:
    """Return the mean iterations of a method on a system over the seeds; None where one failed.

    Examples
    --------
    >>> line = {"problem": "p", "method": "m", "tolerance": 1e-6, "iterations": 9.0, "status": "CONVERGED"}
    >>> mean_of([line], "p", "m", 1e-6)
    9.0
    """
    own = [line for line in lines if (line["problem"], line["method"], line["tolerance"]) == (name, label, rtol)]
    return mean_iterations(own)


def costs_table(lines: Sequence[dict[str, Any]], label: str = "krylearn pieces") -> tuple[list[str], list[list[str]]]:
    """Return header and rows: what a cycle over pieces costs per system, means over the seeds of the largest 3D grid.

    Examples
    --------
    >>> line = {"method": "m", "problem": "mazes", "seed": 0, "tolerance": 1e-6, "shape": (8, 8, 8)}
    >>> costs_table([line | {"more": {"moved": 180.0, "kept": 90.0, "steps": 1.25}}], "m")[1]
    [['mazes', '180', '90', '1.25']]
    """
    own = [x for x in lines if x["method"] == label and len(x["shape"]) == 3 and "moved" in x["more"]]
    parts = [part for _, part in by_shape(own)]
    rows = []
    for name in in_order(parts[-1]) if parts else []:
        found = [x["more"] for x in parts[-1] if x["problem"] == name]
        moved, kept, steps = (sum(x[k] for x in found) / len(found) for k in ("moved", "kept", "steps"))
        rows.append([name, f"{moved:.0f}", f"{kept:.0f}", f"{steps:.2f}"])
    return ["system", "bytes moved per cell", "bytes kept per cell", "smoothing, steps of the finest level"], rows


def growth(lines: Sequence[dict[str, Any]], label: str = "krylearn default") -> dict[str, list[float | None]]:
    """Return mean iterations to the first tolerance per size, of the systems in 3D that all sizes have; {} of one size.

    Only seeds that every size has: means over different seeds are not comparable.

    Examples
    --------
    >>> line = {"method": "m", "problem": "mazes", "seed": 0, "tolerance": 1e-6, "status": "CONVERGED"}
    >>> growth([line | {"shape": (n,) * 3, "iterations": float(n)} for n in (8, 16)], "m")
    {'mazes': [8.0, 16.0]}
    """
    shapes = [(shape, own) for shape, own in by_shape(lines) if len(shape) == 3]
    parts = [[x for x in own if (x["method"], x["tolerance"]) == (label, TOLERANCES[0])] for _, own in shapes]
    parts = [own for own in parts if own]
    if len(parts) < 2:
        return {}
    found: dict[str, list[float | None]] = {}
    for name in in_order(parts[0]):
        seeds = set.intersection(*({x["seed"] for x in own if x["problem"] == name} for own in parts))
        if seeds:
            chosen = [[x for x in own if x["seed"] in seeds] for own in parts]
            found[name] = [mean_of(own, name, label, TOLERANCES[0]) for own in chosen]
    return found


def growth_table(lines: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: iterations of the default per size, and how much the largest takes more than the first.

    Examples
    --------
    >>> growth_table([])
    (['system', 'last / first'], [])
    """
    label, rtol = "krylearn default", TOLERANCES[0]
    mine = [x for x in lines if (x["method"], x["tolerance"]) == (label, rtol)]
    sizes = sorted({x["shape"][0] for x in mine if len(x["shape"]) == 3})
    rows = []
    for name, means in growth(lines).items():
        first, last = means[0], means[-1]
        ratio = "-" if first is None or last is None else f"{last / first:.2f}"
        rows.append([name, *map(count, means), ratio])
    return ["system", *(f"{n}³" for n in sizes), "last / first"], rows
