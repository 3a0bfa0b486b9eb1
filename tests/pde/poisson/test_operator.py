import copy
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings, strategies as st
from krylearn.pde import Poisson
from naive_poisson import KINDS, naive_matrix, problems

FEW = settings(deadline=None, max_examples=60)


def example(shape=(3, 4), **keywords):
    rng = np.random.default_rng(31415)
    cells = np.ones(shape)
    cells[1, 1] = 0
    return Poisson.from_coefficients(rng.uniform(1, 2, shape), cells=cells, **keywords)


# --- the operator -----------------------------------------------------------------------------------------------------
@FEW
@given(problems())
def test_conductances_are_those_of_the_table(problem):
    A, wanted = Poisson.from_coefficients(**problem), naive_matrix(**problem)
    np.testing.assert_allclose(A.matrix().toarray(), wanted, rtol=1e-13, atol=1e-13 * abs(wanted).max())


@FEW
@given(problems(), st.sampled_from([torch.float64, torch.float32]))
def test_product_and_matrix_agree_to_rounding(problem, dtype):
    A = Poisson.from_coefficients(**problem, dtype=dtype)
    x = np.random.default_rng(27182).standard_normal((A.shape[0], 2)).astype(A.dtype)
    size = abs(A.matrix()) @ abs(x)
    assert (abs(A @ x - A.matrix() @ x) <= 8 * np.finfo(A.dtype).eps * size).all()


@FEW
@given(problems())
def test_it_is_symmetric_and_positive_semidefinite_with_ascending_columns(problem):
    A = Poisson.from_coefficients(**problem)
    csr = A.matrix()
    assert abs(csr - csr.T).max() == 0
    assert csr.has_canonical_format
    values = np.linalg.eigvalsh(csr.toarray())
    assert values[0] >= -1e-13 * values[-1]
    assert int((values[csr.shape[0] - A.unknowns :] <= 1e-12 * values[-1]).sum()) >= A.nullspace.dimension


@FEW
@given(problems())
def test_compressed_matrix_is_the_block_of_the_unknowns(problem):
    A = Poisson.from_coefficients(**problem)
    inside = np.flatnonzero(A.unknown.numpy().ravel())
    assert A.unknowns == len(inside)
    assert abs(A.matrix(unknowns=True) - A.matrix()[inside][:, inside]).max() == 0


@FEW
@given(problems())
def test_cells_without_an_unknown_are_ignored_and_stay_zero(problem):
    A = Poisson.from_coefficients(**problem)
    x = np.random.default_rng(16180).standard_normal(A.grid_shape)
    outside = ~A.unknown.numpy().reshape(A.grid_shape)
    spoiled = np.where(outside, np.nan, x)
    y = A @ spoiled
    assert (y[outside] == 0).all()
    np.testing.assert_array_equal(y, A @ np.where(outside, 0, x))


@FEW
@given(problems())
def test_links_join_unknowns_only_and_end_at_the_side(problem):
    A = Poisson.from_coefficients(**problem)
    for d, w in enumerate(A.links):
        coupled = w > 0
        assert not (coupled & ~(A.unknown & torch.roll(A.unknown, -1, d))).any()
        if not A.periodic[d] or w.shape[d] == 1:
            assert not w.narrow(d, w.shape[d] - 1, 1).any()
    assert not any(g[~A.unknown].any() for g in (*A.ground, A.shift, A.diag))


@pytest.mark.parametrize("kind", KINDS)
def test_two_dimensions_are_three_with_one_layer(kind):
    kappa = np.random.default_rng(14142).uniform(1, 2, (4, 5))
    flat = Poisson.from_coefficients(kappa, (1, 2), kind)
    layer = Poisson.from_coefficients(kappa[:, None], (1, 1, 2), {"x": kind, "z": kind, "y": "neumann"})
    assert abs(flat.matrix() - layer.matrix()).max() == 0


