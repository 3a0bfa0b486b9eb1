"""`krylearn study curvature`: top eigenvalue and density of Hessians against other libraries, in one run.

Two questions, each at equal error. Top eigenvalue: how long until every seed's relative error is at most 1 % and 0.1 %?
Density: a rival makes 80 products and reaches an error, the Wasserstein distance of its nodes to the true spectrum,
which is known in full; how long do we take to an error that is no larger? The smallest sufficient number of products is
looked up first, for each library from its own runs; then both are timed in turns, operator and all.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from krylearn.optim import Spectrum, slq

from ...measure.console import console, progress, table
from ...measure.machine import version_of
from ...measure.record import Record, append, new_run
from ...measure.timing import Pair, paired, timed
from .libraries import FRACTIONS, LIBRARIES, CurvatureLibrary, our_operator
from .models import CASES, Case, make_case
from .table import HEADER, rows

LADDER = (
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    12,
    14,
    16,
    20,
    24,
    28,
    32,
    40,
    48,
    56,
    64,
    80,
)  # numbers of products that are tried
TARGETS = (1e-2, 1e-3)
PRODUCTS, SEEDS = 80, 5


@dataclass
class Run:
    """What a run is made with: its name, pairs to time, seeds, and the records so far."""

    name: str
    pairs: int
    seeds: int
    records: list[Record] = field(default_factory=list)


def rounded(value: float) -> float:
    """Keep four digits: records are for reading.

    Examples
    --------
    >>> rounded(0.123456)
    0.1235
    """
    return float(f"{value:.4g}")


def wasserstein(values: np.ndarray, weights: np.ndarray, case: Case) -> float:
    """Return the Wasserstein distance of nodes to the true spectrum, in units of the largest eigenvalue.

    Examples
    --------
    >>> case = Case("", torch.nn.Identity(), (torch.ones(1), torch.ones(1)), np.array([0.0, 1.0]))
    >>> wasserstein(np.array([0.5]), np.array([1.0]), case)
    0.5
    """
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(values, case.eigenvalues, weights)) / float(case.eigenvalues[-1])


def products_to(target: float, error: Callable[[int], float]) -> int | None:
    """Return the smallest number of products on the ladder whose error, and that of the next, is at most the target.

    Examples
    --------
    >>> products_to(0.1, lambda products: 1 / products)
    10
    """
    before = None
    for products in LADDER:
        if error(products) > target:
            before = None
        elif before is not None:
            return before
        else:
            before = products
    return before


def _top_errors(library: CurvatureLibrary, case: Case, seeds: int) -> Callable[[int], float]:
    """Return products -> largest relative error over seeds, remembered."""
    known: dict[int, float] = {}
    true = float(case.eigenvalues[-1])

    def error(products: int) -> float:
        if products not in known:
            known[products] = max(abs(library.top(case, products, 100 + k)[0] / true - 1) for k in range(seeds))
        return known[products]

    return error


def our_density_errors(case: Case, seeds: int) -> Callable[[int], float]:
    """Return products -> our median density error; shorter runs are the beginnings of long ones.

    Examples
    --------
    >>> our_density_errors(make_case("perceptron", quick=True), 2)(8)    # doctest: +SKIP
    0.004
    """
    A = our_operator(case)
    whole = [slq(A, steps=PRODUCTS, probes=1, rng=100 + k, progress=False) for k in range(seeds)]

    def shorter(s: Spectrum, m: int) -> Spectrum:
        return replace(s, runs=tuple((a[:m], b[:m], size, end and len(a) <= m) for a, b, size, end in s.runs))

    def error(products: int) -> float:
        curves = [shorter(s, products).quantile(FRACTIONS) for s in whole]
        same = np.full(len(FRACTIONS), 1 / len(FRACTIONS))
        return statistics.median(wasserstein(curve, same, case) for curve in curves)

    return error


def measure_case(case: Case, run: Run) -> Iterator[str]:
    """Measure all libraries on a network into the run's records; yields what is being done.

    Examples
    --------
    >>> list(measure_case(make_case("perceptron", quick=True), Run("r", 1, 2)))    # doctest: +SKIP
    ['krylearn', 'pyhessian', 'curvlinops', 'hessian-eigenthings']
    """
    ours = LIBRARIES["krylearn"]
    torch.manual_seed(0)
    probe = torch.randn(case.unknowns)
    truth = our_operator(case, method="double-backward")(probe)
    our_errors, our_curve = _top_errors(ours, case, run.seeds), our_density_errors(case, run.seeds)
    for library in LIBRARIES.values():
        yield library.name
        if library.absent:
            continue
        product = library.operator(case)
        off = float(torch.linalg.vector_norm(product(probe) - truth) / torch.linalg.vector_norm(truth))
        speed = timed(partial(product, probe), repeats=9, warmup=2)[0].median
        facts = {"product_s": rounded(speed), "product_error": rounded(off)}
        errors = our_errors if library is ours else _top_errors(library, case, run.seeds)
        for target in TARGETS:
            run.records.append(_top(case, run, library, errors, our_errors, target, facts))
        run.records.append(_density(case, run, library, our_curve, facts))


def _record(
    case: Case, run: Run, library: CurvatureLibrary, target: float, status: str, more: dict[str, Any]
) -> Record:
    return Record(
        library.name, case.name, case.unknowns, target, status, experiment="curvature", config=library.config,
        version=version_of(library.distribution) or "", dtype="float32", repeats=run.pairs, seed=100,
        more={"run": run.name, "samples": len(case.batch[0]), **more},
    )  # fmt: skip


def _timed(record: Record, pair: Pair, ours: int, theirs: int) -> Record:
    """Fill in the times of a pair, and how many times longer theirs takes."""
    record.solve_s, record.spread_s = pair.theirs.median, (pair.theirs.low, pair.theirs.high)
    record.products = theirs
    record.more |= {"ratio": [rounded(x) for x in pair.ratio], "our_products": ours, "our_s": rounded(pair.ours.median)}
    return record


def _top(
    case: Case, run: Run, library: CurvatureLibrary, errors: Callable, ours: Callable, target: float, facts: dict
) -> Record:
    theirs, mine = products_to(target, errors), products_to(target, ours)
    more = {**facts, "part": "top", "error": rounded(errors(theirs or LADDER[-1]))}
    record = _record(case, run, library, target, "CONVERGED" if theirs else "MAXITER", more)
    if theirs is None or mine is None:
        return record
    made = library.top(case, theirs, 100)[1]
    us = LIBRARIES["krylearn"]
    pair = paired(lambda: us.top(case, mine, 100), lambda: library.top(case, theirs, 100), pairs=run.pairs)
    return _timed(record, pair, mine, made)


def _density(case: Case, run: Run, library: CurvatureLibrary, ours: Callable, facts: dict) -> Record:
    found = [wasserstein(*library.density(case, PRODUCTS, 100 + k), case) for k in range(run.seeds)]
    error = statistics.median(found)
    mine = products_to(error, ours) or PRODUCTS
    more = {**facts, "part": "density", "error": rounded(error), "errors": [rounded(x) for x in found]}
    record = _record(case, run, library, 0.0, "MEASURED", more | {"our_error": rounded(ours(mine))})
    us = LIBRARIES["krylearn"]
    if library is us:
        mine = PRODUCTS
    pair = paired(lambda: us.density(case, mine, 100), lambda: library.density(case, PRODUCTS, 100), pairs=run.pairs)
    return _timed(record, pair, mine, PRODUCTS)


def run_curvature(*, quick: bool = False, output: Path) -> list[Record]:
    """Measure every library on three networks, append the records, print the table.

    Parameters
    ----------
    quick : small networks, few seeds and pairs;  output : record file

    Examples
    --------
    >>> run_curvature(quick=True, output=Path("curvature.jsonl"))       # doctest: +SKIP
    """
    run = Run(new_run(), 3 if quick else 5, 2 if quick else SEEDS)
    missing = [library.absent for library in LIBRARIES.values() if library.absent]
    with progress() as bar:
        task = bar.add_task("curvature", total=len(CASES) * (len(LIBRARIES) + 1), note="")
        for name in CASES:
            bar.update(task, note=f"{name}: training, all eigenvalues")
            case = make_case(name, quick=quick)
            bar.update(task, advance=1)
            for text in measure_case(case, run):
                bar.update(task, note=f"{name}: {text}", advance=1)
    append(output, run.records)
    lines = [record.line() for record in run.records]
    console.print(table("curvature", HEADER, rows(lines), caption=f"records: {output}"))
    for line in missing:
        console.print(line)
    return run.records
