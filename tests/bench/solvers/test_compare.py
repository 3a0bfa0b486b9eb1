"""A user's own matrix against everybody, kernels, noise, devices: the commands as a user types them."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from krylearn.bench.cli import main
from krylearn.bench.measure.record import Record, append, faults, read
from krylearn.pde import Poisson, scene


def bench(folder, *options):
    files = ["--records", folder / "r.jsonl", "--html", folder / "page.html"]
    code = main([str(part) for part in ("bench", "solvers", *options, *files)])
    return code, {line["method"]: line for line in read(folder / "r.jsonl")}


def test_a_matrix_out_of_a_file_runs_against_everybody_by_one_command(tmp_path):
    A = scene("lognormal", (7, 6, 5), 31415)
    sp.save_npz(tmp_path / "A.npz", sp.csr_array(A.matrix()))
    code, found = bench(tmp_path, "--matrix", tmp_path / "A.npz", "--shape", 7, 6, 5)
    assert code == 0
    for method in ("krylearn", "krylearn tuned", "scipy-cg", "scipy-cg-jacobi", "scipy-cg-ilu", "pyamg-sa", "pyamg-rs"):
        assert found[method]["status"] == "CONVERGED", method
        assert found[method]["true_relres"] <= 1e-6
    assert "install" in found["amgx"]["config"]


def test_a_matrix_outside_our_class_still_runs_on_the_rivals_and_our_absence_is_explained(tmp_path, capsys):
    rng = np.random.default_rng(31415)
    G = sp.random_array((60, 60), density=0.1, rng=rng)
    sp.save_npz(tmp_path / "A.npz", sp.csr_array(G @ G.T + 2 * sp.eye_array(60)))
    np.save(tmp_path / "b.npy", rng.standard_normal(60))
    options = ("--matrix", tmp_path / "A.npz", "--rhs", tmp_path / "b.npy", "--shape", 3, 4, 5)
    code, found = bench(tmp_path, *options)
    assert code == 0
    assert found["krylearn"]["status"] == "UNSUITED"
    assert "outside the class" in found["krylearn"]["more"]["reason"]
    assert found["scipy-cg"]["status"] == found["pyamg-sa"]["status"] == "CONVERGED"
    assert "outside the class" in " ".join(capsys.readouterr().out.split())  # wherever the line breaks
    assert "outside the class" in (tmp_path / "page.html").read_text()


def test_without_a_grid_only_rivals_run(tmp_path):
    sp.save_npz(tmp_path / "A.npz", sp.csr_array(Poisson.from_coefficients(np.ones((5, 6))).matrix()))
    code, found = bench(tmp_path, "--matrix", tmp_path / "A.npz")
    assert code == 0
    assert "--shape" in found["krylearn"]["more"]["reason"]


def test_an_unsymmetric_matrix_is_refused(tmp_path, capsys):
    sp.save_npz(tmp_path / "A.npz", sp.csr_array(np.array([[2.0, 1.0], [0.0, 2.0]])))
    assert main(["bench", "solvers", "--matrix", str(tmp_path / "A.npz")]) == 2
    assert "not symmetric" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["solvers", "kernels"])
def test_a_device_that_is_not_there_is_refused(command, capsys):
    assert main(["bench", command, "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_kernels_are_measured_against_the_copy_of_the_same_run(tmp_path, monkeypatch):
    from krylearn.bench.solvers import kernel_speed

    small = scene("free_surface", (8, 8, 8), 0)
    monkeypatch.setattr(kernel_speed, "scene", lambda *a: small)
    records = kernel_speed.run_kernels(quick=True, output=tmp_path / "k.jsonl")
    lines = read(tmp_path / "k.jsonl")
    assert len(lines) == len(records) == 2 * 10
    assert {line["status"] for line in lines} == {"MEASURED"}
    for line in lines:
        share = line["more"]["bytes"] / line["solve_s"] / (1e9 * line["more"]["ceilings"]["copy_gbs"])
        assert line["more"]["roofline"] == pytest.approx(share, rel=0.01)
    assert main(["report", "--html", str(tmp_path / "k.html"), "--records", str(tmp_path / "k.jsonl")]) == 0
    assert "smooth from zero" in (tmp_path / "k.html").read_text()


def test_noise_is_a_record(tmp_path, capsys):
    file = tmp_path / "n.jsonl"
    assert main(["bench", "noise", "--pairs", "3", "--size", "8", "--records", str(file)]) == 0
    (line,) = read(file)
    low, high = line["more"]["interval"]
    assert 0 < low <= line["more"]["ratio"][0] <= high
    assert "95 % interval" in capsys.readouterr().out


def test_a_record_that_breaks_the_schema_is_not_written(tmp_path):
    good = Record("cg", "box", 8, 1e-6, "CONVERGED", true_relres=1e-7, version="1")
    assert faults(good.line()) == []
    bad = Record("cg", "box", 8, 1e-6, "CONVERGED", true_relres=1e-3, version="1")
    with pytest.raises(ValueError, match="true residual"):
        append(tmp_path / "r.jsonl", [good, bad])
    assert not (tmp_path / "r.jsonl").exists()
    line = good.line() | {"solve_s": 1.0, "status": "TIME"}
    assert faults(line) == ["TIME has a time"]
    assert faults({k: v for k, v in line.items() if k != "commit"}) == ["commit is missing"]
