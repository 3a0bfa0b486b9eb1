"""`mpirun -n N krylearn solve --distributed`, and what an error on one rank does."""

import numpy as np
import pytest
import scipy.sparse as sp
from krylearn.pde import Poisson
from ranks import needs_petsc, run_ranks

pytestmark = needs_petsc
KRYLEARN = "krylearn_program.py"


@pytest.fixture
def files(tmp_path):
    """Coefficients and a right-hand side on a grid."""
    rng = np.random.default_rng(10139)
    kappa, b = np.exp(rng.standard_normal((30, 23, 31))), rng.standard_normal((30, 23, 31))
    np.save(tmp_path / "kappa.npy", kappa)
    np.save(tmp_path / "b.npy", b)
    return tmp_path, kappa, b


def test_files_are_read_and_written_by_parts(files):
    folder, kappa, b = files
    arguments = ("solve", "--distributed", folder / "kappa.npy", folder / "b.npy", "--rtol", "1e-9")
    done = run_ranks(3, KRYLEARN, *arguments, "-o", folder / "x.npy")
    A, x = Poisson.from_coefficients(kappa), np.load(folder / "x.npy")
    assert np.linalg.norm(b - A @ x) <= 1e-9 * np.linalg.norm(b)
    assert "CONVERGED" in done.stdout
    assert done.stdout.count("iterations") == 1  # one rank speaks
    assert not list(folder.glob(".*partial"))


def test_a_sparse_matrix_is_read_by_every_rank(tmp_path):
    A = Poisson.from_cells(np.ones((12, 11, 13)), boundary="dirichlet")
    sp.save_npz(tmp_path / "A.npz", sp.csr_matrix(A.matrix()))
    b = np.random.default_rng(10141).standard_normal(A.shape[0])
    np.save(tmp_path / "b.npy", b)
    files = (tmp_path / "A.npz", tmp_path / "b.npy", "--shape", 12, 11, 13)
    run_ranks(2, KRYLEARN, "solve", "--distributed", *files, "-o", tmp_path / "x.npy")
    x = np.load(tmp_path / "x.npy").ravel()
    assert np.linalg.norm(b - A @ x) <= 1e-6 * np.linalg.norm(b)


def test_a_file_that_does_not_fit_is_one_sentence(files):
    folder, _, b = files
    np.save(folder / "b.npy", b[:, 1:])
    arguments = ("solve", "--distributed", folder / "kappa.npy", folder / "b.npy")
    done = run_ranks(2, KRYLEARN, *arguments, check=False)
    assert done.returncode != 0
    assert done.stderr.count("expected one per cell") == 1, done.stderr


def test_an_error_of_one_rank_ends_all_with_one_message():
    done = run_ranks(3, "failing_program.py", check=False)
    assert done.returncode != 0
    assert done.stderr.count("failing_program: rank 1 of 3: RuntimeError: only rank 1 fails") == 1, done.stderr


def test_an_error_that_nobody_takes_care_of_ends_all_ranks():
    done = run_ranks(2, "failing_program.py", "plain", check=False, timeout=120)
    assert done.returncode != 0
    assert "RuntimeError: only rank 1 fails" in done.stderr
