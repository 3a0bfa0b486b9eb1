import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.optim import Spectrum, hessian, sharpness, slq
from krylearn.optim.spectra.intervals import christoffel
from krylearn.optim.spectra.probes import tridiagonalize_probes
from krylearn.solvers.lanczos import ritz_pairs, tridiagonalize
from nets import CE, case
from scipy.integrate import trapezoid
from scipy.sparse.linalg import aslinearoperator, eigsh
from scipy.stats import binom, wasserstein_distance
from torch import nn

F64 = torch.float64


def diagonal(values):
    values = torch.as_tensor(values, dtype=F64)
    return torch.diag(values)


def symmetric(n, seed):
    G = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return (G + G.T) / (2 * n) ** 0.5


# named by what is hard in them; all have 300 eigenvalues
SPECTRA = {
    "no_gap": np.linspace(-1, 1, 300),
    "two_close_outliers": np.concatenate([np.linspace(-0.1, 0.1, 298), [1.0, 1.003]]),
    "edge_that_thins_out": np.sort(1 - np.linspace(0, 1, 300) ** 0.25),
    "huge_near_zero_cluster": np.concatenate([np.full(280, 1e-9), np.geomspace(1e-4, 1, 20)]),
    "indefinite_twins": np.concatenate([np.linspace(-0.3, 0.3, 296), [-1.0, -0.99, 0.99, 1.0]]),
}


@pytest.mark.parametrize("m", [1, 2, 5, 9])
@pytest.mark.parametrize("seed", [10103, 20219])
def test_gauss_quadrature_is_exact_up_to_degree_2m_minus_1_and_not_beyond(m, seed):
    A = symmetric(40, seed)
    starts = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed + 1), dtype=F64)
    for v, T in zip(starts, tridiagonalize_probes(lambda q: q @ A, starts, m), strict=True):
        pairs = ritz_pairs(T)
        errors = []
        for k in range(2 * m + 1):
            moment = v @ torch.linalg.matrix_power(A, k) @ v / (v @ v)
            errors.append(float(abs((pairs.weights * pairs.values**k).sum() - moment)))
        assert max(errors[:-1]) < 1e-10
        assert errors[-1] > 1e-6


@given(seed=st.integers(10**4, 10**5), n=st.integers(2, 30), k=st.integers(1, 4), m=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_probes_side_by_side_are_the_probes_one_by_one(seed, n, k, m):
    A = symmetric(n, seed)
    starts = torch.randn(k, n, generator=torch.Generator().manual_seed(seed), dtype=F64)
    for v, T in zip(starts, tridiagonalize_probes(lambda q: q @ A, starts, m), strict=True):
        single = tridiagonalize(lambda q: A @ q, v, m)
        torch.testing.assert_close(ritz_pairs(T).values, ritz_pairs(single).values, rtol=1e-8, atol=1e-9)
        gram = T.basis @ T.basis.T
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("steps", "probes"), [(12, 1), (6, 3)])
def test_intervals_hold_the_extremes_as_often_as_they_say(name, steps, probes):
    values, trials = SPECTRA[name], 60
    A, misses = diagonal(values), np.zeros(2)
    for seed in range(trials):
        edges = slq(A, steps=steps, probes=probes, rng=40009 + seed).extremes(level=0.8)
        misses += [not e.low <= true <= e.high for e, true in zip(edges, (values.min(), values.max()), strict=True)]
    assert misses.max() <= binom.ppf(1 - 1e-6, trials, 0.2)  # false alarm: 2e-5 over all cases


class WithGradient:
    """A dense matrix that also has a gradient, as a curvature operator does."""

    def __init__(self, values, gradient):
        self.shape, self.values, self.own = (len(values), len(values)), torch.as_tensor(values, dtype=F64), gradient

    def __matmul__(self, v):
        return self.values * v

    def gradient(self):
        return self.own


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("toward", [0, 299])
def test_intervals_hold_wherever_the_gradient_leads(name, toward):
    values, trials, misses = np.sort(SPECTRA[name]), 60, 0
    A = WithGradient(values, torch.eye(300, dtype=F64)[toward])  # the top eigenvector, or one without any part of it
    for seed in range(trials):
        edge = sharpness(A, steps=8, rng=41011 + seed, level=0.8)
        misses += not edge.low <= values[-1] <= edge.high
    assert misses <= (binom.ppf(1 - 1e-6, trials, 0.2) if toward == 0 else 0)


