"""The training comparison: workloads that are what they say, a database that resumes, honest verdicts, the command."""

import json
import math

import pytest
import torch
from krylearn.bench.cli import main
from krylearn.bench.measure.record import faults, read
from krylearn.bench.studies.tuner import workload_data
from krylearn.bench.studies.tuner.ablation import VARIANTS
from krylearn.bench.studies.tuner.compare import compare, cost_rows, rows, summary
from krylearn.bench.studies.tuner.entrants import ours, tuned
from krylearn.bench.studies.tuner.runs import (
    SCORING,
    Database,
    Entrant,
    Outcome,
    adamw_grid,
    best_of,
    fit,
    plain,
    run_grid,
    sgd_grid,
)
from krylearn.bench.studies.tuner.tables import draw, loss_table, robustness_table
from krylearn.bench.studies.tuner.workload_data import DataError
from krylearn.bench.studies.tuner.workloads import WORKLOADS, mean_loss, schedule
from krylearn.optim import TunerConstants

QUADRATIC = WORKLOADS["quadratic"]


def task_or_skip(work):
    try:
        return work.task(0)
    except DataError as error:
        pytest.skip(str(error))


def test_ten_workloads_five_of_them_for_design():
    assert len(WORKLOADS) == 10
    assert [work.purpose for work in WORKLOADS.values()].count("design") == 5
    assert [work.purpose for work in WORKLOADS.values()].count("judgement") == 5


@pytest.mark.parametrize("work", WORKLOADS.values(), ids=lambda work: work.name)
def test_a_workload_is_seeded_and_trains(work):
    task, again = task_or_skip(work), work.task(0)
    (x, y), (u, v) = next(work.batches(task, 3)), next(work.batches(again, 3))
    assert torch.equal(x, u)
    assert torch.equal(y, v)
    assert len(x) == work.batch
    before = mean_loss(task, (x, y))
    assert before == mean_loss(again, (x, y))
    sgd = torch.optim.SGD(task.model.parameters(), lr=0.01 * work.sgd, momentum=0.9)
    for _ in range(8):
        sgd.zero_grad()
        task.loss(task.model(x), y).backward()
        sgd.step()
    assert mean_loss(task, (x, y)) < before


def test_training_and_validation_data_are_disjoint():
    for source in (workload_data.text, workload_data.mnist1d, workload_data.ratings):
        (x, _), (u, _) = workload_data.split(source())
        rows_of = [{tuple(row.reshape(-1).tolist()) for row in part} for part in (x, u)]
        shared = len(rows_of[0] & rows_of[1])
        assert shared <= 0.002 * len(u)  # the text repeats itself here and there


def test_changed_data_are_refused(monkeypatch):
    monkeypatch.setitem(workload_data.SHA256, "topics", "0" * 64)
    workload_data.text.cache_clear()
    with pytest.raises(DataError, match="expected 0000"):
        workload_data.text()
    workload_data.text.cache_clear()


def test_the_quadratics_optimum_is_known():
    task = QUADRATIC.task(0)
    with torch.no_grad():
        task.model.theta.zero_()  # E x = 0
    x, y = task.train
    loss = task.loss(task.model(x), y)
    (slope,) = torch.autograd.grad(loss, [task.model.theta])
    assert float(slope.norm()) < 1e-4
    assert mean_loss(task, task.validation) == 0.0
    H = torch.autograd.functional.hessian(
        lambda t: 0.5 * (task.model.root * (task.model.turn @ t)).square().sum(), x[0]
    )
    values = torch.linalg.eigvalsh(H)
    assert float(values[-1]) == pytest.approx(10, rel=1e-4)
    assert float(values[-1] / values[0]) == pytest.approx(48**1.5, rel=1e-2)


def test_grids_have_fifteen_points_each():
    for grid in (sgd_grid, adamw_grid):
        assert len({point.config for point in grid(QUADRATIC)}) == 15


def test_the_schedule_ends_at_zero():
    assert schedule(0, 7) == 1
    assert schedule(7, 7) == pytest.approx(0)


def test_a_database_resumes_and_never_edits(tmp_path):
    path, calls = tmp_path / "runs.jsonl", []

    def run(work, seed):
        calls.append(seed)
        return Outcome(math.nan if seed == 2 else 0.5, 0.4, 10)

    entrant = Entrant("m", "c", run)
    Database(path).fill(QUADRATIC, entrant, (0, 1))
    first = path.read_text()
    Database(path).fill(QUADRATIC, entrant, (0, 1, 2))
    assert calls == [0, 1, 2]
    assert path.read_text().startswith(first)
    assert json.loads(path.read_text().splitlines()[-1])["val"] is None


