"""The tuner around every optimizer of torch, with the inputs of torch's own test-suite.

PyTorch's test/test_optim.py is not in its wheel; what it is fed with is (`common_optimizers.optim_db`). These tests
take that data: each optimizer, each of its configurations, through the core of what `TestOptimRenewed` checks on CPU.
"""

import copy

import pytest
import torch
from krylearn.optim import CurvatureTuner
from tuner_task import numbers_of

pytest.importorskip("expecttest", reason="torch.testing needs it: pip install expecttest")

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTORCH_TEST_WITH_SLOW", "0")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_optimizers import optim_db

pytestmark = pytest.mark.filterwarnings("ignore")
DENSE = [info for info in optim_db if info.optim_cls.__name__ not in ("LBFGS", "SparseAdam")]
CASES = [
    pytest.param(info.optim_cls, dict(each.kwargs), id=f"{info.optim_cls.__name__}-{k}")
    for info in DENSE
    for k, each in enumerate(info.optim_inputs_func("cpu"))
    if not each.kwargs.get("capturable") and not each.kwargs.get("fused")
]


class Problem:
    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.params = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in ((5, 4), (4, 3))]
        self.x = torch.randn(8, 5, generator=generator)

    def loss(self, batch):
        return (batch @ self.params[0] @ self.params[1]).square().mean()

    def step(self, optimizer):
        optimizer.zero_grad()
        self.loss(self.x).backward()
        optimizer.step()


def fresh(kwargs):
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}


def test_all_of_torch_is_covered():
    assert len({case.values[0] for case in CASES}) == len(DENSE) >= 12
    assert len(CASES) > 80


@pytest.mark.parametrize(("cls", "kwargs"), CASES)
def test_unobserved_it_steps_as_the_base_and_its_state_is_the_bases(cls, kwargs):
    plain, wrapped = Problem(), Problem()
    base, tuner = cls(plain.params, **fresh(kwargs)), CurvatureTuner(cls(wrapped.params, **fresh(kwargs)))
    for _ in range(4):
        plain.step(base)
        wrapped.step(tuner)
    assert all(torch.equal(a, b) for a, b in zip(plain.params, wrapped.params, strict=True))
    assert repr(base) in repr(tuner)
    theirs, ours = base.state_dict(), tuner.state_dict()
    assert theirs["state"].keys() == ours["state"].keys()
    assert [group.keys() - {"krylearn"} for group in ours["param_groups"]] == [g.keys() for g in theirs["param_groups"]]


@pytest.mark.parametrize(("cls", "kwargs"), CASES)
def test_a_loaded_copy_goes_the_same_way(cls, kwargs):
    first, second = Problem(), Problem()
    one, two = (CurvatureTuner(cls(each.params, **fresh(kwargs))) for each in (first, second))
    for _ in range(3):
        one.observe(first.loss, first.x)
        first.step(one)
    with torch.no_grad():
        for p, q in zip(second.params, first.params, strict=True):
            p.copy_(q)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(3):
        for each, tuner in ((first, one), (second, two)):
            tuner.observe(each.loss, each.x)
            each.step(tuner)
    assert all(torch.equal(a, b) for a, b in zip(first.params, second.params, strict=True))
    assert numbers_of(one) == pytest.approx(numbers_of(two), nan_ok=True)


@pytest.mark.parametrize("cls", [info.optim_cls for info in DENSE], ids=lambda cls: cls.__name__)
def test_any_base_is_tuned(cls):
    problem = Problem()
    start = float(problem.loss(problem.x).detach())
    tuner = CurvatureTuner(cls(problem.params, lr=1e-7))
    for _ in range(150):
        tuner.observe(problem.loss, problem.x)
        problem.step(tuner)
    assert float(problem.loss(problem.x).detach()) < 0.5 * start


def test_lbfgs_is_refused_with_a_reason():
    with pytest.raises(TypeError, match="closure"):
        CurvatureTuner(torch.optim.LBFGS(Problem().params))
