"""Pieces across ranks are those of one process, bit for bit, whatever the cuts."""

import pytest
from ranks import cases_of, needs_petsc

pytestmark = needs_petsc


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_partition_weights_and_first_graph_are_those_of_one_process(ranks):
    lines = cases_of(ranks)["pieces_cases"]
    assert len(lines) == 8
    for line in lines:
        assert line["differ"] == [[]] * ranks, line
    if ranks == 4:  # else this says little
        assert all(line["box"] < line["grid"] for line in lines), lines
