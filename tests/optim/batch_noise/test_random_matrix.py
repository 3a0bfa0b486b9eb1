import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, strategies as st
from krylearn.optim.batch_noise.random_matrix import (
    Regime,
    batch_extremes,
    deconvolve,
    effective_batch,
    wigner_edge,
    wishart_edge,
)

F64 = torch.float64
P = 400


def wigner_sample(lam, s, seed):
    """(top eigenvalue, squared overlap) of a spike and a symmetric matrix whose semicircle has radius 2s."""
    g = torch.Generator().manual_seed(seed)
    e = torch.randn(P, P, generator=g, dtype=F64)
    H = (e + e.T) / (2 * P) ** 0.5 * s
    H[0, 0] += lam
    values, vectors = torch.linalg.eigh(H)
    end = -1 if lam >= 0 else 0
    return float(values[end]), float(vectors[0, end] ** 2)


def wishart_sample(lam, bulk, samples, seed):
    g = torch.Generator().manual_seed(seed)
    scale = torch.full((P,), bulk**0.5, dtype=F64)
    scale[0] = lam**0.5
    X = torch.randn(samples, P, generator=g, dtype=F64) * scale
    values, vectors = torch.linalg.eigh(X.T @ X / samples)
    return float(values[-1]), float(vectors[0, -1] ** 2)


@pytest.mark.parametrize(
    ("lam", "s", "regime"),
    [
        (10.0, 1.0, Regime.SATURATED), (3.0, 1.0, Regime.SPIKE), (1.7, 1.0, Regime.SPIKE), (10.0, 4.0, Regime.SPIKE),
        (0.7, 1.0, Regime.BULK), (0.3, 2.0, Regime.BULK), (-3.0, 1.0, Regime.SPIKE), (-0.5, 1.0, Regime.BULK),
    ],
)  # fmt: skip
def test_wigner_samples_on_both_sides_of_the_threshold(lam, s, regime):
    samples = torch.tensor([wigner_sample(lam, s, 12007 + i) for i in range(6)], dtype=F64)
    value, overlap = samples.mean(0).tolist()
    law = wigner_edge(lam, s)
    assert law.regime is regime
    assert value == pytest.approx(law.value, rel=0.03)  # finite P: (2/3)-power fluctuations, P^(-2/3) = 1.8 %
    assert overlap == pytest.approx(law.overlap, abs=0.06)


@pytest.mark.parametrize(
    ("lam", "samples", "regime"),
    [
        (30.0, 4000, Regime.SATURATED),
        (30.0, 40, Regime.SPIKE),
        (6.0, 200, Regime.SPIKE),
        (1.5, 200, Regime.BULK),
        (2.0, 40, Regime.BULK),
    ],
)
def test_wishart_samples_on_both_sides_of_the_threshold(lam, samples, regime):
    drawn = torch.tensor([wishart_sample(lam, 1.0, samples, 13001 + i) for i in range(8)], dtype=F64)
    law = wishart_edge(lam, 1.0, P / samples)
    assert law.regime is regime
    # a spike fluctuates by λ√(2/B): four standard errors of the mean of 8; edges move by B^(-2/3)
    tolerance = 4 * lam * (2 / samples / 8) ** 0.5 if regime is not Regime.BULK else 0.05 * law.value
    assert float(drawn[:, 0].mean()) == pytest.approx(law.value, abs=tolerance)
    assert float(drawn[:, 1].mean()) == pytest.approx(law.overlap, abs=0.12)


@given(lam=st.floats(-50, 50), s=st.floats(0.01, 20))
def test_wigner_edges_grow_with_noise_are_continuous_and_invertible(lam, s):
    edge = wigner_edge(lam, s)
    assert abs(edge.value) >= max(abs(lam), 2 * s) * (1 - 1e-12)
    assert abs(wigner_edge(lam, s * 1.01).value) >= abs(edge.value) * (1 - 1e-12)
    assert wigner_edge(math.copysign(s * (1 + 1e-9), lam), s).value == pytest.approx(
        wigner_edge(math.copysign(s, lam), s).value
    )
    if abs(lam) > 1.001 * s:
        assert deconvolve(edge.value, s) == pytest.approx(lam, rel=1e-6)
    elif abs(lam) <= s:
        assert math.isnan(deconvolve(edge.value * (1 - 1e-12), s))


@given(bulk=st.floats(0.01, 10), gamma=st.floats(0, 100), above=st.floats(1.0001, 50))
def test_wishart_edges_are_continuous_and_grow_with_gamma(bulk, gamma, above):
    threshold = bulk * (1 + gamma**0.5)
    assert wishart_edge(threshold * (1 + 1e-9), bulk, gamma).value == pytest.approx(
        wishart_edge(threshold, bulk, gamma).value
    )
    lam = above * threshold
    assert wishart_edge(lam, bulk, gamma * 1.01).value >= wishart_edge(lam, bulk, gamma).value >= lam
    # far above the bulk, the increase is about trace/batch: B_G = P_eff s²/(λ - s²)
    assert wishart_edge(lam, bulk, gamma).value == pytest.approx(lam + lam * gamma * bulk / (lam - bulk))


def test_extremes_at_any_batch_size_shrink_to_the_full_data():
    tops = [batch_extremes(-0.1, 5.0, 64.0, B)[1].value for B in (1, 4, 16, 64, 256, 4096)]
    assert all(a > b for a, b in pairwise(tops))
    low, high = batch_extremes(-0.1, 5.0, 64.0, 500, population=500)  # the whole set: no noise left
    assert (low.value, high.value, high.regime) == (-0.1, 5.0, Regime.SATURATED)
    low, high = batch_extremes(0.2, 5.0, 64.0, 64)  # a small batch shows negative curvature that the data do not have
    assert (low.value, low.regime) == (-2.0, Regime.BULK)
    assert effective_batch(10, 20) == 20
    with pytest.raises(ValueError, match="batch_size=30 of 20"):
        effective_batch(30, 20)