def test_the_best_of_a_grid_is_chosen_on_other_seeds_than_it_is_scored_on(tmp_path, monkeypatch):
    from krylearn.bench.studies.tuner import runs as training_runs

    points = [
        Entrant("SGD", name, lambda work, seed, val=val: Outcome(val if seed < 10 else 9.0, 0.0, 1))
        for name, val in (("a", 2.0), ("b", 1.0), ("c", math.nan))
    ]
    monkeypatch.setattr(training_runs, "sgd_grid", lambda work: iter(points))
    runs = Database(tmp_path / "runs.jsonl")
    run_grid(runs, QUADRATIC, "SGD")
    assert best_of(runs, QUADRATIC, "SGD") == "b"
    assert {line["seed"] for line in runs.select("quadratic", "SGD", "b")} == {0, 1, *SCORING}
    assert {line["seed"] for line in runs.select("quadratic", "SGD", "a")} == {0, 1}


def test_a_run_that_diverges_stops():
    task = QUADRATIC.task(0)
    assert fit(QUADRATIC, task, torch.optim.SGD(task.model.parameters(), lr=1e6), 0, steps=500) < 60


def test_the_tuner_is_charged_for_all_it_does():
    out = tuned("SGD")(QUADRATIC, 0)
    assert QUADRATIC.steps <= out.steps + out.extra < QUADRATIC.steps + 8
    assert out.extra > 10
    untuned = plain(lambda parameters: torch.optim.SGD(parameters, lr=1e-4))(QUADRATIC, 0)
    assert out.val < 0.02 * untuned.val


@pytest.mark.parametrize(
    ("mine", "grid", "verdict"),
    [
        ([1.0, 1.1, 1.0], [1.0, 1.1, 1.05], "within 2 %"),
        ([1.3, 1.0, 1.2], [1.0, 1.1, 1.1], "not worse"),
        ([1.3, 1.4, 1.5], [1.0, 1.1, 1.1], "worse"),
        ([math.nan, 1.0, 1.0], [1.0, 1.0, 1.0], "worse"),
        ([1.0, 1.0, 1.0], [math.nan, 1.0, 1.0], "within 2 %"),
    ],
)
def test_verdicts(mine, grid, verdict):
    assert compare(mine, grid)["verdict"] == verdict


def test_the_command_fills_a_database_and_the_tables(tmp_path, capsys):
    database, records = tmp_path / "runs.jsonl", tmp_path / "training.jsonl"
    command = ["study", "training", "--workloads", "tabular", "--stages", "tuner", "--database", str(database)]
    assert main([*command[:3], "quadratic", *command[4:], "--records", str(records)]) == 0
    assert len(Database(database).lines) == 2 * len(SCORING)
    lines = read(records)
    assert all(not faults(line) for line in lines)
    assert [line["method"] for line in lines] == ["tuner AdamW", "tuner SGD"]
    assert "quadratic (design)" in loss_table(lines)
    assert cost_rows(lines)[0][0] == "quadratic (design)"
    assert rows(lines, "train")[0][2] != "-"
    assert robustness_table(lines)
    draw(lines, tmp_path)
    assert (tmp_path / "training.png").stat().st_size > 5000
    before = database.read_text()
    assert main([*command[:3], "quadratic", *command[4:], "--records", str(records)]) == 0
    assert database.read_text() == before
    assert "quadratic" in capsys.readouterr().out


def test_an_unknown_workload_is_refused(capsys):
    assert main(["study", "training", "--workloads", "imagenet"]) == 2
    assert "imagenet" in capsys.readouterr().err


def test_a_summary_needs_all_scoring_seeds(tmp_path):
    runs = Database(tmp_path / "runs.jsonl")
    entrant = next(ours())
    for seed in SCORING[:2]:
        runs.add("quadratic", entrant.method, entrant.config, seed, Outcome(0.1, 0.2, 10), 1.0)
    assert summary(runs, "r") == []
    runs.add("quadratic", entrant.method, entrant.config, SCORING[2], Outcome(0.1, 0.2, 10), 1.0)
    assert [record.method for record in summary(runs, "r")] == ["tuner SGD"]


@pytest.mark.parametrize("base", VARIANTS)
def test_every_ablation_changes_a_constant_that_exists(base):
    plain = VARIANTS[base]["as it is"]
    others = [constants for name, constants in VARIANTS[base].items() if name != "as it is"]
    assert plain == TunerConstants()
    assert plain not in others
    assert len(set(others)) == len(others)
