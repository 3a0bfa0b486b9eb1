import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from krylearn.bench.measure.record import read
from krylearn.bench.studies.batch_scaling import fit
from krylearn.bench.studies.batch_scaling.facts import make_optimizer
from krylearn.bench.studies.batch_scaling.grid import BASE, outward, points, run_study
from krylearn.bench.studies.batch_scaling.stacked_runs import METHODS, schedule, train_all
from krylearn.bench.studies.batch_scaling.tasks import TASKS, small_task
from scipy.optimize import minimize_scalar


def short(name, samples=2048):
    return replace(small_task(name), samples=samples)


def trained_alone(task, method, lr, seed, size):
    """The same training with torch's own optimizer and scheduler."""
    network = task.made(seed)
    optimizer = make_optimizer(method, network, lr)
    order = task.order(seed, size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: schedule(k, len(order)))
    for at in order:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(task.inputs[at]), task.targets[at]).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return torch.nn.functional.cross_entropy(network(task.held_inputs), task.held_targets).item()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TASKS)
def test_stacked_trainings_are_those_of_torchs_optimizers(name, method):
    task, lrs, seeds = short(name), [0.05, 0.003], [16301, 16319]
    together = train_all(task, METHODS[method], 64, lrs, seeds)
    alone = [trained_alone(task, method, lr, seed, 64) for lr, seed in zip(lrs, seeds, strict=True)]
    assert together.held.tolist() == pytest.approx(alone, rel=2e-3)
    assert (together.held[0] - together.held[1]).abs() > 1e-2  # they are different trainings


def test_a_training_that_diverges_leaves_the_others_alone():
    task = short("digits")
    alone = train_all(task, METHODS["sgd"], 64, [0.1], [16333])
    both = train_all(task, METHODS["sgd"], 64, [1e6, 0.1], [16333, 16333])
    assert not math.isfinite(both.held[0])
    assert both.held[1].item() == pytest.approx(alone.held[0].item(), rel=1e-4)


