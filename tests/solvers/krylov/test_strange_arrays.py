"""Arrays as people have them: numbers in any layout are converted, what has no one meaning is refused with a remedy."""

import numpy as np
import pytest
import scipy.sparse
import torch
from krylearn.pde import Poisson
from krylearn.solvers import cg, solve

A = Poisson.from_coefficients(np.ones((4, 5)))
S = A.matrix()
KINDS = [
    "bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "longdouble", "object",
    ">i2", ">i4", ">u2", ">u4", ">u8", ">f4", ">f8",
]  # fmt: skip


def arrays(values):
    """The same numbers in every dtype and layout."""
    for kind in KINDS:
        yield kind, np.asarray(values).astype(kind)
    plain = np.asarray(values, dtype=float)
    yield "matrix", plain.copy().view(np.matrix)
    yield "Fortran", np.asfortranarray(plain)
    yield "backwards", plain[::-1, ::-1].copy()[::-1, ::-1]
    yield "strided", np.repeat(np.repeat(plain, 2, 0), 3, 1)[::2, ::3]
    frozen = plain.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "no mask", np.ma.masked_array(plain)
    yield "list", plain.tolist()
    for dtype in (torch.uint16, torch.uint32, torch.int32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        yield str(dtype), torch.from_numpy(plain).to(dtype)


ONES = dict(arrays(np.ones((4, 5))))


@pytest.mark.parametrize("name", ONES)
def test_every_entry_point_takes_any_numbers(name):
    given = ONES[name]
    assert Poisson.from_cells(given, boundary="dirichlet").unknowns == 20
    assert abs(Poisson.from_coefficients(given).matrix() - S).max() == 0
    assert abs(Poisson.from_coefficients(np.ones((4, 5)), shift=given, cells=given).matrix() - S).max() == 1
    wanted = np.linalg.solve(S.toarray(), np.ones(20))
    column = given.reshape(20) if isinstance(given, torch.Tensor) else np.asarray(given).reshape(20)
    for b, operator in ((given, A), (column, A), (column, S)):
        x, info = cg(operator, b, rtol=1e-10)
        assert info == 0
        np.testing.assert_allclose(np.ravel(x), wanted, rtol=1e-8)
    for answer in (A @ given, solve(A, given)):
        answer = np.asarray(answer.double() if isinstance(answer, torch.Tensor) else answer, dtype=float)
        assert answer.shape == (4, 5)
        assert np.isfinite(answer).all()


def test_a_matrix_of_numpy_is_no_recursion():
    x, info = cg(S, np.ones((20, 1)).view(np.matrix))
    assert info == 0
    assert x.shape == (20,)


# --- no one meaning ---------------------------------------------------------------------------------------------------
MASKED = np.ma.masked_array(np.ones((4, 5)), mask=np.arange(20).reshape(4, 5) == 7)
REFUSED = {
    "cells": lambda: Poisson.from_cells(MASKED),
    "kappa": lambda: Poisson.from_coefficients(MASKED),
    "shift": lambda: Poisson.from_coefficients(np.ones((4, 5)), shift=MASKED),
    "b": lambda: cg(A, MASKED),
    "b of a matrix": lambda: cg(S, MASKED.ravel()),
    "x0": lambda: cg(A, np.ones((4, 5)), MASKED),
    "product": lambda: A @ MASKED,
    "solve": lambda: solve(A, MASKED),
    "source": lambda: A.rhs(MASKED),
    "batch": lambda: cg(A, MASKED[None]),
    "list": lambda: cg([A, A], np.ma.stack([MASKED, MASKED])),
    "faces": lambda: Poisson.from_faces([np.ma.masked_equal(np.arange(25.0).reshape(5, 5), 3), np.ones((4, 6))]),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_masked_entries_are_refused(call):
    with pytest.raises(TypeError, match=r"masked entries in .*filled\(0\)"):
        call()


@pytest.mark.parametrize("operator", [A, S], ids=["operator", "matrix"])
def test_sparse_vectors_are_refused_with_the_remedy(operator):
    with pytest.raises(TypeError, match="to_dense"):
        cg(operator, torch.ones(20).to_sparse())
    with pytest.raises(TypeError, match="toarray"):
        cg(operator, scipy.sparse.csr_array(np.ones((20, 1))))


@pytest.mark.parametrize(
    "labels", [np.array([[0, 255], [255, 0]], np.uint8), np.arange(4).reshape(2, 2), np.eye(2) / 2]
)
def test_labels_as_cells_show_how_to_map_them(labels):
    with pytest.raises(ValueError, match="cells=labels > 0"):
        Poisson.from_cells(labels)
    assert Poisson.from_cells(labels > 0).unknowns == int((labels > 0).sum())


def test_words_and_dates_are_no_numbers():
    for given in (np.array([["a", "b"]]), np.array([["2026-11-30"]], "M8[D]")):
        with pytest.raises(TypeError, match="expected an array of real numbers"):
            Poisson.from_coefficients(given)


def test_spacing_has_no_gradient():
    with pytest.raises(TypeError, match=r"spacing.detach\(\)"):
        Poisson.from_coefficients(np.ones((4, 4)), spacing=torch.tensor(1.0, requires_grad=True))
    assert Poisson.from_coefficients(np.ones((4, 4)), spacing=torch.tensor([1.0, 2.0])).spacing == (1.0, 2.0)


def test_a_subnormal_coefficient_is_a_unit_like_any_other():
    A = Poisson.from_coefficients(np.full((4, 4), 1e-310))
    assert cg(A, np.full(16, 1e-310))[1] == 0
