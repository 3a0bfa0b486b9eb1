"""Which coarsening the default takes: grids for what is easy, on every seed and size, pieces for what is not."""

import numpy as np
import pytest
import torch
from krylearn.pde import FAMILIES, Poisson, right_hand_side, scene
from krylearn.pde.scenes.field_cases import FIELD_CASES, field_case
from krylearn.solvers import NeuralMultigrid, cg
from krylearn.solvers.multigrid.setup_pieces.survey import survey_operator

EASY = (
    "open_box", "obstacles", "free_surface", "neumann", "periodic", "lognormal", "anisotropic", "thin_walls",
    "cellwise",
)  # fmt: skip
HARD = ("channels", *(name for name in FIELD_CASES if name not in ("cut_cells", "ocean", "stretched_1.1")))
SHAPES = [(32, 30, 34), (24, 20, 22), (60, 44, 40), (96, 100)]


def default(A):
    return NeuralMultigrid(A).uses_pieces


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", EASY)
def test_easy_media_keep_grid_levels_and_their_bits(name, shape):
    for seed in (1, 2, 3):
        A = scene(name, shape, seed)
        assert not default(A)
    r = np.random.default_rng(31_223).standard_normal(A.shape[0])
    assert np.array_equal(NeuralMultigrid(A) @ r, NeuralMultigrid(A, "network") @ r)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", HARD)
def test_hard_media_get_pieces(name, shape):
    assert default(scene(name, shape, 1) if name in FAMILIES else field_case(name, shape, 1))


@pytest.mark.parametrize("shape", [(32, 32, 32), (40, 40, 40), (96, 100)])
def test_mazes_get_pieces_whatever_the_seed(shape):
    assert all(default(scene("mazes", shape, seed)) for seed in range(5))


@pytest.mark.parametrize("n", [96, 128])
def test_reservoirs_get_pieces_on_fine_grids_too_and_blocks_do_not(n):
    for seed in (0, 2):
        assert survey_operator(field_case("reservoir", (n, n, n), seed, "train"), None).prefers_pieces()
        assert not survey_operator(scene("blocks", (n, n, n), seed, "train"), None).prefers_pieces()


def test_a_unit_or_an_anisotropy_of_the_whole_medium_changes_nothing():
    kappa = np.exp(np.random.default_rng(31_231).standard_normal((30, 31, 32)))
    for spacing in (1.0, (1.0, 1.0, 0.01), 1e-6):
        A = Poisson.from_coefficients(kappa, spacing=spacing)
        assert survey_operator(A, None).leaning == pytest.approx(
            survey_operator(Poisson.from_coefficients(1e-12 * kappa), None).leaning, rel=1e-6
        )


def test_names_and_kernels_overrule_the_choice():
    A = field_case("stretched_1.3", (16, 16, 16), 1)
    assert default(A)
    assert "pieces" in repr(NeuralMultigrid(A))
    assert not NeuralMultigrid(A, "network").uses_pieces
    assert not NeuralMultigrid(A, kernels="cpu").uses_pieces
    assert not NeuralMultigrid(A, kernels="reference").uses_pieces
    assert NeuralMultigrid(A, dtype=torch.float64).uses_pieces


def test_an_update_chooses_anew():
    easy = Poisson.from_coefficients(np.ones((16, 16, 16)))
    hard = field_case("stretched_1.3", (16, 16, 16), 1)
    M = NeuralMultigrid(easy)
    for A in (hard, easy, hard):
        M.update(A)
        assert M.uses_pieces == (A is hard)
        b = right_hand_side(A, seed=31_237)
        _, info = cg(A, b, M=M, rtol=1e-8)
        assert info == 0
        assert info.iterations <= 16
