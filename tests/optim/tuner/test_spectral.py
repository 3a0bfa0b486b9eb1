"""Curvature that the tuner measures, what it leaves unchanged, and the published policy."""

import copy

import pytest
import torch
from krylearn.optim import CurvatureTuner
from krylearn.optim.side_effects import undisturbed
from krylearn.optim.tuner import spectral as policies
from krylearn.optim.tuner.hold import measure_sharpness
from krylearn.optim.tuner.loss import LossSource, dot
from torch import nn
from tuner_task import Task, sgd


def test_sharpness_is_the_top_eigenvalue():
    task = Task(dtype=torch.float64)
    source = LossSource(task.loss, task.batch(0))
    owned = list(task.model.parameters())
    sizes = [p.numel() for p in owned]
    product = source.products(owned)
    eye = torch.eye(sum(sizes), dtype=torch.float64)
    rows = [product([x.reshape(p.shape) for x, p in zip(row.split(sizes), owned, strict=True)]) for row in eye]
    H = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    assert torch.allclose(H, H.T, atol=1e-10)
    tuner = CurvatureTuner(sgd(task))
    for _ in range(30):
        measure_sharpness(tuner._session, LossSource(task.loss, task.batch(0)))
    assert tuner.tuning.curvature.sharpness == pytest.approx(float(torch.linalg.eigvalsh(H).abs().max()), rel=1e-3)


def test_products_by_differences_agree():
    task = Task(dtype=torch.float64)
    owned = list(task.model.parameters())
    source = LossSource(task.loss, task.batch(0))
    generator = torch.Generator().manual_seed(1)
    v = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in owned]
    exact, near = source.products(owned)(v), source.difference(owned, v)
    gap = [a - b for a, b in zip(exact, near, strict=True)]
    assert dot(gap, gap) < 1e-8 * dot(exact, exact)


def test_looking_changes_neither_running_statistics_nor_random_numbers():
    task = Task(batchnorm=True)
    norm = task.model[1]
    before = copy.deepcopy(norm.state_dict())
    torch_state = torch.get_rng_state()
    LossSource(lambda batch: task.loss(batch) + nn.functional.dropout(torch.ones(3)).sum(), task.batch(0)).value()
    with undisturbed():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_the_published_policy_sets_lr_and_momentum_of_a_quadratic():
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    curvature = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    tuner = CurvatureTuner(torch.optim.SGD([w], lr=5.0), "granziol")
    tuner.observe(lambda batch: 0.5 * (curvature * w**2).sum(), None)
    assert tuner.lr == pytest.approx((2 / (3 + 1)) ** 2)
    assert tuner.momentum == pytest.approx(((3 - 1) / (3 + 1)) ** 2)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_published_policy_has_units(factor):
    values, weights = [0.0, 0.1, 3.0, -1.0], [0.8, 0.1, 0.05, 0.05]
    for variant in policies.VARIANTS:
        one = policies.granziol(values, weights, variant)
        other = policies.granziol([factor * v for v in values], weights, variant)
        assert other.lr == pytest.approx(one.lr / factor)
        assert other.momentum == (one.momentum if one.momentum is None else pytest.approx(one.momentum))


def test_a_split_cluster_does_not_give_momentum_one():
    values, weights = [1e-9, 2e-9, 1.0, 4.0], [0.45, 0.45, 0.05, 0.05]
    assert policies.granziol(values, weights).momentum == pytest.approx(((2 - 1) / (2 + 1)) ** 2)
