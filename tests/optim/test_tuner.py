"""What the tuner promises: any initial lr, any unit of the loss, exact resume, equal ranks, no harm from failures."""

import copy
import io
import math
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from krylearn.optim import CurvatureTuner, TunerWarning, policies
from krylearn.optim.policies_trials import BETA, JUDGES, LENGTH, MOST, PARTS, batches, following, vertex
from krylearn.optim.tuner_hold import refresh
from krylearn.optim.tuner_source import LossSource, dot, undisturbed
from krylearn.optim.tuner_trials import pieces
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR


class Task:
    """A perceptron on seeded data, in batches that hang on the step alone."""

    def __init__(self, scale=1.0, dtype=torch.float32, batchnorm=False):
        generator = torch.Generator().manual_seed(5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            middle = [nn.BatchNorm1d(16)] if batchnorm else []
            self.model = nn.Sequential(nn.Linear(8, 16), *middle, nn.ReLU(), nn.Linear(16, 4)).to(dtype)
        x = torch.randn(512, 8, generator=generator).to(dtype)
        self.data, self.scale = (x, (x @ torch.randn(8, 4, generator=generator).to(dtype)).argmax(1)), scale

    def loss(self, batch):
        return self.scale * nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def batch(self, step, size=32):
        k = step * size % 512
        return self.data[0][k : k + size], self.data[1][k : k + size]

    def weights(self):
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])

    def final(self):
        with torch.no_grad():
            return float(self.loss(self.data)) / self.scale


NEEDED = batches()


def sgd(task, **options):
    return torch.optim.SGD(task.model.parameters(), **{"lr": 1.0} | options)


def adamw(task, **options):
    return torch.optim.AdamW(task.model.parameters(), **{"lr": 1.0, "weight_decay": 0.0} | options)


def train(task, tuner, start, stop, scheduler=None, loss_fn=None):
    for step in range(start, stop):
        tuner.zero_grad()
        tuner.observe(loss_fn or task.loss, task.batch(step))
        task.loss(task.batch(step)).backward()
        tuner.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize("make", [sgd, adamw])
def test_it_learns_far_better_than_the_lr_it_was_given(make):
    plain, tuned = Task(), Task()
    base, tuner = make(plain, lr=1e-5), CurvatureTuner(make(tuned, lr=1e-5))
    start = tuned.final()
    train(tuned, tuner, 0, 250, CosineAnnealingLR(tuner, 250))
    for step in range(250):
        base.zero_grad()
        plain.loss(plain.batch(step)).backward()
        base.step()
    assert plain.final() > 0.9 * start
    assert tuned.final() < 0.2 * start


@pytest.mark.parametrize("make", [sgd, adamw])
def test_any_initial_lr_gives_the_same_run(make):
    runs = []
    for lr in (1e-6, 2.0**-7, 1.0, 10.0):
        task = Task(dtype=torch.float64)
        tuner = CurvatureTuner(make(task, lr=lr))
        train(task, tuner, 0, 120, CosineAnnealingLR(tuner, 120))
        runs.append((task.weights(), tuner.facts.turn, tuner.facts.steps, round(tuner.spent, 9)))
    for weights, *counts in runs[1:]:
        assert counts == list(runs[0][1:])
        assert torch.allclose(weights, runs[0][0], rtol=1e-6, atol=1e-9)
    assert torch.equal(runs[1][0], runs[2][0])  # a power of two changes no bit


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_the_unit_of_the_loss_does_not_matter_to_sgd(scale):
    one, other = Task(dtype=torch.float64), Task(scale, dtype=torch.float64)
    for task in (one, other):
        train(task, CurvatureTuner(sgd(task)), 0, 150)
    assert torch.equal(one.weights(), other.weights())


