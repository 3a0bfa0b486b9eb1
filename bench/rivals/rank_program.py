"""What every rank of a rival out of PETSc does: take its rows, set up, solve, and tell how long it took.

In this process there is one rank (`petsc.py`); as a program, `mpirun -n N python rank_program.py SOCKET`, each rank
connects to the benchmark and sleeps between commands, one JSON line each, so that it takes no processor time from
others' turns. It starts fast: neither torch nor another module of ours is imported here.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = ("indptr", "indices", "data", "kernel")
COARSEST = 8  # cells along an axis below which PCMG does not halve any more


@dataclass(frozen=True)
class Rows:
    """A system as PETSc gets it, in CSR arrays.

    `grid` is empty, or the shape of the grid whose cells, in C order, the rows are; `kernel` is empty, or the mask of
    the rows whose constants the matrix maps to zero.
    """

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    kernel: np.ndarray
    grid: tuple[int, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Rows:
        """Map the arrays that `save` has left; nothing is read before it is used."""
        indptr, indices, data, kernel = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
        return cls(indptr, indices, data, kernel, tuple(json.loads((folder / "grid.json").read_text())))

    def save(self, folder: Path) -> None:
        """Leave the arrays for other processes."""
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "grid.json").write_text(json.dumps(self.grid))


class RankSolver:
    """PETSc's `cg` on one rank's rows, stopped by the unpreconditioned norm; `own` are the numbers of these rows."""

    def __init__(self, rows: Rows, options: Mapping[str, Any], maxiter: int, comm: Any) -> None:
        from petsc4py import PETSc

        self.comm, self.maxiter, self.da = comm, maxiter, None
        options = dict(options)
        if rows.grid:
            matrix_type = "aij" if options["pc_type"] == "mg" else "hyprestruct"
            self.matrix, self.own, self.da = _matrix_on_grid(rows, matrix_type, comm)
        else:
            self.matrix, self.own = _matrix_of_rows(rows, comm)
        if rows.kernel.size:
            there = rows.kernel[self.own].astype(float)
            vector = PETSc.Vec().createWithArray(there / np.sqrt(np.count_nonzero(rows.kernel)), comm=comm)
            self.matrix.setNullSpace(PETSc.NullSpace().create(vectors=[vector], comm=comm))
        self.ksp = PETSc.KSP().create(comm=comm)
        if options["pc_type"] == "mg":
            self.ksp.setDM(self.da)
            self.ksp.setDMActive(False)
            options["pc_mg_levels"] = count_levels(rows.grid)
        prefix = f"krylearn_{options['pc_type']}_"
        self.ksp.setOptionsPrefix(prefix)
        database = PETSc.Options(prefix)
        for name, value in options.items():
            database[name] = value
        self.ksp.setOperators(self.matrix)
        self.ksp.setType("cg")
        self.ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        self.ksp.setConvergenceHistory(maxiter + 1, reset=True)
        self.ksp.setFromOptions()

    def set_up(self) -> float:
        """Set up, all ranks beginning together; return this rank's seconds."""
        self.comm.barrier()
        start = time.perf_counter()
        self.ksp.setUp()
        return time.perf_counter() - start

    def solve(self, b: np.ndarray, rtol: float) -> tuple[np.ndarray, float]:
        """Solve from zero for this rank's part of b: (its part of x, its seconds)."""
        from petsc4py import PETSc

        x = np.zeros_like(b)
        self.ksp.setTolerances(rtol=rtol, atol=0.0, max_it=self.maxiter)
        vectors = [PETSc.Vec().createWithArray(v, comm=self.comm) for v in (b, x)]
        self.comm.barrier()
        start = time.perf_counter()
        self.ksp.solve(*vectors)
        took = time.perf_counter() - start
        for vector in vectors:
            vector.destroy()
        return x, took

    def history(self) -> tuple[list[float], int]:
        """Residual norms and iterations of the last solve."""
        return [float(r) for r in self.ksp.getConvergenceHistory()], int(self.ksp.getIterationNumber())

    def destroy(self) -> None:
        """Free what PETSc holds; all ranks together."""
        for each in (self.ksp, self.matrix, self.da):
            if each is not None:
                each.destroy()


