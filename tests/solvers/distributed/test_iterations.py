"""On any number of ranks: the iterations and the solution of one process, for every partition."""

import pytest
from ranks import lines_of, needs_petsc

pytestmark = needs_petsc
CASES = 13
ROUTES = 2


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def lines(request):
    return lines_of(request.param, "iterations_program.py", 1000, "ghosted,assembled")


def test_every_case_has_run(lines):
    assert len(lines) == CASES * ROUTES


def test_iterations_are_those_of_one_process(lines):
    for line in lines:
        assert abs(line["iterations"] - line["serial"]) <= 1, line


def test_solutions_are_those_of_one_process(lines):
    for line in lines:
        assert line["difference"] <= 1e-10, line


def test_info_zero_is_a_promise(lines):
    for line in lines:
        assert line["converged"], line
        assert line["residual"] <= 1e-8, line
        assert line["told"] == pytest.approx(line["residual"], rel=1e-6), line


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


def test_gathered_levels_change_nothing():
    few, many = (lines_of(2, "iterations_program.py", gather, "ghosted,assembled") for gather in (128, 10**6))
    for a, b in zip(few, many, strict=True):
        assert abs(a["iterations"] - b["iterations"]) <= 1
