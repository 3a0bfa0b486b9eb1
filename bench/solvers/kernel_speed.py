"""`krylearn bench kernels` and `bench noise`: kernels against the machine's own copy, and what a ratio is worth.

Bytes are counted, not measured: what a kernel has to read and write once per cell, neighbours in cache, no
write-allocation (solvers/kernels/cpu/cycle.py). So a kernel whose data stay in the cache may exceed the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg

from ..measure.console import console, progress, seconds, table
from ..measure.record import Record, append, new_run
from ..measure.timers import ceilings, timer_for
from ..measure.timing import paired, timed
from .contest import rounded

HEADER = ("kernel", "cells", "time", "ns per cell", "bytes per cell", "GB/s", "of the copy")
Call = tuple[str, float, Callable[[], Any]]  # name, bytes per cell, what to time


def cpu_calls(A: Poisson) -> Iterator[Call]:
    """Yield the fused CPU kernels on the finest level of a system, in the order of an iteration.

    Examples
    --------
    >>> [name for name, _, _ in cpu_calls(Poisson.from_coefficients(np.ones((8, 8, 8))))][:2]
    ['smooth from zero', 'residual']
    """
    from krylearn.solvers.kernels.cpu.cell_bytes import find_cell_bytes
    from krylearn.solvers.kernels.cpu.cycle import LEVEL_BYTES, cycle_bytes
    from krylearn.solvers.kernels.cpu.smoothing import apply_dot, smooth, smooth_from_zero
    from krylearn.solvers.kernels.cpu.transfer import prolong_add, residual_rows, restrict_rows
    from krylearn.solvers.kernels.cpu.vectors import dot_rows, update_direction, update_solution

    M = NeuralMultigrid(A, weights="geometric")
    cycle, level = M.fused, M.fused.levels[0]
    b, x, y = (np.ones_like(level.b) for _ in range(3))
    coarse = cycle.levels[1].b if len(cycle.levels) > 1 else cycle.bottom_b
    first, second = level.omega
    d, w, sd, a, f = level.diag, level.w, level.sd, level.a, level.factors
    bytes_of = LEVEL_BYTES[level.sd.dtype.name]
    yield "smooth from zero", bytes_of["from zero"], lambda: smooth_from_zero(d, w, sd, b, x, first, second)
    yield "residual", bytes_of["residual"], lambda: residual_rows(d, w, x, b, a, f, level.periodic_z, level.t)
    yield (
        "restrict",
        bytes_of["restrict"],
        lambda: restrict_rows(level.t, a, f, level.sources[0], level.sources[1], coarse),
    )
    yield (
        "prolong and add",
        bytes_of["prolong"],
        lambda: prolong_add(coarse, a, sd, f, *level.outer[:2], level.periodic_z, x),
    )
    yield "smooth", bytes_of["smooth"], lambda: smooth(d, w, sd, x, b, y, second)
    yield "cycle, all levels", cycle_bytes(cycle), lambda: cycle(cycle.input)
    codes, shape = find_cell_bytes(A), A.diag.shape
    links, diag = (codes.links, codes.diag) if codes else (tuple(v.numpy() for v in A.links), A.diag.numpy())
    p, q = np.ones(shape), np.ones(shape)
    rows, sums = [v.reshape(-1, shape[-1]) for v in (p, q, p.copy(), q.copy())], np.empty(shape[0] * shape[1])
    half = np.ones(rows[0].shape, np.float32)
    yield "A p and p.Ap, fp64", 16 + 4 * diag.itemsize, lambda: apply_dot(diag, links, p, q, sums)
    yield "update x, r; r.r", 52, lambda: update_solution(*rows, 0.0, 0.0, 1.0, half, sums)
    yield "r.z", 12, lambda: dot_rows(rows[1], half, sums)
    yield "update p", 20, lambda: update_direction(rows[2], half, 1.0, 0.0)


def any_device_calls(A: Poisson) -> Iterator[Call]:
    """Yield product and cycle, the two that every device has."""
    M = NeuralMultigrid(A, weights="geometric")
    x, b = torch.ones_like(A.diag), torch.ones(A.diag.shape, dtype=torch.float32, device=A.device)
    yield "cycle, all levels", 188, lambda: M.cycle(b)
    yield "A p, fp64", 48, lambda: A @ x


def run_kernels(*, quick: bool = False, device: str = "cpu", output: Path) -> list[Record]:
    """Time all kernels on growing grids, append the records, print the table.

    Examples
    --------
    >>> run_kernels(quick=True, output=Path("kernels.jsonl"))           # doctest: +SKIP
    """
    limits, timer, run, records = ceilings(device), timer_for(device), new_run(), []
    sizes = (32, 64) if quick else (32, 64, 96, 128, 160, 256)
    with progress() as bar:
        task = bar.add_task("kernels", total=len(sizes), note="")
        for size in sizes:
            bar.update(task, advance=1, note=f"{size}^3")
            A = scene("free_surface", (size,) * 3, 0).to(device=device)
            for name, each, call in cpu_calls(A) if device == "cpu" else any_device_calls(A):
                timing, _ = timed(call, repeats=15, warmup=3, timer=timer)
                cells = A.unknown.numel()
                facts = {"bytes": each * cells, "cells": cells, "seconds": rounded(timing.seconds), "run": run}
                share = float(f"{limits.fraction(each * cells, timing.median):.3g}")
                records.append(
                    Record(
                        name, "free_surface", A.unknowns, 0.0, "MEASURED", experiment="kernels", seed=0,
                        shape=A.grid_shape,
                        dtype="float64" if each in (12, 20, 48, 52) else "float32", device=device, repeats=15,
                        version=_version(), config="geometric weights", solve_s=timing.median,
                        spread_s=(timing.low, timing.high),
                        more=facts | {"part": "kernels", "roofline": share, "ceilings": limits.facts()},
                    )
                )  # fmt: skip
    append(output, records)
    text = f"copy {limits.copy_gbs:.1f} GB/s, launch {limits.launch_us:.1f} us; records: {output}"
    console.print(table("kernels", HEADER, rows([r.line() for r in records]), caption=text))
    return records


def rows(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Write records of kernels as rows under HEADER.

    Examples
    --------
    >>> rows([{"method": "r.z", "solve_s": 1e-3, "more": {"cells": 10**6, "bytes": 12e6, "roofline": 0.4}}])
    [['r.z', '1,000,000', '1 ms', '1.00', '12', '12.0', '40 %']]
    """
    made = []
    for line in lines:
        cells, moved, took = line["more"]["cells"], line["more"]["bytes"], line["solve_s"]
        numbers = [f"{1e9 * took / cells:.2f}", f"{moved / cells:g}", f"{1e-9 * moved / took:.1f}"]
        made.append([line["method"], f"{cells:,}", seconds(took), *numbers, f"{100 * line['more']['roofline']:.0f} %"])
    return made


