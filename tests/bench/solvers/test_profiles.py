"""Profiles and mean ratios against their definitions; a run that goes on where it stopped."""

import math

import pytest
from krylearn.bench.measure.record import Record, read
from krylearn.bench.show import profiles
from krylearn.bench.solvers import compare, tables

PNG = b"\x89PNG"


def line(method, problem, seconds, part="tolerance", **facts):
    status = "CONVERGED" if seconds else "MAXITER"
    record = Record(
        method, problem, 512, facts.pop("tolerance", 1e-6), status, shape=(8, 8, 8), seed=0, true_relres=1e-13,
        setup_s=0.0, solve_s=seconds, more={"run": "r", "part": part}, **facts,
    )  # fmt: skip
    return record.line()


@pytest.fixture
def lines():
    times = {"krylearn": (1.0, 1.0, 4.0), "a": (2.0, 8.0, 1.0), "b": (3.0, None, 2.0)}
    return [line(m, p, s) for m, each in times.items() for p, s in zip("xyz", each, strict=True)]


def test_ratios_are_to_the_best_on_each_system_and_failure_is_infinite(lines):
    assert profiles.best_ratios(lines) == {
        "krylearn": [1.0, 1.0, 4.0], "a": [2.0, 8.0, 1.0], "b": [3.0, math.inf, 2.0],
    }  # fmt: skip


def test_on_every_system_somebody_is_the_best(lines):
    ratios = profiles.best_ratios(lines)
    assert all(min(each) == 1.0 for each in zip(*ratios.values(), strict=True))


def test_two_machines_are_two_systems(lines):
    other = [
        x | {"machine": x["machine"] | {"cpu": "another"}, "solve_s": x["solve_s"] and 7 * x["solve_s"]} for x in lines
    ]
    both = profiles.best_ratios([*lines, *other])
    assert both["krylearn"] == 2 * profiles.best_ratios(lines)["krylearn"]


def test_the_mean_ratio_of_a_pair_and_its_inverse_are_inverse(lines):
    there = profiles.mean_ratio(profiles.ratios_to(lines, "krylearn", "a"))
    back = profiles.mean_ratio(profiles.ratios_to(lines, "a", "krylearn"))
    assert there[0] == pytest.approx((2 * 8 / 4) ** (1 / 3))
    assert [1 / v for v in there] == pytest.approx([back[0], back[2], back[1]], rel=0.05)
    assert there[1] <= there[0] <= there[2]


def test_tables_and_pictures_show_them(lines):
    table = tables.profile_table(lines)
    assert "| a | 1 of 3 | 2 of 3 | 3 of 3 | 3 of 3 | 1.6 (0.2-8.0) | 1.6 (0.2-8.0) |" in table
    assert "| b | 0 of 3 | 1 of 3 | 2 of 3 | 2 of 3 |" in table
    assert profiles.draw_profiles(lines).startswith(PNG)
    digits = [line("krylearn", "x", s, "accuracy", tolerance=t) for s, t in ((1.0, 1e-3), (2.0, 1e-6))]
    assert profiles.draw_accuracy(digits).startswith(PNG)


def test_equal_width_is_ours_on_one_thread_against_the_fastest_rival(lines):
    own = [line("krylearn 1 thread", p, 2.0, threads=1) for p in "xyz"]
    rows = tables.equal_width_table([*lines, *own]).splitlines()[4:]
    assert rows[0] == "| x | 2 s | a, 1 thread | 2 s | 1.0 | a, 1 thread | 1.0 |"
    assert rows[2] == "| z | 2 s | a, 1 thread | 1 s | 0.5 | a, 1 thread | 0.5 |"
    assert rows[3] == "| geometric mean of 3 |  |  |  | 1.3 |  | 1.3 |"


def test_the_fastest_rival_of_every_family_and_failures_of_either_side(lines):
    failed = [line("krylearn", "q", None, "rivals"), line("a", "q", 2.0, "rivals")]
    lost = [line("krylearn", "r", 2.0, "rivals"), line("a", "r", None, "rivals")]
    table = tables.fastest_table([*lines, *failed, *lost]).splitlines()[4:]
    assert table == [
        "| q | maxiter | a, 1 thread | 2 s | - | a, 1 thread | - |",
        "| r | 2 s | none converged | - | - | none converged | - |",
    ]
    assert tables.fastest_table(lines).splitlines()[4].startswith("| x | 1 s | a, 1 thread | 2 s | 2.0 |")


def test_a_run_in_two_parts_measures_everything_once(tmp_path, monkeypatch):
    methods = ("krylearn", "krylearn 1 thread", "scipy-cg")
    small = [compare.Job(p, "open_box", 6, methods, 1) for p in ("tolerance", "sizes")]
    monkeypatch.setattr(compare, "jobs", lambda quick, added: small)
    file = tmp_path / "r.jsonl"
    compare.run_solvers(minutes=0.0, output=file)
    assert [x["more"]["part"] for x in read(file)] == 3 * ["tolerance"]
    compare.run_solvers(resume=True, output=file)
    found = read(file)
    assert [x["more"]["part"] for x in found] == 3 * ["tolerance"] + 3 * ["sizes"]
    assert len({x["more"]["run"] for x in found}) == 1
    assert {x["method"]: x["threads"] for x in found}["krylearn 1 thread"] == 1


def test_a_rival_that_would_not_fit_says_so(monkeypatch):
    monkeypatch.setattr(compare, "free_bytes", lambda: 10_000)
    problem = compare.scene_problem("open_box", 8)
    found = {r.method: r for r in compare.measure(problem, ["krylearn", "pyamg-rs"], rtol=1e-6, pairs=1)}
    assert found["krylearn"].status == "CONVERGED"
    assert found["pyamg-rs"].status == "UNSUITED"
    assert "GB are free" in found["pyamg-rs"].more["reason"]


def test_rivals_are_ordered_by_their_mean_over_all_systems(lines):
    assert tables.means_table(lines).splitlines()[2:] == [
        "| b, 1 thread | 2 of 3 | 1.2 (0.5-3.0) | 1.2 (0.5-3.0) |",
        "| a, 1 thread | 3 of 3 | 1.6 (0.2-8.0) | 1.6 (0.2-8.0) |",
    ]
