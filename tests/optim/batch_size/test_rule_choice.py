import math

import pytest
import torch
from hypothesis import given, strategies as st
from krylearn.optim import Facts, fit_sharpness
from krylearn.optim.batch_size.rule_choice import RULES, adascale_gain, auto, malladi, warmup_steps
from scipy.optimize import minimize_scalar

LAW = fit_sharpness({8: 12.5, 32: 5.0, 128: 3.125})
SIZES = st.floats(1, 1e4)
POWERS = (
    "linear",
    "square_root",
    "noise_scale",
    "adascale",
    "adam_scale",
    "random_matrix",
    "malladi",
    "surge",
    "half_life",
)


def facts(old, new, *, adaptive, scale=300.0):
    return Facts(old, new, scale, LAW, adaptive, adaptive, (0.9, 0.99) if adaptive else None, False)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_nothing_changes_when_the_batch_size_does_not(name, adaptive):
    change = RULES[name](facts(64, 64, adaptive=adaptive))
    values = (
        change.lr,
        change.one_minus_beta1,
        change.one_minus_beta2,
        change.beta2_power,
        change.eps,
        change.weight_decay,
    )
    assert values == pytest.approx((1,) * 6)
    assert change.schedule == pytest.approx(1)
    assert change.why


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", POWERS)
@given(a=SIZES, b=SIZES, c=SIZES)
def test_two_changes_are_one(name, adaptive, a, b, c):
    rule = RULES[name]
    one, two, both = (rule(facts(x, y, adaptive=adaptive)) for x, y in ((a, b), (b, c), (a, c)))
    for key in ("lr", "eps", "beta2_power", "weight_decay", "schedule"):
        assert getattr(one, key) * getattr(two, key) == pytest.approx(getattr(both, key), rel=1e-9)


@given(old=SIZES, k=st.floats(1, 1000), scale=st.floats(1e-3, 1e9))
def test_noise_rules_lie_between_nothing_and_the_power_laws(old, k, scale):
    gain = RULES["noise_scale"](facts(old, k * old, adaptive=False, scale=scale)).lr
    assert 1 - 1e-9 <= gain <= k * (1 + 1e-9)
    adam = RULES["adam_scale"](facts(old, k * old, adaptive=True, scale=scale)).lr
    assert adam == pytest.approx(math.sqrt(gain))
    variance, square = scale / old, 1.0  # B_n = tr Σ/‖g‖², and AdaScale's variance is tr Σ/B₀
    assert adascale_gain(variance, square, k) == pytest.approx(gain)


def test_power_laws_hold_below_the_noise_scale_and_not_above():
    for name, adaptive in (("linear", False), ("square_root", True)):
        rule = RULES[name]
        assert rule(facts(16, 128, adaptive=adaptive, scale=1e5)).valid
        assert rule(facts(16, 4096, adaptive=adaptive, scale=100.0)).valid is False
        assert rule(Facts(16, 128, adaptive=adaptive)).valid is None
    assert RULES["linear"](facts(16, 32, adaptive=True, scale=1e5)).valid is False


@pytest.mark.parametrize("size", [1.0, 10.0, 300.0])
def test_noise_scale_rule_is_the_best_step_on_an_isotropic_quadratic(size):
    h, square, trace = 2.0, 1.5, 450.0

    def loss(eta, b):  # E ½h‖θ - ηg_B‖², g_B = hθ + noise of variance trace/B
        theta = square / h**2
        return h / 2 * (theta * (1 - eta * h) ** 2 + eta**2 * trace / b)

    best = [
        minimize_scalar(loss, bounds=(0, 1), args=(b,), method="bounded", options={"xatol": 1e-12}).x
        for b in (size, 8 * size)
    ]
    predicted = RULES["noise_scale"](Facts(size, 8 * size, trace / square)).lr
    assert best[1] / best[0] == pytest.approx(predicted, rel=1e-5)


