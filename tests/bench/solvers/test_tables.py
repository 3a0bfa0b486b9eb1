"""What the pages show of a full run: tables of the contests, why who is missing, pictures."""

import re

import pytest
from krylearn.bench.measure.record import Record
from krylearn.bench.report.readme import PICTURES, rendered
from krylearn.bench.solvers import tables as solvers_report

PNG = b"\x89PNG"


def line(method, problem="box", part="tolerance", status="CONVERGED", reason="", **facts):
    times = {"setup_s": 0.2, "solve_s": 0.1, "iterations": 6.0} if status == "CONVERGED" else {}
    record = Record(
        method, problem, facts.pop("unknowns", 512), 1e-6, status, shape=(8, 8, 8), seed=0, true_relres=1e-7,
        more={"run": "r", "part": part, "ceilings": {"copy_gbs": 20.0}} | ({"reason": reason} if reason else {}),
        **(times | facts),
    )  # fmt: skip
    return record.line()


@pytest.fixture
def lines():
    found = [line(m, p) for p in ("box", "mazes", "porous", "inclusions") for m in ("krylearn", "pyamg-rs")]
    found += [line("cholesky", status="UNSUITED", reason="a factorisation of 9 unknowns would take minutes")]
    found += [line("amgx", status="ABSENT", config="amgx is absent: build it")]
    found += [line(m, "mazes", "sizes", unknowns=n) for m in ("krylearn", "pyamg-rs") for n in (512, 4096)]
    return found + [line("krylearn", f, "families") for f in ("mazes", "porous")]


def test_every_contest_has_a_table_and_every_absence_its_reason(lines):
    text = solvers_report.contest_tables(lines)
    for problem in ("box", "mazes", "porous", "inclusions"):
        assert text.count(f"**{problem}, 8 x 8 x 8, 512 unknowns") == 1
    assert len(re.findall(r"\| krylearn \| \d+ threads? \| 0.2 s \| 0.1 s \| 6.0 \|", text)) == 4
    assert "* cholesky: a factorisation of 9 unknowns would take minutes" in text
    assert "* amgx: amgx is absent: build it" in text


def test_pictures_are_drawn_for_exactly_what_the_page_shows(lines, tmp_path):
    PICTURES["solvers"](lines, tmp_path)
    drawn = {file.name for file in tmp_path.iterdir()}
    assert drawn == {"solvers-profiles.png", "solvers-time.png", "solvers-sizes.png", "solvers-families.png"}
    assert all(file.read_bytes().startswith(PNG) for file in tmp_path.iterdir())
    assert all(f"images/{name})" in solvers_report.pictures(lines) for name in drawn)


def test_a_table_with_a_hyphen_reads_the_records_before_it(lines):
    page = "<!-- table:solvers-breakeven -->\n<!-- /table -->"
    text = rendered(page, {"solvers": lines})
    assert "| pyamg-rs | 0.2 s | 0.1 s | never |" in text
    assert text.endswith("</sub>\n<!-- /table -->")


def test_ours_is_compared_with_the_fastest_rival_that_is_as_wide():
    width = {"krylearn": "2 threads", "krylearn 1 thread": "1 thread", "amgcl": "1 thread", "hypre-pfmg": "1 rank"}
    solves = {"krylearn": 0.1, "krylearn 1 thread": 0.15, "amgcl": 0.9, "hypre-pfmg": 0.6, "hypre-pfmg-ranks": 0.35}
    found = []
    for method, solve_s in solves.items():
        one = line(method, solve_s=solve_s)
        found.append(one | {"more": one["more"] | {"width": width.get(method, "2 ranks")}})
    one, everything = solvers_report.equal_width_table(found).split("**all threads against as many threads or ranks**")
    assert "| box | 0.35 s | hypre-pfmg, 1 rank | 0.8 s | 2.3 | hypre-pfmg, 1 rank | 4.0 |" in one
    assert "| box | 0.3 s | hypre-pfmg, 2 ranks | 0.55 s | 1.8 | hypre-pfmg, 2 ranks | 3.5 |" in everything
    assert "hypre-pfmg, 2 ranks" in solvers_report.fastest_table(found)


def test_a_rival_that_was_ended_has_a_row_without_numbers():
    ended = line("hypre-smg-ranks", status="TIME") | {"true_relres": None}
    text = solvers_report.contest_tables([line("krylearn"), ended])
    assert re.search(r"\| hypre-smg-ranks \| [^|]+ \| - \| time \| - \| - \| - \| - \|", text)


def test_who_was_absent_or_not_made_for_a_system_has_not_failed_on_it():
    """Without anybody as wide as ours there is no row, instead of one that says that nobody converged."""
    found = [line("krylearn"), line("amgx", status="ABSENT", config="build it"), line("transforms", status="UNSUITED")]
    assert solvers_report.equal_width_table(found) == ""
