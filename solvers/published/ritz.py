"""Right-hand sides from Ritz vectors: what the deep conjugate direction method is trained on, as published.

    Lanczos with A from A g, g ~ N(0, 1):  m steps in float64, each vector orthogonalised against all earlier ones
    Ritz pairs ascending, those of the null space (published: value < 1e-8) dropped:  y_1 ... y_k
    b = Σ cᵢ yᵢ,  cᵢ ~ N(0, 1),  but 9 N(0, 1) for i <= m/2 + θ;  then ‖b‖ = 1

The start lies in the range of A, so a singular A is no obstacle. The cut m/2 + θ is counted after the zero modes are
gone. Published: m = 10,000 and θ = 500 at 64³ and 128³, 20,000 right-hand sides kept on disk. Here none is kept:
number i of a stream is a function of (seed, i), made when asked for, many at a time by one matrix product. What has to
be held is the basis, m·n numbers: 197 MB in float32 at m = 1,500 and 32³, 10 GB (21 GB while it is made) at
m = 10,000 and 64³. `chunk` bounds what making a batch adds.

Kaneda et al., ICML 2023, section 5.2 and the authors' code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from krylearn.pde import Poisson
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..files import write_bytes
from ..lanczos import ritz_pairs, tridiagonalize

ZERO = 1e-8
"""Ritz values below this belong to the null space (A has the integer entries of the published code)."""
FACTOR = 9.0
PUBLISHED_M, PUBLISHED_THETA = 10_000, 500
STREAMS = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True)
class RitzBasis:
    """Ritz vectors of one operator, and the right-hand sides that they span.

    Attributes
    ----------
    vectors : (k, n), float32, unit rows by ascending Ritz value, on the internal grid flattened
    values : (k,), float64; bounds : (k,), residual bounds ‖A y - θ y‖
    low : int; the first `low` of them get the factor
    grid : shape of the internal grid
    factor : float, standard deviation of the low coefficients
    seconds : what making it took
    """

    vectors: Tensor
    values: Tensor
    bounds: Tensor
    low: int
    grid: tuple[int, ...]
    factor: float = FACTOR
    seconds: float = 0.0

    def coefficients(self, numbers: Iterable[int], seed: int, stream: str = "train") -> Tensor:
        """Return the coefficients of the given right-hand sides, (len(numbers), k), float32.

        Each row has its own generator, so that a batch is the same however the stream is cut into batches.
        """
        if stream not in STREAMS:
            raise ValueError(f"got stream={stream!r}; expected one of {', '.join(STREAMS)}")
        k = len(self.values)
        rows = [
            np.random.default_rng((seed, STREAMS[stream], int(i))).standard_normal(k, dtype=np.float32) for i in numbers
        ]
        c = torch.from_numpy(np.stack(rows)) if rows else torch.empty((0, k))
        c[:, : self.low] *= self.factor
        return c

    def right_hand_sides(self, numbers: Iterable[int], seed: int, stream: str = "train", chunk: int = 100) -> Tensor:
        """Make right-hand sides of unit norm.

        Parameters
        ----------
        numbers : which of the stream
        seed : of the stream;  stream : "train", "validation" or "test", disjoint draws
        chunk : how many are made by one matrix product

        Returns
        -------
        Tensor, (len(numbers), *grid), float32, on the device of the basis

        Examples
        --------
        >>> A = Poisson.from_coefficients(np.ones((6, 6)), boundary="neumann")
        >>> basis = ritz_basis(A, 20, theta=1, seed=7)
        >>> b = basis.right_hand_sides(range(3), seed=7)
        >>> tuple(b.shape), bool(torch.allclose(b.flatten(1).norm(dim=1), torch.ones(3)))
        ((3, 6, 1, 6), True)
        """
        numbers = list(numbers)
        out = self.vectors.new_empty((len(numbers), self.vectors.shape[1]))
        for i in range(0, len(numbers), chunk):
            c = self.coefficients(numbers[i : i + chunk], seed, stream).to(self.vectors.device)
            torch.mm(c, self.vectors, out=out[i : i + chunk])
        out /= torch.linalg.vector_norm(out, dim=1, keepdim=True)
        return out.view(len(numbers), *self.grid)

    def to(self, device: torch.device | str) -> RitzBasis:
        """Move the vectors to a device."""
        return replace(self, vectors=self.vectors.to(device))


def scaled_theta(steps: int) -> int:
    """Return θ for m = steps, in the published proportion (500 of 10,000).

    >>> scaled_theta(1500)
    75
    """
    return round(steps * PUBLISHED_THETA / PUBLISHED_M)


def ritz_basis(
    A: Poisson, steps: int, *, theta: int | None = None, factor: float = FACTOR, seed: int = 0, chunk: int = 256
) -> RitzBasis:
    """Compute the Ritz vectors of A that training right-hand sides are made of.

    Cost: `steps` products with A and 4 steps² n flops for two-pass orthogonalisation, as much again for the vectors;
    memory 8 steps n bytes for the basis while it is made, then 4 steps n.

    Parameters
    ----------
    A : Poisson; published: the empty box with walls all around, unit spacing
    steps : m, steps of Lanczos; the grid has to have as many unknowns, or fewer vectors come out
    theta : how many more than half of the steps get the factor; None: in the published proportion, m/20
    factor : standard deviation of the coefficients of the low ones
    seed : of the start vector
    chunk : rows of vectors that are formed at a time

    Returns
    -------
    RitzBasis

    Examples
    --------
    >>> A = Poisson.from_coefficients(np.ones((8, 8)), boundary="neumann")
    >>> basis = ritz_basis(A, 24, seed=3)
    >>> basis.low, bool(basis.values[0] > 1e-8), basis.grid
    (13, True, (8, 1, 8))
    """
    if int(steps) != steps or steps < 2:
        raise ValueError(f"got steps={steps}; expected an integer of 2 or more")
    begin = time.perf_counter()
    generator = torch.Generator(device="cpu").manual_seed(seed)
    like = A.diag
    noise = torch.randn(tuple(like.shape), generator=generator, dtype=torch.float64).to(like.device)
    T = tridiagonalize(_lifted(A), A.apply(noise), int(steps))
    pairs = ritz_pairs(T)
    keep = torch.nonzero(pairs.values >= ZERO).flatten()
    S = torch.linalg.eigh(T.matrix())[1][:, keep].to(T.basis.device)
    flat = T.basis.reshape(len(T.alpha), -1)
    vectors = torch.empty((len(keep), flat.shape[1]), dtype=torch.float32, device=flat.device)
    for i in range(0, len(keep), chunk):
        y = S[:, i : i + chunk].T @ flat
        vectors[i : i + chunk] = y / torch.linalg.vector_norm(y, dim=1, keepdim=True)
    inside = _null_part(A, vectors) < 0.5
    keep, vectors = keep[inside.cpu()], vectors[inside]
    theta = scaled_theta(len(T.alpha)) if theta is None else theta
    low = min(len(keep), len(T.alpha) // 2 + theta)
    seconds = time.perf_counter() - begin
    return RitzBasis(vectors, pairs.values[keep], pairs.bounds[keep], low, tuple(like.shape), factor, seconds)


def _lifted(A: Poisson) -> Callable[[Tensor], Tensor]:
    """Return A with its null space moved to the middle of the spectrum.

    Rounding brings a trace of it into the start vector, and Lanczos amplifies what lies at the end of the spectrum: a
    Ritz value that has not converged would be small and above any threshold. In the middle nothing is amplified.
    """
    if not A.nullspace:
        return A.apply
    level, project = float(A.diag.max()), A.nullspace.project
    return lambda q: A.apply(q) + level * (q - project(q))


def _null_part(A: Poisson, vectors: Tensor) -> Tensor:
    """Return the norm of what of each unit vector lies in the null space."""
    if not A.nullspace:
        return torch.zeros(len(vectors), device=vectors.device)
    parts = []
    for i in range(0, len(vectors), 64):
        y = vectors[i : i + 64].double().view(-1, *A.diag.shape)
        parts.append((y - A.nullspace.project(y)).flatten(1).norm(dim=1))
    return torch.cat(parts)


def stored_basis(A: Poisson, steps: int, path: Path, **options: Any) -> RitzBasis:
    """Return `ritz_basis(A, steps, **options)`, from a file if that has been made by the same call before.

    A resumed training need not run Lanczos again. The file takes 4 steps n bytes; one of another call is replaced.

    >>> import tempfile
    >>> A = Poisson.from_cells(np.ones((6, 6)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first, again = (stored_basis(A, 9, Path(folder) / "basis.safetensors", seed=1) for _ in range(2))
    >>> torch.equal(first.vectors, again.vectors), first.low == again.low
    (True, True)
    """
    call = json.dumps({"steps": steps, "grid": list(A.diag.shape), "diagonal": float(A.diag.sum()), **options})
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts.get("call") == call:
                vectors, values, bounds = (file.get_tensor(name) for name in ("vectors", "values", "bounds"))
                factor, seconds = float(facts["factor"]), float(facts.get("seconds", 0.0))
                grid, low = tuple(A.diag.shape), int(facts["low"])
                return RitzBasis(vectors, values, bounds, low, grid, factor, seconds).to(A.device)
    except (OSError, SafetensorError):
        pass  # none yet, or half a file
    basis = ritz_basis(A, steps, **options)
    tensors = {"vectors": basis.vectors.cpu(), "values": basis.values, "bounds": basis.bounds}
    facts = {"low": str(basis.low), "factor": str(basis.factor), "seconds": str(basis.seconds)}
    write_bytes(path, save(tensors, {"call": call, **facts}))
    return basis
