"""`mpirun -n 2 krylearn study ranks`: ours beside GAMG, BoomerAMG and PFMG on the same ranks, in the same run.

Per system and method: iterations to `rtol` of the true residual, set-up, solve, memory per rank, and what a rank sends
per iteration. Methods take turns, the order turned round at every other repeat, and the least time counts: what other
work on the machine adds is never negative. All take the same box per rank. Ours runs twice: as `cg(A, b)` on its own
operator, and as the PC of a PETSc solver, which is given the assembled matrix as GAMG and BoomerAMG are.

Messages and bytes are what PETSc counts for -log_view: neither reductions nor what hypre sends by itself, so there are
none for BoomerAMG and PFMG.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from krylearn.pde import FAMILIES, right_hand_side, scene
from krylearn.pde.scenes.field_cases import field_case
from krylearn.solvers.distributed import DistributedMultigrid, DistributedPoisson, Partition, cg
from krylearn.solvers.distributed.petsc_library import load_petsc
from krylearn.solvers.krylov.outcome import Reason

from ...measure.console import console, table
from ...measure.record import Record, append, new_run
from ...rivals.cpu import BOOMERAMG, GAMG
from ...rivals.structured import PFMG, PFMG_JACOBI

SYSTEMS = ("obstacles", "free_surface", "lognormal", "stretched_1.1")
PLUGIN = {"pc_type": "python", "pc_python_type": "krylearn.solvers.distributed.PC"}
RIVALS: dict[str, dict[str, Any]] = {
    "krylearn PC": PLUGIN,
    "PETSc GAMG": GAMG,
    "hypre BoomerAMG": BOOMERAMG | {"pc_hypre_boomeramg_strong_threshold": 0.5},
    "hypre PFMG": PFMG,
    "hypre PFMG, Jacobi": PFMG_JACOBI,
}
METHODS = ("krylearn", *RIVALS)
UNCOUNTED = "hypre"  # sends by itself
HEADER = ("system", "method", "iterations", "set-up, s", "solve, s", "both, s", "MB per rank", "messages", "kB")
LIMIT = 500


class Traffic:
    """What this rank has sent through PETSc so far: the counters of ``-log_view``, which count from the start."""

    def __init__(self) -> None:
        library = ctypes.CDLL(load_petsc().__file__)  # and what it is linked to
        self._counters = [
            [ctypes.c_double.in_dll(library, f"petsc_{call}_{what}") for call in ("isend", "send")]
            for what in ("ct", "len")
        ]

    def __call__(self) -> tuple[float, float]:
        """Return messages and bytes."""
        messages, size = (sum(counter.value for counter in each) for each in self._counters)
        return messages, size


class Run(NamedTuple):
    """One solve: iterations, true relative residual, seconds, peak of this rank, messages and bytes per iteration."""

    iterations: int
    residual: float
    converged: bool
    setup: float
    solve: float
    peak: float
    messages: float
    sent: float


class Contest:
    """A system on all ranks, and each method on it."""

    def __init__(self, name: str, size: int, seed: int, traffic: Traffic) -> None:
        build = scene if name in FAMILIES else field_case
        shape = (size,) * 3
        S = build(name, shape, seed)
        self.part = Partition(shape)
        self.A = DistributedPoisson.from_operator(S, self.part)
        whole = np.asarray(right_hand_side(S, "white", seed))
        whole = S.from_grid(S.nullspace.project(S.to_grid(whole)), whole)
        self.b, self.traffic = np.ascontiguousarray(whole[self.part.own]), traffic
        self.norm = float(np.linalg.norm(whole))
        self.unknowns, self.name, self.shape, self.seed = S.unknowns, name, shape, seed
        kernel = self.A.fields.unknown.astype(float) if self.A.nullspace.dimension == 1 else None
        self.kernel = None if kernel is None else self.A.to_vector(kernel.reshape(self.part.own_shape))
        if self.kernel is not None:
            self.kernel.normalize()
        self.matrices = {"aij": self.A.mat, "hyprestruct": self._on_dmda()}
        if self.kernel is not None:
            for matrix in self.matrices.values():
                matrix.setNullSpace(load_petsc().NullSpace().create(vectors=[self.kernel], comm=self.part.comm))

    def _on_dmda(self) -> Any:
        """Return the matrix that hypre's structured solvers take, on the same boxes."""
        PETSc, part = load_petsc(), self.part
        lengths = [np.diff(planes).astype(PETSc.IntType) for planes in part.planes]
        self.da = PETSc.DMDA().create(
            sizes=part.size, proc_sizes=[len(n) for n in lengths], ownership_ranges=lengths, dof=1, stencil_width=1,
            stencil_type="star", comm=part.comm,
        )  # fmt: skip
        self.A.mat.setDM(self.da)
        self.da.setMatType("hyprestruct")
        matrix = self.da.createMatrix()
        # rows by their numbers in the box with its layer of neighbours, first axis fastest
        (lows, widths), (own, counts) = self.da.getGhostCorners(), self.da.getCorners()
        i, j, k = (np.arange(c) + o - low for o, c, low in zip(own, counts, lows, strict=True))
        rows = i[None, None, :] + widths[0] * (j[None, :, None] + widths[1] * k[:, None, None])
        to_global = self.da.getLGMap().getIndices()
        order = np.argsort(to_global, kind="stable")
        indptr, columns, values = self.A.mat.getValuesCSR()
        local = order[np.searchsorted(to_global, columns, sorter=order)]
        matrix.setValuesLocalIJV(indptr, local.astype(PETSc.IntType), values, rowmap=rows.ravel().astype(PETSc.IntType))
        matrix.assemble()
        return matrix

    def run(self, method: str, rtol: float) -> Run:
        """Set up and solve once, all ranks beginning together."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        before = _memory("VmRSS")
        run = self._ours(rtol) if method == "krylearn" else self._theirs(RIVALS[method], rtol)
        return run._replace(peak=_memory("VmHWM") - before)

    def _clock(self, action: Callable[[], Any]) -> tuple[Any, float]:
        """Return what an action gives and the seconds of the slowest rank."""
        from mpi4py import MPI

        self.part.comm.Barrier()
        start = time.perf_counter()
        found = action()
        return found, self.part.comm.allreduce(time.perf_counter() - start, MPI.MAX)

    def _ours(self, rtol: float) -> Run:
        M, setup = self._clock(lambda: DistributedMultigrid(self.A))
        sent = self.traffic()
        (x, info), solve = self._clock(lambda: cg(self.A, self.b, rtol=rtol, maxiter=LIMIT, M=M))
        return self._judge(x, info.iterations, info.reason is Reason.CONVERGED, rtol, setup, solve, sent, M)

    def _theirs(self, options: dict[str, Any], rtol: float) -> Run:
        PETSc, comm = load_petsc(), self.part.comm
        prefix = "contest_"
        database = PETSc.Options(prefix)
        for name, value in options.items():
            database[name] = value
        matrix = self.matrices["hyprestruct" if "pfmg" in options["pc_type"] else "aij"]
        ksp = PETSc.KSP().create(comm=comm)

        def set_up() -> None:
            ksp.setOptionsPrefix(prefix)
            ksp.setOperators(matrix)
            ksp.setType("cg")
            ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
            ksp.setTolerances(rtol=rtol, atol=0.0, max_it=LIMIT)
            ksp.setFromOptions()
            ksp.setUp()

        _, setup = self._clock(set_up)
        b, x = self.A.to_vector(self.b), self.A.to_vector(np.zeros_like(self.b))
        sent = self.traffic()
        _, solve = self._clock(lambda: ksp.solve(b, x))
        for name in options:
            database.delValue(name)
        run = self._judge(
            self.A.from_vector(x, self.b), ksp.getIterationNumber(), ksp.getConvergedReason() > 0, rtol, setup, solve,
            sent, ksp,
        )  # fmt: skip
        b.destroy(), x.destroy()
        return run

    def _judge(
        self, x: Any, iterations: int, said: bool, rtol: float, setup: float, solve: float, sent: Any, solver: Any
    ) -> Run:
        """Compute the true residual over all ranks, take what was sent, free the solver."""
        now = self.traffic()
        messages, size = ((a - b) / max(iterations, 1) for a, b in zip(now, sent, strict=True))
        r = self.b - self.A @ x
        residual = math.sqrt(self.part.comm.allreduce(float(np.vdot(r, r)))) / self.norm
        solver.destroy()
        # a recurrence may stop a rounding error early
        return Run(iterations, residual, said and residual <= 1.01 * rtol, setup, solve, 0.0, messages, size)

    def destroy(self) -> None:
        """Free the matrices."""
        for matrix in self.matrices.values():
            matrix.destroy()
        self.A.product.destroy()


def _memory(name: str) -> float:
    with open("/proc/self/status") as lines:
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def run_contest(
    size: int = 96,
    repeats: int = 4,
    *,
    systems: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    rtol: float = 1e-8,
    seed: int = 0,
    output: Path,
) -> list[Record]:
    """Measure on all ranks; rank 0 appends the records and prints the table."""
    from mpi4py import MPI

    comm, run, records, traffic = load_petsc().COMM_WORLD.tompi4py(), new_run(), [], Traffic()
    _warm(traffic, methods or METHODS, rtol)
    for name in systems or SYSTEMS:
        contest = Contest(name, size, seed, traffic)
        order = list(methods or METHODS)
        found: dict[str, list[Run]] = {method: [] for method in order}
        for _ in range(repeats):
            for method in order:
                found[method].append(contest.run(method, rtol))
            order.reverse()
        done = []
        for method, runs in found.items():
            peak, messages, sent = (
                comm.allreduce(max(getattr(each, fact) for each in runs), MPI.MAX)
                for fact in ("peak", "messages", "sent")
            )
            solves = [each.solve for each in runs]
            more = {
                "run": run, "ranks": comm.size, "messages": messages, "bytes": sent, "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1), "fastest": [min(e.setup for e in runs), min(solves)],
            }  # fmt: skip
            done.append(
                Record(
                    method, name, contest.unknowns, rtol, "CONVERGED" if all(e.converged for e in runs) else "FAILED",
                    experiment="ranks", seed=seed, shape=contest.shape, repeats=repeats,
                    setup_s=float(np.median([e.setup for e in runs])), solve_s=float(np.median(solves)),
                    spread_s=(min(solves), max(solves)), iterations=runs[0].iterations, peak_bytes=int(peak),
                    true_relres=min(max(e.residual for e in runs), rtol) if all(e.converged for e in runs) else None,
                    more=more,
                )
            )  # fmt: skip
        contest.destroy()
        if comm.rank == 0:  # at once: a run that is stopped has measured something
            append(output, done)
        records += done
    if comm.rank == 0:
        lines = [record.line() for record in records]
        console.print(table(title(lines), HEADER, rows(lines)))
    return records


def _warm(traffic: Traffic, methods: Sequence[str], rtol: float) -> None:
    """Compile and load what every method needs, on a small system."""
    contest = Contest("lognormal", 32, 0, traffic)
    for method in methods:
        contest.run(method, rtol)
    if any(method.startswith("krylearn") for method in methods):  # some systems will get pieces
        M = DistributedMultigrid(contest.A, "pieces")
        cg(contest.A, contest.b, rtol=rtol, M=M)
        M.destroy()
    contest.destroy()


def title(lines: Sequence[dict[str, Any]]) -> str:
    """Say what a table holds."""
    first, loads = lines[0], [line["more"]["load"] for line in lines]
    grid = " x ".join(map(str, first["shape"]))
    where = f"{first['more']['ranks']} ranks on {first['more']['cores']} cores, {grid}"
    load = f"load of the machine {min(loads):g} to {max(loads):g}"
    return f"{where}, to {first['tolerance']:g} of the true residual, least of {first['repeats']} runs; {load}"


def rows(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Write the records as rows of text; messages and kB are per iteration and rank.

    Examples
    --------
    >>> more = {"messages": 12.0, "bytes": 3e5, "fastest": [0.1, 0.2]}
    >>> line = {"problem": "mazes", "method": "m", "status": "CONVERGED", "iterations": 8, "peak_bytes": 10**8}
    >>> rows([line | {"more": more}])
    [['mazes', 'm', '8', '0.100', '0.200', '0.300', '100', '12', '300']]
    """
    made = []
    for line in lines:
        more, good = line["more"], line["status"] == "CONVERGED"
        setup, solve = more["fastest"]
        times = [f"{setup:.3f}", f"{solve:.3f}", f"{setup + solve:.3f}"] if good else [f"{setup:.3f}", "-", "-"]
        hidden = line["method"].startswith(UNCOUNTED)
        text = ["-", "-"] if hidden else [f"{more['messages']:.0f}", f"{more['bytes'] / 1e3:.0f}"]
        iterations = f"{line['iterations']:.0f}" if good else "-"
        made.append([line["problem"], line["method"], iterations, *times, f"{line['peak_bytes'] / 1e6:.0f}", *text])
    return made
