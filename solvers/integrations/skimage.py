"""scikit-image: `random_walker` with the arguments and the answer of ``skimage.segmentation.random_walker``.

Seeds are cells of given value, so the probabilities of a label are one solve on the image's own grid, without a matrix;
those of the last label are what is missing to one.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from krylearn.pde import Poisson
from krylearn.pde.compiled import compile_once

from ..front_door.small_systems import choose_steps, steps_with_diagonal
from ..krylov.conjugate_gradients import cg

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
    values, number = _numbered(seeds)
    if values[-1] <= 0:
        raise ValueError("got labels without a seed; expected at least one positive value")
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


def _numbered(seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that occur, and the image with 0 as 0, the positive ones as 1, 2, ... and negative ones as < 0.

    >>> _numbered(np.array([[7, 0], [-1, 3]]))[1].tolist()
    [[2, 0], [-1, 1]]
    """
    low, high = int(seeds.min()), int(seeds.max())
    if high - low < 65_536:  # a table is faster than sorting
        above = seeds.astype(np.int64) - low
        occurs = np.bincount(above.ravel(), minlength=high - low + 1) > 0
        values = np.flatnonzero(occurs) + low
        table = np.empty(high - low + 1, dtype=np.int64)
        table[values - low] = np.where(values > 0, np.cumsum(values > 0), np.minimum(values, 0))
        return values, table[above]
    values, places = np.unique(seeds, return_inverse=True)
    ranks = np.where(values > 0, np.cumsum(values > 0), np.minimum(values, 0))
    return values, ranks[places.reshape(seeds.shape)]


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

    components, count = label(number >= 0)
    both = np.zeros(count + 1, dtype=bool)
    with_seed = np.bincount(components[number > 0], minlength=count + 1)
    if count == 1:  # of connected pixels, so of all
        return components > 0 if with_seed[1] and (number == 0).any() else np.zeros(number.shape, dtype=bool)
    both |= (with_seed > 0) & (np.bincount(components[number == 0], minlength=count + 1) > 0)
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
    weights, limit = _weights(image, beta, spacing, channels), max(0.1 * tol, 1e-12)
    unknown = np.flatnonzero((number == 0) & reached)
    found = _by_diagonal(weights, number, reached, unknown, count, limit)
    if found is not None:
        return found
    closed = [tuple((1, 1) if a == axis else (0, 0) for a in range(number.ndim)) for axis in range(number.ndim)]
    faces = [np.pad(w, ends) for w, ends in zip(weights, closed, strict=True)]
    A = Poisson.from_faces(faces, cells=reached, fixed=(number > 0) & reached)
    found = np.empty((count, len(unknown)))
    for label in range(1, count):
        x, info = cg(A, A.rhs(0.0, fixed=(number == label).astype(np.float64)), rtol=limit)
        if info:
            warnings.warn(f"label {label}: {info.reason.value}", stacklevel=3)
        found[label - 1] = x.ravel()[unknown]
    found[count - 1] = 1 - found[: count - 1].sum(axis=0)
    return found


def _by_diagonal(
    weights: list[np.ndarray], number: np.ndarray, reached: np.ndarray, unknown: np.ndarray, count: int, rtol: float
) -> np.ndarray | None:
    """Return the probabilities by CG with the diagonal, where a small or densely seeded image makes that the fastest.

    None where it is not, or where it takes too many steps after all.
    """
    steps = choose_steps(number.size, True)
    if not steps:
        return None
    nx, ny, nz = shape = number.shape if number.ndim == 3 else (number.shape[0], 1, number.shape[1])
    links = np.zeros((3, *shape))
    for axis, w in zip(range(3) if number.ndim == 3 else (0, 2), weights, strict=True):
        links[axis][tuple(slice(n - 1) if a == axis else slice(None) for a, n in enumerate(shape))] = w.reshape(
            tuple(n - 1 if a == axis else n for a, n in enumerate(shape))
        )
    links, seeds = links.reshape(3, -1), np.where(reached, number, -1).ravel()
    diag, sources = np.zeros(seeds.size), np.zeros((max(count - 1, 1), seeds.size))
    compile_once(separate_seeds)(links, seeds, nx, ny, nz, diag, sources)
    found = np.empty((count, len(unknown)))
    for label in range(1, count):
        b = sources[label - 1]
        tolerance = rtol * float(np.linalg.norm(b))
        u, done, left = steps_with_diagonal(links, diag, shape, b, 0.9 * tolerance, steps)
        if done < 0 or left > tolerance:
            return None
        found[label - 1] = u[unknown]
    found[count - 1] = 1 - found[: count - 1].sum(axis=0)
    return found


def separate_seeds(links, number, nx, ny, nz, diag, sources):
    """Take seeds and foreign pixels out of the links: what leads to a seed adds to its neighbour's source.

    links : (3, cells), to the next pixel along each axis;  number : 0 unknown, > 0 a label, < 0 not part of the image
    diag, sources : zero on entry;  sources : a row for every label but the last
    """
    strides = (ny * nz, nz, 1)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                c = (i * ny + j) * nz + k
                for axis in range(3):
                    if (i if axis == 0 else j if axis == 1 else k) == (nx, ny, nz)[axis] - 1:
                        continue
                    other, w = c + strides[axis], links[axis, c]
                    here, there = number[c], number[other]
                    if here == 0 and there >= 0:
                        diag[c] += w
                    if there == 0 and here >= 0:
                        diag[other] += w
                    if here == 0 and 0 < there <= len(sources):
                        sources[there - 1, c] += w
                    if there == 0 and 0 < here <= len(sources):
                        sources[here - 1, other] += w
                    if here != 0 or there != 0:
                        links[axis, c] = 0.0
