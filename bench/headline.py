"""`krylearn bench headline`: one large system, ours against SciPy's cg with PyAMG, set-up and solve apart.

Free surface over obstacles, true residual 1e-8. Ratios are of solves alone, paired A B A B in one run; set-ups stand
beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from krylearn.pde import right_hand_side, scene

from .console import console, progress, table
from .contest import HEADER, ours, summary, theirs, title
from .machine import threads
from .peers import PEERS
from .record import Record, append, new_run

RIVALS = ("pyamg-sa", "pyamg-rs")


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
        task = bar.add_task("headline", total=1 + len(RIVALS), note="krylearn")
        first, solve = ours(A, b, rtol=rtol, repeats=max(pairs, 3), weights=weights, **facts)
        records = [first]
        for name in RIVALS:
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
