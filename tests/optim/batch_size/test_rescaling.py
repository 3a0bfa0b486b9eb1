import warnings

import pytest
import torch
from krylearn.optim import Change, ScalingWarning, scale_hyperparameters
from krylearn.optim.batch_size.rescaling import apply_change, facts_of
from torch.optim import lr_scheduler as schedules

STEPS = 24
SCHEDULERS = {
    "step": lambda o: schedules.StepLR(o, 7),
    "multi": lambda o: schedules.MultiStepLR(o, [5, 15]),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, STEPS, eta_min=1e-3),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 6, eta_min=1e-3),
    "lambda": lambda o: schedules.LambdaLR(o, lambda k: 1 / (1 + k)),
    "linear": lambda o: schedules.LinearLR(o, 0.1, total_iters=15),
    "polynomial": lambda o: schedules.PolynomialLR(o, STEPS, power=2),
    "onecycle": lambda o: schedules.OneCycleLR(o, [0.2, 0.1], total_steps=STEPS + 2),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.01, 0.1, step_size_up=5),
    "sequential": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1, total_iters=6), schedules.CosineAnnealingLR(o, STEPS)], [6]
    ),
    "chained": lambda o: schedules.ChainedScheduler([schedules.ExponentialLR(o, 0.9), schedules.StepLR(o, 5)]),
}


def two_groups(make=torch.optim.SGD, **options):
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    options = {"momentum": 0.9} | options if make is torch.optim.SGD else options
    return make([{"params": [p], "lr": 0.1}, {"params": [q], "lr": 0.05}], lr=0.1, **options)


def lrs(name, change_at):
    """The lrs of both groups along a schedule; at one step everything is made three times as large."""
    optimizer = two_groups()
    scheduler, path = SCHEDULERS[name](optimizer), []
    for k in range(STEPS):
        if k == change_at:
            apply_change(optimizer, Change(lr=3.0), scheduler)
        path.append([float(g["lr"]) for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(path, dtype=torch.float64)


@pytest.mark.parametrize("change_at", [0, 9])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_go_on_at_the_new_scale(name, change_at):
    plain, scaled = lrs(name, None), lrs(name, change_at)
    expected = torch.cat([plain[:change_at], 3 * plain[change_at:]])
    torch.testing.assert_close(scaled, expected, rtol=1e-9, atol=1e-12)


def test_groups_keep_their_ratio_and_momentum_stays():
    optimizer = two_groups()
    change = scale_hyperparameters(optimizer, old_batch=32, new_batch=64, noise_scale=1e9)
    assert change.lr == pytest.approx(2, rel=1e-6)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.1], rel=1e-6)
    assert all(g["momentum"] == 0.9 for g in optimizer.param_groups)


def test_adam_gets_betas_eps_and_decay():
    optimizer = two_groups(torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.01)
    scale_hyperparameters(optimizer, old_batch=32, new_batch=128, noise_scale=4000, rule="malladi")
    for group, lr in zip(optimizer.param_groups, (0.2, 0.1), strict=True):
        assert group["lr"] == pytest.approx(lr)
        assert group["betas"] == pytest.approx((0.6, 0.96))
        assert group["eps"] == pytest.approx(5e-7)
    back = scale_hyperparameters(optimizer, old_batch=128, new_batch=32, noise_scale=4000, rule="malladi")
    assert back.valid
    assert optimizer.param_groups[0]["betas"] == pytest.approx((0.9, 0.99))


def test_auto_keeps_betas_and_decay_per_sample():
    optimizer = two_groups(torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.01)
    assert scale_hyperparameters(optimizer, old_batch=32, new_batch=128, noise_scale=4000).valid
    for group, lr in zip(optimizer.param_groups, (0.2, 0.1), strict=True):
        assert group["lr"] == pytest.approx(lr)
        assert group["betas"] == (0.9, 0.99)
        assert (group["eps"], group["weight_decay"]) == (pytest.approx(5e-7), pytest.approx(0.02))
    scale_hyperparameters(optimizer, old_batch=128, new_batch=32, noise_scale=4000)
    assert optimizer.param_groups[1]["weight_decay"] == pytest.approx(0.01)


def test_a_rule_may_change_momentum_where_there_is_some():
    with_momentum, without = two_groups(), two_groups(momentum=0.0)
    for optimizer in (with_momentum, without):
        apply_change(optimizer, Change(one_minus_beta1=3.0))
    assert [g["momentum"] for g in with_momentum.param_groups] == pytest.approx([0.7, 0.7])
    assert [g["momentum"] for g in without.param_groups] == [0, 0]


def test_tensor_lr_changes_in_place():
    lr = torch.tensor(0.1, dtype=torch.float64)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    apply_change(optimizer, Change(lr=4.0))
    assert float(lr) == pytest.approx(0.4)
    assert optimizer.param_groups[0]["lr"] is lr


