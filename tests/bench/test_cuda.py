"""`krylearn bench cuda` without a device: refused, or run to its end by the interpreter with nothing measured."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from krylearn.bench import cuda
from krylearn.bench.cli import main
from krylearn.bench.record import read

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: run krylearn bench cuda")


def test_needs_a_device(capsys):
    assert main(["bench", "cuda"]) == 2
    assert "--interpret" in capsys.readouterr().err


def test_runs_to_its_end_in_the_interpreter_and_says_that_nothing_was_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cuda, "INTERPRETED", ((13, 11),))
    file = tmp_path / "cuda.jsonl"
    run = ["bench", "cuda", "--interpret", "--size", "6", "--rtol", "0.1", "--records", str(file)]
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "Nothing was measured on hardware" in out
    assert "DIFFERS" not in out
    lines = read(file)
    assert {line["problem"] for line in lines} == {"free_surface", "lognormal"}
    assert {line["method"] for line in lines} == set(cuda.METHODS)
    assert all(line["solve_s"] is None and line["setup_s"] is None for line in lines)
    assert all(line["more"]["hardware"] is False and line["more"]["checks_failed"] == 0 for line in lines)


def test_a_kernel_that_differs_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(cuda, "INTERPRETED", ((13, 11),))
    monkeypatch.setattr(cuda, "check", lambda A: [("smooth", float("nan"), 1e-5)])
    monkeypatch.setattr(cuda, "check_solve", lambda A: ("solve", 0.0, 1e-6))
    assert cuda.print_checks(torch.device("cpu"), interpret=True) == 2
    assert "DIFFERS" in capsys.readouterr().out
