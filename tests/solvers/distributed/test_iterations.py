"""On any number of ranks: the iterations and the solution of one process, for every partition."""

import pytest
from ranks import cases_of, needs_petsc

pytestmark = needs_petsc
CASES = 22
ROUTES = 2


@pytest.fixture(scope="module", params=[1, 2, 3, 4, 8])
def lines(request):
    return cases_of(request.param)["iterations_cases"]


def test_every_case_has_run(lines):
    assert len(lines) == CASES * ROUTES


def test_iterations_are_those_of_one_process(lines):
    for line in lines:
        for ours, serial in zip(line["iterations"], line["serial"], strict=True):  # to 1e-8 and to 1e-12
            assert abs(ours - serial) <= 1, line


def test_levels_are_of_the_kind_that_one_process_takes(lines):
    for line in lines:
        assert line["pieces"][0] == line["pieces"][1], line
    assert {line["case"] for line in lines if line["pieces"][0]} >= {"mazes", "spanning", "graded"}


def test_solutions_are_those_of_one_process(lines):
    for line in lines:
        assert line["difference"] <= 1e-10, line


def test_info_zero_is_a_promise(lines):
    for line in lines:
        assert line["converged"], line
        assert line["residual"] <= 1e-12, line
        assert line["told"] == pytest.approx(line["residual"], rel=1e-2), line


def test_products_are_those_of_one_process(lines):
    for line in lines:
        assert line["product"] <= 1e-14, line


def test_null_spaces_may_span_ranks(lines):
    for line in lines:
        assert line["dimension"][0] == line["dimension"][1], line
    assert {line["case"]: line["dimension"][0] for line in lines}["spanning"] == 2


def test_the_cycle_is_symmetric_and_definite(lines):
    for line in lines:
        assert line["asymmetry"] <= 1e-6, line  # the gathered levels are in single precision
        assert line["definite"], line


def test_gathered_levels_change_nothing(lines):
    counts = {line["iterations"][0] for line in lines if line["case"].startswith("lognormal")}
    assert max(counts) - min(counts) <= 1, counts
