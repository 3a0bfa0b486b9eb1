"""A system whose arrays no single process holds; what two ranks take of what one does."""

from ranks import lines_of, needs_petsc

pytestmark = needs_petsc
CELLS, LIMIT = 144, 440  # MB of data beyond those of a process that has solved a small system


def test_two_ranks_solve_what_one_process_cannot_hold():
    (alone,) = lines_of(1, "memory_program.py", CELLS, "serial")
    (failed,) = lines_of(1, "memory_program.py", CELLS, "serial", LIMIT, check=False)
    ranks = lines_of(2, "memory_program.py", CELLS, "ranks", LIMIT)
    assert alone["converged"]
    assert "failed" in failed, failed
    assert len(ranks) == 2
    for line in ranks:
        assert line["converged"], line
        assert abs(line["iterations"] - alone["iterations"]) <= 1
        assert line["peak"] <= 1.4 * alone["peak"] / 2, (line, alone)
