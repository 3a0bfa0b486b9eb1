"""Lanczos: an orthonormal basis Q in which a symmetric operator is tridiagonal, A Q = Q T + β_m q_{m+1} e_mᵀ.

    w = A qⱼ,   αⱼ = qⱼᵀw,   w ← w - Q (Qᵀw)  twice,   βⱼ = ‖w‖,   qⱼ₊₁ = w / βⱼ

Two classical Gram-Schmidt passes against the whole basis, each a pair of matrix-vector products: one pass fails on
clustered spectra. Products run in the dtype of the start vector, α, β and T are float64. The end of an invariant
subspace is βⱼ <= 64 eps ‖T‖: relative, and with <= so that the zero operator is caught too.

Lanczos, J. Res. NBS 45 (1950); Parlett, The Symmetric Eigenvalue Problem (1980), ch. 13; for the two passes
Giraud, Langou, Rozložník and van den Eshof, Numer. Math. 101 (2005).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tridiagonal(NamedTuple):
    """What Lanczos found: T = tridiag(beta[:-1], alpha, beta[:-1]), float64, on the CPU.

    Attributes
    ----------
    alpha : (m,), diagonal of T;  beta : (m,), below it; the last entry, β_m, bounds the residuals
    basis : (m, *shape of the start vector), orthonormal rows;  start_norm : norm of the start vector
    complete : bool; the basis spans an invariant subspace (β_m is zero to rounding), T's eigenvalues are A's
    """

    alpha: Tensor
    beta: Tensor
    basis: Tensor
    start_norm: float
    complete: bool

    def matrix(self) -> Tensor:
        """Return T as a dense matrix.

        >>> tridiagonalize(lambda v: 2 * v, torch.ones(4), 3).matrix().tolist()
        [[2.0]]
        """
        off = self.beta[:-1]
        return torch.diag(self.alpha) + torch.diag(off, 1) + torch.diag(off, -1)


class RitzPairs(NamedTuple):
    """Approximate eigenpairs, ascending: some eigenvalue of A lies within values[j] ± bounds[j].

    Attributes
    ----------
    values : (k,);  bounds : (k,), ‖A y - θ y‖ = |β_m s_mj|
    weights : (k,), squared first components of T's eigenvectors: Gauss quadrature weights of the start vector, sum 1
    vectors : (k, *shape), unit Ritz vectors y = Σ s_ij q_i, or None if they were not asked for
    """

    values: Tensor
    bounds: Tensor
    weights: Tensor
    vectors: Tensor | None


def tridiagonalize(
    A: Callable[[Tensor], Tensor] | Any, v: Tensor, steps: int, *, breakdown: float = 64.0, sweep: int = 1
) -> Tridiagonal:
    """Run Lanczos with two-pass reorthogonalisation.

    Cost: `steps` products with A, 4 steps² n flops, steps · n numbers of memory.

    Parameters
    ----------
    A : applicable, symmetric: a callable, or anything with `@`; sees and returns tensors like v
    v : tensor of any shape, not zero: start vector; sets the dtype and device of the products and of the basis
    steps : int >= 1; no more than v has entries are made
    breakdown : float; an invariant subspace ends where β <= breakdown · eps · ‖T‖ (64: cupy/cupy#10098)
    sweep : int; steps between two tests for that, each a synchronisation on a GPU. Steps made past the end are dropped

    Returns
    -------
    Tridiagonal : alpha, beta, basis, start_norm, complete

    Raises
    ------
    ValueError : steps < 1, a zero or non-finite start vector, or an operator that gives NaN, infinity or another shape

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 10.0], dtype=torch.float64))
    >>> T = tridiagonalize(A, torch.ones(3, dtype=torch.float64), 3)
    >>> [round(x, 9) for x in ritz_pairs(T).values.tolist()], T.complete
    ([1.0, 2.0, 10.0], True)
    """
    if int(steps) != steps or steps < 1 or sweep < 1:
        raise ValueError(f"got steps={steps}, sweep={sweep}; expected integers >= 1")
    with torch.no_grad():
        v = v.detach()
        size = torch.linalg.vector_norm(v.reshape(-1).double())
        if not (bool(torch.isfinite(size)) and float(size) > 0):
            raise ValueError(f"the start vector has norm {float(size)}; expected a finite, non-zero vector")
        return _run(_product(A, v), v, float(size), min(int(steps), v.numel()), breakdown, sweep)


def _run(product: Callable, v: Tensor, size: float, steps: int, breakdown: float, sweep: int) -> Tridiagonal:
    """Build the basis row by row; tests for the end are made once per sweep."""
    basis = v.new_empty((steps, v.numel()))
    basis[0] = (v.reshape(-1).double() / size).to(v.dtype)
    alpha = torch.zeros(steps, dtype=torch.float64, device=v.device)
    beta = torch.zeros(steps, dtype=torch.float64, device=v.device)
    done, complete = steps, False
    for j in range(steps):
        w = product(basis[j])
        alpha[j] = _dots(basis[j : j + 1], w)[0]
        for _ in range(2):
            w = w - basis[: j + 1].T @ _dots(basis[: j + 1], w).to(w.dtype)
        beta[j] = torch.linalg.vector_norm(w.double())
        if (j + 1) % sweep == 0 or j + 1 == steps:
            end = _end(alpha[: j + 1].cpu(), beta[: j + 1].cpu(), breakdown * torch.finfo(v.dtype).eps)
            if end:
                done, complete = end, True
                break
        if j + 1 < steps:
            basis[j + 1] = torch.where(beta[j] > 0, w / beta[j].to(w.dtype), torch.zeros_like(w))
    # a basis of the whole space is invariant, however large the rounding in the last β
    complete = complete or done == v.numel()
    return Tridiagonal(alpha[:done].cpu(), beta[:done].cpu(), basis[:done].reshape(done, *v.shape), size, complete)


def ritz_pairs(T: Tridiagonal, *, vectors: bool = False) -> RitzPairs:
    """Return the Ritz values of a Lanczos run, with a residual bound and a quadrature weight for each.

    θⱼ, sⱼ from `eigh` of T in float64; ‖A yⱼ - θⱼ yⱼ‖ = |β_m s_mj|, so an eigenvalue of A lies in θⱼ ± bound.

    Parameters
    ----------
    T : Tridiagonal
    vectors : bool; also form the Ritz vectors (steps² · n flops)

    Returns
    -------
    RitzPairs : values (ascending), bounds, weights, vectors

    Examples
    --------
    >>> A = torch.diag(torch.arange(1.0, 101.0, dtype=torch.float64))
    >>> top = ritz_pairs(tridiagonalize(A, torch.ones(100, dtype=torch.float64), 30))
    >>> bool(abs(top.values[-1] - 100) <= top.bounds[-1] < 0.5)
    True
    """
    theta, S = torch.linalg.eigh(T.matrix())
    bounds = (T.beta[-1] * S[-1]).abs()
    formed = None
    if vectors:
        m = len(theta)
        formed = (S.T.to(T.basis) @ T.basis.reshape(m, -1)).reshape(T.basis.shape)
    return RitzPairs(theta, bounds, S[0] ** 2, formed)


def _product(A: Any, v: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the product with A between flat tensors, checked for shape."""
    apply = A if callable(A) else A.__matmul__

    def product(q: Tensor) -> Tensor:
        w = apply(q.reshape(v.shape))
        if not isinstance(w, Tensor) or w.shape != v.shape:
            got = tuple(w.shape) if isinstance(w, Tensor) else type(w).__name__
            raise ValueError(f"A gave {got} for a vector of shape {tuple(v.shape)}; expected a tensor of that shape")
        return w.detach().to(q.dtype).reshape(-1)

    return product


def _dots(rows: Tensor, w: Tensor) -> Tensor:
    """Return rows @ w in float64; rows are converted in blocks, never the whole basis at once."""
    if rows.dtype == torch.float64:
        return rows @ w
    w = w.double()
    block = max(1, 2**24 // max(rows.shape[1], 1))
    return torch.cat([rows[i : i + block].double() @ w for i in range(0, len(rows), block)])


def _end(alpha: Tensor, beta: Tensor, tolerance: float) -> int:
    """Return the step at which the subspace became invariant, 0 if it did not; refuse NaN and infinity."""
    if not (bool(torch.isfinite(alpha).all()) and bool(torch.isfinite(beta).all())):
        raise ValueError("A gave NaN or infinity; expected finite products: look for an overflow in the operator")
    before = torch.cat([beta.new_zeros(1), beta[:-1]])
    norm = torch.cummax(alpha.abs() + beta + before, 0).values  # ‖T‖ up to each step (max row sum)
    small = torch.nonzero(beta <= tolerance * norm)
    return int(small[0]) + 1 if len(small) else 0