def test_axis_order_does_not_matter():
    kappa = np.random.default_rng(17320).uniform(1, 2, (3, 4, 5))
    x = np.random.default_rng(17321).standard_normal((3, 4, 5))
    A = Poisson.from_coefficients(kappa, (1, 2, 3), {"x": "periodic", "y-": "neumann"})
    other = Poisson.from_coefficients(kappa.transpose(2, 0, 1), (3, 1, 2), {"y": "periodic", "z-": "neumann"})
    np.testing.assert_allclose((other @ x.transpose(2, 0, 1)).transpose(1, 2, 0), A @ x, rtol=0, atol=1e-13)


def test_a_periodic_axis_of_two_cells_counts_both_faces_and_of_one_cell_none():
    two = Poisson.from_cells(np.ones((1, 2)), boundary="periodic")
    assert two.matrix().toarray().tolist() == [[2.0, -2.0], [-2.0, 2.0]]
    assert two.links[2][0, 0].tolist() == [1.0, 1.0]
    assert Poisson.from_cells(np.ones((1, 1)), boundary="periodic").diag.item() == 0


def test_powers_of_two_scale_exactly():
    kappa, x = np.random.default_rng(22360).uniform(1, 2, (4, 5)), np.random.default_rng(22361).standard_normal(20)
    small = Poisson.from_coefficients(kappa * 2.0**-50, shift=2.0**-52)
    np.testing.assert_array_equal(Poisson.from_coefficients(kappa, shift=0.25) @ x, (small @ x) * 2.0**50)


# --- builders ---------------------------------------------------------------------------------------------------------
def test_cells_are_coefficients_of_one_with_neumann_sides():
    cells = np.random.default_rng(24494).integers(0, 3, (5, 4, 3))
    A, other = (
        Poisson.from_cells(cells, 0.5),
        Poisson.from_coefficients(np.ones(cells.shape), 0.5, "neumann", cells=cells),
    )
    assert abs(A.matrix() - other.matrix()).max() == 0


def test_default_sides_are_dirichlet_for_coefficients_and_neumann_for_cells():
    assert Poisson.from_cells(np.ones((2, 2)), boundary={}).nullspace.dimension == 1
    assert Poisson.from_coefficients(np.ones((2, 2)), boundary={}).nullspace.dimension == 0


@FEW
@given(problems())
def test_faces_rebuild_every_operator(problem):
    A = Poisson.from_coefficients(**problem)
    faces, axes = [], (0, 2) if len(A.grid_shape) == 2 else (0, 1, 2)
    extra = A.shift + sum(A.ground)
    for d in axes:
        first = A.links[d].narrow(d, A.unknown.shape[d] - 1, 1)  # the wrap, or 0
        faces.append(
            torch.cat([first, A.links[d]], d).reshape([n + (k == d) for n, k in zip(A.grid_shape, axes, strict=True)])
        )
    boundary = {a: "periodic" for a, (low, _) in zip("xyz", A.boundary, strict=False) if low == "periodic"}
    if not (sum(A.links) + extra > 0).any():
        return
    other = Poisson.from_faces(faces, extra.reshape(A.grid_shape), boundary)
    np.testing.assert_allclose(other.matrix().toarray(), A.matrix().toarray(), rtol=1e-13, atol=1e-13)


def test_end_faces_couple_to_the_outside():
    A = Poisson.from_faces([np.zeros((2, 1)), [[1.0, 5.0]]], extra=[[0.25]])
    assert (A.diag.item(), A.ground[2].item(), A.shift.item()) == (6.25, 6.0, 0.25)
    assert A.rhs(0.0, dirichlet={"y-": 2.0, "y+": 1.0}).item() == 7.0


def test_cells_without_conductance_hold_no_unknown():
    A = Poisson.from_coefficients([[1.0, 0.0, 2.0]], boundary="neumann")
    assert A.unknown[0, 0].tolist() == [True, False, True]
    assert Poisson.from_coefficients([[1.0, 0.0]], shift=1.0).unknowns == 2


