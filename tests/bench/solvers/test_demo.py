import numpy as np
import pytest
from krylearn.bench.cli import main
from krylearn.bench.measure.record import read
from krylearn.bench.show.pictures import Curve, animate, families_figure, render
from krylearn.bench.solvers.demo import RTOL, SHAPE, Projector, run_demo, simulate
from krylearn.pde.simulations.smoke import SmokePlume
from PIL import Image


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run_demo((12, 10, 14), 4, output=folder, quick=True, weights="geometric", also=folder / "also.jsonl")
    return folder


def test_the_demo_leaves_a_picture_an_animation_and_records(finished):
    with Image.open(finished / "summary.png") as picture:
        assert min(picture.size) > 500
        assert np.asarray(picture.convert("L")).std() > 20
    with Image.open(finished / "smoke.gif") as animation:
        assert animation.n_frames > 1


def test_the_demo_records_everybody_to_the_same_true_residual(finished):
    lines = read(finished / "records.jsonl")
    assert lines == read(finished / "also.jsonl")
    assert {line["method"] for line in lines} == {"krylearn", "pyamg-sa", "pyamg-rs", "scipy-cg"}
    assert {line["more"]["frame"] for line in lines} == {2, 4}
    for line in lines:
        assert line["status"] == "CONVERGED"
        assert line["true_relres"] <= RTOL == line["tolerance"]
        assert line["solve_s"] > 0


def test_every_projection_of_the_simulation_meets_the_true_residual():
    projector = Projector("geometric")
    images, frames = simulate((8, 9, 10), 3, projector, keep=[3])
    assert len(images) == len(projector.residuals) == 3
    assert max(projector.residuals) <= RTOL
    assert frames[3].A.grid_shape == (8, 9, 10)


def test_the_default_demo_has_half_a_million_unknowns():
    plume = SmokePlume(SHAPE)
    assert int((plume.cells == 1).sum()) >= 500_000


@pytest.mark.parametrize("options", [["--shape", "4", "4", "4"], ["--quick", "--steps", "1"]])
def test_a_demo_that_cannot_be_is_refused(options, tmp_path, capsys):
    assert main(["demo", *options, "--output", str(tmp_path / "x")]) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_rendering_shows_smoke_where_it_is_and_the_obstacle_in_front():
    smoke, solid = np.zeros((20, 16, 20)), np.zeros((20, 16, 20), dtype=bool)
    clear = render(smoke, solid, height=40)
    smoke[2:8, :, 12:18] = 1.0
    cloudy = render(smoke, solid, height=40).astype(int)
    brighter = cloudy.sum(-1) - clear.astype(int).sum(-1)
    assert brighter[10, 10] > 150  # left and up: z runs against the rows
    assert abs(brighter[35, 35]) <= 3
    solid[2:8, 0, 12:18] = True  # nearest to the eye: hides all smoke behind it
    hidden = render(smoke, solid, height=40)[10, 10].astype(int)
    assert hidden[0] > hidden[2] + 50  # the obstacle's warm colour


def test_an_animation_has_all_its_frames(tmp_path):
    images = [np.full((8, 8, 3), 40 * k, dtype=np.uint8) for k in range(4)]
    animate(tmp_path / "a.gif", images)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 4


def test_families_are_drawn_with_gaps_where_one_failed(tmp_path):
    means = {"mazes": {"geometric": None, "resistor": 12.0, "tuned": 10.0, "learned": 9.0}}
    families_figure(tmp_path / "f.png", means, "to 1e-06")
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_a_curve_starts_after_the_set_up():
    assert Curve("krylearn", np.array([1.0, 2.0]), np.array([1.0, 1e-6])).times[0] == 1.0
