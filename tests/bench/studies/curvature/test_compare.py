import numpy as np
import pytest
import torch
from krylearn.bench.cli import main
from krylearn.bench.measure.record import read
from krylearn.bench.studies.curvature import compare as curvature
from krylearn.bench.studies.curvature.compare import LADDER, products_to, wasserstein
from krylearn.bench.studies.curvature.libraries import LIBRARIES, CurvatureLibrary, our_operator
from krylearn.bench.studies.curvature.models import CASES, Case, all_eigenvalues, convolutional
from krylearn.bench.studies.curvature.table import HEADER, rows
from torch import nn


@pytest.fixture(scope="module")
def case():
    rng = torch.Generator().manual_seed(90_001)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(90_007)
        model = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    batch = (torch.randn(20, 6, generator=rng), torch.randint(3, (20,), generator=rng))
    return Case("small", model.eval(), batch, all_eigenvalues(model, batch))


def test_eigenvalues_are_those_of_the_dense_hessian():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(90_011)
        model = convolutional(2, 2).double().eval()
    batch = (torch.rand(8, 64, dtype=torch.float64), torch.arange(8))
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters):
        out = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (batch[0],))
        return nn.functional.cross_entropy(out, batch[1])

    blocks = torch.autograd.functional.hessian(loss, values)
    rows_of = [torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for row, p in zip(blocks, values, strict=True)]
    dense = torch.cat(rows_of)
    np.testing.assert_allclose(all_eigenvalues(model, batch), torch.linalg.eigvalsh(dense).numpy(), atol=1e-10)


def test_the_number_of_products_is_the_smallest_that_stays_sufficient():
    assert products_to(0.1, lambda m: 1 / m) == 10
    assert products_to(0.0, lambda m: 1.0) is None
    lucky = {4: 0.0}
    assert products_to(0.1, lambda m: lucky.get(m, 1 / m)) == 10  # one lucky hit does not count


def test_wasserstein_distance_is_in_units_of_the_largest_eigenvalue(case):
    shifted = case.eigenvalues + 0.5
    assert wasserstein(shifted, np.ones(len(shifted)), case) == pytest.approx(0.5 / case.eigenvalues[-1])


def test_our_errors_fall_and_prefixes_are_the_shorter_runs(case):
    error = curvature.our_density_errors(case, 2)
    assert error(40) < error(8)
    ours = LIBRARIES["krylearn"]
    found = sorted(wasserstein(*ours.density(case, 8, 100 + k), case) for k in range(2))
    assert error(8) == pytest.approx(np.mean(found), rel=1e-6)
    value, made = ours.top(case, 12, 100)
    assert made == 12
    assert value == pytest.approx(case.eigenvalues[-1], rel=1e-3)


def rival(top_off=0.0, products_off=0.0):
    """A library that is ours, with a mistake."""

    def operator(case):
        A = our_operator(case)
        return lambda v: (1 + products_off) * A(v)

    def top(case, products, seed):
        value, made = LIBRARIES["krylearn"].top(case, products, seed)
        return value * (1 + top_off), made

    return CurvatureLibrary("rival", "numpy", "ours with a mistake", operator, top, LIBRARIES["krylearn"].density)


def test_a_run_records_all_and_says_what_falls_short(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(curvature, "CASES", {"small": None})
    monkeypatch.setattr(curvature, "make_case", lambda name, quick: case)
    monkeypatch.setattr(curvature, "PRODUCTS", 20)
    absent = CurvatureLibrary("nobody", "no-such-distribution", "", *[None] * 3)
    libraries = {"krylearn": LIBRARIES["krylearn"], "rival": rival(0.05, 0.02), "nobody": absent}
    monkeypatch.setattr(curvature, "LIBRARIES", libraries)
    curvature.run_curvature(quick=True, output=tmp_path / "c.jsonl")
    assert "nobody is absent: pip install no-such-distribution" in capsys.readouterr().out
    lines = read(tmp_path / "c.jsonl")
    assert [(x["method"], x["more"]["part"]) for x in lines] == [
        (name, part) for name in ("krylearn", "rival") for part in ("top", "top", "density")
    ]
    table = [dict(zip(HEADER, row, strict=True)) for row in rows(lines)]
    assert table[1]["top to 1 %"] == "no: 5 % off"
    assert "its product is 2.0 % off" in table[1]["why less than 1.5"]
    assert lines[3]["solve_s"] is None
    assert table[1]["density"].startswith("**")


@pytest.mark.parametrize("name", [n for n in LIBRARIES if n != "krylearn"])
def test_rivals_agree_where_they_are_installed(name, case):
    library = LIBRARIES[name]
    if library.absent:
        assert library.absent.startswith(f"{name} is absent: pip install")
        pytest.skip(library.absent)
    v = torch.randn(case.unknowns, generator=torch.Generator().manual_seed(90_017))
    torch.testing.assert_close(library.operator(case)(v), our_operator(case)(v), rtol=1e-4, atol=1e-5)
    assert library.top(case, 40, 3)[0] == pytest.approx(case.eigenvalues[-1], rel=0.02)
    values, weights = library.density(case, 30, 3)
    assert wasserstein(values, weights, case) < 0.15  # few eigenvalues, one probe


def test_the_command_writes_where_it_is_told(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(curvature, "run_curvature", lambda **facts: seen.append(facts))
    assert main(["study", "curvature", "--quick", "--records", str(tmp_path / "x.jsonl")]) == 0
    assert seen == [{"quick": True, "output": tmp_path / "x.jsonl"}]
    assert max(LADDER) == curvature.PRODUCTS
    assert set(CASES) == {"perceptron", "cnn with batchnorm", "transformer"}
