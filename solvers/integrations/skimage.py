"""scikit-image: `random_walker` with the arguments and the answer of ``skimage.segmentation.random_walker``.

Seeds are cells of given value, so the probabilities of a label are one solve on the image's own grid, without a matrix;
those of the last label are what is missing to one.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from krylearn.pde import Poisson

from ..front_door.small_systems import cg_from_small

SMALLEST = 1e-10  # added to every weight, as in scikit-image
MODES = (None, "cg", "cg_j", "cg_mg", "bf")


def random_walker(
    data: Any, labels: Any, beta: float = 130, mode: str | None = "cg_j", tol: float = 1e-3, copy: bool = True,
    return_full_prob: bool = False, *, spacing: Any = None, prob_tol: float = 1e-3, channel_axis: int | None = None,
) -> Any:  # fmt: skip
    """Segment by random walks from seeds, weights exp(-beta |grad|^2 / (10 std)), as scikit-image does.

    Parameters
    ----------
    data : (M, N) or (M, N, P) image, with one more axis of channels if `channel_axis` is given
    labels : seeds on the image: > 0 a label, 0 to be found, < 0 not part of it
    beta, copy, return_full_prob, spacing, prob_tol, channel_axis : as in scikit-image
    mode : any of scikit-image's; the solver is krylearn's for all of them
    tol : ten times the relative residual of each solve: two more steps keep probabilities within [0, 1]

    Returns
    -------
    labels of all pixels, or the probabilities (labels, *image); labels are numbered 1, 2, ... in ascending order

    Examples
    --------
    >>> data = np.repeat([0.0, 0.1, 1.0, 1.1], 2)[None].repeat(2, axis=0)        # doctest: +SKIP
    >>> random_walker(data, seeds).tolist()                                      # doctest: +SKIP
    """
    if mode not in MODES:
        raise ValueError(f"got mode {mode!r}; expected one of {', '.join(map(repr, MODES))}")
    image, seeds = _image(data, channel_axis), np.array(labels, copy=bool(copy))
    if image.shape[:-1] != seeds.shape or seeds.ndim not in (2, 3):
        raise ValueError(f"got data on {image.shape[:-1]} and labels on {seeds.shape}; expected one 2D or 3D grid")
    values, places = np.unique(seeds, return_inverse=True)
    if values[-1] <= 0:
        raise ValueError("got labels without a seed; expected at least one positive value")
    zero = int(np.searchsorted(values, 0))
    number = places.reshape(seeds.shape) - zero - (0 if 0 in values else 1) * (places.reshape(seeds.shape) < zero)
    if 0 not in values:
        warnings.warn("got labels without 0; nothing is to be found: returning the labels", stacklevel=2)
        given = [seeds == value for value in values if value > 0]
        return np.concatenate([np.atleast_3d(each) for each in given], axis=-1) if return_full_prob else seeds
    reached = _reached(number)
    unknown = (number == 0) & reached
    if not unknown.any():
        warnings.warn("got no unlabelled pixel that is connected to a seed: returning the labels", stacklevel=2)
        return np.where(number == 0, -1, seeds).astype(seeds.dtype)
    count = int(number.max())
    probabilities = _probabilities(image, number, reached, count, beta, spacing, tol, channel_axis is not None)
    if probabilities.min() < -prob_tol or probabilities.max() > 1 + prob_tol:
        warnings.warn("probabilities leave [0, 1] by more than prob_tol: decrease beta or tol", stacklevel=2)
    if return_full_prob:
        full = np.zeros((count, *number.shape))
        for label in range(1, count + 1):
            full[label - 1][unknown] = probabilities[label - 1]
            full[label - 1][number == label] = 1
        return full
    out = np.where((number == 0) & ~unknown, -1, number).astype(seeds.dtype)
    out[unknown] = 1 + np.argmax(probabilities, axis=0)
    return out


def _image(data: Any, channel_axis: int | None) -> np.ndarray:
    """Return the image as floats with channels last."""
    from skimage.util import img_as_float

    array = np.asarray(data)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    image = np.asarray(img_as_float(array), dtype=np.float64)
    return image[..., None] if channel_axis is None else np.moveaxis(image, channel_axis, -1)


def _reached(number: np.ndarray) -> np.ndarray:
    """Return which pixels of the image are connected to a seed and to a pixel without one."""
    from scipy.ndimage import label

    components, _ = label(number >= 0)
    with_seed, without = np.unique(components[number > 0]), np.unique(components[number == 0])
    both = np.zeros(components.max() + 1, dtype=bool)
    both[np.intersect1d(with_seed, without)] = True
    both[0] = False
    return both[components]


def _weights(image: np.ndarray, beta: float, spacing: Any, channels: bool) -> list[np.ndarray]:
    """Return the conductance between neighbours along each axis."""
    ndim = image.ndim - 1
    h = np.ones(ndim) if spacing is None else np.asarray(spacing, dtype=float)
    if h.shape != (ndim,):
        raise ValueError(f"got spacing {spacing!r}; expected {ndim} numbers, one per axis")
    scale = -beta / (10 * image.std())
    if channels:
        scale /= np.sqrt(image.shape[-1])
    weights = []
    for axis in range(ndim):
        step = np.diff(image, axis=axis)
        square = np.einsum("...c,...c->...", step, step)
        square *= scale / h[axis] ** 2
        np.exp(square, out=square)
        weights.append(square + SMALLEST)
    return weights


def _probabilities(
    image: np.ndarray, number: np.ndarray, reached: np.ndarray, count: int, beta: float, spacing: Any, tol: float,
    channels: bool,
) -> np.ndarray:  # fmt: skip
    """Return the probability of every label at the unknown pixels, (labels, pixels)."""
    closed = [tuple((1, 1) if a == axis else (0, 0) for a in range(number.ndim)) for axis in range(number.ndim)]
    weights = _weights(image, beta, spacing, channels)
    faces = [np.pad(w, ends) for w, ends in zip(weights, closed, strict=True)]
    A = Poisson.from_faces(faces, cells=reached, fixed=(number > 0) & reached)
    unknown = np.flatnonzero((number == 0) & reached)
    found = np.empty((count, len(unknown)))
    for label in range(1, count):
        x, info = cg_from_small(A, A.rhs(0.0, fixed=(number == label).astype(np.float64)), rtol=max(0.1 * tol, 1e-12))
        if info:
            warnings.warn(f"label {label}: {info.reason.value}", stacklevel=3)
        found[label - 1] = x.ravel()[unknown]
    found[count - 1] = 1 - found[: count - 1].sum(axis=0)
    return found
