"""`krylearn study published` and `krylearn train`: records, the table, and when training pays."""

import argparse

import pytest
from krylearn.bench.cli import main, parser
from krylearn.bench.cli.train_command import OWN, arguments
from krylearn.bench.measure.console import UsageError
from krylearn.bench.measure.record import faults, read
from krylearn.bench.report.readme import rendered
from krylearn.bench.studies.solvers.published_methods import METHODS, RIVALS, run_published
from krylearn.bench.studies.solvers.published_table import BASELINE, HEADER, blocks, break_even, rows
from krylearn.bench.studies.tables import TABLES


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    file = tmp_path_factory.mktemp("published") / "published.jsonl"
    run_published((8, 12), seeds=1, output=file)
    return read(file)


def test_every_method_has_a_record_by_the_same_rule(lines):
    names = [m.name for m in METHODS] + [p.name for p in RIVALS]
    assert [line["method"] for line in lines] == names * 2
    for line in lines:
        assert not faults(line)
        assert line["tolerance"] == 1e-4
        if line["status"] == "CONVERGED":
            assert line["true_relres"] <= 1e-4
            assert line["solve_s"] > 0
            assert line["setup_s"] >= 0
    absent = {line["method"] for line in lines if line["status"] == "ABSENT"}
    assert absent <= {"petsc-icc", "pyamg-sa", "pyamg-rs"}


def test_ours_converge_and_trained_ones_say_for_how_long(lines):
    for line in lines:
        if line["method"] in {m.name for m in METHODS}:
            assert line["status"] == "CONVERGED", line["method"]
            weights = {m.name: m.weights for m in METHODS}[line["method"]]
            assert (line["more"].get("training_hours", 0) > 0) == bool(weights)


def test_table_has_a_row_per_method_and_a_part_per_size(lines):
    found = [line for line in lines if line["shape"][0] == 12]
    table = rows(found)
    assert all(len(row) == len(HEADER) for row in table)
    assert [row[0] for row in table] == [m.name for m in METHODS] + [p.name for p in RIVALS]
    text = rendered("<!-- table:published -->\n<!-- /table -->", {"published": lines})
    assert text.count("12 x 12 x 12") == 1
    assert "| DCDM 64 |" in text
    assert TABLES["published"][1] == "krylearn study published"


def line(method, solve, hours=None, status="CONVERGED", setup=0.5):
    more = {"rhs": "white"} | ({} if hours is None else {"training_hours": hours})
    facts = {"problem": "neumann", "shape": [8, 8, 8], "tolerance": 1e-4, "seed": 0, "iterations": 5.0}
    return {
        "method": method,
        "solve_s": solve,
        "setup_s": setup,
        "status": status,
        "peak_bytes": 10**6,
        "more": more,
    } | facts


def test_break_even_by_hand():
    lines = [line(BASELINE, 2.0), line("quick, untrained", 1.0), line("learned", 0.5, hours=1.0)]
    *_, against_cg, against_best = rows(lines)[2]
    assert against_cg == "2,400 solves"  # 3600 s / (2.5 s - 1 s)
    assert against_best == "7,200 solves"
    assert rows(lines)[1][-2:] == ["-", "-"]
    slow = rows([*lines, line("slow", 9.0, hours=0.1)])[3]
    assert slow[-2:] == ["never", "never"]
    assert break_even(1.0, None, 1.0) == "-"


def test_what_failed_has_no_numbers_and_sets_no_bar():
    lines = [line(BASELINE, 2.0), line("broken", None, status="MAXITER"), line("learned", 1.0, hours=1.0)]
    assert rows(lines)[1][1:] == ["maxiter"] + ["-"] * (len(HEADER) - 2)
    assert rows(lines)[2][-1] == "3,600 solves"
    assert "maxiter" in blocks(lines, lambda header, body: str(body))


def test_counts_carry_no_time(tmp_path):
    file = tmp_path / "counts.jsonl"
    command = ["study", "published", "--size", "8", "--seeds", "1", "--counts", "--methods", "DCDM 64", "krylearn CG"]
    assert main([*command, "--records", str(file)]) == 0
    found = read(file)
    assert [x["method"] for x in found] == ["krylearn CG", "DCDM 64"]
    assert all(x["solve_s"] is None and x["iterations"] > 0 for x in found)


# --- krylearn train ---------------------------------------------------------------------------------------------------


def test_method_is_multigrid_unless_said():
    assert parser().parse_args(["train"]).method == "multigrid"
    options = parser().parse_args(["train", "dcdm", "--grid", "64", "--dim", "3", "--ritz-vectors", "500"])
    assert arguments(options)["grid"] == 64
    assert arguments(options)["ritz_vectors"] == 500


def test_every_option_is_one_of_the_function():
    import inspect

    from krylearn.bench.cli.train_command import COMMON, _function

    for method, names in OWN.items():
        known = set(inspect.signature(_function(method)).parameters) | {"sizes"}
        if method == "steps":  # a network without a hidden layer; on the CPU alone, which the command says
            known |= {"architecture", "device"}
        assert {*names, *COMMON} <= known, method


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["dcdm", "--families", "mazes"], "got --families for dcdm"),
        (["multigrid", "--batch", "3"], "got --batch for multigrid"),
        (["npsdo", "--grid", "16", "32"], "expected one size"),
    ],
)
def test_options_of_other_methods_are_refused(command, message):
    options = parser().parse_args(["train", *command])
    assert isinstance(options, argparse.Namespace)
    with pytest.raises(UsageError, match=message):
        arguments(options)


def test_trains_from_the_command_line(tmp_path, capsys):
    command = ["train", "dcdm", "--dim", "2", "--grid", "8", "--ritz-vectors", "9", "--steps", "1"]
    assert main([*command, "--output", str(tmp_path)]) == 0
    assert (tmp_path / "dcdm-2d-64.safetensors").exists()
    assert main([*command, "--output", str(tmp_path), "--lr", "0.5", "--resume"]) == 2
    assert "learning_rate" in capsys.readouterr().err
