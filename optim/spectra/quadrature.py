"""The spectrum of a symmetric operator by stochastic Lanczos quadrature, with error bars.

    μ = 1/n Σᵢ δ(λᵢ)  ≈  1/k Σᵥ Σⱼ wᵥⱼ δ(θᵥⱼ)

θ, w are the Gauss nodes and weights of probe v: exact for polynomials up to degree 2·steps - 1 of the probe's own
measure, whose mean over probes is μ. Three kinds of error, kept apart: residual bounds (Lanczos stopped early), spread
over probes (few random vectors), and intervals for the edges that hold with a stated probability (`intervals`). What
another batch would give is a fourth one: see `noise`.

Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38 (2017); Chen, Trogdon and Ubaru, arXiv 2105.06595.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from krylearn.solvers.lanczos import Tridiagonal
from torch import Tensor

from ..progress import watch
from .estimates import Density, Edge, Estimate, Extremes
from .probes import Storage, tridiagonalize_probes
from .result import Spectrum

__all__ = ["Density", "Edge", "Estimate", "Extremes", "Spectrum", "slq"]


def slq(
    A: Any,
    *,
    steps: int = 80,
    probes: int = 4,
    rng: int | torch.Generator | None = None,
    size: int | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
    vectors: bool = False,
    storage: Storage = None,
    progress: bool | None = None,
) -> Spectrum:
    """Estimate the spectrum of a symmetric operator by stochastic Lanczos quadrature; steps · probes products.

    Memory: steps · probes · n numbers for the bases. Densities want 80 x 4 and more, edges 30 x 1.

    Parameters
    ----------
    A : a `Curvature`, a dense tensor, or a callable or operator with `@` on vectors (then pass size)
    steps, probes : int >= 1; Lanczos steps of each probe; random Gaussian probes, all advanced together
    rng : seed, generator (one number is drawn) or None for a fresh seed; the result keeps it. With several ranks the
        first one's seed holds on all
    size, dtype, device : of the vectors, where A does not tell
    vectors : also return the Ritz vectors of both extremes
    storage : dtype ("bf16") or device ("cpu") of the bases, for large models
    progress : bar on standard error: always, never, or (None) if it takes long on a terminal

    Returns
    -------
    Spectrum : nodes, weights, residual bounds, spread over probes, extremes with intervals

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 10.0], dtype=torch.float64))
    >>> round(slq(A, steps=3, probes=1).max, 6)
    10.0
    """
    if steps < 1 or probes < 1:
        raise ValueError(f"got steps={steps}, probes={probes}; expected integers >= 1")
    n, dtype, device = find_face(A, size, dtype, device)
    seed = find_seed(rng, getattr(A, "group", None), device)
    starts = draw_gaussian(probes, n, seed).to(device, dtype)
    return _from_starts(A, starts, steps, seed, vectors=vectors, storage=storage, progress=progress)


def leaning_spectrum(A: Any, steps: int, rng: int | torch.Generator | None) -> Spectrum:
    """Return a spectrum from one Gaussian probe that leans to the gradient, where A has one: for edges alone.

    The gradient of a network lies largely within the top eigenvectors (Gur-Ari et al., arXiv 1812.04754), so these are
    found sooner. Intervals hold as before: they ask how likely a small (x·v₁)² is, which a shift of the Gaussian x can
    only make less likely (Anderson's inequality), and they know ‖x‖. Densities and traces would not hold.

    Examples
    --------
    >>> round(leaning_spectrum(torch.eye(3, dtype=torch.float64), 2, 1).max, 9)
    1.0
    """
    n, dtype, device = find_face(A, None, None, None)
    seed = find_seed(rng, getattr(A, "group", None), device)
    start = draw_gaussian(1, n, seed).to(device, dtype)
    if hasattr(A, "gradient"):
        g = A.gradient().to(torch.float64)
        size = torch.linalg.vector_norm(g)
        if bool(torch.isfinite(size) & (size > 0)):
            start = start + (g * (n**0.5 / size)).to(dtype)  # as long as the Gaussian part
    return _from_starts(A, start, steps, seed)


def draw_gaussian(probes: int, n: int, seed: int) -> Tensor:
    """Return normal numbers (probes, n), float64, the same on every device.

    Examples
    --------
    >>> draw_gaussian(2, 3, 1).shape
    torch.Size([2, 3])
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same probes on every device
    return torch.randn(probes, n, generator=generator, dtype=torch.float64)


def _from_starts(
    A: Any,
    starts: Tensor,
    steps: int,
    seed: int,
    *,
    vectors: bool = False,
    storage: Storage = None,
    progress: bool | None = None,
) -> Spectrum:
    runs = tridiagonalize_probes(map_rows(A), starts, steps, storage=storage, watch=watch("Lanczos", progress))
    facts = {key: getattr(A, key) for key in ("kind", "samples", "method") if hasattr(A, key)}
    plain = tuple((T.alpha.numpy(), T.beta.numpy(), T.start_norm, T.complete) for T in runs)
    bottom, top = _extreme_vectors(runs) if vectors else (None, None)
    made = sum(len(alpha) for alpha, *_ in plain)
    return Spectrum(plain, starts.shape[1], made, seed, _rounding(A, starts.dtype), facts, top, bottom)


def find_face(A: Any, size: int | None, dtype: torch.dtype | None, device: Any) -> tuple[int, torch.dtype, Any]:
    """Return n, dtype and device of the vectors that A takes.

    Examples
    --------
    >>> find_face(torch.eye(3), None, None, None)
    (3, torch.float32, device(type='cpu'))
    """
    n = size if size is not None else (A.shape[0] if hasattr(A, "shape") else None)
    if n is None:
        raise ValueError(f"{type(A).__name__} does not tell its size; pass size=n (and dtype, device if they matter)")
    own = getattr(A, "torch_dtype", getattr(A, "dtype", None))
    dtype = dtype or (own if isinstance(own, torch.dtype) else torch.float64)
    return int(n), dtype, device or getattr(A, "device", torch.device("cpu"))


def map_rows(A: Any) -> Callable[[Tensor], Tensor]:
    """Return A as a map of rows (k, n).

    Examples
    --------
    >>> map_rows(lambda v: 2 * v)(torch.ones(1, 2)).tolist()
    [[2.0, 2.0]]
    """
    if isinstance(A, Tensor):
        return lambda q: q @ A
    if hasattr(A, "chunk_product"):
        return A
    apply = A if callable(A) else A.__matmul__
    return lambda q: torch.stack([torch.as_tensor(apply(v)) for v in q])


def find_seed(rng: int | torch.Generator | None, group: Any, device: Any) -> int:
    """Return the seed to draw with, the same on all ranks of a group.

    Examples
    --------
    >>> find_seed(7, None, "cpu")
    7
    """
    if rng is None:
        seed = torch.Generator().seed() % 2**63
    else:
        seed = int(torch.randint(2**62, (), generator=rng)) if isinstance(rng, torch.Generator) else int(rng)
    if group is not None:
        shared = torch.tensor(seed, dtype=torch.int64, device=device)
        dist.broadcast(shared, src=dist.get_global_rank(group, 0), group=group)
        seed = int(shared)
    return seed


def _rounding(A: Any, dtype: torch.dtype) -> float:
    """Return the relative error of a product: differences lose a third of the digits."""
    eps = float(torch.finfo(dtype).eps)
    return eps ** (2 / 3) if getattr(A, "method", None) == "finite-differences" else eps


def _extreme_vectors(runs: list[Tridiagonal]) -> tuple[Tensor, Tensor]:
    """Return the unit Ritz vectors of the smallest and the largest Ritz value of all probes."""
    found = []
    for sign in (-1, 1):
        solved = [torch.linalg.eigh(sign * T.matrix()) for T in runs]
        i = int(np.argmax([float(values[-1]) for values, _ in solved]))
        basis, s = runs[i].basis, solved[i][1][:, -1]
        y = sum(float(c) * row.to(torch.float64) for c, row in zip(s, basis, strict=True))
        found.append((y / torch.linalg.vector_norm(y)).to(basis.dtype))
    return found[0], found[1]
