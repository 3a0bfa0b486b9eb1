import pytest
from krylearn.bench.measure.console import UsageError
from krylearn.bench.measure.record import Record, append
from krylearn.bench.report import readme as report
from krylearn.bench.solvers.families import WEIGHTS, means, summary

PAGE = "before\n<!-- table:families -->\nold\n<!-- /table -->\nafter\n"


def line(family, weights, iterations, status="CONVERGED", run="r"):
    record = Record(
        f"krylearn {weights}", family, 512, 1e-6, status, iterations=iterations, shape=(8, 8, 8), seed=0,
        true_relres=1e-7, more={"run": run},
    )  # fmt: skip
    return record.line()


def family_lines(run="r"):
    return [line("mazes", weights, value, run=run) for weights, value in zip(WEIGHTS, (14, 12, 11, 9.25), strict=True)]


def test_tables_are_filled_between_their_markers():
    page = report.rendered(PAGE, {"families": family_lines()})
    assert page.startswith("before\n<!-- table:families -->\n")
    assert page.endswith("<!-- /table -->\nafter\n")
    assert "old" not in page
    assert "| mazes | 14.0 | 12.0 | 11.0 | 9.2 | -1.8 |" in page
    assert "`krylearn bench families`" in page


def test_rendering_twice_changes_nothing():
    once = report.rendered(PAGE, {"families": family_lines()})
    assert report.rendered(once, {"families": family_lines()}) == once


def test_only_the_last_run_is_shown():
    page = report.rendered(PAGE, {"families": [line("old_family", "learned", 3.0, run="a"), *family_lines("b")]})
    assert "old_family" not in page


def test_losses_and_failures_are_shown():
    rows = summary([line("mazes", "geometric", 5.0), line("mazes", "learned", 9.0)])
    assert rows == [["mazes", "5.0", "-", "-", "9.0", "+4.0", "-"]]
    failed = [line("mazes", "geometric", 5.0), line("mazes", "geometric", None, status="MAXITER")]
    assert means(failed)["mazes"]["geometric"] is None


def test_an_unknown_table_is_an_error():
    with pytest.raises(UsageError, match="nonsense"):
        report.rendered(PAGE.replace("families", "nonsense"), {})


def test_report_writes_the_page_and_check_notices_a_difference(tmp_path, capsys):
    (tmp_path / "README.md").write_text(PAGE)
    records = [Record("krylearn learned", "mazes", 512, 1e-6, "CONVERGED", iterations=9.0, shape=(8, 8, 8), seed=0)]
    records[0].more = {"run": "r"}
    append(tmp_path / "bench" / "studies" / "records" / "families.jsonl", records)
    assert report.write_report(tmp_path, check=True) == 1
    assert (tmp_path / "README.md").read_text() == PAGE
    assert report.write_report(tmp_path) == 0
    assert report.write_report(tmp_path, check=True) == 0
    assert (tmp_path / "docs" / "images" / "families.png").exists()


def test_report_needs_a_checkout(tmp_path):
    with pytest.raises(UsageError, match=r"no README\.md"):
        report.write_report(tmp_path)


def test_the_demo_is_published_as_the_picture_of_the_readme(tmp_path):
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "summary.png").write_bytes(b"png")
    report.publish_demo(tmp_path, tmp_path)
    assert (tmp_path / "docs" / "images" / "demo.png").read_bytes() == b"png"
