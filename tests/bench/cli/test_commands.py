"""The commands, as a user types them."""

import gzip
import inspect

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from krylearn.bench.cli import main, parser, train_command as cli_train
from krylearn.bench.measure.record import read
from krylearn.pde import Poisson, scene

SHAPE = (5, 6, 4)
GRID = ["--shape", *map(str, SHAPE)]
FAST = ["--weights", "geometric"]


@pytest.fixture
def system(tmp_path):
    A = Poisson.from_coefficients(np.exp(np.random.default_rng(31415).standard_normal(SHAPE)))
    matrix, b = sp.csr_array(A.matrix()), np.random.default_rng(27182).standard_normal(A.shape[0])
    return matrix, b, tmp_path


def write(matrix, b, folder, matrix_name, rhs_name):
    files = folder / matrix_name, folder / rhs_name
    if matrix_name.endswith(".gz"):
        with gzip.open(files[0], "wb") as stream:
            scipy.io.mmwrite(stream, matrix)
    elif matrix_name.endswith(".mtx"):
        scipy.io.mmwrite(files[0], matrix)
    else:
        sp.save_npz(files[0], matrix)
    writers = {
        ".npy": lambda: np.save(files[1], b),
        ".npz": lambda: np.savez(files[1], b=b),
        ".txt": lambda: np.savetxt(files[1], b),
        ".mtx": lambda: scipy.io.mmwrite(files[1], b[:, None]),
    }
    writers[files[1].suffix]()
    return [str(file) for file in files]


@pytest.mark.parametrize("matrix_name", ["A.mtx", "A.mtx.gz", "A.npz"])
@pytest.mark.parametrize("rhs_name", ["b.npy", "b.npz", "b.txt", "b.mtx"])
def test_solve_reads_what_people_have(system, matrix_name, rhs_name, capsys):
    matrix, b, folder = system
    files = write(matrix, b, folder, matrix_name, rhs_name)
    assert main(["solve", *files, *GRID, *FAST, "--rtol", "1e-9", "-o", str(folder / "x.npy")]) == 0
    assert np.linalg.norm(b - matrix @ np.load(folder / "x.npy")) <= 1e-9 * np.linalg.norm(b)
    assert "CONVERGED" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.npy", "x.txt", "x.mtx"])
def test_solve_writes_what_people_read(system, name):
    matrix, b, folder = system
    files = write(matrix, b, folder, "A.npz", "b.npy")
    assert main(["solve", *files, *GRID, *FAST, "-o", str(folder / name)]) == 0
    read_back = {".npy": np.load, ".txt": np.loadtxt, ".mtx": lambda f: scipy.io.mmread(f).ravel()}
    x = read_back[(folder / name).suffix](folder / name)
    assert np.linalg.norm(b - matrix @ x) <= 2e-6 * np.linalg.norm(b)


@pytest.mark.parametrize("order", ["C", "F"])
def test_solve_with_a_mask_of_cells(tmp_path, order):
    A = scene("obstacles", (6, 7, 8), seed=31415)
    mask = A.unknown.numpy()
    number = (np.cumsum(mask) - 1).reshape(mask.shape)  # of each unknown in C order
    to = number.ravel(order)[mask.ravel(order)]
    matrix = sp.csr_array(A.matrix(unknowns=True))[to][:, to]
    files = write(matrix, np.ones(A.unknowns), tmp_path, "A.npz", "b.npy")
    np.save(tmp_path / "cells.npy", mask)
    grid = ["--shape", "6", "7", "8", "--cells", str(tmp_path / "cells.npy"), "--order", order]
    assert main(["solve", *files, *grid, *FAST]) == 0


def test_solve_says_when_it_did_not_converge(system, capsys):
    matrix, b, folder = system
    files = write(matrix, b, folder, "A.npz", "b.npy")
    assert main(["solve", *files, *GRID, *FAST, "--rtol", "1e-30"]) == 1
    assert "STAGNATED" in capsys.readouterr().out


def test_solve_needs_no_shape_and_mends_what_it_can(system, capsys):
    matrix, b, folder = system
    files = write(sp.csr_array(-matrix), b, folder, "A.npz", "b.npy")
    assert main(["solve", *files, *FAST, "--rtol", "1e-9", "-o", str(folder / "x.npy")]) == 0
    assert np.linalg.norm(b + matrix @ np.load(folder / "x.npy")) <= 1e-9 * np.linalg.norm(b)
    shown = capsys.readouterr().out
    assert "found in the pattern" in shown
    assert "solved as -A x = -b" in shown


def refused(capsys, *arguments):
    assert main(["solve", *map(str, arguments), *FAST]) == 2
    return capsys.readouterr().err


def test_a_matrix_outside_the_class_is_refused_with_its_row(system, capsys):
    matrix, b, folder = system
    wrong = matrix.tolil()
    wrong[0, 17] = -1.0
    message = refused(capsys, *write(sp.csr_array(wrong), b, folder, "A.npz", "b.npy"), *GRID)
    assert "outside the class" in message
    assert "row 0" in message
    assert "expected" in message