def walk(size, lr, betas, eps, samples=6000):
    """Mean and variance of 3,000 parameters after Adam saw so many samples of noise with a weak drift."""
    rng = torch.Generator().manual_seed(16001)
    p = torch.nn.Parameter(torch.zeros(3000, dtype=torch.float64))
    adam = torch.optim.Adam([p], lr=lr, betas=betas, eps=eps)
    for _ in range(samples // size):
        p.grad = 0.02 + torch.randn(3000, generator=rng, dtype=torch.float64) / size**0.5
        adam.step()
    return float(p.detach().mean()), float(p.detach().var())


def test_malladis_rule_keeps_the_walk_of_adam_in_noise_and_linear_scaling_does_not():
    betas, eps, lr = (0.9, 0.99), 1e-3, 1e-3
    change = malladi(Facts(1, 6, 1e4, adaptive=True, betas=betas))
    assert change.valid
    scaled = tuple(1 - change.one_minus_beta1 * (1 - b) for b in betas)
    mean, variance = walk(1, lr, betas, eps)
    assert walk(6, lr * change.lr, scaled, eps * change.eps) == (
        pytest.approx(mean, rel=0.08), pytest.approx(variance, rel=0.15),
    )  # fmt: skip
    linear = walk(6, lr * 6, scaled, eps)
    assert linear[0] / mean > 2
    assert linear[1] / variance > 4


def test_malladi_has_limits():
    assert malladi(Facts(32, 32 * 20, 1e9, adaptive=True, betas=(0.9, 0.999))).valid is False  # κ(1-β₁) = 2
    assert malladi(Facts(32, 64, 40, adaptive=True, betas=(0.9, 0.999))).valid is False  # beyond the noise scale
    assert malladi(Facts(32, 64, adaptive=True, betas=(0.9, 0.999))).valid is None
    assert malladi(Facts(32, 64, 4000)).valid is False  # not adaptive


def test_surge_peaks_at_the_noise_scale_and_is_refused_far_beyond_it():
    surge = RULES["surge"]
    lrs = {b: surge(facts(1, b, adaptive=True)).lr for b in (30, 150, 299, 300, 301, 600, 3000)}
    assert max(lrs, key=lrs.get) == 300
    assert surge(facts(1, 900, adaptive=True)).valid
    assert surge(facts(1, 901, adaptive=True)).valid is False


@given(beta=st.floats(0.5, 0.9999), old=SIZES, new=SIZES)
def test_half_life_of_second_moments_in_samples_stays(beta, old, new):
    power = RULES["half_life"](facts(old, new, adaptive=True)).beta2_power
    assert new / (-power * math.log(beta)) == pytest.approx(old / -math.log(beta))


def test_random_matrix_rule_names_its_regime_and_its_limits():
    rule = RULES["random_matrix"]
    change = rule(facts(8, 128, adaptive=False))
    assert change.lr == pytest.approx(12.5 / 3.125, rel=1e-6)
    assert change.valid
    assert "Gauss-Newton bulk to spike" in change.why
    assert rule(facts(8, 513, adaptive=False)).valid is False  # more than a factor 4 beyond 128
    adam = rule(facts(8, 128, adaptive=True))
    assert (adam.lr, adam.valid) == (4.0, True)
    damped = rule(Facts(8, 128, None, LAW, True, eps_rules=True))
    assert damped.lr == pytest.approx(4.0, rel=1e-6)
    with pytest.raises(ValueError, match="needs sharpness"):
        rule(Facts(8, 16))


def test_auto_chooses_by_optimizer_and_what_is_known():
    chosen = {
        "linear": Facts(32, 64),
        "noise_scale": Facts(32, 64, 500.0, LAW),
        "square_root": Facts(32, 64, 500.0, adaptive=True, betas=(0.9, 0.99)),
    }
    for name, given_facts in chosen.items():
        assert auto(given_facts).why.startswith(f"{name}: ")
        assert auto(given_facts).lr == pytest.approx(RULES[name](given_facts).lr)
    assert auto(Facts(32, 64, adaptive=True)).lr == pytest.approx(2**0.5)
    assert auto(Facts(32, 64, math.inf)).lr == 2


@pytest.mark.parametrize("adaptive", [False, True])
def test_auto_vouches_only_for_what_was_compared_with_measured_optima(adaptive):
    def valid(old, new, scale):
        return auto(Facts(old, new, scale, adaptive=adaptive)).valid

    far = 8
    assert valid(64, 64 * far, 512.0)
    assert valid(64 * far, 64, 512.0)
    assert valid(64, 64 * far + 1, 1e9) is None
    assert valid(64 * far + 1, 64, 1e9) is None
    assert valid(256, 513, 512.0) is None  # above the noise scale
    assert valid(64, 128, None) is None
    assert "unknown" in auto(Facts(64, 128, adaptive=adaptive)).why


@pytest.mark.parametrize("adaptive", [False, True])
@given(a=SIZES, b=SIZES, c=SIZES, scale=st.floats(1, 1e6))
def test_auto_does_not_depend_on_the_way_and_grows_with_the_batch(adaptive, a, b, c, scale):
    def change(old, new):
        return auto(Facts(old, new, scale, adaptive=adaptive, decoupled=adaptive))

    for key in ("lr", "eps", "weight_decay"):
        both = getattr(change(a, b), key) * getattr(change(b, c), key)
        assert both == pytest.approx(getattr(change(a, c), key), rel=1e-9)
    power = 0.5 if adaptive else 1.0
    low, high = sorted((a, b))
    assert 1 - 1e-9 <= change(low, high).lr <= (high / low) ** power * (1 + 1e-9)


def test_adaptive_lr_stops_growing_at_twice_the_noise_scale():
    lrs = [auto(Facts(100, b, 200.0, adaptive=True)).lr for b in (399, 400, 401, 10_000)]
    assert lrs[0] < lrs[1] == lrs[2] == lrs[3] == 2


@given(old=SIZES, new=SIZES)
def test_decoupled_decay_per_sample_stays(old, new):
    change = auto(Facts(old, new, 500.0, adaptive=True, decoupled=True, betas=(0.9, 0.99)))
    assert change.lr * change.weight_decay == pytest.approx(new / old)
    assert auto(Facts(old, new, 500.0)).weight_decay == 1


def test_warmup_keeps_samples_or_grows_as_legw():
    f = Facts(256, 1024)
    assert (warmup_steps(1000, f), warmup_steps(2, Facts(1, 10**6)), warmup_steps(1000, f, rule="legw")) == (
        250,
        1,
        1000,
    )
    with pytest.raises(ValueError, match="'legw'"):
        warmup_steps(10, f, rule="x")


@pytest.mark.parametrize("name", ["noise_scale", "adascale", "adam_scale", "surge"])
def test_rules_that_need_the_noise_scale_say_so(name):
    with pytest.raises(ValueError, match="gradient_noise_scale"):
        RULES[name](Facts(1, 2))


@pytest.mark.parametrize("wrong", [{"old_batch": 0}, {"new_batch": -1}, {"noise_scale": 0.0}])
def test_wrong_facts_are_named(wrong):
    with pytest.raises(ValueError, match="got"):
        Facts(**{"old_batch": 1, "new_batch": 2, **wrong})
