import numpy as np
import pytest
import scipy.sparse as sp
from krylearn.bench import peers
from krylearn.bench.contest import compressed, ours, summary, theirs, title
from krylearn.bench.peers import PEERS, OutOfTimeError, Peer, prepare, run
from krylearn.pde import right_hand_side, scene

RTOL = 1e-8


@pytest.fixture(scope="module")
def system():
    A = scene("obstacles", (10, 9, 8), seed=31415)
    b = right_hand_side(A, "divergence", 31415).numpy()
    return A, b


@pytest.mark.parametrize("name", PEERS)
def test_every_rival_meets_the_true_residual(name, system):
    matrix, b, _ = compressed(*system)
    outcome = run(PEERS[name], matrix, b, rtol=RTOL)
    assert outcome.status == "CONVERGED"
    assert np.linalg.norm(b - matrix @ outcome.x) <= RTOL * np.linalg.norm(b)
    assert outcome.iterations == len(outcome.residuals) - 1
    assert outcome.residuals[-1] / outcome.residuals[0] <= RTOL
    assert outcome.solve.median > 0
    assert outcome.setup_s >= 0


def test_compression_keeps_the_system(system):
    A, b = system
    matrix, rhs, mask = compressed(A, b)
    x = np.random.default_rng(31415).standard_normal(A.unknowns)
    full = np.zeros(A.shape[0])
    full[mask] = x
    np.testing.assert_allclose(matrix @ x, (A @ full)[mask], rtol=1e-13, atol=1e-13)
    assert rhs.size == A.unknowns == matrix.shape[0]


def test_what_runs_out_of_time_has_no_time(system):
    matrix, b, _ = compressed(*system)
    outcome = run(PEERS["scipy-cg"], matrix, b, rtol=RTOL, time_limit=0.0)
    assert outcome.status == "TIME"
    assert outcome.solve is None


def test_a_rival_that_stops_short_of_the_true_residual_has_not_converged(system, monkeypatch):
    matrix, b, _ = compressed(*system)
    honest = peers.iterate
    monkeypatch.setattr(peers, "iterate", lambda *a, rtol, **k: honest(*a, rtol=1e3 * rtol, **k))
    outcome = run(PEERS["scipy-cg"], matrix, b, rtol=RTOL)
    assert outcome.status == "MAXITER"
    assert outcome.solve is None


def test_an_absent_rival_is_reported_with_the_line_that_installs_it(system):
    ghost = Peer("ghost", "no configuration", "no-such-package", lambda matrix: None)
    assert "pip install no-such-package" in ghost.absent
    with pytest.raises(ImportError, match="pip install no-such-package"):
        prepare(ghost, sp.csr_array(np.eye(2)))
    record = theirs(ghost, *system, None, rtol=RTOL, pairs=1, problem="obstacles")
    assert (record.status, record.solve_s) == ("ABSENT", None)
    assert summary([record.line()])[0][1] == "absent"


def test_a_contest_on_one_system(system):
    A, b = system
    facts = {"problem": "obstacles", "experiment": "test"}
    first, solve = ours(A, b, rtol=RTOL, repeats=1, weights="geometric", **facts)
    second = theirs(PEERS["pyamg-sa"], A, b, solve, rtol=RTOL, pairs=2, **facts)
    assert first.status == second.status == "CONVERGED"
    assert first.true_relres <= RTOL
    assert second.true_relres <= RTOL
    low, high = second.more["ratio"][1:]
    assert 0 < low <= second.more["ratio"][0] <= high
    lines = [first.line(), second.line()]
    assert title(lines).startswith("obstacles, 10 x 9 x 8")
    assert [row[0] for row in summary(lines)] == ["krylearn", "pyamg-sa"]


def test_time_is_over_is_an_error_of_its_own():
    assert issubclass(OutOfTimeError, Exception)