def test_a_gradient_among_the_top_eigenvectors_saves_products():
    A = WithGradient(np.linspace(0, 1, 300), torch.zeros(300, dtype=F64).index_fill(0, torch.arange(295, 300), 1.0))
    seeds = range(42013, 42023)
    leaning = [1 - sharpness(A, steps=10, rng=seed).value for seed in seeds]
    plain = [1 - sharpness(diagonal(A.values), steps=10, rng=seed).value for seed in seeds]
    assert max(leaning) < min(plain)
    none = WithGradient(A.values, torch.zeros(300, dtype=F64))  # at a stationary point: as if there were none
    assert sharpness(none, steps=10, rng=1).value == pytest.approx(sharpness(diagonal(A.values), steps=10, rng=1).value)
    with pytest.raises(ValueError, match="steps=0"):
        sharpness(A, steps=0)


def test_intervals_shrink_to_the_eigenvalue_and_residuals_bound_the_distance():
    values = SPECTRA["indefinite_twins"]
    widths = []
    for steps in (5, 10, 20, 40, 80):
        s = slq(diagonal(values), steps=steps, probes=1, rng=50021)
        edge = s.extremes().top
        widths.append(edge.high - edge.low)
        distance = np.abs(s.nodes[:, None] - values[None]).min(1)
        assert (distance <= s.bounds + 1e-12).all()
    assert all(b <= a + 1e-11 for a, b in pairwise(widths))  # down to rounding
    assert edge.converged
    assert widths[-1] < 1e-6


def test_christoffel_function_is_the_largest_mass_that_fits_the_run():
    A = symmetric(30, 60013)
    v = torch.randn(30, generator=torch.Generator().manual_seed(60017), dtype=F64)
    values, vectors = torch.linalg.eigh(A)
    masses = (vectors.T @ v) ** 2 / (v @ v)
    T = tridiagonalize(lambda q: A @ q, v, 10)
    for mu, mass in zip(values, masses, strict=True):  # true at every eigenvalue, not only at the edges
        assert float(mass) <= christoffel(T.alpha.numpy(), T.beta.numpy(), float(mu)) * (1 + 1e-9)


def after(steps):
    """The Hessian of 50,826 parameters, so many steps of SGD into 512 noisy points of 10 classes, and true extremes."""
    g = torch.Generator().manual_seed(50021)
    centers = torch.randn(10, 64, generator=g)
    y = torch.randint(10, (512,), generator=g)
    x = centers[y] + 1.5 * torch.randn(512, 64, generator=g)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(50023)
        sizes = (64, 256, 128, 10)
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
        net = nn.Sequential(*layers[:-1])
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        rows = torch.randint(512, (64,), generator=g)
        sgd.zero_grad()
        CE(net(x[rows]), y[rows]).backward()
        sgd.step()
    H = hessian(net.double(), CE, (x[:64].double(), y[:64]), method="double-backward")
    assert H.shape[0] == 50826
    return H, np.sort(eigsh(aslinearoperator(H), k=2, which="BE", tol=1e-10, return_eigenvectors=False))


@pytest.fixture(scope="module")
def trained():
    """30 steps: where 30 products are enough for both ends."""
    return after(30)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 30, 300])
def test_intervals_hold_the_truth_at_any_time_of_training_and_after_any_number_of_products(steps):
    H, truth = after(steps)
    runs = [slq(H, steps=60, probes=1, rng=71001 + seed) for seed in range(40)]
    for m in (10, 20, 30, 60):  # the beginnings of a run are the shorter runs
        inside, widths = np.zeros(2), []
        for s in runs:
            ((a, b, size, end),) = s.runs
            edges = replace(s, runs=((a[:m], b[:m], size, end and len(a) <= m),)).extremes()
            inside += [e.low <= true <= e.high for e, true in zip(edges, truth, strict=True)]
            widths.append([(e.high - e.low) / abs(e.value) for e in edges])
        print(f"{steps} steps, {m} products: inside {inside} of 40, widest {np.max(widths, 0)}")
        assert (inside >= 37).all()  # misses have probability 0.01 each: 4 and more in 40 once in 1,500