def test_a_coefficient_of_any_size_neither_overflows_nor_vanishes():
    for size in (1e-300, 1e-15, 1e300):
        A = Poisson.from_coefficients(np.full((2, 3), size), boundary="neumann")
        assert A.links[2].max().item() == pytest.approx(size, rel=1e-15)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Poisson.from_coefficients([[1.0, -1.0]]), r"kappa -1.0 at \(0, 1\); expected finite numbers >= 0"),
        (lambda: Poisson.from_coefficients([[1.0, np.nan]]), "kappa nan"),
        (lambda: Poisson.from_coefficients([[np.inf, 1]]), "kappa inf"),
        (lambda: Poisson.from_coefficients(np.ones(4)), "1D problem"),
        (lambda: Poisson.from_coefficients(np.ones((3, 0))), "at least one cell"),
        (lambda: Poisson.from_coefficients(np.zeros((3, 2))), "kappa = 0 everywhere"),
        (lambda: Poisson.from_coefficients(np.full((1, 2), 1e308)), "overflow"),
        (lambda: Poisson.from_coefficients(np.ones((3, 2)), shift=-9), "shift that makes a diagonal -4; expected > 0"),
        (lambda: Poisson.from_coefficients(np.ones((3, 2)), shift=np.ones(6)), r"shift of shape \(6,\)"),
        (lambda: Poisson.from_coefficients(np.ones((3, 2)), cells=np.ones((2, 3))), "cells of shape"),
        (lambda: Poisson.from_cells(np.zeros((3, 2))), "without FLUID"),
        (
            lambda: Poisson.from_faces([np.ones((2, 1)), np.ones((1, 3))]),
            r"faces\[0\] of shape \(2, 1\); expected \(2, 2\)",
        ),
        (lambda: Poisson.from_faces([np.ones((2, 1))]), "got 1 arrays of faces"),
        (lambda: Poisson.from_faces([np.ones(3), np.ones(3)]), "axes; expected 2"),
        (lambda: Poisson.from_faces([np.zeros((2, 1)), np.zeros((1, 2))]), "all 0 and no extra"),
        (lambda: Poisson.from_faces([-np.ones((2, 1)), np.ones((1, 2))]), r"faces\[0\] -1.0"),
        (lambda: Poisson.from_faces([np.ones((2, 1)), [[1.0, 2.0]]], boundary="periodic"), "expected equal ones"),
        (lambda: Poisson.from_faces([np.ones((2, 1)), np.ones((1, 2))], np.ones(3)), r"extra of shape \(3,\)"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Poisson.from_coefficients([["a"]]), "expected an array of real numbers"),
        (lambda: Poisson.from_coefficients(np.ones((2, 2)) * 1j), "complex kappa"),
        (lambda: Poisson.from_cells(np.ones((2, 2)), dtype=np.float16), "expected float64 or float32"),
        (lambda: example().to(dtype=torch.bfloat16), "expected float64 or float32"),
        (lambda: example() @ (np.ones(12) * 1j), "solve for both parts"),
        (lambda: example() @ np.array(["a"] * 12), "dtype <U1"),
    ],
)
def test_wrong_types_are_named(build, message):
    with pytest.raises(TypeError, match=message):
        build()


# --- vectors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 12), (2, 5, 3, 4), (12, 1)])
def test_the_answer_has_shape_type_and_dtype_of_the_vector(shape, kind):
    A, x = example(), np.random.default_rng(33166).standard_normal(shape)
    v = torch.from_numpy(x).to(kind) if isinstance(kind, torch.dtype) else x.astype(kind)
    y = A @ v
    assert type(y) is type(v)
    assert (y.shape, y.dtype) == (v.shape, v.dtype)
    wanted = (A.matrix() @ x.reshape(-1, 12).T).T.reshape(shape)
    np.testing.assert_allclose(np.asarray(y), wanted, rtol=1e-5 if "32" in str(v.dtype) else 1e-13, atol=1e-5)


def test_integers_and_lists_become_the_dtype_of_the_operator():
    A = example(dtype=np.float32)
    for v in (np.arange(12), list(range(12)), torch.arange(12), np.arange(12) > 5):
        assert str((A @ v).dtype).endswith("float32")


def test_read_only_and_strided_vectors_are_fine():
    A, x = example(), np.arange(24.0)
    x.setflags(write=False)
    np.testing.assert_array_equal(A @ x[::-2], A @ x[::-2].copy())