def _matrix_of_rows(rows: Rows, comm: Any) -> tuple[Any, np.ndarray]:
    """Give each rank as many rows as the others: (matrix, the numbers of this rank's rows)."""
    from petsc4py import PETSc

    n = rows.indptr.size - 1
    first, last = (n * k // comm.size for k in (comm.rank, comm.rank + 1))
    entries = slice(rows.indptr[first], rows.indptr[last])
    index = PETSc.IntType
    csr = (
        np.asarray(rows.indptr[first : last + 1] - rows.indptr[first], index),
        np.asarray(rows.indices[entries], index),
        np.array(rows.data[entries]),
    )
    size = (last - first, n)
    return PETSc.Mat().createAIJ(size=(size, size), csr=csr, comm=comm), np.arange(first, last)


def _matrix_on_grid(rows: Rows, matrix_type: str, comm: Any) -> tuple[Any, np.ndarray, Any]:
    """Give each rank a box of a DMDA, our axes in reverse: the first runs fastest there, the last here."""
    import scipy.sparse as sp
    from petsc4py import PETSc

    da = PETSc.DMDA().create(sizes=rows.grid[::-1], dof=1, stencil_width=1, stencil_type="star", comm=comm)
    da.setMatType(matrix_type)
    da.setInterpolationType(PETSc.DMDA.InterpolationType.Q0)  # cells: an axis of n is refined from n / 2
    (starts, counts), (ghosts, widths) = (
        [each[::-1] for each in pair] for pair in (da.getCorners(), da.getGhostCorners())
    )
    box = np.meshgrid(*(np.arange(s, s + n) for s, n in zip(starts, counts, strict=True)), indexing="ij")
    own = np.ravel_multi_index(box, rows.grid).ravel()

    def local(cells: np.ndarray) -> np.ndarray:  # numbers within this rank's box and its layer of neighbours
        places = np.unravel_index(cells, rows.grid)
        inside = tuple(place - ghost for place, ghost in zip(places, ghosts, strict=True))
        return np.ravel_multi_index(inside, widths).astype(PETSc.IntType)

    n = rows.indptr.size - 1
    mine = sp.csr_array((rows.data, rows.indices, rows.indptr), shape=(n, n))[own]
    matrix = da.createMatrix()
    matrix.setValuesLocalIJV(mine.indptr.astype(PETSc.IntType), local(mine.indices), mine.data, rowmap=local(own))
    matrix.assemble()
    return matrix, own, da


def count_levels(grid: tuple[int, ...]) -> int:
    """Count how often every axis can be halved, and one.

    Examples
    --------
    >>> count_levels((64, 32, 1))
    3
    """
    levels, cells = 1, [n for n in grid if n > 1]
    while all(n % 2 == 0 and n > COARSEST for n in cells):
        levels, cells = levels + 1, [n // 2 for n in cells]
    return levels


# --- as a program -----------------------------------------------------------------------------------------------------


def serve(address: str) -> None:
    """Connect, say who this is, and carry out one command after the other until the other side hangs up."""
    from petsc4py import PETSc

    comm = PETSc.COMM_WORLD
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line, line.makefile("rw", encoding="utf-8") as stream:
        line.connect(address)
        _tell(stream, {"rank": comm.rank, "size": comm.size})
        solver: RankSolver | None = None
        before = 0
        for text in stream:
            command = json.loads(text)
            try:
                if command["do"] == "set up":
                    if solver is not None:
                        solver.destroy()
                    solver = None
                    before = _start_of_memory()
                    solver = RankSolver(
                        Rows.load(Path(command["folder"])), command["options"], command["maxiter"], comm
                    )
                    _tell(stream, {"seconds": solver.set_up()})
                elif solver is not None:
                    _tell(stream, _solve(solver, command, before))
            except Exception as error:  # the benchmark ends all ranks then: the others may be waiting for this one
                _tell(stream, {"error": f"{type(error).__name__}: {error}"})


def _solve(solver: RankSolver, command: dict[str, Any], before: int) -> dict[str, Any]:
    b = np.load(command["b"], mmap_mode="r")[solver.own]
    x, seconds = solver.solve(b, command["rtol"])
    np.load(command["x"], mmap_mode="r+")[solver.own] = x
    residuals, iterations = solver.history()
    peak = _memory("VmHWM") - before
    return {"seconds": seconds, "residuals": residuals, "iterations": iterations, "peak": max(0, peak)}


def _tell(stream: Any, facts: dict[str, Any]) -> None:
    stream.write(json.dumps(facts) + "\n")
    stream.flush()


def _start_of_memory() -> int:
    """Let the peak of this process begin anew where the system can (Linux); return the bytes in use."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return sys.maxsize  # no peak is known: what is reported is 0
    return _memory("VmRSS")


def _memory(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


if __name__ == "__main__":
    serve(sys.argv[1])
