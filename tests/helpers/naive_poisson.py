"""The slow obvious assembly: one loop over cells and faces, from the table of `poisson/operator.py`; and strategies."""

import itertools

import numpy as np
from hypothesis import strategies as st

SIZES = [1, 2, 3, 4, 5, 7]
SHAPES = st.one_of(st.tuples(*[st.sampled_from(SIZES)] * 2), st.tuples(*[st.sampled_from(SIZES[:4])] * 3))
KINDS = ["neumann", "dirichlet", "periodic"]


@st.composite
def boundaries(draw, ndim):
    """A boundary dict with every side named, periodic on both sides or on none."""
    boundary = {}
    for axis in "xyz"[:ndim]:
        low = draw(st.sampled_from(KINDS))
        high = low if low == "periodic" else draw(st.sampled_from(KINDS[:2]))
        boundary |= {axis + "-": low, axis + "+": high}
    return boundary


@st.composite
def problems(draw):
    """Keyword arguments of `from_coefficients`, with obstacles, OPEN cells, zero coefficients and shifts."""
    shape = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(10000, 99999)))
    cells = rng.choice([0, 1, 2], p=draw(st.sampled_from([(0, 1, 0), (0.2, 0.7, 0.1), (0.5, 0.5, 0)])), size=shape)
    cells.flat[rng.integers(cells.size)] = 1
    kappa = 10 ** rng.uniform(-2, 2, shape) * (rng.random(shape) < draw(st.sampled_from([1.0, 0.8])))
    shift = draw(st.sampled_from([None, 0.7, "cells"]))
    return {
        "kappa": kappa,
        "cells": cells,
        "spacing": tuple(rng.uniform(0.5, 2, len(shape))),
        "boundary": draw(boundaries(len(shape))),
        "shift": rng.random(shape) if shift == "cells" else shift,
    }


def naive_matrix(kappa, cells, spacing, boundary, shift):
    """Assemble A face by face."""
    shape, volume = kappa.shape, np.prod(spacing)
    number = np.arange(kappa.size).reshape(shape)
    A = np.zeros((kappa.size, kappa.size))
    extra = np.broadcast_to(0 if shift is None else shift, shape)
    for i in itertools.product(*map(range, shape)):
        if cells[i] != 1:
            continue
        A[number[i], number[i]] += extra[i] * volume
        for d, (sign, step) in itertools.product(range(kappa.ndim), (("-", -1), ("+", 1))):
            factor = volume / spacing[d] ** 2
            kind = boundary["xyz"[d] + sign]
            j = (*i[:d], i[d] + step, *i[d + 1 :])
            if not 0 <= j[d] < shape[d]:
                if kind == "dirichlet":
                    A[number[i], number[i]] += 2 * kappa[i] * factor
                if kind != "periodic" or shape[d] == 1:
                    continue
                j = (*i[:d], j[d] % shape[d], *i[d + 1 :])
            if cells[j] == 2:
                A[number[i], number[i]] += kappa[i] * factor
            elif cells[j] == 1 and kappa[i] * kappa[j] > 0:
                w = 2 / (1 / kappa[i] + 1 / kappa[j]) * factor
                A[number[i], number[i]] += w
                A[number[i], number[j]] -= w
    return A
