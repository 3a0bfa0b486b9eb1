import math

import pytest
import torch
from krylearn.optim import (
    GradientNoise,
    batch_sharpness,
    critical_sharpness,
    gradient_noise_scale,
    hessian,
    hessian_noise,
    preconditioned,
    sharpness,
    slq,
)  # fmt: skip
from krylearn.optim.batch_noise.noise import noise_estimates
from nets import CE, MSE, case
from torch import nn

F64 = torch.float64


def noisy_quadratic(n, samples, seed, spread=0.3):
    """½ mean_i (θ-cᵢ)ᵀ Aᵢ (θ-cᵢ) as a model that returns its loss: per-sample Hessians Aᵢ and gradients are known."""
    g = torch.Generator().manual_seed(seed)
    base = torch.diag(torch.cat([torch.tensor([8.0], dtype=F64), torch.linspace(0, 1, n - 1, dtype=F64)]))
    e = torch.randn(samples, n, n, generator=g, dtype=F64) * spread
    A = base + (e + e.mT) / 2**0.5
    c = torch.randn(samples, n, generator=g, dtype=F64)

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.ones(n, dtype=F64))

        def forward(self, A, c):
            d = self.theta - c
            return (torch.einsum("bi,bij,bj->b", d, A, d) / 2).mean()

    return Quadratic(), A, c


def test_estimates_are_unbiased_over_micro_batches():
    g = torch.Generator().manual_seed(11003)
    mean, n, s, trials = torch.full((5,), 0.5, dtype=F64), 6, 4, 4000
    draws = mean + torch.randn(trials, n, s, 5, generator=g, dtype=F64) * torch.tensor([1, 2, 0.5, 0.1, 1.0])
    small = draws.mean(2)
    found = [noise_estimates(s, float(x.square().sum(1).mean()), n * s, float(x.mean(0).square().sum())) for x in small]
    signal, trace = torch.tensor(found, dtype=F64).T
    for values, truth in ((signal, 1.25), (trace, 1 + 4 + 0.25 + 0.01 + 1)):
        assert abs(float(values.mean()) - truth) < 5 * float(values.std()) / trials**0.5  # false alarm: 6e-7


def test_ratio_of_means_is_not_a_mean_of_ratios():
    noise, ratios = GradientNoise(decay=0.999), []
    g = torch.Generator().manual_seed(11027)
    for _ in range(4000):
        x = 0.3 + torch.randn(4, 8, generator=g, dtype=F64)
        small, big = float(x.square().sum(1).mean()), float(x.mean(0).square().sum())
        noise.update(1, small, 4, big)
        signal, trace = noise_estimates(1, small, 4, big)
        ratios.append(trace / signal)
    truth = 8 / (8 * 0.09)
    assert noise.scale == pytest.approx(truth, rel=0.15)
    assert not sum(ratios) / len(ratios) == pytest.approx(truth, rel=0.15)


def test_running_noise_resumes_exactly_and_skips_what_is_not_finite():
    one, two = GradientNoise(0.9), GradientNoise()
    for value in (5.0, 6.0, math.nan, 7.0):
        one.update(1, value, 4, 2.0)
    assert one.updates == 3
    two.load_state_dict(one.state_dict())
    one.update(1, 5.5, 4, 2.5)
    two.update(1, 5.5, 4, 2.5)
    assert (one.scale, one.trace, one.signal) == (two.scale, two.trace, two.signal)
    assert math.isnan(GradientNoise().scale)
    nothing = GradientNoise()
    nothing.update(1, 4.0, 4, 0.5)
    assert nothing.scale == math.inf  # the mean gradient has drowned


def test_gradient_noise_scale_with_micro_batches_of_one_is_the_sample_variance():
    model, A, c = noisy_quadratic(6, 40, 11047)
    G = torch.einsum("bij,bj->bi", A, 1 - c)
    measured = gradient_noise_scale(model, None, (A, c), micro_batch=1)
    assert measured.trace == pytest.approx(float(G.var(0).sum()))
    assert measured.signal == pytest.approx(float(G.mean(0).square().sum() - G.var(0).sum() / 40))
    assert measured.scale == pytest.approx(measured.trace / measured.signal)
    with pytest.raises(ValueError, match="at least 2"):
        gradient_noise_scale(model, None, (A, c), micro_batch=30)