def test_files_that_cannot_be_used_are_refused(system, capsys):
    matrix, b, folder = system
    A, rhs = write(matrix, b, folder, "A.npz", "b.npy")
    assert "no-such" in refused(capsys, folder / "no-such.mtx", rhs, *GRID)
    assert "expected Matrix Market" in refused(capsys, folder / "A.csv", rhs, *GRID)
    assert "cannot be read as a vector" in refused(capsys, A, folder / "b.csv", *GRID)
    assert "expected .npy, .txt or .mtx" in refused(capsys, A, rhs, *GRID, "-o", folder / "x.csv")
    assert "there is no folder" in refused(capsys, A, rhs, *GRID, "-o", folder / "no" / "x.npy")
    np.save(folder / "short.npy", b[:-1])
    assert f"expected {b.size}, one per matrix row" in refused(capsys, A, folder / "short.npy", *GRID)
    np.save(folder / "complex.npy", b + 1j)
    assert "expected real ones" in refused(capsys, A, folder / "complex.npy", *GRID)
    sp.save_npz(folder / "wide.npz", sp.csr_array(np.ones((2, 3))))
    assert "expected a real square one" in refused(capsys, folder / "wide.npz", rhs, *GRID)
    assert "expected 150" in refused(capsys, A, rhs, "--shape", 5, 6, 5)


def test_weights_that_cannot_be_read_are_refused_at_once(system, capsys):
    matrix, b, folder = system
    files = write(matrix, b, folder, "A.npz", "b.npy")
    (folder / "broken.safetensors").write_bytes(b"no weights")
    for weights in ("no-such-name", str(folder / "no-such.safetensors"), str(folder / "broken.safetensors")):
        with pytest.raises(SystemExit) as stop:
            main(["solve", *files, *GRID, "--weights", weights])
        assert stop.value.code == 2
        assert "geometric, resistor, tuned" in capsys.readouterr().err


def test_nothing_is_unpickled(system, capsys):
    matrix, b, folder = system
    A, _ = write(matrix, b, folder, "A.npz", "b.npy")
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object))
    assert "cannot be read" in refused(capsys, A, folder / "objects.npy", *GRID)


def test_bench_families_appends_records_and_prints(tmp_path, capsys, monkeypatch):
    from krylearn.bench.solvers import families

    monkeypatch.setattr(families, "WEIGHTS", ("geometric", "resistor"))
    monkeypatch.setattr(families, "summary", lambda lines: [[line["method"]] for line in lines])
    file = tmp_path / "families.jsonl"
    options = ["--size", "8", "--seeds", "2", "--families", "open_box", "mazes", "--records", str(file)]
    assert main(["bench", "families", *options]) == 0
    lines = read(file)
    assert len(lines) == 2 * 2 * (2 + 1)  # and PyAMG's
    assert len({line["more"]["run"] for line in lines}) == 1
    assert {line["status"] for line in lines} == {"CONVERGED"}
    assert all(line["iterations"] > 0 and line["true_relres"] <= 1e-6 for line in lines)


def test_bench_headline_pairs_ours_with_the_rivals(tmp_path, capsys):
    file = tmp_path / "headline.jsonl"
    assert main(["bench", "headline", "--size", "10", "--pairs", "1", *FAST, "--records", str(file)]) == 0
    lines = read(file)
    rules = [f"krylearn, {rule}" for rule in ("tuned", "resistor", "geometric")]
    always = ["krylearn", *rules, "pyamg-sa", "pyamg-rs"]  # then what is installed
    assert [line["method"] for line in lines][: len(always)] == always
    assert all(line["true_relres"] <= 1e-8 for line in lines)
    assert all(len(line["more"]["ratio"]) == 3 for line in lines[1:])
    assert "threads" in capsys.readouterr().out


def test_train_passes_on_what_was_given(monkeypatch):
    import sys
    import types

    given = {}
    stand_in = types.ModuleType("krylearn.solvers.training")
    stand_in.train = lambda **options: given.update(options) or "weights.safetensors"
    monkeypatch.setitem(sys.modules, "krylearn.solvers.training", stand_in)
    assert main(["train", "--dim", "2", "--grid", "16", "24", "--steps", "3", "--families", "mazes", "porous"]) == 0
    assert given["dimension"] == 2
    assert given["families"] == ["mazes", "porous"]
    assert given["sizes"] == [16, 24]
    assert given["resume"] is False
    assert "seed" not in given  # the default is the trainer's


@pytest.mark.parametrize("method", cli_train.METHODS)
def test_every_option_of_train_is_an_argument_of_the_trainer(method):
    options = set(vars(parser().parse_args(["train", method]))) - {"run", "command", "method"}
    assert options == {*cli_train.COMMON, *(name for names in cli_train.OWN.values() for name in names)}
    own = {*cli_train.COMMON, *cli_train.OWN[method]}
    accepted = set(inspect.signature(cli_train._function(method)).parameters)
    renamed = {"multigrid": {}, "steps": {"architecture": "hidden"}}.get(method, {"sizes": "grid"})
    left = {"device"} if method == "steps" else set()  # on the CPU alone, and the command says so
    assert {renamed.get(name, name) for name in own - left} <= accepted


def test_train_refuses_what_the_trainer_refuses(tmp_path, capsys):
    assert main(["train", "--resume", "--output", str(tmp_path), "--grid", "8", "--steps", "1"]) == 2
    assert "expected the checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "solve", "train", "bench families", "bench headline", "report", "warmup"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: krylearn" in capsys.readouterr().out
