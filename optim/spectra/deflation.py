"""Eigenvalues that Lanczos has found one by one are counted, not estimated: quadrature with reduced variance.

A probe's weight at a simple eigenvalue of an n × n operator is |vᵀu|²/‖v‖²: on average 1/n, but spread like χ² with one
degree of freedom, so that one probe tells a lone eigenvalue's share only within a factor. Where the eigenvalue itself
is resolved its share is known: it is 1/n. What is left of a Gaussian probe after its components along some fixed
eigenvectors are taken out is a Gaussian probe of the rest, so the other weights, scaled to what the counted ones leave,
stay an unbiased estimate. A network's few large eigenvalues carry most of the trace: the noise of exactly these goes.

Resolved: the Ritz value's residual bound is small against the distance to its neighbours. An eigenvalue with several
eigenvectors shows up as one such Ritz value, with a weight that is too large for one: then it is not counted.

Bhattacharjee, Jayaram, Musco, Musco and Ray, arXiv 2410.21690: variance-reduced stochastic Lanczos quadrature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import chi2

SEPARATION = (
    0.01  # residual bound over the distance to the next Ritz value: the weight's relative error is of its order
)
DOUBT = 1e-3  # probability that a simple eigenvalue is not counted because its weights are large by chance


def deflated_weights(pairs: Sequence[Any], size: int) -> list[np.ndarray]:
    """Return the weights of each probe, resolved simple eigenvalues having exactly 1/size.

    Parameters
    ----------
    pairs : RitzPairs of each probe (values ascending, bounds, weights);  size : n

    Returns
    -------
    list of (m,) arrays, each with sum 1

    Examples
    --------
    >>> import torch
    >>> from krylearn.optim import slq
    >>> s = slq(torch.diag(torch.cat([torch.linspace(0, 1, 199), torch.tensor([9.0])])).double(), steps=12, rng=1)
    >>> round(float(s.deflated_weights[s.nodes > 8].sum()), 12)
    0.005
    """
    found = [resolved(pair) for pair in pairs]
    simple = _simple(pairs, found, size)
    weights = []
    for pair, mask in zip(pairs, simple, strict=True):
        w = pair.weights.numpy().copy()
        rest, share = float(w[~mask].sum()), 1 - mask.sum() / size
        if mask.any() and rest > 0 and share > 0:
            w[mask], w[~mask] = 1 / size, w[~mask] * share / rest
        elif mask.all():
            w[:] = 1 / len(w)
        weights.append(w)
    return weights


def resolved(pair: Any) -> np.ndarray:
    """Return which Ritz values of a probe stand for one eigenvalue each, of whatever multiplicity.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import torch
    >>> resolved(SimpleNamespace(values=torch.tensor([0.0, 1.0, 1.1]), bounds=torch.tensor([1e-3, 1e-4, 0.1])))
    array([ True,  True, False])
    """
    values, bounds = pair.values.numpy(), pair.bounds.numpy()
    if len(values) < 2:
        return np.zeros(len(values), dtype=bool)
    steps = np.diff(values)
    gap = np.minimum(np.append(steps, np.inf), np.insert(steps, 0, np.inf))
    return bounds <= SEPARATION * gap


def _simple(pairs: Sequence[Any], found: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    """Return `found` without eigenvalues whose weights, in all probes that see them, are too large for one vector."""
    probe = np.concatenate([np.full(int(mask.sum()), i) for i, mask in enumerate(found)])
    place = np.concatenate([np.flatnonzero(mask) for mask in found])
    values, bounds, mass = (
        np.concatenate([getattr(pair, name).numpy()[mask] for pair, mask in zip(pairs, found, strict=True)])
        for name in ("values", "bounds", "weights")
    )
    out = [mask.copy() for mask in found]
    if not len(values):
        return out
    order = np.argsort(values)
    near = 1e-6 * max(float(np.abs(values).max()), 1e-300)  # between probes; rounding moves a value too
    apart = np.diff(values[order]) > bounds[order][1:] + bounds[order][:-1] + near
    for members in np.split(order, np.flatnonzero(apart) + 1):
        if size * mass[members].sum() > chi2.ppf(1 - DOUBT, len(members)):
            for k in members:
                out[probe[k]][place[k]] = False
    return out