def run_noise(*, pairs: int = 20, size: int = 48, weights: str | None = None, output: Path) -> Record:
    """Pair a solve with itself: what a ratio on this machine is worth, now.

    Examples
    --------
    >>> run_noise(pairs=20, output=Path("noise.jsonl"))                 # doctest: +SKIP
    """
    A = scene("free_surface", (size,) * 3, 0)
    b = right_hand_side(A, "white", 0)
    solve = partial(cg, A, b, rtol=1e-6, M=NeuralMultigrid(A, weights=weights))
    once = timed(solve, repeats=3)[0].low
    batch = range(max(1, round(0.2 / once)))  # so long that a scheduler's time slice is no large part of it

    def several() -> None:
        for _ in batch:
            solve()

    pair = paired(several, several, pairs=pairs)
    (ratio, _, _), (low, high) = pair.ratio, pair.interval()
    x, info = solve()
    record = Record(
        "krylearn against itself", "free_surface", A.unknowns, 1e-6, info.reason.name, experiment="noise", seed=0,
        shape=A.grid_shape, config=f"{pairs} pairs A B A B of {len(batch)} solves, bootstrap of the median",
        solve_s=pair.ours.median,
        spread_s=(pair.ours.low, pair.ours.high), repeats=pairs, iterations=info.iterations, products=info.matvecs,
        true_relres=float((b - A @ x).norm() / b.norm()),
        more={"run": new_run(), "ratio": pair.ratio, "interval": (low, high), "ratios": rounded(pair.ratios)},
    )  # fmt: skip
    append(output, [record])
    inside = "1 lies inside" if low <= 1 <= high else "1 lies OUTSIDE"
    console.print(f"ratio {ratio:.4f}, 95 % interval [{low:.4f}, {high:.4f}] after {pairs} pairs: {inside}; {output}")
    return record


def _version() -> str:
    from ..measure.machine import version_of

    return version_of("krylearn") or ""
