"""`krylearn study warmstarts`: what a good starting guess saves in sequences of pressure systems, in iterations.

A fluid step poses nearly the system of the step before. Guesses for its solution, made of earlier ones:

    zero                what a solver does on its own
    last                p of the step before
    linear, quadratic   extrapolation in time through the last two, three
    best of k           the combination of the last k with the least error in the energy norm: k products with A and a
                        k by k system (Fischer, Comput. Methods Appl. Mech. Eng. 163, 1998)
    recycled            the same, over the last solution and the search directions of the solve before: its Ritz vectors
                        lie in their span, so this deflates the starting error

Cells that have become solid or air since are set to zero. Everybody solves the same systems, those of a run that was
solved to 1e-9, so no guess profits from another's errors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from krylearn.pde import Poisson, liquid_sequence, smoke_sequence
from krylearn.solvers import NeuralMultigrid, cg
from torch import Tensor

from ...measure.console import console, progress, table
from ...measure.record import Record, append, new_run
from ...measure.timing import iterations_to

SEQUENCES: dict[str, Callable[..., Iterator[tuple[Poisson, Tensor]]]] = {
    "smoke past a sphere": smoke_sequence,
    "dam break": liquid_sequence,
}
TOLERANCES = (1e-4, 1e-6)
SETTLED = 10  # steps before the first that counts
Guess = Callable[[Poisson, Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor | None]


def best_combination(A: Poisson, b: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """Return the combination of directions that is nearest to A⁻¹ b in the energy norm.

    Examples
    --------
    >>> A = Poisson.from_coefficients([[1.0, 1.0]])
    >>> x = torch.tensor([[2.0, 3.0]], dtype=torch.float64)
    >>> torch.allclose(best_combination(A, A @ x, [x / 7, torch.ones_like(x)]), x)
    True
    """
    X = torch.stack([x.reshape(-1) for x in directions])
    images = torch.stack([(A @ x).reshape(-1) for x in directions])
    gram, right = X @ images.T, X @ b.reshape(-1)
    c = torch.linalg.pinv(gram, hermitian=True, rtol=1e-12) @ right
    return (c @ X).reshape(b.shape)


def guesses() -> dict[str, tuple[Guess, int]]:
    """Return every guess with the products with A that it costs.

    Examples
    --------
    >>> list(guesses())[:4]
    ['zero', 'last', 'linear', 'quadratic']
    """
    found: dict[str, tuple[Guess, int]] = {
        "zero": (lambda A, b, past, space: None, 0),
        "last": (lambda A, b, past, space: past[-1], 0),
        "linear": (lambda A, b, past, space: 2 * past[-1] - past[-2], 0),
        "quadratic": (lambda A, b, past, space: 3 * past[-1] - 3 * past[-2] + past[-3], 0),
    }

    def best_of(k: int) -> Guess:
        return lambda A, b, past, space: best_combination(A, b, past[-k:])

    for k in (1, 2, 3, 5):
        found[f"best of {k}"] = (best_of(k), k)
    found["recycled"] = (lambda A, b, past, space: best_combination(A, b, [past[-1], *space]), 7)
    return found


def measure(name: str, shape: tuple[int, ...], steps: int) -> list[Record]:
    """Run one sequence; a record per guess and tolerance, `iterations` being the mean over the settled steps.

    Examples
    --------
    >>> measure("dam break", (8, 8, 8), 12)[0].method
    'zero'
    """
    known = guesses()
    counts: dict[tuple[str, float], list[float]] = {(g, rtol): [] for g in known for rtol in TOLERANCES}
    starts: dict[str, list[float]] = {g: [] for g in known}
    past: list[Tensor] = []
    space: list[Tensor] = []
    unknowns = 0
    for step, (A, b) in enumerate(SEQUENCES[name](shape, steps, solve=_exact)):
        M, unknowns = NeuralMultigrid(A), A.unknowns
        masked, recycled = [_masked(A, p) for p in past], [_masked(A, v) for v in space]
        if step >= SETTLED:
            for g, (guess, _) in known.items():
                x0 = guess(A, b, masked, recycled)
                starts[g].append(1.0 if x0 is None else float((b - A @ x0).norm() / b.norm()))
                for rtol in TOLERANCES:
                    info = cg(A, b, x0, rtol=rtol, M=M)[1]
                    limit = rtol * float(b.norm())
                    counts[g, rtol].append(iterations_to(info.residuals, limit / info.residuals[0]))
        iterates: list[Tensor] = []
        x, _ = cg(A, b, rtol=1e-6, M=M, callback=lambda x, kept=iterates: kept.append(x.clone()))
        space = [b - a for a, b in zip([torch.zeros_like(x), *iterates[:-1]], iterates, strict=True)][:6]
        past = [*past, _exact(A, b)][-5:]
    return [
        Record(
            g, name, unknowns, rtol, "CONVERGED", experiment="warmstarts", shape=shape, repeats=len(found),
            iterations=statistics.fmean(found), config=f"{known[g][1]} products for the guess",
            more={"start": float(f"{statistics.fmean(starts[g]):.3g}"), "products": known[g][1], "steps": steps},
        )
        for (g, rtol), found in counts.items()
    ]  # fmt: skip


HEADER = ("sequence", "tolerance", "guess", "residual at the start", "products", "iterations", "saved")


def rows(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Write records as rows of text.

    Examples
    --------
    >>> line = {"problem": "dam break", "tolerance": 1e-4, "method": "zero", "iterations": 4.0,
    ...         "more": {"start": 1.0, "products": 0}}
    >>> rows([line, line | {"method": "last", "iterations": 3.0, "more": {"start": 0.1, "products": 0}}])[1]
    ['dam break', '0.0001', 'last', '0.1', '0', '3.0', '25 %']
    """
    zero = {(x["problem"], x["tolerance"]): x["iterations"] for x in lines if x["method"] == "zero"}
    made = []
    for x in lines:
        before = zero[x["problem"], x["tolerance"]]
        facts = [f"{x['more']['start']:.2g}", str(x["more"]["products"]), f"{x['iterations']:.1f}"]
        made.append([x["problem"], f"{x['tolerance']:g}", x["method"], *facts, f"{1 - x['iterations'] / before:.0%}"])
    return [[*row[:-1], row[-1].replace("%", " %")] for row in made]


def run_warm_starts(*, shape: tuple[int, ...] = (48, 40, 56), steps: int = 50, output: Path) -> list[Record]:
    """Measure both sequences, append the records, print the table.

    Examples
    --------
    >>> run_warm_starts(output=Path("warmstarts.jsonl"))                # doctest: +SKIP
    """
    run, records = new_run(), []
    with progress() as bar:
        task = bar.add_task("warm starts", total=len(SEQUENCES), note="")
        for name in SEQUENCES:
            bar.update(task, note=name)
            records += measure(name, shape, steps)
            bar.advance(task)
    for record in records:
        record.more["run"] = run
    append(output, records)
    console.print(table("iterations from a guess", HEADER, rows([record.line() for record in records])))
    return records


def _exact(A: Poisson, b: Tensor) -> Tensor:
    return cg(A, b, rtol=1e-9)[0]


def _masked(A: Poisson, v: Tensor) -> Tensor:
    return torch.where(A.unknown.reshape(v.shape), v, 0)
