"""What a set-up chooses is said, and holds: levels by a look, precision where rounding would cost iterations."""

import numpy as np
import pytest
import torch
from krylearn.bench.measure.timing import iterations_to
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case, image
from krylearn.solvers import NeuralMultigrid, cg, solve_matrix
from krylearn.solvers.kernels.cpu.cell_bytes import find_cell_bytes
from krylearn.solvers.multigrid.setup_pieces.survey import survey_operator

EASY = ("open_box", "obstacles", "free_surface", "lognormal", "anisotropic", "neumann", "periodic", "porous")


def binary(shape, contrast, seed=31_301):
    rng = np.random.default_rng(seed)
    return Poisson.from_coefficients(np.where(rng.random(shape) < 0.3, contrast, 1.0))


def logarithmic(shape, decades, seed=31_307):
    return Poisson.from_coefficients(10.0 ** (decades * np.random.default_rng(seed).random(shape)))


def white_image(shape, beta, seed=31_313):
    return image(shape, np.random.default_rng(seed), beta=beta, noise=None)


HARD = {
    "cellwise 1e7": lambda s: logarithmic(s, 7.0),
    "cellwise 1e8": lambda s: logarithmic(s, 8.0),
    "cellwise 1e12": lambda s: logarithmic(s, 12.0),
    "binary 1e9": lambda s: binary(s, 1e9),
    "image 1000": lambda s: white_image(s, 1000.0),
    "image 5000": lambda s: white_image(s, 5000.0),
    **{
        name: lambda s, name=name: field_case(name, s, 31_319)
        for name in ("air_over_earth", "layers_10000", "reservoir", "cut_cells", "white_image_1000", "image_1000")
    },
}


def iterations(A, M, rtol=1e-8):
    """Count on a right-hand side of which rounding does not decide."""
    b = A @ np.random.default_rng(31_321).standard_normal(A.shape[0])
    _, info = cg(A, b, rtol=rtol, M=M, maxiter=500)
    assert info == 0
    return iterations_to(info.residuals, rtol)


@pytest.mark.parametrize("shape", [(16, 16), (40, 40), (18, 17, 16)], ids=str)
@pytest.mark.parametrize("name", HARD)
def test_chosen_precision_takes_the_iterations_of_fp64(name, shape):
    A = HARD[name](shape)
    chosen, double = NeuralMultigrid(A), NeuralMultigrid(A, dtype=torch.float64)
    assert chosen.uses_pieces == double.uses_pieces
    assert iterations(A, chosen) <= iterations(A, double) + 1


@pytest.mark.parametrize("weights", [None, "pieces", "resistor"])
@pytest.mark.parametrize("name", EASY)
def test_easy_families_stay_in_fp32_bit_for_bit(name, weights):
    A = scene(name, (20, 18, 16), 31_327)
    M, single = NeuralMultigrid(A, weights), NeuralMultigrid(A, weights, dtype=torch.float32)
    assert M.info.precision == "float32"
    r = right_hand_side(A, "white", 1)
    assert np.array_equal(M @ r, single @ r)


def test_isolated_pieces_take_fp64_and_say_so():
    A = white_image((16, 16, 16), 5000.0)
    M = NeuralMultigrid(A, "pieces")
    assert M.cycle_dtype == torch.float64
    assert M.info.precision == "float64"
    assert "next to nothing" in M.info.why
    assert NeuralMultigrid(A, "pieces", dtype=torch.float32).info.precision == "float32"
    assert np.array_equal(M @ np.ones(A.shape[0]), NeuralMultigrid(A, "pieces", dtype=torch.float64) @ np.ones(4096))


@pytest.mark.parametrize("contrast", [1e3, 1e9])
def test_classical_rules_on_grids_take_fp64_by_contrast(contrast):
    A = binary((20, 20), contrast)
    assert NeuralMultigrid(A, "resistor").info.precision == ("float64" if contrast > 1e6 else "float32")
    assert NeuralMultigrid(A, "network").info.precision == "float32"


@pytest.mark.parametrize("name", ["layers_10000", "white_image_1000", "stretched_1.3", "reservoir"])
def test_compiled_and_readable_set_ups_choose_the_same_precision(name):
    A = field_case(name, (16, 16, 16), 31_333)
    compiled, readable = NeuralMultigrid(A, "pieces").info, NeuralMultigrid(A, "pieces", kernels="reference").info
    assert compiled.precision == readable.precision
    assert (compiled.precision == "float64") == (name == "white_image_1000")


def test_update_chooses_again():
    easy, hard = binary((16, 16, 16), 1.0), white_image((16, 16, 16), 5000.0)
    M = NeuralMultigrid(easy, "pieces")
    assert M.info.precision == "float32"
    r = np.ones(4096)
    for A, precision in ((hard, "float64"), (easy, "float32")):
        M.update(A)
        assert M.info.precision == precision
        assert np.array_equal(M @ r, NeuralMultigrid(A, "pieces") @ r)


