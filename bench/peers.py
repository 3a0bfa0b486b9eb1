"""The rivals: SciPy's conjugate gradients, plain or preconditioned by what people install today.

Each rival is a function from a CSR matrix to the preconditioner that SciPy's `cg` takes; the iteration is the same loop
around a compiled product for all of them, tolerance and starting guess are the harness's, and success is judged by the
true residual. A rival whose package is not installed is reported as absent, with the line that installs it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .harness import Timing, timed, true_relative_residual
from .machine import version_of

Setup = Callable[[sp.csr_matrix], Any]


@dataclass(frozen=True)
class Peer:
    """A rival: its name in tables, its configuration in words, its distribution, and how to make its preconditioner."""

    name: str
    config: str
    distribution: str
    setup: Setup

    @property
    def absent(self) -> str | None:
        """The line that installs what is missing, or None if nothing is.

        Examples
        --------
        >>> PEERS["scipy-cg"].absent is None
        True
        """
        return None if version_of(self.distribution) else f"{self.name} is absent: pip install {self.distribution}"


@dataclass
class Outcome:
    """What one rival did on one system; `solve` is None if it did not reach the tolerance."""

    peer: Peer
    setup_s: float
    solve: Timing | None
    iterations: int
    true_relres: float
    status: str
    x: np.ndarray = field(repr=False)
    residuals: list[float] = field(default_factory=list, repr=False)
    preconditioner: Any = field(default=None, repr=False)


def _identity(matrix: sp.csr_matrix) -> None:
    return None


def _jacobi(matrix: sp.csr_matrix) -> spla.LinearOperator:
    inverse = 1 / matrix.diagonal()
    return spla.LinearOperator(matrix.shape, matvec=lambda r: inverse * r.ravel(), dtype=matrix.dtype)


def _smoothed_aggregation(matrix: sp.csr_matrix) -> spla.LinearOperator:
    import pyamg

    return pyamg.smoothed_aggregation_solver(matrix).aspreconditioner()


def _ruge_stuben(matrix: sp.csr_matrix) -> spla.LinearOperator:
    import pyamg

    return pyamg.ruge_stuben_solver(matrix).aspreconditioner()


PEERS: dict[str, Peer] = {
    "scipy-cg": Peer("scipy-cg", "SciPy cg, no preconditioner", "scipy", _identity),
    "scipy-cg-jacobi": Peer("scipy-cg-jacobi", "SciPy cg, diagonal", "scipy", _jacobi),
    "pyamg-sa": Peer(
        "pyamg-sa",
        "SciPy cg, PyAMG smoothed_aggregation_solver as shipped (block Gauss-Seidel, V-cycle)",
        "pyamg",
        _smoothed_aggregation,
    ),
    "pyamg-rs": Peer(
        "pyamg-rs",
        "SciPy cg, PyAMG ruge_stuben_solver as shipped (theta 0.25, Gauss-Seidel, V-cycle)",
        "pyamg",
        _ruge_stuben,
    ),
}


class OutOfTimeError(Exception):
    """Raised inside a rival's iteration when its time is spent."""


def prepare(peer: Peer, matrix: sp.csr_matrix) -> tuple[Any, float]:
    """Make the rival's preconditioner: (preconditioner, set-up seconds).

    Raises
    ------
    ImportError
        If the rival's package is absent; the message installs it.

    Examples
    --------
    >>> M, seconds = prepare(PEERS["scipy-cg-jacobi"], sp.csr_matrix(np.diag([2.0, 4.0])))
    >>> M @ np.array([2.0, 2.0])
    array([1. , 0.5])
    """
    if peer.absent:
        raise ImportError(peer.absent)
    start = time.perf_counter()
    with warnings.catch_warnings():
        # advice on matrix formats and deprecations inside the rival's package are not the reader's business
        warnings.simplefilter("ignore")
        preconditioner = peer.setup(matrix)
    return preconditioner, time.perf_counter() - start


def iterate(
    matrix: sp.csr_matrix,
    b: np.ndarray,
    preconditioner: Any,
    *,
    rtol: float,
    maxiter: int = 5000,
    callback: Callable[[np.ndarray], None] | None = None,
) -> tuple[np.ndarray, int]:
    """SciPy's `cg` from a zero guess, without any bookkeeping between its lines: (x, info).

    Examples
    --------
    >>> x, info = iterate(sp.csr_matrix(np.diag([2.0, 4.0])), np.array([2.0, 4.0]), None, rtol=1e-10)
    >>> np.round(x, 6), info
    (array([1., 1.]), 0)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spla.cg(matrix, b, rtol=rtol, atol=0.0, maxiter=maxiter, M=preconditioner, callback=callback)


def run(
    peer: Peer, matrix: sp.csr_matrix, b: np.ndarray, *, rtol: float, repeats: int = 1, time_limit: float = 120.0
) -> Outcome:
    """Set one rival up on one system, watch it once, then time it undisturbed.

    The first solve records the true residual after each iteration and stops when `time_limit` seconds are over;
    it warms up for the timed ones, which carry no callback.

    Parameters
    ----------
    peer : Peer
    matrix : csr, shape (n, n), symmetric positive (semi)definite; b : (n,) right-hand side
    rtol : float; tolerance on ‖b - Ax‖/‖b‖
    repeats : int; timed solves, of which the median counts
    time_limit : float; seconds for the watched solve

    Examples
    --------
    >>> matrix = sp.csr_matrix(np.diag(np.arange(1.0, 9.0)))
    >>> outcome = run(PEERS["scipy-cg"], matrix, np.ones(8), rtol=1e-8)
    >>> outcome.status, outcome.iterations, len(outcome.residuals)
    ('CONVERGED', 8, 9)
    """
    preconditioner, setup_s = prepare(peer, matrix)
    residuals, deadline = [float(np.linalg.norm(b))], time.monotonic() + time_limit

    def watch(x: np.ndarray) -> None:
        residuals.append(float(np.linalg.norm(b - matrix @ x)))
        if time.monotonic() > deadline:
            raise OutOfTimeError

    solve = partial(iterate, matrix, b, preconditioner, rtol=rtol)
    found = partial(Outcome, peer, setup_s, residuals=residuals, preconditioner=preconditioner)
    try:
        x, _ = solve(callback=watch)
    except OutOfTimeError:
        return found(None, len(residuals) - 1, residuals[-1] / residuals[0], "TIME", np.zeros_like(b))
    relres = true_relative_residual(matrix, x, b)
    if relres > rtol:
        return found(None, len(residuals) - 1, relres, "MAXITER", x)
    timing, _ = timed(solve, repeats=repeats, warmup=0)
    return found(timing, len(residuals) - 1, relres, "CONVERGED", x)
