"""Cell-type problems in four bytes per cell: every link is 0 or one conductance W, every diagonal a multiple of W.

Pressure projection, heat and electrostatics on voxels with equal spacing are of this kind. A/W then has links of 0 and
1 and small integers on its diagonal, exactly; the CPU kernels read these bytes instead of four words.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compile import over_strips, strip_kernel, threads_for

Array = np.ndarray[Any, Any]


class Codes(NamedTuple):
    """A/unit in bytes; grids."""

    unit: float
    links: tuple[Array, Array, Array]
    diag: Array


@strip_kernel
def encode(start, stop, links, diag, unit, slack, codes, counts, fits):
    """Write rows start..stop as bytes, and whether each fits; give up at the first that does not."""
    for row in range(start, stop):
        good = True
        for d in range(3):
            w, out = links[d][row], codes[d, row]
            for k in range(w.shape[0]):
                out[k] = 1 if w[k] == unit else 0
            for k in range(w.shape[0]):
                good &= (w[k] == 0) | (w[k] == unit)
        q, out = diag[row], counts[row]
        for k in range(q.shape[0]):
            count = np.rint(q[k] / unit)
            good &= (abs(q[k] / unit - count) <= slack * count) & (count < 256)
            out[k] = np.uint8(count) if count < 256 else np.uint8(255)
        if not good:
            return
        fits[row] = True


def codes_of(A: Any) -> Codes | None:
    """Return the operator in bytes, or None if it is not of cell type; kept in the operator's cache.

    Examples
    --------
    >>> import numpy as np
    >>> from krylearn.pde import Poisson
    >>> codes_of(Poisson.from_coefficients(np.full((4, 4), 3.0))).unit
    3.0
    """
    if "codes" not in A.cache and A.voxels is not None:
        from .voxel_bytes import codes_of_voxels

        A.cache["codes"] = codes_of_voxels(A.voxels)
    if "codes" not in A.cache:
        A.cache["codes"] = _find(A)
    return A.cache["codes"]


def _find(A: Any) -> Codes | None:
    shape = tuple(A.diag.shape)
    # if there is one conductance, any positive link shows it, mostly one of the first plane
    unit = next((m for w in A.links for plane in w if (m := float(plane.max())) > 0), 0.0)
    if not 0 < unit < np.inf:
        return None
    rows = (shape[0] * shape[1], shape[2])
    links = tuple(w.contiguous().numpy().reshape(rows) for w in A.links)
    diag = A.diag.contiguous().numpy().reshape(rows)
    codes, counts, fits = np.empty((3, *rows), np.uint8), np.empty(rows, np.uint8), np.zeros(rows[0], np.bool_)
    slack = 16 * np.finfo(diag.dtype).eps  # the diagonal is a sum of rounded terms
    with threads_for(diag.size):
        over_strips(encode, rows[0], links, diag, unit, slack, codes, counts, fits)
    if not fits.all():
        return None
    x, y, z = codes.reshape(3, *shape)
    return Codes(unit, (x, y, z), counts.reshape(shape))
