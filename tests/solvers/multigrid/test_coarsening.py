"""Classical coarsening: the textbook on boxes, circuits elsewhere; walls, odd ends, periodic wraps, semi-coarsening."""

import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
from krylearn.pde import FAMILIES, Poisson, scene
from krylearn.solvers.kernels.reference import Stencil, apply
from krylearn.solvers.multigrid.coarsening import balanced_factors, choose_factors, circuit, classical
from krylearn.solvers.multigrid.hierarchy import dense, geometric, resistor
from multigrid_cases import hierarchy, random_network, rough, stencil

RULES = {"geometric": geometric, "resistor": resistor, "network": random_network(33_013).double()}


def raw_stencil(A):
    """The operator as it is, not divided by a power of two."""
    return Stencil(A.links, A.ground, A.shift, A.periodic)


# --- the textbook -----------------------------------------------------------------------------------------------------

BOXES = {
    "dirichlet": ((8, 6, 4), "dirichlet", (2, 2, 2)),
    "mixed": ((8, 8, 4), {"x": "periodic", "y-": "neumann", "y+": "dirichlet", "z": "neumann"}, (2, 2, 2)),
    "semi": ((8, 6, 4), {"x": "periodic", "z": "neumann"}, (2, 1, 2)),
    "plane": ((8, 12), {"x": "dirichlet", "y": "periodic"}, (2, 1, 2)),
    "one_axis": ((8, 4, 4), "dirichlet", (1, 1, 2)),
}


@pytest.mark.parametrize("kind", ["geometric", "resistor"])
@pytest.mark.parametrize("box", BOXES)
def test_a_uniform_box_becomes_the_box_of_twice_the_spacing(box, kind):
    shape, boundary, factors = BOXES[box]
    spacing = tuple(np.linspace(1.0, 1.5, len(shape)))
    A = Poisson.from_coefficients(np.full(shape, 3.0), spacing=spacing, boundary=boundary, shift=0.25)
    kept = factors if len(shape) == 3 else (factors[0], factors[2])
    coarse_shape = tuple(n // f for n, f in zip(shape, kept, strict=True))
    coarse_spacing = tuple(h * f for h, f in zip(spacing, kept, strict=True))
    expected = Poisson.from_coefficients(
        np.full(coarse_shape, 3.0), spacing=coarse_spacing, boundary=boundary, shift=0.25
    )
    _, _, coarse = classical(raw_stencil(A), factors, kind)
    for d in range(3):
        torch.testing.assert_close(coarse.links[d], expected.links[d])
        torch.testing.assert_close(coarse.ground[d], expected.ground[d])
    torch.testing.assert_close(coarse.shift, expected.shift)
    torch.testing.assert_close(coarse.diag, expected.diag)


@pytest.mark.parametrize("kind", ["geometric", "resistor"])
def test_prolongation_weights_of_a_uniform_box_are_a_quarter(kind):
    op = raw_stencil(Poisson.from_coefficients(np.ones((8, 6, 4)), boundary={"x": "periodic"}))
    s, transfer, _ = classical(op, (2, 2, 2), kind)
    assert bool((s == 1).all())
    assert bool((transfer.weights[0] == 0.25).all())  # wraps: every cell has an outer neighbour
    y = transfer.weights[1]
    assert bool((y[:, 1:-1] == 0.25).all())
    assert not y[:, [0, -1]].any()  # nothing beyond a side to mix with


def test_grounds_are_put_in_series_and_shifts_add_up():
    A = Poisson.from_faces([[[4.0], [2.0], [0.0]], np.zeros((2, 2))], extra=np.array([[1.0], [5.0]]))
    _, _, coarse = classical(raw_stencil(A), (2, 1, 1), "resistor")
    assert float(coarse.ground[0].sum()) == pytest.approx(1 / (1 / 4 + 1 / (2 * 2)))  # half the inner link behind it
    assert float(coarse.shift.sum()) == 6.0


# --- circuits against loops -------------------------------------------------------------------------------------------


def naive_chain(w, periodic, kind):
    """Coarse links and prolongation weights of a chain of unknowns, block by block; w[i] couples i and i + 1."""
    n = len(w)
    blocks = (n + 1) // 2

    def inner(i):
        first = i - i % 2
        return w[first] if first + 1 < n else None  # None: a block of one cell

    def half(i, joining):
        if inner(i) is None:
            return 0.0
        if kind == "geometric":
            return 0.5 / joining
        return 0.5 / inner(i) if inner(i) else np.inf  # a wall inside the block: no way to its centre

    coarse, weights = np.zeros(blocks), np.zeros(n)
    for i in range(n):
        j = (i + 1) % n
        if (i % 2 == 1 or i == n - 1) and w[i] and (j or periodic):
            coarse[i // 2] += 1 / (half(i, w[i]) + 1 / w[i] + half(j, w[i]))
        o = i + 1 if i % 2 else i - 1
        if periodic or 0 <= o < n:
            joining = w[i] if i % 2 else w[i - 1]
            own, other = half(i, joining or 1), half(o % n, joining or 1)
            own, other = (0.0 if np.isinf(h) else h for h in (own, other))
            weights[i] = own / (own + 1 / joining + other) if joining else 0.0
    return (coarse if blocks > 1 else np.zeros(1)), weights


@pytest.mark.parametrize("kind", ["geometric", "resistor"])
@pytest.mark.parametrize("periodic", [False, True], ids=["open", "wraps"])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9])
def test_chains_agree_with_the_obvious_loops(n, periodic, kind):
    rng = np.random.default_rng(33_023 + n)
    for _ in range(12):
        w = 10 ** rng.uniform(-3, 3, n) * (rng.random(n) > 0.2)
        w[-1] *= periodic
        faces = np.concatenate([[w[-1] if periodic else 0.0], w])[:, None]
        A = Poisson.from_faces(
            [faces, np.zeros((n, 2))], extra=np.ones((n, 1)), boundary={"x": "periodic"} if periodic else "neumann"
        )
        op = raw_stencil(A)
        _, transfer, coarse = classical(op, (2, 1, 1), kind)
        links, weights = naive_chain(w, periodic, kind)
        np.testing.assert_allclose(coarse.links[0].flatten().numpy(), links, rtol=1e-12)
        np.testing.assert_allclose(transfer.weights[0].flatten().numpy(), weights, rtol=1e-12)


