"""The largest eigenvalues with their vectors: Lanczos with thick restarts, for operators that are never formed.

A basis of m vectors is grown by products, orthogonalised twice; the Ritz vectors of the wanted end and some more begin
the next basis. The projection of A on the basis is kept as it is computed, so nothing hangs on a recurrence. Where the
basis is invariant it goes on with a random vector, which is how multiple eigenvalues are found.

Wu and Simon, SIAM J. Matrix Anal. Appl. 22 (2000); Parlett, The Symmetric Eigenvalue Problem, chapter 13.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .probes import refuse_nan
from .quadrature import draw_gaussian, find_face, find_seed, map_rows

ENDS = {"largest": 1.0, "smallest": -1.0, "magnitude": 0.0}


class Eigenpairs(NamedTuple):
    """Eigenvalues, best first, and what is known of them.

    Attributes
    ----------
    values : (k,), float64;  vectors : (k, n), unit rows in the operator's dtype
    residuals : ‖Av - λv‖ of each: some eigenvalue lies within it
    converged : all residuals are at most the tolerance times the largest |λ|;  products : made
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: bool
    products: int


def top_eigenpairs(
    A: Any,
    k: int = 1,
    *,
    which: str = "largest",
    tolerance: float = 1e-3,
    products: int = 400,
    basis: int | None = None,
    rng: int | torch.Generator | None = None,
    size: int | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
) -> Eigenpairs:
    """Return the k largest eigenvalues of a symmetric operator and their eigenvectors.

    Memory: `basis` vectors of length n. Runs until the residuals are small enough, or the products are used up; then
    `converged` is False and the residuals say how far each pair is.

    Parameters
    ----------
    A : a `Curvature`, a dense tensor, or a callable or operator with `@` on vectors (then pass size)
    k : number of pairs, at most n
    which : "largest", "smallest", or "magnitude" (largest |λ|)
    tolerance : of residuals, relative to the largest |λ| seen
    products : at most this many
    basis : vectors kept; default 2k + 20, at most n
    rng : seed or generator of the start; with several ranks the first one's holds on all
    size, dtype, device : of the vectors, where A does not tell

    Returns
    -------
    Eigenpairs : values, vectors, residuals, converged, products

    Examples
    --------
    >>> A = torch.diag(torch.arange(1.0, 201.0, dtype=torch.float64))
    >>> found = top_eigenpairs(A, 3, tolerance=1e-8, rng=1)
    >>> [round(v, 6) for v in found.values.tolist()], found.converged
    ([200.0, 199.0, 198.0], True)
    >>> int(found.vectors[1].abs().argmax())
    198
    """
    n, dtype, device = find_face(A, size, dtype, device)
    if which not in ENDS or not 1 <= k <= n or not tolerance > 0 or products < 1:
        raise ValueError(
            f"got which={which!r}, k={k}, tolerance={tolerance}, products={products}; expected one of {tuple(ENDS)}, "
            f"1 <= k <= {n}, a positive tolerance and at least one product"
        )
    m = min(n, max(basis or 2 * k + 20, k + 1))
    seed = find_seed(rng, getattr(A, "group", None), device)
    apply, noise = map_rows(A), torch.Generator().manual_seed(seed + 1)
    rows = torch.zeros(m + 1, n, dtype=dtype, device=device)
    rows[0] = _unit(draw_gaussian(1, n, seed)[0].to(device, dtype))
    small = torch.zeros(m, m, dtype=torch.float64)
    kept = made = 0
    while True:
        beta = 0.0
        for j in range(kept, m):
            w = apply(rows[j][None])[0].detach().to(dtype)
            made += 1
            w, h, beta = _orthogonalize(rows[: j + 1], w)
            small[: j + 1, j] = small[j, : j + 1] = h
            size_seen = float(torch.linalg.matrix_norm(small[: j + 1, : j + 1], 2))
            if beta <= 64 * torch.finfo(dtype).eps * size_seen:  # invariant: nothing of w is left
                beta = 0.0
                fresh = torch.randn(n, generator=noise, dtype=torch.float64).to(device, dtype)
                w, _, length = _orthogonalize(rows[: j + 1], fresh)
                rows[j + 1] = w / length if j + 1 < n else 0
            else:
                rows[j + 1] = w / beta
            if made >= products:
                break
        grown = j + 1
        theta, mix = torch.linalg.eigh(small[:grown, :grown])
        order = torch.argsort(theta.abs() if which == "magnitude" else ENDS[which] * theta, descending=True)
        theta, mix = theta[order], mix[:, order]
        residuals = beta * mix[-1].abs()
        count = min(k, grown)
        done = count == k and bool((residuals[:k] <= tolerance * theta.abs().max()).all())
        if done or made >= products or m == n:
            vectors = mix[:, :count].T.to(device, dtype) @ rows[:grown]
            vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
            return Eigenpairs(theta[:count], vectors, residuals[:count], done, made)
        kept = min(k + (m - k) // 2, m - 1)
        rows[:kept] = mix[:, :kept].T.to(device, dtype) @ rows[:m]
        rows[kept] = rows[m]
        small.zero_()
        small[range(kept), range(kept)] = theta[:kept]


def _unit(v: Tensor) -> Tensor:
    return v / torch.linalg.vector_norm(v)


def _orthogonalize(rows: Tensor, w: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return w less its part in the rows, the coefficients of that part, and the norm of what is left."""
    h = torch.zeros(len(rows), dtype=torch.float64)
    for _ in range(2):
        part = rows @ w
        w = w - part @ rows
        h += part.double().cpu()
    beta = torch.linalg.vector_norm(w, dtype=torch.float64)
    refuse_nan(beta)
    return w, h, float(beta)
