"""Gradient-domain editing of images: paste a piece of one into another without a seam."""

from __future__ import annotations

from typing import Any

import numpy as np
from krylearn.pde import Poisson

from ..front_door.small_systems import BY_DIAGONAL, cg_from_small
from ..krylov.conjugate_gradients import cg
from ..krylov.outcome import ConvergenceError


def poisson_blend(source: Any, target: Any, mask: Any, *, mixed: bool = False, rtol: float = 1e-6) -> Any:
    """Return the target with the gradients of the source inside the mask, and its own values at the mask's border.

    Solves lap u = div v for each channel, u = target outside (Perez, Gangnet and Blake 2003); v is the gradient of the
    source, with `mixed` the larger of both images' gradients at each face. Nothing flows through the image's border.

    Parameters
    ----------
    source, target : (M, N) or (M, N, channels), equal shapes; integers are rounded and clipped at the end
    mask : (M, N) booleans, True where the source is pasted; some pixel has to be False
    mixed, rtol : see above; relative residual

    Returns
    -------
    array like target

    Examples
    --------
    >>> target, source = np.zeros((8, 8)), np.full((8, 8), 5.0)      # a constant has no gradients
    >>> mask = np.zeros((8, 8), dtype=bool)
    >>> mask[2:6, 2:6] = True
    >>> float(abs(poisson_blend(source, target, mask)).max()) < 1e-6
    True
    """
    source_, target_, inside = np.asarray(source), np.asarray(target), np.asarray(mask)
    if source_.shape != target_.shape or inside.shape != target_.shape[:2] or inside.dtype != bool:
        raise ValueError(
            f"got source {source_.shape}, target {target_.shape} and mask {inside.shape} of {inside.dtype}; "
            "expected images of one shape and booleans of their first two axes"
        )
    if inside.all():
        raise ValueError("got a mask without a False pixel; expected some of the target to remain: nothing fixes u")
    if not inside.any():
        return target_.copy()
    A = Poisson.from_cells(np.ones(inside.shape), fixed=~inside)
    s, t = (np.asarray(v, dtype=np.float64).reshape(*inside.shape, -1) for v in (source_, target_))
    out, solve_one = t.copy(), cg_from_small
    for channel in range(t.shape[-1]):
        u, v = t[..., channel], s[..., channel]
        b = A.rhs(_divergence(v, u, mixed), fixed=u)
        x = np.where(inside, v, 0)  # the source itself is a good start, if it is better than zero
        r = b - A @ x
        norm_b, size = float(np.linalg.norm(b)), float(np.linalg.norm(r))
        if size > norm_b:
            x, r, size = np.zeros_like(x), b, norm_b
        allowed = rtol * norm_b
        if size > allowed:
            step, info = solve_one(A, r, rtol=allowed / size)
            x = x + step
            solve_one = cg_from_small if BY_DIAGONAL in info.notes else cg  # what has been set up serves all channels
            if info:
                raise ConvergenceError(info, x)
        out[..., channel][inside] = x[inside]
    if target_.dtype.kind in "iu":
        limits = np.iinfo(target_.dtype)
        out = np.clip(np.rint(out), limits.min, limits.max)
    return out.astype(target_.dtype).reshape(target_.shape)


def _divergence(source: np.ndarray, target: np.ndarray, mixed: bool) -> np.ndarray:
    """Return minus the divergence of the guiding field, which flows through the faces between pixels."""
    total = np.zeros_like(source)
    for axis in range(2):
        step = np.diff(source, axis=axis)
        if mixed:
            other = np.diff(target, axis=axis)
            step = np.where(np.abs(other) > np.abs(step), other, step)
        ends = [(1, 1) if a == axis else (0, 0) for a in range(2)]
        total -= np.diff(np.pad(step, ends), axis=axis)
    return total
