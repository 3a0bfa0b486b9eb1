"""`krylearn study ablations`: what limits the cycle: iterations with parts of it replaced by what would be better.

Assembled as sparse matrices, so slow and for small grids: it counts, it does not time. All variants share smoother,
damping and prolongation; they differ in how often levels are smoothed and in the operators below the finest level:

    once, shipped, always twice    pairs of smoothing steps per level: one; as `build` has them; two below the finest
    doubling                       1, 2, 4, 8, ... (Bramble and Pasciak, Math. Comp. 49, 1987)
    Galerkin                       P* A P on all levels instead of the learned seven points, smoothed with l1 diagonals
    exact, exact Galerkin          the first coarse level solved exactly, with the learned operator and with P* A P
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
import torch
from krylearn.pde import FAMILIES, right_hand_side, scene
from krylearn.solvers import cg
from krylearn.solvers.kernels.reference import OMEGA, Stencil, Transfer, prolong
from krylearn.solvers.multigrid.hierarchy import Hierarchy, build
from krylearn.solvers.multigrid.preconditioner import find_rule, power_of_two, stencil_of

from ...measure.console import console, count, progress, table
from ...measure.record import Record, append, new_run
from ...measure.timing import iterations_to, true_relative_residual

VARIANTS = ("once", "shipped", "always twice", "doubling", "Galerkin", "exact", "exact Galerkin")
RULES = ("tuned", "learned")
HEADER = ("family", "weights", *VARIANTS)
LIMIT = 400
Map = Callable[[np.ndarray], np.ndarray]


def matrix_of_stencil(op: Stencil) -> sp.csr_array:
    """Assemble a stencil, cells in C order.

    Examples
    --------
    >>> A = scene("obstacles", (8, 9), 0)
    >>> bool(abs(matrix_of_stencil(stencil_of(A, 0)) - A.matrix()).max() < 1e-6)
    True
    """
    index = np.arange(math.prod(op.size)).reshape(op.size)
    result = sp.dia_array((op.diag.double().numpy().reshape(1, -1), [0]), shape=(index.size, index.size)).tocsr()
    for d, w in enumerate(op.links):
        rows, columns, values = index.ravel(), np.roll(index, -1, d).ravel(), w.double().numpy().ravel()
        keep = values != 0
        links = sp.coo_array((values[keep], (rows[keep], columns[keep])), shape=result.shape)
        result = result - links - links.T
    return sp.csr_array(result)


def matrix_of_transfer(t: Transfer, coarse: Sequence[int]) -> sp.csr_array:
    """Assemble a prolongation, unit vector by unit vector."""
    n, m = t.mask.numel(), math.prod(coarse)
    chunk, parts = max(1, 2**24 // n), []
    for start in range(0, m, chunk):
        units = torch.eye(m)[start : start + chunk].view(-1, *coarse)
        parts.append(sp.csr_array(prolong(t, units).flatten(1).double().numpy()))
    return sp.csr_array(sp.vstack(parts).T)


class Assembled:
    """A hierarchy as matrices, every level once.

    Parameters
    ----------
    h : the levels of `hierarchy.build`; repeated ones are left out
    """

    def __init__(self, h: Hierarchy) -> None:
        levels = [v for v in h.levels if not v.transfer.identity_transfer]
        sizes = [*(v.op.size for v in levels[1:]), h.bottom.size]
        self.own = [*(matrix_of_stencil(v.op) for v in levels), matrix_of_stencil(h.bottom)]
        self.P = [matrix_of_transfer(v.transfer, size) for v, size in zip(levels, sizes, strict=True)]
        self.s = [v.s.double().numpy().ravel() for v in levels]
        repeated = [v.op.size for v in h.levels if v.transfer.identity_transfer]
        self.shipped = [1 + repeated.count(v.op.size) for v in levels]

    def variant(self, name: str) -> Map:
        """Return the preconditioner of that name."""
        if name.startswith("exact"):
            below = self.P[0].T @ self.own[0] @ self.P[0] if "Galerkin" in name else self.own[1]
            return self.cycle([self.own[0]], [1], exact(below))
        depth = len(self.P)
        sweeps = {"shipped": self.shipped, "always twice": [1] + [2] * depth, "doubling": [2**l for l in range(depth)]}
        ops = self.own if name != "Galerkin" else self.galerkin()
        return self.cycle(ops[:-1], sweeps.get(name, [1] * depth), exact(ops[-1]))

    def galerkin(self) -> list[sp.csr_array]:
        """Return A, P* A P, ..."""
        ops = [self.own[0]]
        for P in self.P:
            ops.append(sp.csr_array(P.T @ ops[-1] @ P))
        return ops

    def cycle(self, ops: Sequence[sp.csr_array], sweeps: Sequence[int], bottom: Map) -> Map:
        """Return the symmetric cycle with so many pairs of steps per level."""
        steps = []
        for K, s in zip(ops, self.s, strict=False):
            # of a matrix with entries of both signs, half the l1 norm of a row; of the others that is the diagonal
            half = np.maximum(abs(K).sum(1) / 2, K.diagonal())
            steps.append(s * np.divide(1.0, half, out=np.zeros_like(half), where=half > 0))

        def apply(b: np.ndarray, l: int = 0) -> np.ndarray:
            if l == len(ops):
                return bottom(b)
            K, step, x = ops[l], steps[l], np.zeros_like(b)
            for omega in OMEGA * sweeps[l]:
                x += omega * step * (b - K @ x)
            x += self.P[l] @ apply(self.P[l].T @ (b - K @ x), l + 1)
            for omega in reversed(OMEGA * sweeps[l]):
                x += omega * step * (b - K @ x)
            return x

        return apply


def exact(K: sp.csr_array) -> Map:
    """Return the solution operator; singular components are regularised by 1e-11 of the diagonal."""
    diagonal = K.diagonal()
    keep = np.flatnonzero(diagonal > 0)
    factors = spla.splu(sp.csc_matrix(K[keep][:, keep] + sp.diags_array(1e-11 * diagonal[keep])))

    def solve(b: np.ndarray) -> np.ndarray:
        x = np.zeros_like(b)
        x[keep] = factors.solve(b[keep])
        return x

    return solve


def measure(family: str, size: int, seed: int, rule: str, *, rtol: float = 1e-6) -> list[Record]:
    """Count the iterations of every variant on one scene of the test stream.

    Examples
    --------
    >>> [r.method for r in measure("open_box", 8, 0, "tuned")][:2]
    ['tuned: once', 'tuned: shipped']
    """
    A = scene(family, (size,) * 3, seed)
    b = right_hand_side(A, "white", seed)
    with torch.no_grad():
        found = find_rule(None if rule == "learned" else rule, 3)
        cycles = Assembled(build(stencil_of(A, power_of_two(float(A.diag.max()))), found))
    facts: dict[str, Any] = {
        "experiment": "ablations",
        "config": "assembled cycle, rhs white",
        "seed": seed,
        "shape": A.grid_shape,
    }
    records = []
    for name in VARIANTS:
        M = spla.LinearOperator(A.shape, matvec=cycles.variant(name), dtype=float)
        x, info = cg(A, b, rtol=rtol, maxiter=LIMIT, M=M)
        facts |= {"iterations": iterations_to(info.residuals, rtol), "products": info.matvecs}
        relres = true_relative_residual(A, x, b)
        records.append(
            Record(f"{rule}: {name}", family, A.unknowns, rtol, info.reason.name, true_relres=relres, **facts)
        )
    return records


def run_ablations(
    size: int = 32, seeds: int = 2, *, families: Sequence[str] | None = None, output: Path
) -> list[Record]:
    """Measure, append the records, print the table.

    Examples
    --------
    >>> run_ablations(32, output=Path("ablations.jsonl"))               # doctest: +SKIP
    """
    names, run, records = list(families or [f for f in FAMILIES if FAMILIES[f].hard]), new_run(), []
    with progress() as bar:
        task = bar.add_task("ablations", total=len(names) * seeds * len(RULES), note="")
        for family in names:
            for seed in range(seeds):
                for rule in RULES:
                    bar.update(task, note=f"{family}, seed {seed}, {rule}")
                    found = measure(family, size, seed, rule)
                    for record in found:
                        record.more = {"run": run}
                    append(output, found)
                    records += found
                    bar.advance(task)
    lines = [record.line() for record in records]
    console.print(table(f"iterations to 1e-6, {size}^3, {seeds} seeds", HEADER, summary(lines)))
    return records


def summary(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Mean iterations per family, weights and variant, and geometric means over the families, as rows of text.

    Examples
    --------
    >>> summary([{"problem": "mazes", "method": "tuned: once", "iterations": 9.0, "status": "CONVERGED"}])[0][:4]
    ['mazes', 'tuned', '9.0', '-']
    """
    rows, means = [], {}
    pairs = dict.fromkeys((line["problem"], line["method"].split(":")[0]) for line in lines)
    for family, rule in pairs:
        for name in VARIANTS:
            own = [x for x in lines if x["problem"] == family and x["method"] == f"{rule}: {name}"]
            good = own and all(x["status"] == "CONVERGED" for x in own)
            means[family, rule, name] = statistics.fmean(x["iterations"] for x in own) if good else None
        rows.append([family, rule, *(count(means[family, rule, name]) for name in VARIANTS)])
    for rule in dict.fromkeys(rule for _, rule in pairs):
        columns = [[m for (_, r, n), m in means.items() if (r, n) == (rule, name)] for name in VARIANTS]
        found = [[m for m in column if m is not None] for column in columns]
        all_there = [len(f) == len(c) for f, c in zip(found, columns, strict=True)]
        cells = [count(statistics.geometric_mean(f)) if good else "-" for f, good in zip(found, all_there, strict=True)]
        rows.append(["geometric mean", rule, *cells])
    return rows