def test_hessian_noise_is_the_variance_of_the_sample_hessians():
    n = 12
    model, A, c = noisy_quadratic(n, 60, 11057)
    H = hessian(model, None, (A, c), micro_batch=1, keep_graph=True)
    noise = hessian_noise(H, direction=torch.eye(n, dtype=F64)[0], probes=30, rng=11059)
    # E_z over unit z of ‖(Aᵢ - Ā)z‖² = ‖Aᵢ - Ā‖²_F / n
    frobenius = float((A - A.mean(0)).square().sum((1, 2)).mean()) * 60 / 59 / n
    assert noise.total == pytest.approx(frobenius, rel=0.25)
    across = A[:, 1:, 0]
    assert noise.along == pytest.approx(float(across.var(0).sum()))
    assert noise.samples == 60
    bigger = hessian_noise(hessian(model, None, (A, c), micro_batch=4, keep_graph=True), probes=30, rng=11069)
    assert bigger.total == pytest.approx(frobenius, rel=0.6)  # 15 micro-batches; noise per sample, not per micro-batch


def test_noise_along_the_top_vector_predicts_the_sharpness_of_batches():
    n, size = 30, 8
    model, A, c = noisy_quadratic(n, 800, 11071, spread=1.0)
    half = slice(0, 400), slice(400, 800)
    whole = slq(hessian(model, None, (A[half[0]], c[half[0]])), steps=30, probes=1, rng=5, vectors=True)
    parts = hessian(model, None, (A[half[1]], c[half[1]]), micro_batch=size)
    noise = hessian_noise(parts, direction=whole.top_vector, rng=11083)
    tops = torch.linalg.eigvalsh(A[half[1]].reshape(-1, size, n, n).mean(1))[:, -1]
    predicted = whole.max + noise.along / (size * whole.max)
    assert float(tops.mean()) - whole.max > 0.2
    assert predicted == pytest.approx(float(tops.mean()), abs=5 * float(tops.std()) / len(tops) ** 0.5)


def test_batch_sharpness_is_the_mean_rayleigh_quotient():
    model, A, c = noisy_quadratic(6, 20, 11087)
    a4, c4 = A.reshape(5, 4, 6, 6), c.reshape(5, 4, 6)
    g = torch.einsum("kbij,kbj->ki", a4, 1 - c4) / 4
    quotients = torch.einsum("ki,kij,kj->k", g, a4.mean(1), g) / g.square().sum(1)
    estimate = batch_sharpness(model, None, (A, c), batch_size=4)
    assert estimate.value == pytest.approx(float(quotients.mean()))
    assert estimate.error == pytest.approx(float(quotients.std()) / 5**0.5)
    assert math.isnan(batch_sharpness(model, None, (A, c)).error)


@pytest.mark.parametrize("lr", [1e-6, 0.3, 1e4])
def test_critical_sharpness_of_a_quadratic_is_its_rayleigh_quotient(lr):
    _, loss, (x, _) = case("mlp", MSE)
    linear, y = nn.Linear(4, 1).double(), x.sum(1, keepdim=True)
    edge = critical_sharpness(linear, loss, (x, y), lr=lr)
    truth = batch_sharpness(linear, loss, (x, y)).value
    assert edge.low <= truth <= edge.high
    assert edge.converged
    assert edge.value == pytest.approx(truth, rel=0.05)


def test_a_loss_without_minimum_along_the_update_has_no_critical_sharpness():
    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return (self.w * x).mean()

    edge = critical_sharpness(Slope(), None, torch.ones(3))
    assert (edge.low, edge.converged) == (0.0, False)
    uphill = critical_sharpness(Slope(), None, torch.ones(3), update=-torch.ones(1))
    assert uphill.high == math.inf


def test_sharpness_is_the_top_eigenvalue_also_preconditioned():
    model, loss, batch = case("mlp")
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    loss(model(batch[0]), batch[1]).backward()
    adam.step()
    H = hessian(model, CE, batch)
    for A in (H, preconditioned(H, adam)):
        edge = sharpness(A, steps=43, rng=11093)
        assert edge.low <= float(torch.linalg.eigvalsh(A.matrix())[-1]) <= edge.high
