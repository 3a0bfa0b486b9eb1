"""Runs far longer than the start: every phase and every measurement is reached, around every kind of base."""

import warnings

import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerWarning
from tuner_task import BASES, Task, train


def run(make, steps, **options):
    task = Task()
    start = task.final()
    tuner = CurvatureTuner(make(list(task.model.parameters())), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(task, tuner, 0, steps)
    return task, tuner, start, [str(each.message) for each in caught]


@pytest.mark.parametrize("name", BASES)
def test_every_measurement_of_a_long_run_succeeds(name):
    task, tuner, start, told = run(BASES[name], 2500)
    assert not [text for text in told if "could not" in text]
    assert tuner.tuning.steps == 2500
    assert task.final() < 0.5 * start
    assert tuner.spent <= 0.1 * 2500
    if tuner._session.base.learns_momentum and tuner._session.base.heavy:
        assert "spectrum" in {row["event"] for row in tuner.history}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_ten_thousand_steps(name):
    task, tuner, start, told = run(BASES[name], 10_000)
    assert not [text for text in told if "could not" in text]
    assert tuner.tuning.steps == 10_000
    assert task.final() < 0.5 * start


@pytest.mark.parametrize(
    "error", [KeyError("loss"), AttributeError("loss"), TypeError("no"), OSError("disk"), IndexError("far")]
)
@pytest.mark.parametrize("step", [0, 5, 60])
def test_any_exception_of_the_loss_is_a_warning_that_names_it(error, step):
    task = Task()
    tuner = CurvatureTuner(torch.optim.SGD(task.model.parameters(), lr=0.05))

    def broken(batch):
        raise error

    train(task, tuner, 0, step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(step, step + 21):
            train(task, tuner, k, k + 1, loss_fn=broken)
    told = [str(each.message) for each in caught if each.category is TunerWarning]
    assert any(type(error).__name__ in text and "in broken" in text for text in told)
    assert tuner.tuning.steps == step + 21
