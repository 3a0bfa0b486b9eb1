import json
import platform
from pathlib import Path

import pytest
from krylearn.bench.measure import machine
from krylearn.bench.measure.record import RECORDS, Record, append, faults, latest, read, records_folder

FACTS = {"problem": "open_box", "unknowns": 8, "tolerance": 1e-6}
REQUIRED = {
    "method", "version", "config", "problem", "seed", "unknowns", "dtype", "device", "threads", "tolerance", "setup_s",
    "solve_s", "iterations", "products", "true_relres", "status", "commit", "machine", "date",
}  # fmt: skip


@pytest.mark.parametrize("status", ["MAXITER", "STAGNATED", "TIME", "ABSENT"])
def test_what_did_not_converge_has_no_time(status):
    record = Record("cg", status=status, solve_s=1.0, spread_s=(1.0, 2.0), **FACTS)
    assert record.solve_s is None
    assert record.spread_s is None


def test_a_record_says_everything():
    record = Record(
        "cg", status="CONVERGED", version="1", config="plain", seed=3, solve_s=1.0, setup_s=0.1, iterations=7.5,
        products=9, true_relres=1e-7, **FACTS,
    )  # fmt: skip
    assert REQUIRED <= set(record.line())


def test_files_only_grow(tmp_path):
    file = tmp_path / "new" / "records.jsonl"
    append(file, [Record("a", status="CONVERGED", **FACTS)])
    before = file.read_text()
    append(file, [Record("b", status="CONVERGED", iterations=float("inf"), **FACTS)])
    assert file.read_text().startswith(before)
    assert [line["method"] for line in read(file)] == ["a", "b"]
    assert read(file)[1]["iterations"] is None


def test_the_last_run_counts():
    lines = [{"more": {"run": run}, "k": k} for k, run in enumerate(["old", "old", "new"])]
    assert latest(lines) == lines[2:]
    assert latest([]) == []


def test_the_machine_is_described_without_names_of_its_owner():
    text = json.dumps(machine.machine())
    assert platform.node() not in text or not platform.node()
    assert str(Path.home()) not in text
    assert machine.machine()["cores"] >= 1


def test_versions_and_threads():
    assert machine.version_of("numpy")
    assert machine.version_of("no-such-package") is None
    assert machine.threads() >= 1


def test_no_commit_is_claimed_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.commit() == ""
    assert records_folder() == Path("krylearn-records")


def test_committed_records_keep_the_rules():
    for file in sorted(RECORDS.glob("*.jsonl")):
        for line in read(file):
            assert line["more"]["run"]
            assert line["machine"]["cpu"]
            assert faults(line) == []


def test_infinity_is_null_wherever_it_stands(tmp_path):
    more = {"run": "r", "residuals": [1.0, float("inf"), float("nan")]}
    append(tmp_path / "r.jsonl", [Record("a", status="MAXITER", more=more, **FACTS)])
    assert read(tmp_path / "r.jsonl")[0]["more"]["residuals"] == [1.0, None, None]
