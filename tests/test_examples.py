"""Each example runs at its smallest size."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
SMALLEST = {
    "replace_scipy_cg": (8,),
    "own_matrix": (8,),
    "moving_obstacle": (8, 2),
    "identify_conductance": (8, 3),
    "change_batch_size": (400,),
    "train_dcdm": (8, 2),
    "spectrum_through_training": (6,),
    "watch_stability": (5,),
    "tune_learning_rate": (60,),
    "several_ranks": (12,),
}


def test_every_example_is_run_here():
    assert {file.stem for file in FOLDER.glob("*.py")} == set(SMALLEST)


@pytest.mark.parametrize("name", SMALLEST)
def test_example(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # some leave files
    runpy.run_path(str(FOLDER / f"{name}.py"))["main"](*SMALLEST[name])
    assert capsys.readouterr().out
