"""Rivals out of PETSc: the system that they get is ours, on one rank and on several; ranks that fail are said to."""

import importlib.util
import os
import shutil
import signal
import time

import numpy as np
import pytest
import scipy.sparse as sp
from krylearn.bench.rivals import petsc
from krylearn.bench.rivals.loops import OutOfTimeError, System, UnsuitedError
from krylearn.bench.rivals.structured import PFMG_JACOBI
from krylearn.bench.rivals.table import PEERS, RANKS, prepare, run
from krylearn.bench.solvers.contest import compressed
from krylearn.pde import Poisson, right_hand_side, scene

RTOL = 1e-8
HAS_PETSC = importlib.util.find_spec("petsc4py") is not None
needs_ranks = pytest.mark.skipif(
    not (HAS_PETSC and shutil.which("mpirun")), reason="needs petsc4py and mpirun: make test-distributed"
)
ON_RANKS = sorted(name for name in PEERS if name.endswith(RANKS))


@pytest.fixture(scope="module")
def given():
    A = scene("obstacles", (12, 10, 9), seed=31415)
    matrix, b, _ = compressed(A, right_hand_side(A, "divergence", 31415).numpy())
    return System(matrix, A), b


@pytest.fixture
def two_ranks(monkeypatch):
    monkeypatch.setattr(petsc, "threads", lambda: 2)
    yield
    if petsc.Ranks._running is not None:
        petsc.Ranks._running.close()


def as_matrix(rows):
    n = rows.indptr.size - 1
    return sp.csr_array((rows.data, rows.indices, rows.indptr), shape=(n, n))


def test_the_full_box_is_the_system_and_the_identity_elsewhere(given):
    system, _ = given
    rows, numbers = petsc.hand_over(system, grid=True)
    x = np.random.default_rng(31415).standard_normal(rows.indptr.size - 1)
    product, idle = as_matrix(rows) @ x, np.ones(x.size, dtype=bool)
    idle[numbers] = False
    np.testing.assert_allclose(product[numbers], system.matrix @ x[numbers], rtol=1e-13)
    np.testing.assert_array_equal(product[idle], x[idle])
    assert rows.grid == system.A.grid_shape
    assert not rows.kernel.size


def test_rows_in_an_order_of_the_users_own_stand_at_their_cells():
    """A matrix whose first axis runs fastest, as many codes number it."""
    A = Poisson.from_coefficients(np.random.default_rng(31415).uniform(1, 9, (5, 4, 3)))
    order = np.arange(60).reshape(5, 4, 3).ravel(order="F")  # cell of each row
    shuffled = sp.csr_array(A.matrix())[order][:, order]
    system = System(shuffled, Poisson.from_matrix(shuffled, (5, 4, 3), order="F"))
    rows, numbers = petsc.hand_over(system, grid=True)
    np.testing.assert_array_equal(numbers, order)
    assert abs(as_matrix(rows) - A.matrix()).max() <= 1e-13


def test_a_singular_system_comes_with_its_null_space():
    A = Poisson.from_cells(np.array([[1, 1, 0], [1, 1, 1]]))
    rows, _ = petsc.hand_over(System(compressed(A, np.zeros(6))[0], A), grid=True)
    assert rows.kernel.tolist() == [True, True, False, True, True, True]
    assert abs(as_matrix(rows) @ rows.kernel).max() == 0


def test_without_mpirun_the_row_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(type(PEERS["petsc-gamg"]), "version", "1")
    assert "mpirun" in PEERS["petsc-gamg-ranks"].absent
    assert PEERS["petsc-gamg"].absent is None
    with pytest.raises(UnsuitedError, match="no mpirun"):
        petsc.Ranks(2)


def test_ranks_that_do_not_start_are_a_reason(monkeypatch, tmp_path):
    fake = tmp_path / "mpirun"
    fake.write_text("#!/bin/sh\necho no slots on this machine\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UnsuitedError, match=r"did not start \(no slots on this machine\)"):
        petsc.Ranks(2)


def test_ranks_of_another_mpi_are_found_out(monkeypatch, tmp_path):
    """Where petsc4py was built with another MPI than mpirun's, every process is a world of its own."""
    alone = tmp_path / "alone.py"
    alone.write_text(
        "import socket, sys, time\n"
        "line = socket.socket(socket.AF_UNIX)\nline.connect(sys.argv[1])\n"
        'line.sendall(b\'{"rank": 0, "size": 1}\\n\')\ntime.sleep(60)\n'
    )
    fake = tmp_path / "mpirun"
    fake.write_text(f'#!/bin/sh\nexec "$3" {alone} "$5"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UnsuitedError, match="another MPI"):
        petsc.Ranks(2)


@needs_ranks
@pytest.mark.parametrize("name", ON_RANKS)
def test_several_ranks_solve_what_one_does(name, given, two_ranks):
    system, b = given
    alone = run(PEERS[name.removesuffix(RANKS)], system, b, rtol=RTOL)
    outcome = run(PEERS[name], system, b, rtol=RTOL)
    assert outcome.status == alone.status == "CONVERGED"
    assert outcome.true_relres <= RTOL
    np.testing.assert_allclose(outcome.x, alone.x, rtol=0, atol=1e-5 * abs(alone.x).max())
    assert outcome.setup_s > 0
    assert outcome.solve.median > 0
    assert abs(outcome.iterations - alone.iterations) <= 2  # aggregates end at the ranks' borders


@needs_ranks
def test_ranks_sleep_between_commands(given, two_ranks):
    """Otherwise they would take the cores from whoever is timed in turns with them."""
    loop, _ = prepare(PEERS["hypre-pfmg-jacobi-ranks"], given[0])
    loop(given[1], RTOL)
    before, start = children_seconds(loop), time.monotonic()
    time.sleep(1.0)
    assert children_seconds(loop) - before < 0.1 * (time.monotonic() - start)


def children_seconds(loop):
    """Processor seconds of the ranks so far."""
    return sum(sum(map(int, fields(p)[11:13])) for p in ranks_of(loop)) / os.sysconf("SC_CLK_TCK")


def ranks_of(loop):
    ranks = [p for p in os.listdir("/proc") if p.isdigit() and parent(p) == loop.ranks.process.pid]
    assert len(ranks) == 2
    return ranks


def fields(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def parent(process):
    found = fields(process)
    return int(found[1]) if found else None


@needs_ranks
def test_time_that_is_over_ends_the_ranks_and_others_start(given, two_ranks):
    system, b = given
    loop, _ = prepare(PEERS["petsc-gamg-ranks"], system)
    before = loop.ranks
    os.kill(int(ranks_of(loop)[0]), signal.SIGSTOP)  # one that does not go on
    with pytest.raises(OutOfTimeError):
        loop.watch(b, RTOL, 0.5)
    assert before.process.poll() is not None
    assert run(PEERS["petsc-gamg-ranks"], system, b, rtol=RTOL).status == "CONVERGED"


@needs_ranks
def test_a_fault_on_the_ranks_is_told(given, two_ranks):
    with pytest.raises(UnsuitedError, match="Error"):
        petsc.several_ranks(given[0], {"pc_type": "no-such-thing"})
    assert petsc.several_ranks(given[0], PFMG_JACOBI, grid=True).setup_s > 0