def test_to_grid_and_from_grid_are_inverse_on_unknowns():
    A, x = example(), torch.arange(12, dtype=torch.float64)
    back = A.from_grid(A.to_grid(x), x)
    assert A.to_grid(x).shape == (3, 1, 4)
    assert torch.equal(back, x * (x != 5))  # cell (1, 1) is solid


@pytest.mark.parametrize("shape", [(13,), (4, 3), (5, 2), (3, 4, 1), ()])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(..., 12\) or \(..., 3, 4\)"):
        example() @ np.ones(shape)


def test_another_device_is_refused():
    with pytest.raises(ValueError, match="on meta; expected cpu"):
        example() @ torch.ones(12, device="meta")


def test_scipy_takes_it_as_a_linear_operator():
    A, x = example(), np.random.default_rng(36055).standard_normal((12, 3))
    operator = scipy.sparse.linalg.aslinearoperator(A)
    assert operator.dtype == np.float64
    np.testing.assert_allclose(operator @ x, A.matrix() @ x, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(operator.T @ x[:, 0], A(x[:, 0]), rtol=1e-13)
    b = A @ x[:, 0]
    solution, info = scipy.sparse.linalg.cg(A, b, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(A @ solution, b, atol=1e-10)


def test_the_product_is_differentiable():
    A = example()
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(37416), requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: A @ v, x)


# --- object -----------------------------------------------------------------------------------------------------------
def test_it_is_frozen_but_copies_and_pickles_without_its_cache():
    A, x = example(), np.arange(12.0)
    with pytest.raises(FrozenInstanceError):
        A.spacing = (2.0, 2.0)
    assert A.nullspace.dimension == 0
    for other in (copy.copy(A), copy.deepcopy(A), pickle.loads(pickle.dumps(A))):  # our own bytes
        np.testing.assert_array_equal(other @ x, A @ x)
        assert other.cache == {}
        assert other.nullspace.dimension == 0


def test_changing_the_input_later_changes_nothing():
    kappa, shift, faces = np.ones((2, 2)), np.ones((2, 2)), [np.ones((3, 2)), np.ones((2, 3))]
    A, other = Poisson.from_coefficients(kappa, shift=shift), Poisson.from_faces(faces, shift)
    before = A.matrix(), other.matrix()
    for array in (kappa, shift, *faces):
        array[:] = 7
    assert abs(A.matrix() - before[0]).max() == abs(other.matrix() - before[1]).max() == 0


def test_precision_changes_by_to_alone():
    A = example()
    assert A.to("cpu", np.float64) is A
    other = A.to(dtype=torch.float32)
    assert (other.dtype, other.torch_dtype, A.dtype) == (np.float32, torch.float32, np.float64)
    assert other.cache == {}
    np.testing.assert_allclose(other.matrix().toarray(), A.matrix().toarray(), rtol=1e-6)


def test_repr_says_what_it_is():
    assert repr(example()) == "Poisson(grid_shape=(3, 4), unknowns=11, dtype=float64, device=cpu, nullspace=0)"


# --- right-hand sides -------------------------------------------------------------------------------------------------
def box(n, boundary, ndim=2):
    h = 1 / np.array([n, 2 * n, n][:ndim])
    shape = (n, 2 * n, n)[:ndim]
    at = np.meshgrid(*((np.arange(m) + 0.5) * k for m, k in zip(shape, h, strict=True)), indexing="ij")
    kappa = 1 + 0.5 * at[0] + 0.25 * at[1]
    return Poisson.from_coefficients(kappa, h, boundary), at


def manufactured_error(n):
    """p = sin(x) exp(y), kappa = 1 + x/2 + y/4; p on x-, x+ and y+, flux on y-."""
    A, (x, y) = box(n, {"x": "dirichlet", "y-": "neumann", "y+": "dirichlet"})
    p = np.sin(x) * np.exp(y)
    f = -(0.5 * np.cos(x) * np.exp(y) + 0.25 * p)  # -div(kappa grad p), and p is harmonic
    bottom = x[:, 0]
    b = A.rhs(
        f,
        dirichlet={"x-": 0.0, "x+": np.sin(1) * np.exp(y[0]), "y+": np.sin(bottom) * np.e},
        flux={"y-": -(1 + 0.5 * bottom) * np.sin(bottom)},
    )
    found = scipy.sparse.linalg.spsolve(A.matrix().tocsc(), b.ravel()).reshape(b.shape)
    return abs(found - p).max()


def test_a_manufactured_solution_converges_with_second_order():
    errors = [manufactured_error(n) for n in (12, 24, 48)]
    assert errors[-1] < 2e-4
    assert errors[0] / errors[1] > 3.5
    assert errors[1] / errors[2] > 3.5


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (1, 6)])
def test_linear_pressure_between_fixed_values_is_exact(shape):
    n = shape[-1]
    boundary = {"xyz"[len(shape) - 1]: "dirichlet"}
    A = Poisson.from_cells(np.ones(shape), 0.5, boundary)
    axis = "xyz"[len(shape) - 1]
    p = np.broadcast_to((np.arange(n) + 0.5) / n, shape)
    np.testing.assert_allclose(A @ p, A.rhs(np.zeros(shape), dirichlet={axis + "+": 1.0}), atol=1e-13)


