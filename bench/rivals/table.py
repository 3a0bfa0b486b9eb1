"""The rivals: what people install today, each behind one function, configured as its manual advises.

A rival's set-up takes a `System` and gives either what SciPy's `cg` takes as preconditioner, or a loop of its own
(`loops.py`). Tolerance and starting guess are the harness's, and success is judged by the true residual. A rival whose
package is not installed is reported as absent, with the line that installs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..measure.machine import threads, version_of
from ..measure.timers import HostTimer, ReportedTimer, Timer, timer_for
from ..measure.timing import Timing, iterations_to, timed, true_relative_residual
from . import cpu as peers_cpu, gpu as peers_gpu, structured
from .loops import LibraryLoop, Loop, OutOfTimeError, ScipyLoop, System, UnsuitedError, Watched, iterate
from .petsc import RankLoop, several_ranks

__all__ = ["PEERS", "OutOfTimeError", "Outcome", "Peer", "System", "UnsuitedError", "iterate", "prepare", "run"]

Setup = Callable[..., Any]  # of a System; from PETSc also of `make`, which says where the ranks are


@dataclass(frozen=True)
class Peer:
    """A rival: its name in tables, its configuration in words, its distribution, and how it is set up.

    `setup` returns what SciPy's `cg` takes as preconditioner, a function solve(b, rtol), or a loop (`loops.py`).
    `module` is what to import and `install` the line that brings it, where they do not follow from the distribution.
    """

    name: str
    config: str
    distribution: str
    setup: Setup
    module: str = ""
    install: str = ""
    device: str = "cpu"
    found: str | None = None  # version of a rival that is no distribution of its own (plugins.py)
    runs_on: str | Callable[[], str] = "1 thread"  # in words, with {n} for as many as our kernels use
    program: str = ""  # that has to be on the path

    @property
    def width(self) -> str:
        """How many threads or ranks it runs on, in words.

        Examples
        --------
        >>> PEERS["scipy-cg"].width, PEERS["petsc-gamg"].width
        ('1 thread', '1 rank')
        """
        text = self._runs_on()
        return text.format(n=threads()) if threads() > 1 else text.format(n=1).removesuffix("s")

    @property
    def threads(self) -> int:
        """Number of its threads or ranks, 0 for as many as our kernels use.

        Examples
        --------
        >>> PEERS["petsc-gamg"].threads, PEERS["petsc-gamg-ranks"].threads
        (1, 0)
        """
        return 0 if "{n}" in self._runs_on() else 1

    def _runs_on(self) -> str:
        return self.runs_on if isinstance(self.runs_on, str) else self.runs_on()

    @property
    def version(self) -> str | None:
        """Installed version (some Debian packages tell it only in the module), None if absent.

        Examples
        --------
        >>> PEERS["scipy-cg"].version == version_of("scipy")
        True
        """
        if self.found is not None:
            return self.found
        found = version_of(self.distribution)
        name = self.module or self.distribution
        if found or importlib.util.find_spec(name.split(".")[0]) is None:
            return found
        return str(getattr(importlib.import_module(name), "__version__", "unknown"))

    @property
    def absent(self) -> str | None:
        """The line that installs what is missing, or None if nothing is.

        Examples
        --------
        >>> PEERS["scipy-cg"].absent is None
        True
        """
        if not self.version:
            return f"{self.name} is absent: {self.install or f'pip install {self.distribution}'}"
        if self.program and shutil.which(self.program) is None:
            return f"{self.name} is absent: it needs {self.program}, e.g. apt install openmpi-bin"
        return None


@dataclass
class Outcome:
    """What one rival did on one system; `solve` is None if it did not reach the tolerance, `again` repeats it."""

    peer: Peer
    setup_s: float
    solve: Timing | None
    iterations: int | None
    true_relres: float | None
    status: str
    x: np.ndarray | None = field(default=None, repr=False)
    residuals: list[float] = field(default_factory=list, repr=False)
    again: Callable[[], Any] | None = field(default=None, repr=False)
    timer: Timer = field(default_factory=HostTimer, repr=False)
    peak_bytes: int | None = None  # of processes of its own

    def iterations_to(self, rtol: float) -> float | None:
        """Count iterations to the tolerance, interpolated where there is a history; None for a direct solve."""
        if len(self.residuals) > 1:
            found = iterations_to(self.residuals, rtol)
            return found if math.isfinite(found) else float(len(self.residuals) - 1)
        return None if self.iterations is None else float(self.iterations)


PETSC = "apt install python3-petsc4py (Debian), or pip install petsc petsc4py"
QUICKLY = 1.0  # seconds
RANKS = "-ranks"  # ends the name of a rival on as many ranks as our kernels use threads


def with_ranks(peers: Sequence[Peer]) -> Iterator[Peer]:
    """Yield the rivals, and behind each one that runs on a rank the same one on as many ranks as ours has threads.

    Examples
    --------
    >>> [peer.name for peer in with_ranks([PEERS["petsc-gamg"]])]
    ['petsc-gamg', 'petsc-gamg-ranks']
    """
    for peer in peers:
        yield peer
        if peer.runs_on == "1 rank":
            setup = partial(peer.setup, make=several_ranks)
            yield replace(peer, name=peer.name + RANKS, setup=setup, runs_on="{n} ranks", program="mpirun")


EACH = (
    Peer("scipy-cg", "SciPy cg, no preconditioner", "scipy", peers_cpu.plain),
    Peer("scipy-cg-jacobi", "SciPy cg, diagonal", "scipy", peers_cpu.jacobi),
    Peer(
        "scipy-cg-ilu",
        "SciPy cg, SuperLU incomplete factors, symmetric mode, drop tolerance 1e-3 (basic), fill up to 20",
        "scipy",
        peers_cpu.incomplete_lu,
    ),
    Peer(
        "pyamg-sa",
        "SciPy cg, PyAMG smoothed_aggregation_solver as shipped (block Gauss-Seidel, V-cycle)",
        "pyamg",
        peers_cpu.smoothed_aggregation,
    ),
    Peer(
        "pyamg-rs",
        "SciPy cg, PyAMG ruge_stuben_solver as shipped (theta 0.25, Gauss-Seidel, V-cycle)",
        "pyamg",
        peers_cpu.ruge_stuben,
    ),
    Peer(
        "petsc-gamg",
        "PETSc cg, GAMG smoothed aggregation, threshold 0.01, Chebyshev-Jacobi 2",
        "petsc4py",
        peers_cpu.petsc_gamg,
        install=PETSC,
        runs_on="1 rank",
    ),
    Peer(
        "petsc-boomeramg",
        "PETSc cg, hypre BoomerAMG: HMIS, ext+i, P_max 4, strong threshold 0.5 (2D 0.25), one aggressive level",
        "petsc4py",
        peers_cpu.petsc_boomeramg,
        install=PETSC,
        runs_on="1 rank",
    ),
    Peer(
        "hypre-pfmg",
        "PETSc cg on a DMDA, hypre PFMG: symmetric red-black Gauss-Seidel, non-Galerkin coarse operators",
        "petsc4py",
        structured.pfmg,
        install=PETSC,
        runs_on="1 rank",
    ),
    Peer(
        "hypre-pfmg-jacobi",
        "PETSc cg on a DMDA, hypre PFMG: weighted Jacobi, Galerkin coarse operators",
        "petsc4py",
        structured.pfmg_jacobi,
        install=PETSC,
        runs_on="1 rank",
    ),
    Peer(
        "hypre-smg",
        "PETSc cg on a DMDA, hypre SMG as shipped",
        "petsc4py",
        structured.smg,
        install=PETSC,
        runs_on="1 rank",
    ),
    Peer(
        "petsc-pcmg",
        "PETSc cg on a DMDA, PCMG: Q0 interpolation, Galerkin, Chebyshev-Jacobi 2, halved while even and above 8",
        "petsc4py",
        structured.pcmg,
        install=PETSC,
        runs_on="1 rank",
    ),
    Peer(
        "amgcl",
        "AMGCL cg, smoothed aggregation, spai0",
        "pyamgcl",
        peers_cpu.amgcl,
        runs_on=peers_cpu.amgcl_runs_on,
        install="pip install pyamgcl (builds from source: needs a C++ compiler, Boost and pybind11)",
    ),
    Peer(
        "cholesky",
        "CHOLMOD sparse Cholesky, default ordering",
        "scikit-sparse",
        peers_cpu.cholesky,
        module="sksparse",
        install='pip install scikit-sparse (builds from source, with SuiteSparse 7; "scikit-sparse<0.5" with 5)',
    ),
    Peer("transforms", "SciPy DCT, DST, FFT; boxes only", "scipy", peers_cpu.transforms, runs_on="{n} threads"),
    Peer(
        "cupy-cg-jacobi",
        "CuPy cg, diagonal",
        "cupy",
        peers_gpu.cupy_jacobi,
        install="pip install cupy-cuda12x (needs a CUDA device)",
        device="cuda",
        runs_on="CUDA",
    ),
    Peer(
        "amgx",
        "AmgX PCG, classical AMG: PMIS, D2, one aggressive level, L1-Jacobi",
        "pyamgx",
        peers_gpu.amgx,
        install="build AmgX, then pip install pyamgx from its source (needs a CUDA device)",
        device="cuda",
        runs_on="CUDA",
    ),
)
PEERS: dict[str, Peer] = {peer.name: peer for peer in with_ranks(EACH)}


def prepare(peer: Peer, system: System) -> tuple[Loop, float]:
    """Set a rival up: (its loop, set-up seconds).

    What takes less than a second is done twice, and the second time counts: the first one loads libraries.

    Raises
    ------
    ImportError
        If the rival's package is absent; the message installs it.
    UnsuitedError
        If the rival is not made for this system.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> loop, seconds = prepare(PEERS["scipy-cg-jacobi"], System(sp.csr_array(np.diag([2.0, 4.0]))))
    >>> loop(np.array([2.0, 2.0]), 1e-9)
    array([1. , 0.5])
    """
    if peer.absent:
        raise ImportError(peer.absent)
    loop, took = _set_up(peer, system)
    if took < QUICKLY:
        del loop
        loop, took = _set_up(peer, system)
    return loop, took


def _set_up(peer: Peer, system: System) -> tuple[Loop, float]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        # advice on matrix formats and deprecations inside the rival's package are not the reader's business
        warnings.simplefilter("ignore")
        made = peer.setup(system)
    if inspect.isfunction(made):
        made = LibraryLoop(made, lambda: ([], None))
    elif not hasattr(made, "watch"):
        made = ScipyLoop(system.matrix, made)
    took = time.perf_counter() - start
    own = getattr(made, "setup_s", None)  # where handing the matrix over is not part of it
    return made, took if own is None else own


def run(
    peer: Peer, system: System, b: np.ndarray, *, rtol: float, repeats: int = 1, time_limit: float = 120.0
) -> Outcome:
    """Set one rival up on one system, watch it once, then time it undisturbed.

    The first solve records the true residual after each iteration and stops when `time_limit` seconds are over; it is
    the warm-up of the timed ones, which carry no callback. What stops just above the true tolerance gets another
    try with half and a tenth of it: rounding is no failure.

    Parameters
    ----------
    peer : Peer
    system : System; symmetric positive (semi)definite;  b : (n,) right-hand side
    rtol : float; tolerance on ‖b - Ax‖/‖b‖
    repeats : int; timed solves, of which the median counts
    time_limit : float; seconds for the watched solve

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> system = System(sp.csr_array(np.diag(np.arange(1.0, 9.0))))
    >>> outcome = run(PEERS["scipy-cg"], system, np.ones(8), rtol=1e-8)
    >>> outcome.status, outcome.iterations, len(outcome.residuals)
    ('CONVERGED', 8, 9)
    """
    loop, setup_s = prepare(peer, system)
    found = partial(Outcome, peer, setup_s)
    try:
        watched, relres, used = _watched(loop, system, b, rtol, time_limit)
    except OutOfTimeError as stop:
        residuals = stop.args[0]  # none, where a library's own loop was ended
        if not residuals:
            return found(None, None, None, "TIME")
        return found(None, len(residuals) - 1, residuals[-1] / residuals[0], "TIME", residuals=residuals)
    result = found(None, watched.iterations, relres, "MAXITER", watched.x, watched.residuals)
    if relres <= rtol:
        result.status, result.again = "CONVERGED", partial(loop, b, used)
        if isinstance(loop, RankLoop):
            result.timer, result.peak_bytes = ReportedTimer(loop), loop.peak_bytes
        elif peer.device != "cpu":
            result.timer = timer_for(peer.device)
        result.solve = timed(result.again, repeats=repeats, warmup=0, timer=result.timer)[0]
    return result


def _watched(loop: Loop, system: System, b: np.ndarray, rtol: float, limit: float) -> tuple[Watched, float, float]:
    """Watch; tighten where the true residual just misses: (watched, true relative residual, tolerance used)."""
    relres, used = math.inf, rtol
    for factor in (1.0, 0.5, 0.1):
        used = factor * rtol
        watched = loop.watch(b, used, limit)
        x = watched.x.get() if hasattr(watched.x, "get") else watched.x  # CuPy
        relres = true_relative_residual(system.matrix, x, b)
        if not rtol < relres < 3 * rtol:
            break
    return watched, relres, used