def test_an_odd_axis_ends_in_a_block_of_one_cell():
    op = raw_stencil(Poisson.from_coefficients(np.ones((5, 4)), boundary="neumann"))
    _, transfer, coarse = classical(op, (2, 1, 2), "resistor")
    assert coarse.size == (3, 1, 2)
    assert float(coarse.links[0][1, 0, 0]) == pytest.approx(2 / 1.5)  # half a block less in the way
    assert float(transfer.weights[0][3, 0, 0]) == pytest.approx(1 / 3)
    assert float(transfer.weights[0][4, 0, 0]) == 0  # a cell at the centre of its block needs no mixing


def test_a_periodic_axis_of_one_block_does_not_couple_to_itself():
    op = raw_stencil(Poisson.from_coefficients(np.ones((2, 6)), boundary="periodic"))
    _, _, coarse = classical(op, (2, 1, 2), "resistor")
    assert coarse.size[0] == 1
    assert not coarse.links[0].any()
    torch.testing.assert_close(apply(coarse, torch.ones_like(coarse.diag)), torch.zeros_like(coarse.diag))


# --- walls ------------------------------------------------------------------------------------------------------------


def components(op):
    """Connected components of the cells with an unknown."""
    reach = (op.diag > 0).flatten().numpy()
    graph = (dense(op).numpy() != 0)[np.ix_(reach, reach)]
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[0]


@pytest.mark.parametrize("kind", ["geometric", "resistor"])
@pytest.mark.parametrize("place", [3, 4, 5, 6])
def test_a_wall_of_cells_still_separates_on_the_coarse_grid(place, kind):
    cells = np.ones((10, 8, 6))
    cells[place] = 0
    op = raw_stencil(Poisson.from_cells(cells))
    _, _, coarse = classical(op, (2, 2, 2), kind)
    assert components(op) == 2
    assert components(coarse) == 2


