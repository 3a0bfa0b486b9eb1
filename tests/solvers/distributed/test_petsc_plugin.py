"""The PC class in programs that know PETSc only."""

import pytest
from ranks import cases_of, json_lines, lines_of, needs_petsc, run_ranks

pytestmark = needs_petsc
CG = ("-ksp_type", "cg", "-ksp_rtol", "1e-8", "-ksp_norm_type", "unpreconditioned")
OURS = ("-pc_type", "python", "-pc_python_type", "krylearn.solvers.distributed.PC")


def test_by_options_alone_with_the_same_iterations_on_any_number_of_ranks():
    runs = ((4, "ghosted"), (3, "assembled"))
    lines = []
    for ranks, route in runs:
        options = ("-krylearn_route", route, "-krylearn_gather", 500, "-ksp_view")
        done = run_ranks(ranks, "petsc_program.py", *CG, *OURS, *options)
        assert f"krylearn NeuralMultigrid, route {route}, weights: chosen by a look at the operator" in done.stdout
        assert "24 x 25 x 23, 13800 unknowns" in done.stdout
        lines += json_lines(done)
    (other,) = lines_of(1, "petsc_program.py", *CG, "-pc_type", "gamg")
    assert len(lines) == len(runs)
    for line in lines:
        assert line["reason"] > 0
        assert line["residual"] <= 1e-8
        assert abs(line["iterations"] - lines[0]["iterations"]) <= 1
        assert line["norm"] == pytest.approx(other["norm"], rel=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_seams_two_dimensions_changed_operators_and_refusals(ranks):
    lines = {line["case"]: line for line in cases_of(ranks)["plugin_cases"]}
    for name in ("flat", "seam", "torus", "identity rows"):
        line = lines[name]
        assert line["residual"] <= 1e-8, line
        # the surplus of a row is split by rules, so ground may differ from the builder's
        assert line["iterations"] <= line["serial"] + 1, line
        assert abs(line["again"] - line["iterations"]) <= 1, line
    for name, words in (
        ("unsymmetric", "MatZeroRowsColumns"),
        ("stranger", "couples no neighbours"),
        ("sign", "pass -A"),
    ):
        assert len(lines[name]["messages"]) == ranks
        for message in lines[name]["messages"]:
            assert words in message, lines[name]