def test_warnings_come_when_validity_is_false_or_unknown_and_only_then():
    def scale(rule, **options):
        optimizer = two_groups()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scale_hyperparameters(optimizer, old_batch=32, new_batch=1024, rule=rule, **options)
        return [str(w.message) for w in caught if issubclass(w.category, ScalingWarning)]

    assert "not known to be valid" in scale("auto")[0]
    assert "not valid here" in scale("linear", noise_scale=50)[0]
    assert "more than a factor 8 apart" in scale("auto", noise_scale=5000)[0]
    assert scale("random_matrix", sharpness={16: 12.5, 64: 5.0, 256: 3.125}) == []
    assert scale(lambda facts: Change(lr=2.0, valid=True)) == []


def test_equal_batch_sizes_change_nothing_and_unknown_rules_are_named():
    optimizer = two_groups()
    assert scale_hyperparameters(optimizer, old_batch=8, new_batch=8) == Change(
        valid=True, why="the batch size did not change"
    )
    assert optimizer.param_groups[0]["lr"] == 0.1
    with pytest.raises(ValueError, match="got rule='cubic'"):
        scale_hyperparameters(optimizer, old_batch=8, new_batch=9, rule="cubic")


def test_facts_of_an_optimizer():
    adam = torch.optim.Adam([p := torch.nn.Parameter(torch.ones(3))], eps=1e-3)
    assert facts_of(adam, 1, 2).eps_rules is None
    p.grad = torch.tensor([1e-5, 1e-5, 1.0])
    adam.step()
    facts = facts_of(adam, 1, 2)
    assert (facts.adaptive, facts.decoupled, facts.eps_rules) == (True, False, True)
    assert facts_of(torch.optim.AdamW([p]), 1, 2).decoupled
    assert not facts_of(torch.optim.SGD([p]), 1, 2).adaptive


KINDS = {
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "muon": lambda p: torch.optim.Muon(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def _entries(optimizer):
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


@pytest.mark.parametrize("name", KINDS)
def test_what_no_study_has_measured_is_not_valid_and_not_raised(name):
    optimizer = KINDS[name]([torch.nn.Parameter(torch.ones(2, 2))])
    before = _entries(optimizer)
    with pytest.warns(ScalingWarning, match="no study has measured"):
        change = scale_hyperparameters(optimizer, old_batch=32, new_batch=64, noise_scale=4000)
    assert change.valid is None
    assert change.lr == 1
    assert _entries(optimizer) == before
    with pytest.warns(ScalingWarning):
        assert scale_hyperparameters(optimizer, old_batch=64, new_batch=32, noise_scale=4000).lr < 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore::krylearn.optim.ScalingWarning")
def test_a_rule_of_the_users_is_written_whatever_the_entries_are(name):
    optimizer = KINDS[name]([torch.nn.Parameter(torch.ones(2, 2))])
    eps = optimizer.param_groups[0].get("eps")
    scale_hyperparameters(optimizer, old_batch=32, new_batch=64, rule=lambda facts: Change(lr=2.0, eps=0.5))
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert optimizer.param_groups[0].get("eps") == (0.5 * eps if isinstance(eps, float) else eps)


def test_decoupled_decay_is_seen():
    weights = [torch.nn.Parameter(torch.ones(2, 2))]
    for optimizer in (torch.optim.Muon(weights), torch.optim.AdamW(weights), torch.optim.Adafactor(weights)):
        assert facts_of(optimizer, 32, 64).decoupled
    assert not facts_of(torch.optim.Adam(weights, weight_decay=0.1), 32, 64).decoupled


@pytest.mark.parametrize(("old", "new"), [(512, 1024), (64, 2048)])
def test_above_the_noise_scale_nothing_is_raised(old, new):
    sgd = torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9)
    with pytest.warns(ScalingWarning, match="nothing was changed"):
        scale_hyperparameters(sgd, old_batch=old, new_batch=new, noise_scale=200)
    with pytest.warns(ScalingWarning, match="nothing was changed"):
        scale_hyperparameters(sgd, old_batch=old, new_batch=new, noise_scale=200, rule="linear")
    assert sgd.param_groups[0]["lr"] == 0.1


def test_all_or_nothing():
    class Odd(dict):
        """A group whose betas cannot be read."""

    adam = torch.optim.AdamW([{"params": [torch.ones(1)]}, {"params": [torch.ones(1)], "betas": (0.9, "high")}], lr=0.1)
    with pytest.raises((TypeError, ValueError)):
        scale_hyperparameters(adam, old_batch=32, new_batch=64, rule="malladi", noise_scale=4000)
    assert [group["lr"] for group in adam.param_groups] == [0.1, 0.1]
