"""Our tuner keeps the conventions of torch and Lightning, around SGD and AdamW; and the suite can fail."""

import copy

import pytest
import torch
from krylearn.optim import CurvatureTuner
from krylearn.optim.callbacks import TuneFromCurvature
from krylearn.optim.testing import Subject, conventions

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")


def sgd(params, **options):
    return torch.optim.SGD(params, **{"lr": 0.1} | options)


def adamw(params, **options):
    return torch.optim.AdamW(params, **{"lr": 0.1} | options)


def observe(tuner, loss_fn, batch):
    if isinstance(tuner, CurvatureTuner):
        tuner.observe(loss_fn, batch)


def subject(base):
    return Subject(wrap=CurvatureTuner, base=base, observe=observe, callbacks=lambda: [TuneFromCurvature()])


SUBJECTS = {"sgd": subject(sgd), "adamw": subject(adamw)}
ALL = conventions()


def test_the_suite_has_twenty_and_nineteen():
    numbers = [each.number for each in ALL]
    assert numbers == [f"T{k}" for k in range(1, 21)] + [f"L{k}" for k in range(1, 20)]


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("convention", ALL, ids=str)
def test_tuner_keeps(convention, name):
    convention.check(SUBJECTS[name])


class Duck:
    """What many wrappers are: the base's things under other names, aliased, without __init__."""

    def __init__(self, base):
        self.base, self.param_groups, self.state, self.defaults = base, base.param_groups, base.state, {}

    def step(self, closure=None):
        if closure is not None:
            closure()
            closure()
        for group in self.param_groups:
            group["lr"] *= 0.5
        self.base.step()

    def state_dict(self):
        return {"base": self.base.state_dict(), "function": copy.copy}

    def load_state_dict(self, state):
        self.base.load_state_dict(state["base"])

    def zero_grad(self):
        self.base.zero_grad()


@pytest.mark.parametrize("number", ["T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T10", "T12", "T13", "T16", "T18"])
def test_a_careless_wrapper_fails(number):
    (convention,) = (each for each in ALL if each.number == number)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever torch says to it
        convention.check(Subject(wrap=Duck, base=sgd))