def test_ratios_between_groups_and_schedules_survive():
    task = Task()
    layers = [{"params": list(layer.parameters())} for layer in task.model if isinstance(layer, nn.Linear)]
    layers[1]["lr"] = 0.25
    tuner = CurvatureTuner(torch.optim.SGD(layers, lr=1.0))
    scheduler = StepLR(tuner, 10, gamma=0.5)
    seen = []
    tuner.base.register_step_pre_hook(lambda opt, *a: seen.append([group["lr"] for group in opt.param_groups]))
    train(task, tuner, 0, 30, scheduler)
    assert all(abs(second / first - 0.25) < 1e-12 for first, second in seen)
    assert [group["lr"] for group in tuner.param_groups] == [0.125, 0.03125]
    assert tuner.lr == pytest.approx(0.125 * tuner.facts.scale)


def test_the_base_never_sees_a_leftover():
    task = Task()
    tuner = CurvatureTuner(sgd(task, momentum=0.3))
    train(task, tuner, 0, 20)
    assert tuner.momentum == policies.MOMENTUM
    assert tuner.param_groups[0]["momentum"] == 0.3
    assert tuner.state_dict()["param_groups"][0]["momentum"] == policies.MOMENTUM
    kept = CurvatureTuner(sgd(Task(), momentum=0.3), momentum="keep")
    assert kept.momentum == 0.3


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("stop", [1, 3, 7, 22, 40, 99, 100])
def test_resume_is_exact(make, stop):
    whole, part = Task(), Task()
    tuner = CurvatureTuner(make(whole))
    train(whole, tuner, 0, 140, scheduler := CosineAnnealingLR(tuner, 140))
    first = CurvatureTuner(make(part))
    train(part, first, 0, stop, scheduler := CosineAnnealingLR(first, 140))
    file = io.BytesIO()
    torch.save([part.model.state_dict(), first.state_dict(), scheduler.state_dict()], file)
    file.seek(0)
    model, optimizer, schedule = torch.load(file, weights_only=True)
    again = Task()
    again.model.load_state_dict(model)
    second = CurvatureTuner(make(again, lr=0.3))
    scheduler = CosineAnnealingLR(second, 140)
    second.load_state_dict(optimizer)
    scheduler.load_state_dict(schedule)
    train(again, second, stop, 140, scheduler)
    assert torch.equal(again.weights(), whole.weights())
    assert second.facts.plain() == pytest.approx(tuner.facts.plain(), nan_ok=True)


def test_a_checkpoint_goes_on_in_the_plain_base():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 80)
    plain = sgd(task, lr=123.0)
    plain.load_state_dict(copy.deepcopy(tuner.state_dict()))
    assert plain.param_groups[0]["lr"] == tuner.lr
    twin = copy.deepcopy(task)
    theirs = sgd(twin)
    theirs.load_state_dict(copy.deepcopy(plain.state_dict()))
    for one, optimizer in ((task, tuner), (twin, theirs)):
        optimizer.zero_grad()
        one.loss(one.batch(80)).backward()
        optimizer.step()
    assert torch.equal(task.weights(), twin.weights())