@pytest.mark.parametrize(
    ("name", "coarsening", "rule"), [("open_box", "blocks", "network"), ("mazes", "pieces", "resistor")]
)
def test_info_says_what_was_taken(name, coarsening, rule):
    A = scene(name, (24, 24, 24), 0)
    b = right_hand_side(A, "white", 0)
    _, info = cg(A, b, rtol=1e-6)
    chosen = info.preconditioner
    assert (chosen.coarsening, chosen.rule, chosen.kernels, chosen.reuse) == (coarsening, rule, "numba", 1)
    M = NeuralMultigrid(A)
    assert M.info == chosen
    assert str(chosen) in repr(M)
    assert list(chosen.levels) == M.levels
    assert cg(A, np.stack([b, b]), rtol=1e-6)[1].preconditioner == chosen
    assert cg(A, b, M="none", maxiter=3)[1].preconditioner is None


def test_the_default_takes_trained_steps_where_they_pay():
    A = scene("mazes", (24, 24, 24), 0)
    assert NeuralMultigrid(A).info.rule == "resistor"
    assert "steps of the rule" in NeuralMultigrid(A).info.why
    often = NeuralMultigrid(A, reuse=20)
    assert often.info.rule == "trained"
    r = np.ones(A.shape[0])
    assert np.array_equal(often @ r, NeuralMultigrid(A, "pieces") @ r)
    assert np.array_equal(NeuralMultigrid(A) @ r, NeuralMultigrid(A, "untrained pieces") @ r)


def test_info_of_other_kernels_and_small_systems():
    A = Poisson.from_coefficients(np.ones((40, 40)))
    info = NeuralMultigrid(A, "pieces", kernels="reference").info
    assert (info.coarsening, info.kernels) == ("pieces", "sparse products of torch")
    assert NeuralMultigrid(A, kernels="reference").info.kernels == "torch"
    small = NeuralMultigrid(Poisson.from_coefficients(np.ones((8, 8)))).info
    assert (small.coarsening, small.precision) == ("none", "float64")
    assert str(small) == "inverted directly in float64: 64 cells"


def test_front_door_passes_it_on():
    A = field_case("stretched_1.3", (36, 36, 36), 0)  # too many cells for the diagonal alone
    _, info = solve_matrix(A.matrix(), np.ones(A.shape[0]))
    assert info.preconditioner.coarsening == "pieces"


@pytest.mark.parametrize("name", [*FAMILIES, *FIELD_CASES])
def test_every_system_has_a_reason(name):
    A = scene(name, (12, 12, 12), 3) if name in FAMILIES else field_case(name, (12, 12, 12), 3)
    assert NeuralMultigrid(A).info.why


def test_many_solves_per_set_up_take_pieces_where_they_save_iterations():
    A = scene("cellwise", (32, 30, 34), 1)
    once, often = NeuralMultigrid(A), NeuralMultigrid(A, reuse=5)
    assert (once.info.coarsening, once.info.reuse) == ("blocks", 1)
    assert (often.info.coarsening, often.info.reuse) == ("pieces", 5)
    assert "for 5 solves" in often.info.why
    assert iterations(A, often) < 0.75 * iterations(A, once)


@pytest.mark.parametrize("name", ["open_box", "obstacles", "free_surface", "anisotropic", "neumann", "periodic"])
def test_easy_media_keep_the_network_however_often_it_serves(name):
    A = scene(name, (32, 30, 34), 1)
    M = NeuralMultigrid(A, reuse=1000)
    assert not M.uses_pieces
    r = right_hand_side(A, "white", 1)
    assert np.array_equal(M @ r, NeuralMultigrid(A, "network") @ r)


@pytest.mark.parametrize("name", [*FAMILIES, *FIELD_CASES])
def test_more_solves_per_set_up_never_take_pieces_away(name):
    A = scene(name, (16, 15, 17), 4) if name in FAMILIES else field_case(name, (16, 15, 17), 4)
    found = survey_operator(A, find_cell_bytes(A))
    chosen = [found.prefers_pieces(reuse) for reuse in (1, 2, 3, 5, 9)]
    assert chosen == sorted(chosen)


@pytest.mark.parametrize("reuse", [0, -1, 2.5, None])
def test_reuse_is_a_count(reuse):
    with pytest.raises(ValueError, match="how many solves"):
        NeuralMultigrid(Poisson.from_coefficients(np.ones((4, 4))), reuse=reuse)


def test_a_closed_reservoir_gets_pieces():
    A = field_case("reservoir", (64, 64, 64), 0)  # its share of jumps is the least of all that need pieces
    assert survey_operator(A, None).prefers_pieces()
