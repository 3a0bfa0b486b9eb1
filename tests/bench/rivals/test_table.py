import numpy as np
import pytest
import scipy.sparse as sp
from krylearn.bench.rivals import loops as rivals
from krylearn.bench.rivals.loops import UnsuitedError
from krylearn.bench.rivals.table import PEERS, OutOfTimeError, Peer, System, prepare, run
from krylearn.bench.solvers.contest import compressed, ours, rival, summary, theirs, title
from krylearn.pde import Poisson, right_hand_side, scene

RTOL = 1e-8


@pytest.fixture(scope="module")
def system():
    A = scene("obstacles", (10, 9, 8), seed=31415)
    b = right_hand_side(A, "divergence", 31415).numpy()
    return A, b


@pytest.fixture(scope="module")
def given(system):
    """The system as rivals get it: (System, right-hand side)."""
    matrix, b, _ = compressed(*system)
    return System(matrix, system[0]), b


@pytest.mark.parametrize("name", sorted(set(PEERS) - {"transforms"}))
def test_every_rival_meets_the_true_residual(name, given):
    if PEERS[name].absent:
        pytest.skip(PEERS[name].absent)
    (system, b), matrix = given, given[0].matrix
    outcome = run(PEERS[name], system, b, rtol=RTOL)
    assert outcome.status == "CONVERGED"
    assert np.linalg.norm(b - matrix @ outcome.x) <= RTOL * np.linalg.norm(b)
    assert np.linalg.norm(b - matrix @ outcome.again()) <= RTOL * np.linalg.norm(b)
    if outcome.residuals:
        assert outcome.iterations == len(outcome.residuals) - 1
        assert outcome.residuals[-1] / outcome.residuals[0] <= 1.01 * RTOL
        assert outcome.iterations - 1 <= outcome.iterations_to(RTOL) <= outcome.iterations
    assert outcome.solve.median > 0
    assert outcome.setup_s >= 0


def test_fast_transforms_are_exact_on_boxes_and_decline_the_rest(given):
    A = Poisson.from_coefficients(np.ones((6, 7, 5)), boundary={"x": "periodic"})
    b = np.random.default_rng(31415).standard_normal(A.shape[0])
    outcome = run(PEERS["transforms"], System(A.matrix(), A), b, rtol=1e-12)
    assert outcome.status == "CONVERGED"
    assert outcome.iterations_to(RTOL) is None
    with pytest.raises(UnsuitedError, match="full box"):
        run(PEERS["transforms"], *given, rtol=RTOL)


def test_a_singular_system_is_known_as_such(system, given):
    assert not given[0].constants_in_kernel
    assert System(Poisson.from_cells(np.ones((4, 5))).matrix()).constants_in_kernel


def test_a_rival_that_just_misses_gets_another_try(given):
    """Rounding separates a recurrence from the true residual; that is no failure of the method."""
    system, b = given
    asked = []

    class Sloppy(rivals.ScipyLoop):
        def watch(self, b, rtol, time_limit):
            asked.append(rtol)
            return super().watch(b, 3 * rtol, time_limit)

    peer = Peer("sloppy", "", "scipy", lambda system: Sloppy(system.matrix, None))
    outcome = run(peer, system, b, rtol=RTOL)
    assert len(asked) > 1
    assert asked[0] == RTOL
    assert outcome.true_relres <= RTOL
    assert outcome.status == "CONVERGED"


def test_a_rival_that_fails_in_its_own_way_is_a_record(given):
    def explode(system):
        raise MemoryError("fill-in")

    record = rival(Peer("x", "", "scipy", explode), *given, None, rtol=RTOL, pairs=1, problem="p")
    assert (record.status, record.solve_s) == ("FAILED", None)
    assert "fill-in" in record.more["reason"]


def test_compression_keeps_the_system(system):
    A, b = system
    matrix, rhs, mask = compressed(A, b)
    x = np.random.default_rng(31415).standard_normal(A.unknowns)
    full = np.zeros(A.shape[0])
    full[mask] = x
    np.testing.assert_allclose(matrix @ x, (A @ full)[mask], rtol=1e-13, atol=1e-13)
    assert rhs.size == A.unknowns == matrix.shape[0]


def test_what_runs_out_of_time_has_no_time(given):
    outcome = run(PEERS["scipy-cg"], *given, rtol=RTOL, time_limit=0.0)
    assert outcome.status == "TIME"
    assert outcome.solve is None


def test_a_rival_that_stops_short_of_the_true_residual_has_not_converged(given, monkeypatch):
    honest = rivals.iterate
    monkeypatch.setattr(rivals, "iterate", lambda *a, rtol, **k: honest(*a, rtol=1e3 * rtol, **k))
    outcome = run(PEERS["scipy-cg"], *given, rtol=RTOL)
    assert outcome.status == "MAXITER"
    assert outcome.solve is None


def test_an_absent_rival_is_reported_with_the_line_that_installs_it(system):
    ghost = Peer("ghost", "no configuration", "no-such-package", lambda matrix: None)
    assert "pip install no-such-package" in ghost.absent
    with pytest.raises(ImportError, match="pip install no-such-package"):
        prepare(ghost, System(sp.csr_array(np.eye(2))))
    record = theirs(ghost, *system, None, rtol=RTOL, pairs=1, problem="obstacles")
    assert (record.status, record.solve_s) == ("ABSENT", None)
    assert summary([record.line()])[0][1:3] == ["1 thread", "absent"]


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


def test_every_rival_says_how_it_is_configured_and_installed():
    for peer in PEERS.values():
        assert len(peer.config) > 10
        assert peer.absent is None or "install" in peer.absent


def test_time_is_over_is_an_error_of_its_own():
    assert issubclass(OutOfTimeError, Exception)
