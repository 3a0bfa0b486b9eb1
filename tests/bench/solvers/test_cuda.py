"""`krylearn bench cuda` without a device: refused, or run to its end by the interpreter with nothing measured."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from krylearn.bench.cli import main
from krylearn.bench.measure.record import read
from krylearn.bench.measure.timers import Ceilings
from krylearn.bench.solvers import cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: run krylearn bench cuda")


def test_needs_a_device(capsys):
    assert main(["bench", "cuda"]) == 2
    assert "--interpret" in capsys.readouterr().err


def test_runs_to_its_end_in_the_interpreter_and_says_that_nothing_was_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cuda, "INTERPRETED", ((13, 11),))
    file = tmp_path / "cuda.jsonl"
    run = ["bench", "cuda", "--interpret", "--size", "6", "--rtol", "0.1", "--records", str(file)]
    assert main([*run, "--html", str(tmp_path / "page.html")]) == 0
    out = capsys.readouterr().out
    assert "Nothing was measured on hardware" in out
    assert "DIFFERS" not in out
    found = read(file)
    checks = [line for line in found if line["more"].get("part") == "checks"]
    assert {line["status"] for line in checks} == {"EQUAL"}
    lines = [line for line in found if line not in checks]
    assert {line["problem"] for line in lines} == {"free_surface", "lognormal"}
    assert {line["method"] for line in lines} == set(cuda.BRIEF)
    assert all(line["solve_s"] is None and line["setup_s"] is None for line in lines)
    assert all(line["more"]["hardware"] is False and line["more"]["checks_failed"] == 0 for line in lines)


def test_a_kernel_that_differs_is_reported(monkeypatch):
    monkeypatch.setattr(cuda, "INTERPRETED", ((13, 11),))
    monkeypatch.setattr(cuda, "check", lambda A: [("smooth", float("nan"), 1e-5)])
    monkeypatch.setattr(cuda, "check_solve", lambda A: ("solve", 0.0, 1e-6))
    found = list(cuda.run_checks(torch.device("cpu"), True, lambda: 1.0))
    assert [r.status for r in found] == 2 * ["DIFFERS", "EQUAL"]
    assert "DIFFERS" in cuda.check_row(found[0])


def test_what_is_measured_on_a_device(monkeypatch):
    """The bookkeeping of a run on hardware, with the host's clock in the place of the device's."""
    monkeypatch.setattr(cuda, "FAMILIES", ("free_surface",))
    monkeypatch.setattr(cuda, "METHODS", {"krylearn-geometric": "geometric", "cg": "none"})
    monkeypatch.setattr(cuda, "synchronisations", lambda run: (7, run()))
    found = Ceilings(copy_gbs=20.0, launch_us=5.0)
    made = list(cuda.measure("free_surface", 6, torch.device("cpu"), [0.1], found, lambda: 1.0))
    ours, plain, cupy = made
    assert cupy.status == "ABSENT" or cupy.iterations
    for record in (ours, plain):
        assert record.status == "CONVERGED"
        assert record.more["ns_per_unknown"] == pytest.approx(1e9 * record.solve_s / record.unknowns)
        assert record.more["fraction_of_copy"] > 0
        assert record.more["host_synchronisations"] == 7
        assert len(cuda.row(record)) == len(cuda.HEADER)
        assert record.line()
    assert ours.setup_s > 0
    assert len(cuda.row(cupy)) == len(cuda.HEADER)
    (late,) = cuda.measure("lognormal", 6, torch.device("cpu"), [0.1], found, lambda: -1.0)
    assert (late.status, late.config) == ("LEFT_OUT", "no time left")
    assert len(cuda.row(late)) == len(cuda.HEADER)


def test_what_raises_is_a_record_with_its_trace_and_the_rest_goes_on(monkeypatch, tmp_path, capsys):
    """On hardware that nobody has seen yet one kernel may fail; the others are measured all the same."""

    def explode(*arguments, **named):
        raise RuntimeError("an illegal memory access was encountered")

    honest = cuda.set_up
    monkeypatch.setattr(cuda, "INTERPRETED", ((13, 11),))
    monkeypatch.setattr(cuda, "check", explode)
    monkeypatch.setattr(cuda, "set_up", lambda A, weights, *a: (explode if weights is None else honest)(A, weights, *a))
    file = tmp_path / "cuda.jsonl"
    run = ["bench", "cuda", "--interpret", "--size", "6", "--rtol", "0.1", "--records", str(file)]
    assert main([*run, "--html", str(tmp_path / "page.html")]) == 1
    lines = read(file)
    failed = [line for line in lines if line["status"] == "FAILED"]
    assert {line["method"] for line in failed} == {"kernels", "krylearn"}
    assert all("illegal memory access" in line["more"]["trace"] for line in failed)
    assert {line["method"] for line in lines if line["status"] in ("CONVERGED", "EQUAL")} == {
        "solve, as on the CPU", "krylearn-geometric", "cg",
    }  # fmt: skip
    assert "illegal memory access" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert "illegal memory access" in page
    assert "Triton" in page
