"""`krylearn bench headline`: one large system, ours against algebraic multigrid, set-up and solve apart.

Free surface over obstacles, true residual 1e-8. Ratios are of solves alone, paired A B A B in one run; set-ups stand
beside them. First our kernels with the classical rules and with tuned constants (these are set up
in plain torch: do not compare their set-up times), then SciPy's cg with PyAMG, then what else is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from krylearn.pde import Poisson, right_hand_side, scene

from ..measure.console import console, progress, table
from ..measure.machine import threads
from ..measure.record import Record, append, new_run
from ..measure.timing import paired
from ..rivals.table import PEERS, RANKS
from .contest import HEADER, ours, rounded, summary, theirs, title

RULES = ("tuned", "resistor", "geometric")
RIVALS = ("pyamg-sa", "pyamg-rs")
OUT_OF_PETSC = ("hypre-pfmg", "hypre-pfmg-jacobi", "hypre-smg", "petsc-pcmg", "petsc-gamg", "petsc-boomeramg")
IF_INSTALLED = ("amgcl", *(name + ending for name in OUT_OF_PETSC for ending in ("", RANKS)))


def same_kernels(A: Poisson, b: Any, rule: str, solve: Any, *, rtol: float, pairs: int, **facts: Any) -> Record:
    """Time our solve with another rule, and its ratio to `solve` in pairs.

    Examples
    --------
    >>> A = scene("open_box", (12, 12, 12), 0)
    >>> b = right_hand_side(A, "white", 0).numpy()
    >>> _, solve = ours(A, b, rtol=1e-8, repeats=1, problem="box")
    >>> same_kernels(A, b, "tuned", solve, rtol=1e-8, pairs=1, problem="box").method
    'krylearn, tuned'
    """
    record, other = ours(A, b, rtol=rtol, repeats=1, weights=rule, **facts)
    pair = paired(solve, other, pairs=pairs, warmup=1)
    record.method, record.repeats = f"krylearn, {rule}", pairs
    record.solve_s, record.spread_s = pair.theirs.median, (pair.theirs.low, pair.theirs.high)
    record.more |= {"ratio": pair.ratio, "interval": pair.interval(), "seconds": rounded(pair.theirs.seconds)}
    return record


def run_headline(
    size: int = 128,
    *,
    family: str = "free_surface",
    seed: int = 0,
    rtol: float = 1e-8,
    pairs: int = 3,
    kind: str = "divergence",
    weights: str | None = None,
    output: Path,
) -> list[Record]:
    """Measure ours and the rivals, append the records, print the table.

    Examples
    --------
    >>> run_headline(128, output=Path("headline.jsonl"))               # doctest: +SKIP
    """
    A = scene(family, (size,) * 3, seed)
    b = right_hand_side(A, kind, seed).numpy()
    facts: dict[str, Any] = {"problem": family, "seed": seed, "experiment": "headline"}
    with progress() as bar:
        rivals = [*RIVALS, *(name for name in IF_INSTALLED if not PEERS[name].absent)]
        task = bar.add_task("headline", total=1 + len(RULES) + len(rivals), note="krylearn")
        first, solve = ours(A, b, rtol=rtol, repeats=max(pairs, 3), weights=weights, **facts)
        records = [first]
        for rule in RULES:
            bar.update(task, advance=1, note=rule)
            records.append(same_kernels(A, b, rule, solve, rtol=rtol, pairs=pairs, **facts))
        for name in rivals:
            bar.update(task, advance=1, note=name)
            records.append(theirs(PEERS[name], A, b, solve, rtol=rtol, pairs=pairs, **facts))
        bar.advance(task)
    for record in records:
        record.more |= {"run": new_run() if record is first else first.more["run"], "rhs": kind}
    append(output, records)
    lines = [record.line() for record in records]
    console.print(table(title(lines), HEADER, summary(lines), caption=f"{threads()} threads"))
    for record in records:
        if record.status == "ABSENT":
            console.print(record.config)
    return records
