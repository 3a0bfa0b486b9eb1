"""`NeuralMultigrid` as a map: linear, symmetric, definite whatever the weights; scaling; interfaces; set-up."""

import numpy as np
import pyamg
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.kernels import reference
from krylearn.solvers.kernels.reference import OMEGA
from krylearn.solvers.multigrid.hierarchy import geometric, resistor, v_cycle
from multigrid_cases import GRIDS, dense, grid_system, hierarchy, matrix_of, random_network, rough, stencil

NAMED = (None, "tuned", "geometric", "resistor")
NETWORKS = {seed: random_network(seed) for seed in (31_013, 31_019, 31_033)}
RULES = {**{str(name): name for name in NAMED}, **{f"random_{seed}": net for seed, net in NETWORKS.items()}}
SHAPES = {2: (13, 18), 3: (9, 6, 7)}
SYMMETRY = {torch.float64: 1e-13, torch.float32: 1e-6}
EXACT = {torch.float64: 1e-11, torch.float32: 2e-4}


def family_system(family, dimension):
    return scene(family, SHAPES[dimension], 31_039)


def vectors(A, count, seed=31_051):
    rng = np.random.default_rng(seed)
    return [A.from_grid(A.to_grid(v), v) for v in rng.standard_normal((count, A.shape[0]))]


# --- the theorems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_linear_symmetric_positive_on_every_family(family, dimension, dtype):
    A = family_system(family, dimension)
    x, y = vectors(A, 2)
    for name, rule in RULES.items():
        M = NeuralMultigrid(A, rule, dtype=dtype)
        mx, my = M @ x, M @ y
        energy = np.sqrt((x @ mx) * (y @ my))
        assert x @ mx > 0, name
        assert y @ my > 0, name
        assert abs(x @ my - y @ mx) <= SYMMETRY[dtype] * energy, name
        combined = M @ (3 * x - 0.7 * y)
        scale = np.linalg.norm(3 * mx) + np.linalg.norm(0.7 * my)
        assert np.linalg.norm(combined - (3 * mx - 0.7 * my)) <= EXACT[dtype] * scale, name


def embed(v, A):
    full = np.zeros(A.shape[0])
    full[(A.diag > 0).flatten().numpy()] = v
    return full


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_eigenvalue_is_positive(family, dimension):
    A = family_system(family, dimension)
    for name, rule in RULES.items():
        inverse = dense(NeuralMultigrid(A, rule), A)  # fp32, the harder case; fp64 below
        values, modes = np.linalg.eigh((inverse + inverse.T) / 2)
        assert values[0] > 0, name
        weakest = A.from_grid(A.to_grid(embed(modes[:, 0], A)), np.empty(A.shape[0]))
        assert weakest @ (NeuralMultigrid(A, rule) @ weakest) > 0, name


@pytest.mark.parametrize("grid", GRIDS)
def test_every_eigenvalue_is_positive_on_odd_grids(grid):
    A = grid_system(grid)
    for name, rule in RULES.items():
        inverse = dense(NeuralMultigrid(A, rule, dtype=torch.float64), A)
        assert np.linalg.norm(inverse - inverse.T) <= 1e-13 * np.linalg.norm(inverse), name
        assert np.linalg.eigvalsh(inverse)[0] > 0, name


def energy_norm(error, A):
    """The norm of a matrix in the energy of A, on the complement of the null space."""
    values, modes = np.linalg.eigh(A)
    kept = values > 1e-10 * values[-1]
    root = modes[:, kept] * np.sqrt(values[kept])
    return np.linalg.norm(root.T @ error @ (modes[:, kept] / np.sqrt(values[kept])), 2)


class WithNoise(torch.nn.Module):
    """The resistor rule with a damping that varies wildly from cell to cell."""

    def forward(self, op, factors):
        s, transfer, coarse = resistor(op, factors)
        return s * torch.rand(s.shape, generator=torch.Generator().manual_seed(31_037)), transfer, coarse


@pytest.mark.parametrize("damping", ["full", "noisy", "network"])
@pytest.mark.parametrize("grid", ["even_3d", "even_2d", "prime_2d", "flat_middle"])
def test_the_smoother_contracts_the_energy_of_every_error(grid, damping):
    A = grid_system(grid)
    rule = {"full": "geometric", "noisy": WithNoise(), "network": NETWORKS[31_013]}[damping]
    level = NeuralMultigrid(A, rule, dtype=torch.float64).hierarchy.levels[0]
    op, s = level.op, level.s
    zero = torch.zeros_like(op.diag)

    def error(x):  # b = 0: what is left of an error after both steps
        for omega in OMEGA:
            x = reference.smooth(op, s, x, zero, omega)
        return x * op.mask

    reach = (op.diag > 0).flatten().numpy()
    energy = matrix_of(lambda x: reference.apply(op, x), op.size).numpy()[np.ix_(reach, reach)]
    remaining = matrix_of(error, op.size).numpy()[np.ix_(reach, reach)]
    assert energy_norm(remaining, energy) < 1
    scaled = matrix_of(lambda x: s * op.inv * reference.apply(op, x), op.size).numpy()[np.ix_(reach, reach)]
    spectrum = np.linalg.eigvals(scaled)
    assert abs(spectrum.imag).max() <= 1e-6
    assert spectrum.real.min() >= -1e-12
    assert spectrum.real.max() <= 2 + 1e-12