def _rank(rank, folder, world, make):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    task = Task()
    model = nn.parallel.DistributedDataParallel(task.model)
    tuner = CurvatureTuner(make(task))
    for step in range(90):
        x, y = task.batch(world * step + rank)
        tuner.zero_grad()
        tuner.observe(task.loss, (x, y))
        nn.functional.cross_entropy(model(x), y).backward()
        tuner.step()
    torch.save([task.weights(), tuner.facts.plain()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("make", [sgd, adamw])
def test_two_ranks_stay_identical(tmp_path, make):
    mp.spawn(_rank, args=(str(tmp_path), 2, make), nprocs=2)
    (a, facts), (b, other) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(a, b)
    assert facts == pytest.approx(other, nan_ok=True)
    assert facts["phase"] == "hold"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_start_leaves_the_base_working(value):
    task = Task()
    tuner = CurvatureTuner(sgd(task, lr=0.05))
    with pytest.warns(TunerWarning, match="not finite"):
        train(task, tuner, 0, 1, loss_fn=lambda batch: value * task.loss(batch))
    assert tuner.lr == 0.05
    plain = Task()
    base = sgd(plain, lr=0.05)
    plain.loss(plain.batch(0)).backward()
    base.step()
    assert torch.equal(plain.weights(), task.weights())
    train(task, tuner, 1, 120)  # finite again: tuning begins
    assert task.final() < 0.5


def test_a_loss_function_that_fails_is_a_warning():
    task = Task()
    tuner = CurvatureTuner(sgd(task, lr=0.05))

    def broken(batch):
        raise RuntimeError("no loss today")

    with pytest.warns(TunerWarning, match="no loss today"):
        train(task, tuner, 0, 1, loss_fn=broken)
    assert tuner.lr == 0.05


def test_a_product_that_fails_leaves_the_lr(monkeypatch):
    task = Task()
    tuner = CurvatureTuner(sgd(task), budget=1.0)
    train(task, tuner, 0, 60)
    assert tuner.facts.phase == "hold"
    lr = tuner.lr

    def refuse(self, parameters):
        raise RuntimeError("no second derivative")

    monkeypatch.setattr(LossSource, "products", refuse)
    with pytest.warns(TunerWarning, match="sharpness could not be measured"):
        refresh(tuner._loop, LossSource(task.loss, task.batch(0)))
    assert tuner.lr == lr


def test_a_bad_batch_is_undone():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 150)
    before = task.final()
    tuner.zero_grad()
    (math.nan * task.loss(task.batch(0))).backward()
    tuner.step()
    assert not bool(torch.isfinite(task.weights()).all())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(task, tuner, 150, 200)
    assert any("risen" in str(each.message) for each in caught)
    assert bool(torch.isfinite(task.weights()).all())
    assert task.final() < 2 * before + 0.1


def test_two_blow_ups_quarter_the_lr_and_cost_no_more_than_the_steps_between_looks():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 150)
    scale, spent = tuner.facts.scale, tuner.spent
    for start in (150, 200):
        with torch.no_grad():
            for p in task.model.parameters():
                p.mul_(-1e4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(task, tuner, start, start + 26)
    assert tuner.facts.rescues == 2
    assert tuner.facts.scale == pytest.approx(scale / 4)
    assert tuner.spent - spent < 2 * 20 + 10
    assert bool(task.weights().abs().max() < 1e3)


def test_an_unusual_batch_is_no_blow_up():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 150)
    x, y = task.batch(0)
    odd = (x, (y + 1) % 4)
    weights = task.weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            tuner.facts.steps += 1
            tuner.observe(task.loss, odd)
    assert tuner.facts.rescues == 0
    assert torch.equal(task.weights(), weights)


