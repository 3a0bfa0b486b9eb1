"""The study of other people's packages: equal accuracy, recognition included, failures are results."""

import pytest
from krylearn.bench.measure.console import UsageError
from krylearn.bench.studies.integrations.cases import CASES, Clock, Entrant, System
from krylearn.bench.studies.integrations.compare import measure, run_integrations
from krylearn.bench.studies.integrations.table import gains, rows


def system(*entrants, accuracy=1e-3):
    return System("p", "box", (4, 4), 1, "whole call", "x", lambda x: abs(x - 1.0), accuracy, list(entrants))


def test_the_loosest_tolerance_that_is_accurate_enough_is_timed():
    asked = []

    def run(tol):
        asked.append(tol)
        return 1.0 + tol / 2

    record = measure(system(), Entrant("ours", "guess", run), "numpy")
    assert record.more["asked"] == 1e-3
    assert asked[:2] == [1e-2, 1e-3]
    assert record.solve_s is not None


def test_an_answer_that_never_gets_accurate_has_no_time():
    record = measure(system(), Entrant("default", "wrong", lambda tol: 2.0), "numpy")
    assert (record.status, record.solve_s) == ("FAILED", None)


def test_an_exception_is_a_result():
    def run(tol):
        if tol is None:
            raise ZeroDivisionError("no such thing")
        return 1.0

    record = measure(system(), Entrant("default", "direct", run, (None,)), "numpy")
    assert record.status == "FAILED"
    assert "no such thing" in record.more["fault"]


def test_a_direct_method_that_takes_too_long_is_stopped_and_recorded_as_that():
    def run(_):
        while True:
            pass

    slow = measure(system(), Entrant("default", "direct", run, (None,), limited=True), "numpy", 1.0)
    assert (slow.status, slow.solve_s, slow.more["stopped_after"]) == ("TIMEOUT", None, 1.0)
    quick = measure(system(), Entrant("ours", "quick", lambda tol: (1.0, 0.01)), "numpy")
    assert rows([slow.line(), quick.line()])[0][-5:] == ["direct > 1 s", "-", "quick 10 ms", "> 100", "-"]


def test_what_fails_in_a_process_of_its_own_is_a_result():
    def run(_):
        raise ZeroDivisionError

    record = measure(system(), Entrant("default", "direct", run, (None,), limited=True), "numpy")
    assert record.status == "FAILED"
    assert "process of its own" in record.more["fault"]


def test_a_clock_counts_nested_calls_once():
    class Solver:
        def factor(self):
            return sum(range(200_000))

        def solve(self):
            return self.factor()

    with Clock((Solver, "factor"), (Solver, "solve"), (Solver, "absent")) as clock:
        Solver().solve()
        inner = clock.seconds
    assert inner > 0
    assert "absent" not in vars(Solver)
    Solver().solve()
    assert clock.seconds == inner


def test_tables_have_a_row_for_each_system_and_package():
    lines = []
    for role, took in (("default", 0.4), ("ours", 0.1)):
        record = measure(system(), Entrant(role, role, lambda tol: (1.0, 0.0)), "numpy")
        record.solve_s = took
        lines.append(record.line())
    assert rows(lines)[0][-2] == "4"
    assert gains(lines) == [["p", "whole call", "4 x 4", "4 / -", "4 x 4", "4 / -"]]


def test_an_unknown_package_is_named(tmp_path):
    with pytest.raises(UsageError, match="maxima"):
        run_integrations(["maxima"], output=tmp_path / "records.jsonl")
    assert "fipy" in CASES