def test_the_checkerboard_is_the_worst_case_of_the_smoother():
    A = Poisson.from_cells(np.ones((16, 16)), boundary="periodic")  # 2 is an eigenvalue of D⁻¹A
    op = stencil(A)
    board = torch.from_numpy((-1.0) ** np.add.outer(range(16), range(16))).unsqueeze(1)
    x = board
    for omega in OMEGA:
        x = reference.smooth(op, op.mask, x, torch.zeros_like(board), omega)
    torch.testing.assert_close(x, (1 - 2 * OMEGA[0]) * (1 - 2 * OMEGA[1]) * board)
    assert abs((1 - 2 * OMEGA[0]) * (1 - 2 * OMEGA[1])) < 1


@pytest.mark.parametrize("rule", ["geometric", "resistor", None])
def test_the_error_shrinks_in_every_application(rule):
    A = scene("open_box", (12, 10, 8), 31_063)
    M = NeuralMultigrid(A, rule, dtype=torch.float64)
    matrix = A.matrix(unknowns=True).toarray()
    assert energy_norm(np.eye(A.unknowns) - dense(M, A) @ matrix, matrix) < 0.4


# --- scale and orientation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["resistor", None])
@pytest.mark.parametrize("power", [3, -50, 40])
def test_a_power_of_two_changes_no_digit(weights, power):
    kappa = 10 ** np.random.default_rng(31_069).uniform(-2, 2, (9, 8, 10))
    A, scaled = Poisson.from_coefficients(kappa), Poisson.from_coefficients(2.0**power * kappa)
    (r,) = vectors(A, 1)
    z = NeuralMultigrid(A, weights) @ r
    np.testing.assert_array_equal((NeuralMultigrid(scaled, weights) @ r) * 2.0**power, z)
    np.testing.assert_array_equal(NeuralMultigrid(A, weights) @ (r * 2.0**power), z * 2.0**power)


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_si_units_work(scale):
    kappa = 10 ** np.random.default_rng(31_079).uniform(-2, 2, (14, 15))
    A, scaled = Poisson.from_coefficients(kappa), Poisson.from_coefficients(scale * kappa)
    (r,) = vectors(A, 1)
    z = NeuralMultigrid(A, "resistor") @ r
    np.testing.assert_allclose(
        (NeuralMultigrid(scaled, "resistor") @ r) * scale, z, rtol=1e-3, atol=1e-4 * abs(z).max()
    )
    _, info = cg(scaled, r * scale, rtol=1e-8)
    assert info == 0


ORIENTATIONS = {"cycle": (1, 2, 0), "swap": (2, 1, 0)}


def turned_pair(order):
    kappa = 10 ** np.random.default_rng(31_081).uniform(-1, 1, (16, 8, 12))
    boundary = {"x": "periodic", "y-": "neumann"}
    turned = {"xyz"[order.index("xyz".index(k[0]))] + k[1:]: v for k, v in boundary.items()}
    turned_system = Poisson.from_coefficients(kappa.transpose(order), boundary=turned)
    return Poisson.from_coefficients(kappa, boundary=boundary), turned_system


