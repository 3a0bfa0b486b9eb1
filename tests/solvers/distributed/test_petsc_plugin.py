"""The PC class in programs that know PETSc only."""

import pytest
from ranks import lines_of, needs_petsc, run_ranks

pytestmark = needs_petsc
CG = ("-ksp_type", "cg", "-ksp_rtol", "1e-8", "-ksp_norm_type", "unpreconditioned")
OURS = ("-pc_type", "python", "-pc_python_type", "krylearn.solvers.distributed.PC")


@pytest.mark.parametrize("route", ["ghosted", "assembled"])
def test_by_options_alone_with_the_same_iterations_on_any_number_of_ranks(route):
    lines = []
    for ranks in (1, 2, 3, 4) if route == "ghosted" else (1, 4):
        (line,) = lines_of(ranks, "petsc_program.py", *CG, *OURS, "-krylearn_route", route, "-krylearn_gather", 500)
        lines.append(line)
    (other,) = lines_of(2, "petsc_program.py", *CG, "-pc_type", "gamg")
    for line in lines:
        assert line["reason"] > 0
        assert line["residual"] <= 1e-8
        assert abs(line["iterations"] - lines[0]["iterations"]) <= 1
        assert line["norm"] == pytest.approx(other["norm"], rel=1e-6)


def test_ksp_view_tells_what_it_is():
    out = run_ranks(2, "petsc_program.py", *CG, *OURS, "-krylearn_gather", 500, "-ksp_view").stdout
    assert "krylearn NeuralMultigrid, route ghosted, weights: the shipped network" in out
    assert "24 x 25 x 23, 13800 unknowns" in out


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_seams_two_dimensions_changed_operators_and_refusals(ranks):
    few = {"PETSC_OPTIONS": "-krylearn_gather 500"}
    lines = {line["case"]: line for line in lines_of(ranks, "plugin_program.py", environment=few)}
    for name in ("flat", "seam", "torus", "identity rows"):
        line = lines[name]
        assert line["residual"] <= 1e-8, line
        # the surplus of a row is split by rules, so ground may differ from the builder's
        assert line["iterations"] <= line["serial"] + 2, line
        assert abs(line["again"] - line["iterations"]) <= 1, line
    for name, words in (
        ("unsymmetric", "MatZeroRowsColumns"),
        ("stranger", "couples no neighbours"),
        ("sign", "pass -A"),
    ):
        assert len(lines[name]["messages"]) == ranks
        for message in lines[name]["messages"]:
            assert words in message, lines[name]
