"""The study of several ranks: every method is judged on one system, in one run, and recorded as it was seen."""

import json

from ranks import needs_petsc, run_ranks

pytestmark = needs_petsc


def test_all_methods_solve_on_two_ranks_and_are_recorded(tmp_path):
    facts = ("--size", 16, "--repeats", 2, "--systems", "obstacles", "--records", tmp_path / "ranks.jsonl")
    run_ranks(2, "krylearn_program.py", "study", "ranks", *facts)
    lines = {line["method"]: line for line in map(json.loads, (tmp_path / "ranks.jsonl").read_text().splitlines())}
    assert len(lines) == 6
    for line in lines.values():
        assert line["status"] == "CONVERGED", line
        assert line["true_relres"] <= 1e-8
        assert line["more"]["ranks"] == 2
    # the same operator, the same cycle
    assert abs(lines["krylearn"]["iterations"] - lines["krylearn PC"]["iterations"]) <= 1
    assert lines["krylearn"]["more"]["messages"] > 0