def test_every_batch_size_sees_the_same_samples():
    task = small_task("digits")
    orders = [task.order(16339, b) for b in (16, 1024)]
    assert [len(o) for o in orders] == [task.samples // 16, task.samples // 1024]
    assert torch.equal(orders[0].flatten(), orders[1].flatten())
    assert torch.equal(orders[0].flatten()[: len(task.inputs)].sort().values, torch.arange(len(task.inputs)))


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_seeded_and_held_out_data_are_not_trained_on(name):
    task, before = small_task(name), torch.random.get_rng_state()
    again = TASKS[name]()
    assert torch.equal(task.inputs, again.inputs)
    assert torch.equal(task.made(5)[-1].weight, again.made(5)[-1].weight)
    assert not torch.equal(task.made(5)[-1].weight, task.made(6)[-1].weight)
    assert torch.equal(before, torch.random.get_rng_state())
    if name != "characters":  # text repeats itself; its pages are disjoint
        seen = {x.numpy().tobytes() for x in task.inputs}
        assert sum(x.numpy().tobytes() in seen for x in task.held_inputs) <= 0.001 * len(task.held_inputs)
    assert not task.name.isspace()


@given(centre=st.floats(-20, 4), bend=st.floats(0.01, 1.0), low=st.floats(1e-3, 10))
@settings(max_examples=40, deadline=None)
def test_the_minimum_of_a_parabola_is_found(centre, bend, low):
    ks = range(math.floor(centre) - 3, math.floor(centre) + 5)
    losses = {k: {1: low * math.exp(bend * (k - centre) ** 2)} for k in ks}
    best = fit.fit_optimum(losses)
    assert math.log2(best.lr) == pytest.approx(centre / 2, abs=1e-6)
    assert best.loss == pytest.approx(low, rel=1e-6)
    assert best.bracketed
    half = math.sqrt(math.log(1.02) / bend)  # in grid steps
    valley = max(centre - half, ks[0]), min(centre + half, ks[-1])
    assert [2 * math.log2(best.lows), 2 * math.log2(best.highs)] == pytest.approx(valley, abs=1e-4)


def test_its_error_is_that_of_the_seeds():
    rng = torch.Generator().manual_seed(16349)

    def fitted(noise):  # each seed has its own minimum, this far from -7
        own = noise * torch.randn(12, generator=rng)
        return fit.fit_optimum(
            {k: {i: math.exp(0.1 * (k + 7 - float(c)) ** 2) for i, c in enumerate(own)} for k in range(-11, -2)}
        )

    for noise in (0.1, 0.6):
        expected = noise / 12**0.5 * math.log(2) / 2
        assert 0.4 * expected < fitted(noise).error < 2.0 * expected


def test_diverged_trainings_bracket_but_do_not_enter_the_fit():
    losses = {k: {1: 1 + 0.01 * (k + 7) ** 2, 2: None if k > -6 else 1 + 0.01 * (k + 7) ** 2} for k in range(-10, -4)}
    best = fit.fit_optimum(losses)
    assert best.bracketed
    assert math.log2(best.lr) == pytest.approx(-3.5, abs=0.03)
    assert fit.missing({-4: {1: None}, -3: {1: None}})[:2] == [-6, -5]  # go down until something converges
    with pytest.raises(ValueError, match="expected three"):
        fit.fit_optimum({-4: {1: 1.0}, -3: {1: None}})


def quadratic(eta, size, beta=0.9, steps=200, curvature=(1.0, 0.3, 0.1, 0.03, 0.01), noise=8.0):
    """E of the final loss of SGD with momentum on a noisy quadratic, by the exact recursion of second moments."""
    total = 0.0
    for h in curvature:
        a = torch.tensor([[1 - eta * h, -eta * beta], [h, beta]], dtype=torch.float64)  # (θ, buf)
        push = torch.tensor([-eta, 1.0], dtype=torch.float64)
        second = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        for _ in range(steps):
            second = a @ second @ a.T + noise * h / size * torch.outer(push, push)
        total += h / 2 * float(second[0, 0])
    return total


@pytest.mark.parametrize("size", [16, 256])
def test_the_optimum_of_a_noisy_quadratic_is_the_exact_one(size):
    true = minimize_scalar(lambda x: quadratic(math.exp(x), size), bounds=(-8, 0.5), method="bounded").x
    k = round(2 * true / math.log(2))
    found = fit.fit_optimum({k: {0: quadratic(fit.rate(k), size)} for k in range(k - 3, k + 4)})
    assert math.log(found.lr) == pytest.approx(true, abs=0.03)


@pytest.mark.parametrize(("bend", "noise"), [(0.0025, 0.028), (0.01, 0.06)])  # of AdamW on waves and on digits
def test_in_flat_and_noisy_valleys_the_optimum_is_unbiased_and_as_uncertain_as_the_page_says(bend, noise):
    true = minimize_scalar(lambda x: quadratic(math.exp(x), 256), bounds=(-8, 0.5), method="bounded").x
    centre, low = 2 * true / math.log(2), quadratic(math.exp(true), 256)
    ks = [round(centre) + d for d in range(-6, 7)]
    made = np.array([quadratic(fit.rate(k), 256) for k in ks])
    curve = (quadratic(fit.rate(centre + 0.2), 256) + quadratic(fit.rate(centre - 0.2), 256) - 2 * low) / 0.08
    floor = max(curve / bend - low, 0.0)  # what remains at any lr makes the valley of the log loss as flat as this
    logs, rng, off = np.log((made + floor) / (low + floor)), np.random.default_rng(20269), []
    for _ in range(150):
        seen = logs[:, None] + noise * rng.standard_normal((len(ks), 16))
        means, at = seen.mean(1), 6
        while at != (lowest := max(at - 2, 0) + int(np.argmin(means[max(at - 2, 0) : at + 3]))):
            at = lowest  # as the study goes on until the lowest has two neighbours on each side
        window = range(max(at - 2, 0), min(at + 3, len(ks)))
        losses = {ks[i]: dict(enumerate(np.exp(seen[i]))) for i in window}
        off.append(math.log(fit.fit_optimum(losses, draws=0).lr) - true)
    assert abs(np.mean(off)) < 0.05  # 2 %, and three standard errors
    assert np.std(off) < 0.22


def test_a_study_brackets_its_minima_and_goes_on_where_it_was(tmp_path, monkeypatch):
    from krylearn.bench.studies.batch_scaling import grid as batch_scaling

    calls = []
    monkeypatch.setattr(batch_scaling, "small_task", lambda name: short(name, 8192))
    monkeypatch.setattr(batch_scaling, "train_all", lambda *given: calls.append(given[2]) or train_all(*given))
    file = tmp_path / "records.jsonl"
    run = run_study(["digits"], ["sgd"], sizes=(BASE, 512), seeds=(16361, 16363), output=file)
    lines = read(file)
    assert {line["more"]["run"] for line in lines} == {run}
    for size in (BASE, 512):
        losses = points(lines, "digits", "sgd", size)
        assert fit.fit_optimum(losses).bracketed
        assert all(set(per) == {16361, 16363} for per in losses.values())
    keys = [(line["more"]["batch"], line["more"]["k"]) for line in lines]
    assert len(keys) == len(set(keys))
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:3]))
    calls.clear()
    assert run_study(["digits"], ["sgd"], sizes=(BASE, 512), seeds=(16361, 16363), output=file) == run
    assert not calls
    assert run_study(["digits"], ["sgd"], sizes=(BASE,), seeds=(16361, 16363), output=cut) == run
    best = [fit.fit_optimum(points(read(f), "digits", "sgd", BASE)).lr for f in (file, cut)]
    run_study(["digits"], ["sgd"], sizes=(BASE,), seeds=(16361, 16363, 16369), output=file)  # one more seed
    assert calls[-1] == BASE
    added = read(file)[len(lines) :]
    assert {seed for line in added for seed in line["more"]["seeds"]} == {16369}
    found = points(read(file), "digits", "sgd", BASE)
    assert fit.fit_optimum(found).bracketed
    assert all(len(per) == 3 for per in found.values())
    assert best[0] == pytest.approx(best[1], rel=1e-6)


def test_sizes_go_outward_from_the_base():
    assert outward((16, 32, 64, 128, 256, 512, 1024)) == [128, 256, 512, 1024, 64, 32, 16]


def test_unknown_tasks_are_named():
    with pytest.raises(ValueError, match="got task 'cifar'"):
        small_task("cifar")