@pytest.mark.parametrize("place", [3, 4])
def test_a_wall_without_thickness_is_cut_by_the_resistor_rule_alone(place):
    faces = [np.ones((9, 4)), np.ones((8, 5))]
    faces[0][place] = 0  # between the cells place - 1 and place: on a block's edge (4) or inside a block (3)
    for axis, ends in ((0, (0, -1)), (1, (0, -1))):
        for end in ends:
            np.moveaxis(faces[axis], axis, 0)[end] = 0
    op = raw_stencil(Poisson.from_faces(faces))
    _, _, resistors = classical(op, (2, 1, 2), "resistor")
    _, _, uniform = classical(op, (2, 1, 2), "geometric")
    assert components(op) == 2
    if place == 4:
        assert components(resistors) == components(uniform) == 2
    else:
        block = 1  # cells 2 and 3, on either side of the wall
        assert bool(circuit(op, 0).blocked[2:4].all())
        assert not resistors.links[0][block - 1 : block + 1].any()
        assert bool(uniform.links[0][block - 1 : block + 1].all())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_level_stays_symmetric_and_semidefinite(family, rule):
    for level in hierarchy(scene(family, (11, 12, 10), 33_029), RULES[rule], coarsest=20).levels[1:]:
        op = level.op
        for value in (*op.links, *op.ground, op.shift):
            assert float(value.min()) >= 0
        matrix = dense(op)
        assert torch.equal(matrix, matrix.mT)
        assert float(torch.linalg.eigvalsh(matrix)[0]) >= -1e-12 * float(op.diag.max())


# --- null spaces ------------------------------------------------------------------------------------------------------

SINGULAR = {
    "closed_box": lambda: rough((9, 8, 7), {}),
    "periodic_box": lambda: rough((12, 13), {"x": "periodic", "y": "periodic"}),
    "mixed_box": lambda: rough((7, 6, 8), {"x": "periodic"}),
    "neumann": lambda: scene("neumann", (12, 12, 12), 33_037),
    "periodic": lambda: scene("periodic", (11, 10, 12), 33_037),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("system", SINGULAR)
def test_singular_operators_stay_singular_on_every_level(system, rule):
    A = SINGULAR[system]()
    assert A.nullspace
    h = hierarchy(A, RULES[rule], coarsest=12)
    assert len(h.levels) >= 2
    for op in (*(v.op for v in h.levels), h.bottom):
        left = apply(op, op.mask)
        assert float(left.abs().max()) <= 1e-12 * float(op.diag.max())


def test_a_closed_pocket_stays_apart_from_what_is_open():
    cells = np.ones((12, 12))
    cells[:, 5:7] = 0
    A = Poisson.from_cells(cells, boundary={"y+": "dirichlet"})
    assert A.nullspace.dimension == 1
    for level in hierarchy(A, resistor, coarsest=12).levels:
        closed = level.op.mask * (torch.arange(level.op.size[2]) < level.op.size[2] / 2)
        assert float(apply(level.op, closed).abs().max()) <= 1e-14


# --- which axes -------------------------------------------------------------------------------------------------------


def factors_of(A):
    """Factors level by level; a level that is smoothed twice counts once."""
    return [f for v in hierarchy(A, resistor, coarsest=20).levels if (f := v.transfer.factors) != (1, 1, 1)]


@pytest.mark.parametrize(("ratio", "waits"), [(10, 1), (100, 3)])
def test_strong_couplings_are_coarsened_until_they_are_not(ratio, waits):
    A = Poisson.from_coefficients(np.ones((32, 8, 8)), spacing=(ratio**-0.5, 1, 1), boundary="neumann")
    factors = factors_of(A)
    assert factors[:waits] == [(2, 1, 1)] * waits
    assert factors[waits] == (2, 2, 2)


def test_the_axis_of_strong_couplings_may_be_any():
    for axis in range(3):
        spacing = [0.1 if d == axis else 1.0 for d in range(3)]
        first = factors_of(Poisson.from_coefficients(np.ones((8, 8, 8)), spacing=spacing))[0]
        assert first == tuple(2 if d == axis else 1 for d in range(3))


def test_isotropic_grids_are_coarsened_along_every_axis_but_flat_ones():
    assert choose_factors(stencil(Poisson.from_coefficients(np.ones((8, 8, 8))))) == (2, 2, 2)
    assert choose_factors(stencil(Poisson.from_coefficients(np.ones((8, 8))))) == (2, 1, 2)
    assert choose_factors(stencil(Poisson.from_coefficients(np.ones((8, 1, 1))))) == (2, 1, 1)


def test_where_nothing_couples_every_long_axis_is_halved():
    A = Poisson.from_coefficients(np.ones((1, 1, 1)), boundary="dirichlet")
    assert balanced_factors([0.0, 0.0, 0.0], (8, 1, 5)) == (2, 1, 2)
    assert choose_factors(stencil(A)) == (1, 1, 1)


def test_coarsening_ends_on_grids_that_only_shrink_slowly():
    cells = np.zeros((400, 3))
    cells[::2] = 1  # lonely rows: nothing couples along x
    levels = hierarchy(Poisson.from_cells(cells, shift=1.0), resistor).levels
    assert 0 < len(levels) < 12