@pytest.mark.parametrize("rule", ["geometric", "resistor", "network"])
@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_turning_the_axes_turns_the_coefficients(rule, turn):
    order = ORIENTATIONS[turn]
    A, turned = turned_pair(order)
    for level, other in zip(levels_in_double(A, rule).levels, levels_in_double(turned, rule).levels, strict=True):
        assert other.transfer.factors == tuple(level.transfer.factors[d] for d in order)
        pairs = [(level.s, other.s), (level.op.diag, other.op.diag)]
        for d, axis in enumerate(order):
            pairs += [(level.op.links[axis], other.op.links[d]), (level.op.ground[axis], other.op.ground[d])]
            if level.transfer.weights[axis] is not None:  # else both stay
                pairs += [(level.transfer.weights[axis], other.transfer.weights[d])]
        for value, turned_value in pairs:
            torch.testing.assert_close(turned_value, value.permute(order), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_turning_the_axes_turns_the_answer(turn):
    order = ORIENTATIONS[turn]
    A, turned = turned_pair(order)
    r = np.random.default_rng(31_085).standard_normal(A.grid_shape)
    z = cycle_in_double(A, r, "geometric")  # constant weights: the mixings along the axes commute
    other = cycle_in_double(turned, r.transpose(order), "geometric")
    np.testing.assert_allclose(other, z.transpose(order), atol=1e-9 * abs(z).max())


@pytest.mark.parametrize("rule", ["geometric", "resistor", "network"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirroring_an_even_grid_mirrors_the_answer(rule, axis):
    rng = np.random.default_rng(31_091)
    kappa, r = 10 ** rng.uniform(-1, 1, (16, 8, 8)), rng.standard_normal((16, 8, 8))
    cells = (rng.random(kappa.shape) > 0.1).astype(int)
    z = cycle_in_double(Poisson.from_coefficients(kappa, cells=cells), r, rule)
    flipped = Poisson.from_coefficients(np.flip(kappa, axis).copy(), cells=np.flip(cells, axis).copy())
    mirrored = cycle_in_double(flipped, np.flip(r, axis).copy(), rule)
    np.testing.assert_allclose(mirrored, np.flip(z, axis), atol=1e-9 * abs(z).max())


def cycle_in_double(A, r, rule):
    z = v_cycle(levels_in_double(A, rule), A.to_grid(np.ascontiguousarray(r)))
    return A.from_grid(z, np.empty(r.shape))


def levels_in_double(A, rule):
    """Everything in fp64 and weights not rounded to eight bits, where ties may fall either way."""
    network = random_network(31_099, scale=0.5).double()
    return hierarchy(A, {"geometric": geometric, "resistor": resistor, "network": network}[rule])


# --- interfaces -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blocks():
    A = scene("blocks", (16, 12, 10), 31_121)
    return A, NeuralMultigrid(A)


def test_every_shape_and_array_type_comes_back_as_it_went_in(blocks):
    A, M = blocks
    flat = np.random.default_rng(31_123).standard_normal((3, A.shape[0]))
    expected = np.stack([M @ v for v in flat])
    grid = flat.reshape(3, *A.grid_shape)
    for v in (flat, grid, torch.from_numpy(flat), torch.from_numpy(grid), torch.from_numpy(grid).float()):
        z = M @ v
        assert type(z) is type(v)
        assert z.shape == v.shape
        assert z.dtype == v.dtype
        np.testing.assert_allclose(np.asarray(z).reshape(3, -1), expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
    np.testing.assert_array_equal(M.matmat(flat.T), expected.T)
    for same in (M.matvec, M.rmatvec, M):
        np.testing.assert_array_equal(same(flat[0]), expected[0])
    assert M.shape == A.shape
    assert M.dtype == np.float64


def test_it_preconditions_scipy_and_pyamg(blocks):
    A, M = blocks
    matrix, b = A.matrix(), right_hand_side(A, "white", 31_139).numpy().ravel()
    counts = {}
    for name, solve in {
        "scipy": lambda **k: scipy.sparse.linalg.cg(matrix, b, rtol=1e-8, **k),
        "wrapped": lambda M, **k: scipy.sparse.linalg.cg(
            matrix, b, rtol=1e-8, M=scipy.sparse.linalg.aslinearoperator(M), **k
        ),
        "pyamg": lambda **k: pyamg.krylov.cg(scipy.sparse.csr_matrix(matrix), b, tol=1e-8, **k),
    }.items():
        steps = []
        x, info = solve(M=M, callback=steps.append)
        assert info == 0, name
        assert np.linalg.norm(b - matrix @ x) <= 1e-6 * np.linalg.norm(b), name
        counts[name] = len(steps)
    _, ours = cg(A, b, M=M, rtol=1e-8)
    plain = []
    scipy.sparse.linalg.cg(matrix, b, rtol=1e-8, callback=plain.append)
    assert max(counts.values()) <= ours.iterations + 3
    assert ours.iterations < len(plain) / 3


def test_pyamg_accelerates_with_it(blocks):
    A, M = blocks
    b = right_hand_side(A, "white", 31_147).numpy().ravel()
    residuals = []
    pyamg.krylov.cg(scipy.sparse.csr_matrix(A.matrix()), b, M=M, tol=1e-6, residuals=residuals)
    assert residuals[-1] <= 1e-6 * np.linalg.norm(b)
    assert len(residuals) < 40


def test_cells_without_an_unknown_are_ignored_and_zero():
    A = scene("obstacles", (14, 13), 31_151)
    solid = ~A.unknown.flatten().numpy()
    M = NeuralMultigrid(A)
    r = np.random.default_rng(31_153).standard_normal(A.shape[0])
    noise = np.where(solid, 1e6, r)
    np.testing.assert_array_equal(M @ noise, M @ r)
    assert solid.any()
    assert not (M @ noise)[solid].any()


@pytest.mark.parametrize("kernels", ["cpu", "reference"])
def test_zero_stays_zero_and_nan_stays_visible(blocks, kernels):
    A, _ = blocks
    M = NeuralMultigrid(A, "geometric", kernels=kernels)
    assert not (M @ np.zeros(A.shape[0])).any()
    r = np.ones(A.shape[0])
    r[7] = np.nan
    assert np.isnan(M @ r).any()


def test_large_and_small_entries_neither_overflow_nor_vanish(blocks):
    A, M = blocks
    r = np.random.default_rng(31_159).standard_normal(A.shape[0])
    for scale in (2.0**1000, 2.0**-1000):
        np.testing.assert_array_equal((M @ (r * scale)) / scale, M @ r)


# --- set-up -----------------------------------------------------------------------------------------------------------


def moving(k):
    cells = np.ones((14, 16, 12))
    cells[4 + k : 8 + k, 5:10, 3:8] = 0
    cells[:, :, -1] = 2
    return Poisson.from_cells(cells)


@pytest.mark.parametrize("weights", ["resistor", None])
def test_an_update_is_a_fresh_set_up(weights):
    M = NeuralMultigrid(moving(0), weights)
    r = np.random.default_rng(31_177).standard_normal(moving(0).shape[0])
    before = M @ r
    assert M.update(moving(2)) is M
    after = M @ r
    np.testing.assert_array_equal(after, NeuralMultigrid(moving(2), weights) @ r)
    assert abs(after - before).max() > 0
    assert M.setup_seconds > 0
    np.testing.assert_array_equal(M.update(moving(0)) @ r, before)


def test_an_update_may_change_the_grid_but_not_the_dimension():
    M = NeuralMultigrid(moving(0), "geometric")
    assert M.update(scene("open_box", (9, 8, 7), 31_181)).shape == (504, 504)
    with pytest.raises(ValueError, match=r"got a grid of 2 dimensions; expected 3"):
        M.update(scene("open_box", (9, 8), 31_181))


def test_the_second_solve_has_no_set_up():
    A = scene("free_surface", (12, 12, 12), 31_183)
    b = right_hand_side(A, "white", 31_183)
    x, first = cg(A, b)
    y, second = cg(A, b)
    assert first.setup_seconds > 0
    assert second.setup_seconds == 0
    assert torch.equal(x, y)
    assert cg(A, b, M="geometric")[1].setup_seconds > 0  # other weights, another set-up


def test_double_precision_on_demand():
    A = scene("lognormal", (12, 12), 31_189)
    r = A.to_grid(np.random.default_rng(31_189).standard_normal(144))
    single, double = NeuralMultigrid(A), NeuralMultigrid(A, dtype=torch.float64)
    torch.testing.assert_close(single.exact(r), double.apply(r), rtol=0, atol=0)
    torch.testing.assert_close(
        single.apply(r), double.apply(r), rtol=0.05, atol=1e-3 * float(double.apply(r).abs().max())
    )


def test_it_describes_itself(blocks):
    _, M = blocks
    assert M.levels[0] == "16 x 12 x 10, coarsened by (2, 2, 2)"
    assert M.levels[-1].endswith("inverted")
    assert "blocks by the network" in repr(M)
    reference_kernels = NeuralMultigrid(blocks[0], kernels="reference")
    assert reference_kernels.levels == M.levels


def test_tiny_grids_are_inverted():
    A = Poisson.from_coefficients(np.ones((3, 4)))
    M = NeuralMultigrid(A, dtype=torch.float64)
    np.testing.assert_allclose(dense(M, A), np.linalg.inv(A.matrix().toarray()), atol=1e-12)


BAD = {
    "matrix": (
        lambda A: NeuralMultigrid(A.matrix()),
        TypeError,
        r"expected krylearn\.pde\.Poisson; see Poisson\.from_matrix",
    ),
    "dtype": (
        lambda A: NeuralMultigrid(A, dtype=torch.float16),
        ValueError,
        r"expected torch\.float32 or torch\.float64",
    ),
    "kernels": (lambda A: NeuralMultigrid(A, kernels="gpu"), ValueError, "expected 'auto', 'cpu' or 'reference'"),
    "name": (
        lambda A: NeuralMultigrid(A, "geometrik"),
        ValueError,
        "got weights='geometrik'; expected None, 'network', 'pieces', 'untrained pieces', 'geometric'",
    ),
    "number": (lambda A: NeuralMultigrid(A, 3), TypeError, "expected None, a name, a path or a torch"),
    "shape": (lambda A: NeuralMultigrid(A, "geometric") @ np.ones(7), ValueError, "7"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_is_expected(case):
    act, error, message = BAD[case]
    with pytest.raises(error, match=message):
        act(rough((8, 9), {}))
