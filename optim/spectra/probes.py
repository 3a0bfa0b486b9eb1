"""Lanczos from several start vectors at once: products in blocks, each probe with its own basis and tridiagonal matrix.

    w = A qⱼ,   αⱼ = qⱼᵀw,   w ← w - αⱼqⱼ - βⱼ₋₁qⱼ₋₁,   w ← w - Q (Qᵀw) once or twice,   βⱼ = ‖w‖,   qⱼ₊₁ = w / βⱼ

As `krylearn.solvers.lanczos.tridiagonalize`, whose result it returns per probe, with two differences. The basis may be
kept in a smaller dtype or on another device; the last two vectors stay in full precision, so a bf16 basis only has to
keep out what comes back: its rounding enters as (rounding of bf16)/√n per dot product. And the second pass, half of the
memory traffic, is left out where it could change nothing: where the first one took away less than 1 - 1/√2 of w
("twice is enough": Parlett, The Symmetric Eigenvalue Problem, section 6-9; Daniel, Gragg, Kaufman and Stewart, Math.
Comp. 30 (1976)). On a GPU both passes are always made, since asking would be a synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from krylearn.solvers.lanczos import Tridiagonal
from torch import Tensor

Storage = torch.dtype | torch.device | str | None


def tridiagonalize_probes(
    apply: Callable[[Tensor], Tensor],
    starts: Tensor,
    steps: int,
    *,
    storage: Storage = None,
    breakdown: float = 64.0,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Tridiagonal]:
    """Run Lanczos on k probes side by side.

    Parameters
    ----------
    apply : (k, n) -> (k, n), symmetric on rows
    starts : (k, n), no row zero; sets dtype and device of the products
    steps : int >= 1; no more than n are made, fewer when all probes have ended in invariant subspaces
    storage : dtype ("bf16" saves half) or device ("cpu": host memory) of the basis; None: as the starts
    watch : wraps the steps, as a progress bar does

    Returns
    -------
    list of Tridiagonal, one per probe

    Examples
    --------
    >>> A = torch.diag(torch.tensor([1.0, 2.0, 10.0], dtype=torch.float64))
    >>> runs = tridiagonalize_probes(lambda q: q @ A, torch.eye(3, dtype=torch.float64)[:2] + 1, 3)
    >>> [round(float(torch.linalg.eigvalsh(T.matrix())[-1]), 9) for T in runs]
    [10.0, 10.0]
    """
    k, n = starts.shape
    steps = min(steps, n)
    norms = torch.linalg.vector_norm(starts.double(), dim=1)
    if not bool(torch.isfinite(norms).all() & (norms > 0).all()):
        raise ValueError("a start vector is zero or not finite; expected finite, non-zero rows")
    q, before = (starts.double() / norms[:, None]).to(starts.dtype), torch.zeros_like(starts)
    basis = torch.empty(k, steps, n, **_where(starts, storage))
    alpha, beta = (torch.zeros(k, steps, dtype=torch.float64, device=starts.device) for _ in range(2))
    eps, sweep = torch.finfo(starts.dtype).eps, 1 if starts.device.type == "cpu" else 8
    size, last = torch.zeros_like(norms), torch.zeros_like(norms)
    ends = torch.zeros(k, dtype=torch.int64, device=starts.device)  # step after which a probe's subspace is invariant
    for j in watch(range(steps)):
        basis[:, j] = q.to(basis.device, basis.dtype)
        w = apply(q).to(q.dtype)
        diagonal = (q.double() * w.double()).sum(1)
        w = w - diagonal[:, None].to(w.dtype) * q - last[:, None].to(w.dtype) * before
        off = _orthogonalize(basis[:, : j + 1], w)
        size = torch.maximum(size, diagonal.abs() + off + last)  # ‖T‖ so far; NaN stays
        ends = torch.where((ends == 0) & (off <= breakdown * eps * size), j + 1, ends)
        alpha[:, j], beta[:, j], last = diagonal, off, off
        before, q = q, w / off[:, None].clamp_min(torch.finfo(torch.float64).tiny).to(w.dtype)
        if (j + 1) % sweep == 0 or j + 1 == steps:
            refuse_nan(size)
            if bool(ends.all()):
                break
        q = torch.nan_to_num(q, nan=0.0, posinf=0.0, neginf=0.0)
    made = [(int(end) or j + 1, bool(end)) for end in ends]
    return [
        Tridiagonal(alpha[i, :m].cpu(), beta[i, :m].cpu(), basis[i, :m], float(norms[i]), end)
        for i, (m, end) in enumerate(made)
    ]


def _where(starts: Tensor, storage: Storage) -> dict[str, Any]:
    """Return dtype and device of the basis."""
    if storage == "bf16":
        storage = torch.bfloat16
    if isinstance(storage, torch.dtype):
        return {"dtype": storage, "device": starts.device}
    return {"dtype": starts.dtype, "device": storage or starts.device}


def _orthogonalize(basis: Tensor, w: Tensor) -> Tensor:
    """Make each row of w orthogonal to its own basis, in place; return the norms, float64."""
    norms = torch.linalg.vector_norm(w, dim=1, dtype=torch.float64)
    again = list(range(len(w)))
    for _ in range(2):
        before = norms
        for i in again:
            w[i] -= _project(basis[i], w[i])
        norms = torch.linalg.vector_norm(w, dim=1, dtype=torch.float64)
        if w.device.type == "cpu":
            again = torch.nonzero(~(norms > before / 2**0.5)).flatten().tolist()
    return norms


def _project(rows: Tensor, w: Tensor) -> Tensor:
    """Return the projection of w onto orthonormal rows; rows kept in another dtype or place are taken in blocks.

    Dot products are in w's own dtype: their rounding is what the second pass takes away.
    """
    if rows.dtype == w.dtype and rows.device == w.device:
        return (rows @ w) @ rows
    out, block = torch.zeros_like(w), max(1, 2**24 // max(rows.shape[1], 1))
    for start in range(0, len(rows), block):
        part = rows[start : start + block].to(w.device, w.dtype)
        out += (part @ w) @ part
    return out


def refuse_nan(size: Tensor) -> None:
    """Raise where a product was not finite.

    Examples
    --------
    >>> refuse_nan(torch.ones(1))
    """
    if not bool(torch.isfinite(size).all()):
        raise ValueError("the operator gave NaN or infinity; look for an overflow in the loss or its derivatives")
