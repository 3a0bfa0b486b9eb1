"""Exit codes are true and results are kept, whatever happens to the disk, the output, the locale or the home folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from krylearn.bench.cli import main
from krylearn.bench.measure.console import console, table
from krylearn.bench.measure.record import Record, append, read
from krylearn.pde import Poisson

OPTIONS = ["--shape", "5", "6", "--weights", "geometric"]


@pytest.fixture
def system(tmp_path, monkeypatch):
    A = Poisson.from_coefficients(np.ones((5, 6)))
    sp.save_npz(tmp_path / "A.npz", sp.csr_array(A.matrix()))
    np.save(tmp_path / "b.npy", np.ones(30))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solve(*more, files=("A.npz", "b.npy")):
    return main(["solve", *map(str, files), *OPTIONS, *map(str, more)])


def residual(x):
    A = Poisson.from_coefficients(np.ones((5, 6)))
    return np.linalg.norm(np.ones(30) - A.matrix() @ x) / 30**0.5


def run(arguments, *, shell="", **environment):
    """Run in a process of its own; `shell` follows the command line, for redirections."""
    command = " ".join(["exec", sys.executable, "-m", "krylearn.bench.cli", *arguments, shell])
    changes = {name: value for name, value in (os.environ | environment).items() if value is not None}
    return subprocess.run(["/bin/bash", "-c", command], env=changes, capture_output=True, timeout=300)


# --- what was solved -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".mtx"])
@pytest.mark.parametrize("diagonal", [1.0, 7.0])
def test_rows_with_a_diagonal_alone_are_solved_and_the_residual_is_that_of_the_file(tmp_path, capsys, suffix, diagonal):
    """A diffusion step around an insulating block: its rows hold a value, x = b / d."""
    kappa = np.ones((8, 8))
    kappa[3:5, 3:5] = 0
    matrix = sp.lil_array(0.1 * Poisson.from_coefficients(kappa, boundary="neumann").matrix())
    matrix.setdiag(matrix.diagonal() + np.where(kappa.ravel() > 0, 1.0, diagonal))
    file, x = tmp_path / f"S{suffix}", tmp_path / "x.npy"
    S = sp.csr_array(matrix)
    (sp.save_npz if suffix == ".npz" else scipy.io.mmwrite)(file, S)
    np.save(tmp_path / "b.npy", np.full(64, 20.0))
    assert main(["solve", str(file), str(tmp_path / "b.npy"), "--shape", "8", "8", "-o", str(x)]) == 0
    assert np.linalg.norm(20.0 - S @ np.load(x)) <= 1e-6 * 160
    np.testing.assert_allclose(np.load(x)[kappa.ravel() == 0], 20.0 / diagonal, rtol=1e-12)
    said = capsys.readouterr().out
    assert "CONVERGED" in said
    told = re.search(r"true relative residual\D*([0-9.e+-]+)", said)
    assert told, said
    assert float(told[1]) <= 1e-6


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".mtx"])
def test_a_full_disk_is_exit_code_1_and_keeps_the_older_file(system, suffix):
    file = system / f"x{suffix}"
    file.write_text("older")
    before = sorted(system.iterdir())
    limited = f'-c "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99)); from krylearn.bench.cli \
import main; sys.exit(main(sys.argv[1:]))" solve A.npz b.npy {" ".join(OPTIONS)} -o {file.name}'
    done = subprocess.run(f"exec {sys.executable} {limited}", shell=True, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]  # before it may come that what had to be compiled could not be kept
    assert said == f"krylearn solve: x{suffix} was not written: File too large"
    assert file.read_text() == "older"
    assert sorted(system.iterdir()) == before


def test_a_device_is_written_directly(system, capfd):
    assert solve("-o", "/dev/full") == 1
    assert "/dev/full was not written: No space left on device" in capfd.readouterr().err
    assert solve("-o", "/dev/stdout") == 0
    numbers = [float(line) for line in capfd.readouterr().out.splitlines()[:30]]
    assert residual(np.array(numbers)) < 1e-5
    assert solve("-o", "/dev/null") == 0


def test_a_folder_that_cannot_be_written_is_found_out_before_the_solve(system, monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    from krylearn.bench.solvers import matrix_files
    from krylearn.solvers import files

    monkeypatch.setattr(files, "create_beside", refuse)
    monkeypatch.setattr(matrix_files, "load_matrix", lambda *arguments, **options: pytest.fail("too late"))
    assert solve("-o", "x.npy") == 1
    assert "x.npy was not written: Permission denied" in capsys.readouterr().err


def test_records_that_cannot_be_written_are_exit_code_1(system, capsys):
    options = ["--size", "8", "--pairs", "1", "--weights", "geometric", "--records", "/dev/full"]
    assert main(["bench", "headline", *options]) == 1
    assert "was not written: No space left on device" in capsys.readouterr().err


def test_a_torn_record_is_said_and_repaired(system):
    file, record = system / "records.jsonl", Record("cg", "box", 8, 1e-6, "CONVERGED", true_relres=1e-7)
    append(file, [record, record])
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="the last line was cut off and is left out"):
        assert len(read(file)) == 1
    with pytest.warns(UserWarning, match="the last line was cut off and has been removed"):
        append(file, [record])
    assert len(read(file)) == 2


@pytest.mark.parametrize("text", ["no record\n{}\n", "[1]\n{}\n", "{}\n", '{"more": {"run": 1}}\n', "\0\n\0\n"])
def test_records_of_strangers_are_exit_code_2(system, text, capsys):
    (system / "r.jsonl").write_text(text)
    assert main(["report", "--html", "page.html", "--records", "r.jsonl"]) == 2
    assert "r.jsonl" in capsys.readouterr().err
    assert not (system / "page.html").exists()


# --- the output -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "code"), [(">&-", 0), ("2>&- >&-", 0), ("> /dev/full", 1), ("| true; exit ${PIPESTATUS[0]}", 0)]
)
def test_the_solution_is_saved_whatever_becomes_of_the_output(system, shell, code):
    arguments = ["solve", "A.npz", "b.npy", *OPTIONS, "-o", "x.npy"]
    done = run(arguments, shell=shell) if "PIPE" not in shell else _piped(arguments)
    assert done.returncode == code
    assert residual(np.load("x.npy")) < 1e-5
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert (b"the output was not written: No space left" in done.stderr) == (code == 1)


def _piped(arguments):
    command = " ".join([sys.executable, "-m", "krylearn.bench.cli", *arguments]) + " | true; exit ${PIPESTATUS[0]}"
    return subprocess.run(["/bin/bash", "-c", command], capture_output=True, timeout=300)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_character_ends_a_command(system, encoding):
    (system / "b.npy").rename(system / "b-λé.npy")
    locale = {"LC_ALL": "C", "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ["solve", "A.npz", "b-λé.npy", *OPTIONS, "-o", "x-λ.npy"]
    done = run(arguments, **locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert residual(np.load("x-λ.npy")) < 1e-5
    assert b"CONVERGED" in done.stdout
    assert ("‖b - Ax‖" if encoding == "utf-8" else "||b - Ax||") in done.stdout.decode(encoding)
    missing = run(["solve", "A-λ\udcff.npz", *arguments[2:]], **locale)
    assert missing.returncode == 2
    assert b"No such file" in missing.stderr


@pytest.mark.parametrize("name", ["[bold]b[-bold]", "[link=http:x]b", "b\x1b[2J\x07", ":smile:", "[]"])
def test_names_of_files_are_neither_markup_nor_commands_of_the_terminal(system, capsys, name):
    (system / "A.npz").rename(system / f"{name}.npz")
    assert solve("-o", f"x{name}.npy", files=(f"{name}.npz", "b.npy")) == 0
    assert solve(files=(f"{name}.npz", f"absent{name}")) == 2
    shown = name.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    out, err = capsys.readouterr()
    assert shown in out.replace("\n", "")
    assert shown in err
    assert not {"\x1b", "\x07"} & set(out + err)


def test_messages_of_the_parser_hold_no_commands_of_the_terminal(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["solve", "A", "b", "--shape", "4", "4", "--weights", "\x1b[2J.safetensors"])
    assert stop.value.code == 2
    assert "\\x1b[2J.safetensors" in capsys.readouterr().err


def test_tables_show_text_as_it_is(capsys):
    console.print(table("[red]t[/]", ["[a]", "b"], [["[x]", "\x9b1m"]], caption="[/c]"))
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("[red]t[/]", "[a]", "[x]", "\\x9b1m", "[/c]"))


# --- the options, the home folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [["--rtol", "-1"], ["--rtol", "nan"], ["--rtol", "inf"], ["--rtol", "1,5"], ["--shape", "0", "30"],
              ["--shape", "-5", "-6"], ["--shape", "5.5", "6"], ["--weights", "nothing"]]
)  # fmt: skip
def test_options_that_cannot_be_used_are_exit_code_2(system, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["solve", "A.npz", "b.npy", *OPTIONS, *wrong])
    assert stop.value.code == 2
    assert "expected" in capsys.readouterr().err.replace("weights='nothing'; expected", "expected")


@pytest.mark.parametrize("shape", [["5", "7"], ["31"], ["9" * 30, "1"]])
def test_grids_that_do_not_fit_are_exit_code_2(system, shape, capsys):
    assert main(["solve", "A.npz", "b.npy", "--shape", *shape, "--weights", "geometric"]) == 2
    assert "expected" in capsys.readouterr().err


def test_a_fault_of_ours_is_one_sentence_and_exit_code_1(system, monkeypatch, capsys):
    from krylearn.bench.solvers import matrix_files

    def fail(*arguments, **options):
        raise KeyError("lost")

    monkeypatch.setattr(matrix_files, "solve_files", fail)
    assert solve() == 1
    assert capsys.readouterr().err.startswith("krylearn solve: KeyError: 'lost'; please report it;")


@pytest.mark.slow  # everything is compiled
def test_a_home_that_is_none_is_no_obstacle(system):
    away = {"HOME": None, "XDG_CACHE_HOME": "/proc/nowhere", "NUMBA_CACHE_DIR": None, "TMPDIR": str(system)}
    done = run(["solve", "A.npz", "b.npy", *OPTIONS, "-o", "x.npy"], **away)
    assert done.returncode == 0, done.stderr
    assert residual(np.load("x.npy")) < 1e-5


def test_kills_in_a_short_run():
    from tests.fuzz import kills

    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.kills", "--count", "8", "--seed", "3", "--commands", "solve", "train"],
        cwd=Path(kills.__file__).resolve().parents[2], capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("4 kills, nothing lost, the same results") == 2
