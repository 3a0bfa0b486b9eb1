import numpy as np
import pytest
import torch
from krylearn.pde import Poisson
from krylearn.solvers import cg, solve

RNG = np.random.default_rng(32003)


def same(A, other):
    np.testing.assert_allclose(A.matrix().toarray(), other.matrix().toarray(), rtol=1e-13, atol=1e-13)


def naive_tensor_mesh(kappa, sizes, boundary):
    """Two half cells in series between centres, one half cell to a Dirichlet side."""
    shape = kappa.shape
    volume = np.ones(shape)
    lengths = np.meshgrid(*sizes, indexing="ij")
    for h in lengths:
        volume = volume * h
    number = np.arange(kappa.size).reshape(shape)
    A = np.zeros((kappa.size, kappa.size))
    for i in np.ndindex(shape):
        for d in range(kappa.ndim):
            area = volume[i] / lengths[d][i]
            own = lengths[d][i] / (2 * kappa[i])
            for end, step in enumerate((-1, 1)):
                j = (*i[:d], i[d] + step, *i[d + 1 :])
                if 0 <= j[d] < shape[d]:
                    w = area / (own + lengths[d][j] / (2 * kappa[j]))
                    A[number[i], number[j]] -= w
                elif boundary["xyz"[d] + "-+"[end]] == "dirichlet":
                    w = area / own
                else:
                    continue
                A[number[i], number[i]] += w
    return A


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5)])
def test_tensor_meshes_are_half_cells_in_series(shape):
    sizes = [RNG.uniform(0.2, 3, n) for n in shape]
    kappa = 10 ** RNG.uniform(-2, 2, shape)
    sides = ["xyz"[d] + s for d in range(len(shape)) for s in "-+"]
    boundary = dict(zip(sides, ["dirichlet", "neumann"] * len(shape), strict=True))
    A = Poisson.from_coefficients(kappa, tuple(sizes), boundary)
    np.testing.assert_allclose(A.matrix().toarray(), naive_tensor_mesh(kappa, sizes, boundary), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("boundary", ["dirichlet", {"x": "periodic"}, {"y-": "neumann"}])
def test_equal_sizes_as_arrays_are_the_numbers(boundary):
    kappa, cells = 10 ** RNG.uniform(-1, 1, (6, 8)), RNG.choice([0, 1, 2], p=[0.2, 0.7, 0.1], size=(6, 8))
    by_cell = np.full((6, 8), 0.5)
    by_cell[0, 0] = np.nextafter(0.5, 1)  # not quite equal, so that the general formulas serve
    for h in ((np.full(6, 0.5), 2.0), (by_cell, 2.0)):
        A = Poisson.from_coefficients(kappa, h, boundary, 0.3, cells=cells)
        other = Poisson.from_coefficients(kappa, (0.5, 2.0), boundary, 0.3, cells=cells)
        same(A, other)
        np.testing.assert_allclose(A.rhs(1.0, dirichlet=2.0), other.rhs(1.0, dirichlet=2.0), rtol=1e-12)
    same(Poisson.from_cells(cells, (by_cell, 0.5), boundary), Poisson.from_cells(cells, 0.5, boundary))


def test_a_linear_function_is_exact_on_any_tensor_mesh():
    h = (RNG.uniform(0.2, 2, 9), RNG.uniform(0.2, 2, 6))
    A = Poisson.from_coefficients(np.full((9, 6), 3.0), h, {"y": "neumann"})
    centres = np.cumsum(h[0]) - h[0] / 2
    b = A.rhs(0.0, dirichlet={"x-": 0.0, "x+": h[0].sum()})
    x, info = cg(A, b, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, np.broadcast_to(centres[:, None], (9, 6)), rtol=1e-9)
    flux = A.flux(x, dirichlet={"x-": 0.0, "x+": h[0].sum()})
    np.testing.assert_allclose(flux[0], -3.0 * np.broadcast_to(h[1], (10, 6)), rtol=1e-8)
    np.testing.assert_allclose(flux[1], 0, atol=1e-8)


def test_longitude_and_latitude():
    """Eigenfunctions of the Laplacian on the sphere: lap(sin lat) = -2 sin lat, second order in the mesh size."""
    errors = []
    for n in (32, 64):
        lat = (np.arange(n) + 0.5) / n * np.pi - np.pi / 2
        cos = np.broadcast_to(np.cos(lat)[:, None], (n, 2 * n))
        A = Poisson.from_coefficients(
            np.ones((n, 2 * n)), (np.pi / n, cos * np.pi / n), {"x": "neumann", "y": "periodic"}, shift=1.0
        )
        u = np.sin(lat)[:, None] + np.cos(lat)[:, None] * np.cos((np.arange(2 * n) + 0.5) / n * np.pi)
        x, info = cg(A, A.rhs(3 * u), rtol=1e-10)  # (-lap + 1) u = 3 u
        assert info == 0
        errors.append(abs(x - u).max())
    assert errors[1] < errors[0] / 3 < 0.01


def test_robin_sides():
    """One dimension: -p'' = 0, p = 1 at the left, p' = -2 p at the right of a unit interval: p = 1 - 2 x / 3."""
    A = Poisson.from_coefficients(np.ones((50, 1)), (1 / 50, 1.0), {"y": "neumann", "x+": ("robin", 2.0)})
    x, info = cg(A, A.rhs(0.0, dirichlet={"x-": 1.0, "x+": 0.0}), rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x[:, 0], 1 - 2 * (np.arange(50) + 0.5) / 150, rtol=1e-9)
    assert A.boundary[0] == ("dirichlet", "robin")


def test_robin_lies_between_neumann_and_dirichlet():
    kappa = 10 ** RNG.uniform(-1, 1, (5, 6))
    for alpha, kind in ((0.0, "neumann"), (1e14, "dirichlet")):
        A = Poisson.from_coefficients(kappa, 0.5, {"x-": ("robin", alpha)})
        other = Poisson.from_coefficients(kappa, 0.5, {"x-": kind})
        np.testing.assert_allclose(A.matrix().toarray(), other.matrix().toarray(), rtol=1e-10)
    profile = RNG.uniform(0.5, 2, 6)
    A = Poisson.from_coefficients(kappa, 0.5, {"x-": ("robin", profile)})
    q = 2 * kappa[0] / 0.5
    np.testing.assert_allclose(A.sides[0][0].flatten(), 0.5 * profile * q / (profile + q))


def test_cells_close_faces():
    shape = (6, 7)
    faces = [RNG.uniform(0.5, 2, (7, 7)), RNG.uniform(0.5, 2, (6, 8))]
    cells = RNG.choice([0, 1, 2], p=[0.2, 0.7, 0.1], size=shape)
    A = Poisson.from_faces(faces, 0.1, cells=cells)
    number, expected = np.arange(42).reshape(shape), np.zeros((42, 42))
    for i in np.ndindex(shape):
        if cells[i] != 1:
            continue
        expected[number[i], number[i]] += 0.1
        for d in range(2):
            for step in (0, 1):
                w = faces[d][(*i[:d], i[d] + step, *i[d + 1 :])]
                j = (*i[:d], i[d] + 2 * step - 1, *i[d + 1 :])
                inside = 0 <= j[d] < shape[d]
                if not inside or cells[j] > 0:
                    expected[number[i], number[i]] += w
                if inside and cells[j] == 1:
                    expected[number[i], number[j]] -= w
    np.testing.assert_allclose(A.matrix().toarray(), expected, rtol=1e-14)
    np.testing.assert_allclose(  # constants are exact where everything given is that constant
        (A @ np.where(cells == 1, 2.0, 0)),
        A.rhs(np.where(cells == 1, 0.2, 0), dirichlet={"open": 2.0, "x": 2.0, "y": 2.0}),
    )


BUILT = {
    "classical": lambda k, c: Poisson.from_coefficients(k, (0.5, 2.0), {"y": "periodic", "x+": "neumann"}, cells=c),
    "tensor": lambda k, c: Poisson.from_coefficients(
        k, (np.linspace(1, 2, 8), 2.0), {"y": "periodic", "x+": "neumann"}, cells=c
    ),
    "cells": lambda k, c: Poisson.from_cells(c, 0.5, {"x-": "dirichlet", "y": "periodic"}),
    "faces": lambda k, c: Poisson.from_faces(
        [np.ones((9, 9)) * np.arange(9, 0, -1)[:, None] * np.r_[np.ones(8), 0][:, None], np.ones((8, 10))], boundary={
            "y": "periodic"}, cells=c
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BUILT))
def test_what_flows_out_of_a_cell_is_its_right_hand_side(name):
    cells = RNG.choice([0, 1, 2], p=[0.15, 0.75, 0.1], size=(8, 9))
    A = BUILT[name](10 ** RNG.uniform(-1, 1, (8, 9)), cells)
    f, given = RNG.standard_normal((8, 9)), {"x-": RNG.standard_normal(9), "open": RNG.standard_normal((8, 9))}
    flux = {} if name == "faces" else {"x+": RNG.standard_normal(9)}
    b = A.rhs(f, dirichlet=given, flux=flux)
    x, info = cg(A, b, rtol=1e-12)
    assert info == 0
    qx, qy = A.flux(x, dirichlet=given, flux=flux)
    assert qx.shape == (9, 9)
    assert qy.shape == (8, 10)
    outflow = np.diff(qx, axis=0) + np.diff(qy, axis=1)
    np.testing.assert_allclose(outflow[cells == 1], A.rhs(f)[cells == 1], atol=1e-8)


def test_fluxes_of_batches_of_tensors_have_gradients():
    kappa = torch.ones(4, 5, dtype=torch.float64, requires_grad=True)
    A = Poisson.from_coefficients(kappa, boundary={"y": "neumann"})
    x = solve(A, A.rhs(0.0, dirichlet={"x-": 1.0}))
    through = A.flux(x, dirichlet={"x-": 1.0})[0][2].sum()
    (gradient,) = torch.autograd.grad(through, kappa)
    assert float(gradient.sum()) == pytest.approx(through.item())  # homogeneous of degree one in kappa
    assert A.flux(torch.stack([x, 2 * x]))[1].shape == (2, 4, 6)


def test_a_matrix_has_right_hand_sides_and_fluxes_too():
    known = Poisson.from_coefficients(10 ** RNG.uniform(-1, 1, (6, 7)))  # corners: excess is split in equal parts
    A = Poisson.from_matrix(known.matrix(), (6, 7))
    f, given = RNG.standard_normal((6, 7)), {"y-": RNG.standard_normal(6), "y+": 2.0}
    np.testing.assert_allclose(A.rhs(f, dirichlet=given), known.rhs(f, dirichlet=given), rtol=1e-12, atol=1e-12)
    x, _ = cg(A, A.rhs(f, dirichlet=given), rtol=1e-12)
    for mine, theirs in zip(A.flux(x, dirichlet=given), known.flux(x, dirichlet=given), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-9)


def test_numbers_give_the_library_that_the_operator_was_built_from():
    assert isinstance(Poisson.from_cells(np.ones((3, 4))).rhs(1.0), np.ndarray)
    assert isinstance(Poisson.from_cells(torch.ones(3, 4)).rhs(1.0), torch.Tensor)
    assert isinstance(Poisson.from_matrix(Poisson.from_cells(np.ones((3, 4))).matrix(), (3, 4)).rhs(1.0), np.ndarray)
    inlet = torch.ones(4, dtype=torch.float64, requires_grad=True)
    A = Poisson.from_coefficients(np.ones((3, 4)))
    assert A.rhs(0.0, dirichlet={"x-": inlet}).requires_grad


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Poisson.from_cells(np.ones((3, 4)), (np.ones(4), 1.0)), r"spacing\[0\] of shape \(4,\)"),
        (lambda: Poisson.from_cells(np.ones((3, 4)), (np.ones(3), [1.0, 0, 1, 1])), r"spacing\[1\] with a size"),
        (lambda: Poisson.from_cells(np.ones((3, 4)), (np.ones(3), 1.0, 1.0)), "spacing for 3 axes; expected 2"),
        (lambda: Poisson.from_cells(np.ones((3, 4)), boundary={"x": ("robin",)}), r"\(\"robin\", alpha\)"),
        (lambda: Poisson.from_cells(np.ones((3, 4)), boundary={"x": ("robin", -1.0)}), "alpha -1"),
        (lambda: Poisson.from_cells(np.ones((3, 4)), boundary={"x": ("robin", np.ones(3))}), r"alpha of shape \(3,\)"),
        (lambda: Poisson.from_cells(np.ones((3, 4)), boundary="robin"), "expected one of neumann"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("build", ["coefficients", "cells", "faces"])
def test_cells_of_given_value_are_rows_and_columns_moved_to_the_right(build):
    cells = RNG.choice([0, 1, 2], p=[0.15, 0.75, 0.1], size=(8, 9))
    fixed = (RNG.random((8, 9)) < 0.15) & (cells == 1)
    kappa = 10 ** RNG.uniform(-1, 1, (8, 9))

    def made(**options):
        if build == "coefficients":
            return Poisson.from_coefficients(kappa, (0.5, 2.0), {"x": "periodic"}, cells=cells, **options)
        if build == "cells":
            return Poisson.from_cells(cells, 0.5, {"x": "periodic", "y-": "dirichlet"}, **options)
        faces = [np.ones((9, 9)), kappa[:, :1] * np.ones((8, 10))]
        return Poisson.from_faces(faces, boundary={"x": "periodic"}, cells=cells, **options)

    whole, A = made(), made(fixed=fixed)
    f, g = RNG.standard_normal((8, 9)), RNG.standard_normal((8, 9))
    free = (cells == 1) & ~fixed
    full = whole.matrix().toarray()
    rows = np.flatnonzero(free)
    np.testing.assert_allclose(A.matrix().toarray()[rows][:, rows], full[rows][:, rows], atol=1e-14)
    b = A.rhs(f, dirichlet={"open": 3.0}, fixed=g)
    expected = whole.rhs(f, dirichlet={"open": 3.0}).ravel() - full @ np.where(fixed, g, 0).ravel()
    np.testing.assert_allclose(b[free], expected[rows], atol=1e-12)
    x, info = cg(A, b, rtol=1e-12)
    assert info == 0
    parts = A.flux(x, dirichlet={"open": 3.0}, fixed=g)
    outflow = np.diff(parts[0], axis=0) + np.diff(parts[1], axis=1)
    np.testing.assert_allclose(outflow[free], A.rhs(f)[free], atol=1e-8)


def test_fixed_values_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="without such cells"):
        Poisson.from_cells(np.ones((3, 4))).rhs(0.0, fixed=1.0)
    with pytest.raises(ValueError, match="expected booleans"):
        Poisson.from_cells(np.ones((3, 4)), fixed=np.ones((3, 4)))
