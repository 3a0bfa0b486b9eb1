import math

import pytest
import torch
from krylearn.optim import hessian, stability
from krylearn.optim.sharpness_meters.meters import find_update
from krylearn.optim.sharpness_meters.thresholds import momentum_threshold, threshold_of
from nets import MSE, case
from torch import nn

F64 = torch.float64


def run(make, curvature, steps=600):
    """|θ| after many steps of an optimizer on ½ curvature·θ², from θ = 1."""
    p = nn.Parameter(torch.ones(1, dtype=F64))
    optimizer = make([p])
    for _ in range(steps):
        p.grad = curvature * p.detach()
        optimizer.step()
    return float(p.detach().abs()), optimizer


OPTIMIZERS = {
    "gd": {"lr": 0.1},
    "momentum": {"lr": 0.1, "momentum": 0.9},
    "averaged": {"lr": 0.1, "momentum": 0.9, "dampening": 0.9},
    "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "weak_nesterov": {"lr": 0.3, "momentum": 0.3, "nesterov": True},
    "decayed": {"lr": 0.1, "momentum": 0.5, "weight_decay": 3.0},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torchs_own_sgd_is_stable_below_its_threshold_and_not_above(name):
    def make(p):
        return torch.optim.SGD(p, **OPTIMIZERS[name])

    limits = threshold_of(make([nn.Parameter(torch.ones(1))]))
    edge = limits.sharpness - limits.weight_decay
    assert run(make, edge * 0.97)[0] < 1e-2
    assert run(make, edge * 1.03)[0] > 1e2


def test_adam_with_a_frozen_preconditioner_is_stable_below_its_threshold_and_not_above():
    eta, beta = 0.01, 0.9
    for factor, stable in ((0.97, True), (1.03, False)):
        theta, m, curvature = 1.0, 0.0, factor * momentum_threshold(eta, beta, beta)
        for _ in range(600):
            m = beta * m + (1 - beta) * curvature * theta
            theta -= eta * m
        assert (abs(theta) < 1e-2) == stable
    limits = threshold_of(torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=eta))
    assert limits.sharpness == pytest.approx(38 / eta)
    assert limits.preconditioned


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_meter_of_a_quadratic_is_exact(name):
    _, _, (x, _) = case("mlp", MSE)
    model, y = nn.Linear(4, 1).double(), x.sum(1, keepdim=True)
    sgd = torch.optim.SGD(model.parameters(), **OPTIMIZERS[name])
    report = stability(model, sgd, (x, y), loss=MSE, rng=14009)
    top = float(torch.linalg.eigvalsh(hessian(model, MSE, (x, y)).matrix())[-1])
    decay = OPTIMIZERS[name].get("weight_decay", 0)
    assert report["sharpness"].value == pytest.approx(top + decay)
    assert report["sharpness"].low <= top + decay <= report["sharpness"].high
    assert report["sharpness"].threshold == threshold_of(sgd).sharpness
    assert report["sharpness"].headroom == pytest.approx(1 / report["sharpness"].ratio)
    assert report["batch sharpness, small batches"].value <= top + decay + 1e-9
    assert report.nearest.ratio == max(m.ratio for m in report.meters)
    assert all(line in str(report) for line in ("sharpness", "critical sharpness", "12 samples"))


def test_adams_meters_are_preconditioned_and_nothing_changes():
    model, loss, batch = case("batchnorm")
    adam = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss(model(batch[0]), batch[1]).backward()
    adam.step()
    before = [v.clone() for v in (*model.state_dict().values(), *(s["exp_avg"] for s in adam.state.values()))]
    grads = [p.grad.clone() for p in model.parameters()]
    report = stability(model, adam, batch, loss=loss, batch_size=6, batchnorm="ghost", rng=14011)
    after = [*model.state_dict().values(), *(s["exp_avg"] for s in adam.state.values())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert report["preconditioned sharpness"].threshold == pytest.approx(3800)
    assert math.isnan(report["sharpness"].threshold)
    assert report.batch_size == 6
    assert not math.isnan(report.nearest.ratio)
    with pytest.raises(KeyError, match="no meter 'entropy'"):
        report["entropy"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam"])
def test_the_find_update_is_the_step_that_is_then_taken(name):
    model, loss, batch = case("mlp")
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model(batch[0]), batch[1]).backward()
        g = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        u = find_update(optimizer, dict(model.named_parameters()), g)
        before = torch.cat([p.detach().clone().reshape(-1) for p in model.parameters()])
        optimizer.step()
        after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(before - 0.02 * u, after, rtol=1e-10, atol=1e-12)


def test_a_step_that_momentum_carries_uphill_has_no_critical_sharpness():
    p = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(p.weight, 1.0)
    sgd = torch.optim.SGD(p.parameters(), lr=0.1, momentum=0.9)
    x = torch.ones(4, 1, dtype=F64)
    sgd.state[p.weight]["momentum_buffer"] = torch.full_like(p.weight, -50.0)  # it comes from the other side
    report = stability(p, sgd, (x, 0 * x), loss=MSE, rng=1)
    meter = report["critical sharpness"]
    assert math.isnan(meter.value)
    assert "uphill" in meter.note
    assert report.nearest.name != "critical sharpness"
    sgd.state.clear()
    assert stability(p, sgd, (x, 0 * x), loss=MSE, rng=1)["critical sharpness"].value == pytest.approx(2, rel=0.1)
