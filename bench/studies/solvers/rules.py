"""`krylearn study rules`: what learning is worth in seconds: four sets of weights in the same kernels, every family.

The best of geometric, resistor and tuned constants is chosen per family, after the fact; the learned weights get no
choice. Solves are timed in turns in one run. Set-up is that of the kernels: the tuned constants run through the same
ones as the network, and the two formulas are charged what the constants take, since their own set-up, in plain torch,
is slower for a reason that has nothing to do with them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from krylearn.pde import FAMILIES, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg

from ...measure.console import console, count, progress, seconds, table
from ...measure.record import Record, append, new_run
from ...measure.timers import HostTimer
from ...measure.timing import iterations_to, timed, true_relative_residual
from ...solvers.contest import rounded, set_up
from ...solvers.families import WEIGHTS

HEADER = ("family", *WEIGHTS, "set-up", "gain", "with set-up")
PATIENCE = 4  # a rule that takes so many times the learned iterations is not waited for


def measure(family: str, size: int, *, seed: int = 0, rtol: float = 1e-6, rounds: int = 6) -> list[Record]:
    """Time the four sets of weights on one scene of the test stream.

    Examples
    --------
    >>> [r.method for r in measure("open_box", 12, rounds=1)]
    ['krylearn geometric', 'krylearn resistor', 'krylearn tuned', 'krylearn learned']
    """
    A = scene(family, (size,) * 3, seed)
    b, timer = right_hand_side(A, "white", seed), HostTimer()
    records: dict[str, Record] = {}
    times: dict[str, list[float]] = {}
    limit = 500
    name_of = {weights: "network" if weights == "learned" else weights for weights in WEIGHTS}
    for weights in reversed(WEIGHTS):
        setup, M = timed(partial(set_up, A, name_of[weights]), repeats=min(rounds, 3), timer=timer)
        x, info = cg(A, b, rtol=rtol, maxiter=limit, M=M)
        if weights == "learned":
            limit = PATIENCE * info.iterations
        records[weights] = Record(
            method=f"krylearn {weights}", problem=family, unknowns=A.unknowns, tolerance=rtol, status=info.reason.name,
            experiment="rules", config=f"NeuralMultigrid weights={weights}, rhs white", seed=seed, shape=A.grid_shape,
            setup_s=setup.median, iterations=iterations_to(info.residuals, rtol), products=info.matvecs,
            true_relres=true_relative_residual(A, x, b), more={"hard": FAMILIES[family].hard},
        )  # fmt: skip
        if info == 0:
            times[weights] = []
    # where the memory of a cycle lies makes a solve up to a fifth faster or slower, and what a solve leaves in caches
    # differs: so everything is set up again every other round, and the rules take turns forwards and backwards
    ready: dict[str, NeuralMultigrid] = {}
    for k in range(rounds):
        if k % 2 == 0:
            ready = {weights: set_up(A, name_of[weights]) for weights in times}
            for M in ready.values():
                cg(A, b, rtol=rtol, M=M)  # memory that nobody has touched is slow
        for weights, M in list(ready.items())[:: -1 if k % 2 else 1]:
            took, _ = timer(partial(cg, A, b, rtol=rtol, M=M))
            times[weights].append(took)
    for weights, found in times.items():
        r = records[weights]
        r.solve_s, r.spread_s, r.repeats = statistics.median(found), (min(found), max(found)), rounds
        r.more["seconds"] = rounded(found)
    return [records[weights] for weights in WEIGHTS]


def run_rules(
    size: int = 128, *, families: Sequence[str] | None = None, seed: int = 0, rounds: int = 6, output: Path
) -> list[Record]:
    """Measure all families, append the records, print the table.

    Examples
    --------
    >>> run_rules(128, output=Path("rules.jsonl"))                      # doctest: +SKIP
    """
    names, run, records = list(families or FAMILIES), new_run(), []
    with progress() as bar:
        task = bar.add_task("rules", total=len(names), note="")
        for family in names:
            bar.update(task, note=family)
            found = measure(family, size, seed=seed, rounds=rounds)
            for record in found:
                record.more["run"] = run
            append(output, found)  # family by family: an interrupted run keeps what it has
            records += found
            bar.advance(task)
    lines = [record.line() for record in records]
    console.print(table(f"seconds to 1e-6, {size}^3, one scene per family", HEADER, summary(lines)))
    return records


def gains(lines: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return per family how many times longer the best other rule takes: solve alone, set-up included.

    Examples
    --------
    >>> facts = {"problem": "mazes", "status": "CONVERGED", "setup_s": 1.0}
    >>> tuned, learned = ({"method": f"krylearn {w}", "solve_s": s} for w, s in (("tuned", 3.0), ("learned", 1.0)))
    >>> gains([facts | tuned, facts | learned])
    {'mazes': (3.0, 2.0)}
    """
    result = {}
    for family in dict.fromkeys(line["problem"] for line in lines):
        found = {line["method"].split()[-1]: line for line in lines if line["problem"] == family}
        learned = found["learned"]
        others = [found[w]["solve_s"] for w in WEIGHTS[:-1] if w in found and found[w]["status"] == "CONVERGED"]
        best = min(others, default=math.inf)
        total = (best + found["tuned"]["setup_s"]) / (learned["solve_s"] + learned["setup_s"])
        result[family] = (best / learned["solve_s"], total)
    return result


def summary(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: seconds and iterations per family and rule, gains, and their geometric means.

    Examples
    --------
    >>> summary([])
    []
    """
    if not lines:
        return []
    rows, found = [], gains(lines)
    hard = {line["problem"]: line["more"]["hard"] for line in lines}
    for family, (solve, total) in found.items():
        own = {line["method"].split()[-1]: line for line in lines if line["problem"] == family}
        cells = [
            f"{seconds(r['solve_s'])} ({count(r['iterations'])})" if r["status"] == "CONVERGED" else "-"
            for r in (own[w] for w in WEIGHTS)
        ]
        rows.append([family, *cells, seconds(own["learned"]["setup_s"]), ratio(solve), ratio(total)])
    groups = {
        "hard families": [g for f, g in found.items() if hard[f]],
        "other families": [g for f, g in found.items() if not hard[f]],
        "all families": list(found.values()),
    }
    for name, values in groups.items():
        if values:
            means = [statistics.geometric_mean(v[k] for v in values) for k in (0, 1)]
            rows.append([f"geometric mean, {name}", "", "", "", "", "", *map(ratio, means)])
    return rows


def ratio(value: float) -> str:
    """Write a ratio; none of the others may have converged in time.

    Examples
    --------
    >>> ratio(1.234), ratio(math.inf)
    ('1.23', 'only learned')
    """
    return f"{value:.2f}" if math.isfinite(value) else "only learned"