@pytest.mark.parametrize("base", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_trials_leave_gradients_and_running_statistics_alone_and_end_lower(base):
    task = Task(batchnorm=True)
    optimizer = base(task.model.parameters(), lr=1.0)
    tuner = CurvatureTuner(optimizer, momentum="keep")
    train(task, tuner, 0, NEEDED - 1)
    tuner.zero_grad()
    task.loss(task.batch(NEEDED - 1)).backward()
    grads = [p.grad.clone() for p in task.model.parameters()]
    before, spent = task.final(), tuner.spent
    statistics = copy.deepcopy(task.model[1].state_dict())
    tuner.observe(task.loss, task.batch(NEEDED - 1))
    assert tuner.facts.phase == "hold"
    assert tuner.spent - spent <= MOST * (LENGTH / PARTS + JUDGES / 3) + JUDGES / 3 + 1e-9
    assert all(torch.equal(p.grad, g) for p, g in zip(task.model.parameters(), grads, strict=True))
    assert all(torch.equal(v, statistics[k]) for k, v in task.model[1].state_dict().items() if k.startswith("running"))
    assert task.final() < before
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("best", [0.03, 0.1, 0.24, 0.4])
@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_trials_find_the_minimum_of_a_parabola_in_log_lr(best, unit):
    tried = []
    while (lr := following(tried, 0.1)) is not None:
        tried.append((lr, unit * (1 + 0.1 * math.log2(lr / best) ** 2)))
    assert len(tried) <= MOST
    assert vertex(tried, 10 * unit) == pytest.approx(best, rel=1e-6)


def test_batches_are_split_only_where_that_is_plain():
    x, y = torch.arange(32.0).reshape(16, 2), torch.arange(16)
    first, second = pieces({"x": x, "rest": [y, "name"]}, 2)
    assert torch.equal(first["x"], x[::2])
    assert second["rest"][1] == "name"
    assert torch.equal(second["rest"][0], y[1::2])
    assert len(pieces((x, y[:5]), 2)) == 1  # sizes differ
    assert len(pieces((x[:7], y[:7]), 2)) == 1  # too few
    assert len(pieces((x, torch.tensor(1.0)), 2)) == 1  # a scalar


def test_trials_that_fail_leave_the_base_working():
    task = Task()
    tuner = CurvatureTuner(adamw(task))
    train(task, tuner, 0, NEEDED - 1)
    weights = task.weights()

    def broken(batch):
        if torch.is_grad_enabled():
            raise RuntimeError("no gradient today")
        return task.loss(batch)

    with pytest.warns(TunerWarning, match="no gradient today"):
        tuner.observe(broken, task.batch(NEEDED - 1))
    assert torch.equal(task.weights(), weights)
    assert tuner.facts.phase == "hold"
    train(task, tuner, NEEDED, 200)
    assert task.final() < 0.8


def test_beta1_is_learned_for_the_family_of_adam_only():
    task = Task()
    tuner = CurvatureTuner(adamw(task, betas=(0.9, 0.99)))
    train(task, tuner, 0, 3)
    assert tuner.momentum == BETA
    assert tuner.param_groups[0]["betas"] == (0.9, 0.99)
    assert tuner.state_dict()["param_groups"][0]["betas"] == (BETA, 0.99)
    kept = CurvatureTuner(adamw(Task(), betas=(0.9, 0.99)), momentum="keep")
    assert kept.momentum == 0.9


def test_extra_work_is_bounded_by_the_ramp_and_the_budget():
    task = Task()
    tuner = CurvatureTuner(sgd(task), budget=0.1)
    train(task, tuner, 0, 600, CosineAnnealingLR(tuner, 600))
    assert tuner.spent <= 0.1 * 600
    events = [row["event"] for row in tuner.history]
    assert events.index("settled") > events.index("ramp") > events.index("start")
    assert "sharpness" in events


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
        refresh(tuner._loop, LossSource(task.loss, task.batch(0)))
    assert tuner.facts.sharpness == pytest.approx(float(torch.linalg.eigvalsh(H).abs().max()), rel=1e-3)


def test_products_by_differences_agree():
    task = Task(dtype=torch.float64)
    owned = list(task.model.parameters())
    source = LossSource(task.loss, task.batch(0))
    generator = torch.Generator().manual_seed(1)
    v = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in owned]
    exact, near = source.products(owned)(v), source._difference(owned, v)
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


def test_the_closure_is_enough_if_asked_for():
    task = Task()
    tuner = CurvatureTuner(sgd(task), closure=True)
    for step in range(150):

        def closure(step=step):
            tuner.zero_grad()
            loss = task.loss(task.batch(step))
            loss.backward()
            return loss

        tuner.step(closure)
    assert task.final() < 0.5
    assert tuner.facts.phase == "hold"


def test_rebase_takes_the_users_lr():
    task = Task()
    tuner = CurvatureTuner(sgd(task))
    train(task, tuner, 0, 60)
    tuner.rebase(0.02)
    assert tuner.lr == pytest.approx(0.02)
    train(task, tuner, 60, 75)
    assert tuner.lr == pytest.approx(0.02)


def test_who_never_observes_is_told_once():
    p = nn.Parameter(torch.ones(1))
    tuner = CurvatureTuner(torch.optim.SGD([p], lr=0.1))
    p.grad = torch.zeros(1)
    for _ in range(199):
        tuner.step()
    with pytest.warns(TunerWarning, match="nothing was observed"):
        tuner.step()
    tuner.step()


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


@pytest.mark.parametrize("wrong", [{"policy": "best"}, {"momentum": "both"}, {"budget": -1.0}, {"every": 0}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        CurvatureTuner(torch.optim.SGD([torch.ones(1)], lr=0.1), **wrong)


def test_only_optimizers_are_wrapped():
    with pytest.raises(TypeError, match="wrap"):
        CurvatureTuner(nn.Linear(1, 1))