@pytest.mark.parametrize("seeds", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_extremes_of_50k_parameters_with_30_products(trained, seeds):
    H, truth = trained
    inside, widths, errors = np.zeros(2), np.zeros(2), np.zeros(2)
    for seed in range(seeds):
        before = H.products
        edges = slq(H, steps=30, probes=1, rng=70001 + seed).extremes()
        assert H.products - before == 30
        inside += [e.low <= true <= e.high for e, true in zip(edges, truth, strict=True)]
        widths = np.maximum(widths, [(e.high - e.low) / abs(e.value) for e in edges])
        errors = np.maximum(errors, [abs(e.value / true - 1) for e, true in zip(edges, truth, strict=True)])
    print(f"bottom, top: inside {inside} of {seeds}, widest {widths}, largest error {errors}")
    assert (inside >= 0.95 * seeds).all()
    assert (widths <= 0.05).all()
    assert (errors <= 0.01).all()


def test_single_precision_keeps_the_extremes(trained):
    H, truth = trained
    net = H.net.model.float()
    x, y = H.net.chunks[0].data
    single = slq(hessian(net, CE, (x.float(), y)), steps=30, probes=1, rng=80021).extremes()
    for edge, true in zip(single, truth, strict=True):
        assert edge.low <= true <= edge.high
        assert abs(edge.value / true - 1) < 0.02
    net.double()


def test_moments_and_trace_lie_within_their_errors():
    A = symmetric(200, 90001)
    s = slq(A, steps=12, probes=24, rng=90007)
    for k in (1, 2, 3, 4):
        estimate = s.moment(k)
        exact = float(torch.diagonal(torch.linalg.matrix_power(A, k)).mean())
        assert abs(estimate.value - exact) < 5 * estimate.error
    assert s.trace().value == pytest.approx(200 * s.moment(1).value)
    assert s.weights.sum() == pytest.approx(1)
    assert np.isnan(slq(A, steps=3, probes=1, rng=1).moment(1).error)


@pytest.mark.parametrize("name", SPECTRA)
def test_counting_and_interpolating_come_nearer_to_the_spectrum_than_nodes(name):
    values, q = SPECTRA[name], (np.arange(4000) + 0.5) / 4000
    errors = []
    for seed in range(12):
        s = slq(diagonal(values), steps=16, probes=2, rng=20011 + seed)
        counted = wasserstein_distance(s.nodes, values, s.deflated_weights)
        errors.append([wasserstein_distance(s.nodes, values, s.weights), counted])
        errors[-1].append(wasserstein_distance(s.quantile(q), values))
        assert s.deflated_weights.sum() == pytest.approx(1)
    plain, counted, curve = np.median(errors, 0)
    assert counted <= 1.02 * plain
    assert curve <= 0.8 * plain


def test_counted_eigenvalues_have_their_share_and_multiple_ones_keep_their_weight():
    values = np.concatenate([np.linspace(-0.01, 0.01, 250), np.full(40, 3.0), [5.0, 7.0, -2.0]])
    s = slq(diagonal(values), steps=12, probes=3, rng=20021)
    for lone in (5.0, 7.0, -2.0):
        np.testing.assert_allclose(s.deflated_weights[np.abs(s.nodes - lone) < 1e-6], 1 / 293 / 3, rtol=1e-12)
    assert s.deflated_weights[np.abs(s.nodes - 3) < 1e-6].sum() == pytest.approx(40 / 293, rel=0.5)
    exact = float(np.square(values).mean())
    raw, counted = s.moment(2, deflate=False), s.moment(2)
    assert counted.error < raw.error
    assert abs(counted.value - exact) < 6 * counted.error


def test_deflated_moments_are_unbiased():
    values = np.concatenate([np.linspace(0, 1, 120), [4.0, 6.0, 9.0]])
    found = [slq(diagonal(values), steps=10, probes=1, rng=30011 + i).moment(1).value for i in range(200)]
    error = np.std(found) / 200**0.5
    assert abs(np.mean(found) - values.mean()) < 4.5 * error
    assert error < 0.003  # plain quadrature: 0.06


def test_density_is_the_semicircle_of_a_wigner_matrix():
    s = slq(symmetric(1200, 10037), steps=60, probes=4, rng=10039)
    d = s.density(np.linspace(-2.5, 2.5, 400), width=0.1)
    radius = 2 * np.sqrt(s.moment(2).value)
    law = 2 / (np.pi * radius**2) * np.sqrt(np.maximum(radius**2 - d.points**2, 0))
    assert trapezoid(np.abs(d.values - law), d.points) < 0.06
    assert trapezoid(d.values, d.points) == pytest.approx(1, abs=1e-3)
    assert (d.low <= d.values).all()
    assert (d.values <= d.high).all()


def test_log_density_splits_the_eigenvalues_by_sign():
    s = slq(
        diagonal(np.concatenate([-np.geomspace(1e-3, 1, 100), np.geomspace(1e-3, 10, 300)])), steps=60, probes=6, rng=3
    )
    for sign, share in ((1, 0.75), (-1, 0.25)):
        d = s.log_density(sign)
        assert trapezoid(d.values, d.points) == pytest.approx(share, abs=0.1)  # near zero Lanczos mixes the signs


def test_a_bf16_basis_keeps_edges_and_lets_no_copies_in():
    A = diagonal(np.concatenate([np.linspace(-0.5, 0.5, 3000), [3.0, 5.0]])).float()
    full, half = (slq(A, steps=60, probes=2, rng=10061, storage=storage) for storage in (None, "bf16"))
    assert half.max == pytest.approx(full.max, rel=1e-4)
    assert [(half.nodes > x).sum() for x in (4, 2)] == [2, 4]  # one node per outlier and probe
    assert half.moment(2).value == pytest.approx(full.moment(2).value, rel=1e-3)
    on_host = slq(A, steps=60, probes=2, rng=10061, storage=torch.device("cpu"))
    np.testing.assert_array_equal(on_host.nodes, full.nodes)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_multiples_of_the_identity_take_one_product_per_probe(value):
    s = slq(value * torch.eye(20, dtype=F64), steps=10, probes=3, rng=5)
    assert s.products == 3
    for edge in s.extremes():
        assert (edge.value, edge.converged) == (pytest.approx(value), True)


@given(scale=st.floats(1e-12, 1e12), shift=st.floats(-2, 2))
@settings(max_examples=8, deadline=None)
def test_intervals_follow_scale_and_shift(scale, shift):
    A = diagonal(SPECTRA["no_gap"])
    plain = slq(A, steps=8, probes=2, rng=10067).extremes().top
    moved = slq(scale * (A + shift * torch.eye(300, dtype=F64)), steps=8, probes=2, rng=10067).extremes().top
    assert moved.value == pytest.approx(scale * (plain.value + shift), rel=1e-9, abs=1e-9 * scale)
    assert moved.high == pytest.approx(scale * (plain.high + shift), rel=1e-6, abs=1e-6 * scale)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_bases_are_orthogonal_to_rounding_whatever_the_spectrum(name, dtype):
    A = diagonal(SPECTRA[name]).to(dtype)
    starts = torch.randn(2, 300, generator=torch.Generator().manual_seed(20023), dtype=dtype)
    for T in tridiagonalize_probes(lambda q: q @ A, starts, 60):
        gram = T.basis.double() @ T.basis.double().T
        assert float((gram - torch.eye(len(gram), dtype=F64)).abs().max()) < 100 * torch.finfo(dtype).eps


def test_the_seed_decides_and_is_kept():
    A = symmetric(30, 10069)
    one, two = slq(A, steps=5, probes=2, rng=77003), slq(A, steps=5, probes=2, rng=77003)
    np.testing.assert_array_equal(one.nodes, two.nodes)
    state = torch.random.get_rng_state()
    fresh = slq(A, steps=5, probes=2)
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_array_equal(fresh.nodes, slq(A, steps=5, probes=2, rng=fresh.seed).nodes)
    rng = torch.Generator().manual_seed(5)
    assert slq(A, steps=5, rng=rng).seed != slq(A, steps=5, rng=rng).seed


def test_spectra_survive_a_checkpoint():
    model, loss, batch = case("mlp")
    s = slq(hessian(model, loss, batch), steps=9, probes=2, rng=10079, vectors=True)
    file = io.BytesIO()
    torch.save(s.state_dict(), file)
    file.seek(0)
    back = Spectrum.from_state_dict(torch.load(file))  # weights_only: plain values alone
    assert back.extremes() == s.extremes()
    assert back.facts == {"kind": "hessian", "samples": 12, "method": s.facts["method"]}
    torch.testing.assert_close(back.top_vector, s.top_vector)


def test_ritz_vectors_of_the_extremes():
    model, loss, batch = case("mlp")
    H = hessian(model, loss, batch)
    s = slq(H, steps=43, probes=2, rng=10091, vectors=True)
    for vector, value in ((s.top_vector, s.max), (s.bottom_vector, s.min)):
        assert float(torch.linalg.vector_norm(H @ vector - value * vector)) < 1e-9


def test_callables_and_operators_say_what_they_lack():
    A = symmetric(12, 10093)
    dense = slq(A, steps=12, probes=1, rng=3)
    np.testing.assert_allclose(slq(lambda v: A @ v, size=12, steps=12, probes=1, rng=3).nodes, dense.nodes, atol=1e-10)
    with pytest.raises(ValueError, match="pass size=n"):
        slq(lambda v: v)
    with pytest.raises(ValueError, match="steps=0"):
        slq(A, steps=0)
    with pytest.raises(ValueError, match="NaN"):
        slq(A * torch.nan, steps=3)
    with pytest.raises(ValueError, match="level=2"):
        dense.extremes(level=2)


def test_progress_goes_to_standard_error(capsys):
    slq(symmetric(8, 3), steps=4, probes=1, progress=True)
    out = capsys.readouterr()
    assert out.out == ""


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("probes", [1, 3])
def test_figures(tmp_path, log, probes):
    s = slq(diagonal(SPECTRA["indefinite_twins"]), steps=20, probes=probes, rng=10099)
    ax = s.plot(log=log)
    assert len(ax.collections) == (0 if probes == 1 else (2 if log else 1))
    ax.figure.savefig(tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").stat().st_size > 5000
    assert s.plot(ax, log=log) is ax
