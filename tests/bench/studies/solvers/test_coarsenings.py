"""The study of coarsenings counts what `cg` counts, and says "-" where a method failed."""

import pytest
from krylearn.bench.studies.solvers.coarsenings import METHODS, TOLERANCES, build, measure, summary
from krylearn.solvers import cg


@pytest.mark.parametrize("method", ["pieces", "default", "network"])
def test_iterations_are_those_of_cg(method):
    A, b = build("stretched_1.3", (12, 12, 12), 1)
    weights = {"default": None, "pieces": "untrained pieces"}.get(method, method)
    for record, rtol in zip(measure("stretched_1.3", (12, 12, 12), 1, method), TOLERANCES, strict=True):
        _, info = cg(A, b, rtol=rtol, M=weights)
        assert abs(record.iterations - info.iterations) <= 1
        assert record.true_relres <= 1e-8


def test_a_failure_on_any_seed_shows():
    good = {"problem": "mazes", "method": "krylearn pieces", "iterations": 9.0, "status": "CONVERGED"}
    lines = [good | {"tolerance": rtol} for rtol in TOLERANCES]
    bad = good | {"tolerance": 1e-8, "status": "MAXITER", "iterations": None}
    cell = 1 + METHODS.index("pieces")
    assert summary(lines)[0][cell] == "9.0 / 9.0"
    assert summary([*lines, bad])[0][cell] == "9.0 / -"
