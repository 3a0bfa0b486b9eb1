"""The trace by Hutch++: exactly within a random subspace that holds most of it, by random vectors in the rest.

    tr A = tr(QᵀAQ) + tr((I - QQᵀ) A (I - QQᵀ)),   Q an orthonormal basis of A S for random S

Of a matrix whose trace lies in few eigenvalues, as that of a trained network's Gauss-Newton matrix, m products leave an
error of 1/m where plain random vectors leave 1/√m. Meyer, Musco, Musco and Woodruff, SOSA 2021 (arXiv 2010.09649).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .estimates import Estimate
from .quadrature import draw_gaussian, find_face, find_seed, map_rows


def estimate_trace(
    A: Any,
    *,
    products: int = 60,
    rng: int | torch.Generator | None = None,
    size: int | None = None,
    dtype: torch.dtype | None = None,
    device: Any = None,
) -> Estimate:
    """Return the trace of a symmetric operator by Hutch++, with the standard error of its random part.

    A third of the products makes the subspace, a third is spent in it, a third on random vectors outside. Memory: a
    third as many vectors of length n.

    Parameters
    ----------
    A : a `Curvature`, a dense tensor, or a callable or operator with `@` on vectors (then pass size)
    products : in all, at least 6; from 2n on the trace is exact
    rng : seed or generator; with several ranks the first one's holds on all
    size, dtype, device : of the vectors, where A does not tell

    Returns
    -------
    Estimate : value, and error (0 where the subspace is everything)

    Examples
    --------
    >>> A = torch.diag(torch.tensor([50.0, 20.0, 5.0] + 97 * [0.01], dtype=torch.float64))
    >>> found = estimate_trace(A, products=30, rng=1)
    >>> abs(found.value - 75.97) < 4 * found.error + 1e-9, found.error < 0.1
    (True, True)
    """
    if products < 6:
        raise ValueError(f"got products={products}; expected at least 6")
    n, dtype, device = find_face(A, size, dtype, device)
    apply = map_rows(A)
    third = min(products // 3, n)
    seed = find_seed(rng, getattr(A, "group", None), device)
    drawn = draw_gaussian(third + products - 2 * third, n, seed).to(device, dtype)
    if third == n:
        q = torch.eye(n, dtype=dtype, device=device)
    else:
        image = apply(drawn[:third]).detach().to(dtype)
        q = torch.linalg.qr(image.T.double()).Q.T.to(dtype)
    inside = float((q.double() * apply(q).detach().double()).sum())
    if third == n:
        return Estimate(inside, 0.0)
    rest = drawn[third:]
    rest = rest - (rest @ q.T) @ q
    each = (rest.double() * apply(rest).detach().double()).sum(1)
    error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return Estimate(inside + float(each.mean()), error)
