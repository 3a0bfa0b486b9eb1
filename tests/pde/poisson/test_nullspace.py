import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
from hypothesis import given, settings
from krylearn.pde import Poisson
from naive_poisson import naive_matrix, problems

FEW = settings(deadline=None, max_examples=60)


@FEW
@given(problems())
def test_components_are_those_of_the_matrix_graph(problem):
    A = Poisson.from_coefficients(**problem)
    inside = A.unknown.numpy().ravel()
    graph = naive_matrix(**problem)[inside][:, inside]
    count, wanted = scipy.sparse.csgraph.connected_components(graph, directed=False)
    found = A.component_labels().numpy().ravel()
    assert (found[~inside] == -1).all()
    pairs = set(zip(found[inside].tolist(), wanted.tolist(), strict=True))
    assert len(pairs) == count == len({i for i, _ in pairs})  # one to one


@FEW
@given(problems())
def test_dimension_is_the_number_of_zero_eigenvalues(problem):
    A = Poisson.from_coefficients(**problem)
    values = np.linalg.eigvalsh(A.matrix(unknowns=True).toarray())
    assert A.nullspace.dimension == int((values < 1e-11 * max(values[-1], 1e-300)).sum())
    assert bool(A.nullspace) == (A.nullspace.dimension > 0)


@FEW
@given(problems())
def test_projection_removes_the_null_space_and_nothing_else(problem):
    A = Poisson.from_coefficients(**problem)
    x = A.to_grid(torch.randn(2, A.shape[0], generator=torch.Generator().manual_seed(41231), dtype=torch.float64))
    once = A.nullspace.project(x)
    torch.testing.assert_close(A.nullspace.project(once), once)
    torch.testing.assert_close(A.apply(once), A.apply(x))
    b = A.apply(x)  # the range is orthogonal to the null space
    torch.testing.assert_close(A.nullspace.project(b), b, rtol=1e-12, atol=1e-11 * float(A.diag.max()))
    for i in A.nullspace.singular:
        mask = A.nullspace.labels == i
        assert (once[:, mask].sum(-1).abs() < 1e-12 * (1 + x.abs().sum())).all()
    assert torch.equal(once[:, ~A.unknown], torch.zeros_like(once[:, ~A.unknown]))


def test_a_batch_is_projected_like_its_members():
    cells = np.array([[1, 1, 0, 1], [1, 1, 0, 1]])
    A = Poisson.from_cells(cells)
    assert A.nullspace.dimension == 2
    x = A.to_grid(torch.randn(3, 2, 2, 4, generator=torch.Generator().manual_seed(43588), dtype=torch.float64))
    together = A.nullspace.project(x)
    for i in range(3):
        torch.testing.assert_close(together[i], A.nullspace.project(x[i]))


def test_one_grounded_cell_makes_a_large_component_regular_in_either_precision():
    faces = [np.ones((33, 32)), np.ones((32, 33))]
    faces[0][[0, -1]], faces[1][:, [0, -1]] = 0, 0
    assert Poisson.from_faces(faces).nullspace.dimension == 1
    extra = np.zeros((32, 32))
    extra[3, 4] = 1e-6
    A = Poisson.from_faces(faces, extra)
    assert A.nullspace.dimension == A.to(dtype=np.float32).nullspace.dimension == 0


def test_an_isolated_cell_is_a_component_of_its_own():
    A = Poisson.from_cells([[1, 0, 1], [0, 1, 0]])
    assert A.nullspace.dimension == 3
    assert not A.nullspace.project(A.to_grid(np.arange(6.0))).any()


def test_walls_split_and_wraps_join():
    kappa = np.ones((4, 5))
    kappa[:, 2] = 0
    cells = np.ones((4, 5))
    split = Poisson.from_coefficients(kappa, boundary="neumann", cells=cells)
    assert split.nullspace.dimension == 2 + 4  # two halves and four impermeable cells
    cells[:, 2] = 0
    assert Poisson.from_cells(cells).nullspace.dimension == 2
    assert Poisson.from_cells(cells, boundary={"y": "periodic"}).nullspace.dimension == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 1, 3)])
@pytest.mark.parametrize("boundary", ["neumann", "periodic"])
def test_flat_grids_without_ground_are_singular(shape, boundary):
    A = Poisson.from_cells(np.ones(shape), boundary=boundary)
    assert A.nullspace.dimension == 1
    assert repr(A.nullspace) == "NullSpace(dimension=1, components=1)"
