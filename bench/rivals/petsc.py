"""Rivals out of PETSc, on one rank in this process or on as many ranks as our kernels use threads.

The ranks are processes of their own, started once by mpirun (`rank_program.py`); they time themselves, and the slowest
counts. Handing matrix and right-hand side over is nobody's set-up: that is KSPSetUp, on the assembled matrix.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..measure.machine import threads
from .loops import MAXITER, LibraryLoop, OutOfTimeError, System, UnsuitedError, Watched
from .rank_program import RankSolver, Rows

START, SET_UP, SOLVE = 60.0, 240.0, 240.0  # seconds after which ranks that do not answer are given up


def hand_over(system: System, *, grid: bool = False) -> tuple[Rows, np.ndarray | None]:
    """Return the system as PETSc gets it, and the numbers of our rows among its rows (None: the same).

    With `grid` it is a full box, as structured multigrid wants it: a cell without an unknown is a row with 1 on its
    diagonal and nothing else.

    Examples
    --------
    >>> rows, _ = hand_over(System(sp.csr_array(np.array([[1.0, -1.0], [-1.0, 1.0]]))))
    >>> rows.kernel
    array([ True,  True])
    """
    csr = system.matrix
    numbers: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    if grid:
        csr, numbers, shape = _full_box(system)
    kernel = np.zeros(0, dtype=bool)
    if system.constants_in_kernel:
        kernel = np.zeros(csr.shape[0], dtype=bool)
        kernel[slice(None) if numbers is None else numbers] = True
    return Rows(csr.indptr.astype(np.int64), csr.indices, csr.data, kernel, shape), numbers


def _full_box(system: System) -> tuple[sp.csr_array, np.ndarray, tuple[int, ...]]:
    A = system.A
    if A is None:
        raise UnsuitedError("structured multigrid needs a grid, and nothing is known of one")
    if any(kinds[0] == "periodic" for kinds in A.boundary):
        raise UnsuitedError("periodic axes are not handed to the structured rivals")
    if A.numbering is not None:  # a matrix of the user's, in an order of its own
        numbers = A.numbering.cpu().numpy()
    else:
        numbers = np.flatnonzero(A.unknown.cpu().numpy())
    cells = math.prod(A.grid_shape)
    place = sp.csr_array((np.ones(numbers.size), (numbers, np.arange(numbers.size))), shape=(cells, numbers.size))
    idle = np.ones(cells)
    idle[numbers] = 0.0
    full = (place @ sp.csr_array(system.matrix) @ place.T + sp.diags_array(idle)).tocsr()
    full.sort_indices()
    return full, numbers, tuple(A.grid_shape)


def one_rank(system: System, options: Mapping[str, Any], *, grid: bool = False) -> LibraryLoop:
    """Set up on one rank, here.

    Parameters
    ----------
    system : System
    options : PETSc options without a prefix, `pc_type` among them
    grid : whether the preconditioner wants a DMDA
    """
    from petsc4py import PETSc

    rows, numbers = hand_over(system, grid=grid)
    solver = RankSolver(rows, options, MAXITER, PETSc.COMM_SELF)
    setup_s = solver.set_up()

    def solve(b: np.ndarray, rtol: float) -> np.ndarray:
        return _taken(solver.solve(_spread(b, numbers, rows), rtol)[0], numbers)

    return LibraryLoop(solve, solver.history, keep=solver, setup_s=setup_s)


def several_ranks(system: System, options: Mapping[str, Any], *, grid: bool = False) -> RankLoop:
    """Set up on as many ranks as our kernels use threads, in processes of their own.

    Parameters
    ----------
    system, options, grid : as of `one_rank`

    Raises
    ------
    UnsuitedError
        If the ranks do not start, or die, or are not done in time; the message says so.
    """
    return RankLoop(*hand_over(system, grid=grid), options)


def _spread(b: np.ndarray, numbers: np.ndarray | None, rows: Rows) -> np.ndarray:
    if numbers is None:
        return np.ascontiguousarray(b, dtype=np.float64)
    whole = np.zeros(rows.indptr.size - 1)
    whole[numbers] = b
    return whole


def _taken(x: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
    return x if numbers is None else x[numbers]


class RankLoop:
    """A rival that is set up on several ranks; `seconds` is what its last solve took, of the slowest rank."""

    def __init__(self, rows: Rows, numbers: np.ndarray | None, options: Mapping[str, Any]) -> None:
        self.rows, self.numbers = rows, numbers
        self.seconds, self.peak_bytes = 0.0, 0
        self._b: np.ndarray | None = None
        self.place = Path(tempfile.mkdtemp(prefix="krylearn-ranks-"))
        weakref.finalize(self, shutil.rmtree, self.place, ignore_errors=True)
        rows.save(self.place)
        np.save(self.place / "x.npy", np.zeros(rows.indptr.size - 1))
        command = {"do": "set up", "folder": str(self.place), "options": dict(options), "maxiter": MAXITER}
        self.ranks = Ranks.running()
        self.setup_s = max(reply["seconds"] for reply in self.ranks.ask(command, SET_UP))

    def __call__(self, b: np.ndarray, rtol: float) -> np.ndarray:
        """Solve, undisturbed; `seconds` holds the time."""
        return self._solve(b, rtol, SOLVE)[0]

    def watch(self, b: np.ndarray, rtol: float, time_limit: float) -> Watched:
        """Solve and ask for the history; the ranks are ended where the time is spent."""
        x, replies = self._solve(b, rtol, time_limit)
        return Watched(x, replies[0]["residuals"], replies[0]["iterations"])

    def _solve(self, b: np.ndarray, rtol: float, limit: float) -> tuple[np.ndarray, list[dict[str, Any]]]:
        if self._b is not b:
            np.save(self.place / "b.npy", _spread(b, self.numbers, self.rows))
            self._b = b
        files = {name: str(self.place / f"{name}.npy") for name in ("b", "x")}
        try:
            replies = self.ranks.ask({"do": "solve", "rtol": rtol, **files}, limit)
        except TimeoutError as late:
            raise OutOfTimeError([]) from late
        self.seconds = max(reply["seconds"] for reply in replies)
        self.peak_bytes = sum(reply["peak"] for reply in replies)
        return _taken(np.load(self.place / "x.npy"), self.numbers), replies


class Ranks:
    """Processes that mpirun has started and that wait for commands; one set of them serves all rivals in turn."""

    _running: Ranks | None = None

    @classmethod
    def running(cls) -> Ranks:
        """Return the ranks of this process, as many as our kernels have threads; start them where there are none."""
        found = cls._running
        if found is not None and (found.count != threads() or found.process.poll() is not None):
            found.close()
            found = None
        if found is None:
            found = cls._running = cls(threads())
            atexit.register(found.close)
        return found

    def __init__(self, count: int) -> None:
        self.count = count
        self.lines: list[socket.socket] = []
        self.streams: list[Any] = []  # what is written to and read from them, by rank
        mpirun = shutil.which("mpirun")
        if mpirun is None:
            raise UnsuitedError("there is no mpirun, which starts the ranks: apt install openmpi-bin")
        folder = Path(tempfile.mkdtemp(prefix="krylearn-mpi-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.said = folder / "output.txt"
        address = str(folder / "socket")
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            # Open MPI: root in a container, and as many ranks as threads even where two threads share a core
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        }  # fmt: skip
        program = Path(__file__).with_name("rank_program.py")
        command = [mpirun, "-n", str(count), sys.executable, str(program), address]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door, self.said.open("wb") as said:
            door.bind(address)
            door.listen(count)
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            self._admit(door)

    def _admit(self, door: socket.socket) -> None:
        """Wait until every rank has connected, and put them in order."""
        door.settimeout(0.2)
        deadline = time.monotonic() + START
        come: dict[int, Any] = {}
        while len(come) < self.count:
            try:
                line, _ = door.accept()
            except TimeoutError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise UnsuitedError(self._end("the ranks did not start")) from None
                continue
            line.settimeout(START)
            stream = line.makefile("rw", encoding="utf-8")
            self.lines.append(line)
            who = json.loads(stream.readline() or "{}")
            if who.get("size") != self.count:
                raise UnsuitedError(
                    self._end(f"mpirun started {self.count} ranks, and petsc4py sees {who.get('size')}: another MPI?")
                )
            come[who["rank"]] = stream
        self.streams = [come[rank] for rank in sorted(come)]

    def ask(self, command: dict[str, Any], limit: float) -> list[dict[str, Any]]:
        """Give all ranks one command and return what each replies, in order.

        Raises
        ------
        TimeoutError
            If they are not done after `limit` seconds; they are ended then.
        UnsuitedError
            If one has died or failed; all are ended then, since the others wait for it.
        """
        deadline = time.monotonic() + limit
        replies = []
        try:
            for stream in self.streams:
                stream.write(json.dumps(command) + "\n")
                stream.flush()
            for line, stream in zip(self.lines, self.streams, strict=True):
                line.settimeout(max(0.1, deadline - time.monotonic()))
                replies.append(json.loads(stream.readline() or '{"error": "a rank has died"}'))
        except TimeoutError:
            self.close()
            raise TimeoutError(f"{self.count} ranks were not done after {limit:g} s") from None
        except (OSError, ValueError) as error:
            raise UnsuitedError(self._end(f"the ranks are gone: {error}")) from error
        wrong = [reply["error"] for reply in replies if "error" in reply]
        if wrong:
            raise UnsuitedError(self._end(wrong[0]))
        return replies

    def _end(self, why: str) -> str:
        """End all ranks; return the reason with the last thing that they said."""
        said = [line for line in self.said.read_text(errors="replace").splitlines() if line.strip(" -")]
        self.close()
        return f"{why} ({said[-1].strip()[:200]})" if said else why

    def close(self) -> None:
        """End the ranks: they stop when nobody listens any more; who does not is ended."""
        for each in (*self.streams, *self.lines):
            try:
                each.close()
            except OSError:
                pass
        self.streams, self.lines = [], []
        try:
            self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if Ranks._running is self:
            Ranks._running = None
        atexit.unregister(self.close)