def test_values_in_open_cells_count_at_their_centre():
    cells = np.array([[2, 1, 1, 1, 2], [2, 0, 1, 0, 0]])
    A = Poisson.from_cells(cells, boundary={"x": "periodic"})
    p = np.broadcast_to(np.arange(5.0), cells.shape)
    b = A.rhs(np.zeros(cells.shape), dirichlet={"open": p})
    np.testing.assert_allclose((A @ p), b, atol=1e-14)
    assert b[0, 1] == 0
    assert b[0, 3] == 4.0
    np.testing.assert_array_equal(A.rhs(np.zeros(10), dirichlet=1.0).reshape(2, 5), A @ np.ones(cells.shape))


@FEW
@given(problems())
def test_one_pressure_everywhere_solves_with_itself_as_boundary_value(problem):
    A = Poisson.from_coefficients(**problem)
    extra = (A.shift + sum(A.ground)).reshape(A.grid_shape)
    b = torch.from_numpy(A.rhs(0.0, dirichlet=3.0)) + 3 * A.shift.reshape(A.grid_shape)
    torch.testing.assert_close(b, 3 * extra, rtol=1e-13, atol=1e-13 * float(extra.max()))


def test_sources_are_integrated_over_the_cell_and_keep_shape_and_type():
    A = example(spacing=(0.5, 0.25))
    assert A.rhs(8.0).shape == (3, 4)
    assert A.rhs(8.0).sum() == 11.0
    flat = A.rhs(np.ones((2, 12), np.float32))
    assert (type(flat), flat.shape, flat.dtype) == (np.ndarray, (2, 12), np.float32)
    f = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    A.rhs(f).sum().backward()
    assert f.grad.sum() == 11 * 0.125


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"dirichlet": {"x-": 1.0}}, "a neumann side; expected a dirichlet side"),
        ({"flux": {"y": 1.0}}, "a dirichlet side; expected a neumann side"),
        ({"dirichlet": {"w": 1.0}}, "expected sides such as 'x-'"),
        ({"dirichlet": {"z-": 1.0}}, "of a 2D grid"),
        ({"dirichlet": {"x-+": 1.0}}, "expected sides"),
        ({"dirichlet": {"y-": np.ones(4)}}, r"of shape \(4,\); expected a number or \(3,\)"),
        ({"dirichlet": {"open": 1.0}}, "without OPEN cells"),
        ({"dirichlet": np.ones((3, 4))}, "expected a number or a dict"),
    ],
)
def test_wrong_boundary_values_are_named(keywords, message):
    A = example(boundary={"x": "neumann"})
    with pytest.raises(ValueError, match=message):
        A.rhs(0.0, **keywords)


def test_a_negative_shift_is_integrated_over_the_cell_too():
    A = Poisson.from_coefficients(np.ones((3, 4)), spacing=2.0, shift=-0.01)
    wanted = Poisson.from_coefficients(np.ones((3, 4)), spacing=2.0).matrix().diagonal() - 0.04
    np.testing.assert_allclose(A.matrix().diagonal(), wanted, rtol=1e-14)
