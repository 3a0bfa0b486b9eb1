"""A stranger's solver and system take part by a file each; whatever is wrong with a file is one sentence."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest
from krylearn.bench.cli import main
from krylearn.bench.measure.console import UsageError
from krylearn.bench.measure.record import read
from krylearn.bench.rivals import plugins
from krylearn.bench.rivals.loops import System
from krylearn.bench.rivals.plugins import installed_rivals, load_rival, load_system
from krylearn.bench.rivals.table import run
from scipy.sparse import csr_array, diags_array

PRECONDITIONER = '''
"""A stranger's rival."""
import scipy.sparse.linalg as spla

NAME, VERSION = "stranger's ILU", "3.1"


def setup(system):
    """Incomplete factors, dropped at 1e-3."""
    factors = spla.spilu(system.matrix.tocsc(), drop_tol=1e-3)
    return spla.LinearOperator(system.matrix.shape, matvec=factors.solve)
'''
LOOP = '''
import scipy.sparse.linalg as spla


def setup(system):
    """SciPy's direct solver."""
    factors = spla.splu(system.matrix.tocsc())
    return lambda b, rtol: factors.solve(b)
'''
WRONG = "def setup(system):\n    return lambda b, rtol: 0 * b\n"
SYSTEM = """
import numpy as np
from krylearn.pde import Poisson


def system():
    A = Poisson.from_coefficients(np.linspace(1, 2, 6 * 7 * 8).reshape(6, 7, 8))
    return A, np.ones((6, 7, 8))
"""
MATRIX = """
import numpy as np
from scipy.sparse import diags_array


def system():
    return diags_array([np.full(49, -1.0), np.full(50, 2.0), np.full(49, -1.0)], offsets=[-1, 0, 1]), np.ones(50)
"""
SKEW = """
import numpy as np


def system():
    return np.triu(np.ones((3, 3))), np.ones(3)
"""


def laplacian(n=40):
    return csr_array(diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1]))


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("text", [PRECONDITIONER, LOOP], ids=["preconditioner", "loop"])
def test_a_file_with_one_function_takes_part(tmp_path, text):
    peer = load_rival(write(tmp_path, "stranger.py", text))
    outcome = run(peer, System(laplacian()), np.ones(40), rtol=1e-8)
    assert outcome.status == "CONVERGED"
    assert outcome.true_relres <= 1e-8


def test_what_the_file_says_of_itself_is_in_the_table(tmp_path):
    peer = load_rival(write(tmp_path, "stranger.py", PRECONDITIONER))
    assert (peer.name, peer.version, peer.config) == ("stranger's ILU", "3.1", "Incomplete factors, dropped at 1e-3.")
    assert load_rival(write(tmp_path, "other.py", LOOP)).name == "other"


def test_a_rival_that_returns_nonsense_has_no_time(tmp_path):
    outcome = run(load_rival(write(tmp_path, "wrong.py", WRONG)), System(laplacian()), np.ones(40), rtol=1e-8)
    assert outcome.solve is None
    assert outcome.status != "CONVERGED"


@pytest.mark.parametrize(("text", "ours"), [(SYSTEM, "CONVERGED"), (MATRIX, "UNSUITED")], ids=["grid", "matrix"])
def test_a_system_and_a_rival_by_a_file_each(tmp_path, text, ours):
    texts = {"mine.py": text, "lu.py": LOOP, "ilu.py": PRECONDITIONER}
    mine, lu, ilu = (write(tmp_path, name, each) for name, each in texts.items())
    out = ["--records", tmp_path / "r.jsonl", "--html", tmp_path / "page.html"]
    command = ["bench", "solvers", "--system", mine, "--rival", lu, "--rival", ilu, *out]
    assert main([str(word) for word in command]) == 0
    lines = {line["method"]: line for line in read(tmp_path / "r.jsonl")}
    assert lines["krylearn"]["status"] == ours
    assert lines["lu"]["status"] == lines["stranger's ILU"]["status"] == "CONVERGED"
    assert lines["lu"]["problem"] == "mine"
    assert "stranger&#39;s ILU" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1\n", "has no function setup"),
        ("raise RuntimeError('no licence')\n", "could not be run: RuntimeError: no licence"),
        ("def setup(:\n", "could not be run: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, text, match):
    with pytest.raises(UsageError, match=match):
        load_rival(write(tmp_path, "bad.py", text))


def test_a_system_that_is_no_pair_or_not_symmetric_is_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"expected \(matrix or Poisson, b\)"):
        load_system(write(tmp_path, "bad.py", "def system():\n    return 3\n"))
    assert main(["bench", "solvers", "--system", str(write(tmp_path, "skew.py", SKEW))]) == 2
    assert "not symmetric" in capsys.readouterr().err
    assert main(["bench", "solvers", "--system", str(tmp_path / "none.py")]) == 2


def test_an_entry_point_is_found_and_imported_only_when_it_runs(monkeypatch):
    point = EntryPoint("theirs", "no_such_package.solver:setup", plugins.GROUP)
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [point])
    peer = installed_rivals()["theirs"]
    assert peer.absent is None
    with pytest.raises(ModuleNotFoundError):
        peer.setup(System(laplacian()))
