"""Operators from own parts are those of one process; solves end as those of `krylearn.solvers.cg` do."""

import pytest
from ranks import cases_of, needs_petsc

pytestmark = needs_petsc


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def lines(request):
    return {line["case"]: line for line in cases_of(request.param)["builders_cases"]}


def test_operators_and_sources_are_those_of_one_process(lines):
    for line in lines.values():
        if "gap" in line:
            assert line["gap"] <= 1e-14, line
            assert line["rhs"] <= 1e-12, line
            assert line["unknowns"][0] == line["unknowns"][1], line


def test_an_update_is_a_new_set_up(lines):
    for line in lines.values():
        if "gap" in line:
            one, two, _ = line["iterations"]
            assert one == two, line
            assert line["converged"] == [0, 0, 0], line


def test_failures_are_values(lines):
    for line in lines.values():
        if "gap" in line:
            assert line["few"][:2] == ["MAXITER", 2], line
            assert line["few"][2] > 0
            assert line["zero"] == [0, 0]
    assert lines["incompatible"]["reason"] == "INCOMPATIBLE_RHS"
    assert lines["incompatible"]["value"] > 0


def test_a_wrong_part_is_refused_on_every_rank(lines):
    messages = lines["wrong part"]["messages"]
    for message in messages:
        where = f"rank {len(messages) - 1} of {len(messages)}: " if len(messages) > 1 else ""
        assert message.startswith(f"{where}got kappa of shape (3, 8, 8)"), messages
