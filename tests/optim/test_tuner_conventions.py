"""Our tuner keeps the conventions of torch and Lightning, around SGD and AdamW; and the suite can fail."""

import pytest
import torch
from krylearn.optim.testing import Subject, conventions
from krylearn.optim.tuner import CurvatureTuner


def sgd(params, **options):
    return torch.optim.SGD(params, **{"lr": 0.1} | options)


def adamw(params, **options):
    return torch.optim.AdamW(params, **{"lr": 0.1} | options)


def observe(tuner, loss_fn, batch):
    if isinstance(tuner, CurvatureTuner):
        tuner.observe(loss_fn, batch)


SUBJECTS = {
    name: Subject(wrap=CurvatureTuner, base=base, observe=observe) for name, base in (("sgd", sgd), ("adamw", adamw))
}


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("convention", conventions(lightning=False), ids=str)
def test_tuner_keeps(convention, name):
    convention.check(SUBJECTS[name])
