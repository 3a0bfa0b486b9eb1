"""Runs far longer than the start: every phase and every measurement is reached, around every kind of base."""

import warnings

import pytest
import torch
from krylearn.optim import CurvatureTuner, TunerWarning
from tuner_task import Task, train

optim = torch.optim
BASES = {
    "sgd": lambda p: optim.SGD(p, lr=1.0),
    "heavy ball": lambda p: optim.SGD(p, lr=1.0, momentum=0.9),
    "nesterov": lambda p: optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True),
    "adamw": lambda p: optim.AdamW(p, lr=1.0),
    "rmsprop with momentum": lambda p: optim.RMSprop(p, lr=1.0, momentum=0.9),
    "nadam": lambda p: optim.NAdam(p, lr=1.0),
    "muon": lambda p: optim.Muon([w for w in p if w.ndim == 2], lr=1.0),
    "adafactor": lambda p: optim.Adafactor(p, lr=1.0),
    "adagrad": lambda p: optim.Adagrad(p, lr=1.0),
    "rprop": lambda p: optim.Rprop(p, lr=1.0),
}


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
    assert tuner.facts.steps == 2500
    assert task.final() < 0.5 * start
    assert tuner.spent <= 0.1 * 2500
    if tuner._loop.own_momentum and tuner._loop.heavy:
        assert "spectrum" in {row["event"] for row in tuner.history}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_ten_thousand_steps(name):
    task, tuner, start, told = run(BASES[name], 10_000)
    assert not [text for text in told if "could not" in text]
    assert tuner.facts.steps == 10_000
    assert task.final() < 0.5 * start


@pytest.mark.parametrize(
    "error", [KeyError("loss"), AttributeError("loss"), TypeError("no"), OSError("disk"), IndexError("far")]
)
@pytest.mark.parametrize("step", [0, 5, 60])
def test_any_exception_of_the_loss_is_a_warning_that_names_it(error, step):
    task = Task()
    tuner = CurvatureTuner(optim.SGD(task.model.parameters(), lr=0.05))

    def broken(batch):
        raise error

    train(task, tuner, 0, step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(step, step + 21):
            train(task, tuner, k, k + 1, loss_fn=broken)
    told = [str(each.message) for each in caught if each.category is TunerWarning]
    assert any(type(error).__name__ in text and "in broken" in text for text in told)
    assert tuner.facts.steps == step + 21
