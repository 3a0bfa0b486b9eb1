"""What a rival is made of: the system it gets, and the loop that solves it, watched once and then timed undisturbed.

Three kinds of loops: SciPy's `cg` around a compiled product (`ScipyLoop`), a library's own compiled loop
(`LibraryLoop`), and a direct solve (`Direct`). All start from zero and get the harness's tolerance on ‖b - Ax‖/‖b‖.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from krylearn.pde import Poisson

MAXITER = 5000


class OutOfTimeError(Exception):
    """Raised inside a rival's iteration when its time is spent."""


class UnsuitedError(Exception):
    """Raised by a rival for a system that it is not made for; the message says why."""


@dataclass(frozen=True)
class System:
    """A matrix as rivals like it: CSR over the unknowns alone, and the operator behind it where it is one of ours."""

    matrix: sp.csr_array
    A: Poisson | None = None

    @property
    def dimension(self) -> int:
        """Axes of the grid; 3 where nothing is known of one."""
        return len(self.A.grid_shape) if self.A is not None else 3

    @property
    def constants_in_kernel(self) -> bool:
        """Whether A maps the constants to zero (up to rounding): some libraries want to be told.

        Examples
        --------
        >>> System(sp.csr_array(np.array([[1.0, -1.0], [-1.0, 1.0]]))).constants_in_kernel
        True
        """
        rows = abs(self.matrix @ np.ones(self.matrix.shape[0])).max()
        return bool(rows <= 64 * np.finfo(float).eps * abs(self.matrix.diagonal()).max())


@dataclass
class Watched:
    """A first solve, watched: the solution, residual norms by iteration (if the loop tells), iterations."""

    x: Any
    residuals: list[float] = field(default_factory=list)
    iterations: int | None = None


class Loop(Protocol):
    """A rival that is set up."""

    def __call__(self, b: np.ndarray, rtol: float) -> Any:
        """Solve, undisturbed."""

    def watch(self, b: np.ndarray, rtol: float, time_limit: float) -> Watched:
        """Solve and tell the history."""


def iterate(
    matrix: Any,
    b: np.ndarray,
    preconditioner: Any,
    *,
    rtol: float,
    maxiter: int = MAXITER,
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


@dataclass
class ScipyLoop:
    """SciPy's `cg` with a preconditioner; the watched solve computes the true residual after each iteration.

    Examples
    --------
    >>> loop = ScipyLoop(sp.csr_array(np.diag([2.0, 4.0])), None)
    >>> loop.watch(np.array([2.0, 4.0]), 1e-10, 10.0).iterations
    2
    """

    matrix: Any
    preconditioner: Any
    maxiter: int = MAXITER

    def __call__(self, b: np.ndarray, rtol: float) -> np.ndarray:
        """Solve, undisturbed."""
        return iterate(self.matrix, b, self.preconditioner, rtol=rtol, maxiter=self.maxiter)[0]

    def watch(self, b: np.ndarray, rtol: float, time_limit: float) -> Watched:
        """Solve and note true residuals; stop when the time is spent."""
        residuals, deadline = [float(np.linalg.norm(b))], time.monotonic() + time_limit

        def note(x: np.ndarray) -> None:
            residuals.append(float(np.linalg.norm(b - self.matrix @ x)))
            if time.monotonic() > deadline:
                raise OutOfTimeError(residuals)

        x, _ = iterate(self.matrix, b, self.preconditioner, rtol=rtol, maxiter=self.maxiter, callback=note)
        return Watched(x, residuals, len(residuals) - 1)


@dataclass
class LibraryLoop:
    """A library's own loop: `solve(b, rtol)` returns x, `history()` the last solve's (residual norms, iterations).

    Examples
    --------
    >>> loop = LibraryLoop(lambda b, rtol: b / 2, lambda: ([], 3))
    >>> loop.watch(np.ones(2), 1e-6, 1.0)
    Watched(x=array([0.5, 0.5]), residuals=[], iterations=3)
    """

    solve: Callable[[np.ndarray, float], Any]
    history: Callable[[], tuple[Sequence[float], int | None]]
    keep: Any = None  # what has to live as long as the loop
    setup_s: float | None = None  # seconds of the library's own set-up, where handing the matrix over is none of it

    def __call__(self, b: np.ndarray, rtol: float) -> Any:
        """Solve, undisturbed."""
        return self.solve(b, rtol)

    def watch(self, b: np.ndarray, rtol: float, time_limit: float) -> Watched:
        """Solve and ask for the history; only the library's iteration limit ends what does not converge."""
        x = self.solve(b, rtol)
        residuals, iterations = self.history()
        return Watched(x, [float(r) for r in residuals], iterations)


@dataclass
class Direct:
    """A direct solve: no iterations, and a tolerance that it does not ask for.

    Examples
    --------
    >>> Direct(lambda b: b / 2)(np.ones(2), 1e-6)
    array([0.5, 0.5])
    """

    solve: Callable[[np.ndarray], Any]

    def __call__(self, b: np.ndarray, rtol: float) -> Any:
        """Solve."""
        return self.solve(b)

    def watch(self, b: np.ndarray, rtol: float, time_limit: float) -> Watched:
        """Solve; there is no history."""
        return Watched(self.solve(b))
